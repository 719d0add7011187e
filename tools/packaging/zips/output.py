"""The output folder: the zips, their `SHA256SUMS`, and `INTERPRETERS`, which lists the Pythons that made them."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from tools.common.paths import read, shown, write_all_atomically
from tools.packaging import PackagingError

SUMS_NAME = "SHA256SUMS"
INTERPRETERS_NAME = "INTERPRETERS"


def checksums(folder: Path, new: Mapping[str, bytes]) -> bytes:
    """Return the `SHA256SUMS` of `folder` with the `new` zips in it, in the format of `sha256sum`."""
    kept = [path for path in folder.glob("*.zip") if path.is_file() and path.name not in new]
    contents = {path.name: read(path) for path in kept} | dict(new)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def interpreters(folder: Path, new: Mapping[str, bytes], record: bytes) -> bytes:
    """Return the `INTERPRETERS` of `folder` with the `new` zips in it; `record` contains the lines about these."""
    path = folder / INTERPRETERS_NAME
    lines = read(path).splitlines(keepends=True) if path.is_file() else []
    named = ((os.fsdecode(line.partition(b" ")[0]), line) for line in lines)
    kept = [line for name, line in named if name not in new and (folder / name).is_file()]
    return b"".join(sorted([*kept, *record.splitlines(keepends=True)]))


def write(folder: Path, zips: Mapping[str, bytes], record: bytes) -> None:
    """Write the `zips` and the two lists into `folder`, readable by all whatever the umask.

    Each file is replaced in one step. `SHA256SUMS` comes last: if the process is killed between two files,
    `sha256sum -c` reports the difference.

    Raises:
        ToolError: a file cannot be written; `folder` is unchanged unless the failure is in a rename.
    """
    made_with = interpreters(folder, zips, record)
    files = {**zips, INTERPRETERS_NAME: made_with, SUMS_NAME: checksums(folder, zips)}
    write_files(folder, {name: data for name, data in files.items() if data})
    if not made_with:
        (folder / INTERPRETERS_NAME).unlink(missing_ok=True)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files`, by name, into `folder`, in their order; raises as `write`, and then leaves no new folder."""
    exists = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PackagingError(f"cannot create the folder {shown(folder)}: {error.strerror}") from error
    try:
        write_all_atomically({folder / name: data for name, data in files.items()})
    finally:
        if not exists and not any(folder.iterdir()):
            folder.rmdir()
