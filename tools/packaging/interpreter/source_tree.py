"""Reads a CPython as a tree of files: an archive or a folder in the layout of python-build-standalone.

The layout is `bin/python3.X` with `lib/python3.X/` beside `bin`, below any folder (`python/` in the archives called
install_only). See docs/distributions.rst of python-build-standalone.

An archive can be hostile: its paths can lead out of it, and a small archive can unpack to a huge one. So nothing is
written to the disk here, paths are checked, and sizes are added up before contents are read.
"""

import io
import os
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tools.common.errors import ToolError
from tools.common.paths import read, shown
from tools.common.urls import redact
from tools.packaging import PackagingError

_MAX_UNPACKED_BYTES = 2 * 1024**3  # python-build-standalone has a tenth of it
_PIECE_BYTES = 1024 * 1024
_MAX_LINKS = 40  # followed for one path, as in path_resolution(7)


@dataclass(frozen=True)
class Source:
    """All files and links of an archive or a folder; contents are read on demand."""

    name: str
    files: dict[str, Callable[[], bytes]]
    links: dict[str, str]  # to a path of the tree; links that lead out of it are left out


def from_archive(name: str, data: bytes) -> Source:
    """Read the tar archive `data`, compressed or not.

    Args:
        name: of the archive, in errors.

    Raises:
        PackagingError: it is not an archive, damaged or too large; a path leads out of it; or an entry is neither a
            file, a folder nor a link.
    """
    name = redact(name)
    try:
        archive = tarfile.open(fileobj=io.BytesIO(data))  # noqa: SIM115  # its members are read later
        members = list(_members(name, archive))
    except ToolError:
        raise
    except Exception as error:  # of tarfile, and of the decompressors that it calls
        raise PackagingError(
            f"{name} is not a tar archive, or is damaged: use an install_only archive of python-build-standalone"
        ) from error
    files: dict[str, Callable[[], bytes]] = {}
    links: dict[str, str] = {}
    for member in members:
        path = _inside(name, member.name)
        files.pop(path, None)  # the last entry of a name counts
        if member.isfile():
            files[path] = partial(_content, name, archive, member)
        elif member.issym():
            links[path] = _target(path, member.linkname)
        elif member.islnk():
            links[path] = _inside(name, member.linkname)
        elif not member.isdir():
            raise PackagingError(f"{name}: {member.name} is neither a file, a folder nor a link: use another archive")
    return Source(name, files, _within(links))


def from_folder(folder: Path) -> Source:
    """Read the tree below `folder`.

    Raises:
        PackagingError: it cannot be read, is too large, or an entry is neither a file, a folder nor a link.
    """
    files: dict[str, Callable[[], bytes]] = {}
    links: dict[str, str] = {}
    size = 0
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            target = os.readlink(path)
            if os.path.isabs(target):
                target = os.path.relpath(target, path.parent)
            links[name] = _target(name, target)
        elif path.is_file():
            files[name] = partial(read, path)
            size += path.stat().st_size
            _check_size(shown(folder), size)
        else:
            raise PackagingError(f"{shown(path)} is neither a file, a folder nor a link: remove it")
    return Source(shown(folder), files, _within(links))


@dataclass(frozen=True)
class Distribution:
    """The files and links of one CPython, with paths relative to its prefix (such as `lib/python3.13/os.py`)."""

    name: str
    python: str  # such as 3.13
    files: dict[str, Callable[[], bytes]]
    links: dict[str, str]

    @property
    def library(self) -> str:
        """The folder of the standard library."""
        return f"lib/python{self.python}"

    def resolve(self, path: str) -> str | None:
        """Return the file to which `path` leads through links of files or folders; None if there is none."""
        for _ in range(_MAX_LINKS):
            if path in self.files:
                return path
            parts = path.split("/")
            heads = ("/".join(parts[:length]) for length in range(len(parts), 0, -1))
            link = next((head for head in heads if head in self.links), None)
            if link is None:
                return None
            path = posixpath.normpath(self.links[link] + path.removeprefix(link))
        return None


def find(source: Source, python: str) -> Distribution:
    """Return the CPython `python` (such as 3.13) in `source`; raises `PackagingError` if it is not there."""
    landmark = f"lib/python{python}/os.py"
    prefixes = [path.removesuffix(landmark) for path in source.files if _ends(path, landmark)]
    if not prefixes:
        others = sorted({part for path in source.files for part in path.split("/")[:-1] if part.startswith("python3.")})
        found = f" (it contains {', '.join(others)})" if others else ""
        raise PackagingError(
            f"{source.name} contains no CPython {python}: {landmark} is missing{found}; "
            "use an install_only archive of python-build-standalone, or a folder with that layout"
        )
    prefix = min(prefixes, key=lambda prefix: (len(prefix), prefix))
    return Distribution(
        source.name,
        python,
        {path.removeprefix(prefix): read for path, read in source.files.items() if path.startswith(prefix)},
        {
            path.removeprefix(prefix): target.removeprefix(prefix)
            for path, target in source.links.items()
            if path.startswith(prefix) and target.startswith(prefix)
        },
    )


def _ends(path: str, landmark: str) -> bool:
    return path == landmark or path.endswith(f"/{landmark}")


def _inside(name: str, path: str) -> str:
    normal = posixpath.normpath(path)
    if normal.startswith(("/", "../")) or normal == ".." or "\0" in normal:
        raise PackagingError(f"{name}: {path!r} leads out of the archive: do not use it, it may be an attack")
    return normal


def _target(path: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def _within(links: dict[str, str]) -> dict[str, str]:
    return {path: target for path, target in links.items() if not target.startswith(("/", "../")) and target != ".."}


def _members(name: str, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    size = 0
    for member in archive:
        size += member.size
        _check_size(name, size)  # before its content is decompressed to reach the next member
        yield member
    file = archive.fileobj
    assert file is not None  # the archive is open
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("truncated")  # tarfile takes any block that is not a header as the end
    while piece := file.read(_PIECE_BYTES):  # to the end, where the checksum of the compressed data is
        size += len(piece)
        _check_size(name, size)


def _check_size(name: str, size: int) -> None:
    if size > _MAX_UNPACKED_BYTES:
        raise PackagingError(f"{name} has more than {_MAX_UNPACKED_BYTES:,} bytes unpacked: it is more than a CPython")


def _content(name: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    try:
        file = archive.extractfile(member)
        assert file is not None  # the member is a regular file
        return file.read()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise PackagingError(f"{name}: {member.name} cannot be read: {error}") from error


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise PackagingError(f"cannot read {error.filename}: {error.strerror}") from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        yield from (Path(parent, name) for name in sorted([*names, *links]))
