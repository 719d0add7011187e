"""The command `report`: who runs which version of the layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tools.common import output as terminal
from tools.common.lambda_facts import deprecated_since
from tools.fleet.aws.arns import Layer, LayerVersion, layer_of, short
from tools.fleet.aws.functions import Functions
from tools.fleet.aws.layers import Layers
from tools.fleet.aws.models import LATEST, Alias, Function, LayerInfo, NotUsable
from tools.fleet.aws.session import WORKERS, Aws, AwsError, Identity, error_code, in_words, is_lost_code
from tools.fleet.commands.scope import identities
from tools.fleet.rollout.target_version import own_layers, published
from tools.packaging.manifest import Manifest


@dataclass(frozen=True)
class Row:
    """One version of a function, with one layer of ours. A problem has a name and a detail, which may be empty."""

    region: str
    function: str
    version: str
    aliases: tuple[str, ...]
    runtime: str
    layer: LayerVersion
    release: str
    problems: tuple[tuple[str, str], ...]


def report(aws: Aws, manifest: Manifest, regions: Sequence[str], all_regions: bool, as_json: bool) -> int:
    """Tell about the regions that were asked for. Returns the exit status."""
    places = identities(aws, regions, all_regions)
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for identity in places:
        try:
            rows += _rows(aws, manifest, identity)
        except AwsError as error:  # an organization may have closed a region
            if is_lost_code(error_code(error)):
                raise
            failures[identity.place.region] = in_words(error)
            terminal.remark(f"{identity.place.region} was not looked at: {in_words(error)}")
    if as_json:
        content = {"command": "report", "functions": [_document(row) for row in rows], "failures": failures}
        print(terminal.document(content), flush=True)
    else:
        print("\n".join(_lines(rows, places)), flush=True)
    return 1 if failures else 0


def _lines(rows: Sequence[Row], places: Sequence[Identity]) -> Iterator[str]:
    if rows:
        headers = ("region", "function", "version", "aliases", "runtime", "layer version", "release", "")
        yield terminal.table(headers, [_cells(row, places) for row in rows])
    wrong = sum(bool(row.problems) for row in rows)
    functions = {(row.region, row.function) for row in rows}
    yield f"{terminal.count(len(functions), 'function')} with the layer, {wrong} of {len(rows)} rows need a look"


def _rows(aws: Aws, manifest: Manifest, identity: Identity) -> Iterator[Row]:
    place = identity.place
    functions, layers = Functions(aws, place.region), Layers(aws, place.region)
    names = {variant.layer_name for variant in manifest.variants}
    using = [each for each in functions.all(published=True) if _ours(each, names)]
    using.sort(
        key=lambda each: (each.name, each.version != LATEST, int(each.version) if each.version.isdecimal() else 0)
    )
    with ThreadPoolExecutor(WORKERS) as pool:
        function_names = sorted({each.name for each in using})
        aliases = dict(zip(function_names, pool.map(functions.aliases, function_names), strict=True))
        arns = sorted({version for each in using for version in _ours(each, names)})
        infos = dict(zip(arns, pool.map(lambda version: layers.get(version, place.account), arns), strict=True))
    newest = _newest(manifest, identity, layers)
    for function in using:
        for version in _ours(function, names):
            info = infos[version]
            yield Row(
                place.region,
                function.name,
                function.version,
                _leading_to(function.version, aliases[function.name]),
                function.runtime,
                version,
                _release(manifest.name, info),
                tuple(_problems(function, version, info, newest)),
            )


def _ours(function: Function, names: set[str]) -> list[LayerVersion]:
    """The versions of our layers that a function has, whichever account they are of."""
    return [LayerVersion.parse(arn) for arn in function.layers if (layer := layer_of(arn)) and layer.name in names]


def _newest(manifest: Manifest, identity: Identity, layers: Layers) -> dict[Layer, int]:
    """The number that each layer should be at: what the manifest says, or else the newest there is."""
    newest = {}
    for layer in own_layers(manifest.variants, identity.place).values():
        entry = published(manifest, layer)
        numbers = [LayerVersion.parse(entry.arn).number] if entry else [number for number, _ in layers.numbers(layer)]
        if numbers:
            newest[layer] = numbers[0]
    return newest


def _leading_to(version: str, aliases: Sequence[Alias]) -> tuple[str, ...]:
    """The aliases that lead to a version, with the share of those that lead to others too."""
    found = []
    for alias in aliases:
        others = sum(alias.weights.values())
        share = 1 - others if alias.version == version else alias.weights.get(version, 0)
        if share:
            found.append(alias.name if share == 1 else f"{alias.name} ({share:.0%})")
    return tuple(sorted(found))


def _release(name: str, info: LayerInfo | NotUsable) -> str:
    """The version of the runtime, which a layer version tells in its description."""
    text = info.description if isinstance(info, LayerInfo) else ""
    return text.removeprefix(f"{name} ") if text.startswith(f"{name} ") else "-"


def _problems(
    function: Function, version: LayerVersion, info: LayerInfo | NotUsable, newest: Mapping[Layer, int]
) -> Iterator[tuple[str, str]]:
    if isinstance(info, NotUsable):
        yield ("deleted" if info.deleted else "unshared"), ""
    elif info.architectures and not set(function.architectures) <= set(info.architectures):
        yield "foreign architecture", ", ".join(function.architectures)
    if version.number < newest.get(version.layer, 0):
        yield "behind", str(newest[version.layer])
    if day := deprecated_since(function.runtime):
        yield "end-of-life runtime", day


def _cells(row: Row, places: Sequence[Identity]) -> tuple[str, ...]:
    place = next(identity.place for identity in places if identity.place.region == row.region)
    layer = short(str(row.layer), place)
    aliases = ", ".join(row.aliases)
    problems = ", ".join(f"{name} ({detail})" if detail else name for name, detail in row.problems)
    return (row.region, row.function, row.version, aliases, row.runtime, layer, row.release, problems)


def _document(row: Row) -> dict[str, Any]:
    return {
        "region": row.region,
        "function": row.function,
        "version": row.version,
        "aliases": row.aliases,
        "runtime": row.runtime,
        "layer": str(row.layer),
        "layerVersion": row.layer.number,
        "release": row.release,
        "problems": [name for name, _ in row.problems],
    }
