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
    ROOT,
    MakeFunction,
    run,
)

EVENT = {"sentence": "Grüße, 世界", "nested": [1, 2.5, None, True, {"a": "\u2028\n"}]}


@pytest.mark.parametrize("environment", [{}, BARE_ENVIRONMENT, {"LANG": "C", "LC_ALL": "POSIX", "PATH": "/nowhere"}])
def test_a_run_needs_no_environment_variables(make_function: MakeFunction, environment: dict[str, str]) -> None:
    function = make_function(ECHO)
    argument = json.dumps(EVENT, ensure_ascii=False)
    result = run("-e", argument, "--function", function.path, env=environment)
    assert (result.code, json.loads(result.out)) == (0, EVENT)


@pytest.mark.parametrize("name", ["plain", "with a space", "gr\u00fc\u00dfe", "it's", "-e", "$HOME"])
def test_a_run_leaves_no_files_in_a_checkout_of_any_name(
    tmp_path: Path, make_function: MakeFunction, name: str
) -> None:
    checkout = tmp_path / "checkouts" / name
    for folder in ("layer", "function", "tools/common", "tools/emulator"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "main.py", checkout)
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


def test_a_python_that_is_too_old_is_one_line(tmp_path: Path) -> None:
    # Only the version is another; the check must come before anything that an old Python cannot run.
    pretend = (
        "import sys, collections\n"
        "sys.version_info = (3, 10, 13); sys.version = '3.10.13 (main)'\n"
        f"sys.argv = ['main.py']; exec(compile(open({str(ROOT / 'main.py')!r}).read(), 'main.py', 'exec'))"
    )
    result = subprocess.run([sys.executable, "-c", pretend], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "main.py: error: needs Python 3.11 or newer; this is Python 3.10.13\n"


def test_a_temporary_folder_that_cannot_be_used_is_an_error_of_one_line(tmp_path: Path) -> None:
    result = run(env={**BARE_ENVIRONMENT, "TMPDIR": str(tmp_path / "missing")})
    assert (result.code, result.out) == (1, b"")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1 and "TMPDIR" in result.err
