"""Sample events: `--event NAME` and `--print-event`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from support.emulator import ECHO, MakeFunction, assert_usage_error, run

NAMES = ("url", "rest", "sqs", "s3", "eventbridge", "apigw")


def test_a_sample_event_is_printed_and_sent(make_function: MakeFunction) -> None:
    function = make_function(ECHO)
    for name in NAMES:
        printed = run("--print-event", name)
        assert (printed.code, printed.err) == (0, "")
        assert printed.out.startswith(b"{\n  ") and printed.out.endswith(b"\n}\n")
        if name in ("url", "sqs"):
            sent = run("--event", name, "--function", function.path)
            assert json.loads(sent.out) == json.loads(printed.out)


def test_the_event_of_the_command_line_is_printed_without_an_invocation() -> None:
    assert run("--print-event", "--event", '{"a":["\u00fc",1]}') == (
        0,
        '{\n  "a": [\n    "ü",\n    1\n  ]\n}\n'.encode(),
        "",
    )
    assert run("--event", '"\\ud800"', "--print-event").out == b'"\\ud800"\n'
    assert "sentence" in json.loads(run("--print-event").out)
    assert run("--event", "s3", "--print-event").out == run("--print-event", "s3").out


@pytest.mark.parametrize("arguments", [["url", "--serve"], ["url", "-e", "{}"], ["sns"]])
def test_wrong_combinations_are_refused(arguments: list[str]) -> None:
    assert_usage_error(run("--print-event", *arguments), "--print-event")


def test_a_file_with_the_name_of_a_sample_event_needs_a_path(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("[7]")
    assert run("--print-event", "--event", "./url", cwd=tmp_path).out == b"[\n  7\n]\n"
    assert b"requestContext" in run("--print-event", "--event", "url", cwd=tmp_path).out


def test_the_sample_function_responds_to_the_sample_events_of_http_requests() -> None:
    for name in ("url", "rest", "apigw"):
        assert run("--event", name)[:2] == (0, b"Hello streaming world ")


def test_the_digest_of_the_sqs_message_is_that_of_its_body() -> None:
    (record,) = json.loads(run("--print-event", "sqs").out)["Records"]
    assert record["md5OfBody"] == hashlib.md5(record["body"].encode()).hexdigest()
