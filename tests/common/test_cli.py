"""What all command lines share: exit statuses, and one line for each error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from support.checkout import ROOT

from tools.common.cli import Parser, run
from tools.common.errors import ToolError, UsageError


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ToolError("cannot do it: try again"), 1, "build.sh: error: cannot do it: try again\n"),
        (ToolError("two\nlines"), 1, "build.sh: error: two lines\n"),
        (UsageError("name functions"), 2, "build.sh: error: name functions\n"),
        (PermissionError(13, "Permission denied", "dist"), 1, "build.sh: error: dist: Permission denied\n"),
        (OSError(28, "No space left on device"), 1, "build.sh: error: No space left on device\n"),
        (ToolError("no https://u:p@h/a?X-Amz-Signature=1 here"), 1, "build.sh: error: no https://h/a here\n"),
        (ToolError("no \x1b[2J and \u202e here"), 1, "build.sh: error: no \\x1b[2J and \\u202e here\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=["error", "lines", "usage", "file", "system", "secrets", "terminal", "interrupt"],
)
def test_each_error_is_one_line_and_a_status(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, line: str
) -> None:
    assert run("./build.sh verify", raising(error)) == status
    assert capsys.readouterr() == ("", line)


def test_the_status_of_the_command_is_returned() -> None:
    assert run("./build.sh", lambda: 0) == 0
    assert run("./build.sh", lambda: 1) == 1


def test_another_exception_is_a_fault_of_ours_and_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run("./build.sh", raising(ZeroDivisionError()))


def test_wrong_usage_names_the_command_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        Parser("./build.sh verify").parse_args(["https://user:pass@host/"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "build.sh: error: unrecognized arguments: https://host/ (see ./build.sh verify --help)\n"
    )


def test_options_cannot_be_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("main.py")
    parser.add_argument("--serve", action="store_true")
    with pytest.raises(SystemExit):
        parser.parse_args(["--serv"])
    assert capsys.readouterr().err == "main.py: error: unrecognized arguments: --serv (see main.py --help)\n"


CLOSED = """
import sys
from tools.common.cli import run
def command():
    print("x" * 100)
    return 0
sys.exit(run("./build.sh", command, closed_pipe=int(sys.argv[1])))
"""


@pytest.mark.parametrize("status", [0, 1])
def test_a_reader_that_has_gone_causes_no_traceback(status: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", CLOSED, str(status)]
    result = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (result.returncode, result.stderr) == (status, b"")


# Runs a program as `build.sh` does, and interrupts it when it imports `argparse`, which each of them needs.
INTERRUPTED_IMPORT = """
import os, runpy, signal, sys

class Interruption:
    def find_spec(self, name, path=None, target=None):
        if name == "argparse":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interruption())
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("program", ["packaging", "packaging/release", "fleet", "mutation", "bench"])
def test_an_interrupt_while_a_program_is_imported_causes_no_traceback(program: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, ROOT / "tools" / program / "__main__.py", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


# The command waits for a signal that nobody sends twice, so the second line shows that it was raised there.
INTERRUPTED_COMMAND = """
import sys
import tools.common.early_interrupt
from tools.common.cli import run

def command():
    try:
        print("started", flush=True)
        sys.stdin.read()
    finally:
        print("cleaned up")

sys.exit(run("./build.sh", command))
"""


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_ends_a_command_cleans_up(signum: signal.Signals, status: int) -> None:
    command = [sys.executable, "-c", INTERRUPTED_COMMAND]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        process.send_signal(signum)
        assert process.communicate() == ("cleaned up\n", "")
    assert process.returncode == status


def test_a_second_sigterm_ends_a_command_at_once() -> None:
    clean_up = INTERRUPTED_COMMAND.replace('print("cleaned up")', 'print("cleaning up", flush=True); sys.stdin.read()')
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", clean_up], cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout is not None
        for line in ("started\n", "cleaning up\n"):
            assert process.stdout.readline() == line
            process.terminate()
        assert process.communicate() == ("", "")
    assert process.returncode == -signal.SIGTERM


def test_a_command_within_a_program_keeps_its_handler_of_sigterm() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run("./build.sh", lambda: 0) == 0
    assert signal.getsignal(signal.SIGTERM) is before
