"""Functions and layers, in folders and zips."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from support.emulator import ROOT, MakeFunction, MakeZip, run, with_tmpdir


def test_a_function_runs_from_a_zip_and_has_its_name(make_zip: MakeZip, tmp_path: Path) -> None:
    source = """
        import os

        def handler(event, context):
            yield os.environ["AWS_LAMBDA_FUNCTION_NAME"].encode()
    """
    path = make_zip({"lambda_function.py": source}, name="mail.zip")
    assert run("--function", path, env=with_tmpdir(tmp_path))[:2] == (0, b"mail")
    assert list((tmp_path / "temporary").iterdir()) == []


BUILT = """\
def handler(event, context):
    yield b"built"
"""


def test_the_zips_of_the_build_run(layer: Path, tmp_path: Path) -> None:
    dist = layer.parent / "dist"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "lambda_function.py").write_text(BUILT)
    build = [ROOT / "build.sh", "function", tmp_path / "other", "-o", tmp_path / "dist"]
    subprocess.run(build, check=True, capture_output=True)
    result = run("--layer", dist / "layer-slim.zip", "--function", tmp_path / "dist" / "other.zip")
    assert result[:2] == (0, b"built"), result.err


def test_layers_are_merged_in_order_and_are_on_the_search_paths(
    make_zip: MakeZip, make_function: MakeFunction, tmp_path: Path
) -> None:
    function = make_function("""
        import base, extra

        def handler(event, context):
            yield json.dumps([base.NAME, extra.NAME, os.environ["PATH"]]).encode()
    """)
    first = make_zip({"python/base.py": "NAME = 'first'", "python/extra.py": "NAME = 'first'"}, name="first.zip")
    (tmp_path / "second" / "python").mkdir(parents=True)
    (tmp_path / "second" / "python" / "extra.py").write_text("NAME = 'second'")
    (tmp_path / "second" / "bin").mkdir()
    (tmp_path / "second" / "bin" / "tool").write_text("")
    result = run("--function", function.path, "--layer", first, "--layer", tmp_path / "second")
    assert result.code == 0, result.err
    base, extra, path = json.loads(result.out)
    assert (base, extra) == ("first", "second")
    assert path.split(":")[-1].endswith("/bin")


YIELD_EXTRA = """
import extra

def handler(event, context):
    yield extra.NAME
"""


def test_a_layer_with_a_bootstrap_replaces_the_runtimes_own(
    layer: Path, make_zip: MakeZip, make_function: MakeFunction
) -> None:
    dependency = make_zip({"python/extra.py": "NAME = b'extra'"})
    function = make_function(YIELD_EXTRA)
    for order in ([layer, dependency], [dependency, layer]):
        arguments = [argument for path in order for argument in ("--layer", path)]
        assert run("--function", function.path, *arguments)[:2] == (0, b"extra")


def test_a_folder_of_a_later_layer_replaces_a_file_of_an_earlier_one(make_zip: MakeZip) -> None:
    layers = [
        make_zip({"python/extra.py": "NAME = b'file'", "python/b/__init__.py": "NAME = b'folder'"}, name="1.zip"),
        make_zip({"python/extra.py/x": "", "python/b": ""}, name="2.zip"),
        make_zip({"python/extra.py": "NAME = b'last'"}, name="3.zip"),
    ]
    function = make_zip({"lambda_function.py": YIELD_EXTRA})
    arguments = [argument for path in layers for argument in ("--layer", path)]
    assert run("--function", function, *arguments)[:2] == (0, b"last")


def test_a_layer_with_an_interpreter_emulates_an_os_only_runtime(tmp_path: Path, make_zip: MakeZip) -> None:
    names = ["AWS_EXECUTION_ENV", "AWS_LAMBDA_EXEC_WRAPPER", "PROOF"]
    source = f"""
        import json, os

        def handler(event, context):
            yield json.dumps([os.environ.get(name) for name in {names}]).encode()
    """
    python = tmp_path / "layer" / "cpython" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPROOF=1 exec {os.path.realpath("/proc/self/exe")} "$@"\n')
    python.chmod(0o755)
    shutil.copytree(ROOT / "layer", tmp_path / "layer", dirs_exist_ok=True)
    arguments = ("--layer", tmp_path / "layer", "--function", make_zip({"lambda_function.py": source}))
    result = run(*arguments)
    assert json.loads(result.out) == [None, None, "1"], result.err
    python.write_text("\x7fELF of another machine")
    result = run(*arguments)
    assert json.loads(result.out)[2] is None, result.err
    assert "code runs on python3." in result.err
