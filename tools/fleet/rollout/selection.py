"""Which functions a roll-out changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase

from tools.common.errors import ToolError, UsageError
from tools.fleet.aws.arns import Layer, LayerVersion, Place, function_name, layer_of, short
from tools.fleet.aws.errors import NotFound
from tools.fleet.aws.functions import Functions
from tools.fleet.aws.models import Function
from tools.fleet.aws.session import WORKERS
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.progress import Reading


class NothingSelected(ToolError):
    """No function of a region is selected."""


def select(
    options: Options,
    functions: Functions,
    layers: Collection[Layer],
    place: Place,
    note: Callable[[str], None],
    workers: int = WORKERS,
    origin: LayerVersion | None = None,
    may_be_missing: bool = False,
    also_read: Callable[[Function], None] = lambda function: None,
) -> list[Function]:
    """Read the selected functions with their tags.

    Args:
        layers: of this project. `attach` also selects functions without them; `rollout` only if they are named.
        note: shows progress.
        workers: the number of threads.
        origin: the version of `--from`, if any; functions without it are not selected.
        may_be_missing: a function that is named can be in another region.
        also_read: reads more about a function that is selected, on the same threads.

    Raises:
        UsageError: a function is named twice, or named and excluded.
        NothingSelected: no function is selected.
        ToolError: a named function does not exist.
    """
    names = _selected_names(options, functions, layers, place, note, origin)
    reading = Reading(len(names), "function", note, functions.pace.clock)

    def read(name: str) -> Function | None:
        function = _read(functions, name, must_exist=bool(options.functions) and not may_be_missing)
        if function and _is_chosen(function, options, origin):
            also_read(function)
        reading()
        return function

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(read, names))
    if options.tags:
        _check_tags_are_known([each.name for each in found if each and not each.tags_are_known])
    chosen = [each for each in found if each and _is_chosen(each, options, origin)]
    if not chosen:
        raise _nothing_selected(options, place, origin)
    return chosen


def _nothing_selected(options: Options, place: Place, origin: LayerVersion | None) -> NothingSelected:
    condition = "" if options.is_attach else f" with {short(str(origin), place)}" if origin else " with the layer"
    return NothingSelected(
        f"no function{condition} in {place.region} is selected: ./build.sh report lists those with the layer"
    )


def _selected_names(
    options: Options,
    functions: Functions,
    layers: Collection[Layer],
    place: Place,
    note: Callable[[str], None],
    origin: LayerVersion | None,
) -> list[str]:
    """Return the names that are given, or those of the list of all functions, without those of `--exclude`."""
    exclusion = Exclusion(options.exclude, place)
    if options.functions:
        names = _names(options.functions, place)
        exclusion.refuse(names)
    else:
        listed = sorted(each.name for each in functions.all() if _is_selected(each, options, layers, origin))
        names = [name for name in listed if not exclusion.contains(name)]
    for text in exclusion.without_effect:
        note(f"--exclude {text} matches none of the functions that are selected otherwise")
    return names


def _names(texts: Sequence[str], place: Place) -> list[str]:
    names = [function_name(text, place) for text in texts]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name} is named twice: name each function once")
    return sorted(names)


class Exclusion:
    """The functions of `--exclude`: names, ARNs, and patterns with `*`, `?` or `[…]`, which no name contains."""

    def __init__(self, texts: Sequence[str], place: Place) -> None:
        self._patterns = {text: text if set(text) & set("*?[") else function_name(text, place) for text in texts}
        self._used: set[str] = set()

    def contains(self, name: str) -> bool:
        """Whether a function is excluded."""
        found = {text for text, pattern in self._patterns.items() if fnmatchcase(name, pattern)}
        self._used |= found
        return bool(found)

    def refuse(self, names: Sequence[str]) -> None:
        """Raise `UsageError` if one of `names` is excluded."""
        for name in names:
            if self.contains(name):
                raise UsageError(f"{name} is named and excluded: omit one of the two")

    @property
    def without_effect(self) -> list[str]:
        """What has excluded no function: perhaps a name with a mistake."""
        return [text for text in self._patterns if text not in self._used]


def _is_chosen(function: Function, options: Options, origin: LayerVersion | None) -> bool:
    return _has_tags(function, options.tags) and _has_origin(function, origin)


def _has_origin(function: Function, origin: LayerVersion | None) -> bool:
    return origin is None or str(origin) in function.layers


def _is_selected(function: Function, options: Options, layers: Collection[Layer], origin: LayerVersion | None) -> bool:
    if not _has_origin(function, origin):
        return False
    if not options.is_attach and not any(layer_of(arn) in layers for arn in function.layers):
        return False
    return re.search(options.match, function.name) is not None


def _read(functions: Functions, name: str, must_exist: bool) -> Function | None:
    try:
        return functions.get(name)
    except NotFound:
        if must_exist:
            raise ToolError(f"the function {name} does not exist: check the name and the region") from None
        return None  # deleted since it was listed, or in another region


def _check_tags_are_known(names: Sequence[str]) -> None:
    """A caller who may not read tags would otherwise omit functions that have them."""
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ToolError(f"the tags of {names[0]}{more} cannot be read: allow lambda:ListTags, or name the functions")


def _has_tags(function: Function, tags: Sequence[str]) -> bool:
    pairs = (tag.partition("=") for tag in tags)
    return all(function.tags.get(key) == value for key, _, value in pairs)
