"""What the commands of `main.py` do: one invocation, or serving until it is interrupted."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tools.common.paths import ROOT
from tools.emulator.sandbox.supervisor_client import Supervisor

if TYPE_CHECKING:  # imported in `main`, while the supervisor starts
    from argparse import Namespace

    from tools.emulator.console import Console
    from tools.emulator.execution.pool import Function

FAILED, INTERRUPTED = 1, 130
SIGNAL_PATIENCE = 0.2  # seconds until a signal is handled at the latest


class CannotRun(Exception):
    """Something that was asked for cannot be had here; the message tells what, and what to do."""


def main(arguments: list[str], default_event: dict[str, Any]) -> int:
    """Run the emulator. Returns the exit code.

    Args:
        arguments: those of the command line, without the program's name.
        default_event: what the function is invoked with where the command line says nothing else.
    """
    reserve_standard_descriptors()
    try:
        end_on_signals()
        with supervising() as supervisor:
            return run(arguments, default_event, supervisor)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)  # all is in order; one more signal within the interpreter's own end would change the code


@contextlib.contextmanager
def supervising() -> Iterator[Supervisor | OSError]:
    """The supervisor, or why there is none. It is started before anything else is done, as it takes its time."""
    try:
        supervisor = Supervisor()
    except OSError as error:
        yield error
        return
    try:
        yield supervisor
    finally:
        supervisor.close()


def run(arguments: list[str], default_event: dict[str, Any], supervisor: Supervisor | OSError) -> int:
    import json

    from tools.emulator.console import Console
    from tools.emulator.deployment.sources import CodeError
    from tools.emulator.options import parse

    options = parse(arguments)
    console = Console(options.json)
    try:
        if isinstance(supervisor, OSError):
            reason = f"{supervisor.filename or 'a process'}: {supervisor.strerror}"
            raise CannotRun(f"cannot start: {reason}; is TMPDIR a folder that can be written?")
        if options.isolate:
            try_isolation(supervisor)
        numbers = itertools.count(1)
        functions = {
            name: make_function(name, path, options, console, supervisor, numbers)
            for name, path in options.functions.items()
        }
        if options.serve:
            return serve(functions, console, options, supervisor)
        event = options.event or json.dumps(default_event).encode()
        return invoke_once(functions[next(iter(functions))], console, event, options.throttle)
    except (CannotRun, CodeError) as error:
        console.error(str(error))
        return FAILED
    finally:
        console.close()


def reserve_standard_descriptors() -> None:
    """Where one of them is closed, let no socket take its number: what is printed would be sent on it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # the lowest free number; writing to it fails, as it should


def end_on_signals() -> None:
    """End by SIGTERM as by Ctrl-C: in order, so that no process stays behind. Further signals change nothing.

    SIGINT is named too, as a shell starts its background jobs with that signal ignored.
    """

    signals = itertools.count()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if next(signals) == 0:
            raise KeyboardInterrupt

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, interrupt)


def make_function(
    name: str, path: Path, options: Namespace, console: Console, supervisor: Supervisor, numbers: Iterator[int]
) -> Function:
    from tools.emulator.deployment.configuration import PYTHON, FunctionConfiguration
    from tools.emulator.deployment.sources import Code
    from tools.emulator.execution.pool import Function

    def on_change(changed: str) -> None:
        console.note(f"{name}: {changed} has changed, the next request loads it")
        made.replace_environments()

    code = Code(
        options.layer or [ROOT / "layer"],
        path,
        ROOT / "layer",
        lambda: supervisor.make_folder(f"code-{next(numbers)}"),
        on_change if options.serve and not (options.no_reload or options.api_only) else None,
        lambda message: console.error(f"{name}: {message}"),
    )
    layout = code.layout
    configuration = FunctionConfiguration(
        layout.layer,
        layout.task_root,
        options.handler,
        options.timeout,
        options.memory,
        name,
        options.variables,
        options.isolate,
    )
    if configuration.bundled_python is not None and not configuration.os_only:
        console.note(f"the layer's interpreter starts in /opt alone (--isolate), {PYTHON} runs {name} in its place")
    made = Function(configuration, console, options.concurrency, supervisor, code)
    return made


def invoke_once(function: Function, console: Console, event: bytes, throttle: bool) -> int:
    """Stream the answer to one event to the standard output."""
    from tools.emulator.execution.invocation import InvocationFailed

    try:
        with function.invoke(event) as invocation, console.answer_first():
            invocation.wait_for_head()
            chunks = invocation.chunks()
            if throttle:
                from tools.emulator.endpoints.bandwidth import throttled

                chunks = throttled(chunks)
            last = b""
            for chunk in chunks:
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


def serve(functions: dict[str, Function], console: Console, options: Namespace, supervisor: Supervisor) -> int:
    """Serve until it is interrupted."""
    from tools.emulator.endpoints.function_url import FunctionUrl
    from tools.emulator.endpoints.invoke_api import InvokeApi
    from tools.emulator.endpoints.router import FrontDoor

    raise_descriptor_limit()
    door = FrontDoor(
        functions,
        FunctionUrl(console, options.invoke_mode, options.cors, options.throttle),
        InvokeApi(functions, console, options.throttle),
        listen(options.host, options.port),
        next(iter(functions.values())).attach() if options.api_only else None,
    )
    if options.api_only:
        console.note(attach_command(door.authority, functions))
    try:
        write_out("".join(f"{line}\n" for line in first_lines(door.url, door.authority, functions, options)).encode())
        while not supervisor.gone.wait(SIGNAL_PATIENCE):
            pass  # a signal that the kernel gave to another thread is handled by this one, which it does not wake
        raise CannotRun("the process that starts the execution environments was killed; start again")
    except OSError as error:
        console.error(f"the standard output cannot be written: {error.strerror}")
        return FAILED
    finally:
        door.close()


def first_lines(url: str, authority: str, functions: dict[str, Function], options: Namespace) -> Iterator[str]:
    """Where to go, and what to try there."""
    yield (
        f"Function URL {url} (Ctrl-C ends it), try: "
        f"curl -X POST {url} -H 'Content-Type: application/json' "
        """-d '{"sentence": "Test streaming response"}' --no-buffer"""
    )
    if len(functions) > 1:
        width = max(map(len, functions))
        yield from (f"{name:{width}}  {url}lambda-url/{name}/" for name in functions)
    if options.api_only:
        yield f"AWS_LAMBDA_RUNTIME_API={authority}"


def attach_command(authority: str, functions: dict[str, Function]) -> str:
    """How to start the runtime oneself."""
    import shlex

    [function] = functions.values()
    handler, task_root = function.configuration.handler, function.configuration.task_root
    variables = {"AWS_LAMBDA_RUNTIME_API": authority, "_HANDLER": handler, "LAMBDA_TASK_ROOT": str(task_root)}
    words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    program = shlex.join(["python3", str(function.configuration.layer / "runtime.py")])
    return f"waiting for a runtime, as in: {' '.join(words)} {program}"


def listen(host: str, port: int) -> socket.socket:
    from tools.emulator.http1 import server as http1

    try:
        return http1.listen(host, port)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or error
        where = f"cannot listen on {host} port {port}: {reason}"
        raise CannotRun(f"{where}; choose others with --host and --port (0: any free)") from None


def raise_descriptor_limit() -> None:
    """Each connection takes descriptors, and the usual limit is meant for programs with few."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536, hard)
        )


def try_isolation(supervisor: Supervisor) -> None:
    """See whether the system allows what --isolate needs, before anything relies on it."""
    root, empty = supervisor.make_folder("isolation-root"), supervisor.make_folder("isolation-empty")
    places = {"root": str(root), "layer": str(empty), "task": str(empty), "lang": None, "temporary": str(empty)}
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        supervisor.start(["/bin/true"], {}, "/", null, places).ended.wait()
    except OSError as error:
        raise CannotRun(
            f"--isolate is not possible here ({error.strerror}): it needs Linux, and root or the right to make user "
            "namespaces (sysctl kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0); "
            "run without it"
        ) from None
    finally:
        os.close(null)
