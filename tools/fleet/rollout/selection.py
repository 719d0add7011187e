"""Which functions a roll-out changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from tools.common.errors import ToolError, UsageError
from tools.fleet.aws.arns import Layer, Place, function_name, layer_of
from tools.fleet.aws.errors import NotFound
from tools.fleet.aws.functions import Functions
from tools.fleet.aws.models import Function
from tools.fleet.aws.session import WORKERS
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.progress import Reading


def select(
    options: Options,
    functions: Functions,
    layers: Collection[Layer],
    place: Place,
    note: Callable[[str], None],
    workers: int = WORKERS,
) -> list[Function]:
    """Read the selected functions with their tags.

    Args:
        layers: of this project. `attach` also selects functions without them; `rollout` only if they are named.
        note: shows progress.
        workers: the number of threads.

    Raises:
        UsageError: a function is named twice.
        ToolError: a named function does not exist, or no function is selected.
    """
    if options.functions:
        names = _names(options.functions, place)
    else:
        names = sorted(each.name for each in functions.all() if _is_selected(each, options, layers))
    reading = Reading(len(names), "function", note, functions.pace.clock)

    def read(name: str) -> Function | None:
        function = _read(functions, name, is_named=bool(options.functions))
        reading()
        return function

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(read, names))
    if options.tags:
        _check_tags_are_known([each.name for each in found if each and not each.tags_are_known])
    chosen = [each for each in found if each and _has_tags(each, options.tags)]
    if not chosen:
        condition = "" if options.is_attach else " with the layer"
        raise ToolError(
            f"no function{condition} in {place.region} is selected: ./build.sh report lists those with the layer"
        )
    return chosen


def _names(texts: Sequence[str], place: Place) -> list[str]:
    names = [function_name(text, place) for text in texts]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name} is named twice: name each function once")
    return sorted(names)


def _is_selected(function: Function, options: Options, layers: Collection[Layer]) -> bool:
    if not options.is_attach and not any(layer_of(arn) in layers for arn in function.layers):
        return False
    return re.search(options.match, function.name) is not None


def _read(functions: Functions, name: str, is_named: bool) -> Function | None:
    try:
        return functions.get(name)
    except NotFound:
        if is_named:
            raise ToolError(f"the function {name} does not exist: check the name and the region") from None
        return None  # deleted since it was listed


def _check_tags_are_known(names: Sequence[str]) -> None:
    """A caller who may not read tags would otherwise omit functions that have them."""
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ToolError(f"the tags of {names[0]}{more} cannot be read: allow lambda:ListTags, or name the functions")


def _has_tags(function: Function, tags: Sequence[str]) -> bool:
    pairs = (tag.partition("=") for tag in tags)
    return all(function.tags.get(key) == value for key, _, value in pairs)
