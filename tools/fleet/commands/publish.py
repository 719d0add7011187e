"""The command `publish`: each zip once in each region, shared with whom it should be, and written down."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from botocore import exceptions

from tools.common import output as terminal
from tools.common.errors import ToolError
from tools.common.lambda_facts import MAX_ZIP_BYTES
from tools.common.paths import ROOT
from tools.fleet import FleetError
from tools.fleet.aws.arns import Layer, LayerVersion
from tools.fleet.aws.functions import UnclearError
from tools.fleet.aws.layers import Layers, code_sha256
from tools.fleet.aws.models import LayerInfo
from tools.fleet.aws.session import Aws, AwsError, Identity, error_code, in_words, is_lost_code, status
from tools.fleet.commands.built_layer import Zip, built
from tools.fleet.commands.scope import identities, variants
from tools.fleet.rollout.target_version import description, own_layers, published
from tools.packaging import manifest as manifests
from tools.packaging.manifest import Manifest, Published
from tools.packaging.manifest_edit import with_published

_TRIES = 6
SECONDS_BETWEEN_TRIES = 1  # more with each


@dataclass(frozen=True)
class Order:
    """What was asked for.

    Args:
        grantees: who may use the layer besides the account, as in ``Published.sharedWith``.
        ssm: the prefix of parameters to write, without a slash at either end.
        bucket: where zips above the limit of a direct upload go first.
        output: the folder of the zips.
    """

    regions: tuple[str, ...]
    all_regions: bool
    variants: tuple[str, ...]
    grantees: tuple[str, ...]
    ssm: str | None
    bucket: str | None
    output: Path
    dry_run: bool
    as_json: bool


@dataclass(frozen=True)
class Row:
    """What became of one variant in one region. ``entry`` is missing where it failed, or is not there yet."""

    region: str
    variant: str
    did: tuple[str, ...]
    entry: Published | None = None
    error: str = ""


def publish(aws: Aws, manifest: Manifest, order: Order) -> int:
    """Publish the variants in the regions that were asked for. Returns the exit status."""
    chosen = variants(manifest, order.variants, [manifest.variants[0]])
    with _alone(order.dry_run):
        manifest = manifests.load(ROOT / manifests.FILE_NAME)  # as the publisher before has left it
        zips = [built(variant, manifest, order.output, order.dry_run) for variant in chosen]
        places = identities(aws, order.regions, order.all_regions)
        if not order.bucket:
            _refuse_large(zips)
        rows = []
        for identity in places:
            for each in zips:
                row = _publish_or_tell(Publisher(aws, manifest, identity, order), each)
                if row.entry and not order.dry_run:
                    manifest = _write_down(row.entry)
                if not order.as_json:
                    terminal.remark(f"{row.region}  {row.variant}  {row.error or ', '.join(row.did)}")
                rows.append(row)
    _print(rows, order)
    return 1 if any(row.error for row in rows) else 0


def _publish_or_tell(publisher: Publisher, zipped: Zip) -> Row:
    """A region that fails does not hold up the others, but credentials that fail would fail everywhere."""
    region = publisher.region
    try:
        return publisher.publish(zipped)
    except ToolError as error:
        return Row(region, zipped.variant.name, (), error=str(error))
    except AwsError as error:
        if is_lost_code(error_code(error)) and "Expired" in error_code(error):
            raise
        return Row(region, zipped.variant.name, (), error=in_words(error))


class Publisher:
    """Publishes into one region."""

    def __init__(self, aws: Aws, manifest: Manifest, identity: Identity, order: Order) -> None:
        self._aws = aws
        self._manifest = manifest
        self._place = identity.place
        self._order = order
        self._layers = Layers(aws, identity.place.region)
        self._did: list[str] = []

    @property
    def region(self) -> str:
        """Where it publishes."""
        return self._place.region

    def publish(self, zipped: Zip) -> Row:
        """See to it that the zip is there, shared and named; raises ``FleetError`` or an error of boto3."""
        variant = zipped.variant
        layer = own_layers((variant,), self._place)[variant.layer_name]
        info = self.find(layer, zipped.data) or self._add(zipped, layer)
        if info is None:
            self._do("would publish")
            for grantee in self._order.grantees:
                self._do(f"would share it with {grantee}")
            return Row(self.region, variant.name, tuple(self._did))
        entry = self._entry(zipped, info)
        self._share(LayerVersion.parse(info.arn), entry.sharedWith)
        if self._order.ssm:
            self._name(self._order.ssm, entry)
        return Row(self.region, variant.name, tuple(self._did or ["there already"]), entry)

    def find(self, layer: Layer, data: bytes) -> LayerInfo | None:
        """The version that holds the zip ``data``: the one of the manifest, or else the newest that does."""
        sha256 = code_sha256(data)
        held = published(self._manifest, layer)
        numbers = [number for number, _ in self._layers.numbers(layer)]
        if held:
            first = LayerVersion.parse(held.arn).number
            numbers.sort(key=lambda number: number != first)
        for number in numbers:
            info = self._layers.get(layer.version(number), self._place.account)
            if isinstance(info, LayerInfo) and info.sha256 == sha256:
                return info
        return None

    def _add(self, zipped: Zip, layer: Layer) -> LayerInfo | None:
        if self._order.dry_run:
            return None
        content = self._content(zipped)
        text = description(self._manifest.name, self._manifest.version)
        for tried in range(_TRIES):
            try:
                info = self._layers.publish(zipped.variant, text, self._manifest.license, content)
            except UnclearError as error:  # perhaps it is there: to try again at once could make two
                found = self.find(layer, zipped.data)
                if found is None and tried == _TRIES - 1:
                    raise FleetError(str(error)) from None
                if found is None:
                    time.sleep(tried * SECONDS_BETWEEN_TRIES)
                    continue
                info = found
            if info.sha256 != code_sha256(zipped.data):
                raise FleetError(f"{info.arn} has other bytes than were sent ({info.sha256}): delete it, and repeat")
            self._do(f"published as version {info.number}")
            return info
        return None

    def _content(self, zipped: Zip) -> dict[str, Any]:
        if len(zipped.data) <= MAX_ZIP_BYTES:
            return {"ZipFile": zipped.data}
        bucket = str(self._order.bucket).replace("{region}", self.region)
        key = f"{zipped.variant.layer_name}/{zipped.sha256}.zip"
        s3 = self._aws.client("s3", self.region)
        try:
            held: int = s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
        except exceptions.ClientError as error:
            if status(error) not in (403, 404):  # without the right to list, what is missing is forbidden
                raise
            held = -1
        if held != len(zipped.data):
            s3.put_object(Bucket=bucket, Key=key, Body=zipped.data)
            self._do(f"uploaded to {bucket}")
        return {"S3Bucket": bucket, "S3Key": key}

    def _entry(self, zipped: Zip, info: LayerInfo) -> Published:
        """What the manifest will say. Who shared it before goes on sharing it."""
        held = published(self._manifest, LayerVersion.parse(info.arn).layer)
        before = held.sharedWith if held else ()
        return Published(
            variant=zipped.variant.name,
            version=self._manifest.version,
            partition=self._place.partition,
            account=self._place.account,
            region=self.region,
            arn=info.arn,
            sha256=zipped.sha256,
            size=len(zipped.data),
            sharedWith=tuple(sorted({*before, *self._order.grantees})),
        )

    def _share(self, version: LayerVersion, grantees: Sequence[str]) -> None:
        """Every version has a policy of its own, so that one published anew has none."""
        missing = sorted(set(grantees) - self._layers.grantees(version)) if grantees else []
        for grantee in missing:
            if self._order.dry_run:
                self._do(f"would share it with {grantee}")
            else:
                self._layers.share(version, grantee)
                self._do(f"shared with {grantee}")

    def _name(self, prefix: str, entry: Published) -> None:
        """Write the parameters: that of the version once and for all, that of the latest each time."""
        folder = f"/{prefix}/{entry.variant}"
        release = entry.version.replace("+", "_")  # which no parameter's name may hold
        self._parameter(f"{folder}/{release}", entry.arn, overwrite=False)
        self._parameter(f"{folder}/latest", entry.arn, overwrite=True)

    def _parameter(self, name: str, value: str, overwrite: bool) -> None:
        ssm = self._aws.client("ssm", self.region)
        try:
            held = ssm.get_parameter(Name=name)["Parameter"]["Value"]
        except exceptions.ClientError as error:
            if error_code(error) != "ParameterNotFound":
                raise
            held = None
        if held == value:
            return
        if held and not overwrite:
            raise FleetError(f"{name} is {held}, and a version is named once: raise version in {manifests.FILE_NAME}")
        if self._order.dry_run:
            self._do(f"would write {name}")
            return
        try:
            ssm.put_parameter(Name=name, Value=value, Type="String", Overwrite=overwrite)
        except exceptions.ClientError as error:
            # Somebody was faster, or it was this very call, sent again.
            if (
                error_code(error) != "ParameterAlreadyExists"
                or ssm.get_parameter(Name=name)["Parameter"]["Value"] != value
            ):
                raise
        self._do(f"wrote {name}")

    def _do(self, what: str) -> None:
        self._did.append(what)


@contextmanager
def _alone(dry_run: bool) -> Iterator[None]:
    """Wait until no other process publishes from this checkout: two at once would make two versions."""
    if dry_run:
        yield
        return
    with (ROOT / "build.sh").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _refuse_large(zips: Sequence[Zip]) -> None:
    for each in zips:
        if len(each.data) > MAX_ZIP_BYTES:
            raise FleetError(
                f"{each.variant.zip_name} has {len(each.data):,} bytes, and {MAX_ZIP_BYTES:,} can be sent: "
                "name a bucket in the region with --bucket"
            )


def _write_down(entry: Published) -> Manifest:
    """Put ``entry`` into the manifest, in one step, and read it again."""
    path = ROOT / manifests.FILE_NAME
    text = path.read_text("utf-8")
    held = manifests.parse(text.encode())
    kept = [other for other in held.published if other.place != entry.place]
    new = with_published(text, [*kept, entry])
    if new != text:
        staged = path.with_name(f".{path.name}.new")
        staged.write_text(new, "utf-8")
        staged.chmod(path.stat().st_mode)
        os.replace(staged, path)
    return manifests.load(path)


def _print(rows: Sequence[Row], order: Order) -> None:
    if order.as_json:
        content = [_document(row) for row in rows]
        print(terminal.document({"command": "publish", "dryRun": order.dry_run, "published": content}), flush=True)
        return
    cells = [(row.region, row.variant, row.entry.arn if row.entry else "-", _told(row)) for row in rows]
    print(terminal.table(("region", "variant", "layer version", "what was done"), cells), flush=True)


def _told(row: Row) -> str:
    return f"failed: {row.error}" if row.error else ", ".join(row.did)


def _document(row: Row) -> dict[str, Any]:
    entry = asdict(row.entry) if row.entry else {"arn": None}
    return {**entry, "region": row.region, "variant": row.variant, "did": row.did, "error": row.error}
