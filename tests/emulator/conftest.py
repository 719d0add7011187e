"""Functions for the tests of the emulator."""

from __future__ import annotations

import stat
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.emulator import ECHO, WAIT, FunctionFolder, MakeFunction, MakeZip, Server

from tools.emulator.console import Console


@pytest.fixture
def make_function(tmp_path: Path) -> Iterator[MakeFunction]:
    """Makes the folder of a function from its source."""
    folders: list[FunctionFolder] = []

    def make(source: str, name: str = "a-function", module: str = "lambda_function") -> FunctionFolder:
        folders.append(FunctionFolder(tmp_path / name, source, module))
        return folders[-1]

    yield make
    for folder in folders:
        folder.__exit__()


@pytest.fixture
def make_zip(tmp_path: Path) -> MakeZip:
    """Makes a zip from its entries: content by name, and modes by name."""

    def make(entries: dict[str, str | bytes], modes: dict[str, int] | None = None, name: str = "code.zip") -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, content in entries.items():
                info = zipfile.ZipInfo(entry)
                info.external_attr = (modes or {}).get(entry, stat.S_IFREG | 0o644) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, textwrap.dedent(content) if isinstance(content, str) else content)
        return path

    return make


@pytest.fixture
def console() -> Iterator[Console]:
    """Writes no line after the test: a thread of an environment may still do that when a pool is closed."""
    console = Console()
    yield console
    console.close()


@pytest.fixture(autouse=True)
def ends_of_environments() -> Iterator[None]:
    """Wait for environments of this process: the thread that waits for their end writes the last lines of a log."""
    yield
    for thread in threading.enumerate():
        if thread.name.endswith("(_wait_for_end)"):
            thread.join(WAIT)
            assert not thread.is_alive(), "an environment does not end"


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A served function that responds with its event."""
    with FunctionFolder(tmp_path_factory.mktemp("echo") / "echo", ECHO) as folder, Server(folder.path) as server:
        yield server
