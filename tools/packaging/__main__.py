"""The program that `build.sh` runs; also `python3 -m tools.packaging`."""

import sys

import tools.common.early_interrupt  # noqa: F401 - its handler
from tools.packaging.cli import main

sys.exit(main(sys.argv[1:]))
