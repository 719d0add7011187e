"""Which functions a roll-out is about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tools.common.output import remark
from tools.fleet import FleetError, UsageError
from tools.fleet.aws.arns import Layer, Place, function_name, layer_of
from tools.fleet.aws.functions import Functions, GoneError
from tools.fleet.aws.models import Function
from tools.fleet.aws.session import WORKERS

_WORTH_TELLING = 30


@dataclass(frozen=True)
class Selection:
    """One of four ways to choose functions.

    Args:
        names: as given, names or ARNs.
        all_using: every one that has a layer of ours.
        match: a regular expression, to be found somewhere in the name.
        tags: as in KEY=VALUE; a function must have them all.
    """

    names: tuple[str, ...] = ()
    all_using: bool = False
    match: str = ""
    tags: tuple[str, ...] = ()


def select(
    selection: Selection, functions: Functions, layers: Sequence[Layer], place: Place, attach: bool
) -> list[Function]:
    """Read the functions that are selected, each with its tags.

    Args:
        layers: ours.
        attach: those without a layer of ours count too, else they count only where they are named.

    Raises:
        FleetError: one is not there, is named twice, or there is none at all.
    """
    if selection.names:
        names = _names(selection.names, place)
    else:
        names = sorted(each.name for each in functions.all() if _is_meant(each, selection, layers, attach))
    if len(names) > _WORTH_TELLING:  # some ten a second
        remark(f"reading {len(names):,} functions")
    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(lambda name: _read(functions, name, bool(selection.names)), names))
    if selection.tags:
        _refuse_unknown_tags([each.name for each in found if each and not each.tags_are_known])
    chosen = [each for each in found if each and _has_tags(each, selection.tags)]
    if not chosen:
        having = "" if attach else " that has the layer"
        raise FleetError(
            f"no function{having} in {place.region} is selected: ./build.sh report tells which has the layer"
        )
    return chosen


def _names(texts: Sequence[str], place: Place) -> list[str]:
    names = [function_name(text, place) for text in texts]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name} is named twice: name each function once")
    return sorted(names)


def _is_meant(function: Function, selection: Selection, layers: Sequence[Layer], attach: bool) -> bool:
    if not attach and not any(layer_of(arn) in layers for arn in function.layers):
        return False
    return re.search(selection.match, function.name) is not None


def _read(functions: Functions, name: str, must_exist: bool) -> Function | None:
    try:
        return functions.get(name)
    except GoneError:
        if must_exist:
            raise FleetError(f"there is no function {name} here: check the name and the region") from None
        return None  # it was deleted since it was listed


def _refuse_unknown_tags(names: Sequence[str]) -> None:
    """Who may not read tags must not take a function for one without them, and leave it out."""
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise FleetError(f"the tags of {names[0]}{more} cannot be read: allow lambda:ListTags, or name the functions")


def _has_tags(function: Function, tags: Sequence[str]) -> bool:
    wanted = (tag.partition("=") for tag in tags)
    return all(function.tags.get(key) == value for key, _, value in wanted)
