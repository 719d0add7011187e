"""Fetches interpreters: the pinned ones into a cache, checked against their hash, others from where the user says."""

import hashlib
import http.client
import os
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tools.common.paths import read, shown
from tools.packaging import PackagingError
from tools.packaging.manifest import FILE_NAME, Pin

_TIMEOUT = 30.0  # seconds without a byte
_LARGEST = 512 * 1024**2  # bytes; python-build-standalone's archives have a fifteenth of it
_PIECE = 1024 * 1024  # bytes
_SCHEMES = ("https", "http", "file")


def pinned(pin: Pin) -> bytes:
    """Give the archive of ``pin``, from the cache where it is there.

    The cache is ``python-streaming-runtime`` in ``$XDG_CACHE_HOME`` or ``~/.cache``, and is not trusted.

    Raises:
        PackagingError: it cannot be fetched or kept, or has not the hash that the manifest pins.
    """
    kept = _cache() / f"{pin.sha256[:16]}-{_file_name(pin.url)}"
    if kept.is_file():
        data = read(kept)
        if hashlib.sha256(data).hexdigest() == pin.sha256:
            return data
    data = from_url(pin.url)
    check(pin.url, data, pin.sha256, f"{FILE_NAME} pins")
    _keep(kept, data)
    return data


def check(name: str, data: bytes, sha256: str, who: str) -> None:
    """Refuse, with ``PackagingError``, ``data`` that has another hash than ``who`` says."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise PackagingError(
            f"{name} has the sha256 {found}, {who} {sha256}: it was damaged on the way, or is not what was meant; "
            "do not use it before you know which"
        )


def is_url(text: str) -> bool:
    """Tell a URL from the path of a file."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.lower() in _SCHEMES


def without_secrets(url: str) -> str:
    """Give ``url`` as it may be written down: without user, password, and a query, which may hold a signature."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def from_url(url: str) -> bytes:
    """Fetch ``url`` (https, http or file), with the proxies of the environment; a terminal is shown the progress.

    Raises:
        PackagingError: that cannot be done, or it has more than 512 MiB.
    """
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            return b"".join(_pieces(url, answer, answer.headers.get("Content-Length", "")))
    except urllib.error.HTTPError as error:
        raise PackagingError(f"cannot fetch {url}: status {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise PackagingError(f"cannot fetch {url}: {_reason(error.reason)}; {_NEXT_STEP}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise PackagingError(f"cannot fetch {url}: {_reason(error)}; {_NEXT_STEP}") from error


_NEXT_STEP = "try again, or fetch it by other means and give it with --interpreter"


def _reason(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended too early"
    return " ".join(str(error).split()) or type(error).__name__


def _pieces(url: str, answer: IO[bytes], length: str) -> Iterator[bytes]:
    total = int(length) if length.isdecimal() else None
    size = 0
    with _progress(_file_name(url), total) as show:
        while piece := answer.read(_PIECE):
            size += len(piece)
            if size > _LARGEST:
                raise PackagingError(f"{url} has more than {_LARGEST:,} bytes: it holds no interpreter")
            show(size)
            yield piece
    if total is not None and size < total:
        raise PackagingError(
            f"cannot fetch {url}: the connection ended after {size:,} of {total:,} bytes; {_NEXT_STEP}"
        )


class _Progress:
    """One line on a terminal, which is taken away at the end; nothing elsewhere."""

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
    # An empty or relative one is to be ignored: XDG Base Directory Specification, "Environment variables".
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache"), "python-streaming-runtime")


def _keep(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetched-", dir=path.parent) as staging:
            (Path(staging) / path.name).write_bytes(data)
            os.replace(Path(staging) / path.name, path)
    except OSError as error:
        raise PackagingError(
            f"cannot keep {shown(path)}: {error.strerror}; set XDG_CACHE_HOME to another folder"
        ) from error
