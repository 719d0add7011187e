"""Reads the repository of the checkout with the program `git`."""

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tools.common.paths import shown
from tools.common.urls import without_secrets
from tools.packaging import PackagingError


@dataclass(frozen=True)
class Commit:
    """A commit: its full hash, and when it was committed, in UTC."""

    hash: str
    time: datetime


def head(root: Path) -> Commit:
    """Return the commit that is checked out at `root`.

    Raises:
        PackagingError: `root` is not the top folder of a git repository, or git fails.
    """
    top = _git(root, "rev-parse", "--show-toplevel").decode().strip()
    if Path(top).resolve() != root.resolve():
        raise PackagingError(f"{shown(root)} is not the top folder of a git repository: clone the repository")
    name, seconds = _git(root, "show", "--no-patch", "--format=%H %ct", "HEAD").decode().split()
    return Commit(name, datetime.fromtimestamp(int(seconds), UTC))


def changes(root: Path) -> list[str]:
    """Return the files that differ from the commit, and those that git neither tracks nor ignores."""
    output = _git(root, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all")
    return [os.fsdecode(line[3:]) for line in output.split(b"\0") if line]


def commit_of_tag(root: Path, tag: str) -> str | None:
    """Return the hash of the commit at `tag`; None if there is no such tag."""
    if not _git(root, "tag", "--list", tag):
        return None
    return _git(root, "rev-parse", f"refs/tags/{tag}^{{commit}}").decode().strip()


def remote_url(root: Path) -> str | None:
    """Return the URL of the remote `origin`, without credentials; None if there is none."""
    if b"origin" not in _git(root, "remote").split():
        return None
    url = _git(root, "remote", "get-url", "origin").decode().strip()
    return without_secrets(url) if "://" in url else None


@contextmanager
def exported(root: Path, commit: str) -> Iterator[Path]:
    """Yield a temporary folder with the files of `commit`.

    Raises:
        PackagingError: the repository does not contain it.
    """
    try:
        _git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except PackagingError as error:
        raise PackagingError(f"this repository has no commit {commit}: fetch it with git, then try again") from error
    archived = _git(root, "archive", "--format=tar", commit)
    with tempfile.TemporaryDirectory(prefix="rebuild-") as name, tarfile.open(fileobj=io.BytesIO(archived)) as archive:
        # Python 3.11.3 and earlier have no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(name)
        yield Path(name)


def _git(root: Path, *arguments: str) -> bytes:
    """Run git at `root`. GIT_DIR and its kin are removed: a hook of another repository sets them."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", root, *arguments],
            env=environment | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    except FileNotFoundError as error:
        raise PackagingError("git was not found on PATH: install it") from error
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().partition("\n")[0]  # the others are advice
        raise PackagingError(f"git {arguments[0]} fails at {shown(root)}: {reason or f'status {done.returncode}'}")
    return done.stdout
