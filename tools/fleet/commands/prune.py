"""The command `prune`: deletes old layer versions that nothing uses.

A function keeps running with a deleted version, but no update may contain that version again, so a rollback would fail.
Therefore versions in journals count as used.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tools.common import output
from tools.common.cli import Parser
from tools.common.paths import shown
from tools.fleet.aws.account import Access, find_accesses
from tools.fleet.aws.arns import LayerVersion, layer_of, short
from tools.fleet.aws.functions import Functions
from tools.fleet.aws.layers import Layers
from tools.fleet.aws.models import LATEST
from tools.fleet.aws.objects import Address
from tools.fleet.aws.parameters import parameters_below
from tools.fleet.commands import arguments
from tools.fleet.commands.interface import Command, Context
from tools.fleet.commands.journals import Where, all_in, where
from tools.fleet.commands.scope import variants
from tools.fleet.rollout.history import History
from tools.fleet.rollout.journal import journal_folder, journals_in, read, read_from
from tools.fleet.rollout.target_version import project_layers
from tools.packaging.manifest import FILE_NAME, Variant

DEFAULT_PREFIX = "streaming-runtime"
_MAX_USERS = 3  # in a row of the table


def _add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--keep", metavar="N", type=arguments.number, required=True, help="keep the newest N versions of each layer"
    )
    arguments.add_regions(parser)
    arguments.add_roles(parser)
    arguments.add_variants(parser, "all")
    parser.add_argument(
        "--journal",
        metavar="FILE",
        type=where,
        nargs="+",
        action="extend",
        default=[],
        help="journals besides those in rollouts/: files, or s3://BUCKET/PREFIX/ with all journals of a team",
    )
    parser.add_argument(
        "--min-age",
        metavar="TIME",
        type=arguments.age,
        default=timedelta(days=1),
        help="keep versions that were published within this time, such as 12h or 0 (default: 1d)",
    )
    parser.add_argument(
        "--ssm",
        metavar="PREFIX",
        type=arguments.prefix,
        default=DEFAULT_PREFIX,
        help=f"keep versions that the parameters below /PREFIX name (default: {DEFAULT_PREFIX})",
    )
    arguments.add_yes(parser, "delete them")
    arguments.add_dry_run(parser)
    parser.set_defaults(parser=parser)


@dataclass(frozen=True)
class Options:
    """The options of the command.

    Args:
        keep: the number of newest versions to keep.
        min_age: younger versions are kept.
        ssm: the prefix of the parameters that name versions.
    """

    keep: int
    min_age: timedelta
    ssm: str
    regions: tuple[str, ...]
    all_regions: bool
    roles: tuple[str, ...]
    variants: tuple[str, ...]
    journals: tuple[Where, ...]
    delete: bool


def _run(namespace: argparse.Namespace, context: Context) -> int:
    options = Options(
        keep=namespace.keep,
        min_age=namespace.min_age,
        ssm=namespace.ssm,
        regions=tuple(namespace.regions),
        all_regions=namespace.all_regions,
        roles=arguments.chosen_roles(namespace, namespace.parser),
        variants=tuple(namespace.variants),
        journals=tuple(namespace.journal),
        delete=namespace.yes and not namespace.dry_run,
    )
    return prune(context, options)


COMMAND = Command(
    "prune",
    "Delete old versions of the layer that no function, published version, alias, manifest, journal or "
    "parameter uses, and that are older than --min-age. "
    "Without --yes, list them only.",
    _add_arguments,
    _run,
)


@dataclass(frozen=True)
class Row:
    """A layer version, and what uses it."""

    version: LayerVersion
    users: tuple[str, ...] = ()

    @property
    def is_unused(self) -> bool:
        return not self.users


def prune(context: Context, options: Options) -> int:
    """List unused versions, and delete them if the options ask for it. Returns the exit status."""
    chosen = variants(context.manifest, options.variants, context.manifest.variants)
    histories = _histories(context, options.journals)  # before functions are read, because it may fail
    rows: list[Row] = []
    deleted: list[LayerVersion] = []
    accesses = find_accesses(context.aws, options.regions, options.all_regions, options.roles)
    accesses.sort(key=lambda each: each.place)
    users = _users(context, accesses, options.ssm)
    for access in accesses:
        found = list(_rows(context, access, chosen, users, histories, options))
        rows += found
        layers = Layers(access.aws, access.place.region)
        for row in found if options.delete else ():
            if row.is_unused:
                layers.delete(row.version)
                deleted.append(row.version)
                context.output.note(f"deleted {row.version}")
    context.output.result(lambda: _document(rows, deleted, options.delete), lambda: _lines(rows, options.delete))
    return 0


def _histories(context: Context, journals: Sequence[Where]) -> dict[str, History]:
    files = (each for each in journals if isinstance(each, Path))
    paths = {path.resolve(): path for path in (*journals_in(journal_folder(context.root)), *files)}
    histories = {shown(path): read(path) for path in paths.values()}
    for folder in journals:
        if isinstance(folder, Address):
            histories |= {each.name: read_from(each) for each in all_in(context, folder)}
    return histories


def _rows(
    context: Context,
    access: Access,
    chosen: Sequence[Variant],
    users: Mapping[str, Sequence[str]],
    histories: Mapping[str, History],
    options: Options,
) -> Iterator[Row]:
    layers = Layers(access.aws, access.place.region)
    oldest = context.environment.now() - options.min_age
    for layer in project_layers(tuple(chosen), access.place).values():
        created = layers.created(layer)
        for index, (number, _) in enumerate(layers.numbers(layer)):
            version = layer.version(number)
            if index < options.keep:
                yield Row(version, ("it is among the newest",))
                continue
            if number in created and created[number] > oldest:
                yield Row(version, ("it is younger than --min-age",))
                continue
            journals = [f"the journal {name}" for name, history in histories.items() if _contains(history, version)]
            yield Row(version, (*users.get(str(version), ()), *journals))


def _users(context: Context, accesses: Sequence[Access], prefix: str) -> Mapping[str, Sequence[str]]:
    """Return the users of each layer version, in all accounts: one of them can use the layer of another.

    They are read before the first version is deleted. Aliases lead to published versions, which are read as functions.
    """
    users: defaultdict[str, list[str]] = defaultdict(list)
    for entry in context.manifest.published:
        users[entry.arn].append(FILE_NAME)
    for access in accesses:
        for arn, name in _users_in(access, prefix):
            account = access.place.account
            is_elsewhere = layer_of(arn) is not None and LayerVersion.parse(arn).layer.account != account
            users[arn].append(f"{name} of account {account}" if is_elsewhere else name)
    return users


def _users_in(access: Access, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the ARNs that parameters and functions of one account and region name, with the name of the user."""
    for name, value in parameters_below(access.aws, access.place.region, prefix).items():
        yield value, f"the parameter {name}"
    functions = Functions(access.aws, access.place.region).all(published=True)
    for function in sorted(functions, key=lambda each: (each.name, each.version)):
        suffix = "" if function.version == LATEST else f":{function.version}"
        for arn in function.layers:
            yield arn, f"function {function.name}{suffix}"


def _contains(history: History, version: LayerVersion) -> bool:
    """Whether a journal contains a version, in a list of layers or as the target in its options."""
    return str(version) in history.layer_versions() or history.options.get("to") in (str(version), str(version.number))


def _lines(rows: Sequence[Row], delete: bool) -> Iterator[str]:
    if rows:
        cells = [
            (row.version.layer.region, short(str(row.version), row.version.layer.place), _words(row, delete))
            for row in rows
        ]
        yield output.table(("region", "layer version", "outcome"), cells)
    unused = sum(row.is_unused for row in rows)
    verb = "deleted" if delete else "unused: --yes deletes them" if unused else "unused"
    yield f"{output.count(len(rows), 'version')}, {unused} {verb}"


def _words(row: Row, delete: bool) -> str:
    if row.is_unused:
        return "deleted" if delete else "would be deleted"
    return f"kept: {output.shortened(row.users, _MAX_USERS)}"


def _document(rows: Sequence[Row], deleted: Sequence[LayerVersion], delete: bool) -> dict[str, Any]:
    return {
        "command": COMMAND.name,
        "dryRun": not delete,
        "versions": [
            {
                "arn": str(row.version),
                "region": row.version.layer.region,
                "deleted": row.version in deleted,
                "unused": row.is_unused,
                "usedBy": row.users,
            }
            for row in rows
        ],
    }
