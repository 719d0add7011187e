"""The documentation as a whole: its size, links, options, variables and error types."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from support import documents
from support.checkout import ROOT
from support.documents import PAGES, Block

from tools.fleet.rollout import events

LANGUAGES = {"console", "sh", "python", "text", "yaml", "hcl", "json", "mermaid"}
FLEET_COMMANDS = ("publish", "verify", "report", "rollout", "attach", "rollback", "prune", "doctor")
LAYER = "\n".join(path.read_text() for path in (ROOT / "layer").rglob("*") if path.is_file() and path.suffix != ".pyc")


def test_the_readme_has_at_most_200_lines() -> None:
    assert len(documents.source("README.md").splitlines()) <= 200


def test_the_first_screen_of_the_readme_ends_in_a_stream() -> None:
    first = documents.commands("README.md")[0]
    assert first.text == "python3 main.py" and "Streaming a response word by word" in first.output
    assert first.block.line + len(first.block.text.splitlines()) <= 40


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_the_readme_links_to_every_page(page: str) -> None:
    assert page in documents.links("README.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    for link in documents.links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, anchor = documents.path_of(page, link), link.partition("#")[2]
        assert path.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in documents.anchors(path.resolve().relative_to(ROOT).as_posix()), f"{page} links to {link}"


@pytest.mark.parametrize("page", PAGES)
def test_every_code_block_names_its_language(page: str) -> None:
    assert {block.language for block in documents.blocks(pages=[page])} <= LANGUAGES


@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_prose_fits_an_editor(page: str) -> None:
    rows = [line for line in documents.prose(page).splitlines() if not line.lstrip().startswith("|")]
    assert [line for line in rows if len(line) > 120 and "](http" not in line] == []


def test_the_version_is_the_same_everywhere() -> None:
    version = json.loads((ROOT / "layer-manifest.json").read_text())["version"]
    newest = re.search(r"^## (\S+)", documents.source("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None and newest[1] == version
    named = {
        found
        for page in PAGES
        for found in re.findall(r"python-streaming-runtime (\d+\.\d+\.\d+)", documents.source(page))
    }
    assert named == {version}


# Options


@cache
def options(*command: str) -> set[str]:
    """Return the options that the help of a command lists."""
    result = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", result.stdout))


@cache
def options_of_build_sh() -> set[str]:
    result = subprocess.run([ROOT / "build.sh", "--help"], capture_output=True, text=True, check=True)
    return set(re.findall(r"--[a-z][a-z-]+", result.stdout))


def known_options(words: list[str]) -> set[str]:
    """Return the options of a documented command of this project."""
    if "main.py" in words[:2]:
        return options("main.py")
    if words[1:2] and words[1] in FLEET_COMMANDS:
        return options("-m", "tools.fleet", words[1])
    if words[1:2] in (["bench"], ["mutate"]):
        return options("-m", {"bench": "tools.bench", "mutate": "tools.mutation"}[words[1]])
    return options_of_build_sh()


def project_commands(block: Block) -> list[list[str]]:
    lines = re.sub(r"\\\n", " ", block.text).splitlines()
    commands = [part.strip() for line in lines for part in re.split(r"&&|\|", line.removeprefix("$ "))]
    return [part.split() for part in commands if part.startswith(("./build.sh", "python3 main.py"))]


@pytest.mark.parametrize("block", documents.blocks("console") + documents.blocks("sh"), ids=str)
def test_every_option_of_a_documented_command_exists(block: Block) -> None:
    for words in project_commands(block):
        if words[1:2] != ["test"]:  # its options are those of pytest
            used = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
            assert used <= known_options(words), " ".join(words)


FOREIGN_OPTIONS = {"--no-buffer", "--cors", "--guided", "--query", "--layers", "--environment", "--help"}


@pytest.mark.parametrize("page", PAGES)
def test_every_option_in_the_text_exists(page: str) -> None:
    known = options("main.py") | options("-m", "tools.bench") | options_of_build_sh() | FOREIGN_OPTIONS
    known |= options("-m", "tools.mutation")
    known = known.union(*(options("-m", "tools.fleet", command) for command in FLEET_COMMANDS))
    named = {option for span in documents.code_spans(page) for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span)}
    foreign = {span for span in documents.code_spans(page) if span.startswith(("aws ", "curl ", "sam ", "sysctl "))}
    named -= {option for span in foreign for option in re.findall(r"--[a-z-]+", span)}
    assert named <= known


def test_the_fleet_page_names_every_option_of_its_commands() -> None:
    text = documents.source("docs/fleet.md")
    general = {"--help", "--output"}
    for command in FLEET_COMMANDS:
        missing = {option for option in options("-m", "tools.fleet", command) - general if option not in text}
        assert missing <= {"--architecture", "--runtime"}, command  # of doctor, for a zip file


def test_the_diagrams_of_the_fleet_page_are_those_of_the_transition_tables() -> None:
    blocks = documents.blocks("mermaid", ["docs/fleet.md"])
    assert "\n\n".join(f"```mermaid\n{block.text}```" for block in blocks) == events.diagram()


# Names of the layer


def test_every_variable_of_the_layer_is_documented() -> None:
    variables = set(re.findall(r"(?<!_)STREAMING_RUNTIME_[A-Z_]+", LAYER))  # with "_" before it: internal
    documented = {
        variable for page in PAGES for variable in re.findall(r"STREAMING_RUNTIME_[A-Z_]+", documents.source(page))
    }
    assert variables and variables == documented


def error_types_of_the_layer() -> set[str]:
    raised = re.findall(r'ContractError\(\s*"([A-Z][A-Za-z]+)"', LAYER)
    assert raised
    return {*raised, *re.findall(r"\bRuntime\.([A-Z][A-Za-z]+)", LAYER)}


def test_the_error_types_are_those_of_the_layer() -> None:
    rows = documents.tables("docs/troubleshooting.md", "Error types")
    documented = {row[0].strip("`").removeprefix("Runtime.") for row in rows}
    assert len(documented) == len(rows)
    assert {name for name in documented if not re.search(rf"\b{name}\b", LAYER)} == set()
    assert error_types_of_the_layer() <= documented


def test_the_messages_of_local_runs_are_those_of_the_emulator() -> None:
    emulator = "\n".join(path.read_text() for path in (ROOT / "tools" / "emulator").rglob("*.py"))
    for message, *_ in documents.tables("docs/troubleshooting.md", "Local runs"):
        (quoted,) = re.findall(r"`([^`]+)`", message)
        assert quoted.partition(" 127.0.0.1")[0] in emulator, message


# The glossary


def glossary() -> list[list[str]]:
    headings = re.findall(r"^## (.+)$", documents.source("docs/glossary.md"), re.MULTILINE)
    return [row for heading in headings for row in documents.tables("docs/glossary.md", heading)]


def test_every_term_of_the_glossary_has_one_line_and_a_source() -> None:
    rows = glossary()
    terms = [row[0] for row in rows]
    assert len(terms) == len(set(terms)) > 40
    for row in rows:
        assert len(row) == 3 and row[1] and ("](https://" in row[2] or row[2].startswith("Project: ")), row


def test_the_terms_are_in_alphabetical_order_within_each_section() -> None:
    for heading in re.findall(r"^## (.+)$", documents.source("docs/glossary.md"), re.MULTILINE):
        terms = [row[0].strip("`").lower() for row in documents.tables("docs/glossary.md", heading)]
        assert terms == sorted(terms)


# Snippets that are data


@pytest.mark.parametrize("block", documents.blocks("json"), ids=str)
def test_json_is_valid(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", documents.blocks("python"), ids=str)
def test_python_snippets_are_formatted_and_free_of_lint(block: Block) -> None:
    ast.parse(block.text)
    ruff = [sys.executable, "-m", "ruff"]
    for arguments in (["format", "--check", "-"], ["check", "--quiet", "-"]):
        result = subprocess.run([*ruff, *arguments], cwd=ROOT, input=block.text, capture_output=True, text=True)
        assert result.returncode == 0, f"{block}\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize("block", documents.blocks("sh"), ids=str)
def test_shellcheck_finds_nothing_in_shell_snippets(block: Block) -> None:
    program = Path(sys.executable).with_name("shellcheck")
    checked = re.sub(r"^#!.*\n", "", block.text)
    result = subprocess.run(
        [program, "--shell=sh", "--exclude=SC2034,SC2154", "-"], input=checked, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{block}\n{result.stdout}"
