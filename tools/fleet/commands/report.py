"""The command `report`: which function has which version of the layer."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.common import output
from tools.common.cli import Parser
from tools.common.lambda_facts import PREVIEW_RUNTIMES, deprecated_since
from tools.fleet.aws.account import Access, find_accesses
from tools.fleet.aws.arns import Layer, LayerVersion, Place, layer_of, short
from tools.fleet.aws.errors import AwsError, CredentialsError
from tools.fleet.aws.functions import Functions
from tools.fleet.aws.layers import Layers
from tools.fleet.aws.models import LATEST, Alias, Function, LayerInfo, Unavailable
from tools.fleet.checks.bundles import outdated
from tools.fleet.checks.capacity_provider import is_offered
from tools.fleet.commands import arguments
from tools.fleet.commands.interface import Command, Context
from tools.fleet.commands.summary import append_summary
from tools.fleet.rollout import target_version
from tools.fleet.rollout.target_version import project_layers, published

PROBLEM_OF = {
    "behind": "outdated",
    "bundle": "outdated bundle",
    "deleted": "deleted",
    "unshared": "not shared",
}  # by the value of --fail-on


def _add_arguments(parser: Parser) -> None:
    arguments.add_regions(parser)
    arguments.add_roles(parser)
    parser.add_argument(
        "--fail-on",
        metavar="PROBLEM",
        choices=tuple(PROBLEM_OF),
        nargs="+",
        action="extend",
        default=[],
        help=f"exit with 1 if a function or an alias has one of these problems: {', '.join(PROBLEM_OF)}",
    )
    arguments.add_summary(parser)
    parser.set_defaults(parser=parser)


def _run(namespace: argparse.Namespace, context: Context) -> int:
    roles = arguments.chosen_roles(namespace, namespace.parser)
    accesses = find_accesses(context.aws, namespace.regions, namespace.all_regions, roles)
    return report(context, sorted(accesses, key=lambda each: each.place), namespace.fail_on, namespace.summary)


COMMAND = Command(
    "report",
    "List which function, version and alias has which version of the layer, and problems.",
    _add_arguments,
    _run,
)


@dataclass(frozen=True)
class Row:
    """One version of a function, with one layer of this project.

    Args:
        capacity_provider: its ARN; empty for an on-demand function.
        release: the version of the project, such as 1.2.3; `-` if unknown.
        problems: a name, and a detail that may be empty.
    """

    place: Place
    function: str
    version: str
    aliases: tuple[str, ...]
    runtime: str
    capacity_provider: str
    layer: LayerVersion
    release: str
    problems: tuple[tuple[str, str], ...]


def report(
    context: Context, accesses: Sequence[Access], fail_on: Sequence[str] = (), summary: Path | None = None
) -> int:
    """List the functions of all regions and accounts. Returns the exit status.

    Args:
        fail_on: keys of `PROBLEM_OF`; the status is 1 if a row in use has one of these problems.
        summary: a file, to which the table is appended in Markdown.
    """
    rows: list[Row] = []
    failures: dict[str, str] = {}
    has_accounts = len({each.place.account for each in accesses}) > 1
    for access in accesses:
        try:
            rows += Region(context, access).rows()
        except CredentialsError:
            raise
        except AwsError as error:  # a policy of the organization may deny a region
            where = str(access.place) if has_accounts else access.place.region
            failures[where] = str(error)
            context.output.note(f"{where} was not read: {error}")
    context.output.result(
        lambda: {"command": COMMAND.name, "functions": [_document(row) for row in rows], "failures": failures},
        lambda: _lines(rows, has_accounts),
    )
    failing = [row for row in rows if _is_used(row) and {name for name, _ in row.problems} & _problems_of(fail_on)]
    for problem in dict.fromkeys(fail_on):
        number = sum(PROBLEM_OF[problem] in dict(row.problems) for row in failing)
        if number:
            context.output.note(f"--fail-on {problem}: {output.count(number, 'row')}")
    if summary:
        append_summary(summary, "Layer versions", _headers(has_accounts), _cells(rows, has_accounts), _closing(rows))
    return 1 if failures or failing else 0


def _problems_of(fail_on: Sequence[str]) -> set[str]:
    return {PROBLEM_OF[each] for each in fail_on}


def _is_used(row: Row) -> bool:
    """Whether requests reach the row: versions without an alias are kept for a rollback, and nothing changes them."""
    return row.version == LATEST or bool(row.aliases)


class Region:
    """The functions of one region of one account."""

    def __init__(self, context: Context, access: Access) -> None:
        self._manifest = context.manifest
        self._workers = context.environment.workers
        self._place = access.place
        self._functions = Functions(access.aws, self._place.region)
        self._layers = Layers(access.aws, self._place.region)
        self._names = {variant.layer_name for variant in self._manifest.variants}

    def rows(self) -> Iterator[Row]:
        """Yield a row for each version of a function and each of its layers of this project."""
        functions = sorted(filter(self._versions_of, self._functions.all(published=True)), key=_order)
        names = sorted({each.name for each in functions})
        versions = sorted({version for each in functions for version in self._versions_of(each)})
        with ThreadPoolExecutor(self._workers) as pool:
            aliases = dict(zip(names, pool.map(self._functions.aliases, names), strict=True))
            read = pool.map(lambda version: self._layers.get(version, self._place.account), versions)
            infos = dict(zip(versions, read, strict=True))
        expected = self._expected_numbers()
        texts = {str(version): target_version.bundle(_description(info)) for version, info in infos.items()}
        bundles = outdated(self._manifest, texts)
        first_of = _first_of_bytes(infos)
        for function in functions:
            for version in self._versions_of(function):
                yield Row(
                    self._place,
                    function.name,
                    function.version,
                    _aliases_to(function.version, aliases[function.name]),
                    function.runtime,
                    function.capacity_provider,
                    version,
                    _release(self._manifest.name, infos[version]),
                    (
                        *_problems(function, version, infos[version], expected),
                        *_outdated_bundle(bundles.get(str(version))),
                        *_duplicate(version, first_of),
                    ),
                )

    def _versions_of(self, function: Function) -> list[LayerVersion]:
        """Return the function's versions of this project's layers, of any account."""
        return [
            LayerVersion.parse(arn) for arn in function.layers if (layer := layer_of(arn)) and layer.name in self._names
        ]

    def _expected_numbers(self) -> dict[Layer, int]:
        """Return the version number that each layer should have: of the manifest, else the newest."""
        expected = {}
        for layer in project_layers(self._manifest.variants, self._place).values():
            if entry := published(self._manifest, layer):
                expected[layer] = LayerVersion.parse(entry.arn).number
            elif numbers := self._layers.numbers(layer):
                expected[layer] = numbers[0][0]
        return expected


def _first_of_bytes(infos: Mapping[LayerVersion, LayerInfo | Unavailable]) -> dict[LayerVersion, LayerVersion]:
    """Return the oldest version with the same bytes for each version of a layer."""
    oldest: dict[tuple[Layer, str], LayerVersion] = {}
    first = {}
    for version in sorted(infos):
        info = infos[version]
        if isinstance(info, LayerInfo) and info.sha256:
            first[version] = oldest.setdefault((version.layer, info.sha256), version)
    return first


def _duplicate(version: LayerVersion, first_of: Mapping[LayerVersion, LayerVersion]) -> Iterator[tuple[str, str]]:
    first = first_of.get(version, version)
    if first != version:
        yield "same bytes", f"as version {first.number}"


def _outdated_bundle(detail: str | None) -> Iterator[tuple[str, str]]:
    if detail:
        yield "outdated bundle", detail


def _order(function: Function) -> tuple[str, bool, int]:
    number = int(function.version) if function.version.isdecimal() else 0
    return function.name, function.version != LATEST, number


def _aliases_to(version: str, aliases: Sequence[Alias]) -> tuple[str, ...]:
    """Return the aliases that lead to `version`, with the share of requests if it is not all."""
    found = []
    for alias in aliases:
        others = sum(alias.weights.values())
        share = 1 - others if alias.version == version else alias.weights.get(version, 0)
        if share:
            found.append(alias.name if share == 1 else f"{alias.name} ({share:.0%})")
    return tuple(sorted(found))


def _release(name: str, info: LayerInfo | Unavailable) -> str:
    """Return the version of the project, which the description contains; see `target_version.description`."""
    text = _description(info).partition(" (")[0]
    return text.removeprefix(f"{name} ") if text.startswith(f"{name} ") else "-"


def _description(info: LayerInfo | Unavailable) -> str:
    return info.description if isinstance(info, LayerInfo) else ""


def _problems(
    function: Function, version: LayerVersion, info: LayerInfo | Unavailable, expected: Mapping[Layer, int]
) -> Iterator[tuple[str, str]]:
    if isinstance(info, Unavailable):
        yield ("deleted" if info.is_deleted else "not shared"), ""
    elif info.architectures and not set(function.architectures) <= set(info.architectures):
        yield "wrong architecture", ", ".join(function.architectures)
    if version.number < expected.get(version.layer, 0):
        yield "outdated", str(expected[version.layer])
    if day := deprecated_since(function.runtime):
        yield "deprecated runtime", day
    if function.capacity_provider and not is_offered(function.runtime):
        yield "not on managed instances", function.runtime
    if function.runtime in PREVIEW_RUNTIMES:
        yield "preview runtime", function.runtime


def _headers(has_accounts: bool) -> tuple[str, ...]:
    names = ("region", "function", "version", "aliases", "runtime", "layer version", "release", "problems")
    return ("account", *names) if has_accounts else names


def _lines(rows: Sequence[Row], has_accounts: bool) -> Iterator[str]:
    if rows:
        yield output.table(_headers(has_accounts), _cells(rows, has_accounts))
    yield _closing(rows)


def _closing(rows: Sequence[Row]) -> str:
    problems = sum(bool(row.problems) for row in rows)
    functions = {(row.place, row.function) for row in rows}
    return f"{output.count(len(functions), 'function')} with the layer; {problems} of {len(rows)} rows have problems"


def _cells(rows: Sequence[Row], has_accounts: bool) -> list[tuple[str, ...]]:
    return [(*((row.place.account,) if has_accounts else ()), *_cells_of(row)) for row in rows]


def _cells_of(row: Row) -> tuple[str, ...]:
    layer = short(str(row.layer), row.place)
    aliases = ", ".join(row.aliases)
    problems = ", ".join(f"{name} ({detail})" if detail else name for name, detail in row.problems)
    runtime = f"{row.runtime} on managed instances" if row.capacity_provider else row.runtime
    return (row.place.region, row.function, row.version, aliases, runtime, layer, row.release, problems)


def _document(row: Row) -> dict[str, Any]:
    return {
        "region": row.place.region,
        "account": row.place.account,
        "function": row.function,
        "version": row.version,
        "aliases": row.aliases,
        "runtime": row.runtime,
        "capacityProvider": row.capacity_provider or None,
        "layer": str(row.layer),
        "layerVersion": row.layer.number,
        "release": row.release,
        "problems": [name for name, _ in row.problems],
    }
