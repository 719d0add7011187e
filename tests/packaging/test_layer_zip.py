"""The slim layer: the files of the manifest, and the layers that the build refuses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.built_zips import (
    FILES,
    MANIFEST,
    MEBIBYTE,
    Pythons,
    contents,
    modes,
    pycs,
)
from support.checkout import ROOT, Checkout

VERSION = MANIFEST["version"]


def test_the_layer_contains_exactly_the_files_of_the_manifest(checkout: Checkout) -> None:
    for path in FILES:
        (checkout.root / "layer" / path).chmod(0o640)
    checkout.build("--bytecode", "none")
    names = {"0755": "-rwxr-xr-x", "0644": "-rw-r--r--"}
    assert modes(checkout.dist / "layer-slim.zip") == {file["path"]: names[file["mode"]] for file in MANIFEST["files"]}
    for path, data in contents(checkout.dist / "layer-slim.zip").items():
        assert data == (ROOT / "layer" / path).read_bytes()


@pytest.mark.long
def test_the_layer_contains_bytecode_for_every_python_that_is_found(checkout: Checkout, pythons: Pythons) -> None:
    checkout.build("--bytecode", "none", "-o", checkout.root / "plain")
    checkout.build(PATH=pythons.path)
    plain = modes(checkout.root / "plain" / "layer-slim.zip")
    added = {path: "-rw-r--r--" for version in pythons.versions for path in pycs(version)}
    assert modes(checkout.dist / "layer-slim.zip") == plain | added


def edit(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda root: (root / path).write_bytes(change((root / path).read_bytes()))


LAYER_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing file": (
        lambda root: (root / "layer/runtime.py").unlink(),
        "layer/runtime.py is missing: add it, or remove it from layer-manifest.json",
    ),
    "missing folder": (
        lambda root: shutil.rmtree(root / "layer"),
        "cannot read layer: No such file or directory",
    ),
    "stray file": (
        lambda root: (root / "layer/notes.txt").touch(),
        "layer/notes.txt is not listed in layer-manifest.json: remove it, or add it there",
    ),
    "stray hidden file deep down": (
        lambda root: ((root / "layer/a/b").mkdir(parents=True), (root / "layer/a/b/.x").touch()),
        "layer/a/b/.x is not listed in layer-manifest.json: remove it, or add it there",
    ),
    "symbolic link": (
        lambda root: (
            (root / "layer/runtime.py").unlink(),
            (root / "layer/runtime.py").symlink_to("/etc/hosts"),
        ),
        "layer/runtime.py is a symbolic link: replace it with a copy of its target",
    ),
    "pipe": (
        lambda root: os.mkfifo(root / "layer/pipe"),
        "layer/pipe is neither a file nor a folder: remove it",
    ),
    "CRLF in bootstrap": (
        edit("layer/bootstrap", lambda data: data.replace(b"\n", b"\r\n", 1)),
        "layer/bootstrap has CRLF line ends: save it with LF",
    ),
    "CRLF in runtime.py": (
        edit("layer/runtime.py", lambda data: data + b"# last\r\n"),
        "layer/runtime.py has CRLF line ends: save it with LF",
    ),
    "bootstrap is not a script": (
        edit("layer/bootstrap", lambda data: b"\n" + data),
        "layer/bootstrap must begin with a #! line, such as #!/bin/sh",
    ),
    "another version": (
        edit("layer/runtime.py", lambda data: data.replace(f'"{VERSION}"'.encode(), b'"9.9.9"')),
        f'layer/runtime.py has VERSION = "9.9.9", layer-manifest.json has "{VERSION}": make them equal',
    ),
    "no version": (
        edit("layer/runtime.py", lambda _: f'text = """\nVERSION = "{VERSION}"\n"""\n'.encode()),
        f'layer/runtime.py must contain the line VERSION = "{VERSION}", the version in layer-manifest.json',
    ),
    "no Python": (
        edit("layer/runtime.py", lambda _: b"x = 1\ndef\n"),
        "layer/runtime.py is not valid Python: invalid syntax (runtime.py, line 2)",
    ),
    "too large": (
        edit("layer/runtime.py", lambda data: data + b"#" * (50 * MEBIBYTE)),
        "layer-slim.zip has ",
    ),
}


@pytest.mark.parametrize("fault", LAYER_FAULTS)
def test_a_faulty_layer_is_refused_and_the_last_build_is_kept(checkout: Checkout, built: Path, fault: str) -> None:
    break_it, message = LAYER_FAULTS[fault]
    shutil.copytree(built, checkout.dist)
    break_it(checkout.root)
    assert checkout.refusal().startswith(message)


def test_a_first_build_that_is_refused_leaves_no_output_folder(checkout: Checkout) -> None:
    (checkout.root / "layer" / "notes.txt").touch()
    checkout.refusal()
    assert not checkout.dist.exists()


@pytest.mark.parametrize("path", ["streaming_runtime/notes.txt", "streaming_runtime/deeper/.hidden", "other/module.py"])
def test_a_stray_file_at_any_depth_is_refused(checkout: Checkout, path: str) -> None:
    (checkout.root / "layer" / path).parent.mkdir(parents=True, exist_ok=True)
    (checkout.root / "layer" / path).touch()
    assert checkout.refusal() == f"layer/{path} is not listed in layer-manifest.json: remove it, or add it there"


def test_a_module_of_another_version_is_refused(checkout: Checkout) -> None:
    path = checkout.root / "layer/streaming_runtime/http1.py"
    path.write_text(path.read_text().replace(f'VERSION = "{VERSION}"', 'VERSION = "0.0.9"'))
    assert checkout.refusal() == (
        f'layer/streaming_runtime/http1.py has VERSION = "0.0.9", layer-manifest.json has "{VERSION}": make them equal'
    )
