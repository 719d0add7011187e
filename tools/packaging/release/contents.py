"""The content of an SBOM: the files of a zip with their hashes, its CPython, and the libraries in it.

Both formats of the SBOM are written from `Contents`. It depends on the zip, the manifest and the commit time alone, so
the same release has the same SBOM on every machine.
"""

import hashlib
import re
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from tools.packaging.interpreter.bundle import FOLDER, VARIANT_FILE
from tools.packaging.manifest import Manifest, Pin
from tools.packaging.release.libraries import PINNED_ON, Linked, linked
from tools.packaging.zips import archive

_PYTHON_LICENSE = "Python-2.0"  # the whole license file of CPython: SPDX License List
_STANDALONE = "/python-build-standalone/"


@dataclass(frozen=True)
class FileHashes:
    """A file of the zip. SPDX 2.3 requires SHA-1 (clause 8.4); SHA-256 is for everybody else."""

    path: str
    sha1: str
    sha256: str
    is_ours: bool  # not of the bundled CPython
    type: str  # SPDX 2.3, clause 8.3: BINARY, SOURCE or TEXT


@dataclass(frozen=True)
class Component:
    """A component by others.

    Args:
        version: None if it is not known.
        license: an expression of SPDX identifiers; empty if it is not known.
        url: from where it was downloaded, if that is known.
        sha256: of the download.
        is_static: a library that is linked into the program, and not a file of its own.
        comment: how the version was found.
    """

    name: str
    version: str | None
    license: str
    purl: str
    cpe: str | None
    url: str | None = None
    sha256: str | None = None
    is_static: bool = False
    comment: str = ""


@dataclass(frozen=True)
class Contents:
    """A zip and its content.

    Args:
        name: of the package; version and license are those of the manifest.
        tool: the program that writes the SBOM, with its version.
        created: the commit time, in UTC.
        interpreter: the bundled CPython; `libraries` are in it.
    """

    zip_name: str
    sha256: str
    name: str
    version: str
    description: str
    license: str
    tool: str
    created: datetime
    files: tuple[FileHashes, ...]
    interpreter: Component | None = None
    libraries: tuple[Component, ...] = ()

    @property
    def purl(self) -> str:
        """The package URL of the zip (ECMA-427)."""
        return _purl(self.name, self.version)

    @property
    def timestamp(self) -> str:
        """The commit time, as both formats write it."""
        return self.created.strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def uuid(self) -> uuid.UUID:
        """An identifier of the SBOM that depends on the zip and the commit time alone (RFC 9562, version 5)."""
        return uuid.uuid5(uuid.NAMESPACE_URL, f"{self.purl}#{self.sha256}@{self.timestamp}")


def layer_contents(manifest: Manifest, zip_name: str, data: bytes, created: datetime, pin: Pin | None) -> Contents:
    """Return the content of the layer zip `data`.

    Args:
        pin: of the CPython in it; None for the slim layer.
    """
    entries = {entry.path: entry.data for entry in archive.unpack(zip_name, data)}
    interpreter, libraries = (None, ()) if pin is None else _bundled(pin, entries)
    name = next(variant.layer_name for variant in manifest.variants if variant.zip_name == zip_name)
    return Contents(
        zip_name=zip_name,
        sha256=hashlib.sha256(data).hexdigest(),
        name=name,
        version=manifest.version,
        description=manifest.description,
        license=manifest.license,
        tool=manifest.name,
        created=created,
        files=tuple(_hashed(path, content) for path, content in sorted(entries.items())),
        interpreter=interpreter,
        libraries=libraries,
    )


def function_contents(manifest: Manifest, zip_name: str, data: bytes, created: datetime) -> Contents:
    """Return the content of the zip of the sample function."""
    entries = archive.unpack(zip_name, data)
    return Contents(
        zip_name=zip_name,
        sha256=hashlib.sha256(data).hexdigest(),
        name=f"{manifest.name}-sample",
        version=manifest.version,
        description="A sample function for the layer",
        license=manifest.license,
        tool=manifest.name,
        created=created,
        files=tuple(_hashed(entry.path, entry.data) for entry in entries),
    )


def _hashed(path: str, data: bytes) -> FileHashes:
    sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    is_ours = path == VARIANT_FILE or not path.startswith(f"{FOLDER}/")
    return FileHashes(path, sha1, hashlib.sha256(data).hexdigest(), is_ours, _type(path, data))


def _type(path: str, data: bytes) -> str:
    if b"\0" in data:
        return "BINARY"
    return "SOURCE" if path.endswith(".py") or data.startswith(b"#!") else "TEXT"


# --- The bundled CPython ----------------------------------------------------------------------------------------------


def _bundled(pin: Pin, entries: Mapping[str, bytes]) -> tuple[Component, tuple[Component, ...]]:
    prefix = f"{FOLDER}/"
    files = {path.removeprefix(prefix): data for path, data in entries.items() if path.startswith(prefix)}
    interpreter = Component(
        name="CPython",
        version=pin.version,
        license=_PYTHON_LICENSE,
        purl=_purl("python", pin.version),
        cpe=_cpe("python:python", pin.version),
        url=pin.url if pin.url.startswith(("https://", "http://")) else None,
        sha256=pin.sha256,
        comment=f"The build {pin.release} for {pin.architecture}, without the parts that functions do not need",
    )
    return interpreter, tuple(_components(linked(files, pin.python, _STANDALONE in pin.url)))


def _components(libraries: Iterator[Linked]) -> Iterator[Component]:
    for each in libraries:
        library = each.library
        yield Component(
            name=library.name,
            version=each.version,
            license=library.license,
            purl=_purl(library.name, each.version),
            cpe=_cpe(library.cpe, each.version) if library.cpe and each.version else None,
            is_static=not each.is_file,
            comment=_source(each),
        )


def _source(library: Linked) -> str:
    if library.is_pinned:
        return f"The files do not contain the version; python-build-standalone pinned this one on {PINNED_ON}"
    return "The version was read from the files" if library.version else "The files do not contain the version"


def _purl(name: str, version: str | None) -> str:
    return f"pkg:generic/{name}" + (f"@{urllib.parse.quote(version, safe='')}" if version else "")


def _cpe(product: str, version: str) -> str:
    """Return a formatted string of CPE 2.3 (NIST IR 7695, clause 6.2), in which other characters are escaped."""
    escaped = re.sub(r"[^A-Za-z0-9._-]", r"\\\g<0>", version)
    return f"cpe:2.3:a:{product}:{escaped}:*:*:*:*:*:*:*"
