"""Files of environment variables: every expected value is that of python-dotenv 1.2.4, `dotenv_values`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.emulator import BARE_ENVIRONMENT, MakeFunction, assert_usage_error, run

from tools.emulator.env_file import MalformedLine, parse

SHELL = {"HOME": "/home/me", "SHADOWED": "shell"}

VALUES = {
    "plain": ("A=b", "b"),
    "spaces around the sign": ("A = b", "b"),
    "tabs around the sign": ("A\t=\tb", "b"),
    "indented": ("   A=b", "b"),
    "spaces at the end": ("A=b  \t ", "b"),
    "spaces within": ("A=b c  d", "b c  d"),
    "a second sign": ("A=b=c", "b=c"),
    "empty": ("A=", ""),
    "empty with spaces": ("A=  ", ""),
    "export": ("export A=b", "b"),
    "export with tabs": ("export\t \tA = b", "b"),
    "comment": ("A=b # comment", "b"),
    "comment after a tab": ("A=b\t# comment", "b"),
    "comment instead of a value": ("A= # comment", ""),
    "no comment without white space": ("A=b#c", "b#c"),
    "number sign as a value": ("A=#b", "#b"),
    "single quotes": ("A='b c'", "b c"),
    "double quotes": ('A="b c"', "b c"),
    "quotes within quotes": ("A='b \"c\"'", 'b "c"'),
    "number sign in quotes": ('A="b # c"', "b # c"),
    "comment after quotes": ("A='b' # c", "b"),
    "comment right after quotes": ("A='b'# c", "b"),
    "spaces in quotes": ("A='  b  '", "  b  "),
    "empty quotes": ("A=''", ""),
    "quotes in a plain value": ("A=b'c'", "b'c'"),
    "escapes in double quotes": (r'A="b\n\t\"\\c"', 'b\n\t"\\c'),
    "an unknown escape in double quotes": (r'A="\d\$"', r"\d\$"),
    "escapes in single quotes": (r"A='b\'c\\d\n'", "b'c\\d\\n"),
    "no escapes in a plain value": (r"A=b\n", r"b\n"),
    "an escaped backslash at the end": (r'A="b\\"', "b\\"),
    "lines in double quotes": ('A="b\nc"', "b\nc"),
    "lines in single quotes": ("A='b\nc'", "b\nc"),
    "reference to the shell": ("A=${HOME}/b", "/home/me/b"),
    "reference in double quotes": ('A="${HOME}"', "/home/me"),
    "reference in single quotes": ("A='${HOME}'", "/home/me"),
    "reference to nothing": ("A=b${NOTHING}c", "bc"),
    "reference with a default": ("A=${NOTHING:-d e}", "d e"),
    "default that is not used": ("A=${HOME:-d}", "/home/me"),
    "reference to a line above": ("B=c\nA=${B}${B}", "cc"),
    "reference to a line below": ("A=${B}\nB=c", ""),
    "a line above shadows the shell": ("SHADOWED=file\nA=${SHADOWED}", "file"),
    "no reference without braces": ("A=$HOME", "$HOME"),
    "no reference that does not end": ("A=${HOME", "${HOME"),
    "last of two": ("A=b\nA=c", "c"),
    "umlaut": ("A=ä", "ä"),
    "quoted name": ("'A'=b", "b"),
}


@pytest.mark.parametrize(("text", "value"), VALUES.values(), ids=list(VALUES))
@pytest.mark.parametrize(("before", "after"), [("", ""), ("\n# comment\n\n", "\n  # comment\nLAST=1\n")])
def test_a_value_is_that_of_python_dotenv(text: str, value: str, before: str, after: str) -> None:
    variables = {name: found for _, name, found in parse(before + text + after, SHELL)}
    assert variables["A"] == value
    assert ("LAST" in variables) == ("LAST" in after)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A", 1),
        ("A=1\nsome words\n", 2),
        ("A='b\nc'\nB", 3),
        ("A='b", 1),
        ('\nA="b\n\n', 2),
        ("A='b'c", 1),
        ("=b", 1),
        ("# comment\n\nA # =b", 3),
    ],
)
def test_what_is_no_assignment_is_an_error_with_its_line(text: str, line: int) -> None:
    with pytest.raises(MalformedLine) as caught:
        list(parse(text, SHELL))
    assert caught.value.line == line


def test_a_function_gets_the_variables_of_a_file(make_function: MakeFunction, tmp_path: Path) -> None:
    function = make_function("""
        def handler(event, context):
            yield json.dumps([os.environ[name] for name in ("A", "B", "C")]).encode()
    """)
    (tmp_path / ".env").write_bytes('\ufeffA = b # first\r\nexport B="c\\nd"\r\nC=${HOME}/${A}\r\n'.encode())
    result = run("--function", function.path, "--env-file", tmp_path / ".env", env={**BARE_ENVIRONMENT, "HOME": "/h"})
    assert json.loads(result.out) == ["b", "c\nd", "/h/b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A=1\n\nB", ["line 3", "NAME=VALUE"]),
        ("A=1\nB-C=2", ["line 2", "letters, digits"]),
        ("AWS_LAMBDA_FUNCTION_NAME=x", ["line 1", "reserved"]),
        ('A="b', ["line 1", "quote"]),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_and_status_2(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / ".env").write_text(text)
    assert_usage_error(run("--env-file", tmp_path / ".env"), *words)
