"""The options of a roll-out: the command line of `rollout` or `attach`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tools.common.errors import ToolError

ATTACH, ROLL_OUT = "attach", "rollout"


@dataclass(frozen=True)
class Options:
    """The options, as the journal contains them: enough to begin an interrupted roll-out again.

    Args:
        command: `rollout` or `attach`.
        functions: names or ARNs; they, `all_using`, `match` or `tags` select the functions.
        match: a regular expression, searched for in names.
        tags: as KEY=VALUE; a function must have all of them.
        variant: of the layer; None for every variant that a function has.
        layer_account: the account that shares the layer; None for the caller's.
        to: a version number, an ARN, or a version of the project; None for what the manifest lists as published.
        canary: the number of functions that are updated first; all of them must succeed.
        probe: an event, as text; the canaries, or without canaries all functions, are invoked with it.
        alias: publish a version of each function and point this alias to it.
        max_failures: the number of functions that may fail before everything is rolled back.
        yes: do not ask.
    """

    command: str = ROLL_OUT
    functions: tuple[str, ...] = ()
    all_using: bool = False
    match: str = ""
    tags: tuple[str, ...] = ()
    region: str | None = None
    variant: str | None = None
    layer_account: str | None = None
    to: str | None = None
    canary: int = 0
    probe: str | None = None
    alias: str | None = None
    max_failures: int = 0
    include_cloudformation: bool = False
    yes: bool = False

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Options:
        """Read options from a journal.

        Raises:
            ToolError: a name or a type is unknown, as in a journal of a newer version.
        """
        try:
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()
            }
            options = cls(**values)
            if not all(_has_type_of(getattr(options, each.name), each.default) for each in fields(cls)):
                raise TypeError
            return options
        except TypeError:
            raise ToolError("the journal was written by another version of this tool: use that version") from None

    @property
    def is_attach(self) -> bool:
        """Whether functions without the layer get it."""
        return self.command == ATTACH

    @property
    def selects_functions(self) -> bool:
        """Whether the options contain a selection."""
        return bool(self.functions or self.all_using or self.match or self.tags)

    def is_same_roll_out(self, other: Options) -> bool:
        """Whether both describe the same change of the same functions."""
        return replace(self, yes=False, region=None) == replace(other, yes=False, region=None)


def _has_type_of(value: object, default: object) -> bool:
    """Whether `value` has the type of a field with this default; the default of an optional string is None."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    if isinstance(default, bool | int):
        return type(value) is type(default)
    return isinstance(value, str) or (value is None and default is None)
