"""The command line of the emulator, read and checked."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tools.common.paths import ROOT
from tools.emulator.deployment.configuration import RESERVED, function_name
from tools.emulator.execution.invocation import check_event

USAGE = 2
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MOST_CONCURRENT = 1000

EPILOG = """\
examples:
  python3 main.py                                  stream the sample function's answer to the terminal
  python3 main.py -e '{"sentence": "Hello world"}'
  python3 main.py --serve                          a local Function URL on port 9000, for curl and browsers
  python3 main.py --serve --function api --function mail=path/to/mail
                                                   two: http://127.0.0.1:9000/lambda-url/mail/, and by name for SDKs
  python3 main.py --serve --layer dist/layer-slim.zip --layer dependencies.zip --function dist/function.zip --isolate

With --serve, the Lambda API is on the same port: boto3.client("lambda", endpoint_url="http://127.0.0.1:9000"), and
aws lambda invoke --endpoint-url http://127.0.0.1:9000. When a file of a function or a layer changes, it is loaded anew.
Without --isolate, layers and functions run from where they are, and TMPDIR names the folder that stands for /tmp.

The answer is on the standard output; logs, START, END and REPORT lines are on the standard error.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options; ends the program with a line on standard error where they are wrong."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    options.serve = options.serve or options.api_only
    check_combinations(parser, options)
    options.functions = named_functions(parser, options.function or [function_source(str(ROOT / "function"))])
    options.variables = tuple(((options.env_file or {}) | dict(options.env or [])).items())
    options.host = "127.0.0.1" if options.host is None else options.host
    options.port = 9000 if options.port is None else options.port
    return options


def make_parser() -> Parser:
    parser = Parser(
        prog="main.py",
        description="Run streaming Lambda functions locally: the real layer against a local Runtime API.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-e", "--event", type=event_bytes, metavar="EVENT", help="JSON, a file that holds it, or - for stdin")
    add("--json", action="store_true", help="one JSON object for each invocation, in place of START, END and REPORT")

    add_code_options(parser.add_argument_group("what runs").add_argument)
    add_serving_options(parser.add_argument_group("serving").add_argument)
    return parser


def add_code_options(add: Callable[..., object]) -> None:
    add(
        "--function",
        type=function_source,
        action="append",
        metavar="[NAME=]PATH",
        help="the function's folder or zip, repeatable with --serve (default: function)",
    )
    add(
        "--layer",
        type=source,
        action="append",
        metavar="PATH",
        help="a layer's folder or zip; repeatable, later ones go over earlier ones. Unless one of them brings a "
        "bootstrap, the runtime's own layer is under them (default: layer)",
    )
    add("--handler", default="lambda_function.handler", metavar="NAME", help="default: %(default)s")
    add("--timeout", type=seconds, default=30.0, metavar="SECONDS", help="default: 30")
    add("--memory", type=megabytes, default=128, metavar="MB", help="told, not enforced (default: %(default)s)")
    add("--env", type=variable, action="append", metavar="NAME=VALUE", help="an environment variable; repeatable")
    add("--env-file", type=env_file, metavar="FILE", help="lines of NAME=VALUE; --env goes over them")
    add(
        "--isolate",
        action="store_true",
        help="the layers at /opt and the function at /var/task, read-only, and a /tmp of its own (Linux)",
    )


def add_serving_options(add: Callable[..., object]) -> None:
    add("--serve", action="store_true", help="serve Function URLs and the Lambda API instead of one invocation")
    add("--host", help="address for --serve (default: 127.0.0.1)")
    add("-p", "--port", type=port_number, help="port for --serve, 0 for any free one (default: 9000)")
    add(
        "--concurrency",
        type=concurrency,
        default=10,
        metavar="N",
        help="invocations of a function at once; more are answered with 429 (default: %(default)s)",
    )
    add(
        "--invoke-mode",
        choices=("RESPONSE_STREAM", "BUFFERED"),
        default="RESPONSE_STREAM",
        help="of the Function URLs (default: %(default)s)",
    )
    add(
        "--cors",
        type=cors,
        nargs="?",
        const="*",
        metavar="ORIGINS",
        help="let Function URLs answer preflight requests: origins with commas between, JSON as the AWS CLI takes it "
        "for create-function-url-config, or nothing for all",
    )
    add("--throttle", action="store_true", help="stream as fast as the service: 6 MB at once, then 2 MB a second")
    add("--no-reload", action="store_true", help="keep the code that was there at the start")
    add(
        "--api-only",
        action="store_true",
        help="start no process: print the AWS_LAMBDA_RUNTIME_API= line for one that you start, with a debugger for "
        "example; it is not timed out (implies --serve)",
    )


def check_combinations(parser: Parser, options: argparse.Namespace) -> None:
    if options.serve and options.event is not None:
        parser.error("--event is for one invocation; with --serve the events are made of the requests")
    if not options.serve and (options.host is not None or options.port is not None):
        parser.error("--host and --port go with --serve")
    if not options.serve and len(options.function or []) > 1:
        parser.error("several --function go with --serve")
    if options.api_only and len(options.function or []) > 1:
        parser.error("--api-only is for one --function")
    if options.api_only and options.isolate:
        parser.error("--isolate is for the processes that are started; --api-only starts none")


def named_functions(parser: Parser, functions: list[tuple[str, Path]]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for name, path in functions:
        if name in named:
            parser.error(f"two functions have the name {name!r}; give one another with --function NAME=PATH")
        named[name] = path
    return named


def function_source(text: str) -> tuple[str, Path]:
    """NAME=PATH, or a path, which is named after its last part; a path that is there wins."""
    name, equals, path = text.partition("=")
    if equals and FUNCTION_NAME.fullmatch(name) and not Path(text).exists():
        return name, source(path)
    found = source(text)
    return function_name(found.stem if found.is_file() else found.name), found


def source(text: str) -> Path:
    path = Path(text).resolve()
    if not text or not path.exists():
        raise argparse.ArgumentTypeError(f"there is no folder or zip {text!r}")
    if not path.is_dir() and not is_zip(path):
        raise argparse.ArgumentTypeError(f"{text!r} is no folder and no zip")
    return path


def is_zip(path: Path) -> bool:
    """Whether it begins as a zip does; whether it is sound is seen when it is unpacked."""
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error.strerror}") from None


def variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not VARIABLE.fullmatch(name) or "\0" in value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    if name in RESERVED:
        raise argparse.ArgumentTypeError(f"{name} is set by the emulator, as by the service, and cannot be given")
    return name, value


def env_file(text: str) -> dict[str, str]:
    """Lines of NAME=VALUE; empty ones, comments, quotes around a value, and `export` before a name may be there."""
    try:
        lines = Path(text).read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {text}: {getattr(error, 'strerror', None) or error}") from None
    variables = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        try:
            name, value = variable(line.removeprefix("export ").lstrip())
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"line {number} of {text}: {error}") from None
        quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'"
        variables[name] = value[1:-1] if quoted else value
    return variables


def cors(text: str) -> object:
    from tools.emulator.endpoints.cors import Cors

    try:
        return Cors.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def event_bytes(text: str) -> bytes:
    """The event that --event names. It is checked here, as Lambda refuses what is not JSON before it invokes."""
    data, where = event_source(text)
    try:
        check_event(data)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{where} is not JSON: {error}") from None
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
        check_event(text)
    except ValueError:
        return False
    return True


def port_number(text: str) -> int:
    return whole_number_within(text, 0, 65535)


def megabytes(text: str) -> int:
    return whole_number_within(text, 128, 10240)


def concurrency(text: str) -> int:
    return whole_number_within(text, 1, MOST_CONCURRENT)


def whole_number_within(text: str, low: int, high: int) -> int:
    if text.isascii() and text.isdigit() and low <= int(text) <= high:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")


def seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 900:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0, and at most 900")
