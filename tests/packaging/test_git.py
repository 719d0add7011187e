"""What a release reads with git, also where the configuration of the user would change it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.packaging import PackagingError
from tools.packaging.release import git

IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@example.com")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, and a home with a configuration of its own."""
    for name in ("GIT_CONFIG_GLOBAL", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    root = tmp_path / "repository"
    run(tmp_path, "init", "--quiet", str(root))
    (root / "file").write_bytes(b"one\ntwo\n")
    run(root, "add", "file")
    run(root, *IDENTITY, "commit", "--quiet", "--message", "first")
    return root


def run(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_a_signed_commit_is_read_where_git_shows_signatures(repository: Path) -> None:
    program = repository.parent / "gpg"
    program.write_text("#!/bin/sh\ncat >/dev/null\necho '[GNUPG:] SIG_CREATED ' >&2\necho signature\n")
    program.chmod(0o755)
    run(repository, "config", "--global", "gpg.program", str(program))
    run(repository, "config", "--global", "log.showSignature", "true")
    run(repository, *IDENTITY, "commit", "--quiet", "--allow-empty", "--message", "second", "--gpg-sign")
    assert git.head(repository).hash == run(repository, "rev-parse", "HEAD")


def test_an_export_has_the_line_ends_of_the_repository(repository: Path) -> None:
    run(repository, "config", "--global", "core.autocrlf", "true")
    with git.exported(repository, run(repository, "rev-parse", "HEAD")) as folder:
        assert (folder / "file").read_bytes() == b"one\ntwo\n"


def test_an_export_contains_the_commit_and_not_its_replacement(repository: Path) -> None:
    first = run(repository, "rev-parse", "HEAD")
    (repository / "file").write_bytes(b"other\n")
    run(repository, *IDENTITY, "commit", "--quiet", "--all", "--message", "second")
    run(repository, "replace", first, "HEAD")
    with git.exported(repository, first) as folder:
        assert (folder / "file").read_bytes() == b"one\ntwo\n"


def test_a_folder_of_a_repository_is_not_a_checkout(repository: Path) -> None:
    (repository / "folder").mkdir()
    with pytest.raises(PackagingError, match="is not the top folder of a git repository"):
        git.head(repository / "folder")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("https://user:secret@example.com/owner/name.git", "https://example.com/owner/name.git"),
        ("git@example.com:owner/name.git", "ssh://example.com/owner/name.git"),
        ("ssh://git@example.com/owner/name.git", "ssh://example.com/owner/name.git"),
        ("/srv/git/name.git", None),
        ("./a:b", None),
        ("file:///srv/git/name.git", None),
    ],
)
def test_the_remote_has_a_url_without_credentials(repository: Path, address: str, url: str | None) -> None:
    assert git.remote_url(repository) is None
    run(repository, "remote", "add", "origin", address)
    assert git.remote_url(repository) == url
