"""The lines of source code for stack traces, without `traceback` and `linecache`.

Their import takes longer than the rest of the first error: on 3.14 it loads forty modules. They also import `tokenize`
and `re` by name, and so a function's own module of that name. What this module returns is what `linecache` returns.

A file name comes from the function: `compile` accepts any text, such as the path of a pipe. Only a regular file of a
limited size is read.
"""

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

VERSION = "0.1.0"

MAX_SOURCE_BYTES = 16 * 1024 * 1024
_FILE_TYPE, _REGULAR_FILE = 0o170000, 0o100000  # of `st_mode`, see inode(7)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SourceLines:
    """Finds lines, and reads each file once."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = {}

    def line(self, frame: "FrameType", number: int) -> str:
        """Return a line of the frame's source without white space around it; empty if there is no source."""
        name = frame.f_code.co_filename
        if name not in self._files:
            try:
                self._files[name] = _read_lines(name, frame)
            except Exception:  # an encoding, or the loader of a module, can raise anything
                self._files[name] = []
        lines = self._files[name]
        return lines[number - 1].strip() if 0 < number <= len(lines) else ""


def _read_lines(name: str, frame: "FrameType") -> "list[str]":
    if not (name.startswith("<") and name.endswith(">")):
        folders = [] if name.startswith("/") else [path for path in sys.path if isinstance(path, str)]
        for path in (name, *(f"{folder}/{name}" for folder in folders)):
            data = _read_file(path)
            if data is not None:
                return _split(decode(data))
    return _lines_of_cache(name) or _lines_of_loader(name, frame)


def _read_file(path: str) -> "bytes | None":
    """Return the content of a regular file; None if there is none."""
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    try:
        status = posix.fstat(descriptor)
        if status.st_mode & _FILE_TYPE != _REGULAR_FILE or status.st_size > MAX_SOURCE_BYTES:
            return None
        parts = []
        while part := posix.read(descriptor, 1024 * 1024):
            parts.append(part)
        return b"".join(parts)
    finally:
        posix.close(descriptor)


def _lines_of_cache(name: str) -> "list[str]":
    """Return the lines of generated code, which libraries such as attrs enter into the cache of `linecache`."""
    linecache = sys.modules.get("linecache")
    entry: Any = getattr(linecache, "cache", {}).get(name, ())
    return list(entry[2]) if len(entry) == 4 else []


def _lines_of_loader(name: str, frame: "FrameType") -> "list[str]":
    """Return the lines of a module that is not a file, such as one in a zip on `sys.path`."""
    variables = frame.f_globals
    if variables.get("__file__") != name:  # code that `exec` has run in the variables of a module
        return []
    spec = variables.get("__spec__")
    loader = getattr(spec, "loader", None) or variables.get("__loader__")
    module = getattr(spec, "name", None) or variables.get("__name__")
    source = loader.get_source(module) if loader is not None and hasattr(loader, "get_source") and module else None
    return _split(source) if source else []


def _split(text: str) -> "list[str]":
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def decode(data: bytes) -> str:
    """Return Python source as text; its encoding is declared in one of the first two lines (PEP 263), or is UTF-8."""
    data = data.removeprefix(_BYTE_ORDER_MARK)
    for line in data.split(b"\n", 2)[:2]:
        comment = line.lstrip(b" \t\f")
        if comment.startswith(b"#"):
            encoding = _declared_encoding(comment)
            if encoding:
                return data.decode(encoding, "replace")
        elif comment.strip():  # a statement: the second line does not count
            break
    return data.decode("utf-8", "replace")


def _declared_encoding(comment: bytes) -> str:
    """Return what matches `coding[:=][ \\t]*([-\\w.]+)` in a comment; empty if nothing does."""
    for part in comment.decode("latin-1").split("coding")[1:]:
        if part[:1] in (":", "="):
            rest = part[1:].lstrip(" \t")
            length = next((i for i, c in enumerate(rest) if not (c.isalnum() or c in "-_.")), len(rest))
            if length:
                return rest[:length]
    return ""
