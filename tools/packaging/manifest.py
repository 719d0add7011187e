"""The layer's identity: reads and checks `layer-manifest.json`.

The build, `publish`, `verify` and the roll-out take name, version, variants and files from here. `files` lists the
sources of the layer. Bytecode is derived from them for the Python versions that a build chooses, so it is not listed.

The rules come from AWS where AWS has one (the source is beside each), so that a mistake is found before a call fails.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, TypeVar

from tools.common.lambda_facts import ARCHITECTURES, LAYER_NAME, LAYER_VERSION_ARN
from tools.common.paths import read
from tools.packaging import PackagingError

FILE_NAME = "layer-manifest.json"

Item = TypeVar("Item")

_KEYS: dict[str, type] = {
    "name": str,
    "version": str,
    "description": str,
    "license": str,
    "compatibleRuntimes": list,
    "compatibleArchitectures": list,
    "files": list,
    "selfContained": dict,
}
_OPTIONAL_KEYS: dict[str, type] = {"published": list}
_FILE_KEYS: dict[str, type] = {"path": str, "mode": str}
_SELF_CONTAINED_KEYS: dict[str, type] = {"compatibleRuntimes": list, "interpreters": list}
_PIN_KEYS: dict[str, type] = {
    "python": str,
    "architecture": str,
    "version": str,
    "release": str,
    "url": str,
    "sha256": str,
}
_PUBLISHED_KEYS: dict[str, type] = {
    "variant": str,
    "version": str,
    "partition": str,
    "account": str,
    "region": str,
    "arn": str,
    "sha256": str,
    "size": int,
    "sharedWith": list,
}
_SIGNED_KEYS: dict[str, type] = {"signedSha256": str, "signedSize": int, "signingProfileVersion": str}
_OPTIONAL_PUBLISHED_KEYS: dict[str, type] = {**_SIGNED_KEYS, "bundled": str, "libraries": str}
_JSON_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "a string", int: "an integer"}

# AWS Lambda API Reference, API_PublishLayerVersion: lengths in characters, and the number of CompatibleRuntimes.
_NAME = re.compile(LAYER_NAME)
_MAX_DESCRIPTION = 256
_MAX_LICENSE = 512
_MAX_RUNTIMES = 15

# The pattern that semver.org suggests, without its groups.
_VERSION = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?"
)
_MANAGED_PYTHON = re.compile(r"python(3\.[0-9]+)")
_PATCH_VERSION = re.compile(r"(3\.[0-9]+)\.[0-9]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODES = {"0755": 0o755, "0644": 0o644}
_REQUIRED_FILES = {"bootstrap": 0o755, "runtime.py": 0o644}

_VARIANT = re.compile(r"slim|python3\.[0-9]+-(x86_64|arm64)")  # includes variants that are no longer built
_ARN = re.compile(LAYER_VERSION_ARN)
PUBLIC = "public"
GRANTEE = re.compile(
    rf"{PUBLIC}|[0-9]{{12}}|o-[a-z0-9]{{10,32}}"
)  # organization ids: AWS Organizations, API_Organization


@dataclass(frozen=True)
class LayerFile:
    """One file of the layer: its path below `layer/` and `/opt`, and its permission bits there."""

    path: str
    mode: int


@dataclass(frozen=True)
class Pin:
    """A release of python-build-standalone from which a self-contained layer is built."""

    python: str  # such as 3.13
    architecture: str  # as AWS Lambda names it
    version: str  # such as 3.13.5
    release: str  # the tag of its build
    url: str
    sha256: str  # of the archive, in hexadecimal


@dataclass(frozen=True)
class Published:
    """One variant, published in one account and region.

    Args:
        version: the version of the layer, such as 1.2.3; the layer version of AWS Lambda is the last part of the ARN.
        sha256: of the built zip, in hexadecimal.
        size: of the built zip, in bytes.
        sharedWith: who may use it besides the account: `public`, or accounts and organizations.
        signedSha256, signedSize: of the zip that AWS Signer has made of it; empty and 0 if the version is not signed.
        signingProfileVersion: the ARN of the version of the signing profile.
        bundled: the CPython in the zip and the name of its build, as in `INTERPRETERS`; empty if unknown.
        libraries: the libraries in that CPython whose versions are known, such as `openssl 3.5.7, zlib 1.3.2`.
    """

    variant: str
    version: str
    partition: str
    account: str
    region: str
    arn: str
    sha256: str
    size: int
    sharedWith: tuple[str, ...]
    signedSha256: str = ""
    signedSize: int = 0
    signingProfileVersion: str = ""
    bundled: str = ""
    libraries: str = ""

    @property
    def library_versions(self) -> dict[str, str]:
        """The versions of the libraries in its CPython, by name."""
        return library_versions(self.libraries)

    @property
    def fields(self) -> dict[str, Any]:
        """The entry as in the manifest, without the optional fields that have no value."""
        return {key: value for key, value in asdict(self).items() if value or key not in _OPTIONAL_PUBLISHED_KEYS}

    @property
    def published_sha256(self) -> str:
        """The SHA-256 of the zip that is published, signed or not, in hexadecimal."""
        return self.signedSha256 or self.sha256

    @property
    def published_size(self) -> int:
        """The size of the zip that is published, signed or not, in bytes."""
        return self.signedSize or self.size

    @property
    def place(self) -> tuple[str, str, str, str]:
        """The key of an entry: no two entries have the same, and entries are sorted by it."""
        return (self.variant, self.partition, self.account, self.region)

    @property
    def layer_name(self) -> str:
        """The layer name in the ARN."""
        return self.arn.split(":")[6]


def library_versions(libraries: str) -> dict[str, str]:
    """Return the versions of libraries by name, of a text as in `Published.libraries`."""
    return dict(pair for each in libraries.split(", ") if len(pair := each.split(" ")) == 2)


@dataclass(frozen=True)
class Variant:
    """One zip of the layer, with the runtimes and architectures for which it may be published.

    Args:
        layer_name: the layer of this variant alone; each variant is published as a layer of its own.
    """

    name: str
    layer_name: str
    compatible_runtimes: tuple[str, ...]
    compatible_architectures: tuple[str, ...]

    @property
    def zip_name(self) -> str:
        """The name of its zip in the output folder."""
        return f"layer-{self.name}.zip"


@dataclass(frozen=True)
class Manifest:
    """The content of `layer-manifest.json`, every field within the limits of AWS Lambda."""

    name: str
    version: str
    description: str
    license: str
    compatible_runtimes: tuple[str, ...]
    compatible_architectures: tuple[str, ...]
    files: tuple[LayerFile, ...]
    os_only_runtimes: tuple[str, ...]
    pins: tuple[Pin, ...]
    published: tuple[Published, ...]

    @property
    def title(self) -> str:
        """Name and version, as `--version` prints them."""
        return f"{self.name} {self.version}"

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The slim layer, then the self-contained ones."""
        return (self.slim, *(self.self_contained(pin.python, pin.architecture) for pin in self.pins))

    @property
    def slim(self) -> Variant:
        """The variant for managed runtimes, which contain a Python."""
        return Variant("slim", self.name, self.compatible_runtimes, self.compatible_architectures)

    def self_contained(self, python: str, architecture: str) -> Variant:
        """Return the variant for OS-only runtimes with Python `python` (such as 3.13), for one architecture."""
        name = f"python{python}-{architecture}"
        layer_name = f"{self.name}-{name.replace('.', '-').replace('_', '-')}"  # AWS Lambda allows no dot in it
        return Variant(name, layer_name, self.os_only_runtimes, (architecture,))

    @property
    def python_versions(self) -> tuple[str, ...]:
        """The Python versions of the compatible managed runtimes, such as 3.12."""
        matches = map(_MANAGED_PYTHON.fullmatch, self.compatible_runtimes)
        return tuple(match[1] for match in matches if match)


def is_version(text: str) -> bool:
    """Return whether `text` is a semantic version."""
    return _VERSION.fullmatch(text) is not None


def load(path: Path) -> Manifest:
    """Read and check the manifest at `path`.

    Raises:
        ToolError: the file cannot be read.
        PackagingError: the manifest breaks a rule; the message names the first.
    """
    return parse(read(path))


def parse(text: bytes) -> Manifest:
    """Check the JSON `text` of a manifest.

    Raises:
        PackagingError: the manifest breaks a rule; the message names the first.
    """
    fields = _fields(_json(text), _KEYS, "", _OPTIONAL_KEYS)
    self_contained = _fields(fields["selfContained"], _SELF_CONTAINED_KEYS, "selfContained: ")
    manifest = Manifest(
        name=fields["name"],
        version=fields["version"],
        description=fields["description"],
        license=fields["license"],
        compatible_runtimes=_strings(fields, "compatibleRuntimes"),
        compatible_architectures=_strings(fields, "compatibleArchitectures"),
        files=_each(_file, fields["files"], "files"),
        os_only_runtimes=_strings(self_contained, "compatibleRuntimes", "selfContained: "),
        pins=_each(_pin, self_contained["interpreters"], "selfContained: interpreters"),
        published=_each(_published, fields.get("published", []), "published"),
    )
    _check_identity(manifest)
    for variant in manifest.variants:
        _check_compatibility(variant, "" if variant == manifest.slim else "selfContained: ")
    _check_files(manifest.files)
    _check_pins(manifest.pins)
    _check_published(manifest)
    return manifest


def _refuse(message: str) -> NoReturn:
    raise PackagingError(f"{FILE_NAME}: {message}")


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        _refuse(f"is not JSON: {error}")


def _fields(value: Any, keys: dict[str, type], where: str, optional: dict[str, type] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"{where}must be an object")
    for key in keys:
        if key not in value:
            _refuse(f"{where}{key} is missing")
    known = keys | (optional or {})
    for key, item in value.items():
        if key not in known:
            _refuse(f"{where}unknown key {key!r}, known are {', '.join(known)}")
        if type(item) is not known[key]:  # type and not isinstance: bool is a subclass of int
            _refuse(f"{where}{key} must be {_JSON_NAMES[known[key]]}")
    return value


def _strings(fields: dict[str, Any], key: str, where: str = "") -> tuple[str, ...]:
    values = fields[key]
    if not all(isinstance(value, str) and value for value in values):
        _refuse(f"{where}{key} must contain strings only, none of them empty")
    if len(set(values)) < len(values):
        _refuse(f"{where}{key} contains a value twice")
    return tuple(values)


def _each(make: Callable[[Any, str], Item], values: list[Any], where: str) -> tuple[Item, ...]:
    return tuple(make(value, f"{where}[{number}]: ") for number, value in enumerate(values))


def _file(value: Any, where: str) -> LayerFile:
    fields = _fields(value, _FILE_KEYS, where)
    path, mode = fields["path"], fields["mode"]
    normal = PurePosixPath(path)
    if str(normal) != path or normal.is_absolute() or path == "." or ".." in normal.parts:
        _refuse(f"{where}path {path!r} must be relative and normal, such as 'folder/file'")
    if "\\" in path or not path.isprintable():
        _refuse(f"{where}path {path!r} must contain no backslash and no control character")
    if mode not in _MODES:
        _refuse(f"{where}mode {mode!r} must be one of {', '.join(_MODES)}")
    return LayerFile(path, _MODES[mode])


def _pin(value: Any, where: str) -> Pin:
    pin = Pin(**_fields(value, _PIN_KEYS, where))
    version = _PATCH_VERSION.fullmatch(pin.version)
    if not version or version[1] != pin.python:
        _refuse(f"{where}version {pin.version!r} must be a release of Python {pin.python}, such as {pin.python}.1")
    if pin.architecture not in ARCHITECTURES:
        _refuse(f"{where}architecture {pin.architecture!r} must be one of {', '.join(ARCHITECTURES)}")
    if not _SHA256.fullmatch(pin.sha256):
        _refuse(f"{where}sha256 {pin.sha256!r} must be 64 of the characters 0-9 a-f")
    return pin


def _published(value: Any, where: str) -> Published:
    fields = _fields(value, _PUBLISHED_KEYS, where, _OPTIONAL_PUBLISHED_KEYS)
    entry = Published(**(fields | {"sharedWith": _strings(fields, "sharedWith")}))
    _check_entry(entry, where)
    if not is_version(entry.version):
        _refuse(f"{where}version {entry.version!r} must be a semantic version, such as 1.2.3")
    return entry


def _check_entry(entry: Published, where: str) -> None:
    if not _VARIANT.fullmatch(entry.variant):
        _refuse(f"{where}variant {entry.variant!r} must be slim, or a name such as python3.13-arm64")
    arn = _ARN.fullmatch(entry.arn)
    if not arn:
        _refuse(f"{where}arn {entry.arn!r} must be the ARN of a layer version")
    for name, in_arn in zip(("partition", "region", "account"), arn.groups(), strict=False):
        if in_arn != (value := getattr(entry, name)):
            _refuse(f"{where}{name} {value!r} must be the one in the arn, {in_arn}")
    if not _SHA256.fullmatch(entry.sha256):
        _refuse(f"{where}sha256 {entry.sha256!r} must be 64 of the characters 0-9 a-f")
    signed = (entry.signedSha256, entry.signedSize, entry.signingProfileVersion)
    if any(signed) and not (_SHA256.fullmatch(entry.signedSha256) and entry.signedSize > 0 and signed[2]):
        _refuse(f"{where}{', '.join(_SIGNED_KEYS)} must be a sha256, a size and an ARN, or all be missing")
    if entry.size < 1:
        _refuse(f"{where}size {entry.size} must be above 0")
    for grantee in entry.sharedWith:
        if not GRANTEE.fullmatch(grantee):
            _refuse(f"{where}sharedWith: {grantee!r} must be {PUBLIC}, an account or an organization")


def _check_identity(manifest: Manifest) -> None:
    if not _NAME.fullmatch(manifest.name):
        _refuse(f"name {manifest.name!r} must be 1 to 140 of the characters a-z A-Z 0-9 - _")
    if not is_version(manifest.version):
        _refuse(f"version {manifest.version!r} must be a semantic version, such as 1.2.3")
    if len(manifest.description) > _MAX_DESCRIPTION:
        _refuse(f"description has {len(manifest.description)} characters, the limit is {_MAX_DESCRIPTION}")
    if len(manifest.license) > _MAX_LICENSE:
        _refuse(f"license has {len(manifest.license)} characters, the limit is {_MAX_LICENSE}")


def _check_compatibility(variant: Variant, where: str) -> None:
    count = len(variant.compatible_runtimes)
    if not 1 <= count <= _MAX_RUNTIMES:
        _refuse(f"{where}compatibleRuntimes has {count} entries, 1 to {_MAX_RUNTIMES} are allowed")
    if not variant.compatible_architectures:
        _refuse(f"compatibleArchitectures is empty: list one or both of {', '.join(ARCHITECTURES)}")
    for name in variant.compatible_architectures:
        if name not in ARCHITECTURES:
            _refuse(f"compatibleArchitectures: {name!r} must be one of {', '.join(ARCHITECTURES)}")


def _check_files(files: tuple[LayerFile, ...]) -> None:
    modes = {file.path: file.mode for file in files}
    if len(modes) < len(files):
        _refuse("files contains a path twice")
    for path, mode in _REQUIRED_FILES.items():
        if path not in modes:
            _refuse(f"files must contain {path}")
        if modes[path] != mode:
            _refuse(f"files: {path} must have mode {mode:04o}")


def _check_pins(pins: tuple[Pin, ...]) -> None:
    if len({(pin.python, pin.architecture) for pin in pins}) < len(pins):
        _refuse("selfContained: interpreters contains a Python for one architecture twice")


def _check_published(manifest: Manifest) -> None:
    layer_names = {variant.name: variant.layer_name for variant in manifest.variants}
    for number, entry in enumerate(manifest.published):
        layer_name = layer_names.get(entry.variant, entry.layer_name)
        if entry.layer_name != layer_name:
            _refuse(f"published[{number}]: arn {entry.arn!r} must be a version of the layer {layer_name}")
    if len({entry.place for entry in manifest.published}) < len(manifest.published):
        _refuse("published contains a variant twice for one account and region")
