"""Which aliases still run the old version of the layer after a roll-out that changed `$LATEST` alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tools.common.errors import ToolError
from tools.fleet.aws.arns import Place
from tools.fleet.aws.models import LATEST, Function
from tools.fleet.rollout.aliases import has_targets
from tools.fleet.rollout.history import Record
from tools.fleet.rollout.places import Places
from tools.fleet.rollout.plan import Targets

_MANY = 20  # functions


@dataclass(frozen=True)
class OldAlias:
    """An alias that sends requests to a version of a function without the new layer version."""

    function: str
    alias: str
    version: str


@dataclass(frozen=True)
class OldAliases:
    """All of them, or why they are not known."""

    found: tuple[OldAlias, ...] = ()
    problem: str = ""


def find_old_aliases(
    places: Places, records: Sequence[Record], label: Callable[[Record], str], workers: int
) -> OldAliases:
    """Read the aliases of functions. An error does not fail the roll-out, which is complete.

    Args:
        label: returns the name of a function in messages.

    Each ListAliases is one call of those that Lambda counts. For many functions, a list of all versions, 50 in a call,
    shows which of them can have such an alias.
    """
    try:
        chosen = list(_candidates(places, records))
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(lambda record: list(_of_function(places, record, label(record))), chosen)
            return OldAliases(tuple(each for some in found for each in some))
    except ToolError as error:
        return OldAliases(problem=str(error))


def _candidates(places: Places, records: Sequence[Record]) -> Iterator[Record]:
    """Yield the functions that can have such an alias."""
    by_place: dict[Place, list[Record]] = {}
    for record in records:
        by_place.setdefault(record.place, []).append(record)
    for some in by_place.values():
        if len(some) <= _MANY:
            yield from some
            continue
        versions = places.functions(some[0]).all(published=True)
        old = {each.name for each in versions if _is_old(each, places.targets(some[0]))}
        yield from (record for record in some if record.name in old)


def _is_old(version: Function, targets: Targets) -> bool:
    return version.version != LATEST and not has_targets(version.layers, targets)


def _of_function(places: Places, record: Record, label: str) -> Iterator[OldAlias]:
    functions, targets, name = places.functions(record), places.targets(record), record.name
    is_old: dict[str, bool] = {}  # by version
    for alias in functions.aliases(name):
        for version in (alias.version, *alias.weights):
            if version == LATEST:
                continue
            if version not in is_old:
                is_old[version] = _is_old(functions.get(name, version), targets)
            if is_old[version]:
                yield OldAlias(label, alias.name, version)
                break
