"""The two modes of `main.py`: one invocation, or serving."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tools.common.errors import ToolError
from tools.common.function_folder import MAX_LEFT_OUT, NotInZip
from tools.common.paths import ROOT
from tools.common.urls import redact
from tools.emulator.console import STDOUT, Console, write_all
from tools.emulator.deployment.configuration import PYTHON, FunctionConfiguration
from tools.emulator.deployment.settings import FunctionSettings
from tools.emulator.deployment.sources import FunctionCode
from tools.emulator.endpoints.bandwidth import limit_bandwidth
from tools.emulator.execution.environment import EXTERNAL_END_TIMEOUT, INIT_TIMEOUT
from tools.emulator.execution.invocation import InvocationFailed
from tools.emulator.execution.pool import EnvironmentPool
from tools.emulator.options import Options, default_event_bytes, parse
from tools.emulator.sample_events import formatted
from tools.emulator.sandbox.supervisor_client import Supervisor

DONE, FAILED = 0, 1
SHUTDOWN_TIMEOUT = EXTERNAL_END_TIMEOUT + 0.5  # seconds
# The limits of an init phase with SnapStart and on managed instances, in seconds: the function's timeout, if it is
# between the two (lambda-runtime-environment, lambda-managed-instances-execution-environment).
LONG_INIT_TIMEOUT, MAX_LONG_INIT_TIMEOUT = 130.0, 900.0


def run(
    arguments: list[str],
    default_event: dict[str, Any],
    supervisor: Supervisor | OSError,
    at_end: Callable[[Callable[[], None]], None],
) -> int:
    """Run the command line and return the exit status.

    Args:
        at_end: registers a function that is called when the run ends, also by a signal.
    """
    options = parse(arguments)
    event = options.event or (b"" if options.serve else default_event_bytes(default_event))
    console = Console(options.json)
    at_end(console.close)
    try:
        if options.print_event:
            print_event(event)
            return DONE
        return run_functions(options, event, console, usable(supervisor), at_end)
    except ToolError as error:
        console.error(redact(str(error)))
        return FAILED


def run_functions(
    options: Options,
    event: bytes,
    console: Console,
    supervisor: Supervisor,
    at_end: Callable[[Callable[[], None]], None],
) -> int:
    """Invoke the function once, or serve. Raises ToolError."""
    if options.isolate:
        try_isolation(supervisor)
    numbers = itertools.count(1)
    stable = stable_folder(supervisor, options, at_end) if options.api_only else None
    pools: list[EnvironmentPool] = []
    at_end(lambda: shut_down(pools))

    def make_folder() -> Path:
        name = f"code-{next(numbers)}"
        return supervisor.make_folder(name) if stable is None else make_in(stable, name)

    def make(name: str, settings: FunctionSettings) -> EnvironmentPool:
        pools.append(make_pool(name, settings, options, console, supervisor, make_folder))
        return pools[-1]

    for note in options.notes:
        console.note(note)
    if not options.serve:
        ((name, settings),) = options.functions.items()
        return invoke_once(make(name, settings), console, event, options.throttle)
    from tools.emulator.serving import serve  # one invocation does not need the endpoints

    return serve(make, console, options, supervisor, at_end, make_in(stable, "tmp") if stable else None)


def print_event(event: bytes) -> None:
    try:
        write_all(STDOUT, formatted(event).encode())
    except OSError as error:
        raise ToolError(f"cannot write the event to standard output: {error.strerror}") from None


def usable(supervisor: Supervisor | OSError) -> Supervisor:
    """Return the supervisor when it is ready. Raises ToolError."""
    try:
        if isinstance(supervisor, OSError):
            raise supervisor
        supervisor.wait_until_ready()
    except OSError as error:
        cause = f"{error.filename or 'a process'}: {error.strerror}"
        raise ToolError(f"cannot start: {cause}; set TMPDIR to a folder that can be written") from None
    return supervisor


def stable_folder(supervisor: Supervisor, options: Options, at_end: Callable[[Callable[[], None]], None]) -> Path:
    """The folder for what --api-only unpacks, and for TMPDIR: the same one in each run, as is the port."""
    from tools.emulator.debugging import StableFolder  # only --api-only needs it

    if options.port == 0:
        return supervisor.make_folder("stable")
    folder = StableFolder(supervisor.scratch.parent, next(iter(options.functions)), options.port)
    at_end(folder.remove)
    return folder.path


def make_in(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


def shut_down(pools: Iterable[EnvironmentPool]) -> None:
    """End the environments that have extensions, as the service does it, within a limit."""
    ending = [environment for pool in list(pools) for environment in pool.begin_shutdown()]
    end = time.monotonic() + SHUTDOWN_TIMEOUT
    for environment in ending:
        environment.wait_until_gone(max(0.0, end - time.monotonic()))


def make_pool(
    name: str,
    settings: FunctionSettings,
    options: Options,
    console: Console,
    supervisor: Supervisor,
    make_folder: Callable[[], Path],
) -> EnvironmentPool:
    reload = options.serve and options.reload
    debugged = options.api_only or options.debug_port is not None
    code = FunctionCode(settings.layers, settings.code, ROOT / "layer", make_folder, reload, debugged)
    configuration = FunctionConfiguration(
        name=name,
        layer=code.layout.layer,
        task_root=code.layout.task_root,
        handler=settings.handler,
        timeout=settings.timeout,
        memory=settings.memory,
        variables=settings.variables,
        credentials=tuple(options.credentials.items()),
        isolated=options.isolate,
        snapstart=options.snapstart,
        max_concurrency=settings.max_concurrency,
        debug_port=options.debug_port,
        source_root=code.layout.source_root,
    )
    if options.debug_port is not None:
        from tools.emulator.debugging import check_debugpy  # only --debug needs it

        check_debugpy(configuration.python)
    note_start(configuration, options.snapstart, console)
    note_not_in_zip(name, code.not_in_zip, console)
    init_timeout = long_init_timeout(settings.timeout) if configuration.has_long_init_phase else INIT_TIMEOUT
    pool = EnvironmentPool(configuration, console, supervisor, options.concurrency, code, init_timeout)

    if reload:
        reload_on_change(name, code, pool, console)
    if options.api_only:
        code.follow_source()
    return pool


def reload_on_change(name: str, code: FunctionCode, pool: EnvironmentPool, console: Console) -> None:
    noted = code.not_in_zip

    def on_change(changed: str | None) -> None:
        nonlocal noted
        if changed is not None:
            console.note(f"{name}: {changed} has changed; the next request uses it")
        if code.not_in_zip != noted:
            noted = code.not_in_zip
            note_not_in_zip(name, noted, console)
        pool.retire_environments()

    code.watch(on_change, lambda message: console.error(f"{name}: {message}"))


def note_start(configuration: FunctionConfiguration, snapstart: bool, console: Console) -> None:
    """Print what a developer may not expect about the start of a function."""
    name = configuration.name
    if configuration.bundled_python is not None and not configuration.os_only:
        console.note(f"the interpreter in the layer cannot start here; {name} runs on {PYTHON} (try --isolate)")
    if configuration.replaces_bootstrap:
        console.note(
            f"{name}: AWS_LAMBDA_EXEC_WRAPPER names {configuration.wrapper or 'no file'}; as on Lambda, it is started "
            "instead of the layer's bootstrap. To run a wrapper with the layer, set STREAMING_RUNTIME_EXEC_WRAPPER"
        )
    if snapstart:
        note_snapstart_limits(configuration, console)


def note_not_in_zip(name: str, found: NotInZip, console: Console) -> None:
    """Name the files that the zip of `./build.sh function` does not contain, and the links that the build refuses."""
    if found.left_out or found.links:
        from tools.common.output import shortened  # few functions have such files
    if found.left_out:
        files = shortened(found.left_out, MAX_LEFT_OUT)
        console.note(f"{name} does not see {files}: the zip of ./build.sh function has no such files")
    if found.links:
        links = shortened(found.links, MAX_LEFT_OUT)
        console.note(f"{name} sees {links}, but ./build.sh function refuses symbolic links; replace them with copies")


def long_init_timeout(timeout: float) -> float:
    return min(max(LONG_INIT_TIMEOUT, timeout), MAX_LONG_INIT_TIMEOUT)


def note_snapstart_limits(configuration: FunctionConfiguration, console: Console) -> None:
    """Name what runs here, but not on the service (https://docs.aws.amazon.com/lambda/latest/dg/snapstart.html)."""
    name = configuration.name
    if configuration.os_only:
        console.note(f"{name}: Lambda does not offer SnapStart for OS-only runtimes with zip files")
    elif sys.version_info < (3, 12):
        console.note(f"{name} runs on {PYTHON}; Lambda offers SnapStart for python3.12 and later")


def invoke_once(pool: EnvironmentPool, console: Console, event: bytes, throttle: bool) -> int:
    """Stream the response to one event to standard output."""
    try:
        with pool.invoke(event) as invocation, console.response():
            invocation.wait_for_content_type()
            chunks = invocation.chunks()
            for chunk in limit_bandwidth(chunks) if throttle else chunks:
                console.write_response(chunk)
    except InvocationFailed as failure:
        console.failure(failure.document)
        return FAILED
    except OSError as error:
        console.error(f"cannot write the response to standard output: {error.strerror}")
        return FAILED
    return DONE


def try_isolation(supervisor: Supervisor) -> None:
    """Check whether the system allows --isolate, before anything depends on it. Raises ToolError."""
    root, empty = supervisor.make_folder("isolation-root"), supervisor.make_folder("isolation-empty")
    folders = {"root": str(root), "layer": str(empty), "task": str(empty), "lang": None, "temporary": str(empty)}
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        supervisor.start(["/bin/true"], {}, "/", null, folders).ended.wait()
    except OSError as error:
        raise ToolError(
            f"--isolate is not possible here ({error.strerror}): it needs Linux, and root or the permission to create "
            "user namespaces (sysctl kernel.unprivileged_userns_clone=1 or "
            "kernel.apparmor_restrict_unprivileged_userns=0); run without it"
        ) from None
    finally:
        os.close(null)
