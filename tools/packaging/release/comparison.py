"""Compares a zip with the one that was built again, file by file, in lines that people can read."""

import difflib
import hashlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tools.common.archives import open_zip
from tools.common.errors import ToolError

_MAX_DIFF_LINES = 20  # of one file
_MAX_FILES = 20  # files whose difference is shown


@dataclass(frozen=True)
class File:
    """A file in a zip: permission bits, content, and the other fields of its header."""

    mode: int
    data: bytes
    header: tuple[object, ...]

    def __str__(self) -> str:
        return f"{self.mode:04o}  {len(self.data):,} bytes  sha256 {hashlib.sha256(self.data).hexdigest()[:16]}"


def files(name: str, data: bytes) -> dict[str, File]:
    """Return the files of the zip `data`, in the order of the zip.

    Args:
        name: the name of the zip in errors.

    Raises:
        ToolError: it is not a valid zip, or contains a path twice.
    """
    found: dict[str, File] = {}
    with open_zip(data, "download it again", name) as archive:
        for member in archive.members:
            if member.path in found:
                raise ToolError(f"{name} contains {member.path} twice: it is not a zip of this project")
            found[member.path] = File(member.mode or 0, archive.read(member), _header(member.info))
    return found


def _header(info: zipfile.ZipInfo) -> tuple[object, ...]:
    return info.date_time, info.create_system, info.external_attr, info.compress_type, info.extra, info.comment


def differences(given: Mapping[str, File], rebuilt: Mapping[str, File]) -> list[str]:
    """Return the lines that describe all differences between the files of two zips; none if the files are equal."""
    lines: list[str] = []
    different = sorted(path for path in {*given, *rebuilt} if _is_different(given.get(path), rebuilt.get(path)))
    for path in different[:_MAX_FILES]:
        lines += _difference(path, given.get(path), rebuilt.get(path))
    if len(different) > _MAX_FILES:
        lines.append(f"and {len(different) - _MAX_FILES:,} more files")
    return lines


def has_equal_headers(given: Mapping[str, File], rebuilt: Mapping[str, File]) -> bool:
    """Return whether order, times and attributes are equal, so that only the compressed bytes can differ."""
    return [(path, file.header) for path, file in given.items()] == [
        (path, file.header) for path, file in rebuilt.items()
    ]


def _is_different(one: File | None, other: File | None) -> bool:
    return one is None or other is None or (one.mode, one.data) != (other.mode, other.data)


def _difference(path: str, given: File | None, rebuilt: File | None) -> Iterator[str]:
    if given is None:
        yield f"missing    {path}  (rebuilt: {rebuilt})"
    elif rebuilt is None:
        yield f"additional {path}  ({given})"
    else:
        yield f"different  {path}"
        yield f"  zip      {given}"
        yield f"  rebuilt  {rebuilt}"
        if given.data != rebuilt.data:
            yield from _content_difference(given.data, rebuilt.data)


def _content_difference(given: bytes, rebuilt: bytes) -> Iterator[str]:
    try:
        old, new = given.decode().splitlines(), rebuilt.decode().splitlines()
    except UnicodeDecodeError:
        pairs = zip(given, rebuilt, strict=False)
        common = min(len(given), len(rebuilt))
        position = next((place for place, (one, other) in enumerate(pairs) if one != other), common)
        yield f"  the first different byte is at position {position:,}"
        return
    lines = list(difflib.unified_diff(old, new, "zip", "rebuilt", lineterm="", n=1))
    yield from (f"  {line}" for line in _shortened(lines))


def _shortened(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:_MAX_DIFF_LINES]
    if len(lines) > _MAX_DIFF_LINES:
        yield f"and {len(lines) - _MAX_DIFF_LINES:,} more lines"
