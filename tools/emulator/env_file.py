"""Files of environment variables, read as python-dotenv reads them: people have such files already.

    NAME=value                  # a comment begins with a # after white space
    export NAME = value         # spaces around = are ignored
    NAME='literal'              # escapes: \\\\ and \\'
    NAME="two\\nlines"           # escapes: \\\\ \\' \\" \\a \\b \\f \\n \\r \\t \\v; quoted values can span lines
    NAME=${OTHER}/${ANOTHER:-default}

A reference is replaced in every value, also in single quotes. It finds the variables of the lines above, then those of
the shell; without a default, an unknown one is empty.

One difference: python-dotenv skips what it cannot read, with a warning. Here it is an error, so that no function runs
without a variable that its author has written down.

https://github.com/theskumar/python-dotenv
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_IGNORED = re.compile(r"(?:\s|#[^\n]*)*")  # empty lines and comments
_ASSIGNMENT = re.compile(
    r"""
    (?:export[^\S\n]+)?
    (?:'(?P<quoted_name>[^'\n]+)' | (?P<name>[^=\#\s]+)) [^\S\n]*
    = (?P<space>[^\S\n]*)
    (?:
        '(?P<single>(?:\\.|[^'\\])*)' [^\S\n]* (?:\#[^\n]*)? (?:\n|\Z)
      | "(?P<double>(?:\\.|[^"\\])*)" [^\S\n]* (?:\#[^\n]*)? (?:\n|\Z)
      | (?P<plain>(?!['"])[^\n]*)
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"\s+#.*")
_SINGLE_ESCAPE = re.compile(r"\\([\\'])")
_DOUBLE_ESCAPE = re.compile(r"\\([\\'\"abfnrtv])")
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_REFERENCE = re.compile(r"\$\{(?P<name>[^}:]*)(?::-(?P<default>[^}]*))?\}")


class MalformedLine(Exception):
    """A line is no assignment. `line` is its number, from 1."""

    def __init__(self, line: int) -> None:
        super().__init__(f"line {line} is malformed")
        self.line = line


def parse(text: str, shell: Mapping[str, str]) -> Iterator[tuple[int, str, str]]:
    """Yield the number of the line, the name and the value of each assignment.

    Args:
        text: the content of the file, with LF at the end of lines.
        shell: variables for references.

    Raises MalformedLine.
    """
    known = dict(shell)
    position = _end(_IGNORED.match(text))
    while position < len(text):
        line = text.count("\n", 0, position) + 1
        found = _ASSIGNMENT.match(text, position)
        if found is None:
            raise MalformedLine(line)
        name = found["quoted_name"] or found["name"]
        value = _REFERENCE.sub(lambda match: known.get(match["name"], match["default"] or ""), _value(found))
        known[name] = value
        yield line, name, value
        position = _end(_IGNORED.match(text, found.end()))


def _value(found: re.Match[str]) -> str:
    if found["single"] is not None:
        return _SINGLE_ESCAPE.sub(r"\1", found["single"])
    if found["double"] is not None:
        return _DOUBLE_ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), found["double"])
    if found["space"] and found["plain"].startswith("#"):
        return ""
    return _COMMENT.sub("", found["plain"]).rstrip()


def _end(match: re.Match[str] | None) -> int:
    return match.end() if match else 0
