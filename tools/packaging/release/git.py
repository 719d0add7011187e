"""Reads the repository of the checkout with the program `git`."""

import io
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tools.common.paths import shown
from tools.common.urls import without_secrets
from tools.packaging import PackagingError

# As in git@example.com:owner/name.git (git-clone(1), "GIT URLS").
_SCP_ADDRESS = re.compile(r"([^/@:]+@)?(?P<host>[^/@:]+):(?!/)(?P<path>.+)")


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
    _check_top(root)
    name, seconds = _git(root, "show", "--no-patch", "--no-show-signature", "--format=%H %ct", "HEAD").decode().split()
    return Commit(name, datetime.fromtimestamp(int(seconds), UTC))


def _check_top(root: Path) -> None:
    try:
        top = _git(root, "rev-parse", "--show-toplevel").decode().removesuffix("\n")
    except PackagingError as error:
        if "not a git repository" not in str(error):
            raise
        raise PackagingError(f"{root} is not a git repository: clone the repository") from error
    if Path(top).resolve() != root.resolve():
        raise PackagingError(f"{root} is not the top folder of a git repository: clone the repository")


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
    """Return the URL of the remote `origin`, without credentials; None if there is none, or it is a folder."""
    if b"origin" not in _git(root, "remote").split():
        return None
    url = _git(root, "remote", "get-url", "origin").decode().strip()
    if scp := _SCP_ADDRESS.fullmatch(url):
        url = f"ssh://{scp['host']}/{scp['path']}"
    return without_secrets(url) if "://" in url and not url.startswith("file:") else None


@contextmanager
def exported(root: Path, commit: str) -> Iterator[Path]:
    """Yield a temporary folder with the files of `commit`.

    Raises:
        PackagingError: `root` is not the top folder of a git repository, or the repository does not contain the commit.
    """
    _check_top(root)
    try:
        _git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except PackagingError as error:
        raise PackagingError(f"this repository has no commit {commit}: fetch it with git, then try again") from error
    # The line ends of the repository, where the user has chosen others for checkouts.
    settings = ("core.autocrlf=false", "core.eol=lf", "tar.umask=0022")
    archived = _git(root, "archive", "--format=tar", commit, settings=settings)
    with tempfile.TemporaryDirectory(prefix="commit-") as name, tarfile.open(fileobj=io.BytesIO(archived)) as archive:
        # Python 3.11.3 and earlier have no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(name)
        yield Path(name)


def _git(root: Path, *arguments: str, settings: Iterable[str] = ()) -> bytes:
    """Run git at `root`. GIT_DIR and its kin are removed: a hook of another repository sets them.

    Objects that `git replace` puts in place of others are not used: a hash then stands for other content.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", root, *(word for each in settings for word in ("-c", each)), *arguments],
            env=environment | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_REPLACE_OBJECTS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    except FileNotFoundError as error:
        raise PackagingError("git was not found on PATH: install it") from error
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().partition("\n")[0]  # the others are advice
        raise PackagingError(f"git {arguments[0]} fails at {shown(root)}: {reason or f'status {done.returncode}'}")
    return done.stdout
