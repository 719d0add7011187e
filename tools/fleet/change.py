"""Changes the layers of one function at a time, under its revision lock, and tells the journal before and after."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tools.fleet import FleetError
from tools.fleet.functions import BusyError, Functions, NotNowError, UnclearError
from tools.fleet.model import Function

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
    unclear = 0
    for _ in range(_TRIES):
        new = wanted(function)
        if new is None:
            return False
        note(intent, old=function.layers, new=new, revision=function.revision)
        maybe_done, is_busy = False, False
        try:
            note(success, revision=functions.set_layers(function.name, new, function.revision))
            return True
        except NotNowError as error:
            maybe_done, is_busy = error.maybe_ours, isinstance(error, BusyError)
        except UnclearError as error:
            maybe_done, unclear, problem = True, unclear + 1, error
        except FleetError:
            note(refusal)
            raise
        function = _at_rest(functions, function) if is_busy else functions.get(function.name)
        if maybe_done and function.layers == new:
            note(success, revision=function.revision)
            return True
        note(refusal)
        if unclear == _UNCLEAR_TRIES:
            raise FleetError(str(problem))
    raise FleetError(f"it was changed by others each of {_TRIES} times: see who does, and go on with --resume")


def _at_rest(functions: Functions, function: Function) -> Function:
    """Wait for somebody's update; whether it fails is theirs to know."""
    with suppress(FleetError):
        functions.wait(function.name)
    return functions.get(function.name)
