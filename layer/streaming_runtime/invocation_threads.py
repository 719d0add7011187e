"""The threads of an invocation, in a process that serves one invocation after the other.

A thread of an earlier invocation can still run, and must not log with the id of the current one. So each thread gets
the request id of the invocation that has started it, and belongs to that one only. What can go wrong:

- A thread that is left over starts another one, as `threading.Timer` does that repeats. The new thread belongs to no
  invocation, because its starter belongs to none any more.
- A thread of a pool serves later invocations too. It belongs to the one that has started it, and to no other.
- A thread that C code or `_thread.start_new_thread` has started belongs to no invocation.

A function that a pool calls with the context of its invocation, as `asyncio.to_thread` does, needs none of this.
"""

import sys
from _thread import get_ident

from streaming_runtime import import_standard, is_standard, standard_library
from streaming_runtime.log import ImportHook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from streaming_runtime.concurrent_log import ConcurrentLog
    from streaming_runtime.invocation import Invocation

VERSION = "0.1.0"

ATTRIBUTE = "_streaming_runtime_request_id"  # of a thread


class InvocationThreads:
    """Follows the start of threads. The calling thread serves the invocations, and belongs to each of them."""

    def __init__(self, log: "ConcurrentLog") -> None:
        self._log = log
        self._serving_thread = get_ident()
        self._threading: Any = None  # until it is imported
        if "threading" in sys.modules:
            self._follow_starts(import_standard("threading"))
        else:
            sys.meta_path.insert(0, ImportHook("threading", self._follow_starts))

    def belongs_to(self, invocation: "Invocation") -> bool:
        """Return whether the calling thread serves the invocation, or was started by it."""
        if get_ident() == self._serving_thread:
            return True
        if self._threading is None:
            return False
        return bool(vars(self._threading.current_thread()).get(ATTRIBUTE) == invocation.request_id)

    def _follow_starts(self, threading: "ModuleType") -> None:
        if not is_standard(threading, standard_library()):  # a module of the function; the standard one can follow
            return
        self._threading = threading
        start = threading.Thread.start
        log = self._log

        def start_with_request_id(thread: "Any") -> None:
            setattr(thread, ATTRIBUTE, log.request_id)
            start(thread)

        threading.Thread.start = start_with_request_id
