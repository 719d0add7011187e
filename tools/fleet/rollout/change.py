"""Changes the layers of one function at a time, under its revision lock, and tells the journal before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tools.common.errors import ToolError
from tools.fleet import FleetError
from tools.fleet.aws.functions import BusyError, Functions, NotNowError, UnclearError
from tools.fleet.aws.models import Function

_TRIES = 10
_UNCLEAR_TRIES = 3  # each of them is several, with pauses

# What the journal calls the intent, the success and the refusal of a change, forwards and backwards
FORWARDS = ("change", "changed", "refused")
BACKWARDS = ("restore", "restoring", "not-restored")

Wanted = Callable[[Function], tuple[str, ...] | None]
Note = Callable[..., Any]


def change_layers(functions: Functions, function: Function, wanted: Wanted, note: Note, names: tuple[str, ...]) -> bool:
    """Give ``function`` the list of layers that ``wanted`` says, and tell whether it was this that gave it.

    Whenever somebody else was faster, the function is read again and ``wanted`` is asked again: what it decides on, and
    the revision that the change is locked with, are of one answer.

    Args:
        wanted: gives the list for the function as it is, or ``None`` where nothing is to be done; may raise.
        note: writes an event of the journal.
        names: of the events, ``FORWARDS`` or ``BACKWARDS``.

    Raises:
        FleetError: AWS Lambda refuses the change, or the function does not come to rest.
    """
    intent, success, refusal = names
    problem: FleetError
    unclear = 0
    for tried in range(_TRIES):
        new = wanted(function)
        if new is None:
            return False
        note(intent, old=function.layers, new=new, revision=function.revision)
        maybe_done, is_busy = False, False
        try:
            note(success, revision=functions.set_layers(function.name, new, function.revision))
            return True
        except NotNowError as error:
            problem, maybe_done, is_busy = error, error.maybe_ours, isinstance(error, BusyError)
        except UnclearError as error:
            problem, maybe_done, unclear = error, True, unclear + 1
        except ToolError:
            note(refusal)
            raise
        if is_busy:
            functions.come_to_rest(function.name, tried)
        function = functions.get(function.name)
        if maybe_done and function.layers == new:
            note(success, revision=function.revision)
            return True
        note(refusal)
        if unclear == _UNCLEAR_TRIES:
            break
    raise FleetError(f"given up after {tried + 1} tries: {problem}")
