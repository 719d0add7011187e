"""The program that `build.sh` runs; also `python3 -m tools.fleet`."""

import sys

import tools.common.early_interrupt  # noqa: F401 - its handler
from tools.fleet.cli import run
from tools.fleet.commands.interface import Environment

sys.exit(run(sys.argv[1:], Environment()))
