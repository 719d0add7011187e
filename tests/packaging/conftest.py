"""Fixtures of the packaging tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.built_zips import VERSIONS, Pythons
from support.checkout import Checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.at(tmp_path / "checkout")


HANDLER = """\
def handler(event, context):
    yield b"hello"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A function folder outside the checkout, with a handler in it."""
    path = tmp_path / "hello"
    path.mkdir()
    (path / "app.py").write_text(HANDLER)
    return path


@pytest.fixture(scope="session")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> Pythons:
    return Pythons(tmp_path_factory.mktemp("pythons") / "bin")


@pytest.fixture(params=[VERSIONS[0], *(pytest.param(each, marks=pytest.mark.long) for each in VERSIONS[1:])])
def version(request: pytest.FixtureRequest, pythons: Pythons) -> str:
    """Each supported version that is installed, such as 3.12."""
    if request.param not in pythons.versions:
        pytest.skip(f"there is no Python {request.param} here")
    return str(request.param)
