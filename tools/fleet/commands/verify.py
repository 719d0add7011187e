"""The command `verify`: compares each published layer version with the manifest, byte for byte."""

from __future__ import annotations

import argparse
import hashlib
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.common import output
from tools.common.archives import open_zip
from tools.common.cli import Parser
from tools.common.errors import ToolError
from tools.common.paths import read, shown
from tools.fleet.aws.arns import LayerVersion
from tools.fleet.aws.errors import AwsError, CredentialsError
from tools.fleet.aws.layers import Layers, download
from tools.fleet.aws.models import LayerInfo, Unavailable
from tools.fleet.commands import arguments
from tools.fleet.commands.interface import EXIT_STATUS_OF_CHECKS, Command, Context
from tools.fleet.commands.scope import variants
from tools.packaging.manifest import Published, Variant
from tools.packaging.zips.archive import is_signature

_MAX_FILES = 10  # that differ, in the output


def _add_arguments(parser: Parser) -> None:
    arguments.add_region_list(parser, "all in the manifest")
    arguments.add_variants(parser, "all")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, help="the folder of the built zips (default: dist/)"
    )


def _run(namespace: argparse.Namespace, context: Context) -> int:
    return verify(context, namespace.regions, namespace.variants, namespace.output or context.root / "dist")


COMMAND = Command(
    "verify",
    "Compare each entry of layer-manifest.json with AWS, byte for byte.",
    _add_arguments,
    _run,
    EXIT_STATUS_OF_CHECKS,
)


@dataclass(frozen=True)
class Difference:
    """One difference between the manifest and AWS."""

    entry: Published
    what: str
    expected: str
    found: str


def verify(context: Context, regions: Sequence[str], names: Sequence[str], folder: Path) -> int:
    """Check the entries of the manifest. Returns the exit status.

    Args:
        regions, names: of regions and variants; empty for all.
        folder: of the built zips, with which files are compared.
    """
    chosen = {variant.name: variant for variant in variants(context.manifest, names, context.manifest.variants)}
    entries = [
        entry
        for entry in context.manifest.published
        if (not names or entry.variant in chosen) and (not regions or entry.region in regions)
    ]
    if not entries:
        raise ToolError("the manifest has no published entry for these options: run ./build.sh publish first")
    caller = context.aws.identity(context.aws.region(entries[0].region)).place
    differences: list[Difference] = []
    for entry in entries:
        if entry.partition != caller.partition:
            found = f"credentials for {caller.partition}"
            differences.append(Difference(entry, "partition", entry.partition, found))
            continue
        differences += Verification(context, entry, chosen.get(entry.variant), folder, caller.account).differences()
    _print(context.output, entries, differences)
    return 1 if differences else 0


class Verification:
    """The check of one entry.

    Args:
        account: of the caller.
    """

    def __init__(self, context: Context, entry: Published, variant: Variant | None, folder: Path, account: str) -> None:
        self._manifest = context.manifest
        self._root = context.root
        self._layers = Layers(context.aws, context.aws.region(entry.region))
        self._entry = entry
        self._variant = variant
        self._folder = folder
        self._account = account

    def differences(self) -> Iterator[Difference]:
        """Yield all differences; an error of one entry is one of them, so that the others are checked."""
        version = LayerVersion.parse(self._entry.arn)
        try:
            info = self._layers.get(version, self._account)
            if isinstance(info, Unavailable):
                found = "none, it was deleted" if info.is_deleted else f"not shared with {self._account}"
                yield self._difference("layer version", self._entry.arn, found)
                return
            yield from self._metadata(info)
            yield from self._bytes(info)
            if self._entry.account == self._account:  # the policy of another account's version cannot be read
                yield from self._permissions(self._layers.grantees(version))
        except CredentialsError:
            raise
        except AwsError as error:
            yield self._difference("AWS", "a response", str(error))
        except ToolError as error:
            yield self._difference("download", "the zip", str(error))

    def _difference(self, what: str, expected: str, found: str) -> Difference:
        return Difference(self._entry, what, expected, found)

    def _metadata(self, info: LayerInfo) -> Iterator[Difference]:
        entry, variant = self._entry, self._variant
        sha256 = b64encode(bytes.fromhex(entry.published_sha256)).decode()
        rows = [
            ("sha256", sha256, info.sha256),
            ("size", f"{entry.published_size:,}", f"{info.size:,}"),
            ("signing profile", entry.signingProfileVersion, info.signing_profile),
        ]
        for what, expected, found in rows:
            if expected != found:
                yield self._difference(what, expected or "none", found or "none")
        # The rest of the manifest describes the present version; an older one may have been different.
        if variant and entry.version == self._manifest.version:
            rows = [
                ("runtimes", _listed(variant.compatible_runtimes), _listed(info.runtimes)),
                ("architectures", _listed(variant.compatible_architectures), _listed(info.architectures)),
                ("license", self._manifest.license, info.license),
            ]
            for what, expected, found in rows:
                if expected != found:
                    yield self._difference(what, expected, f"{found or 'none'}; only a new version changes it")

    def _permissions(self, grantees: set[str]) -> Iterator[Difference]:
        expected = set(self._entry.sharedWith)
        for grantee in sorted(expected - grantees):
            found = "not shared; ./build.sh publish adds the permission"
            yield self._difference("permission", f"shared with {grantee}", found)
        for grantee in sorted(grantees - expected):
            yield self._difference("permission", f"not shared with {grantee}", "shared")

    def _bytes(self, info: LayerInfo) -> Iterator[Difference]:
        data = download(info.location, self._new_location)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != self._entry.published_sha256:
            yield self._difference("bytes", f"sha256 {self._entry.published_sha256}", f"sha256 {sha256}")
        try:
            files = _files("its zip", data)
        except ToolError as error:
            yield self._difference("bytes", "a valid zip file", str(error))
            return
        if self._entry.signedSha256:
            files = {path: file for path, file in files.items() if not is_signature(path)}
        differences = list(_compare(*self._expected_files(), files))
        for path, expected, found in differences[:_MAX_FILES]:
            yield self._difference(f"file {path}", expected, found)
        if len(differences) > _MAX_FILES:
            yield self._difference("files", "-", f"{len(differences) - _MAX_FILES} more differ")

    def _new_location(self) -> str:
        info = self._layers.get(LayerVersion.parse(self._entry.arn), self._account)
        return info.location if isinstance(info, LayerInfo) else ""

    def _expected_files(self) -> tuple[dict[str, _File], bool]:
        """Return the expected files, and whether there may be no others: of the built zip, else of the sources."""
        built = self._folder / f"layer-{self._entry.variant}.zip"
        if built.is_file():
            data = read(built)
            if hashlib.sha256(data).hexdigest() == self._entry.sha256:
                return _files(shown(built), data), True
        if self._entry.version != self._manifest.version:
            return {}, False
        layer = self._root / "layer"
        return {file.path: _File(file.mode, read(layer / file.path)) for file in self._manifest.files}, False


@dataclass(frozen=True)
class _File:
    mode: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.mode:04o} {len(self.data):,} bytes {hashlib.sha256(self.data).hexdigest()[:12]}"


def _files(name: str, data: bytes) -> dict[str, _File]:
    with open_zip(data, "publish it again", name) as archive:
        return {member.path: _File(member.mode or 0, archive.read(member)) for member in archive.files}


def _listed(names: Sequence[str]) -> str:
    return " ".join(sorted(names))


def _compare(
    expected: Mapping[str, _File], is_complete: bool, found: Mapping[str, _File]
) -> Iterator[tuple[str, str, str]]:
    for path, file in expected.items():
        if path not in found:
            yield path, str(file), "missing"
        elif found[path] != file:
            yield path, str(file), str(found[path])
    if is_complete:
        for path in sorted(set(found) - set(expected)):
            yield path, "missing", str(found[path])


def _print(out: output.Output, entries: Sequence[Published], differences: Sequence[Difference]) -> None:
    out.result(lambda: _document(entries, differences), lambda: _lines(entries, differences))


def _document(entries: Sequence[Published], differences: Sequence[Difference]) -> dict[str, object]:
    different = {difference.entry for difference in differences}
    return {
        "command": COMMAND.name,
        "entries": [{"arn": entry.arn, "region": entry.region, "matches": entry not in different} for entry in entries],
        "differences": [
            {"arn": each.entry.arn, "what": each.what, "expected": each.expected, "found": each.found}
            for each in differences
        ],
    }


def _lines(entries: Sequence[Published], differences: Sequence[Difference]) -> Iterator[str]:
    different = {difference.entry for difference in differences}
    if differences:
        rows = [(each.entry.region, each.entry.arn, each.what, each.expected, each.found) for each in differences]
        yield output.table(("region", "layer version", "difference", "expected", "found"), rows)
    for entry in entries:
        if entry not in different:
            yield f"{entry.region}  {entry.arn}  matches the manifest"
