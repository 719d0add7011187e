"""Function zips, and the function folders that the build refuses."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.built_zips import FILES, MEBIBYTE, contents, modes
from support.checkout import ROOT, Checkout


def test_the_sample_function_zip_contains_only_the_handler(checkout: Checkout) -> None:
    checkout.build()
    assert modes(checkout.dist / "function.zip") == {"lambda_function.py": "-rw-r--r--"}


@pytest.mark.skipif(shutil.which("unzip") is None, reason="there is no unzip here")
def test_unzip_gives_a_bootstrap_that_can_be_run(checkout: Checkout, tmp_path: Path) -> None:
    checkout.build(umask=0o077)
    subprocess.run(["unzip", "-q", checkout.dist / "layer-slim.zip", "-d", tmp_path / "opt"], check=True)
    assert os.access(tmp_path / "opt" / "bootstrap", os.X_OK)
    assert not os.access(tmp_path / "opt" / "runtime.py", os.X_OK)


def test_a_zip_stores_its_files_uncompressed_with_one_date_and_no_folders(checkout: Checkout, folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "module.py").write_text("x = 1\n" * 1000)
    checkout.build("function", folder)
    with zipfile.ZipFile(checkout.dist / "hello.zip") as zipped:
        assert zipped.namelist() == ["app.py", "package/module.py"]
        for info in zipped.infolist():
            assert (info.compress_type, info.create_system) == (zipfile.ZIP_STORED, 3)
            assert info.date_time == (1980, 1, 1, 0, 0, 0)


def test_the_report_contains_path_size_checksum_and_modes(checkout: Checkout, folder: Path) -> None:
    data = (folder / "app.py").read_bytes()
    report = checkout.build("function", folder)
    zipped = (checkout.dist / "hello.zip").read_bytes()
    assert report == (
        f"dist/hello.zip  {len(zipped)} bytes\n"
        f"  sha256 {hashlib.sha256(zipped).hexdigest()}\n"
        f"  0644          {len(data)}  app.py\n"
        "\n"
        "dist/SHA256SUMS  1 zip\n"
    )


def test_a_long_listing_is_cut(checkout: Checkout, folder: Path) -> None:
    for number in range(60):
        (folder / f"m{number}.py").touch()
    report = checkout.build("function", folder)
    assert len(report.splitlines()) < 50
    assert "  and 21 more\n" in report


def test_a_function_zip_is_named_after_its_folder_in_every_spelling(checkout: Checkout, folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)
    for word in ("hello", "hello/", "./hello/.", "link"):
        assert "/hello.zip  " in checkout.build("function", word, cwd=folder.parent)
    assert "/hello.zip  " in checkout.build("function", ".", cwd=folder)


def test_programs_get_run_bits_and_everything_else_does_not(checkout: Checkout, folder: Path) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / "tool").write_text("#!/bin/sh\n")
    (folder / "lib.so").write_bytes(b"\x7fELF\x02")
    (folder / "data").write_bytes(b"")
    (folder / "data").chmod(0o777)
    checkout.build("function", folder)
    assert modes(checkout.dist / "hello.zip") == {
        "app.py": "-rw-r--r--",
        "bin/tool": "-rwxr-xr-x",
        "data": "-rw-r--r--",
        "lib.so": "-rwxr-xr-x",
    }


def test_a_function_zip_contains_no_hidden_files_and_no_bytecode(checkout: Checkout, folder: Path) -> None:
    for name in (".env", ".git/config", "__pycache__/note.txt", "old.pyc", "pkg/.DS_Store"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    report = checkout.build("function", folder)
    assert list(contents(checkout.dist / "hello.zip")) == ["app.py"]
    assert "\nleft out  .env, .git/, old.pyc, pkg/.DS_Store\n" in report


def test_bytecode_beside_its_source_is_not_named(checkout: Checkout, folder: Path) -> None:
    (folder / "app.pyc").touch()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "app.cpython-313.pyc").touch()
    assert "left out" not in checkout.build("function", folder)


def test_a_text_with_crlf_line_ends_is_packed_unchanged(checkout: Checkout, folder: Path) -> None:
    (folder / "table.csv").write_bytes(b"a,b\r\n")
    checkout.build("function", folder)
    assert contents(checkout.dist / "hello.zip")["table.csv"] == b"a,b\r\n"


def test_a_package_called_bootstrap_is_allowed(checkout: Checkout, folder: Path) -> None:
    (folder / "bootstrap").mkdir()
    (folder / "bootstrap" / "__init__.py").touch()
    checkout.build("function", folder)
    assert "bootstrap/__init__.py" in contents(checkout.dist / "hello.zip")


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


FUNCTION_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda folder: shutil.rmtree(folder),
        "hello is not a folder: use the folder that contains the handler",
    ),
    "a file": (
        lambda folder: (shutil.rmtree(folder), folder.touch()),
        "hello is not a folder: use the folder ",
    ),
    "empty": (lambda folder: (folder / "app.py").unlink(), "hello contains no .py file: use the folder that "),
    "no Python": (
        lambda folder: (folder / "app.py").rename(folder / "app.txt"),
        "hello contains no .py file: use the folder that contains the handler",
    ),
    "bootstrap": (
        lambda folder: (folder / "bootstrap").touch(),
        "hello/bootstrap would run in place of the layer's: rename it",
    ),
    "link to a file": (
        lambda folder: (folder / "link.py").symlink_to("app.py"),
        "hello/link.py is a symbolic link: replace it with a copy of its target",
    ),
    "link to a folder": (
        lambda folder: (folder / "link").symlink_to("/usr"),
        "hello/link is a symbolic link: replace it with a copy of its target",
    ),
    "dangling link": (
        lambda folder: (folder / "link").symlink_to("nowhere"),
        "hello/link is a symbolic link: replace it with a copy of its target",
    ),
    "pipe": (
        lambda folder: os.mkfifo(folder / "pipe"),
        "hello/pipe is neither a file nor a folder: remove it",
    ),
    "script with CRLF": (
        lambda folder: (folder / "run").write_bytes(b"#!/bin/sh\r\necho\r\n"),
        "hello/run is a script with CRLF line ends: save it with LF",
    ),
    "unprintable name": (
        lambda folder: (folder / "a\nb").touch(),
        "'{folder}/a\\nb' cannot be a name in a zip: use printable UTF-8",
    ),
    "name that is not UTF-8": (
        lambda folder: open(os.fsencode(folder) + b"/\xff.txt", "w").close(),
        "'{folder}/\\udcff.txt' cannot be a name in a zip: use printable UTF-8",
    ),
    "too large unpacked": (
        lambda folder: sparse(folder / "model", 262_144_000),
        "hello has 262,144,048 bytes unpacked, the limit is 262,144,000: remove files",
    ),
    "too large to upload": (
        lambda folder: sparse(folder / "model", 50 * MEBIBYTE),
        "hello.zip has 52,429,044 bytes, the limit of an upload is 52,428,800: remove files",
    ),
}


@pytest.mark.parametrize("fault", FUNCTION_FAULTS)
def test_a_faulty_function_folder_is_refused(checkout: Checkout, folder: Path, fault: str) -> None:
    break_it, message = FUNCTION_FAULTS[fault]
    break_it(folder)
    refusal = checkout.refusal("function", "hello", cwd=folder.parent)
    assert refusal.startswith(message.format(folder=folder))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["app.py", ""])
def test_what_cannot_be_read_is_refused(checkout: Checkout, folder: Path, name: str) -> None:
    (folder / name).chmod(0)
    refusal = checkout.refusal("function", "hello", cwd=folder.parent)
    (folder / name).chmod(0o700)
    assert refusal == f"cannot read {Path('hello', name)}: Permission denied"


@pytest.mark.parametrize("name", ["layer-slim", "Layer-Slim"])
def test_a_folder_named_like_the_layer_is_refused(checkout: Checkout, folder: Path, name: str) -> None:
    folder = folder.rename(folder.parent / name)
    refusal = checkout.refusal("function", name, cwd=folder.parent)
    assert refusal == f"{name} would overwrite the layer layer-slim.zip: rename it"


@pytest.mark.parametrize("name", ["back\\slash", "line\nend"])
def test_a_folder_whose_name_a_checksum_list_cannot_contain_is_refused(
    checkout: Checkout, folder: Path, name: str
) -> None:
    folder = folder.rename(folder.parent / name)
    assert checkout.refusal("function", folder).startswith("a zip cannot be named after the folder ")


def test_the_root_folder_is_refused(checkout: Checkout) -> None:
    assert "overlap" in checkout.refusal("function", "/")


@pytest.mark.parametrize("output", [".", "..", "dist", "a/b"])
def test_a_function_folder_and_an_output_folder_must_not_overlap(checkout: Checkout, folder: Path, output: str) -> None:
    assert " overlap: choose another -o" in checkout.refusal("function", ".", "-o", output, cwd=folder)


@pytest.mark.parametrize("output", ["layer", "layer/out", "function"])
def test_the_output_must_not_be_among_the_sources(checkout: Checkout, output: str) -> None:
    assert " overlap: choose another -o" in checkout.refusal("-o", output)


# The names that the layer uses

RESERVED = [
    "streaming_runtime.py",
    "streaming_runtime/__init__.py",
    "streaming_runtime/part/module.py",
    "streaming_runtime/native.so",
    "streaming_runtime.cpython-313-x86_64-linux-gnu.so",
    "streaming_runtime.so",
]


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("#!/bin/sh\n" if name == "bootstrap" else "")


@pytest.mark.parametrize("name", RESERVED)
def test_a_module_with_the_reserved_name_is_refused(checkout: Checkout, folder: Path, name: str) -> None:
    write(folder, name)
    assert checkout.refusal("function", folder, cwd=folder.parent) == (
        f"hello/{name} would never be imported, because the layer's own package has the name streaming_runtime: "
        "rename it"
    )


@pytest.mark.parametrize(
    "name", ["pkg/streaming_runtime.py", "streaming_runtimes.py", "streaming_runtime.txt", "runtime.py", "my/bootstrap"]
)
def test_other_names_are_free(checkout: Checkout, folder: Path, name: str) -> None:
    write(folder, name)
    checkout.build("function", folder)
    assert name in contents(checkout.dist / "hello.zip")


def test_a_function_may_contain_the_whole_runtime(checkout: Checkout, folder: Path) -> None:
    shutil.copytree(ROOT / "layer", folder, dirs_exist_ok=True)
    checkout.build("function", folder)
    assert set(FILES) < set(contents(checkout.dist / "hello.zip"))
    assert modes(checkout.dist / "hello.zip")["bootstrap"] == "-rwxr-xr-x"


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("streaming_runtime/__init__.py", "hello/bootstrap would run in place of the layer's: rename it"),
        ("runtime.py", "hello/bootstrap would run in place of the layer's: rename it"),
        ("bootstrap", "hello/streaming_runtime/__init__.py would never be imported"),
    ],
)
def test_a_part_of_the_runtime_is_refused(checkout: Checkout, folder: Path, missing: str, message: str) -> None:
    shutil.copytree(ROOT / "layer", folder, dirs_exist_ok=True)
    (folder / missing).unlink()
    assert checkout.refusal("function", folder, cwd=folder.parent).startswith(message)
