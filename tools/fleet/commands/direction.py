"""The direction in which `--resume` continues a roll-out."""

from __future__ import annotations

from enum import Enum

from tools.common.errors import ToolError
from tools.common.output import Output, count, shortened
from tools.fleet.rollout.history import History

MAX_NAMES = 5  # in a message


class Direction(Enum):
    """What `--resume` does with an interrupted roll-out."""

    FORWARD = "forward"
    BACK = "back"


def check_direction(history: History, name: str, direction: Direction | None) -> None:
    """Refuse to go forward where that needs a decision, or is not possible any more."""
    if history.stopped and direction is Direction.FORWARD:
        raise ToolError(f"{name} is being rolled back ({history.stopped}): omit --forward to complete that")
    if history.with_unknown_probe and direction is None:
        probed = shortened([record.name for record in history.with_unknown_probe], MAX_NAMES)
        raise ToolError(
            f"the result of the probe is unknown for {probed}, and no function is invoked twice: look at the log, then "
            "add --forward or --back"
        )


def has_two_directions(history: History) -> bool:
    """Whether an interrupted roll-out can go forward or back."""
    return bool(history.is_accepted and not history.stopped and not history.outcome and history.changed)


def ask_for_direction(output: Output, history: History) -> Direction:
    """Ask which way to go; raises `ToolError` if there is no reply."""
    question = (
        f"{count(len(history.changed), 'function')} changed, {len(history.pending):,} not complete. "
        "Continue forward, or restore them?"
    )
    reply = output.choose(question, [each.value for each in Direction], "use --forward or --back")
    return Direction(reply)
