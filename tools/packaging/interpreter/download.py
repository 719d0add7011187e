"""Fetches archives of CPython: the pinned ones into a cache and checked against their hash, others from a given URL."""

import hashlib
import os
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tools.common.errors import ToolError
from tools.common.paths import read, write_atomically
from tools.common.urls import redact, without_secrets
from tools.packaging import PackagingError
from tools.packaging.manifest import FILE_NAME, Pin

_TIMEOUT = 30.0  # seconds without a byte
MAX_BYTES = 512 * 1024**2  # archives of python-build-standalone have about 35 MB
_PIECE_BYTES = 1024 * 1024
_SCHEMES = ("https", "http", "file")


def pinned(pin: Pin) -> bytes:
    """Return the archive of `pin`, from the cache if it is there.

    The cache is `python-streaming-runtime` in `$XDG_CACHE_HOME` or `~/.cache`. Its files are checked like downloads.

    Raises:
        ToolError: the archive cannot be fetched or stored, or has another hash than the manifest pins.
    """
    cached = _cache() / f"{pin.sha256[:16]}-{_file_name(pin.url)}"
    if cached.is_file():
        data = read(cached)
        if hashlib.sha256(data).hexdigest() == pin.sha256:
            return data
    data = from_url(pin.url)
    check(pin.url, data, pin.sha256, f"{FILE_NAME} pins")
    _store(cached, data)
    return data


def check(name: str, data: bytes, sha256: str, expected_by: str) -> None:
    """Raise `PackagingError` if `data` has another hash than `sha256`.

    Args:
        expected_by: the words before the expected hash in the error, such as "--sha256 is".
    """
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise PackagingError(
            f"{redact(name)} has the sha256 {found}, {expected_by} {sha256}: it is damaged or another file; "
            "find out which before you use it"
        )


def is_url(text: str) -> bool:
    """Return whether `text` is a URL and not the path of a file."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.lower() in _SCHEMES


def from_url(url: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Fetch `url` (https, http or file) through the proxies of the environment; show the progress on a terminal.

    Raises:
        PackagingError: it cannot be fetched, or has more than `max_bytes`.
    """
    # Here, because reading them takes longer than most other parts of a build, which downloads nothing.
    import http.client
    import urllib.error
    import urllib.request

    name = without_secrets(url)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            return b"".join(_pieces(name, response, response.headers.get("Content-Length", ""), max_bytes))
    except urllib.error.HTTPError as error:
        raise PackagingError(f"cannot fetch {name}: status {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise PackagingError(f"cannot fetch {name}: {redact(_reason(error.reason))}; {NEXT_STEP}") from error
    except http.client.IncompleteRead as error:
        raise PackagingError(f"cannot fetch {name}: the connection ended too early; {NEXT_STEP}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise PackagingError(f"cannot fetch {name}: {redact(_reason(error))}; {NEXT_STEP}") from error


NEXT_STEP = "try again, or fetch it another way and use --interpreter"


def _reason(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _pieces(name: str, response: IO[bytes], length: str, max_bytes: int) -> Iterator[bytes]:
    total = int(length) if length.isdecimal() else None
    size = 0
    with _progress(_file_name(name), total) as show:
        while piece := response.read(_PIECE_BYTES):
            size += len(piece)
            if size > max_bytes:
                raise PackagingError(f"{name} has more than {max_bytes:,} bytes: it is not an archive of CPython")
            show(size)
            yield piece
    if total is not None and size < total:
        raise PackagingError(
            f"cannot fetch {name}: the connection ended after {size:,} of {total:,} bytes; {NEXT_STEP}"
        )


class _Progress:
    """One line on a terminal, which is cleared at the end; nothing elsewhere."""

    def __init__(self, name: str, total: int | None) -> None:
        self._name = name
        self._total = f" of {total / 1e6:.1f}" if total else ""
        self._shown = sys.stderr.isatty()

    def __call__(self, size: int) -> None:
        if self._shown:
            print(
                f"\r\x1b[Kfetching {self._name}: {size / 1e6:.1f}{self._total} MB", end="", file=sys.stderr, flush=True
            )

    def clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def _progress(name: str, total: int | None) -> Iterator[_Progress]:
    progress = _Progress(name, total)
    try:
        yield progress
    finally:
        progress.clear()


def _file_name(url: str) -> str:
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2]


def _cache() -> Path:
    # XDG Base Directory Specification, "Environment variables": an empty or relative value must be ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache"), "python-streaming-runtime")


def _store(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except (OSError, ToolError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PackagingError(
            f"cannot write to the cache {path.parent}: {reason}; set XDG_CACHE_HOME to another folder"
        ) from error
