"""Puts back what a roll-out changed, the newest change first, wherever nobody else has changed it since."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from tools.common.errors import ToolError
from tools.fleet import FleetError
from tools.fleet.aws.functions import Functions, GoneError, NoAccessError, NotNowError, UnclearError
from tools.fleet.aws.models import Function
from tools.fleet.aws.session import WORKERS
from tools.fleet.rollout.change import BACKWARDS, change_layers
from tools.fleet.rollout.journal import Journal, Record

_TRIES = 10


class _LeftError(FleetError):
    """The function is not as the roll-out left it: whoever changed it since knows better."""


def put_back(
    functions: Functions, journal: Journal, show: Callable[[str, str], None], only: Record | None = None
) -> bool:
    """Put back the changes of the journal (or of ``only`` one function), and tell whether all came to their end.

    First everything is changed, in order; then it is waited for, as AWS Lambda updates many functions at a time.

    Raises:
        NoAccessError: AWS does not listen to this process any more; `rollback` can be repeated.
    """
    records = [record for record in journal.history.touched if only in (None, record)]
    begun = [record for record in records if _begin(functions, journal, show, record)]
    with ThreadPoolExecutor(WORKERS) as pool:
        ended = list(pool.map(lambda record: _end(functions, journal, show, record), begun))
    return not any(record.touched is not None for record in records) and all(ended)


def _begin(functions: Functions, journal: Journal, show: Callable[[str, str], None], record: Record) -> bool:
    def note(event: str, **fields: Any) -> None:
        journal.write(event, function=record.arn, **fields)

    try:
        _alias_back(functions, record, note)
        change_layers(functions, functions.get(record.name), lambda fresh: _wanted(record, fresh), note, BACKWARDS)
    except NoAccessError:
        raise
    except (_LeftError, GoneError) as error:
        note("left", reason=str(error))
        show(record.name, f"left alone: {error}")
        return False
    except ToolError as error:  # not an outcome: `rollback` tries again
        show(record.name, f"not put back: {error}")
        return False
    return True


def _wanted(record: Record, fresh: Function) -> tuple[str, ...] | None:
    if fresh.layers == record.old:
        return None
    if fresh.layers != record.new:
        raise _LeftError("somebody else changed its layers since")
    return record.old


def _end(functions: Functions, journal: Journal, show: Callable[[str, str], None], record: Record) -> bool:
    try:
        functions.wait(record.name)
    except NoAccessError:
        raise
    except GoneError as error:
        journal.write("left", function=record.arn, reason=str(error))
        show(record.name, f"left alone: {error}")
        return True
    except ToolError as error:
        show(record.name, f"not put back: {error}")
        return False
    journal.write("restored", function=record.arn)
    show(record.name, "put back")
    return True


def _alias_back(functions: Functions, record: Record, note: Callable[..., None]) -> None:
    move = record.move
    if move is None or move.is_back:
        return
    for tried in range(_TRIES):
        alias = functions.alias(record.name, move.alias)
        if (alias.version, alias.weights) == (move.old, move.weights):
            note("alias-back")
            return
        if alias.version != move.new:
            raise _LeftError(f"somebody else pointed its alias {move.alias} to version {alias.version} since")
        note("alias-restore", alias=move.alias, old=move.new, new=move.old)
        with suppress(NotNowError, UnclearError):
            functions.move_alias(record.name, alias, move.old, move.weights)
            continue  # and look whether it did
        functions.come_to_rest(record.name, tried)
    raise FleetError(f"its alias {move.alias} was changed by others each of {_TRIES} times")
