"""The layer's identity: ``layer-manifest.json``, read and checked.

Its ``files`` are the sources, all of which the layer's zip holds. The bytecode in it is derived from them, for the
versions that a build chooses, so it is not listed.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from tools.packaging import PackagingError
from tools.packaging.sources import read

FILE_NAME = "layer-manifest.json"

_KEYS: dict[str, type] = {
    "name": str,
    "version": str,
    "description": str,
    "license": str,
    "compatibleRuntimes": list,
    "compatibleArchitectures": list,
    "files": list,
}
_FILE_KEYS: dict[str, type] = {"path": str, "mode": str}
_JSON_NAMES: dict[type, str] = {list: "a list", str: "a string"}

# Limits of PublishLayerVersion: AWS Lambda API Reference, API_PublishLayerVersion.
_NAME = re.compile(r"[a-zA-Z0-9-_]{1,140}")
_MAX_DESCRIPTION = 256
_MAX_LICENSE = 512
_MAX_RUNTIMES = 15
_ARCHITECTURES = ("x86_64", "arm64")

# The pattern that semver.org suggests, without its groups.
_VERSION = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?"
)
_MANAGED_PYTHON = re.compile(r"python(3\.[0-9]+)")
_MODES = {"0755": 0o755, "0644": 0o644}
_REQUIRED_FILES = {"bootstrap": 0o755, "runtime.py": 0o644}


@dataclass(frozen=True)
class LayerFile:
    """One file of the layer: its path below ``layer/`` and ``/opt``, and its permission bits there."""

    path: str
    mode: int


@dataclass(frozen=True)
class Manifest:
    """What ``layer-manifest.json`` says, every field within the limits of AWS Lambda."""

    name: str
    version: str
    description: str
    license: str
    compatible_runtimes: tuple[str, ...]
    compatible_architectures: tuple[str, ...]
    files: tuple[LayerFile, ...]

    @property
    def python_versions(self) -> tuple[str, ...]:
        """The versions of the managed Python runtimes among the compatible ones, as in 3.12."""
        matches = map(_MANAGED_PYTHON.fullmatch, self.compatible_runtimes)
        return tuple(match[1] for match in matches if match)


def load(path: Path) -> Manifest:
    """Read and check the manifest at ``path``.

    Raises:
        PackagingError: it cannot be read, or breaks a rule; the first breach is named.
    """
    return parse(read(path))


def parse(text: bytes) -> Manifest:
    """Check the JSON ``text`` of a manifest; raises ``PackagingError`` at the first breach."""
    fields = _fields(_json(text), _KEYS, "")
    manifest = Manifest(
        name=fields["name"],
        version=fields["version"],
        description=fields["description"],
        license=fields["license"],
        compatible_runtimes=_strings(fields, "compatibleRuntimes"),
        compatible_architectures=_strings(fields, "compatibleArchitectures"),
        files=tuple(_file(value, f"files[{number}]: ") for number, value in enumerate(fields["files"])),
    )
    _check_identity(manifest)
    _check_compatibility(manifest)
    _check_files(manifest.files)
    return manifest


def _refuse(message: str) -> NoReturn:
    raise PackagingError(f"{FILE_NAME}: {message}")


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        _refuse(f"is not JSON: {error}")


def _fields(value: Any, keys: dict[str, type], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"{where}must be an object")
    for key in keys:
        if key not in value:
            _refuse(f"{where}{key} is missing")
    for key, item in value.items():
        if key not in keys:
            _refuse(f"{where}unknown key {key!r}, known are {', '.join(keys)}")
        if not isinstance(item, keys[key]):
            _refuse(f"{where}{key} must be {_JSON_NAMES[keys[key]]}")
    return value


def _strings(fields: dict[str, Any], key: str) -> tuple[str, ...]:
    values = fields[key]
    if not all(isinstance(value, str) and value for value in values):
        _refuse(f"{key} must hold strings only, none of them empty")
    if len(set(values)) < len(values):
        _refuse(f"{key} names one thing twice")
    return tuple(values)


def _file(value: Any, where: str) -> LayerFile:
    fields = _fields(value, _FILE_KEYS, where)
    path, mode = fields["path"], fields["mode"]
    normal = PurePosixPath(path)
    if str(normal) != path or normal.is_absolute() or path == "." or ".." in normal.parts:
        _refuse(f"{where}path {path!r} must be relative and normal, as in 'folder/file'")
    if "\\" in path or not path.isprintable():
        _refuse(f"{where}path {path!r} must hold no backslash and no control character")
    if mode not in _MODES:
        _refuse(f"{where}mode {mode!r} must be one of {', '.join(_MODES)}")
    return LayerFile(path, _MODES[mode])


def _check_identity(manifest: Manifest) -> None:
    if not _NAME.fullmatch(manifest.name):
        _refuse(f"name {manifest.name!r} must be 1 to 140 of the characters a-z A-Z 0-9 - _")
    if not _VERSION.fullmatch(manifest.version):
        _refuse(f"version {manifest.version!r} must be a semantic version, as in 1.2.3")
    if len(manifest.description) > _MAX_DESCRIPTION:
        _refuse(f"description has {len(manifest.description)} characters, {_MAX_DESCRIPTION} are allowed")
    if len(manifest.license) > _MAX_LICENSE:
        _refuse(f"license has {len(manifest.license)} characters, {_MAX_LICENSE} are allowed")


def _check_compatibility(manifest: Manifest) -> None:
    count = len(manifest.compatible_runtimes)
    if not 1 <= count <= _MAX_RUNTIMES:
        _refuse(f"compatibleRuntimes has {count} entries, 1 to {_MAX_RUNTIMES} are allowed")
    if not manifest.compatible_architectures:
        _refuse(f"compatibleArchitectures is empty, name one or both of {', '.join(_ARCHITECTURES)}")
    for name in manifest.compatible_architectures:
        if name not in _ARCHITECTURES:
            _refuse(f"compatibleArchitectures: {name!r} must be one of {', '.join(_ARCHITECTURES)}")


def _check_files(files: tuple[LayerFile, ...]) -> None:
    modes = {file.path: file.mode for file in files}
    if len(modes) < len(files):
        _refuse("files names one path twice")
    for path, mode in _REQUIRED_FILES.items():
        if path not in modes:
            _refuse(f"files must name {path}")
        if modes[path] != mode:
            _refuse(f"files: {path} must have mode {mode:04o}")
