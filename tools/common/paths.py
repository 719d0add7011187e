"""Files and folders of the checkout: names in messages, reading, and writing without half a file."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from tools.common.errors import ToolError

ROOT = Path(__file__).resolve().parents[2]  # the checkout: the folder of build.sh and main.py


def shown(path: Path) -> str:
    """Return `path` as a user would type it: relative if it is below the working folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def read(path: Path) -> bytes:
    """Return the content of the file at `path`.

    Raises:
        ToolError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ToolError(f"cannot read {shown(path)}: {error.strerror}") from error


def files_below(folder: Path, is_ignored: Callable[[str], bool]) -> Iterator[Path]:
    """Yield all files below `folder` at any depth, in the order of their paths.

    Args:
        is_ignored: receives the name of a file or folder; the walk skips those for which it returns True.

    Raises:
        ToolError: a folder cannot be read, or an entry is neither a folder nor a regular file. Symbolic links are
            refused because their targets may lie outside `folder`, and would be missing on AWS Lambda.
    """
    for path in _children(folder):
        if is_ignored(path.name):
            continue
        if path.is_symlink():
            raise ToolError(f"{shown(path)} is a symbolic link: replace it with a copy of its target")
        if path.is_dir():
            yield from files_below(path, is_ignored)
        elif path.is_file():
            yield path
        else:
            raise ToolError(f"{shown(path)} is neither a file nor a folder: remove it")


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry) for entry in os.scandir(folder))
    except OSError as error:
        raise ToolError(f"cannot read {shown(folder)}: {error.strerror}") from error


# --- Atomic writes ----------------------------------------------------------------------------------------------------
#
# A reader, or a run after a power cut, must find the old file or the new one, never a part. So: write a temporary
# file in the same folder (a rename is atomic only within one file system), flush it to the disk (otherwise the rename
# can reach the disk before the content, which leaves an empty file), rename it, and flush the folder, which contains
# the name. Several files cannot be replaced in one step; all are written before the first is renamed, so a full disk or
# a missing permission changes none of them.


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace the file at `path` with `data`; a failure leaves the old file.

    Args:
        mode: the permission bits of the file, whatever the umask.

    Raises:
        ToolError: the file cannot be written.
    """
    write_all_atomically({path: data}, mode)


def write_all_atomically(files: Mapping[Path, bytes], mode: int = 0o644) -> None:
    """Replace each file of `files`, in their order; a failure before the first rename leaves all old files.

    Raises:
        ToolError: a file cannot be written.
    """
    staged: dict[Path, Path] = {}
    path = Path()
    try:
        for path, data in files.items():
            staged[path] = _stage(path, data, mode)
        for path in files:
            if path.is_dir():
                raise ToolError(f"cannot write {shown(path)}: it is a folder; remove it")
        for path in files:
            os.replace(staged[path], path)
            del staged[path]
        for folder in {path.parent for path in files}:
            _flush(folder)
    except OSError as error:
        raise ToolError(f"cannot write {shown(path)}: {error.strerror}") from error
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


def _stage(path: Path, data: bytes, mode: int) -> Path:
    """Write `data` to a temporary file beside `path`, down to the disk, and return its path."""
    name = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
    except BaseException:
        os.unlink(name)
        raise
    return name


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems have no fsync for folders; the files are in place
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
