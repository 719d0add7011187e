"""Ctrl-C before the command of a program runs: imported first by each `__main__`, this ends the process quietly.

Python's own handler raises KeyboardInterrupt, which ends an import with a traceback. Nothing has to be cleaned up yet.
`tools.common.cli.run` and `tools.common.signals` replace the handler.
"""

# Parts of the interpreter: the time to import `signal` and `os` would be such a time.
import _signal  # type: ignore[import-not-found]
import posix

INTERRUPTED = 130

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # not where it is ignored
    _signal.signal(_signal.SIGINT, lambda *_: posix._exit(INTERRUPTED))
