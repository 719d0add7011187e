"""`python3 -m tools.mutation`."""

import sys

from tools.mutation.cli import main

sys.exit(main(sys.argv[1:]))
