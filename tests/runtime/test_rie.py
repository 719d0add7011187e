"""The built layer in its real place: `/opt/bootstrap`, started by AWS's own Runtime Interface Emulator.

In namespaces of its own the machine's file system gets the layer at `/opt`, the function at `/var/task` and the
interpreter at `/var/lang`, as on Lambda; nothing of that is seen outside. Where the system does not allow it, or the
emulator (which comes with `aws-sam-cli`) is not installed, these tests are skipped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import root_file_system
from support.emulator import ROOT, WAIT
from support.root_file_system import EmulatedFunction, Root

# Of the variables of a managed runtime those that matter to the interpreter.
ENVIRONMENT = {"LANG": "C", "LD_LIBRARY_PATH": "/var/lang/lib", "PATH": "/usr/bin:/bin", "TZ": ":UTC"}

FUNCTION = """
import errno, json, os, sys

served = 0

def handler(event, context):
    global served
    served += 1
    if "fail" in event:
        raise ValueError(event["fail"])
    if "where" in event:
        yield json.dumps([sys.executable, os.getcwd(), [refusal(path) for path in ("/opt/x", "/var/task/x")]]).encode()
        return
    for word in event["words"]:
        yield f"{word} ".encode()
    yield str(served).encode()

def refusal(path):
    try:
        open(path, "w")
    except OSError as error:
        return errno.errorcode[error.errno]
"""


@pytest.fixture(scope="module")
def rie() -> Path:
    """The emulator's program, where the function's root file system can be had too."""
    if (reason := root_file_system.unavailable_reason(Root())) is not None:
        pytest.skip(reason)
    return root_file_system.find_emulator()


@pytest.fixture(scope="module")
def interpreter() -> Path:
    """The folder of the Python that runs the tests, which stands for `/var/lang`."""
    folder = Path(sys.base_prefix)
    if not (folder / "bin" / "python3").exists():
        pytest.skip(f"there is no bin/python3 in {folder}")
    return folder


@pytest.fixture
def start(rie: Path, interpreter: Path, layer: Path, tmp_path: Path) -> Iterator[Callable[[str], EmulatedFunction]]:
    """Starts a function, built and unpacked as it is deployed, on the layer."""
    started: list[EmulatedFunction] = []

    def start(source: str) -> EmulatedFunction:
        (tmp_path / "function").mkdir()
        (tmp_path / "function" / "lambda_function.py").write_text(source)
        build = [ROOT / "build.sh", "function", tmp_path / "function", "-o", tmp_path / "dist"]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL, timeout=WAIT)
        with zipfile.ZipFile(tmp_path / "dist" / "function.zip") as archive:
            archive.extractall(tmp_path / "task")
        mounts = {"/opt": layer, "/var/task": tmp_path / "task", "/var/lang": interpreter}
        started.append(EmulatedFunction(rie, Root(), tmp_path, mounts, ENVIRONMENT))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_hundred_invocations_in_a_row_are_answered_and_a_failure_does_no_harm(
    start: Callable[[str], EmulatedFunction],
) -> None:
    function = start(FUNCTION)
    for n in range(1, 101):
        words = [f"w{n}"] * (n % 7) + ["ü" * n]
        assert function.invoke({"words": words}) == (200, f"{' '.join(words)} {n}".encode())
    status, body = function.invoke({"fail": "the 101st"})
    error: dict[str, Any] = json.loads(body)
    assert (status, error["errorType"], error["errorMessage"]) == (200, "ValueError", "the 101st")
    assert error["stackTrace"][0].startswith('  File "/var/task/lambda_function.py"')
    assert function.invoke({"words": ["again"]}) == (200, b"again 102")


def test_the_layer_and_the_function_are_read_only_and_the_interpreter_is_lambdas(
    start: Callable[[str], EmulatedFunction],
) -> None:
    status, body = start(FUNCTION).invoke({"where": True})
    assert (status, json.loads(body)) == (200, ["/var/lang/bin/python3", "/var/task", ["EROFS", "EROFS"]])


def test_a_function_that_cannot_be_loaded_is_told_of(start: Callable[[str], EmulatedFunction]) -> None:
    status, body = start("import nothing_of_this_name").invoke({})
    assert (status, json.loads(body)["errorType"]) == (502, "Runtime.ImportModuleError")
