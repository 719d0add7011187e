"""The provenance of a release: an in-toto statement with the predicate of SLSA.

It lists the inputs of the zips, so that `verify-build` can build them again: the commit, the pinned archives,
the interpreters that compiled the bytecode, and the library that deflated the zips. It contains no time and no name of
a machine, so two machines with the same inputs write the same statement.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
https://slsa.dev/spec/v1.0/provenance
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.common.errors import ToolError
from tools.common.paths import read, shown
from tools.packaging import PackagingError
from tools.packaging.manifest import Manifest, Pin

FILE_NAME = "provenance.json"

_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://slsa.dev/provenance/v1"
_SOURCE = "source"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Provenance:
    """The inputs of a release.

    Args:
        commit: the full hash.
        sha256: of each zip, by its name.
        interpreters: by zip, the inputs besides the sources, as in `INTERPRETERS`.
        zlib: the library that deflated the self-contained layers.
    """

    version: str
    commit: str
    sha256: Mapping[str, str]
    interpreters: Mapping[str, Mapping[str, str]]
    zlib: str


def interpreters(record: bytes) -> dict[str, dict[str, str]]:
    """Return the lines of `INTERPRETERS`, by zip and key."""
    found: dict[str, dict[str, str]] = {}
    for line in record.decode().splitlines():
        zip_name, key, value = line.split("  ", 2)
        found.setdefault(zip_name, {})[key] = value
    return found


def statement(
    manifest: Manifest, provenance: Provenance, repository: str | None, byproducts: Mapping[str, str]
) -> bytes:
    """Return the statement about a release, as JSON.

    Args:
        repository: the URL of the source repository, if it is known.
        byproducts: the hashes of the SBOMs, by name.
    """
    definition = {
        "buildType": f"pkg:generic/{manifest.name}#docs/releasing.md",
        "externalParameters": {
            "command": ["./build.sh", "release", provenance.version],
            "version": provenance.version,
        },
        "internalParameters": {"interpreters": provenance.interpreters, "zlib": provenance.zlib},
        "resolvedDependencies": [_source(provenance.commit, repository), *map(_archive, manifest.pins)],
    }
    value = {
        "_type": _STATEMENT,
        "subject": _described(provenance.sha256),
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": definition,
            "runDetails": {"builder": {"id": _builder(manifest)}, "byproducts": _described(byproducts)},
        },
    }
    return json.dumps(value, indent=2).encode() + b"\n"


def _described(sha256: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "digest": {"sha256": value}} for name, value in sorted(sha256.items())]


def _source(commit: str, repository: str | None) -> dict[str, Any]:
    source: dict[str, Any] = {"name": _SOURCE, "digest": {"gitCommit": commit}}
    return source | ({"uri": f"git+{repository}"} if repository else {})


def _archive(pin: Pin) -> dict[str, Any]:
    return {
        "name": f"CPython {pin.version} {pin.architecture}",
        "uri": pin.url,
        "digest": {"sha256": pin.sha256},
        "annotations": {"release": pin.release},
    }


def _builder(manifest: Manifest) -> str:
    """Return the workflow that runs (GitHub Actions, "Variables reference"), else the program."""
    server, workflow = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_WORKFLOW_REF")
    return f"{server}/{workflow}" if server and workflow else f"pkg:generic/{manifest.name}#build.sh"


# --- Reading ----------------------------------------------------------------------------------------------------------


def load(path: Path) -> Provenance:
    """Read the statement at `path`.

    Raises:
        PackagingError: it cannot be read, or is not a statement about a release.
    """
    try:
        text = read(path)
    except ToolError as error:
        raise PackagingError(f"{error}; put the {FILE_NAME} of the release there, or use --provenance") from error
    try:
        return _parsed(json.loads(text))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise PackagingError(
            f"{shown(path)} is not the provenance of a release ({error!r}): use the {FILE_NAME} that was published "
            "with the zip"
        ) from error


def _parsed(value: Any) -> Provenance:
    if (value["_type"], value["predicateType"]) != (_STATEMENT, _PREDICATE):
        raise ValueError(value["predicateType"])
    definition = value["predicate"]["buildDefinition"]
    commit = _commit(definition["resolvedDependencies"])
    if not _COMMIT.fullmatch(commit):  # it becomes an argument of git
        raise ValueError(commit)
    internal = definition["internalParameters"]
    return Provenance(
        version=str(definition["externalParameters"]["version"]),
        commit=commit,
        sha256=_texts({subject["name"]: subject["digest"]["sha256"] for subject in value["subject"]}),
        interpreters={name: _texts(values) for name, values in internal["interpreters"].items()},
        zlib=str(internal["zlib"]),
    )


def _texts(values: Any) -> dict[str, str]:
    if not all(isinstance(text, str) for item in values.items() for text in item):
        raise TypeError(values)
    return dict(values)


def _commit(dependencies: Sequence[Any]) -> str:
    [source] = (each for each in dependencies if each.get("name") == _SOURCE)
    return str(source["digest"]["gitCommit"])
