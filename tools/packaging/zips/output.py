"""The output folder: the zips, their ``SHA256SUMS``, and ``INTERPRETERS``, which tells what they were made with."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools.common.paths import read, shown
from tools.packaging import PackagingError

SUMS_NAME = "SHA256SUMS"
INTERPRETERS_NAME = "INTERPRETERS"


def checksums(folder: Path, new: Mapping[str, bytes]) -> bytes:
    """Give the ``SHA256SUMS`` of ``folder`` once the ``new`` zips are in it, as ``sha256sum`` writes it."""
    kept = [path for path in folder.glob("*.zip") if path.is_file() and path.name not in new]
    contents = {path.name: read(path) for path in kept} | dict(new)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def interpreters(folder: Path, new: Mapping[str, bytes], record: bytes) -> bytes:
    """Give the ``INTERPRETERS`` of ``folder`` once the ``new`` zips are in it; ``record`` has the lines about these."""
    path = folder / INTERPRETERS_NAME
    lines = read(path).splitlines(keepends=True) if path.is_file() else []
    named = ((os.fsdecode(line.partition(b" ")[0]), line) for line in lines)
    kept = [line for name, line in named if name not in new and (folder / name).is_file()]
    return b"".join(sorted([*kept, *record.splitlines(keepends=True)]))


def write(folder: Path, zips: Mapping[str, bytes], record: bytes) -> None:
    """Put the ``zips`` and what is told of them into ``folder``, readable by all whatever the umask.

    Raises:
        PackagingError: that cannot be done; ``folder`` is left as it was.
    """
    told = {SUMS_NAME: checksums(folder, zips), INTERPRETERS_NAME: interpreters(folder, zips, record)}
    files = {**zips, **told}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder, so on the same file system: a rename there cannot leave half a file.
        with tempfile.TemporaryDirectory(prefix=".dist-", dir=folder.parent) as staging:
            _stage(Path(staging), files)
            _move(Path(staging), folder, files)
    except OSError as error:
        raise PackagingError(f"cannot write to {shown(folder)}: {error.strerror}") from error


def _stage(staging: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (staging / name).write_bytes(data)
        (staging / name).chmod(0o644)


def _move(staging: Path, folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name in files:
        if (folder / name).is_dir():
            raise PackagingError(f"{shown(folder / name)} is a folder where a file has to go: remove it")
    for name, data in files.items():
        if data:
            os.replace(staging / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
