"""The command `verify`: what AWS holds against what the manifest says, to the byte."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.common import output as terminal
from tools.common.archives import open_zip
from tools.common.errors import ToolError
from tools.common.paths import ROOT, shown
from tools.fleet import FleetError
from tools.fleet.aws.arns import LayerVersion
from tools.fleet.aws.layers import Layers, download
from tools.fleet.aws.models import LayerInfo, NotUsable
from tools.fleet.aws.session import Aws, AwsError, error_code, in_words, is_lost_code
from tools.fleet.commands.scope import variants
from tools.packaging.manifest import Manifest, Published, Variant

_MAX_FILES = 10


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be."""

    entry: Published
    what: str
    expected: str
    held: str


def verify(aws: Aws, manifest: Manifest, regions: Sequence[str], names: Sequence[str], as_json: bool) -> int:
    """Check each entry of the manifest. Returns the exit status."""
    chosen = {variant.name: variant for variant in variants(manifest, names, manifest.variants)}
    entries = [
        entry
        for entry in manifest.published
        if (not names or entry.variant in chosen) and (not regions or entry.region in regions)
    ]
    if not entries:
        raise FleetError("the manifest names nothing published that fits: run ./build.sh publish first")
    caller = aws.identity(aws.region(entries[0].region)).place
    found: list[Difference] = []
    for entry in entries:
        if entry.partition != caller.partition:
            found.append(Difference(entry, "partition", entry.partition, f"credentials of {caller.partition}"))
            continue
        found += _check(aws, manifest, chosen.get(entry.variant), entry, caller.account)
    _print(entries, found, as_json)
    return 1 if found else 0


def _check(
    aws: Aws, manifest: Manifest, variant: Variant | None, entry: Published, account: str
) -> Iterator[Difference]:
    layers = Layers(aws, aws.region(entry.region))
    version = LayerVersion.parse(entry.arn)
    try:
        info = layers.get(version, account)
        if isinstance(info, NotUsable):
            held = "none, it was deleted" if info.deleted else f"not shared with {account}"
            yield Difference(entry, "layer version", entry.arn, held)
            return
        yield from _facts(manifest, variant, entry, info)
        yield from _bytes(manifest, entry, info)
        if entry.account == account:  # another's policy cannot be read
            yield from _permission(entry, layers.grantees(version))
    except ToolError as error:
        yield Difference(entry, "download", "the zip", str(error))
    except AwsError as error:
        if is_lost_code(error_code(error)):
            raise
        yield Difference(entry, "AWS", "an answer", in_words(error))


def _facts(manifest: Manifest, variant: Variant | None, entry: Published, info: LayerInfo) -> Iterator[Difference]:
    told = b64encode(bytes.fromhex(entry.sha256)).decode()
    facts = [("sha256", told, info.sha256), ("size", f"{entry.size:,}", f"{info.size:,}")]
    # The manifest speaks of the version it names; an older one that is still published may have differed.
    if variant and entry.version == manifest.version:
        facts += [
            ("runtimes", _listed(variant.compatible_runtimes), _listed(info.runtimes)),
            ("architectures", _listed(variant.compatible_architectures), _listed(info.architectures)),
            ("license", manifest.license, info.license),
        ]
    for what, expected, held in facts:
        if expected != held:
            yield Difference(entry, what, expected, held or "none")


def _listed(names: Sequence[str]) -> str:
    return " ".join(sorted(names))


def _permission(entry: Published, held: set[str]) -> Iterator[Difference]:
    for grantee in sorted(set(entry.sharedWith) - held):
        yield Difference(entry, "permission", f"shared with {grantee}", "not shared: ./build.sh publish repairs it")
    for grantee in sorted(held - set(entry.sharedWith)):
        yield Difference(entry, "permission", f"not shared with {grantee}", "shared")


def _bytes(manifest: Manifest, entry: Published, info: LayerInfo) -> Iterator[Difference]:
    data = download(info.location)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != entry.sha256:
        yield Difference(entry, "bytes", f"sha256 {entry.sha256}", f"sha256 {sha256}")
    try:
        held = _files("its zip", data)
    except ToolError as error:
        yield Difference(entry, "bytes", "a zip", str(error))
        return
    differences = list(_compare(_reference(manifest, entry), held))
    for path, expected, found in differences[:_MAX_FILES]:
        yield Difference(entry, f"file {path}", expected, found)
    if len(differences) > _MAX_FILES:
        yield Difference(entry, "files", "-", f"{len(differences) - _MAX_FILES} more differ")


@dataclass(frozen=True)
class _File:
    mode: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.mode:04o} {len(self.data):,} bytes {hashlib.sha256(self.data).hexdigest()[:12]}"


def _files(name: str, data: bytes) -> dict[str, _File]:
    with open_zip(data, "publish it again", name) as archive:
        return {member.path: _File(member.mode or 0, archive.read(member)) for member in archive.files}


def _reference(manifest: Manifest, entry: Published) -> tuple[dict[str, _File], bool]:
    """The files that it should hold, and whether no others: those of the built zip, else those of the sources."""
    built = ROOT / "dist" / f"layer-{entry.variant}.zip"
    if built.is_file():
        data = built.read_bytes()
        if hashlib.sha256(data).hexdigest() == entry.sha256:
            return _files(shown(built), data), True
    if entry.version != manifest.version:
        return {}, False
    sources = {file.path: _File(file.mode, _source(file.path)) for file in manifest.files}
    return sources, False


def _source(path: str) -> bytes:
    return Path(ROOT / "layer" / path).read_bytes()


def _compare(reference: tuple[dict[str, _File], bool], held: dict[str, _File]) -> Iterator[tuple[str, str, str]]:
    expected, is_complete = reference
    for path, file in expected.items():
        if path not in held:
            yield path, str(file), "missing"
        elif held[path] != file:
            yield path, str(file), str(held[path])
    if is_complete:
        for path in sorted(set(held) - set(expected)):
            yield path, "not there", str(held[path])


def _print(entries: Sequence[Published], found: Sequence[Difference], as_json: bool) -> None:
    wrong = {difference.entry for difference in found}
    if as_json:
        content = {
            "command": "verify",
            "entries": [{"arn": entry.arn, "region": entry.region, "right": entry not in wrong} for entry in entries],
            "differences": [
                {"arn": each.entry.arn, "what": each.what, "expected": each.expected, "held": each.held}
                for each in found
            ],
        }
        print(terminal.document(content), flush=True)
        return
    if found:
        rows = [(each.entry.region, each.entry.arn, each.what, each.expected, each.held) for each in found]
        print(terminal.table(("region", "layer version", "what differs", "expected", "found"), rows), flush=True)
    for entry in entries:
        if entry not in wrong:
            print(f"{entry.region}  {entry.arn}  is as the manifest says", flush=True)
