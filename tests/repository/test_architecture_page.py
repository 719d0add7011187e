"""The references of docs/architecture.md: each file exists and defines the name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from support import documents
from support.checkout import ROOT

PAGE = "docs/architecture.md"
REFERENCES = re.findall(r"`([\w./-]+)`: `([\w.]+)`", documents.source(PAGE))


@pytest.mark.parametrize(("path", "name"), REFERENCES)
def test_every_reference_leads_to_a_definition(path: str, name: str) -> None:
    file = ROOT / path
    assert file.is_file(), f"{path} does not exist"
    assert name in definitions(file), f"{path} does not define {name}"


def definitions(file: Path) -> set[str]:
    """Return what a Python file or a shell script defines: functions, classes, `Class.method`, constants."""
    text = file.read_text()
    if file.suffix != ".py":
        return set(re.findall(r"^(\w+)\(\) \{", text, re.MULTILINE))
    return set(_names(ast.parse(text).body, ""))


def _names(body: list[ast.stmt], prefix: str) -> list[str]:
    found: list[str] = []
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.append(prefix + name)
            case ast.ClassDef(name=name):
                found += [prefix + name, *_names(node.body, f"{prefix}{name}.")]
            case ast.Assign(targets=targets):
                found += [prefix + target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.append(prefix + name)
    return found


def test_every_file_that_the_page_names_exists() -> None:
    named = {
        span for span in documents.code_spans(PAGE) if re.fullmatch(r"(layer|tools|tests|function|docs)/[\w./-]*", span)
    }
    assert len(named) > 40
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_page_names_every_module_of_the_layer() -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "layer").rglob("*.py")}
    assert modules <= set(documents.code_spans(PAGE))


def test_the_page_names_every_package_of_the_tools() -> None:
    text = documents.source(PAGE)
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "tools").rglob("__init__.py")} - {"tools"}
    assert [package for package in sorted(packages) if f"`{package}/" not in text] == []


def test_the_questions_of_the_acceptance_have_answers() -> None:
    text = documents.source(PAGE)
    for question in ("chunk framed", "a 412", "prelude parsed", "prelude encoded", "new endpoint"):
        assert question in text
