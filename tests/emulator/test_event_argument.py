"""`--event`: an argument, a file, or standard input."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from support.emulator import ECHO, ROOT, MakeFunction, assert_usage_error, run

EVENT = {"sentence": "Grüße, 世界", "nested": [1, 2.5, None, True, {"a": "\u2028\n"}]}


@pytest.mark.parametrize("text", [json.dumps(EVENT), json.dumps(EVENT, ensure_ascii=False, indent=2), " [1, {}]", "{}"])
def test_an_event_can_be_an_argument_a_file_or_standard_input(
    make_function: MakeFunction, tmp_path: Path, text: str
) -> None:
    function = make_function(ECHO)
    file = tmp_path / "event.json"
    file.write_text(text, encoding="utf-8")
    for argument, stdin in ((text, os.devnull), (str(file), os.devnull), ("-", str(file))):
        with open(stdin, "rb") as opened:
            result = run("-e", argument, "--function", function.path, stdin=opened)
        assert (result.code, json.loads(result.out)) == (0, json.loads(text))


def test_a_relative_event_file_is_relative_to_the_working_directory(
    make_function: MakeFunction, tmp_path: Path
) -> None:
    function = make_function(ECHO)
    (tmp_path / "event.json").write_text("[7]")
    assert run("--event", "event.json", "--function", function.path.name, cwd=tmp_path)[:2] == (0, b"[7]")


def test_an_event_larger_than_a_pipe_arrives_complete(make_function: MakeFunction, tmp_path: Path) -> None:
    function = make_function(ECHO)
    event = json.dumps({"long": "x" * 1_000_000}).encode()
    (tmp_path / "event.json").write_bytes(event)
    assert run("-e", tmp_path / "event.json", "--function", function.path)[:2] == (0, event)


@pytest.mark.parametrize("text", ['{"sentence": ', "{}{}", "[1,]", "{'a': 1}", "[" * 200_000])
def test_an_event_that_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "event.json"
    file.write_text(text)
    assert_usage_error(run("-e", file), "not JSON", str(file))
    if len(text) < 100:
        assert_usage_error(run("-e", text), "not JSON")
    with open(file, "rb") as stdin:
        assert_usage_error(run("-e", "-", stdin=stdin), "not JSON", "standard input")


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xfe\xfd", b'{"a": "\xff"}'])
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "event.json"
    file.write_bytes(data)
    assert_usage_error(run("-e", file), "not JSON", str(file))


@pytest.mark.parametrize("name", ["missing.json", "", ".", "/proc/self/mem"])
def test_an_event_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    assert_usage_error(run("-e", name, cwd=tmp_path), "cannot read")


def test_an_argument_that_is_not_utf8_is_refused() -> None:
    assert_usage_error(run("-e", os.fsdecode(b'{"a": "\xff"}')))


def test_standard_input_is_not_read_unless_requested(make_function: MakeFunction) -> None:
    function = make_function(ECHO)
    reader, writer = os.pipe()
    try:
        assert run("-e", "[1]", "--function", function.path, stdin=reader)[:2] == (0, b"[1]")
    finally:
        os.close(reader)
        os.close(writer)


def test_the_function_has_no_standard_input(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield sys.stdin.buffer.read()
    """)
    reader, writer = os.pipe()
    try:
        assert run("--function", function.path, stdin=reader)[:2] == (0, b"")
    finally:
        os.close(reader)
        os.close(writer)


def test_an_event_from_a_closed_standard_input_is_refused() -> None:
    shell = ("/bin/sh", "-c", 'exec "$@" <&-', "sh", sys.executable, ROOT / "main.py")
    assert_usage_error(run("-e", "-", command=shell))
