#!/usr/bin/env python3
"""Run the streaming function locally, without AWS: `python3 main.py`, or `python3 main.py --serve`."""

import os
import sys

# The event that `python3 main.py` sends to the function. Edit it, or use another one with --event.
event = {"sentence": "Streaming a response word by word from AWS Lambda"}

# Every Python must be able to parse this file, Python 2 too: an old one prints this sentence instead of a SyntaxError.
if sys.version_info < (3, 11):  # noqa: UP036 - this is the check that makes the minimum version true
    sys.exit("main.py: error: needs Python 3.11 or newer; this is Python " + sys.version.split()[0])

if __name__ == "__main__":
    # Until `main` receives signals, Ctrl-C ends the process. Python's own handler raises KeyboardInterrupt, which an
    # import can lose. `_signal` is part of the interpreter: the time to import `signal` would be such a time.
    import _signal  # type: ignore[import-not-found]

    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # PYTHONSAFEPATH removes it
    sys.dont_write_bytecode = True  # a run leaves no files in the checkout
    from tools.emulator.cli import main

    sys.exit(main(sys.argv[1:], event))
