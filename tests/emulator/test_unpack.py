"""Zip files: those that are unpacked, and those that are refused."""

from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path

import pytest
from support.emulator import BARE_ENVIRONMENT, MakeZip, Result, run

LINK = stat.S_IFLNK | 0o777


def test_modes_and_links_of_a_zip_are_kept(make_zip: MakeZip) -> None:
    source = """
        import subprocess

        def handler(event, context):
            yield subprocess.check_output(["./tools/program"])
            yield open("again").read().encode()
    """
    path = make_zip(
        {
            "lambda_function.py": source,
            "tools/program": "#!/bin/sh\necho ran",
            "again": "tools/words",
            "tools/words": "w",
        },
        {"tools/program": stat.S_IFREG | 0o755, "again": LINK},
    )
    result = run("--function", path)
    assert result[:2] == (0, b"ran\nw"), result.err


HANDLER = """
def handler(event, context):
    yield b'from a zip'
"""


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def assert_refused(result: Result, *words: str) -> None:
    """One line that names the cause, and nothing is left."""
    assert (result.code, result.out) == (1, b"")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1, result.err
    for word in words:
        assert word in result.err


@pytest.mark.parametrize(
    "name", ["../outside", "a/../../outside", "/tmp/outside", "..", "a\\..\\..\\outside", "\\outside"]
)
def test_a_path_that_leads_out_of_the_folder_is_refused(make_zip: MakeZip, temporary: Path, name: str) -> None:
    path = make_zip({"lambda_function.py": HANDLER, name: "x"})
    result = run("--function", path, env={**BARE_ENVIRONMENT, "TMPDIR": str(temporary)})
    assert_refused(result, str(path), "leads out of its folder")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    "entries",
    [
        {"link": "/etc"},
        {"link": "../../etc"},
        {"a/link": "../.."},
        {"one": "two/..", "two": "/"},
        {"link": "one/up/../..", "one": "two", "two/up": ".."},
        {"link": "../outside", "link/file": "x"},
    ],
)
def test_a_link_that_leads_out_of_the_folder_is_refused(
    make_zip: MakeZip, temporary: Path, entries: dict[str, str]
) -> None:
    links = {name: LINK for name in entries if name != "link/file"}
    path = make_zip({"lambda_function.py": HANDLER, **entries}, links)
    result = run("--layer", path, env={**BARE_ENVIRONMENT, "TMPDIR": str(temporary)})
    assert_refused(result, str(path))
    assert list(temporary.iterdir()) == []
    assert not (temporary.parent / "outside").exists()


def test_a_zip_above_the_limit_is_refused_before_it_is_unpacked(make_zip: MakeZip, tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("zeros", "w") as file,
    ):
        for _ in range(251):
            file.write(bytes(1_048_576))
    assert path.stat().st_size < 2_000_000
    assert_refused(run("--function", path), str(path), "262,144,000")


def test_a_zip_with_a_wrong_size_is_refused(make_zip: MakeZip) -> None:
    path = make_zip({"lambda_function.py": HANDLER, "large": "x" * 100_000})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = data.rindex(signature, 0, data.rindex(b"large")) + offset
        data[place : place + 4] = struct.pack("<I", 10)
    path.write_bytes(data)
    assert_refused(run("--function", path), str(path), "not a valid zip file")


@pytest.mark.parametrize("data", [b"PK", b"PK\x05\x06" + b"\0" * 10, b"PK\x03\x04" + b"\xff" * 100])
def test_a_damaged_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "code.zip").write_bytes(data)
    for flag in ("--function", "--layer"):
        assert_refused(run(flag, tmp_path / "code.zip"), "code.zip is not a valid zip file")


def test_an_encrypted_zip_is_refused(make_zip: MakeZip) -> None:
    path = make_zip({"lambda_function.py": HANDLER})
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert_refused(run("--function", path), str(path), "encrypted")
