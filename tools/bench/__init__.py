"""Measures the built layer beside awslambdaric, AWS's own client, and beside a client in C: `python3 -m tools.bench`.

Only ratios of runs that take turns are worth comparing between machines; all else is told with the machine it was
measured on.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent


class BenchError(Exception):
    """Something cannot be measured; the text is one line that names the cause."""
