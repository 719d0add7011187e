"""`python3 -m tools.fleet`, which `build.sh` runs."""

import sys

import tools.common.early_interrupt  # noqa: F401 - its handler
from tools.fleet.cli import run
from tools.fleet.commands.interface import Environment

sys.exit(run(sys.argv[1:], Environment()))
