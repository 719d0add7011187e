"""The output folder: the zips, their ``SHA256SUMS``, and ``INTERPRETERS``, the ones that made the bytecode in them."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools.packaging import PackagingError
from tools.packaging.sources import read, shown

SUMS_NAME = "SHA256SUMS"
INTERPRETERS_NAME = "INTERPRETERS"


def checksums(folder: Path, new: Mapping[str, bytes]) -> bytes:
    """Give the ``SHA256SUMS`` of ``folder`` once the ``new`` zips are in it, as ``sha256sum`` writes it."""
    kept = [path for path in folder.glob("*.zip") if path.is_file() and path.name not in new]
    contents = {path.name: read(path) for path in kept} | dict(new)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def write(folder: Path, zips: Mapping[str, bytes], notes: Mapping[str, bytes]) -> None:
    """Put the ``zips``, a fresh ``SHA256SUMS`` and the ``notes`` into ``folder``, readable by all whatever the umask.

    An empty note takes away the one of an earlier build.

    Raises:
        PackagingError: that cannot be done; ``folder`` is left as it was.
    """
    files = {**zips, **notes, SUMS_NAME: checksums(folder, zips)}
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
