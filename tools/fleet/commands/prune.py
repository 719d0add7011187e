"""The command `prune`: deletes old layer versions that nothing names any more, and tells first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.common import output as terminal
from tools.common.paths import shown
from tools.fleet.aws.arns import LayerVersion, short
from tools.fleet.aws.functions import Functions
from tools.fleet.aws.layers import Layers
from tools.fleet.aws.models import LATEST
from tools.fleet.aws.session import Aws, Identity
from tools.fleet.commands.rollout import JOURNALS
from tools.fleet.commands.scope import identities, variants
from tools.fleet.rollout.journal import History, files_in, read
from tools.fleet.rollout.target_version import own_layers
from tools.packaging.manifest import FILE_NAME, Manifest

_NAMED = 3


@dataclass(frozen=True)
class Order:
    """What was asked for. ``keep`` is how many of the newest stay in any case."""

    keep: int
    regions: tuple[str, ...]
    all_regions: bool
    variants: tuple[str, ...]
    journals: tuple[Path, ...]
    delete: bool
    as_json: bool


@dataclass(frozen=True)
class Row:
    """A version, and why it stays; nothing names one that may go."""

    version: LayerVersion
    users: tuple[str, ...] = field(default=())

    @property
    def may_go(self) -> bool:
        """Whether it is deleted."""
        return not self.users


def prune(aws: Aws, manifest: Manifest, order: Order) -> int:
    """Tell what would go and what stays, and delete it if told so. Returns the exit status."""
    chosen = variants(manifest, order.variants, manifest.variants)
    histories = _histories(order.journals)  # first, as one that cannot be read ends it
    names = {variant.layer_name for variant in chosen}
    rows: list[Row] = []
    deleted: list[LayerVersion] = []
    for identity in identities(aws, order.regions, order.all_regions):
        found = _look(aws, manifest, identity, names, histories, order.keep)
        rows += found
        layers = Layers(aws, identity.place.region)
        for row in found if order.delete else ():
            if row.may_go:
                layers.delete(row.version)
                deleted.append(row.version)
                terminal.remark(f"deleted {row.version}")
    _print(rows, deleted, order)
    return 0


def _histories(given: Sequence[Path]) -> dict[str, History]:
    paths = {path.resolve(): path for path in (*files_in(JOURNALS), *given)}
    return {shown(path): read(path) for path in paths.values()}


def _look(
    aws: Aws, manifest: Manifest, identity: Identity, names: Iterable[str], histories: dict[str, History], keep: int
) -> list[Row]:
    place = identity.place
    layers = Layers(aws, place.region)
    ours = [layer for name, layer in own_layers(manifest.variants, place).items() if name in names]
    versions = [layer.version(number) for layer in ours for number, _ in layers.numbers(layer)]
    users = _users(Functions(aws, place.region), manifest)
    for name, history in histories.items():
        for version in versions:
            if _is_named(history, version):
                users[str(version)].append(f"the journal {name}")
    newest = {version for layer in ours for version in [each for each in versions if each.layer == layer][:keep]}
    return [
        Row(version, ("it is among the newest",) if version in newest else tuple(users[str(version)]))
        for version in versions
    ]


def _users(functions: Functions, manifest: Manifest) -> defaultdict[str, list[str]]:
    """Who names which layer version. An alias leads to a published version, which is in the list of functions."""
    users: defaultdict[str, list[str]] = defaultdict(list)
    for entry in manifest.published:
        users[entry.arn].append(FILE_NAME)
    for function in sorted(functions.all(published=True), key=lambda each: (each.name, each.version)):
        suffix = "" if function.version == LATEST else f":{function.version}"
        for arn in function.layers:
            users[arn].append(f"function {function.name}{suffix}")
    return users


def _is_named(history: History, version: LayerVersion) -> bool:
    """Tell whether a journal names a version, as what it changed or as what it was asked to lead to."""
    asked = history.request.get("to")
    return str(version) in history.layer_versions() or asked in (str(version), str(version.number))


def _print(rows: Sequence[Row], deleted: Sequence[LayerVersion], order: Order) -> None:
    if order.as_json:
        print(terminal.document(_document(rows, deleted, order)), flush=True)
        return
    if rows:
        cells = [
            (row.version.layer.region, short(str(row.version), row.version.layer.place), _told(row, order))
            for row in rows
        ]
        print(terminal.table(("region", "layer version", "what becomes of it"), cells))
    going = sum(row.may_go for row in rows)
    verb = "deleted" if order.delete else "can be deleted: give --yes" if going else "can be deleted"
    print(f"{terminal.count(len(rows), 'version')}, {going} {verb}", flush=True)


def _told(row: Row, order: Order) -> str:
    if row.may_go:
        return "deleted" if order.delete else "would be deleted"
    more = f" and {len(row.users) - _NAMED} more" if len(row.users) > _NAMED else ""
    return f"stays: {', '.join(row.users[:_NAMED])}{more}"


def _document(rows: Sequence[Row], deleted: Sequence[LayerVersion], order: Order) -> dict[str, Any]:
    return {
        "command": "prune",
        "dryRun": not order.delete,
        "versions": [
            {
                "arn": str(row.version),
                "region": row.version.layer.region,
                "deleted": row.version in deleted,
                "mayGo": row.may_go,
                "namedBy": row.users,
            }
            for row in rows
        ],
    }
