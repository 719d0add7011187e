"""``python3 -m tools.fleet``, which ``build.sh`` runs."""

import sys

try:
    from tools.fleet.cli import main  # boto3 takes its time to be imported
except KeyboardInterrupt:
    sys.exit(130)
sys.exit(main(sys.argv[1:]))
