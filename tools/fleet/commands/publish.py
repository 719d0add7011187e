"""The command `publish`: publishes each zip once per region, shares it, and records it in the manifest.

`PublishLayerVersion` has no lock and no idempotency token: each request that AWS carries out creates a version. So a
version is looked up by its `CodeSha256` first; the request is sent once, without botocore's retries; and after an
unclear outcome the version is looked up again, with growing pauses, because AWS may still be working on it. Two
publishers on one machine are kept apart by a file lock; two machines are not.
"""

from __future__ import annotations

import argparse
import fcntl
import re
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.common import output
from tools.common.cli import Parser
from tools.common.errors import ToolError, UsageError
from tools.common.lambda_facts import MAX_ZIP_BYTES
from tools.common.paths import write_all_atomically
from tools.fleet.aws.account import Access, find_accesses
from tools.fleet.aws.arns import Layer, LayerVersion
from tools.fleet.aws.errors import AwsError, CredentialsExpired, OutcomeUnknown, translated
from tools.fleet.aws.layers import Layers, code_sha256
from tools.fleet.aws.models import LayerInfo
from tools.fleet.aws.retries import Patience
from tools.fleet.aws.signer import Bucket, SignedZip, Signer
from tools.fleet.commands import arguments
from tools.fleet.commands.built_layer import BuiltLayer, read_layer
from tools.fleet.commands.interface import Command, Context
from tools.fleet.commands.scope import variants
from tools.fleet.rollout.target_version import description, project_layers, published
from tools.packaging import manifest as manifests
from tools.packaging.manifest import GRANTEE, PUBLIC, Manifest, Published
from tools.packaging.manifest_edit import with_published
from tools.packaging.release import published as pages

# --- The command line -------------------------------------------------------------------------------------------------


def _add_arguments(parser: Parser) -> None:
    arguments.add_regions(parser)
    arguments.add_roles(parser)
    sharing = parser.add_mutually_exclusive_group()
    sharing.add_argument(
        "--share",
        metavar="ACCOUNT",
        nargs="+",
        action="extend",
        default=[],
        type=arguments.account,
        help="share the layer with these accounts",
    )
    sharing.add_argument(
        "--organization", metavar="ID", type=_organization, help="share the layer with an organization"
    )
    sharing.add_argument("--public", action="store_true", help="share the layer with all accounts")
    arguments.add_variants(parser, "slim")
    parser.add_argument(
        "--ssm",
        metavar="PREFIX",
        type=arguments.prefix,
        help="write the parameters /PREFIX/VARIANT/VERSION and …/latest",
    )
    parser.add_argument(
        "--bucket", metavar="NAME", help="upload zips above 50 MB to this bucket; {region} stands for the region"
    )
    parser.add_argument(
        "--signing-profile",
        metavar="NAME",
        type=_signing_profile,
        help="sign the zips with this profile of AWS Signer; needs --bucket with a bucket that has versioning",
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="the folder of the zips (default: dist/)")
    arguments.add_dry_run(parser)
    parser.set_defaults(parser=parser)


def _organization(text: str) -> str:
    if not text.startswith("o-") or not GRANTEE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the ID of an organization, such as o-a1b2c3d4e5")
    return text


def _signing_profile(text: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9_]{2,64}", text):  # AWS Signer API Reference, PutSigningProfile
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a signing profile: use letters, digits and _")
    return text


@dataclass(frozen=True)
class Options:
    """The options of the command.

    Args:
        grantees: who may use the layer besides the account, as in `Published.sharedWith`.
        ssm: the prefix of the parameters, without outer slashes.
        bucket: for zips above the limit of a direct upload, and for signing.
        signing_profile: that signs the zips; None if they are not signed.
        folder: of the zips.
        max_upload_bytes: the limit of a direct upload.
    """

    regions: tuple[str, ...]
    all_regions: bool
    roles: tuple[str, ...]
    variants: tuple[str, ...]
    grantees: tuple[str, ...]
    ssm: str | None
    bucket: str | None
    signing_profile: str | None
    folder: Path
    dry_run: bool
    max_upload_bytes: int = MAX_ZIP_BYTES


def _run(namespace: argparse.Namespace, context: Context) -> int:
    if namespace.signing_profile and not namespace.bucket:
        raise UsageError("--signing-profile needs --bucket, with a bucket that has versioning")
    organization = [namespace.organization] if namespace.organization else []
    options = Options(
        regions=tuple(namespace.regions),
        all_regions=namespace.all_regions,
        roles=arguments.chosen_roles(namespace, namespace.parser),
        variants=tuple(namespace.variants),
        grantees=(*namespace.share, *organization, *([PUBLIC] if namespace.public else [])),
        ssm=namespace.ssm,
        bucket=namespace.bucket,
        signing_profile=namespace.signing_profile,
        folder=namespace.output or context.root / "dist",
        dry_run=namespace.dry_run,
    )
    return publish(context, options)


COMMAND = Command(
    "publish",
    "Publish the built layer. Where the same bytes are published already, no version is created. If a region fails, "
    "run the command again. Records what is published in layer-manifest.json.",
    _add_arguments,
    _run,
)

# --- The work ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """The outcome for one variant in one region.

    Args:
        actions: what was done, or would be done.
        entry: of the manifest; None if it failed, or is not published yet.
    """

    region: str
    variant: str
    actions: tuple[str, ...]
    entry: Published | None = None
    error: str = ""

    @property
    def words(self) -> str:
        return f"failed: {self.error}" if self.error else ", ".join(self.actions)


def publish(context: Context, options: Options) -> int:
    """Publish the variants in all regions. Returns the exit status."""
    variants(context.manifest, options.variants, [])  # wrong usage, before waiting for the lock
    rows = []
    with publisher_lock(context.root, options.dry_run):
        manifest = manifests.load(context.root / manifests.FILE_NAME)  # the publisher before may have changed it
        chosen = variants(manifest, options.variants, [manifest.slim])
        zips = [read_layer(context, variant, options.folder, options.dry_run) for variant in chosen]
        accesses = find_accesses(context.aws, options.regions, options.all_regions, options.roles)
        if not options.bucket:
            _check_sizes(zips, options.max_upload_bytes)
        for access in sorted(accesses, key=lambda each: each.place):
            for each in zips:
                row = _publish(Publisher(manifest, access, options), each)
                if row.entry and not options.dry_run:
                    manifest = _record(context.root, row.entry)
                if not context.output.as_json:
                    context.output.note(f"{row.region}  {row.variant}  {row.words}")
                rows.append(row)
    _print(context.output, rows, options.dry_run)
    return 1 if any(row.error for row in rows) else 0


def _publish(publisher: Publisher, layer: BuiltLayer) -> Row:
    """A region that fails does not stop the others; an expired session would fail in all of them."""
    try:
        return publisher.publish(layer)
    except CredentialsExpired:
        raise
    except ToolError as error:
        return Row(publisher.region, layer.variant.name, (), error=str(error))


@dataclass(frozen=True)
class Upload:
    """The zip of a new version: its `CodeSha256`, and the `Content` of the request, as bytes or as an object."""

    sha256: str
    content: dict[str, Any]

    @classmethod
    def of(cls, signed: SignedZip) -> Upload:
        return cls(code_sha256(signed.data), {"S3Bucket": signed.bucket, "S3Key": signed.key})


class Publisher:
    """Publishes in one region."""

    def __init__(self, manifest: Manifest, access: Access, options: Options) -> None:
        self._aws = access.aws
        self._manifest = manifest
        self._place = access.place
        self._options = options
        self._layers = Layers(access.aws, self.region)
        name = options.bucket and options.bucket.replace("{region}", self.region)
        self._bucket = Bucket(access.aws, self.region, name) if name else None
        profile = options.signing_profile
        self._signer = Signer(access.aws, self.region, self._bucket, profile) if profile and self._bucket else None
        self._actions: list[str] = []

    @property
    def region(self) -> str:
        return self._place.region

    def publish(self, built: BuiltLayer) -> Row:
        """Create the version if it is missing, share it, and write its parameters; raises `ToolError`."""
        variant = built.variant
        layer = project_layers((variant,), self._place)[variant.layer_name]
        info = self.find(layer, self._hashes(built, layer))
        upload = None
        if info is None and self._signer:
            signed = self._signer.signed_before(layer.name, built.data)
            info = self.find(layer, {code_sha256(each.data) for each in signed})
            upload = Upload.of(signed[0]) if signed else None
        if info is None and self._options.dry_run:
            return Row(self.region, variant.name, tuple(self._planned(is_signed=upload is not None)))
        entry = self._entry(built, info or self._create(built, layer, upload or self._upload(built, layer)))
        self._share(LayerVersion.parse(entry.arn), entry.sharedWith)
        if self._options.ssm:
            self._write_parameters(self._options.ssm, entry)
        return Row(self.region, variant.name, tuple(self._actions or ["up to date"]), entry)

    def _planned(self, is_signed: bool) -> Iterator[str]:
        if self._signer and not is_signed:
            yield f"would sign with {self._options.signing_profile}"
        yield "would publish"
        yield from (f"would share it with {grantee}" for grantee in self._options.grantees)

    def _hashes(self, built: BuiltLayer, layer: Layer) -> set[str]:
        """Return the `CodeSha256` of the versions that need not be published again.

        The same zip has another hash after each signing, so the manifest has both. A signed version also
        counts where no signature is requested. With a requested signature, only one by the same profile counts.
        """
        hashes = set() if self._signer else {code_sha256(built.data)}
        entry = published(self._manifest, layer)
        if entry and entry.sha256 == built.sha256 and entry.signedSha256:
            profile = entry.signingProfileVersion.rpartition("/signing-profiles/")[2].partition("/")[0]
            if self._options.signing_profile in (None, profile):
                hashes.add(b64encode(bytes.fromhex(entry.signedSha256)).decode())
        return hashes

    def find(self, layer: Layer, hashes: Collection[str]) -> LayerInfo | None:
        """Return a version with one of the `hashes`: the one in the manifest if it has it, else the newest."""
        if not hashes:
            return None
        entry = published(self._manifest, layer)
        first = LayerVersion.parse(entry.arn).number if entry else None
        numbers = [number for number, _ in self._layers.numbers(layer)]
        for number in sorted(numbers, key=lambda number: number != first):
            info = self._layers.get(layer.version(number), self._place.account)
            if isinstance(info, LayerInfo) and info.sha256 in hashes:
                return info
        return None

    def _create(self, built: BuiltLayer, layer: Layer, upload: Upload) -> LayerInfo:
        """Create a version; after an unclear outcome, look for it before the next attempt."""
        text = description(self._manifest.name, self._manifest.version, built.description)
        patience = Patience(self._aws.retries(self.region), "PublishLayerVersion")
        info: LayerInfo | None = None
        while info is None:
            try:
                info = self._layers.publish(built.variant, text, self._manifest.license, upload.content)
            except OutcomeUnknown as error:
                may_continue = patience.pause(error.code or "no response")
                info = self.find(layer, {upload.sha256})
                if info is None and not may_continue:
                    raise ToolError(str(error)) from None
        if info.sha256 != upload.sha256:
            raise ToolError(
                f"AWS received other bytes than were sent: {info.arn} has the CodeSha256 {info.sha256}; "
                "delete this version, and repeat the command"
            )
        self._actions.append(f"published as version {info.number}")
        return info

    def _upload(self, built: BuiltLayer, layer: Layer) -> Upload:
        """Sign the zip if that is requested, and upload it if it is too large to be sent directly."""
        if self._signer:
            signed = self._signer.sign(layer.name, built.data)
            self._actions.append(f"signed with {self._options.signing_profile}")
            return Upload.of(signed)
        if len(built.data) <= self._options.max_upload_bytes:
            return Upload(code_sha256(built.data), {"ZipFile": built.data})
        key = f"{layer.name}/{built.sha256}.zip"
        assert self._bucket is not None  # `_check_sizes`
        if self._bucket.upload(key, built.data)[1]:
            self._actions.append(f"uploaded to {self._bucket.name}")
        return Upload(code_sha256(built.data), {"S3Bucket": self._bucket.name, "S3Key": key})

    def _entry(self, built: BuiltLayer, info: LayerInfo) -> Published:
        """Return the entry of the manifest. Grantees of the entry before remain."""
        before = published(self._manifest, LayerVersion.parse(info.arn).layer)
        is_signed = info.sha256 != code_sha256(built.data)
        return Published(
            variant=built.variant.name,
            version=self._manifest.version,
            partition=self._place.partition,
            account=self._place.account,
            region=self.region,
            arn=info.arn,
            sha256=built.sha256,
            size=len(built.data),
            sharedWith=tuple(sorted({*(before.sharedWith if before else ()), *self._options.grantees})),
            signedSha256=b64decode(info.sha256).hex() if is_signed else "",
            signedSize=info.size if is_signed else 0,
            signingProfileVersion=info.signing_profile if is_signed else "",
            bundled=built.bundled,
            libraries=built.libraries,
        )

    def _share(self, version: LayerVersion, grantees: Sequence[str]) -> None:
        """Add missing permissions. They belong to a version, so a new version has none."""
        missing = sorted(set(grantees) - self._layers.grantees(version)) if grantees else []
        for grantee in missing:
            if self._options.dry_run:
                self._actions.append(f"would share it with {grantee}")
            else:
                self._layers.share(version, grantee)
                self._actions.append(f"shared with {grantee}")

    def _write_parameters(self, prefix: str, entry: Published) -> None:
        """Write the parameter of the version, which never changes, and that of the latest version."""
        folder = f"/{prefix}/{entry.variant}"
        version = entry.version.replace("+", "_")  # names of parameters cannot contain a plus sign
        self._write_parameter(f"{folder}/{version}", entry.arn, overwrite=False)
        self._write_parameter(f"{folder}/latest", entry.arn, overwrite=True)

    def _write_parameter(self, name: str, value: str, overwrite: bool) -> None:
        present = self._read_parameter(name)
        if present == value:
            return
        if present and not overwrite:
            raise ToolError(
                f"{name} is {present}, and the parameter of a version never changes: "
                f"increase the version in {manifests.FILE_NAME}"
            )
        if self._options.dry_run:
            self._actions.append(f"would write {name}")
            return
        ssm = self._aws.client("ssm", self.region)
        try:
            with translated():
                ssm.put_parameter(Name=name, Value=value, Type="String", Overwrite=overwrite)
        except AwsError as error:
            # Somebody else was faster, or this call was: botocore repeated it.
            if error.code != "ParameterAlreadyExists" or self._read_parameter(name) != value:
                raise
        self._actions.append(f"wrote {name}")

    def _read_parameter(self, name: str) -> str | None:
        try:
            with translated():
                response = self._aws.client("ssm", self.region).get_parameter(Name=name)
        except AwsError as error:
            if error.code != "ParameterNotFound":
                raise
            return None
        return str(response["Parameter"]["Value"])


@contextmanager
def publisher_lock(root: Path, dry_run: bool) -> Iterator[None]:
    """Wait until no other process publishes from this checkout: two at once would create two versions."""
    if dry_run:
        yield
        return
    with (root / "build.sh").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_sizes(zips: Sequence[BuiltLayer], limit: int) -> None:
    for each in zips:
        if len(each.data) > limit:
            raise ToolError(
                f"{each.variant.zip_name} has {len(each.data):,} bytes, and {limit:,} can be uploaded directly: "
                "use --bucket with a bucket in the region"
            )


def _record(root: Path, entry: Published) -> Manifest:
    """Replace the manifest's entry for the same variant and place, and the page about it; return the new manifest."""
    path = root / manifests.FILE_NAME
    text = path.read_text("utf-8")
    others = [other for other in manifests.parse(text.encode()).published if other.place != entry.place]
    new = with_published(text, [*others, entry])
    manifest = manifests.parse(new.encode())
    if new != text:
        files = {root / pages.PAGE: pages.page(manifest)} if (root / pages.PAGE).is_file() else {}
        write_all_atomically({**files, path: new.encode()}, path.stat().st_mode & 0o777)
    return manifest


def _print(out: output.Output, rows: Sequence[Row], dry_run: bool) -> None:
    cells = [(row.region, row.variant, row.entry.arn if row.entry else "-", row.words) for row in rows]
    out.result(
        lambda: {"command": COMMAND.name, "dryRun": dry_run, "published": [_document(row) for row in rows]},
        lambda: [output.table(("region", "variant", "layer version", "outcome"), cells)],
    )


def _document(row: Row) -> dict[str, Any]:
    entry = row.entry.fields if row.entry else {"arn": None}
    return {**entry, "region": row.region, "variant": row.variant, "actions": row.actions, "error": row.error}
