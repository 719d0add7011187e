"""The layer's bytecode, compiled by each supported Python of this machine."""

from __future__ import annotations

import functools
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.built_zips import (
    FILES,
    MANIFEST,
    THIS_VERSION,
    VERSIONS,
    Pythons,
    contents,
    pyc,
    pycs,
)
from support.checkout import ROOT, Checkout

from tools.packaging import PackagingError
from tools.packaging.zips import bytecode


@pytest.fixture(scope="module")
def opt(pythons: Pythons, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Unpacks a layer that is built with the given options, once: read-only, and with dates of their own."""
    checkout = Checkout.at(tmp_path_factory.mktemp("bytecode") / "checkout")

    @functools.cache
    def unpack(*options: str) -> Path:
        checkout.build(*options, PATH=pythons.path)
        folder = tmp_path_factory.mktemp("opt")
        with zipfile.ZipFile(checkout.dist / "layer-slim.zip") as zipped:
            zipped.extractall(folder)
        (folder / "bootstrap").chmod(0o755)
        (folder / "runtime.py").write_text("raise SystemExit('the source was run')\n")
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (0, 1_000_000_000))
            path.chmod(path.stat().st_mode & ~0o222)
        return folder

    return unpack


def test_a_file_that_one_of_the_pythons_cannot_compile_is_refused() -> None:
    """A syntax that is newer than this Python is no error of the build's own Python."""
    sources = {"a.py": b"", "b.py": b"def"}
    with pytest.raises(PackagingError, match=r"^the layer cannot be compiled: /opt/b\.py: invalid syntax"):
        bytecode.compile_for_versions(sources, [THIS_VERSION])


IMPORT = (
    "import sys; sys.path.insert(0, {!r}); import runtime; print(runtime.VERSION, runtime.main.__code__.co_filename)"
)


def test_bytecode_is_used_instead_of_a_changed_source(opt: Callable[..., Path], pythons: Pythons, version: str) -> None:
    folder = opt()
    before = {path: path.stat().st_mtime for path in folder.rglob("*")}
    result = pythons.run(version, "-v", "-c", IMPORT.format(str(folder)))
    assert result.stdout == f"{MANIFEST['version']} {folder}/runtime.py\n"
    assert f"# code object from '{folder}/{pyc(version)}'\n" in result.stderr
    assert {path: path.stat().st_mtime for path in folder.rglob("*")} == before


def test_bytecode_for_another_version_is_not_used(opt: Callable[..., Path], pythons: Pythons, version: str) -> None:
    others = [other for other in pythons.versions if other != version]
    if not others:
        pytest.skip(f"there is no Python but {version} here")
    result = pythons.run(version, "-c", IMPORT.format(str(opt("--bytecode", ",".join(others)))))
    assert (result.stdout, result.stderr) == ("", "the source was run\n")


def test_bootstrap_starts_from_the_bytecode(
    opt: Callable[..., Path], pythons: Pythons, tmp_path: Path, version: str
) -> None:
    (tmp_path / "python3").symlink_to(pythons[version].resolve())
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    result = subprocess.run([opt() / "bootstrap"], env=environment, capture_output=True, text=True)
    assert result.stderr.startswith(f"python-streaming-runtime {MANIFEST['version']} (slim, CPython {version}.")
    assert "): AWS_LAMBDA_RUNTIME_API is " in result.stderr


# Every code object of a .pyc, and its header against what this Python would write there (PEP 552: 1 is a hash that is
# not checked).
INSPECT = """
import importlib.util, marshal, sys, types
data, source = (open(path, "rb").read() for path in sys.argv[1:])
assert data[:16] == importlib.util.MAGIC_NUMBER + b"\\1\\0\\0\\0" + importlib.util.source_hash(source)
def names(code):
    yield code.co_filename
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names(constant)
code = marshal.loads(data[16:])
assert code == compile(source, "runtime.py", "exec", dont_inherit=True, optimize=2)
print(set(names(code)))
"""


def test_bytecode_matches_the_source_and_contains_its_path_on_aws_lambda(
    opt: Callable[..., Path], pythons: Pythons, version: str
) -> None:
    result = pythons.run(version, "-c", INSPECT, opt() / pyc(version), ROOT / "layer/runtime.py")
    assert (result.stdout, result.stderr) == ("{'/opt/runtime.py'}\n", "")


@pytest.mark.long
def test_bytecode_folders_in_the_layer_are_left_out(checkout: Checkout) -> None:
    report = checkout.build()
    for path in (path for version in VERSIONS for path in pycs(version)):
        (checkout.root / "layer" / path).parent.mkdir(exist_ok=True)
        (checkout.root / "layer" / path).touch()
    assert checkout.build() == report


@pytest.mark.parametrize("choice", [THIS_VERSION, f"{THIS_VERSION},{THIS_VERSION}"])
def test_only_the_requested_bytecode_is_compiled(checkout: Checkout, pythons: Pythons, choice: str) -> None:
    report = checkout.build("--bytecode", choice, PATH=pythons.path)
    assert list(contents(checkout.dist / "layer-slim.zip")) == sorted([*pycs(THIS_VERSION), *FILES])
    assert report.count("bytecode for ") == 1


@pytest.mark.long
def test_the_order_of_the_versions_does_not_matter(checkout: Checkout, pythons: Pythons) -> None:
    first = checkout.build(PATH=pythons.path), checkout.files()
    report = checkout.build("--bytecode", ",".join(reversed(pythons.versions)), PATH=pythons.path)
    assert checkout.files() == first[1]
    assert set(report.splitlines()) <= set(first[0].splitlines())


@pytest.mark.long
def test_the_report_lists_found_and_missing_interpreters(checkout: Checkout, pythons: Pythons) -> None:
    report = checkout.build(PATH=pythons.path).splitlines()
    for version in VERSIONS:
        found = f"bytecode for {version}  by {pythons[version]}"
        missing = f"bytecode for {version}  left out, no final release of CPython {version} on PATH or in pyenv"
        assert (found in report, missing in report) == (version in pythons.versions, version not in pythons.versions)
    assert report[-2:] == ["dist/SHA256SUMS  2 zips", "dist/INTERPRETERS"]


@pytest.mark.long
def test_the_interpreters_are_recorded_without_paths(checkout: Checkout, pythons: Pythons) -> None:
    checkout.build(PATH=pythons.path)
    code = "import sys; print('layer-slim.zip ', sys.implementation.cache_tag, '', ' '.join(sys.version.split()))"
    expected = "".join(pythons.run(version, "-c", code).stdout for version in pythons.versions)
    assert checkout.dist.joinpath("INTERPRETERS").read_text() == expected


@pytest.mark.long
def test_a_layer_without_bytecode_is_not_listed_in_interpreters(checkout: Checkout, folder: Path) -> None:
    checkout.build()
    assert checkout.dist.joinpath("INTERPRETERS").is_file()
    checkout.build("function", folder)
    assert checkout.dist.joinpath("INTERPRETERS").is_file()
    assert "bytecode" not in checkout.build("--bytecode", "none")
    assert not checkout.dist.joinpath("INTERPRETERS").exists()
    assert list(contents(checkout.dist / "layer-slim.zip")) == sorted(FILES)
