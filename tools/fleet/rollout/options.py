"""The options of a roll-out: the command line of `rollout`, `attach` or `detach`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, replace
from typing import Any

from tools.common.errors import ToolError, UsageError

ATTACH, DETACH, ROLL_OUT = "attach", "detach", "rollout"

GATE_TIMEOUT = 600  # seconds
MIN_INVOCATIONS = 20

# What `--resume` may change. The rest decides which functions are changed, and to what.
_CHANGEABLE = {
    "alarms",
    "bake",
    "gate_timeout",
    "gates",
    "max_error_rate",
    "max_failures",
    "min_invocations",
    "regions",
    "yes",
}
_OPTION_NAMES = {
    "alarms": "--alarm",
    "alias": "--publish-alias",
    "functions": "FUNCTION",
    "gates": "--gate",
    "origin": "--from",
    "regions": "--region",
    "roles": "--assume-role",
    "tags": "--tag",
}


@dataclass(frozen=True)
class Options:
    """The options, as the journal contains them: enough to begin an interrupted roll-out again.

    Args:
        command: `rollout`, `attach` or `detach`.
        functions: names or ARNs; they, `all_using`, `match` or `tags` select the functions.
        match: a regular expression, searched for in names.
        exclude: names, ARNs or patterns such as `test-*` of functions that are not selected.
        origin: select functions with this version of the layer alone; in the forms of `to`.
        tags: as KEY=VALUE; a function must have all of them.
        regions: in which functions are changed, one after the other; empty for the region of boto3.
        all_regions: all regions of the account in which the layer is published, in place of `regions`.
        roles: the ARNs of the roles that are assumed, one for each account; empty for the caller's own credentials.
        parallel_regions: the number of regions, each of one account, whose functions are changed at the same time.
        variant: of the layer; None for every variant that a function has.
        layer_account: the account that shares the layer; None for the caller's.
        to: a version number, an ARN, or a version of the project; None for what the manifest lists as published.
        canary: the number of functions in the first of two waves; 0 for `waves`.
        waves: numbers of functions, or percentages; see `waves`. All functions of the first wave must succeed.
        bake: the pause after each wave, in seconds.
        alarms: the names of CloudWatch alarms; none of them may be in the state `ALARM`.
        gates: commands for `sh -c`, which must succeed.
        gate_timeout: of each command, in seconds.
        max_error_rate: in percent of the invocations; None for no limit.
        min_invocations: with fewer invocations, the error rate is not checked.
        probe: an event, as text; the first wave, or without waves all functions, are invoked with it.
        alias: publish a version of each function and point this alias to it.
        include_unreleased: also if that releases other changes in `$LATEST`.
        include_weighted: also if the alias has weights, which are removed.
        where_present: functions without the alias get the layers alone.
        shift: percentages of the requests that the alias sends to the new version, before it sends all.
        max_failures: the number of functions that may fail before everything is rolled back.
        yes: do not ask.
    """

    command: str = ROLL_OUT
    functions: tuple[str, ...] = ()
    all_using: bool = False
    match: str = ""
    tags: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    origin: str | None = None
    regions: tuple[str, ...] = ()
    all_regions: bool = False
    roles: tuple[str, ...] = ()
    parallel_regions: int = 1
    variant: str | None = None
    layer_account: str | None = None
    to: str | None = None
    canary: int = 0
    waves: tuple[str, ...] = ()
    bake: int = 0
    alarms: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    gate_timeout: int = GATE_TIMEOUT
    max_error_rate: float | None = None
    min_invocations: int = MIN_INVOCATIONS
    probe: str | None = None
    alias: str | None = None
    include_unreleased: bool = False
    include_weighted: bool = False
    where_present: bool = False
    shift: tuple[str, ...] = ()
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
            if region := values.pop("region", None):  # of version 0.1.0
                values["regions"] = (region,)
            options = cls(**values)
            if not all(_has_type(getattr(options, each.name), each) for each in fields(cls)):
                raise TypeError
            return options
        except TypeError:
            raise ToolError("the journal was written by another version of this tool: use that version") from None

    @property
    def is_attach(self) -> bool:
        """Whether functions without the layer get it."""
        return self.command == ATTACH

    @property
    def is_detach(self) -> bool:
        """Whether functions lose the layer."""
        return self.command == DETACH

    @property
    def selects_functions(self) -> bool:
        """Whether the options contain a selection."""
        return bool(self.functions or self.all_using or self.match or self.tags or self.origin)

    @property
    def wave_ends(self) -> tuple[str, ...]:
        """The waves, also those of `canary`; empty if all functions are one wave."""
        return (str(self.canary), "100%") if self.canary else self.waves

    @property
    def has_many_places(self) -> bool:
        """Whether functions of several regions or accounts can be selected."""
        return self.all_regions or len(set(self.regions)) > 1 or len(self.roles) > 1

    @property
    def has_gates(self) -> bool:
        """Whether something is checked between waves."""
        return bool(self.alarms or self.gates or self.max_error_rate is not None)

    def changed_by(self, given: Options) -> Options:
        """Return these options with those of a later command line that may differ: limits, pauses and gates.

        Raises:
            UsageError: another option differs.
        """
        default = Options(command=self.command)
        names = [each.name for each in fields(self) if getattr(given, each.name) != getattr(default, each.name)]
        changes = {name: getattr(given, name) for name in names if name in _CHANGEABLE}
        changed = replace(self, **changes)
        compared = [each.name for each in fields(self)] if given.selects_functions else names
        for name in compared:
            if name not in _CHANGEABLE and getattr(given, name) != getattr(changed, name):
                option = _OPTION_NAMES.get(name, f"--{name.replace('_', '-')}")
                raise UsageError(
                    f"the journal contains another roll-out, with another {option}: use --resume with the journal alone"
                )
        return changed


def _has_type(value: object, field: Field[Any]) -> bool:
    """Whether `value` has the type of a field. The default of an optional value is None."""
    if value is None:
        return field.default is None
    if isinstance(field.default, tuple):
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    if isinstance(field.default, bool | int):
        return type(value) is type(field.default)
    if field.name == "max_error_rate":
        return type(value) in (int, float)
    return isinstance(value, str)
