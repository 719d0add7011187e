"""Which files of a function's folder a zip of it contains: `./build.sh function` and local runs share the rule."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

MAX_LEFT_OUT = 10  # names in a message


def is_ignored(name: str) -> bool:
    """Whether zips leave out a file or folder with this name: it is hidden, or bytecode."""
    return name.startswith(".") or name == "__pycache__" or name.endswith(".pyc")


def left_out(folder: Path) -> list[str]:
    """Return what the zip does not contain although somebody may need it, sorted: hidden files and folders, and
    bytecode without its source. Python compiles other bytecode again.
    """
    found = []
    for where, folders, names in os.walk(folder):
        place = Path(where).relative_to(folder)
        found += [f"{(place / name).as_posix()}/" for name in folders if name.startswith(".")]
        folders[:] = [name for name in folders if not is_ignored(name)]
        found += [(place / name).as_posix() for name in names if name.startswith(".") or _lacks_source(name, names)]
    return sorted(found)


def _lacks_source(name: str, names: Collection[str]) -> bool:
    return name.endswith(".pyc") and name.removesuffix("c") not in names
