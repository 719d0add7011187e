"""Atomic writes: a reader finds the old file or the new one."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.checkout import ROOT

from tools.common.errors import ToolError
from tools.common.paths import write_all_atomically, write_atomically


def test_the_file_is_replaced_and_has_the_mode_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    before = os.umask(0o077)
    try:
        write_atomically(path, b"new")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name_and_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    synced: list[tuple[str, bytes]] = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        what = "folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes"
        synced.append((what, path.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, b"another")
    assert synced == [("7 bytes", b"old"), ("folder", b"another")]


def test_a_full_disk_leaves_all_old_files(tmp_path: Path) -> None:
    """The limit on the size of a file stands for the full disk: the second file does not fit."""
    files = {tmp_path / "first": b"new", tmp_path / "second": bytes(100_000)}
    for path in files:
        path.write_text("old")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(ToolError, match=r"cannot write .*second: File too large"):
            write_all_atomically(files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.read_text() for path in files} == {"old"}
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("old")
    (tmp_path / "second").mkdir()
    with pytest.raises(ToolError, match=r"cannot write .*second: it is a folder; remove it"):
        write_all_atomically({tmp_path / "first": b"new", tmp_path / "second": b"new"})
    assert (tmp_path / "first").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_a_folder_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"cannot write .*file: No such file or directory"):
        write_atomically(tmp_path / "none" / "file", b"")


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    """The process stops itself after the content is written and before the rename, and is killed there."""
    path = tmp_path / "file"
    path.write_text("old")
    program = """
import os, signal, sys
from pathlib import Path
from tools.common import paths

os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
paths.write_atomically(Path(sys.argv[1]), b"new")
"""
    result = subprocess.run([sys.executable, "-c", program, path], cwd=ROOT)
    assert result.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_the_content_is_on_the_disk_before_the_rename_and_the_name_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut cannot be made here, so the system calls are observed."""
    steps = []
    replace = os.replace

    def flush(descriptor: int) -> None:
        steps.append("flush folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "flush file")

    def rename(old: Path, new: Path) -> None:
        steps.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    write_all_atomically({tmp_path / "first": b"1", tmp_path / "second": b"2"})
    assert steps == ["flush file", "flush file", "rename", "rename", "flush folder"]
