"""`python3 -m tools.fleet`, which `build.sh` runs."""

import sys

from tools.fleet.cli import run
from tools.fleet.commands.interface import Environment

sys.exit(run(sys.argv[1:], Environment()))
