"""Writes an SBOM in CycloneDX 1.6, as JSON (https://cyclonedx.org/docs/1.6/json/)."""

import json
from collections.abc import Iterator
from typing import Any

from tools.packaging.release.contents import Component, Contents, FileHashes

SUFFIX = ".cdx.json"

_ROOT = "zip"


def document(contents: Contents) -> bytes:
    """Return the SBOM of a zip. Serial number and time depend on the zip and its commit alone."""
    others = [contents.interpreter, *contents.libraries] if contents.interpreter else []
    value = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": contents.uuid.urn,
        "version": 1,
        "metadata": {
            "timestamp": contents.timestamp,
            "tools": {"components": [{"type": "application", "name": contents.tool, "version": contents.version}]},
            "component": _root(contents),
        },
        "components": [*map(_component, others), *(_file(file, contents.license) for file in contents.files)],
        "dependencies": list(_dependencies(contents)),
    }
    return json.dumps(value, indent=1).encode() + b"\n"


def _root(contents: Contents) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": _ROOT,
        "name": contents.name,
        "version": contents.version,
        "description": contents.description,
        "hashes": [{"alg": "SHA-256", "content": contents.sha256}],
        "licenses": _licenses(contents.license),
        "purl": contents.purl,
        "properties": [{"name": "file name", "value": contents.zip_name}],
    }


def _component(component: Component) -> dict[str, Any]:
    value: dict[str, Any] = {
        "type": "library",
        "bom-ref": component.name,
        "name": component.name,
        "description": component.comment,
        "purl": component.purl,
    }
    if component.license:
        value["licenses"] = _licenses(component.license)
    if component.version:
        value["version"] = component.version
    if component.cpe:
        value["cpe"] = component.cpe
    if component.url:
        hashes = [{"alg": "SHA-256", "content": component.sha256}]
        value["externalReferences"] = [{"type": "distribution", "url": component.url, "hashes": hashes}]
    return value


def _licenses(expression: str) -> list[dict[str, Any]]:
    """Return a license by its identifier, and one with `WITH` as an expression."""
    return [{"expression": expression}] if " " in expression else [{"license": {"id": expression}}]


def _file(file: FileHashes, license: str) -> dict[str, Any]:
    value = {
        "type": "file",
        "bom-ref": f"file:{file.path}",
        "name": file.path,
        "hashes": [{"alg": "SHA-1", "content": file.sha1}, {"alg": "SHA-256", "content": file.sha256}],
    }
    return value | ({"licenses": _licenses(license)} if file.is_ours else {})


def _dependencies(contents: Contents) -> Iterator[dict[str, Any]]:
    interpreter = contents.interpreter
    yield {"ref": _ROOT, "dependsOn": [interpreter.name] if interpreter else []}
    if interpreter:
        yield {"ref": interpreter.name, "dependsOn": [library.name for library in contents.libraries]}
        for library in contents.libraries:
            yield {"ref": library.name}
