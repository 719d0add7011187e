"""Reads the files that go into a zip."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.common.errors import ToolError


def shown(path: Path) -> str:
    """Give ``path`` as one would type it at the prompt: relative where it is below the working folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def read(path: Path) -> bytes:
    """Give the bytes of the file at ``path``; raises ``ToolError`` where that cannot be done."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ToolError(f"cannot read {shown(path)}: {error.strerror}") from error


def files_below(folder: Path, ignored: Callable[[str], bool]) -> Iterator[Path]:
    """Walk all files below ``folder`` at any depth, but those whose name, or folder's name, is ``ignored``.

    Raises:
        ToolError: a folder cannot be read, or something is neither a folder nor a regular file. Symbolic
            links are refused because their targets may lie outside, and be missing on AWS Lambda.
    """
    for path in _children(folder):
        if ignored(path.name):
            continue
        if path.is_symlink():
            raise ToolError(f"{shown(path)} is a symbolic link: put a copy of its target in its place")
        if path.is_dir():
            yield from files_below(path, ignored)
        elif path.is_file():
            yield path
        else:
            raise ToolError(f"{shown(path)} is neither a file nor a folder: remove it")


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry) for entry in os.scandir(folder))
    except OSError as error:
        raise ToolError(f"cannot read {shown(folder)}: {error.strerror}") from error
