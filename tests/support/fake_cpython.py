"""Small CPythons in the layout of python-build-standalone.

A test chooses what the ELF headers of their programs state: the machine, the needed libraries, and the glibc.
"""

from __future__ import annotations

import io
import os
import platform
import posixpath
import struct
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VERSION = "{}.{}".format(*sys.version_info)
PATCH = f"{VERSION}.99"  # this release does not exist, so its number cannot come from the running Python
LIBRARY = f"lib/python{VERSION}"
PROGRAM = f"bin/python{VERSION}"

X86_64, ARM64 = 62, 183  # EM_X86_64 and EM_AARCH64 of elf.h
LOADERS = {X86_64: "/lib64/ld-linux-x86-64.so.2", ARM64: "/lib/ld-linux-aarch64.so.1"}
HERE = {"x86_64": X86_64, "aarch64": ARM64}.get(platform.machine(), 0)
ELSEWHERE = ARM64 if HERE == X86_64 else X86_64
NAMES = {X86_64: "x86_64", ARM64: "arm64"}

_BASE = 0x400000  # the address to which the whole file is mapped
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH, _DT_VERNEED = 1, 5, 15, 29, 0x6FFFFFFE


def elf(
    machine: int = X86_64,
    loader: str | None = None,
    needed: Sequence[str] = (),
    rpath: str | None = None,
    runpath: str | None = None,
    versions: Mapping[str, Sequence[str]] | None = None,
    code: bytes = b"",
    data: bytes = b"",
) -> bytes:
    """Return an ELF program or library.

    Args:
        versions: the symbol versions that it needs, by library.
        code: the machine code at its entry point.
    """
    strings = _Strings()
    dynamic = [(_DT_NEEDED, strings.add(name)) for name in needed]
    dynamic += [(_DT_RPATH, strings.add(rpath))] if rpath is not None else []
    dynamic += [(_DT_RUNPATH, strings.add(runpath))] if runpath is not None else []
    need = _version_needs(versions or {}, strings)
    interpreter = loader.encode() + b"\0" if loader else b""
    count = 1 + bool(loader) + bool(dynamic or need)
    places, end = {}, 64 + 56 * count
    parts = {"interpreter": interpreter, "need": need, "strings": strings.data, "code": code, "data": data}
    for name, part in parts.items():
        places[name], end = end, end + len(part)
    dynamic += [(_DT_VERNEED, _BASE + places["need"])] if need else []
    dynamic += [(_DT_STRTAB, _BASE + places["strings"]), (0, 0)]
    table = b"".join(struct.pack("<QQ", *entry) for entry in dynamic)
    header = b"\x7fELF\2\1\1".ljust(16, b"\0")
    entry = _BASE + places["code"]
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, entry, 64, 0, 0, 64, 56, count, 64, 0, 0)
    segments = _segment(_PT_LOAD, 0, end + len(table))
    segments += _segment(_PT_INTERP, places["interpreter"], len(interpreter)) if loader else b""
    segments += _segment(_PT_DYNAMIC, end, len(table)) if count - bool(loader) == 2 else b""
    return b"".join((header, segments, *parts.values(), table))


class _Strings:
    def __init__(self) -> None:
        self.data = b"\0"

    def add(self, text: str) -> int:
        place = len(self.data)
        self.data += text.encode() + b"\0"
        return place


def _segment(kind: int, offset: int, size: int) -> bytes:
    flags = 5  # readable, executable
    return struct.pack("<IIQQQQQQ", kind, flags, offset, _BASE + offset, _BASE + offset, size, size, 1)


def _version_needs(versions: Mapping[str, Sequence[str]], strings: _Strings) -> bytes:
    records = b""
    for number, (library, wanted) in enumerate(versions.items(), 1):
        size = 16 + 16 * len(wanted)
        following = size if number < len(versions) else 0
        records += struct.pack("<HHIII", 1, len(wanted), strings.add(library), 16, following)
        for place, version in enumerate(wanted, 1):
            records += struct.pack("<IHHII", 0, 0, 2, strings.add(version), 16 if place < len(wanted) else 0)
    return records


def program(machine: int = HERE, glibc: str = "2.17", **options: Any) -> bytes:
    """Return an interpreter that is linked like that of python-build-standalone. It does not run."""
    linked = {"loader": LOADERS[machine], "needed": ("libc.so.6", "libm.so.6"), "data": f"\0{PATCH}\0".encode()}
    return elf(machine, **{"versions": {"libc.so.6": ("GLIBC_2.2.5", f"GLIBC_{glibc}")}, **linked, **options})


def module(machine: int = HERE, needed: str = "libc.so.6", **options: Any) -> bytes:
    """Return an extension module, or another shared library."""
    return elf(machine, needed=(needed,), **options)


def launcher(path: Path | str) -> bytes:
    """Return an interpreter for x86_64 that runs: it replaces itself by the one at `path` (execve(2))."""
    code = bytes.fromhex(
        "b83b000000"  # mov eax, 59 (execve)
        "488d3d14000000"  # lea rdi, [rip + 20] (the path, which follows the code)
        "488d742408"  # lea rsi, [rsp + 8] (argv)
        "48893e"  # mov [rsi], rdi
        "488b1424"  # mov rdx, [rsp] (argc)
        "488d54d410"  # lea rdx, [rsp + rdx * 8 + 16] (envp)
        "0f05"  # syscall
        "cc"  # int3, if execve fails
    )
    return elf(X86_64, code=code + os.fsencode(path) + b"\0", data=f"\0{PATCH}\0".encode())


class Link(str):
    """The target of a symbolic link."""


class HardLink(str):
    """The target of a hard link, relative to the prefix."""


def cpython(files: Mapping[str, bytes | Link | HardLink | None] | None = None, **options: Any) -> dict[str, Any]:
    """Return the files of a CPython, by path relative to the prefix.

    Args:
        files: added, or in place of a file of the same path; None removes the file.
        options: those of `program`.
    """
    own = {
        PROGRAM: program(**options),
        "bin/python3": Link(PROGRAM.removeprefix("bin/")),
        "bin/python": Link(PROGRAM.removeprefix("bin/")),
        f"{LIBRARY}/os.py": b"name = 'posix'\n",
        f"{LIBRARY}/encodings/__init__.py": b"def search(name):\n    return lambda: name\n",
    }
    return {path: content for path, content in {**own, **(files or {})}.items() if content is not None}


def archive(tree: Mapping[str, Any], top: str = "python", kind: str = "gz", *extra: tarfile.TarInfo) -> bytes:
    """Return a tar archive of `tree`, below the folder `top`; `extra` members have no content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as file:
        file.addfile(_folder(top))
        for path, content in sorted(tree.items(), key=lambda item: isinstance(item[1], HardLink)):
            file.addfile(*_member(posixpath.join(top, path), content, top))
        for info in extra:
            header = info.tobuf(tarfile.GNU_FORMAT)  # addfile() would expect the content that the header announces
            file.fileobj.write(header)
            file.offset += len(header)
    return buffer.getvalue()


def unpack(tree: Mapping[str, Any], folder: Path) -> Path:
    """Write `tree` to `folder`."""
    for path, content in tree.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            (folder / path).symlink_to(content)
        else:
            (folder / path).write_bytes(content)
            (folder / path).chmod(0o755 if path.startswith("bin/") else 0o644)
    return folder


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    """Return a member of an archive that has no content, even if its header states a size."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def _folder(name: str) -> tarfile.TarInfo:
    return member(name, tarfile.DIRTYPE, mode=0o755)


def _member(name: str, content: bytes | Link | HardLink, top: str) -> tuple[tarfile.TarInfo, io.BytesIO]:
    match content:
        case Link():
            return member(name, tarfile.SYMTYPE, linkname=content), io.BytesIO()
        case HardLink():
            return member(name, tarfile.LNKTYPE, linkname=posixpath.join(top, content)), io.BytesIO()
    return member(name, size=len(content), mode=0o755 if "/bin/" in name else 0o644), io.BytesIO(content)
