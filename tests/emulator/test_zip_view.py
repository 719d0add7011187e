"""A function that runs from a folder sees the files of its zip, and no others."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.emulator import (
    ECHO,
    ROOT,
    FunctionFolder,
    MakeFunction,
    MakeZip,
    Program,
    Serving,
    error_of,
    run,
    until,
    with_tmpdir,
)

from tools.common.function_folder import compare_with_zip
from tools.common.lambda_facts import LIMITS
from tools.emulator.deployment.zip_view import update_view
from tools.packaging.builds import function_zip

# Lists every file below the working directory, and looks for the secrets beside the module in the usual ways.
LOOK = """
from pathlib import Path

def found(path):
    return (path / ".env").exists() or (path / ".git").exists()

def handler(event, context):
    try:
        import old
        imported = True
    except ImportError:
        imported = False
    files = sorted(os.path.relpath(os.path.join(where, name)) for where, _, names in os.walk(".") for name in names)
    places = [Path("."), Path(__file__).parent, Path(__file__).resolve().parent, Path(os.environ["LAMBDA_TASK_ROOT"])]
    yield json.dumps([files, imported, [found(place) for place in places]]).encode()
"""
PIPES = ["gate", "lifeline", "messages"]  # of every FunctionFolder; a zip cannot contain them


def add_secrets(folder: Path) -> None:
    """Add files that a zip leaves out, and a package with data, which it contains."""
    (folder / "package" / ".cache").mkdir(parents=True)
    (folder / "package" / ".cache" / "state").write_text("")
    (folder / "package" / "__init__.py").write_text("")
    (folder / "package" / "data.txt").write_text("data")
    (folder / "package" / "__pycache__").mkdir()
    (folder / "package" / "__pycache__" / "module.pyc").write_bytes(b"")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("")
    (folder / ".env").write_text("KEY=value")
    (folder / "old.pyc").write_bytes(b"")


FILES = [*PIPES[:1], "lambda_function.py", *PIPES[1:], "package/__init__.py", "package/data.txt"]


def test_a_function_sees_only_the_files_of_its_zip(make_function: MakeFunction) -> None:
    function = make_function(LOOK)
    before = run("--function", function.path)
    assert "does not contain" not in before.err
    add_secrets(function.path)
    result = run("--function", function.path)
    assert json.loads(result.out) == [FILES, False, [False] * 4]
    left_out = ".env, .git/, old.pyc, package/.cache/"
    assert f"a-function does not see {left_out}: the zip of ./build.sh function has no such files\n" in result.err


def test_the_view_and_the_zip_have_the_same_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "lambda_function.py").write_text("def handler(event, context):\n    yield b''\n")
    (source / "lambda_function.pyc").write_bytes(b"")
    add_secrets(source)
    zipped = function_zip(source, tmp_path / "dist", LIMITS).zips["source.zip"]
    (tmp_path / "view").mkdir()
    update_view(source, tmp_path / "view")
    seen = {str(path.relative_to(tmp_path / "view")) for path in (tmp_path / "view").rglob("*") if path.is_file()}
    assert seen == set(zipfile.ZipFile(io.BytesIO(zipped)).namelist())


def test_an_isolated_function_sees_only_the_files_of_its_zip(tmp_path: Path) -> None:
    with FunctionFolder(tmp_path / "a-function", LOOK) as function:
        add_secrets(function.path)
        result = run("--isolate", "--function", function.path)
    if "--isolate is not possible here" in result.err:
        pytest.skip(result.err.strip())
    assert json.loads(result.out) == [FILES, False, [False] * 4]


@pytest.mark.parametrize("options", [[], ["--snapstart"], ["--max-concurrency", "2"]])
def test_the_stack_trace_names_the_source(make_function: MakeFunction, tmp_path: Path, options: list[str]) -> None:
    function = make_function("""
        def handler(event, context):
            print("working in", os.getcwd())
            raise ValueError("from " + __file__)
            yield b""
    """)
    (function.path / ".env").write_text("")
    environment = with_tmpdir(tmp_path)
    result = run("--function", function.path, *options, env=environment)
    module = function.path / "lambda_function.py"
    error = error_of(result)
    assert error["errorMessage"] == f"from {module}"
    assert f'File "{module}", line ' in error["stackTrace"][0]
    assert f"working in {function.path}" in result.err
    assert environment["TMPDIR"] not in result.err


def test_an_init_error_and_an_error_within_the_response_name_the_source(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield b"first"
            raise ValueError
    """)
    (function.path / ".env").write_text("")
    assert f'File "{function.path}/lambda_function.py"' in error_of(run("--function", function.path))["stackTrace"][0]
    function.write("raise ValueError")
    assert f'File "{function.path}/lambda_function.py"' in error_of(run("--function", function.path))["stackTrace"][0]


def test_the_next_request_sees_a_change_and_no_new_hidden_file(serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            yield json.dumps([name for name in sorted(os.listdir(".")) if name[0] in ".d"]).encode()
    """)
    assert json.loads(server.get().body) == []
    (function.path / ".env").write_text("KEY=value")  # the first one: until now the function ran from its folder
    assert json.loads(server.get().body) == []
    assert "a-function does not see .env: " in server.errors()
    (function.path / "data.txt").write_text("data")
    assert json.loads(server.get().body) == ["data.txt"]
    (function.path / ".more").write_text("")
    assert json.loads(server.get().body) == ["data.txt"]
    function.write("""
        def handler(event, context):
            yield b"changed"
    """)
    (function.path / "data.txt").unlink()
    assert server.get().body == b"changed"


def test_the_digest_of_the_lambda_api_covers_the_files_of_the_zip(serving: Serving) -> None:
    server, function = serving(ECHO)

    def configuration() -> dict[str, Any]:
        return json.loads(server.get("/2015-03-31/functions/a-function/configuration").body)

    before = configuration()
    (function.path / ".env").write_text("KEY=value")
    after = configuration()
    assert (after["CodeSize"], after["CodeSha256"]) == (before["CodeSize"], before["CodeSha256"])
    (function.path / "data.txt").write_text("data")
    assert configuration()["CodeSize"] == before["CodeSize"] + 4


def test_a_link_keeps_working_and_is_named(make_function: MakeFunction, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "words.py").write_text("WORD = b'shared'")
    function = make_function("""
        from shared.words import WORD
        from again.words import WORD as SAME

        def handler(event, context):
            yield WORD + SAME
    """)
    (function.path / "shared").symlink_to("../shared")
    (function.path / "again").symlink_to("shared")
    for secret in ("", ".env"):
        if secret:
            (function.path / secret).write_text("")
        result = run("--function", function.path)
        assert result.out == b"sharedshared", result.err
        assert "a-function sees again, shared, but ./build.sh function refuses symbolic links" in result.err


def test_a_process_of_the_developer_gets_new_files_at_the_same_path(make_function: MakeFunction) -> None:
    function = make_function(ECHO)
    (function.path / ".env").write_text("")
    with Program("--api-only", "-p", "0", "--function", function.path) as program:
        while not (line := program.read_through(b"\n")).startswith(b"LAMBDA_TASK_ROOT="):
            assert line
        view = Path(line.decode().strip().partition("=")[2].strip('"'))
        assert view != function.path and not (view / ".env").exists()
        assert (view / "lambda_function.py").resolve() == function.path / "lambda_function.py"
        (function.path / "helper.py").write_text("")
        until(lambda: (view / "helper.py").exists())


def test_a_zip_layer_does_not_count_what_the_view_leaves_out(make_function: MakeFunction, make_zip: MakeZip) -> None:
    function = make_function(ECHO)
    with open(function.path / ".large", "wb") as file:
        file.truncate(300 << 20)
    result = run("-e", "[1]", "--layer", make_zip({"python/package.py": ""}), "--function", function.path)
    assert (result.code, result.out) == (0, b"[1]"), result.err


# The view itself


def test_files_are_copied_where_hard_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, place: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)

    monkeypatch.setattr(os, "link", refuse)
    source, view = tmp_path / "source", tmp_path / "view"
    for folder in (source, view):
        folder.mkdir()
    (source / "program").write_text("#!/bin/sh\n")
    (source / "program").chmod(0o755)
    os.mkfifo(source / "pipe")
    update_view(source, view)
    assert not (view / "program").is_symlink() and (view / "program").stat().st_mode & 0o777 == 0o755
    assert (view / "pipe").resolve() == source / "pipe"


@pytest.mark.parametrize("symbolic", [False, True])
def test_an_update_replaces_files_by_folders_and_folders_by_files(tmp_path: Path, symbolic: bool) -> None:
    source, view = tmp_path / "source", tmp_path / "view"
    for folder in (source, view):
        folder.mkdir()
    (source / "one").mkdir()
    (source / "one" / "file").write_text("one")
    (source / "two").write_text("two")
    update_view(source, view, symbolic)
    (source / "one" / "file").unlink()
    (source / "one").rmdir()
    (source / "one").write_text("1")
    (source / "two").unlink()
    (source / "two").mkdir()
    (source / "two" / "file").write_text("2")
    update_view(source, view, symbolic)
    assert {str(path.relative_to(view)): path.read_text() for path in view.rglob("*") if path.is_file()} == {
        "one": "1",
        "two/file": "2",
    }
    assert (source / "two" / "file").read_text() == "2"


def test_a_link_into_a_hidden_folder_leads_to_the_source(tmp_path: Path) -> None:
    source, view = tmp_path / "source", tmp_path / "view"
    (source / ".venv" / "package").mkdir(parents=True)
    view.mkdir()
    (source / "package").symlink_to(".venv/package")
    (source / "nothing").symlink_to("nowhere")
    update_view(source, view)
    assert (view / "package").resolve() == source / ".venv" / "package"
    assert os.readlink(view / "nothing") == "nowhere"
    (source / "package").unlink()
    (source / "package").symlink_to("nothing")
    update_view(source, view)
    assert os.readlink(view / "package") == "nothing"


def test_the_comparison_finds_hidden_files_orphans_and_links_at_any_depth(tmp_path: Path) -> None:
    add_secrets(tmp_path)
    (tmp_path / "new.py").write_text("")
    (tmp_path / "new.pyc").write_bytes(b"")
    (tmp_path / "package" / "link").symlink_to("data.txt")
    (tmp_path / "package" / ".hidden").symlink_to("data.txt")
    found = compare_with_zip(tmp_path)
    assert found.left_out == [".env", ".git/", "old.pyc", "package/.cache/", "package/.hidden"]
    assert found.links == ["package/link"]


def test_the_checkout_has_nothing_to_compare() -> None:
    assert compare_with_zip(ROOT / "function") == ([], [])
