"""The base of the errors that a command reports in one line."""

from collections.abc import Iterator
from contextlib import contextmanager


class ToolError(Exception):
    """A command cannot do its work; the text is one line that names the cause and the next step. Exit status 1."""


class UsageError(ToolError):
    """The command line is wrong. Exit status 2."""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put `where` in front of the message of a `ToolError`, and keep its type; an empty one changes nothing.

    Args:
        where: such as ` in eu-central-1`.
    """
    try:
        yield
    except ToolError as error:
        if where:
            error.args = (f"{where.strip()}: {error}",)
        raise
