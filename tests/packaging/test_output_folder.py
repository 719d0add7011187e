"""The output folder: the zips, SHA256SUMS and INTERPRETERS, replaced together or not at all."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from support.checkout import ENVIRONMENT, Checkout

from tools.common.errors import ToolError
from tools.packaging.zips import output


@pytest.mark.long
@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum here")
def test_sha256sum_accepts_the_list_of_all_zips(checkout: Checkout, folder: Path) -> None:
    checkout.build()
    checkout.build("function", folder)
    command = ["sha256sum", "-c", "--strict", "SHA256SUMS"]
    result = subprocess.run(command, cwd=checkout.dist, capture_output=True, text=True, check=True)
    assert result.stdout == "function.zip: OK\nhello.zip: OK\nlayer-slim.zip: OK\n"


def test_everyone_can_read_the_output_whatever_the_umask(checkout: Checkout) -> None:
    checkout.build(umask=0o077)
    assert {stat.S_IMODE(path.stat().st_mode) for path in checkout.dist.iterdir()} == {0o644}


def test_a_build_leaves_only_its_output(checkout: Checkout) -> None:
    before = set(checkout.files())
    checkout.build()
    new = {Path(path).relative_to(checkout.root).as_posix() for path in set(checkout.files()) - before}
    assert new == {
        "dist",
        *(f"dist/{name}" for name in ("INTERPRETERS", "SHA256SUMS", "function.zip", "layer-slim.zip")),
    }


@pytest.mark.parametrize("option", ["-n", pytest.param("--dry-run", marks=pytest.mark.long)])
def test_a_dry_run_prints_the_report_and_writes_nothing(checkout: Checkout, option: str) -> None:
    before = checkout.files()
    plan = checkout.build(option)
    assert checkout.files() == before
    assert plan.count("would write dist/") == 4
    assert plan.replace("would write ", "") == checkout.build()


@pytest.mark.parametrize("words", [("function", "hello", "-o", "out"), ("--output", "out", "function", "hello")])
def test_relative_folders_are_those_of_the_caller(checkout: Checkout, folder: Path, words: tuple[str, ...]) -> None:
    report = checkout.build(*words, cwd=folder.parent)
    assert report.startswith("out/hello.zip  ")
    assert (folder.parent / "out" / "hello.zip").is_file()


def test_a_module_of_the_callers_folder_is_never_imported(checkout: Checkout, tmp_path: Path) -> None:
    for name in ("tools", "zipfile", "argparse"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    checkout.build(cwd=tmp_path)


@pytest.mark.long
def test_a_reader_that_goes_away_does_not_disturb_the_build(checkout: Checkout) -> None:
    command = f"{{ {checkout.root}/build.sh; echo $? >&2; }} | :"
    result = subprocess.run(["sh", "-c", command], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.stderr == "0\n"
    assert checkout.dist.joinpath("SHA256SUMS").is_file()


def test_no_file_is_replaced_if_one_cannot_be(checkout: Checkout) -> None:
    checkout.build()
    checkout.dist.joinpath("SHA256SUMS").unlink()
    checkout.dist.joinpath("SHA256SUMS").mkdir()
    checkout.root.joinpath("function", "lambda_function.py").write_text("changed = True\n")
    assert checkout.refusal() == "cannot write dist/SHA256SUMS: it is a folder; remove it"


def test_an_output_that_is_a_file_is_refused(checkout: Checkout) -> None:
    checkout.dist.touch()
    assert checkout.refusal() == "cannot create the folder dist: File exists"


@pytest.mark.long
def test_a_full_disk_leaves_the_last_build(checkout: Checkout, folder: Path) -> None:
    """A limit on the size of files stands for the full disk: `sh` sets it in units of 512 bytes."""
    checkout.build()
    before = checkout.files()
    (folder / "large.bin").write_bytes(bytes(200_000))
    program = f"trap '' XFSZ; ulimit -f 100; exec {checkout.root}/build.sh function {folder}"
    result = subprocess.run(
        ["sh", "-c", program], cwd=checkout.root, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "build.sh: error: cannot write dist/hello.zip: File too large\n"
    assert checkout.files() == before


def test_an_output_folder_that_cannot_be_created_is_one_line(checkout: Checkout) -> None:
    assert checkout.refusal("-o", "/proc/out").startswith("cannot create the folder /proc/out: ")


def test_a_failure_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="File name too long"):
        output.write_files(tmp_path / "new", {"a": b"", "b" * 300: b""})
    assert list(tmp_path.iterdir()) == []
