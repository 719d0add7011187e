"""Builds all zips of a release, with an SBOM of each, the provenance and the release notes."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tools.common.lambda_facts import GLIBC
from tools.common.paths import shown
from tools.packaging import builds, self_contained
from tools.packaging import manifest as manifests
from tools.packaging.builds import Build, Sources
from tools.packaging.manifest import Manifest
from tools.packaging.release import cyclonedx, git, notes, provenance, readiness, spdx
from tools.packaging.release.contents import Contents, function_contents, layer_contents
from tools.packaging.release.readiness import Release
from tools.packaging.self_contained import SelfContained
from tools.packaging.zips import archive, output


@dataclass(frozen=True)
class Files:
    """The files of a release, by name."""

    zips: Mapping[str, bytes]
    documents: Mapping[str, bytes]
    record: bytes

    def all(self) -> dict[str, bytes]:
        """Return all files. `SHA256SUMS` is the last one: it is written when the others are complete."""
        files = {**self.zips, **self.documents, output.INTERPRETERS_NAME: self.record}
        return {**files, output.SUMS_NAME: _sums(files)}


def release(sources: Sources, version: str, dry_run: bool) -> list[str]:
    """Build the release of `version` into the output folder, and return the lines of the report.

    Other files in that folder remain, and are not in its `SHA256SUMS`.

    Raises:
        ToolError: something is missing, cannot be packed, or cannot be written.
    """
    checked = readiness.check(sources, version)
    repository = git.remote_url(sources.root)
    # From an export: a checkout can contain files that git ignores, and a build would pack them.
    with git.exported(sources.root, checked.commit.hash) as root:
        manifest = manifests.load(root / manifests.FILE_NAME)
        exported = replace(sources, root=root, manifest=manifest, output=root / "dist")
        files = _files(exported, checked, repository)
    if not dry_run:
        output.write_files(sources.output, files.all())
    return list(_report(sources, checked, files, "would write " if dry_run else ""))


def _files(sources: Sources, release: Release, repository: str | None) -> Files:
    zips: dict[str, bytes] = {}
    record = b""
    for build in _builds(sources):
        zips |= build.zips
        record += build.record
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in zips.items()}
    sboms: dict[str, bytes] = {}
    for contents in _contents(sources.manifest, zips, release):
        stem = contents.zip_name.removesuffix(".zip")
        sboms |= {f"{stem}{each.SUFFIX}": each.document(contents) for each in (spdx, cyclonedx)}
    made = provenance.Provenance(
        version=sources.manifest.version,
        commit=release.commit.hash,
        sha256=sha256,
        interpreters=provenance.interpreters(record),
        zlib=archive.deflater(),
    )
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sboms.items()}
    statement = provenance.statement(sources.manifest, made, repository, hashes)
    text = notes.notes(sources.manifest, release.section, {name: len(data) for name, data in zips.items()}, sha256)
    lines = b"".join(sorted(record.splitlines(keepends=True)))
    return Files(zips, {**sboms, provenance.FILE_NAME: statement, notes.FILE_NAME: text}, lines)


def _builds(sources: Sources) -> Iterator[Build]:
    manifest = sources.manifest
    yield builds.slim_layer_and_sample(sources, manifest.python_versions)
    for pin in manifest.pins:
        request = SelfContained(pin.python, pin.architecture, next(iter(GLIBC)), None, None)
        yield self_contained.self_contained_layer(sources, request)


def _contents(manifest: Manifest, zips: Mapping[str, bytes], release: Release) -> Iterator[Contents]:
    created = release.commit.time
    pins = {manifest.self_contained(pin.python, pin.architecture).zip_name: pin for pin in manifest.pins}
    layers = {variant.zip_name for variant in manifest.variants}
    for name, data in zips.items():
        if name in layers:
            yield layer_contents(manifest, name, data, created, pins.get(name))
        else:
            yield function_contents(manifest, name, data, created)


def _sums(files: Mapping[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())).encode()


def _report(sources: Sources, release: Release, files: Files, verb: str) -> Iterator[str]:
    yield f"{sources.manifest.name} {sources.manifest.version} of commit {release.commit.hash}"
    for name, data in files.all().items():
        yield f"{verb}{shown(sources.output / name)}  {len(data):,} bytes"
        if name in files.zips:
            yield f"  sha256 {hashlib.sha256(data).hexdigest()}"
    yield f"deflated by {archive.deflater()}; another library produces other bytes"
