"""Writes an SBOM in SPDX 2.3, as JSON (https://spdx.github.io/spdx-spec/v2.3/)."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from tools.packaging.release.contents import Component, Contents, FileHashes

SUFFIX = ".spdx.json"

_DOCUMENT = "SPDXRef-DOCUMENT"
_PACKAGE = "SPDXRef-Package"
_NO_ASSERTION = "NOASSERTION"


def document(contents: Contents) -> bytes:
    """Return the SBOM of a zip. Namespace and time depend on the zip and its commit alone."""
    value = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": f"{contents.zip_name} {contents.version}",
        "documentNamespace": f"https://spdx.org/spdxdocs/{contents.name}-{contents.version}-{contents.uuid}",
        "creationInfo": {
            "created": contents.timestamp,
            "creators": [f"Tool: {contents.tool}-{contents.version}"],
        },
        "packages": [_package(contents), *(_component(each) for each in _components(contents))],
        "files": [_file(number, file, contents.license) for number, file in enumerate(contents.files)],
        "relationships": list(_relationships(contents)),
    }
    return json.dumps(value, indent=1).encode() + b"\n"


def _components(contents: Contents) -> tuple[Component, ...]:
    return (contents.interpreter, *contents.libraries) if contents.interpreter else ()


def _package(contents: Contents) -> dict[str, Any]:
    return {
        "SPDXID": _PACKAGE,
        "name": contents.name,
        "versionInfo": contents.version,
        "packageFileName": contents.zip_name,
        "primaryPackagePurpose": "ARCHIVE",
        "description": contents.description,
        "downloadLocation": _NO_ASSERTION,
        "filesAnalyzed": True,
        "packageVerificationCode": {"packageVerificationCodeValue": _verification_code(contents)},
        "checksums": [{"algorithm": "SHA256", "checksumValue": contents.sha256}],
        "licenseConcluded": contents.license if not contents.interpreter else _NO_ASSERTION,
        "licenseDeclared": contents.license,
        "licenseInfoFromFiles": [_NO_ASSERTION],
        "copyrightText": _NO_ASSERTION,
        "externalRefs": [_reference("PACKAGE-MANAGER", "purl", contents.purl)],
    }


def _verification_code(contents: Contents) -> str:
    """Return the SHA-1 of the sorted SHA-1 values of all files: clause 7.9."""
    joined = "".join(sorted(file.sha1 for file in contents.files))
    return hashlib.sha1(joined.encode(), usedforsecurity=False).hexdigest()


def _component(component: Component) -> dict[str, Any]:
    references = [_reference("PACKAGE-MANAGER", "purl", component.purl)]
    if component.cpe:
        references.append(_reference("SECURITY", "cpe23Type", component.cpe))
    package: dict[str, Any] = {
        "SPDXID": _id(component),
        "name": component.name,
        "primaryPackagePurpose": "LIBRARY",
        "downloadLocation": component.url or _NO_ASSERTION,
        "filesAnalyzed": False,
        "licenseConcluded": component.license or _NO_ASSERTION,
        "licenseDeclared": component.license or _NO_ASSERTION,
        "copyrightText": _NO_ASSERTION,
        "comment": component.comment,
        "externalRefs": references,
    }
    if component.version:
        package["versionInfo"] = component.version
    if component.sha256:
        package["checksums"] = [{"algorithm": "SHA256", "checksumValue": component.sha256}]
    return package


def _reference(category: str, kind: str, locator: str) -> dict[str, str]:
    return {"referenceCategory": category, "referenceType": kind, "referenceLocator": locator}


def _file(number: int, file: FileHashes, license: str) -> dict[str, Any]:
    return {
        "SPDXID": _file_id(number),
        "fileName": f"./{file.path}",
        "fileTypes": [file.type],
        "checksums": [
            {"algorithm": "SHA1", "checksumValue": file.sha1},
            {"algorithm": "SHA256", "checksumValue": file.sha256},
        ],
        "licenseConcluded": license if file.is_ours else _NO_ASSERTION,
        "licenseInfoInFiles": [_NO_ASSERTION],
        "copyrightText": _NO_ASSERTION,
    }


def _relationships(contents: Contents) -> Iterator[dict[str, str]]:
    yield _relationship(_DOCUMENT, "DESCRIBES", _PACKAGE)
    for number in range(len(contents.files)):
        yield _relationship(_PACKAGE, "CONTAINS", _file_id(number))
    if contents.interpreter:
        yield _relationship(_PACKAGE, "CONTAINS", _id(contents.interpreter))
        for library in contents.libraries:
            kind = "STATIC_LINK" if library.is_static else "DYNAMIC_LINK"
            yield _relationship(_id(contents.interpreter), kind, _id(library))


def _relationship(element: str, kind: str, related: str) -> dict[str, str]:
    return {"spdxElementId": element, "relationshipType": kind, "relatedSpdxElement": related}


def _id(component: Component) -> str:
    return f"SPDXRef-Package-{component.name}"


def _file_id(number: int) -> str:
    return f"SPDXRef-File-{number}"
