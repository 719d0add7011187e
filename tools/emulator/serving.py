"""`main.py --serve`: serve Function URLs and the Lambda API until the process is interrupted."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from tools.common.errors import ToolError
from tools.common.operating_system import raise_descriptor_limit
from tools.emulator.console import STDOUT, Console, write_all
from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.deployment.settings import FunctionSettings
from tools.emulator.endpoints.api_call import Functions
from tools.emulator.endpoints.function_url import FunctionUrl
from tools.emulator.endpoints.invoke_api import InvokeApi
from tools.emulator.endpoints.lambda_api import LambdaApi
from tools.emulator.endpoints.page import PATH, open_page
from tools.emulator.endpoints.rest_api import RestApi
from tools.emulator.endpoints.router import Router
from tools.emulator.execution.pool import EnvironmentPool
from tools.emulator.http1 import server
from tools.emulator.options import Options
from tools.emulator.sandbox.supervisor_client import Supervisor
from tools.emulator.template_reload import TemplateReload


def serve(
    make_pool: Callable[[str, FunctionSettings], EnvironmentPool],
    console: Console,
    options: Options,
    supervisor: Supervisor,
    at_end: Callable[[Callable[[], None]], None],
    temporary: Path | None = None,
) -> NoReturn:
    """Serve until the supervisor ends: a signal ends it, or somebody kills it.

    Args:
        make_pool: makes the environments of a function. Raises ToolError.
        at_end: registers a function that is called when the run ends.
        temporary: the folder for TMPDIR of a process that the developer starts; None: there is none.

    Raises ToolError if it cannot serve, and at the end.
    """
    raise_descriptor_limit()  # each connection needs several, and the usual limit is 1,024

    def make(name: str, settings: FunctionSettings) -> FunctionUrl:
        return make_endpoint(make_pool(name, settings), settings, options, console)

    urls = {name: make(name, settings) for name, settings in options.functions.items()}
    pools = {name: url.pool for name, url in urls.items()}
    functions = Functions(urls, console)
    router = make_router(functions, pools, options, console)
    at_end(router.close)
    router.start()
    announce(first_lines(router, pools, options))
    if temporary is not None:
        announce_variables(next(iter(pools.values())).configuration, router.authority, temporary, console)
    if options.open_page:
        open_page(f"{router.url}{PATH.removeprefix('/')}", console)
    if options.snapstart or options.debug_port is not None:
        for pool in pools.values():
            pool.prepare()
    if options.template is not None and options.reload:
        TemplateReload(options.template, options.functions, functions, make, console).start()
    supervisor.wait_until_lost()
    raise ToolError("the process that starts the execution environments was killed; start main.py again")


def make_router(
    functions: Functions, pools: Mapping[str, EnvironmentPool], options: Options, console: Console
) -> Router:
    return Router(
        functions,
        LambdaApi(functions, InvokeApi(functions, console, options.throttle), console),
        listen(options.host, options.port),
        console,
        next(iter(pools.values())).attach() if options.api_only else None,
        options.open_page,
    )


def make_endpoint(pool: EnvironmentPool, settings: FunctionSettings, options: Options, console: Console) -> FunctionUrl:
    if options.stage is not None:
        return RestApi(pool, console, options.stage, options.throttle)
    return FunctionUrl(pool, console, settings.invoke_mode, settings.cors, options.throttle)


def announce(lines: Iterator[str]) -> None:
    try:
        write_all(STDOUT, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise ToolError(f"cannot write to standard output: {error.strerror}") from None


def announce_variables(
    configuration: FunctionConfiguration, runtime_api: str, temporary: Path, console: Console
) -> None:
    """The variables of a process that the developer starts: an env file, and a command."""
    from tools.emulator.debugging import env_file_lines, shell_command  # only --api-only needs it

    address = {"AWS_LAMBDA_RUNTIME_API": runtime_api}
    variables = address | configuration.environment(runtime_api, str(temporary))
    console.note(f"waiting for a runtime; start it with: {shell_command(configuration, variables)}")
    announce(env_file_lines(variables))


def first_lines(router: Router, pools: dict[str, EnvironmentPool], options: Options) -> Iterator[str]:
    """The URLs, and a command to try, on lines that fit a narrow terminal."""
    endpoint, path = ("Function URL", "") if options.stage is None else ("REST API", f"{options.stage}/")
    url = f"{router.url}{path}"
    yield f"{endpoint} {url} (Ctrl-C to stop)"
    if not options.api_only:  # there, a process has to be started first
        yield f"""curl -N {shlex.quote(url)} -d '{{"sentence": "Hello"}}'"""
    if len(pools) > 1:
        width = max(map(len, pools))
        yield from (f"{name:{width}}  {router.url}lambda-url/{name}/{path}" for name in pools)


def listen(host: str, port: int) -> socket.socket:
    """Raises ToolError."""
    try:
        return server.listen(host, port)
    except (OSError, UnicodeError) as error:
        # Errors of name resolution have numbers of their own, and those of encodings have none.
        number = getattr(error, "errno", None) or 0
        cause = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or error
        raise ToolError(
            f"cannot listen on {host} port {port}: {cause}; choose others with --host and --port (0: any free port)"
        ) from None
