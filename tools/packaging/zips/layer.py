"""What every layer holds: the files below ``layer/`` that the manifest names, for any architecture."""

import ast
import re
from pathlib import Path

from tools.common.paths import files_below, read, shown
from tools.packaging import PackagingError
from tools.packaging.manifest import FILE_NAME, LayerFile, Manifest
from tools.packaging.zips.archive import Entry

_BOOTSTRAP_VERSION = re.compile(rb"^_version=(\S*)$", re.MULTILINE)


def layer_entries(folder: Path, manifest: Manifest) -> list[Entry]:
    """Read the layer from ``folder``, exactly the files the manifest names, with the modes it gives them.

    Raises:
        PackagingError: a file is missing, not named, no regular file or has CRLF line ends (no program has a
            name like ``/bin/sh\\r``), ``bootstrap`` has no ``#!`` line, or the versions differ.
    """
    _check_names(folder, manifest)
    entries = [_entry(folder, file) for file in manifest.files]
    contents = {entry.path: entry.data for entry in entries}
    if not contents["bootstrap"].startswith(b"#!"):
        raise PackagingError(f"{shown(folder / 'bootstrap')} must begin with a #! line, as in #!/bin/sh")
    _check_bootstrap_version(folder / "bootstrap", contents["bootstrap"], manifest.version)
    for path, source in contents.items():
        if path.endswith(".py"):
            _check_version(folder / path, source, manifest.version)
    return entries


def _check_names(folder: Path, manifest: Manifest) -> None:
    named = {file.path for file in manifest.files}
    paths = files_below(folder, lambda name: name == "__pycache__")
    found = {path.relative_to(folder).as_posix() for path in paths}
    if missing := sorted(named - found):
        raise PackagingError(f"{shown(folder / missing[0])} is missing: add it, or drop it from {FILE_NAME}")
    if stray := sorted(found - named):
        raise PackagingError(f"{shown(folder / stray[0])} is not named in {FILE_NAME}: remove it or add it")


def _entry(folder: Path, file: LayerFile) -> Entry:
    data = read(folder / file.path)
    if b"\r\n" in data:
        raise PackagingError(f"{shown(folder / file.path)} has CRLF line ends: save it with LF")
    return Entry(file.path, file.mode, data)


def _check_bootstrap_version(path: Path, source: bytes, expected: str) -> None:
    found = _BOOTSTRAP_VERSION.search(source)
    if found is None or found[1].decode(errors="replace") != expected:
        raise PackagingError(f"{shown(path)} must say _version={expected} in a line of its own, as {FILE_NAME} does")


def _check_version(path: Path, source: bytes, expected: str) -> None:
    try:
        version = _version(ast.parse(source, path.name))
    except (SyntaxError, ValueError) as error:
        raise PackagingError(f"{shown(path)} is not valid Python: {error}") from error
    if version is None:
        raise PackagingError(f'{shown(path)} must say VERSION = "{expected}" in a line of its own')
    if version != expected:
        raise PackagingError(
            f'{shown(path)} says VERSION = "{version}", {FILE_NAME} says "{expected}": make them the same'
        )


def _version(module: ast.Module) -> str | None:
    for node in module.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name("VERSION")], value=ast.Constant(str(version)))
                | ast.AnnAssign(target=ast.Name("VERSION"), value=ast.Constant(str(version)))
            ):
                return version
    return None
