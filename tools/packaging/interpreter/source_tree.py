"""A CPython to be bundled, as a tree of files: an archive or a folder in the layout of python-build-standalone.

That is ``bin/python3.X`` with ``lib/python3.X/`` beside ``bin``, below any folder (``python/`` in the archives that are
called install_only). See docs/distributions.rst of python-build-standalone.
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
from tools.packaging import PackagingError

# Bytes of all files together; python-build-standalone's have a tenth of it, a bomb or a whole system has more.
_UNPACKED_LIMIT = 2 * 1024**3
_PIECE = 1024 * 1024  # bytes
_MOST_LINKS_IN_A_ROW = 40  # as in path_resolution(7)


@dataclass(frozen=True)
class Source:
    """All names below the top of an archive or a folder; contents are read when they are asked for."""

    name: str
    files: dict[str, Callable[[], bytes]]
    links: dict[str, str]  # to a path of the tree; those that lead out of it are left out


def from_archive(name: str, data: bytes) -> Source:
    """Read the tar archive ``data``, compressed or not; errors call it ``name``.

    Raises:
        PackagingError: it is no archive, damaged, too large, or holds what is neither file, folder nor link, or a
            path that leads out of it.
    """
    try:
        archive = tarfile.open(fileobj=io.BytesIO(data))  # noqa: SIM115  # its members are read later
        members = list(_members(name, archive))
    except ToolError:
        raise
    except Exception as error:  # those of tarfile, and whatever the decompressors raise through it
        raise PackagingError(
            f"{name} is no tar archive, or a damaged one: give an install_only archive of python-build-standalone"
        ) from error
    files: dict[str, Callable[[], bytes]] = {}
    links: dict[str, str] = {}
    for member in members:
        path = _inside(name, member.name)
        files.pop(path, None)  # the last one of a name is meant
        if member.isfile():
            files[path] = partial(_content, name, archive, member)
        elif member.issym():
            links[path] = _target(path, member.linkname)
        elif member.islnk():
            links[path] = _inside(name, member.linkname)
        elif not member.isdir():
            raise PackagingError(f"{name}: {member.name} is neither a file, a folder nor a link: it is no interpreter")
    return Source(name, files, _within(links))


def from_folder(folder: Path) -> Source:
    """Read the tree below ``folder``.

    Raises:
        PackagingError: it cannot be read, is too large, or holds what is neither file, folder nor link.
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
    """The files and links of one CPython, with paths from its prefix on (as in ``lib/python3.13/os.py``)."""

    name: str
    python: str  # as in 3.13
    files: dict[str, Callable[[], bytes]]
    links: dict[str, str]

    @property
    def library(self) -> str:
        """The folder of the standard library."""
        return f"lib/python{self.python}"

    def resolve(self, path: str) -> str | None:
        """Give the file that ``path`` leads to through links, of files or of folders; None where there is none."""
        for _ in range(_MOST_LINKS_IN_A_ROW):
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
    """Find the CPython ``python`` (as in 3.13) in ``source``; raises ``PackagingError`` where it is another or none."""
    landmark = f"lib/python{python}/os.py"
    prefixes = [path.removesuffix(landmark) for path in source.files if _ends(path, landmark)]
    if not prefixes:
        others = sorted({part for path in source.files for part in path.split("/")[:-1] if part.startswith("python3.")})
        found = f" (it has {', '.join(others)})" if others else ""
        raise PackagingError(
            f"{source.name} holds no CPython {python}: {landmark} is missing{found}; "
            "give an install_only archive of python-build-standalone, or a folder like one"
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
        raise PackagingError(f"{name}: {path!r} leads out of the archive: it is no interpreter, and perhaps an attack")
    return normal


def _target(path: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def _within(links: dict[str, str]) -> dict[str, str]:
    return {path: target for path, target in links.items() if not target.startswith(("/", "../")) and target != ".."}


def _members(name: str, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    size = 0
    for member in archive:
        size += member.size
        _check_size(name, size)  # before what it holds is unpacked, to get to the next one
        yield member
    file = archive.fileobj
    assert file is not None  # as it is open
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("cut")  # tarfile takes all that is no header for the end
    while piece := file.read(_PIECE):  # to the checksum behind the compressed data
        size += len(piece)
        _check_size(name, size)


def _check_size(name: str, size: int) -> None:
    if size > _UNPACKED_LIMIT:
        raise PackagingError(f"{name} has more than {_UNPACKED_LIMIT:,} bytes unpacked: it holds more than a CPython")


def _content(name: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    try:
        file = archive.extractfile(member)
        assert file is not None  # as it is a regular one
        return file.read()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise PackagingError(f"{name}: {member.name} cannot be read: {error}") from error


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise PackagingError(f"cannot read {error.filename}: {error.strerror}") from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        yield from (Path(parent, name) for name in sorted([*names, *links]))
