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
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


@dataclass(frozen=True)
class File:
    """A file in a zip: permission bits, content, and the other fields of its header, by name."""

    mode: int
    data: bytes
    header: Mapping[str, object]

    def __str__(self) -> str:
        return f"{self.mode:04o}  {len(self.data):,} bytes  sha256 {hashlib.sha256(self.data).hexdigest()[:16]}"


@dataclass(frozen=True)
class Zip:
    """The files of a zip by path, in its order, and the number of bytes that are not the content of a file."""

    files: Mapping[str, File]
    other_bytes: int

    @property
    def is_deflated(self) -> bool:
        """Whether its bytes depend on the library that deflated it."""
        return any(file.header["compression"] == "deflated" for file in self.files.values())


def parse(name: str, data: bytes) -> Zip:
    """Return the content of the zip `data`.

    Args:
        name: the name of the zip in errors.

    Raises:
        ToolError: it is not a valid zip, or contains a path twice.
    """
    found: dict[str, File] = {}
    compressed = 0
    with open_zip(data, "download it again", name) as archive:
        for member in archive.members:
            if member.path in found:
                raise ToolError(f"{name} contains {member.path} twice: it is not a zip of this project")
            found[member.path] = File(member.mode or 0, archive.read(member), _header(member.info))
            compressed += member.info.compress_size
    return Zip(found, len(data) - compressed)


def _header(info: zipfile.ZipInfo) -> dict[str, object]:
    return {
        "time": "{:04}-{:02}-{:02} {:02}:{:02}:{:02}".format(*info.date_time),
        "system": info.create_system,
        "attributes": f"{info.external_attr:#x}",
        "internal attributes": info.internal_attr,
        "versions": (info.create_version, info.extract_version),
        "flags": f"{info.flag_bits:#x}",
        "compression": _METHODS.get(info.compress_type, info.compress_type),
        "extra field": info.extra.hex(),
        "comment": info.comment.hex(),
    }


# --- Files ------------------------------------------------------------------------------------------------------------


def differences(given: Zip, rebuilt: Zip) -> list[str]:
    """Return the lines that describe all differences between the files of two zips; none if the files are equal."""
    one, other = given.files, rebuilt.files
    lines: list[str] = []
    different = sorted(path for path in {*one, *other} if _is_different(one.get(path), other.get(path)))
    for path in different[:_MAX_FILES]:
        lines += _difference(path, one.get(path), other.get(path))
    if len(different) > _MAX_FILES:
        lines.append(f"and {len(different) - _MAX_FILES:,} more files")
    return lines


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
    lines = list(_line_differences(given, rebuilt))
    if lines:
        yield from (f"  {line}" for line in _shortened(lines))
        return
    common = min(len(given), len(rebuilt))
    pairs = zip(given, rebuilt, strict=False)
    position = next((place for place, (one, other) in enumerate(pairs) if one != other), common)
    yield f"  the first different byte is at position {position:,}"


def _line_differences(given: bytes, rebuilt: bytes) -> Iterator[str]:
    """Yield the differences between texts; nothing for other files, and for texts with other line ends alone."""
    try:
        old, new = given.decode().splitlines(), rebuilt.decode().splitlines()
    except UnicodeDecodeError:
        return
    yield from difflib.unified_diff(old, new, "zip", "rebuilt", lineterm="", n=1)


def _shortened(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:_MAX_DIFF_LINES]
    if len(lines) > _MAX_DIFF_LINES:
        yield f"and {len(lines) - _MAX_DIFF_LINES:,} more lines"


# --- Headers ----------------------------------------------------------------------------------------------------------


def other_differences(given: Zip, rebuilt: Zip) -> list[str]:
    """Return lines about everything in which zips with equal files differ besides the compressed bytes."""
    lines = list(_header_differences(given.files, rebuilt.files))
    if len(lines) > _MAX_FILES:
        lines[_MAX_FILES:] = [f"and {len(lines) - _MAX_FILES:,} more"]
    if given.other_bytes != rebuilt.other_bytes:
        lines.append(f"bytes that belong to no file: {given.other_bytes:,}, rebuilt: {rebuilt.other_bytes:,}")
    return lines


def _header_differences(given: Mapping[str, File], rebuilt: Mapping[str, File]) -> Iterator[str]:
    for one, other in zip(given, rebuilt, strict=True):
        if one != other:
            yield f"order: {one} is in the place of {other}"
            break
    for path, file in given.items():
        for name, value in file.header.items():
            if value != rebuilt[path].header[name]:
                yield f"{name} of {path}: {value}, rebuilt: {rebuilt[path].header[name]}"
