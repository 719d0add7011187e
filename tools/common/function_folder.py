"""Which files of a function's folder a zip of it contains: `./build.sh function` and local runs share the rule."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

MAX_LEFT_OUT = 10  # names in a message


class NotInZip(NamedTuple):
    """Sorted paths, relative to the function's folder.

    Attributes:
        left_out: what the zip does not contain although somebody may need it: hidden files and folders, and bytecode
            without its source. Python compiles other bytecode again.
        links: symbolic links, which the zip build refuses.
    """

    left_out: list[str]
    links: list[str]


def is_ignored(name: str) -> bool:
    """Whether zips leave out a file or folder with this name: it is hidden, or bytecode."""
    return name.startswith(".") or name == "__pycache__" or name.endswith(".pyc")


def compare_with_zip(folder: Path) -> NotInZip:
    """Return what is in the folder, but not in a zip of it. Folders that cannot be read are skipped."""
    found = NotInZip([], [])
    _compare(str(folder), "", found)
    return NotInZip(sorted(found.left_out), sorted(found.links))


def _compare(folder: str, prefix: str, found: NotInZip) -> None:
    entries = list(entries_of(folder))
    names = {entry.name for entry in entries}
    for entry in entries:
        path = prefix + entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name.startswith("."):
            found.left_out.append(f"{path}/" if is_folder else path)
        elif is_ignored(entry.name):
            if not is_folder and _lacks_source(entry.name, names):
                found.left_out.append(path)
        elif entry.is_symlink():
            found.links.append(path)
        elif is_folder:
            _compare(entry.path, f"{path}/", found)


def entries_of(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield the content of a folder; nothing if it cannot be read, or was removed meanwhile."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:
        return


def _lacks_source(name: str, names: Collection[str]) -> bool:
    return name.endswith(".pyc") and name.removesuffix("c") not in names
