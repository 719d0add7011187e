"""The command line of `main.py`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tools.common.cli import Parser
from tools.common.errors import UsageError
from tools.common.paths import ROOT
from tools.emulator.arguments import (
    PrintVersion,
    concurrency,
    cors,
    debug_port,
    env_file,
    function_source,
    host,
    max_concurrency,
    megabytes,
    port_number,
    profile,
    seconds,
    source,
    stage,
    variable_or_name,
)
from tools.emulator.deployment.settings import FunctionSettings
from tools.emulator.sample_events import SAMPLE_EVENTS, event_argument, sample_event

DEFAULT_STAGE = "prod"
DEFAULT_HANDLER = "lambda_function.handler"
DEFAULT_TIMEOUT, DEFAULT_MEMORY_MB = 30.0, 128
RESPONSE_STREAM = "RESPONSE_STREAM"
# What a template contains for each of its functions.
IN_TEMPLATE = ("function", "handler", "timeout", "memory", "max_concurrency", "invoke_mode", "cors")

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
  python3 main.py --serve --api rest
                                  serve a REST API of API Gateway
  python3 main.py --serve --template template.yaml
                                  serve the functions of a SAM template
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


class Template(NamedTuple):
    """The template of --template.

    Args:
        read: returns its functions, and lines about what is not used. Raises UsageError.
    """

    path: Path
    read: Callable[[], tuple[dict[str, FunctionSettings], list[str]]]


class Options(NamedTuple):
    """The checked command line: the one object with all settings of a run.

    Args:
        event: for one invocation; None: the default event.
        print_event: whether the event is printed instead.
        functions: by name; the first function is the default one.
        credentials: environment variables with the credentials and the region of a profile.
        template: where the functions come from; None: from --function.
        notes: lines about what is not used of the template.
        reload: whether to load changed files again.
        snapstart: whether environments are held between their init phase and their first invocation.
        api_only: whether a developer starts the process.
        open_page: whether to open the page that sends events.
        stage: of an API Gateway REST API in place of the Function URLs; None: Function URLs are served.
        debug_port: where a debugger connects to the process of the function; None: no debugger.
    """

    event: bytes | None
    print_event: bool
    json: bool
    functions: dict[str, FunctionSettings]
    template: Template | None
    notes: list[str]
    credentials: dict[str, str]
    isolate: bool
    snapstart: bool
    serve: bool
    host: str
    port: int
    concurrency: int
    throttle: bool
    reload: bool
    api_only: bool
    debug_port: int | None
    open_page: bool
    stage: str | None


def parse(arguments: list[str]) -> Options:
    """Exits with status 2, and one line on standard error, if the arguments are wrong."""
    parser = make_parser()
    given = parser.parse_args(arguments)
    serve = given.serve or given.api_only or given.open
    try:
        check_combinations(given, serve)
        template = Template(given.template, lambda: functions_in_template(given, serve)) if given.template else None
        functions, notes = template.read() if template is not None else (functions_of(given), [])
    except UsageError as error:
        parser.error(str(error))
    return Options(
        event=sample_event(given.print_event) if isinstance(given.print_event, str) else given.event,
        print_event=given.print_event is not None,
        json=given.json,
        functions=functions,
        template=template,
        notes=notes,
        credentials=given.profile or {},
        isolate=given.isolate,
        snapstart=given.snapstart,
        serve=serve,
        host="127.0.0.1" if given.host is None else given.host,
        port=9000 if given.port is None else given.port,
        concurrency=given.concurrency if given.debug is None else 1,
        throttle=given.throttle,
        reload=not (given.no_reload or given.api_only),
        api_only=given.api_only,
        debug_port=given.debug,
        open_page=given.open,
        stage=(given.stage or DEFAULT_STAGE) if given.api == "rest" else None,
    )


def functions_of(given: argparse.Namespace) -> dict[str, FunctionSettings]:
    """The functions of --function. They have the same settings."""
    return {
        name: FunctionSettings(
            code=path,
            layers=tuple(given.layer or [ROOT / "layer"]),
            handler=DEFAULT_HANDLER if given.handler is None else given.handler,
            timeout=given.timeout or DEFAULT_TIMEOUT,
            memory=given.memory or DEFAULT_MEMORY_MB,
            variables=tuple(variables_of(given).items()),
            max_concurrency=given.max_concurrency or 0,
            invoke_mode=given.invoke_mode or RESPONSE_STREAM,
            cors=given.cors.settings if given.cors else None,
        )
        for name, path in by_name(given.function or [function_source(str(ROOT / "function"))]).items()
    }


def functions_in_template(given: argparse.Namespace, serve: bool) -> tuple[dict[str, FunctionSettings], list[str]]:
    """The functions of --template, and lines about what is not used. Raises UsageError."""
    from tools.emulator.deployment.template import functions_in  # only --template needs it

    found, notes = functions_in(given.template, tuple(given.layer or []))
    if len(found) > 1:
        check_several(given, serve)
    functions = {}
    for name, settings in found.items():
        try:
            functions[name] = settings._replace(
                code=source(str(settings.code)),
                layers=tuple(source(str(layer)) for layer in settings.layers) or (ROOT / "layer",),
                variables=tuple((dict(settings.variables) | variables_of(given)).items()),
                cors=None if settings.cors is None else cors(json.dumps(settings.cors)).settings,
            )
        except (argparse.ArgumentTypeError, TypeError) as error:
            raise UsageError(f"{given.template}: {name}: {error}") from None
    return functions, notes


def variables_of(given: argparse.Namespace) -> dict[str, str]:
    return (given.env_file or {}) | dict(given.env or [])


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
    add("--version", action=PrintVersion, nargs=0, help="print the version of the layer")
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
        "--template",
        type=Path,
        metavar="FILE",
        help="the functions of a template of AWS SAM or CloudFormation, each with its own configuration; YAML needs "
        "PyYAML",
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
    handler_help = "a callable, or an ASGI or WSGI application such as main.app (default: lambda_function.handler)"
    add("--handler", metavar="NAME", help=handler_help)
    add("--timeout", type=seconds, metavar="SECONDS", help="default: 30")
    memory_help = "reported to the function, not enforced (default: 128)"
    add("--memory", type=megabytes, metavar="MB", help=memory_help)
    env_help = "an environment variable, with the shell's value if only its name is given; repeatable"
    add("--env", type=variable_or_name, action="append", metavar="NAME[=VALUE]", help=env_help)
    profile_help = "give the function the credentials and the region of a profile of the AWS CLI"
    add("--profile", type=profile, metavar="NAME", help=profile_help)
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
    add("--host", type=host, help="address for --serve (default: 127.0.0.1)")
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
        "--api",
        choices=("url", "rest"),
        default="url",
        help="serve Function URLs, or an API Gateway REST API that streams, with payload 1.0 (default: url)",
    )
    add("--stage", type=stage, metavar="NAME", help="stage of the REST API (default: prod)")
    add(
        "--invoke-mode",
        choices=(RESPONSE_STREAM, "BUFFERED"),
        help="of the Function URLs (default: RESPONSE_STREAM)",
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
    check_api(given, serve)
    if several:
        check_several(given, serve)
    for option in IN_TEMPLATE:
        if given.template and getattr(given, option) is not None:
            raise UsageError(f"--{option.replace('_', '-')} cannot be used with --template, which contains it")
    if given.snapstart and given.max_concurrency:
        raise UsageError("--snapstart is not possible on managed instances, which --max-concurrency stands for")
    for option in ("isolate", "snapstart", "max-concurrency", "api-only"):
        if given.debug and getattr(given, option.replace("-", "_")):
            raise UsageError(f"--debug cannot be used with --{option}")
    for option in ("isolate", "snapstart", "max-concurrency"):
        if given.api_only and getattr(given, option.replace("-", "_")):
            raise UsageError(f"--{option} is for processes that the emulator starts; --api-only starts none")


def check_api(given: argparse.Namespace, serve: bool) -> None:
    """Raises UsageError if the other options do not belong to the API that is served."""
    if given.api == "url":
        if given.stage is not None:
            raise UsageError("--stage is of a REST API; it needs --api rest")
        return
    if not serve:
        raise UsageError("--api rest needs --serve")
    for option in ("invoke-mode", "cors"):
        if getattr(given, option.replace("-", "_")) is not None:
            raise UsageError(
                f"--{option} is for Function URLs; a REST API streams, and its function responds to preflight requests"
            )


def check_several(given: argparse.Namespace, serve: bool) -> None:
    """Raises UsageError if the other options do not allow several functions."""
    if not serve:
        raise UsageError("more than one function needs --serve")
    for option in ("api_only", "debug"):
        if getattr(given, option):
            raise UsageError(f"--{option.replace('_', '-')} supports one function")


def by_name(functions: list[tuple[str, Path]]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for name, path in functions:
        if name in named:
            raise UsageError(f"two functions have the name {name!r}; rename one with --function NAME=PATH")
        named[name] = path
    return named
