"""`python3 -m tools.packaging.release`, which `build.sh` runs."""

import sys

from tools.packaging.release.cli import main

sys.exit(main(sys.argv[1:]))
