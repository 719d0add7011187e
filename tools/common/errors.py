"""The base of the errors that a command reports in one line."""


class ToolError(Exception):
    """Something cannot be done; the text is one line that names the cause and the next step."""


class UsageError(ToolError):
    """The command line asks for something that makes no sense."""
