"""`main.py` itself: old Pythons, its event, other environments, and what a run leaves behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.emulator import (
    BARE_ENVIRONMENT,
    ECHO,
    NEW_INTERPRETER,
    ROOT,
    MakeFunction,
    assert_usage_error,
    run,
)

EVENT = {"sentence": "Grüße, 世界", "nested": [1, 2.5, None, True, {"a": "\u2028\n"}]}


@pytest.mark.parametrize("environment", [{}, BARE_ENVIRONMENT, {"LANG": "C", "LC_ALL": "POSIX", "PATH": "/nowhere"}])
def test_a_run_needs_no_environment_variables(make_function: MakeFunction, environment: dict[str, str]) -> None:
    function = make_function(ECHO)
    argument = json.dumps(EVENT, ensure_ascii=False)
    result = run("-e", argument, "--function", function.path, command=NEW_INTERPRETER, env=environment)
    assert (result.code, json.loads(result.out)) == (0, EVENT)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a local run needs of a checkout."""
    for folder in ("layer", "function", "tools/common", "tools/emulator"):
        shutil.copytree(ROOT / folder, tmp_path / "checkout" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "main.py", tmp_path / "checkout")
    return tmp_path / "checkout"


@pytest.mark.parametrize("name", ["plain", "with a space", "gr\u00fc\u00dfe", "it's", "-e", "$HOME"])
def test_a_run_leaves_no_files_in_a_checkout_of_any_name(checkout: Path, name: str) -> None:
    checkout = checkout.rename(checkout.parent / name)
    (checkout / "function" / "words.py").write_text("WORD = b'word'")
    source = """
        from words import WORD

        def handler(event, context):
            yield WORD
    """
    (checkout / "function" / "lambda_function.py").write_text(textwrap.dedent(source))
    before = sorted(checkout.rglob("*"))
    assert run(command=(sys.executable, checkout / "main.py"))[:2] == (0, b"word")
    assert sorted(checkout.rglob("*")) == before


@pytest.mark.parametrize("event", ["{1, 2}", "b'bytes'", "float('nan')", "{(1, 2): 3}", "object()"])
def test_an_event_in_main_py_that_is_not_json_is_one_line(checkout: Path, event: str) -> None:
    main = checkout / "main.py"
    lines = main.read_text().splitlines(keepends=True)
    main.write_text("".join(f"event = {event}\n" if line.startswith("event = ") else line for line in lines))
    command = (sys.executable, main)
    assert_usage_error(run(command=command), "the event in main.py cannot be converted to JSON", "--event")
    assert run("-e", '{"sentence": "one"}', command=command)[:2] == (0, b"one ")


def test_an_event_in_main_py_that_contains_itself_is_one_line(checkout: Path) -> None:
    main = checkout / "main.py"
    main.write_text(
        main.read_text().replace("\nif sys.version_info", "\nevent['event'] = event\nif sys.version_info", 1)
    )
    assert_usage_error(run(command=(sys.executable, main)), "cannot be converted to JSON")


def test_main_py_is_executable(tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(sys.executable)
    result = run("--help", command=(ROOT / "main.py",), env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert (result.code, result.err) == (0, "") and result.out.startswith(b"usage: main.py")


OLD_PYTHONS = [
    path
    for path in sorted(Path.home().glob(".pyenv/versions/[23].*/bin/python"))
    if [int(number) for number in path.parts[-3].split(".")[:2]] < [3, 11]
]


@pytest.mark.parametrize("python", OLD_PYTHONS, ids=lambda path: path.parts[-3])
def test_an_old_python_prints_one_line(python: Path) -> None:
    result = run(command=(python, ROOT / "main.py"))
    version = python.parts[-3]
    assert result == (1, b"", f"main.py: error: needs Python 3.11 or newer; this is Python {version}\n")


def test_a_python_that_is_too_old_is_one_line(tmp_path: Path) -> None:
    # The same without an old Python: this interpreter, with another version.
    pretend = (
        "import sys, collections\n"
        "sys.version_info = (3, 10, 13); sys.version = '3.10.13 (main)'\n"
        f"sys.argv = ['main.py']; exec(compile(open({str(ROOT / 'main.py')!r}).read(), 'main.py', 'exec'))"
    )
    result = subprocess.run([sys.executable, "-c", pretend], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "main.py: error: needs Python 3.11 or newer; this is Python 3.10.13\n"


def test_a_temporary_folder_that_cannot_be_used_is_an_error_of_one_line(tmp_path: Path) -> None:
    result = run(command=NEW_INTERPRETER, env={**BARE_ENVIRONMENT, "TMPDIR": str(tmp_path / "missing")})
    assert (result.code, result.out) == (1, b"")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1 and "TMPDIR" in result.err
