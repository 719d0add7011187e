"""`python3 -m tools.fleet`, which `build.sh` runs."""

import sys

from tools.fleet.cli import main

sys.exit(main(sys.argv[1:]))
