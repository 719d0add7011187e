"""The command line of `main.py`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tools.common.cli import Parser
from tools.common.errors import UsageError
from tools.common.lambda_facts import MAX_TIMEOUT
from tools.common.paths import ROOT
from tools.emulator.deployment.configuration import RESERVED, function_name
from tools.emulator.sample_events import SAMPLE_EVENTS, event_argument, sample_event

if TYPE_CHECKING:
    from tools.emulator.endpoints.cors import Cors

VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MAX_CONCURRENCY = 1000
MAX_SLOTS = 1600  # PerExecutionEnvironmentMaxConcurrency (API_LambdaManagedInstancesCapacityProviderConfig)
MIN_MEMORY_MB, MAX_MEMORY_MB = 128, 10240  # API_CreateFunction: MemorySize

EPILOG = """\
examples:
  python3 main.py                 stream the response of the sample function
  python3 main.py -e '{"sentence": "Hello world"}'
  python3 main.py -e url          send a sample event, that of a Function URL
  python3 main.py --serve         serve a local Function URL on port 9000
  python3 main.py --serve --function shop --handler main.app
                                  serve a web application, such as FastAPI's
  python3 main.py --serve --function api --function mail=path/to/mail
                                  serve two functions; the second one is at
                                  http://127.0.0.1:9000/lambda-url/mail/
  python3 main.py --serve --isolate --layer dist/layer-slim.zip \\
      --layer dependencies.zip --function dist/function.zip

With --serve, the same port serves the Lambda API, for SDKs and the AWS CLI:
  boto3.client("lambda", endpoint_url="http://127.0.0.1:9000")
  aws lambda invoke --endpoint-url http://127.0.0.1:9000 ...
When a file of a function or layer changes, the next request uses it.

Without --isolate, layers and functions run from their own folders, and TMPDIR
is the folder for /tmp.

The response is written to standard output; logs, START, END and REPORT lines
to standard error.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""


class Options(NamedTuple):
    """The checked command line: the one object with all settings of a run.

    Args:
        event: for one invocation; None: the default event.
        print_event: whether the event is printed instead.
        functions: folders or zips by name; the first function is the default one.
        layers: folders or zips, in their order.
        timeout: seconds.
        memory: MB.
        cors: None: the Function URLs have no CORS configuration.
        reload: whether to load changed files again.
        snapstart: whether environments are held between their init phase and their first invocation.
        max_concurrency: invocations that one environment serves at a time, as on managed instances; 0: on demand.
        api_only: whether a developer starts the process.
        open_page: whether to open the page that sends events.
        debug_port: where a debugger connects to the process of the function; None: no debugger.
    """

    event: bytes | None
    print_event: bool
    json: bool
    functions: dict[str, Path]
    layers: tuple[Path, ...]
    handler: str
    timeout: float
    memory: int
    variables: tuple[tuple[str, str], ...]
    isolate: bool
    snapstart: bool
    max_concurrency: int
    serve: bool
    host: str
    port: int
    concurrency: int
    invoke_mode: str
    cors: Cors | None
    throttle: bool
    reload: bool
    api_only: bool
    debug_port: int | None
    open_page: bool


def parse(arguments: list[str]) -> Options:
    """Exits with status 2, and one line on standard error, if the arguments are wrong."""
    parser = make_parser()
    given = parser.parse_args(arguments)
    serve = given.serve or given.api_only or given.open
    try:
        check_combinations(given, serve)
        functions = by_name(given.function or [function_source(str(ROOT / "function"))])
    except UsageError as error:
        parser.error(str(error))
    return Options(
        event=sample_event(given.print_event) if isinstance(given.print_event, str) else given.event,
        print_event=given.print_event is not None,
        json=given.json,
        functions=functions,
        layers=tuple(given.layer or [ROOT / "layer"]),
        handler=given.handler,
        timeout=given.timeout,
        memory=given.memory,
        variables=tuple(((given.env_file or {}) | dict(given.env or [])).items()),
        isolate=given.isolate,
        snapstart=given.snapstart,
        max_concurrency=given.max_concurrency or 0,
        serve=serve,
        host="127.0.0.1" if given.host is None else given.host,
        port=9000 if given.port is None else given.port,
        concurrency=given.concurrency if given.debug is None else 1,
        invoke_mode=given.invoke_mode,
        cors=given.cors,
        throttle=given.throttle,
        reload=not (given.no_reload or given.api_only),
        api_only=given.api_only,
        debug_port=given.debug,
        open_page=given.open,
    )


def default_event_bytes(event: Any) -> bytes:
    """Convert the event in `main.py` to JSON; exits with status 2 if it cannot be converted."""
    try:
        return json.dumps(event, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        make_parser().error(f"the event in main.py cannot be converted to JSON: {error}; edit it, or use --event")


def make_parser() -> Parser:
    parser = Parser(
        prog="main.py",
        description="Run streaming Lambda functions locally: the real layer with a local Runtime API.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_event_options(add)
    add("--json", action="store_true", help="write one JSON object per invocation instead of START, END and REPORT")
    add_code_options(parser.add_argument_group("code").add_argument)
    add_function_options(parser.add_argument_group("configuration").add_argument)
    serving = parser.add_argument_group("serving")
    add_serving_options(serving.add_argument)
    add_endpoint_options(serving.add_argument)
    return parser


def add_event_options(add: Callable[..., object]) -> None:
    samples = ", ".join(SAMPLE_EVENTS)
    add(
        "-e",
        "--event",
        type=event_argument,
        metavar="EVENT",
        help=f"JSON, a file that contains it, - for stdin, or the name of a sample event: {samples}",
    )
    add(
        "--print-event",
        choices=SAMPLE_EVENTS,
        nargs="?",
        const=True,  # argparse compares a string with the choices
        metavar="NAME",
        help="print the event, or the sample event of this name, and invoke no function",
    )


def add_code_options(add: Callable[..., object]) -> None:
    add(
        "--function",
        type=function_source,
        action="append",
        metavar="[NAME=]PATH",
        help="the function's folder or zip; repeatable with --serve (default: function)",
    )
    add(
        "--layer",
        type=source,
        action="append",
        metavar="PATH",
        help="a layer's folder or zip; repeatable, files of later layers replace those of earlier ones. The runtime's "
        "own layer comes first unless one of them contains a bootstrap (default: layer)",
    )
    add(
        "--isolate",
        action="store_true",
        help="show the layers in /opt and the function in /var/task, read-only, with a /tmp of its own (Linux)",
    )


def add_function_options(add: Callable[..., object]) -> None:
    handler_help = "a callable, or an ASGI or WSGI application such as main.app (default: %(default)s)"
    add("--handler", default="lambda_function.handler", metavar="NAME", help=handler_help)
    add("--timeout", type=seconds, default=30.0, metavar="SECONDS", help="default: 30")
    memory_help = "reported to the function, not enforced (default: %(default)s)"
    add("--memory", type=megabytes, default=128, metavar="MB", help=memory_help)
    env_help = "an environment variable, with the shell's value if only its name is given; repeatable"
    add("--env", type=variable_or_name, action="append", metavar="NAME[=VALUE]", help=env_help)
    add(
        "--env-file",
        type=env_file,
        metavar="FILE",
        help="lines of NAME=VALUE like those of python-dotenv, overridden by --env",
    )
    add(
        "--debug",
        type=debug_port,
        metavar="PORT",
        help="start the function under debugpy, wait until a debugger connects to this port, and enforce no time limit",
    )
    add(
        "--snapstart",
        action="store_true",
        help="run hooks as SnapStart does: hold each process after its init phase, and continue it with a request",
    )
    add(
        "--max-concurrency",
        type=max_concurrency,
        metavar="N",
        help="run each function as on Lambda Managed Instances: one environment serves N invocations at a time, more "
        "fail with Runtime.Unavailable; no code is stopped at its timeout",
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
        help="concurrent invocations of each function; more receive status 429 (default: %(default)s)",
    )
    add("--open", action="store_true", help="open a page that sends events and shows the chunks (implies --serve)")
    add("--no-reload", action="store_true", help="ignore changes of files")
    add(
        "--api-only",
        action="store_true",
        help="start no process: print the environment variables for a process that you start, with a debugger for "
        "example; it has no time limit (implies --serve)",
    )


def add_endpoint_options(add: Callable[..., object]) -> None:
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
        help="let Function URLs respond to preflight requests: origins separated by commas, JSON as for "
        "aws lambda create-function-url-config, or nothing for all origins",
    )
    add("--throttle", action="store_true", help="stream at the service's bandwidth: 6 MB at once, then 2 MB a second")


def check_combinations(given: argparse.Namespace, serve: bool) -> None:
    several = len(given.function or []) > 1
    if given.print_event is not None and serve:
        raise UsageError("--print-event prints the event of one invocation; run it without --serve")
    if isinstance(given.print_event, str) and given.event is not None:
        raise UsageError("--print-event NAME and --event both choose an event; use one of them")
    if serve and given.event is not None:
        raise UsageError("--event is for one invocation; with --serve, each request is an event")
    if not serve and (given.host is not None or given.port is not None):
        raise UsageError("--host and --port need --serve")
    if not serve and several:
        raise UsageError("more than one --function needs --serve")
    for option in ("api_only", "debug"):
        if several and getattr(given, option):
            raise UsageError(f"--{option.replace('_', '-')} supports one --function")
    if given.snapstart and given.max_concurrency:
        raise UsageError("--snapstart is not possible on managed instances, which --max-concurrency stands for")
    for option in ("isolate", "snapstart", "max-concurrency", "api-only"):
        if given.debug and getattr(given, option.replace("-", "_")):
            raise UsageError(f"--debug cannot be used with --{option}")
    for option in ("isolate", "snapstart", "max-concurrency"):
        if given.api_only and getattr(given, option.replace("-", "_")):
            raise UsageError(f"--{option} is for processes that the emulator starts; --api-only starts none")


def by_name(functions: list[tuple[str, Path]]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for name, path in functions:
        if name in named:
            raise UsageError(f"two functions have the name {name!r}; rename one with --function NAME=PATH")
        named[name] = path
    return named


def function_source(text: str) -> tuple[str, Path]:
    """NAME=PATH, or a path, whose last part becomes the name. A path that exists takes precedence."""
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
        raise argparse.ArgumentTypeError(f"{text!r} is neither a folder nor a zip")
    return path


def is_zip(path: Path) -> bool:
    """Whether a file begins like a zip. Whether it is valid is checked when it is unpacked."""
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error.strerror}") from None


def variable_or_name(text: str) -> tuple[str, str]:
    """NAME=VALUE, or the name of a variable of the shell."""
    if not VARIABLE_NAME.fullmatch(text):
        return variable(text)
    value = os.environ.get(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"{text} is not set in the shell; set it, or use NAME=VALUE")
    return variable(f"{text}={value}")


def variable(text: str) -> tuple[str, str]:
    """The message does not repeat the text, which can contain a secret."""
    name, equals, value = text.partition("=")
    if not equals or not VARIABLE_NAME.fullmatch(name) or "\0" in value:
        raise argparse.ArgumentTypeError("expected NAME=VALUE, with a name of letters, digits and underscores")
    if name in RESERVED:
        raise argparse.ArgumentTypeError(f"{name} is reserved: the emulator sets it, as the service does")
    return name, value


def env_file(text: str) -> dict[str, str]:
    """The variables in a file, see `tools.emulator.env_file`. A byte order mark is ignored."""
    from tools.emulator.env_file import MalformedLine, parse  # only --env-file needs it

    try:
        content = Path(text).read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {text}: {getattr(error, 'strerror', None) or error}") from None
    variables = {}
    try:
        for number, name, value in parse(content, os.environ):
            try:
                variable(f"{name}={value}")
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentTypeError(f"line {number} of {text}: {error}") from None
            variables[name] = value
    except MalformedLine as error:
        message = f"line {error.line} of {text}: expected NAME=VALUE; a quote must end on the same line or a later one"
        raise argparse.ArgumentTypeError(message) from None
    return variables


def cors(text: str) -> Cors:
    from tools.emulator.endpoints.cors import Cors  # only --cors needs it

    try:
        return Cors.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def debug_port(text: str) -> int:
    return whole_number(text, 1, 65535)


def port_number(text: str) -> int:
    return whole_number(text, 0, 65535)


def megabytes(text: str) -> int:
    return whole_number(text, MIN_MEMORY_MB, MAX_MEMORY_MB)


def max_concurrency(text: str) -> int:
    return whole_number(text, 1, MAX_SLOTS)


def concurrency(text: str) -> int:
    return whole_number(text, 1, MAX_CONCURRENCY)


def whole_number(text: str, low: int, high: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {low} to {high}")


def seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= MAX_TIMEOUT:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number of seconds above 0 and up to {MAX_TIMEOUT}")
