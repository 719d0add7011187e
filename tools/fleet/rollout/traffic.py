"""Which aliases still run the old version of the layer after a roll-out that changed `$LATEST` alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tools.common.errors import ToolError
from tools.fleet.aws.functions import Functions
from tools.fleet.aws.models import LATEST, Function
from tools.fleet.rollout.aliases import has_targets
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


def find_old_aliases(functions: Functions, names: Sequence[str], targets: Targets, workers: int) -> OldAliases:
    """Read the aliases of functions. An error does not fail the roll-out, which is complete.

    Each ListAliases is one call of those that Lambda counts. For many functions, a list of all versions, 50 in a call,
    shows which of them can have such an alias.
    """
    try:
        if len(names) > _MANY:
            names = sorted(set(names) & {each.name for each in functions.all(published=True) if _is_old(each, targets)})
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(lambda name: list(_of_function(functions, name, targets)), names)
            return OldAliases(tuple(each for some in found for each in some))
    except ToolError as error:
        return OldAliases(problem=str(error))


def _is_old(version: Function, targets: Targets) -> bool:
    return version.version != LATEST and not has_targets(version.layers, targets)


def _of_function(functions: Functions, name: str, targets: Targets) -> Iterator[OldAlias]:
    is_old: dict[str, bool] = {}  # by version
    for alias in functions.aliases(name):
        for version in (alias.version, *alias.weights):
            if version == LATEST:
                continue
            if version not in is_old:
                is_old[version] = _is_old(functions.get(name, version), targets)
            if is_old[version]:
                yield OldAlias(name, alias.name, version)
                break
