"""The command `verify`: compares each published layer version with the manifest, byte for byte.

An entry is read with the credentials of its own account, if there are any: only they may read its permissions. Other
accounts read it as users of a shared layer do. So with `--assume-role` each entry is checked once with the role of its
account, or else once with each role.
"""

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
from tools.fleet.aws.account import Access, find_accesses
from tools.fleet.aws.arns import LayerVersion, Role
from tools.fleet.aws.errors import AwsError, CredentialsError
from tools.fleet.aws.layers import Layers, download
from tools.fleet.aws.models import LayerInfo, Unavailable
from tools.fleet.commands import arguments
from tools.fleet.commands.interface import EXIT_STATUS_OF_CHECKS, Command, Context
from tools.fleet.commands.scope import variants
from tools.packaging.manifest import Published
from tools.packaging.zips.archive import is_signature

_MAX_FILES = 10  # that differ, in the output


def _add_arguments(parser: Parser) -> None:
    arguments.add_region_list(parser, "all in the manifest")
    arguments.add_roles(parser)
    arguments.add_variants(parser, "all")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, help="the folder of the built zips (default: dist/)"
    )
    parser.set_defaults(parser=parser)


def _run(namespace: argparse.Namespace, context: Context) -> int:
    roles = arguments.chosen_roles(namespace, namespace.parser)
    entries = _chosen(context, namespace.regions, namespace.variants)
    return verify(context, entries, roles, namespace.output or context.root / "dist")


COMMAND = Command(
    "verify",
    "Compare each entry of layer-manifest.json with AWS, byte for byte.",
    _add_arguments,
    _run,
    EXIT_STATUS_OF_CHECKS,
)


@dataclass(frozen=True)
class Difference:
    """One difference between the manifest and AWS.

    Args:
        account: that reads the layer version.
    """

    entry: Published
    account: str
    what: str
    expected: str
    found: str


def _chosen(context: Context, regions: Sequence[str], names: Sequence[str]) -> list[Published]:
    """Return the entries of these regions and variants; empty for all."""
    variants(context.manifest, names, ())  # raises UsageError if one is unknown
    entries = [
        entry
        for entry in context.manifest.published
        if (not names or entry.variant in names) and (not regions or entry.region in regions)
    ]
    if not entries:
        raise ToolError("the manifest has no published entry for these options: run ./build.sh publish first")
    return entries


def verify(context: Context, entries: Sequence[Published], roles: Sequence[str], folder: Path) -> int:
    """Check entries of the manifest. Returns the exit status.

    Args:
        roles: ARNs, one for each account; empty for the caller's own credentials.
        folder: of the built zips, with which files are compared.
    """
    checks = [Verification(context, each, access, folder) for each, access in _readers(context, entries, roles)]
    differences = [difference for check in checks for difference in check.differences()]
    _print(context.output, [(check.entry, check.account) for check in checks], differences)
    return 1 if differences else 0


def _readers(
    context: Context, entries: Sequence[Published], roles: Sequence[str]
) -> Iterator[tuple[Published, Access]]:
    """Yield each entry with the credentials of its own account, or with all others."""
    partitions = {Role.parse(role).partition for role in roles}
    first = next((entry for entry in entries if entry.partition in partitions), entries[0])
    accesses = find_accesses(context.aws, [first.region], False, roles)
    for entry in entries:
        own = [access for access in accesses if access.place.account == entry.account]
        yield from ((entry, access) for access in own or accesses)


class Verification:
    """The check of one entry.

    Args:
        access: the credentials that read the layer version.
    """

    def __init__(self, context: Context, entry: Published, access: Access, folder: Path) -> None:
        self.entry = entry
        self.account = access.place.account
        self._manifest = context.manifest
        self._root = context.root
        self._access = access
        self._layers = Layers(access.aws, context.aws.region(entry.region))
        self._variant = {variant.name: variant for variant in context.manifest.variants}.get(entry.variant)
        self._folder = folder

    def differences(self) -> Iterator[Difference]:
        """Yield all differences; an error of one entry is one of them, so that the others are checked."""
        version = LayerVersion.parse(self.entry.arn)
        partition = self._access.place.partition
        if self.entry.partition != partition:
            yield self._difference("partition", self.entry.partition, f"credentials for {partition}")
            return
        try:
            info = self._layers.get(version, self.account)
            if isinstance(info, Unavailable):
                found = "none, it was deleted" if info.is_deleted else f"not shared with {self.account}"
                yield self._difference("layer version", self.entry.arn, found)
                return
            yield from self._metadata(info)
            yield from self._bytes(info)
            if self.entry.account == self.account:  # the policy of another account's version cannot be read
                yield from self._permissions(self._layers.grantees(version))
        except CredentialsError:
            raise
        except AwsError as error:
            yield self._difference("AWS", "a response", str(error))
        except ToolError as error:
            yield self._difference("download", "the zip", str(error))

    def _difference(self, what: str, expected: str, found: str) -> Difference:
        return Difference(self.entry, self.account, what, expected, found)

    def _metadata(self, info: LayerInfo) -> Iterator[Difference]:
        entry, variant = self.entry, self._variant
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
        expected = set(self.entry.sharedWith)
        for grantee in sorted(expected - grantees):
            found = "not shared; ./build.sh publish adds the permission"
            yield self._difference("permission", f"shared with {grantee}", found)
        for grantee in sorted(grantees - expected):
            yield self._difference("permission", f"not shared with {grantee}", "shared")

    def _bytes(self, info: LayerInfo) -> Iterator[Difference]:
        data = download(info.location, self._new_location)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != self.entry.published_sha256:
            yield self._difference("bytes", f"sha256 {self.entry.published_sha256}", f"sha256 {sha256}")
        try:
            files = _files("its zip", data)
        except ToolError as error:
            yield self._difference("bytes", "a valid zip file", str(error))
            return
        if self.entry.signedSha256:
            files = {path: file for path, file in files.items() if not is_signature(path)}
        differences = list(_compare(*self._expected_files(), files))
        for path, expected, found in differences[:_MAX_FILES]:
            yield self._difference(f"file {path}", expected, found)
        if len(differences) > _MAX_FILES:
            yield self._difference("files", "-", f"{len(differences) - _MAX_FILES} more differ")

    def _new_location(self) -> str:
        info = self._layers.get(LayerVersion.parse(self.entry.arn), self.account)
        return info.location if isinstance(info, LayerInfo) else ""

    def _expected_files(self) -> tuple[dict[str, _File], bool]:
        """Return the expected files, and whether there may be no others: of the built zip, else of the sources."""
        built = self._folder / f"layer-{self.entry.variant}.zip"
        if built.is_file():
            data = read(built)
            if hashlib.sha256(data).hexdigest() == self.entry.sha256:
                return _files(shown(built), data), True
        if self.entry.version != self._manifest.version:
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


Checked = tuple[Published, str]  # an entry, and the account that reads it


def _print(out: output.Output, checked: Sequence[Checked], differences: Sequence[Difference]) -> None:
    out.result(lambda: _document(checked, differences), lambda: _lines(checked, differences))


def _document(checked: Sequence[Checked], differences: Sequence[Difference]) -> dict[str, object]:
    different = {(difference.entry, difference.account) for difference in differences}
    return {
        "command": COMMAND.name,
        "entries": [
            {"arn": entry.arn, "region": entry.region, "account": account, "matches": (entry, account) not in different}
            for entry, account in checked
        ],
        "differences": [
            {
                "arn": each.entry.arn,
                "account": each.account,
                "what": each.what,
                "expected": each.expected,
                "found": each.found,
            }
            for each in differences
        ],
    }


def _lines(checked: Sequence[Checked], differences: Sequence[Difference]) -> Iterator[str]:
    """The column with the reading account is there if there are several."""
    first = 0 if len({account for _, account in checked}) > 1 else 1
    if differences:
        headers = ("read from", "region", "layer version", "difference", "expected", "found")
        rows = [
            (each.account, each.entry.region, each.entry.arn, each.what, each.expected, each.found)
            for each in differences
        ]
        yield output.table(headers[first:], [row[first:] for row in rows])
    different = {(difference.entry, difference.account) for difference in differences}
    for entry, account in checked:
        if (entry, account) not in different:
            yield "  ".join((account, entry.region, entry.arn, "matches the manifest")[first:])
