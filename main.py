#!/usr/bin/env python3
"""Run the streaming function locally, without AWS: `python3 main.py`, or `python3 main.py --serve`."""

from __future__ import annotations

import os
import sys

# What `python3 main.py` sends to the function: edit it, or give another one with --event.
event = {"sentence": "Streaming a response word by word from AWS Lambda"}

if sys.version_info < (3, 11):  # noqa: UP036 - an older Python is to be told so, whatever the project says
    sys.exit(f"main.py: needs Python 3.11 or newer; this is Python {sys.version.split()[0]}")

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # also where PYTHONSAFEPATH is set
    sys.dont_write_bytecode = True  # the folders of the checkout hold what is in git, and nothing else
    from tools.emulator.cli import main

    sys.exit(main(sys.argv[1:], event))
