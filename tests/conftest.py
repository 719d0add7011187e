"""What the tests share: the layer as `./build.sh` makes it, unpacked, and processes of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Runtime
from support_root import unpack

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slim layer, built and unpacked as Lambda does it, modes and all."""
    folder = tmp_path_factory.mktemp("layer")
    subprocess.run([ROOT / "build.sh", "-o", folder / "dist"], check=True, stdout=subprocess.DEVNULL)
    return unpack(folder / "dist" / "layer-slim.zip", folder / "opt")


@pytest.fixture
def runtime(layer: Path, tmp_path: Path) -> Iterator[Callable[..., Runtime]]:
    """Starts functions on the layer: `runtime(code, variables=...)`. They are ended with the test."""
    started: list[Runtime] = []

    def start(code: str | dict[str, str], **options: Any) -> Runtime:
        started.append(Runtime(options.pop("layer", layer), tmp_path / f"function{len(started)}", code, **options))
        return started[-1]

    yield start
    for each in started:
        each.end()
