"""A runtime for AWS Lambda that streams: each chunk that the handler yields is sent to the caller at once.

One execution environment runs one process of this program:

    load the handler, then repeat: next invocation -> handler -> send its chunks, or report its error

What a handler gives, and what happens to it:

    a generator, an async generator, or any other iterator    each item is sent at once, as one HTTP chunk
    anything else                                             Runtime.InvalidHandler
    an item that is bytes, bytearray or memoryview            sent; an empty one is skipped
    a first item that is a dict                               status, headers and cookies of an HTTP response
    any other item                                            Runtime.InvalidChunk

This file is the life of an invocation. The parts are in the package `streaming_runtime` beside it.

Sources: "Using the Lambda runtime API" and "Building a custom runtime" in the AWS Lambda Developer Guide
(docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, runtimes-custom.html).
"""

import posix
import sys

if __name__ == "__main__":  # started as a script, by a wrapper; with PYTHONSAFEPATH its folder is not on the path
    import os

    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    os.environ.pop("_STREAMING_RUNTIME_WRAPPERS", None)  # of bootstrap
    watch = os.environ.pop("_STREAMING_RUNTIME_WATCH", "")
    try:  # noqa: SIM105 - contextlib would have to be imported
        os.kill(int(watch), 9)  # the watch over the wrapper, which has done its part
    except (OSError, ValueError):  # there is none
        pass

import streaming_runtime
from streaming_runtime import (
    NotDelivered,
    RuntimeApiError,
    Terminated,
    api,
    connection,
    handler,
    http1,
    import_standard,
    invocation,
    load,
    log,
    variable,
)

try:  # the C part suffices; the Python part imports `enum`
    import _signal as signal  # type: ignore[import-not-found]
except ImportError:  # an interpreter that is built differently
    import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

VERSION = "0.1.0"

# bootstrap compares the versions of these files: another layer may have overwritten one of them.
START_MODULES = (streaming_runtime, http1, connection, api, invocation, handler, log)

GRACEFUL_SHUTDOWN = "STREAMING_RUNTIME_GRACEFUL_SHUTDOWN"  # 1 or true: SIGTERM before the environment ends
LOG_STREAMS = "STREAMING_RUNTIME_LOG_STREAMS"  # 1 or true: one log record for each response
MAX_CONCURRENCY = "AWS_LAMBDA_MAX_CONCURRENCY"  # Lambda Managed Instances set it; see the module `workers`
INITIALIZATION_TYPE = "AWS_LAMBDA_INITIALIZATION_TYPE"  # on-demand, provisioned-concurrency or snap-start


def check(version: str) -> None:
    """Compare the versions of the files that are loaded at start. Raises ImportError if bootstrap cannot start them."""
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python can get here
        raise ImportError("Python 3.11 or newer is required")
    for module in (sys.modules[__name__], *START_MODULES):
        found = getattr(module, "VERSION", None)
        if found != version:
            file = str(module.__file__).removeprefix(f"{streaming_runtime.LAYER_FOLDER}/")
            raise ImportError(f"{file} has VERSION {found!r}")


def watch_wrapper(process: str, wrapper: str) -> None:
    """Watch over a wrapper that bootstrap is about to start; see the module `wrapper_watch`."""
    load("wrapper_watch").start(int(process), wrapper, sys.executable)


def main() -> "NoReturn":
    """Load the handler and serve invocations until the environment ends. Exit 1 if that is impossible."""
    sys.argv = [__file__]
    own = sys.modules[__name__]
    if __name__ != "__main__":
        del sys.modules[__name__]  # the function may have a module of this name
    is_concurrent = variable(MAX_CONCURRENCY) is not None
    output = load("concurrent_log").ConcurrentLog() if is_concurrent else log.Log()
    log.reserve.fill()
    try:
        if is_concurrent:
            load("workers").serve(own, output)
        runtime_api = api.RuntimeApi(variable("AWS_LAMBDA_RUNTIME_API") or "", output)
        exit_on_sigterm(runtime_api.connection)
        posix.register_at_fork(after_in_child=runtime_api.disown)
        run(runtime_api, initialize(runtime_api, output), output)
    except BaseException as error:
        end(error, output)


def initialize(runtime_api: api.RuntimeApi, output: log.Log) -> handler.Handler:
    """Import the function. On failure, post the one `/init/error` that an environment may post, and exit."""
    watch = None
    try:
        watch = handler.AgentWatch(output)
        handler.set_up_site(is_wrapped=__name__ == "__main__")
        handler.set_import_path()
        handler.process_path_files(output)
        output.follow_logging()
        loaded = watch.handler()
        if runtime_api.extension is None and is_requested(GRACEFUL_SHUTDOWN):
            runtime_api.extension = load("extension").Extension(runtime_api, output)
            runtime_api.extension.register()
        if is_requested(LOG_STREAMS):
            runtime_api.response_class = load("stream_log").LoggedResponseStream
        snapstart = load("snapstart") if variable(INITIALIZATION_TYPE) == "snap-start" else None
    except BaseException as error:
        report = log.describe(error, "the function's module")
        output.error(report)
        if watch is not None:
            watch.report_init_error()
        runtime_api.post_init_error(report)
        leave(report.exit_status or 1)
    if snapstart is not None:
        snapstart.pass_snapshot(runtime_api, loaded, output)
    return loaded


def is_requested(name: str) -> bool:
    return (variable(name) or "").lower() in ("1", "true")


def run(runtime_api: api.RuntimeApi, loaded: handler.Handler, output: log.Log) -> "NoReturn":
    """Serve one invocation after the other. Ends only with an exception."""
    try:
        while True:
            output.invocation = runtime_api.next_invocation()
            loaded.in_context(serve, runtime_api, loaded, output.invocation, output)
            loaded.settle()
            if not log.reserve.is_full:
                log.reserve.fill()
            if runtime_api.connection.exit_request is not None:  # a handler or its error can swallow the exception
                raise runtime_api.connection.exit_request
    finally:
        loaded.close()
        runtime_api.connection.close()


def serve(
    runtime_api: api.RuntimeApi, loaded: handler.Handler, current: invocation.Invocation, output: log.Log
) -> None:
    """Serve one invocation: stream the response. An error goes to `/error` before the first byte, later to trailers.

    Raises SystemExit, after the report, if the handler or its work after the response did; RuntimeApiError if the
    Runtime API is unusable.
    """
    response = runtime_api.response_class(runtime_api, current, output)
    try:
        invocation.set_trace_id(current.trace_id)
        loaded.stream(current, response)
        response.finish()
    except RuntimeApiError:
        raise
    except NotDelivered as reason:
        output.line(f"the response was not delivered: {reason}")
        if response.phase is api.FRESH:  # no connection could be opened, so `/error` is still allowed
            response.fail(streaming_runtime.MinimalReport("Runtime.ResponseNotDelivered", str(reason), reason))
    except BaseException as error:
        if runtime_api.connection.disowned:
            raise  # in a process that the handler forked; the parent sends the response
        report = log.describe(error, "the handler")
        if not response.is_reported:
            output.error(report)
            response.fail(report)
        if report.exit_status is not None:
            sys.exit(report.exit_status)
    finally:
        current.has_ended = True
        if current.callbacks is not None:
            current.callbacks.finish(loaded, output)


# --- The end of the process -------------------------------------------------------------------------------------------


def exit_on_sigterm(current: connection.Connection) -> None:
    """On SIGTERM, close the generator that is running, so that its `finally` runs, then run `atexit` functions.

    The service sends SIGTERM only if an extension is registered (AWS Lambda Developer Guide,
    lambda-runtime-environment). A Python signal handler runs between two instructions of the main thread. It raises
    there, which interrupts the handler as well as a wait for the next invocation. Two cases are different:

    - Inside the sending of a chunk an exception would break the framing, and no trailers could follow. The request to
      exit is only noted; the sender raises it when the chunk is out. A send that waits for buffer space is interrupted
      all the same: nobody may be reading.
    - The function can swallow the exception, for example in an `except BaseException`, and Python discards it while it
      finalizes an object. The note stays, and is raised with the next chunk or before the next invocation.
    """
    stream = api.ResponseStream
    sending = {method.__code__ for method in (stream.write_first, stream.write, stream._end)}
    waiting = {method.__code__ for method in (connection.Connection._send_rest, connection.Connection.read_response)}

    def terminate(signum: int, frame: "FrameType | None") -> None:
        interrupted = set()
        while frame is not None:
            interrupted.add(frame.f_code)
            frame = frame.f_back
        current.exit_request = Terminated(128 + signum)
        if interrupted.isdisjoint(sending) or not interrupted.isdisjoint(waiting):
            raise current.exit_request

    signal.signal(signal.SIGTERM, terminate)


def end(error: BaseException, output: log.Log) -> "NoReturn":
    """End the process because of an exception that `run` has raised."""
    if isinstance(error, RuntimeApiError):
        output.line(f"{error}; the environment ends")
        leave(1)
    report = log.describe(error, "the function")
    if report.exit_status is None:  # raised between two invocations, by a signal handler for example
        output.error(report)
    leave(1 if report.exit_status is None else report.exit_status)


def leave(status: int) -> "NoReturn":
    """End the process after the `atexit` functions, but without waiting for the function's threads.

    Python would wait for them without a limit, and the service would wait for the process.
    """
    try:
        import_standard("atexit")._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        posix._exit(status)


if __name__ == "__main__":
    main()
