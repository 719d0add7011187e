"""The files that every variant of the layer contains: those below `layer/` that the manifest lists."""

import ast
import re
from pathlib import Path

from tools.common.paths import files_below, read, shown
from tools.packaging import PackagingError
from tools.packaging.manifest import FILE_NAME, LayerFile, Manifest
from tools.packaging.zips.archive import Entry

_BOOTSTRAP_VERSION = re.compile(rb"^_version=(\S*)$", re.MULTILINE)


def layer_entries(folder: Path, manifest: Manifest) -> list[Entry]:
    """Read the layer from `folder`: exactly the files that the manifest lists, with the modes it gives them.

    Raises:
        PackagingError: a file is missing or not listed; a file has CRLF line ends (the kernel would look for a program
            called `/bin/sh\\r`); `bootstrap` has no `#!` line; or a file has another version than the manifest.
        ToolError: an entry is not a regular file, or cannot be read.
    """
    _check_names(folder, manifest)
    entries = [_entry(folder, file) for file in manifest.files]
    contents = {entry.path: entry.data for entry in entries}
    if not contents["bootstrap"].startswith(b"#!"):
        raise PackagingError(f"{shown(folder / 'bootstrap')} must begin with a #! line, such as #!/bin/sh")
    _check_bootstrap_version(folder / "bootstrap", contents["bootstrap"], manifest.version)
    for path, source in contents.items():
        if path.endswith(".py"):
            _check_version(folder / path, source, manifest.version)
    return entries


def _check_names(folder: Path, manifest: Manifest) -> None:
    listed = {file.path for file in manifest.files}
    paths = files_below(folder, lambda name: name == "__pycache__")
    found = {path.relative_to(folder).as_posix() for path in paths}
    if missing := sorted(listed - found):
        raise PackagingError(f"{shown(folder / missing[0])} is missing: add it, or remove it from {FILE_NAME}")
    if stray := sorted(found - listed):
        raise PackagingError(f"{shown(folder / stray[0])} is not listed in {FILE_NAME}: remove it, or add it there")


def _entry(folder: Path, file: LayerFile) -> Entry:
    data = read(folder / file.path)
    if b"\r\n" in data:
        raise PackagingError(f"{shown(folder / file.path)} has CRLF line ends: save it with LF")
    return Entry(file.path, file.mode, data)


def _check_bootstrap_version(path: Path, source: bytes, expected: str) -> None:
    found = _BOOTSTRAP_VERSION.search(source)
    if found is None or found[1].decode(errors="replace") != expected:
        raise PackagingError(f"{shown(path)} must contain the line _version={expected}, the version in {FILE_NAME}")


def _check_version(path: Path, source: bytes, expected: str) -> None:
    try:
        version = _version(ast.parse(source, path.name))
    except (SyntaxError, ValueError) as error:
        raise PackagingError(f"{shown(path)} is not valid Python: {error}") from error
    if version is None:
        raise PackagingError(f'{shown(path)} must contain the line VERSION = "{expected}", the version in {FILE_NAME}')
    if version != expected:
        raise PackagingError(f'{shown(path)} has VERSION = "{version}", {FILE_NAME} has "{expected}": make them equal')


def _version(module: ast.Module) -> str | None:
    for node in module.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name("VERSION")], value=ast.Constant(str(version)))
                | ast.AnnAssign(target=ast.Name("VERSION"), value=ast.Constant(str(version)))
            ):
                return version
    return None
