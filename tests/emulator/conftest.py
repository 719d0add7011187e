"""Functions for the tests of the emulator."""

from __future__ import annotations

import stat
import textwrap
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
def log(tmp_path: Path) -> Path:
    """What consoles write besides responses. pytest's capfd loses what a thread writes while the test reads it."""
    path = tmp_path / "log"
    path.touch()
    return path


@pytest.fixture
def make_console(log: Path) -> Iterator[Callable[..., Console]]:
    """Makes consoles. Waits for environments: the thread that waits for their end writes the last lines of a log."""
    made: list[Console] = []
    with log.open("ab", buffering=0) as file:

        def make(**options: Any) -> Console:
            made.append(Console(log=file.fileno(), **options))
            return made[-1]

        yield make
        for thread in threading.enumerate():
            if thread.name.endswith("(_wait_for_end)"):
                thread.join(WAIT)
                assert not thread.is_alive(), "an environment does not end"
        for console in made:
            console.close()
    print(log.read_text("utf-8", "replace"))  # pytest shows it if the test fails


@pytest.fixture
def console(make_console: Callable[..., Console]) -> Console:
    return make_console()


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A served function that responds with its event."""
    with FunctionFolder(tmp_path_factory.mktemp("echo") / "echo", ECHO) as folder, Server(folder.path) as server:
        yield server
