"""What somebody asked a roll-out to do."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from tools.fleet import FleetError
from tools.fleet.rollout.engine import Settings
from tools.fleet.rollout.selection import Selection


@dataclass(frozen=True)
class Request:
    """What was asked for, as the journal keeps it: all that a roll-out that died can be begun anew with.

    Args:
        probe: the event, as text.
        yes: the plan needs no consent.
    """

    command: str
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
    def of(cls, kept: dict[str, Any]) -> Request:
        """Read it back; raises ``FleetError`` where it was not kept so."""
        try:
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()
            }
            request = cls(**values)
            if not all(_is_like(getattr(request, each.name), each.default) for each in fields(cls)):
                raise TypeError
            return request
        except TypeError:
            raise FleetError("the journal is of another version of this tool: use that one") from None

    @property
    def selects(self) -> bool:
        """Whether it says which functions."""
        return bool(self.functions or self.all_using or self.match or self.tags)

    def differs(self, other: Request) -> bool:
        """Tell whether it is about other functions, or another goal."""
        return replace(self, yes=False, region=None) != replace(other, yes=False, region=None)

    def settings(self) -> Settings:
        """How to go about it."""
        probe = None if self.probe is None else self.probe.encode()
        return Settings(self.canary, probe, self.alias, self.max_failures)

    def selection(self) -> Selection:
        """Which functions it is about."""
        return Selection(self.functions, self.all_using, self.match, self.tags)


def _is_like(value: object, default: object) -> bool:
    """Tell whether a field can have the ``value``: only texts have no default, or ``None``."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    if isinstance(default, bool | int):
        return type(value) is type(default)
    return isinstance(value, str) or (value is None and default is None)
