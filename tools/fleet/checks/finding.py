"""What a check returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One problem: what was found, why it matters, and the command that fixes it."""

    what: str
    why: str
    fix: str
