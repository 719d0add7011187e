"""A watch over an event loop: a handler that blocks it stops all invocations of the process, without an error.

A thread schedules a callback on the loop. If the callback does not run within BLOCKED_SECONDS, the thread writes one
warning with the place in the code where the loop is, and ends.
"""

import os
import sys
import time

from streaming_runtime import FOLDER, import_standard, variable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Task
    from types import FrameType
    from typing import Any

    from streaming_runtime.concurrent_log import ConcurrentLog
    from streaming_runtime.invocation import Invocation

VERSION = "0.1.0"

BLOCKED_SECONDS = 1.0
LIBRARY = os.path.dirname(os.__file__)

threading = import_standard("threading")


def start(loop: "Any", log: "ConcurrentLog", running: "dict[Task[Any], Invocation]") -> None:
    """Start the watch over the loop of the calling thread.

    Args:
        running: the tasks of the invocations that are being served, which the loop changes.
    """
    arguments = (loop, log, running, threading.get_ident())
    threading.Thread(target=watch, args=arguments, name="loop-watch", daemon=True).start()


def watch(loop: "Any", log: "ConcurrentLog", running: "dict[Task[Any], Invocation]", thread: int) -> None:
    while True:
        time.sleep(BLOCKED_SECONDS)
        if not running:
            continue
        has_run = threading.Event()
        try:
            loop.call_soon_threadsafe(has_run.set)
        except RuntimeError:  # the loop is closed
            return
        if not has_run.wait(BLOCKED_SECONDS):
            place = place_of(sys._current_frames().get(thread))
            task = import_standard("asyncio").current_task(loop)
            log.enter_context(running.get(task) if task is not None else None)
            log.note(
                f"the handler {variable('_HANDLER')} blocks the event loop: {place} has not returned for "
                f"{BLOCKED_SECONDS:.0f} second, and all invocations of this process wait for it; call it with "
                "asyncio.to_thread, or set STREAMING_RUNTIME_CONCURRENCY=process",
                "WARN",
            )
            return


def place_of(frame: "FrameType | None") -> str:
    """Return file, line and function of the innermost frame that belongs to the function and not to a library."""
    found = outside_of((LIBRARY, FOLDER, "<frozen"), frame) or frame
    if found is None:
        return "code of the function"
    return f"{found.f_code.co_filename}, line {found.f_lineno}, in {found.f_code.co_name},"


def is_in_function(frame: "FrameType | None") -> bool:
    """Return whether code of the function runs, or code of a library that it has called."""
    found = outside_of((LIBRARY, "<frozen"), frame)
    return found is not None and not found.f_code.co_filename.startswith(FOLDER)


def outside_of(places: "tuple[str, ...]", frame: "FrameType | None") -> "FrameType | None":
    """Return the innermost frame whose file is in none of the places."""
    while frame is not None and frame.f_code.co_filename.startswith(places):
        frame = frame.f_back
    return frame
