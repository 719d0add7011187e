"""Size, hash and date of the code of a function or of a layer, as the Lambda API returns them."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Digest(NamedTuple):
    """
    Args:
        size: bytes; of a folder, the sum of its files.
        sha256: in base64; of a folder, over the names and contents of its files.
        modified: seconds since 1970.
    """

    size: int
    sha256: str
    modified: float


def is_bytecode_folder(name: str) -> bool:
    return name == "__pycache__"


def digest_of(source: Path, is_ignored: Callable[[str], bool] = is_bytecode_folder) -> Digest:
    """Return the digest of a zip file or a folder. Files that vanish meanwhile are left out.

    Args:
        is_ignored: receives the name of a file or folder, and returns whether to leave it out.
    """
    size, modified, content = 0, 0.0, hashlib.sha256()
    for path in [source] if source.is_file() else sorted(files_in(source, is_ignored)):
        try:
            data = path.read_bytes()
            modified = max(modified, path.stat().st_mtime)
        except OSError:
            continue
        size += len(data)
        if path != source:
            content.update(f"{path.relative_to(source)}\0{len(data)}\0".encode("utf-8", "surrogateescape"))
        content.update(data)
    return Digest(size, base64.b64encode(content.digest()).decode(), modified)


def files_in(folder: Path, is_ignored: Callable[[str], bool]) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_ignored(name)]
        yield from (path for name in names if not is_ignored(name) and (path := Path(where, name)).is_file())
