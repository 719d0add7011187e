"""The regions and accounts of a roll-out: whose functions are called there, and the target versions.

A roll-out can change functions in several regions and accounts, with one plan and one journal. Functions are known by
their ARNs, which contain both, so everything that calls AWS for a function asks here for the client. A client has the
credentials of one account, and the pace and the retries of one region.
"""

from __future__ import annotations

from collections.abc import Mapping

from tools.fleet.aws.arns import Place
from tools.fleet.aws.functions import Functions
from tools.fleet.aws.pace import Pace
from tools.fleet.rollout.history import Record
from tools.fleet.rollout.plan import Targets


class Places:
    """What a roll-out uses in each region of each account.

    Args:
        functions: whose calls go to that region, with the credentials of that account.
        targets: the version that each layer of this project will have there.
    """

    def __init__(self, functions: Mapping[Place, Functions], targets: Mapping[Place, Targets]) -> None:
        self._functions = functions
        self._targets = targets

    @property
    def pace(self) -> Pace:
        """The pauses and the clock, the same everywhere."""
        return next(iter(self._functions.values())).pace

    def functions(self, record: Record) -> Functions:
        """Return what calls AWS for a function."""
        return self._functions[record.place]

    def targets(self, record: Record) -> Targets:
        """Return the target versions of a function."""
        return self._targets[record.place]
