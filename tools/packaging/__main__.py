"""`python3 -m tools.packaging`, which `build.sh` runs."""

import sys

from tools.packaging.cli import main

sys.exit(main(sys.argv[1:]))
