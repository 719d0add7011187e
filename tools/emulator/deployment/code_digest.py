"""Size, hash and date of the code of a function or of a layer, as the Lambda API returns them."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
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


def digest_of(source: Path) -> Digest:
    """The digest of a zip file or a folder, without bytecode. Files that vanish meanwhile are left out."""
    size, modified, content = 0, 0.0, hashlib.sha256()
    for path in [source] if source.is_file() else sorted(files_in(source)):
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


def files_in(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (path for name in names if (path := Path(where, name)).is_file())
