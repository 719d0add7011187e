"""SnapStart: the last step of init, around the snapshot. Loaded if AWS_LAMBDA_INITIALIZATION_TYPE is `snap-start`.

    before-snapshot hooks          the one that was registered last comes first
    GET /runtime/restore/next      the service takes the snapshot while this request waits, and responds after a restore
    after-restore hooks            in the order of registration
    GET /runtime/invocation/next   the service considers the restore complete

Sources: AWS Lambda Developer Guide, snapstart-runtime-hooks-custom for the calls, snapstart-runtime-hooks-python for
`snapshot_restore_py`, the package with which functions register hooks. The managed runtime contains it.

Many environments continue from one snapshot, hours or weeks later. What can go wrong:

- The other end of a connection is gone after a restore. So the runtime has no open connection when the snapshot is
  taken, except the one that waits for the restore, and that is not used again. An extension must not lose its
  connection, so that one stays open, and is replaced after the restore only if it is closed.
- Text in a buffer would be written by every restored environment. So both outputs are flushed before.
- Every restored environment would produce the same random numbers. So `random` gets a new seed. The kernel's generator,
  which `os.urandom`, `secrets` and `uuid.uuid4` use, gets one from the service (snapstart-uniqueness).
- The monotonic clock continues from the snapshot, and the wall clock jumps. So nothing computed from either is kept.
- An error before the snapshot fails the publishing of the version, one after it fails the invocation that waits. The
  service distinguishes them by the call, the error type and the exit status, and ends the environment.
- A hook that never returns is ended by the service: 10 seconds after a restore, and by the init time limit before.
"""

import sys

from streaming_runtime import RuntimeApiError, Terminated, import_standard
from streaming_runtime.api import API_VERSION, INIT_ERROR_PATH
from streaming_runtime.http1 import request_head
from streaming_runtime.invocation import set_trace_id
from streaming_runtime.log import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from streaming_runtime.api import RuntimeApi
    from streaming_runtime.handler import Handler
    from streaming_runtime.log import Log

VERSION = "0.1.0"

RESTORE_NEXT_PATH = API_VERSION + "/runtime/restore/next"
RESTORE_ERROR_PATH = API_VERSION + "/runtime/restore/error"
BEFORE_SNAPSHOT_ERROR, BEFORE_SNAPSHOT_STATUS = "Runtime.BeforeSnapshotError", 64  # as the managed runtime
AFTER_RESTORE_ERROR, AFTER_RESTORE_STATUS = "Runtime.AfterRestoreError", 65


def pass_snapshot(api: "RuntimeApi", handler: "Handler", log: "Log") -> None:
    """Run the hooks, and wait for the restore between them.

    Raises SystemExit with status 64 or 65 when the error of a hook or of the restore has been reported; Terminated if
    the environment shuts down.
    """
    failure = INIT_ERROR_PATH, BEFORE_SNAPSHOT_ERROR, BEFORE_SNAPSHOT_STATUS
    try:
        run_before_snapshot(handler)
        raise_exit_request(api)
        flush_output()
        wait_for_restore(api)
        failure = RESTORE_ERROR_PATH, AFTER_RESTORE_ERROR, AFTER_RESTORE_STATUS
        if api.extension is not None:
            api.extension.resume()
        forget()
        run_after_restore(handler)
        raise_exit_request(api)
        handler.capture()
    except Terminated:
        handler.close()
        raise
    except BaseException as error:
        if api.connection.disowned:
            raise  # in a process that a hook forked; the parent continues
        fail(api, log, error, *failure)
        handler.close()
        sys.exit(failure[-1])


# --- Hooks ------------------------------------------------------------------------------------------------------------


def run_before_snapshot(handler: "Handler") -> None:
    """Run the hooks in the reverse order of registration, and also those that a hook registers."""
    hooks = registered("get_before_snapshot")
    while hooks:
        call(hooks.pop(), handler)


def run_after_restore(handler: "Handler") -> None:
    for hook in registered("get_after_restore"):
        call(hook, handler)


def registered(getter: str) -> "list[Any]":
    """Return the list of hooks that `snapshot_restore_py` keeps; an empty one if the function does not use it."""
    package = sys.modules.get("snapshot_restore_py")
    hooks: list[Any] = getattr(package, getter)() if package is not None else []
    return hooks


def call(hook: "tuple[Any, Any, Any]", handler: "Handler") -> None:
    """Call a hook. If it returns an awaitable, await that on the event loop that the handler uses too."""
    function, arguments, named = hook
    result = function(*arguments, **named)
    if hasattr(type(result), "__await__"):
        handler.await_result(result)


def raise_exit_request(api: "RuntimeApi") -> None:
    """Raise Terminated if a hook has swallowed it, for example in an `except BaseException`."""
    if api.connection.exit_request is not None:
        raise api.connection.exit_request


# --- The snapshot -----------------------------------------------------------------------------------------------------


def flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # the function has closed or replaced it
            continue


def wait_for_restore(api: "RuntimeApi") -> None:
    """Return after the restore. Raises NotDelivered or RuntimeApiError if the Runtime API refuses to wait for one.

    The request has no time limit. It is sent once: a second one is legal only in the init phase, and when a connection
    breaks, the environment may have left that phase.
    """
    connection = api.connection
    connection.close()
    connection.renew()
    try:
        connection.send(request_head("GET", api.prefix + RESTORE_NEXT_PATH, api.common_fields))
        response = connection.read_response()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeApiError(f"the Runtime API responded to {RESTORE_NEXT_PATH} with {response}")


def forget() -> None:
    """Drop what must not be the same in all restored environments. It comes before the hooks, which can override it."""
    set_trace_id(None)
    if "random" in sys.modules:
        import_standard("random").seed()


def fail(api: "RuntimeApi", log: "Log", error: BaseException, path: str, error_type: str, status: int) -> None:
    """Log the error and report it. The header has the type for the phase, the body has the class of the exception."""
    phase = "a before-snapshot hook" if status == BEFORE_SNAPSHOT_STATUS else "an after-restore hook"
    report = describe(error, phase)
    log.error(report)
    try:
        api.post_report(path, report, error_type=error_type)
    except RuntimeApiError as problem:
        log.line(f"{problem}; the environment ends with exit status {status}")
