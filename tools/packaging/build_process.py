"""A build in a process of its own, which a signal can end: it then removes its temporary folders."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def start(sources: Path, arguments: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """Start the build of a checkout. Its standard error ends with the line that says why it failed.

    Args:
        sources: the top folder of the checkout.
        arguments: those of `./build.sh`, without the output folder.
        folder: where the zips are written.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-S", "-X", "utf8", "-m", "tools.packaging", *arguments, "-o", str(folder)],
        env={**os.environ, "PYTHONPATH": str(sources), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
