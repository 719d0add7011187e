"""The same bytes, whatever the machine, the folder, the umask, the locale and the Python."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.built_zips import (
    SOURCES,
    Pythons,
    contents,
)
from support.checkout import Checkout

from tools.packaging.zips import bytecode


def test_two_copies_built_under_different_circumstances_give_the_same_bytes(tmp_path: Path, pythons: Pythons) -> None:
    first, second = Checkout.at(tmp_path / "a"), Checkout.at(tmp_path / "deeper" / "b")
    for path in [*second.root.glob("layer/**/*"), *second.root.glob("function/*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (0, 1_000_000_000))
    first.build(umask=0o022, TZ="UTC", LC_ALL="C.UTF-8", PATH=pythons.path)
    circumstances = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7", "PADDING": "x" * 100_000}
    second.build(umask=0o077, cwd=tmp_path, **circumstances, PATH=pythons.path)
    one, other = ({path.name: path.read_bytes() for path in each.dist.iterdir()} for each in (first, second))
    assert one == other


SWITCHES = {
    "PYTHONHASHSEED": "7",
    "PYTHONOPTIMIZE": "2",
    "PYTHONNODEBUGRANGES": "1",
    "PYTHONPROFILEIMPORTTIME": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONHOME": "/nonexistent",
    "PYTHONPYCACHEPREFIX": "/nonexistent",
}


@pytest.mark.long
@pytest.mark.parametrize("switch", SWITCHES)
def test_no_switch_of_python_changes_bytecode(monkeypatch: pytest.MonkeyPatch, pythons: Pythons, switch: str) -> None:
    monkeypatch.setenv("PATH", pythons.path)
    plain = bytecode.compile_for_versions(SOURCES, pythons.versions)
    monkeypatch.setenv(switch, SWITCHES[switch])
    assert bytecode.compile_for_versions(SOURCES, pythons.versions) == plain


@pytest.mark.long
def test_every_python_version_gives_the_same_bytes(
    checkout: Checkout, tmp_path: Path, pythons: Pythons, version: str
) -> None:
    tmp_path.joinpath("bin").mkdir()
    tmp_path.joinpath("bin", "python3").symlink_to(pythons[version].resolve())
    checkout.build("-o", tmp_path / "here", PATH=pythons.path)
    checkout.build("-o", tmp_path / "there", PATH=f"{tmp_path}/bin:{pythons.folder}:/usr/bin:/bin")
    for name in ("SHA256SUMS", "INTERPRETERS"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


@pytest.mark.long
def test_a_second_build_changes_nothing(checkout: Checkout) -> None:
    first = checkout.build(), checkout.files()
    assert (checkout.build(), checkout.files()) == first


def test_file_names_do_not_depend_on_the_locale(checkout: Checkout, folder: Path, tmp_path: Path) -> None:
    (folder / "grüße.txt").write_text("hello")
    checkout.build("function", folder, "-o", tmp_path / "utf8", LC_ALL="C.UTF-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    checkout.build("function", folder, "-o", tmp_path / "ascii", **ascii_only)
    assert contents(tmp_path / "utf8/hello.zip") == contents(tmp_path / "ascii/hello.zip")
    assert "grüße.txt" in contents(tmp_path / "ascii/hello.zip")
