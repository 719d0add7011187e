"""The command line of the emulator, `main.py`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tools.emulator.console import Console
from tools.emulator.environment import Function, FunctionConfiguration
from tools.emulator.invocation import InvocationFailed

ROOT = Path(__file__).resolve().parents[2]
FAILED, USAGE, INTERRUPTED = 1, 2, 130

EPILOG = """\
examples:
  python3 main.py                                  stream the sample function's answer to the terminal
  python3 main.py -e '{"sentence": "Hello world"}'
  python3 main.py --serve                          a local Function URL on port 9000, for curl and browsers

The answer is on the standard output; logs, START, END and REPORT lines are on the standard error.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: list[str], default_event: dict[str, Any]) -> int:
    """Run the emulator. Returns the exit code.

    Args:
        arguments: those of the command line, without the program's name.
        default_event: what the function is invoked with where the command line says nothing else.
    """
    reserve_standard_descriptors()
    console = Console()
    try:
        end_on_signals()
        options = parse(arguments)
        configuration = FunctionConfiguration(
            layer=ROOT / "layer",
            task_root=options.function,
            handler=options.handler,
            timeout=options.timeout,
            memory=options.memory,
        )
        function = Function(configuration, console)
        try:
            if options.serve:
                return serve(function, console, options.host, options.port)
            return invoke_once(function, console, options.event or json.dumps(default_event).encode())
        finally:
            function.close()
    except KeyboardInterrupt:
        return INTERRUPTED


def reserve_standard_descriptors() -> None:
    """Where one of them is closed, let no socket take its number: what is printed would be sent on it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # the lowest free number; writing to it fails, as it should


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="main.py",
        description="Run a streaming Lambda function locally: the real layer against a local Runtime API.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-e", "--event", type=event_bytes, metavar="EVENT", help="JSON, a file that holds it, or - for stdin"
    )
    parser.add_argument("--serve", action="store_true", help="serve a local Function URL instead of one invocation")
    parser.add_argument("--host", help="address for --serve (default: 127.0.0.1)")
    parser.add_argument("-p", "--port", type=port_number, help="port for --serve, 0 for any free one (default: 9000)")
    parser.add_argument(
        "--function",
        type=folder,
        default=ROOT / "function",
        metavar="DIR",
        help="the function's folder (default: function)",
    )
    parser.add_argument("--handler", default="lambda_function.handler", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--timeout", type=seconds, default=30.0, metavar="SECONDS", help="default: 30")
    parser.add_argument("--memory", type=megabytes, default=128, metavar="MB", help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.serve and options.event is not None:
        parser.error("--event is for one invocation; with --serve the events are made of the requests")
    if not options.serve and (options.host is not None or options.port is not None):
        parser.error("--host and --port go with --serve")
    options.host = "127.0.0.1" if options.host is None else options.host
    options.port = 9000 if options.port is None else options.port
    return options


def event_bytes(text: str) -> bytes:
    """The event that --event names. It is checked here, as Lambda refuses what is not JSON before it invokes."""
    data, source = event_source(text)
    try:
        json.loads(data, parse_constant=not_json)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{source} is not JSON: {error}") from None
    return data


def event_source(text: str) -> tuple[bytes, str]:
    """The bytes of the event, and what to call the place that they are from."""
    path = Path(text)
    try:
        if text == "-" and sys.stdin is None:
            raise argparse.ArgumentTypeError("the standard input is closed")
        if text == "-":
            return sys.stdin.buffer.read(), "the standard input"
        if text.lstrip()[:1] in ("{", "[", '"') or (not path.exists() and is_json(text)):
            return text.encode("utf-8", "surrogateescape"), "the argument"
        return path.read_bytes(), text
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {text}: {getattr(error, 'strerror', error)}") from None


def is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=not_json)
    except ValueError:
        return False
    return True


def not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def folder(text: str) -> Path:
    path = Path(text).resolve()
    if not text or not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text!r}")
    return path


def port_number(text: str) -> int:
    return whole_number_within(text, 0, 65535)


def megabytes(text: str) -> int:
    return whole_number_within(text, 128, 10240)


def whole_number_within(text: str, low: int, high: int) -> int:
    if text.isascii() and text.isdigit() and low <= int(text) <= high:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")


def seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 900:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0, and at most 900")


def end_on_signals() -> None:
    """End by SIGTERM as by Ctrl-C: in order, so that no process stays behind.

    SIGINT is named too, as a shell starts its background jobs with that signal ignored.
    """

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)


def invoke_once(function: Function, console: Console, event: bytes) -> int:
    """Stream the answer to one event to the standard output."""
    try:
        with function.invoke(event) as invocation:
            invocation.wait_for_head()
            last = b""
            for chunk in invocation.chunks():
                write_out(chunk)
                last = chunk
            if os.isatty(1) and not last.endswith(b"\n"):
                write_out(b"\n")  # a terminal's next line is not the answer's
    except InvocationFailed as failure:
        console.failure(failure.document)
        return FAILED
    except OSError as error:
        console.error(f"the answer cannot be written to the standard output: {error.strerror}")
        return FAILED
    return 0


def write_out(chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(1, rest) :]


def serve(function: Function, console: Console, host: str, port: int) -> int:
    """Serve a Function URL until it is interrupted."""
    from tools.emulator.function_url import FunctionUrl

    try:
        url = FunctionUrl(function, console, host, port)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or error
        console.error(
            f"cannot listen on {host} port {port}: {reason}; choose others with --host and --port (0: any free)"
        )
        return FAILED
    line = (
        f"Function URL {url.url} (Ctrl-C ends it), try: "
        f"curl -X POST {url.url} -H 'Content-Type: application/json' "
        """-d '{"sentence": "Test streaming response"}' --no-buffer"""
    )
    try:
        write_out(f"{line}\n".encode())
        threading.Event().wait()
    except OSError as error:
        console.error(f"the standard output cannot be written: {error.strerror}")
        return FAILED
    finally:
        url.close()
    return 0
