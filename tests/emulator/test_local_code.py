"""What `main.py` runs: folders and zips of functions and layers, sound and hostile ones."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.emulator import BARE_ENVIRONMENT, ROOT, Result, Server, run

HANDLER = "def handler(event, context): yield b'from a zip'"
LINK = stat.S_IFLNK | 0o777

Zipped = Callable[..., Path]


@pytest.fixture
def zipped(tmp_path: Path) -> Zipped:
    """Makes a zip of entries: contents by their names, and modes."""

    def make(entries: dict[str, str | bytes], modes: dict[str, int] | None = None, name: str = "code.zip") -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, content in entries.items():
                info = zipfile.ZipInfo(entry)
                info.external_attr = (modes or {}).get(entry, stat.S_IFREG | 0o644) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, content)
        return path

    return make


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


# Functions


def test_a_function_runs_from_its_zip_and_has_its_name(zipped: Zipped, temporary: Path) -> None:
    source = "import os\ndef handler(event, context): yield f\"{os.environ['AWS_LAMBDA_FUNCTION_NAME']}\".encode()"
    path = zipped({"lambda_function.py": source}, name="mail.zip")
    result = run("--function", path, env={**BARE_ENVIRONMENT, "TMPDIR": str(temporary)})
    assert result[:2] == (0, b"mail")
    assert list(temporary.iterdir()) == []


def test_modes_and_links_of_a_zip_are_kept(zipped: Zipped) -> None:
    source = "import json, os, subprocess\ndef handler(event, context):\n"
    source += "    yield subprocess.check_output(['./tools/program'])\n    yield open('again').read().encode()\n"
    path = zipped(
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


def test_what_the_build_makes_runs(layer: Path, tmp_path: Path) -> None:
    dist = layer.parent / "dist"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "lambda_function.py").write_text(HANDLER)
    build = [ROOT / "build.sh", "function", tmp_path / "other", "-o", tmp_path / "dist"]
    subprocess.run(build, check=True, capture_output=True)
    result = run("--layer", dist / "layer-slim.zip", "--function", tmp_path / "dist" / "other.zip")
    assert result[:2] == (0, b"from a zip"), result.err


def test_several_functions_are_reached_by_their_names(zipped: Zipped, tmp_path: Path) -> None:
    source = "def handler(event, context): yield (context.function_name + event['rawPath']).encode()"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lambda_function.py").write_text(source)
    more = ("--function", f"second={tmp_path / 'two'}", "--function", zipped({"lambda_function.py": source}))
    with Server(tmp_path / "one", *more) as server:
        lines = [server.read_through(b"\n").decode().split() for _ in range(3)]
        assert lines == [[name, f"{server.url}lambda-url/{name}/"] for name in ("one", "second", "code")]
        for path, answer in {
            "/x": b"one/x",
            "/lambda-url/one/x%20y": b"one/x%20y",
            "/lambda-url/second": b"second/",
            "/lambda-url/second?a=1": b"second/",
            "/lambda-url/code//": b"code//",
        }.items():
            assert server.get(path).body == answer
        missing = server.get("/lambda-url/third/")
        assert missing.status == 404 and "second" in json.loads(missing.body)["Message"]


def test_a_zip_that_changes_is_unpacked_anew_and_a_broken_one_is_told_of(zipped: Zipped) -> None:
    path = zipped({"lambda_function.py": "def handler(event, context): yield b'one'"})
    with Server(path) as server:
        assert server.get().body == b"one"
        zipped({"lambda_function.py": "def handler(event, context): yield b'two!'"})
        assert server.get().body == b"two!"
        path.write_bytes(b"PK half a zip")
        assert server.get().body == b"two!"
        zipped({"lambda_function.py": "def handler(event, context): yield b'three'"})
        assert server.get().body == b"three"
        errors = server.errors()
    assert f"{path} has changed" in errors
    assert "not a valid zip file" in errors and "the previous code stays in use" in errors


# Layers


def test_layers_are_merged_in_their_order_and_found_by_python(zipped: Zipped, tmp_path: Path) -> None:
    source = "import base, extra, json, os\n"
    source += "def handler(event, context): yield json.dumps([base.NAME, extra.NAME, os.environ['PATH']]).encode()"
    (tmp_path / "function").mkdir()
    (tmp_path / "function" / "lambda_function.py").write_text(source)
    first = zipped({"python/base.py": "NAME = 'first'", "python/extra.py": "NAME = 'first'"}, name="first.zip")
    (tmp_path / "second" / "python").mkdir(parents=True)
    (tmp_path / "second" / "python" / "extra.py").write_text("NAME = 'second'")
    (tmp_path / "second" / "bin").mkdir()
    (tmp_path / "second" / "bin" / "tool").write_text("")
    result = run("--function", tmp_path / "function", "--layer", first, "--layer", tmp_path / "second")
    assert result.code == 0, result.err
    base, extra, path = json.loads(result.out)
    assert (base, extra) == ("first", "second")
    assert path.split(":")[-1].endswith("/bin")


def test_a_layer_that_brings_the_runtime_is_the_only_one(layer: Path, zipped: Zipped, tmp_path: Path) -> None:
    dependency = zipped({"python/extra.py": "NAME = b'extra'"})
    (tmp_path / "function").mkdir()
    (tmp_path / "function" / "lambda_function.py").write_text(
        "import extra\ndef handler(event, context): yield extra.NAME"
    )
    for order in ([layer, dependency], [dependency, layer]):
        arguments = [argument for path in order for argument in ("--layer", path)]
        assert run("--function", tmp_path / "function", *arguments)[:2] == (0, b"extra")


def test_a_later_layer_may_have_a_folder_where_an_earlier_one_has_a_file(zipped: Zipped) -> None:
    layers = [
        zipped({"python/a.py": "NAME = b'file'", "python/b/__init__.py": "NAME = b'folder'"}, name="1.zip"),
        zipped({"python/a.py/x": "", "python/b": ""}, name="2.zip"),
        zipped({"python/a.py": "NAME = b'last'"}, name="3.zip"),
    ]
    function = zipped({"lambda_function.py": "import a\ndef handler(event, context): yield a.NAME"})
    arguments = [argument for path in layers for argument in ("--layer", path)]
    assert run("--function", function, *arguments)[:2] == (0, b"last")


def test_a_layer_with_an_interpreter_is_an_os_only_runtime(tmp_path: Path, zipped: Zipped) -> None:
    names = ["AWS_EXECUTION_ENV", "AWS_LAMBDA_EXEC_WRAPPER", "PROOF"]
    source = (
        f"import json, os\ndef handler(event, context): yield json.dumps([os.environ.get(n) for n in {names}]).encode()"
    )
    python = tmp_path / "layer" / "cpython" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPROOF=1 exec {os.path.realpath("/proc/self/exe")} "$@"\n')
    python.chmod(0o755)
    shutil.copytree(ROOT / "layer", tmp_path / "layer", dirs_exist_ok=True)
    arguments = ("--layer", tmp_path / "layer", "--function", zipped({"lambda_function.py": source}))
    result = run(*arguments)
    assert json.loads(result.out) == [None, None, "1"], result.err
    python.write_text("\x7fELF of another machine")
    result = run(*arguments)
    assert json.loads(result.out)[2] is None, result.err
    assert "code runs on python3." in result.err


# What is refused


@pytest.mark.parametrize(
    "name", ["../outside", "a/../../outside", "/tmp/outside", "..", "a\\..\\..\\outside", "\\outside"]
)
def test_a_zip_that_leads_out_of_its_folder_is_refused(zipped: Zipped, temporary: Path, name: str) -> None:
    path = zipped({"lambda_function.py": HANDLER, name: "x"})
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
def test_a_link_that_leads_out_of_its_folder_is_refused(
    zipped: Zipped, temporary: Path, entries: dict[str, str]
) -> None:
    links = {name: LINK for name in entries if name != "link/file"}
    path = zipped({"lambda_function.py": HANDLER, **entries}, links)
    result = run("--layer", path, env={**BARE_ENVIRONMENT, "TMPDIR": str(temporary)})
    assert_refused(result, str(path))
    assert list(temporary.iterdir()) == []
    assert not (temporary.parent / "outside").exists()


def test_a_zip_above_the_limit_is_refused_before_it_is_unpacked(zipped: Zipped, tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("zeros", "w") as file,
    ):
        for _ in range(251):
            file.write(bytes(1_048_576))
    assert path.stat().st_size < 2_000_000
    assert_refused(run("--function", path), str(path), "262,144,000")


def test_a_zip_that_lies_about_its_size_is_refused(zipped: Zipped) -> None:
    path = zipped({"lambda_function.py": HANDLER, "large": "x" * 100_000})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = data.rindex(signature, 0, data.rindex(b"large")) + offset
        data[place : place + 4] = struct.pack("<I", 10)
    path.write_bytes(data)
    assert_refused(run("--function", path), str(path), "not a valid zip file")


@pytest.mark.parametrize("data", [b"PK", b"PK\x05\x06" + b"\0" * 10, b"PK\x03\x04" + b"\xff" * 100])
def test_what_only_begins_like_a_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "code.zip").write_bytes(data)
    for flag in ("--function", "--layer"):
        assert_refused(run(flag, tmp_path / "code.zip"), "code.zip is not a valid zip file")


def test_an_encrypted_zip_is_refused(zipped: Zipped) -> None:
    path = zipped({"lambda_function.py": HANDLER})
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert_refused(run("--function", path), str(path), "encrypted")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--layer", "nowhere"], "--layer"),
        (["--layer", "main.py"], "neither a folder nor a zip"),
        (["--function", "main.py"], "neither a folder nor a zip"),
        (["--function", "name=nowhere"], "nowhere"),
        (["--function", ""], "--function"),
        (["--function", "function", "--function", "layer"], "--serve"),
        (["--serve", "--function", "function", "--function", "function"], "NAME=PATH"),
        (["--concurrency", "0"], "--concurrency"),
        (["--concurrency", "many"], "--concurrency"),
        (["--invoke-mode", "STREAM"], "--invoke-mode"),
        (["--env", "words"], "NAME=VALUE"),
        (["--env", "1A=x"], "NAME=VALUE"),
        (["--env", "AWS_LAMBDA_RUNTIME_API=x"], "AWS_LAMBDA_RUNTIME_API"),
        (["--env-file", "nowhere"], "nowhere"),
        (["--cors", "{"], "--cors"),
        (["--cors", '{"AllowOrigin": []}'], "AllowOrigin"),
        (["--cors", '{"MaxAge": -1}'], "MaxAge"),
        (["--cors", '{"AllowOrigins": "*"}'], "AllowOrigins"),
        (["--api-only", "--isolate"], "--isolate"),
        (["--api-only", "--function", "function", "--function", "other=layer"], "--api-only"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], word: str) -> None:
    result = run(*arguments, cwd=ROOT)
    assert (result.code, result.out) == (2, b"")
    assert result.err.count("\n") == 1 and result.err.startswith("main.py: error: ") and word in result.err, result.err
