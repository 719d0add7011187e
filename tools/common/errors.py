"""The base of the errors that a command reports in one line."""


class ToolError(Exception):
    """A command cannot do its work; the text is one line that names the cause and the next step. Exit status 1."""


class UsageError(ToolError):
    """The command line is wrong. Exit status 2."""
