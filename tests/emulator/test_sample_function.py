"""The sample function."""

from __future__ import annotations

import base64
import runpy
import time
from typing import Any

import pytest
from support.emulator import ROOT, error_of, run


def test_without_arguments_the_sample_streams_the_event_in_main_py() -> None:
    result = run()
    assert result.out == b"Streaming a response word by word from AWS Lambda "
    assert result.code == 0 and "REPORT " in result.err


@pytest.mark.parametrize(
    ("event", "response"),
    [('{"sentence": "Hello world"}', b"Hello world "), ('{"sentence": ""}', b""), ('{"sentence": " \\t "}', b"")],
)
def test_the_sample_streams_a_sentence(event: str, response: bytes) -> None:
    assert run("-e", event)[:2] == (0, response)


@pytest.mark.parametrize("event", ['{"sentence": 5}', "[]", '["sentence"]'])
def test_the_error_of_the_sample_names_the_expected_event(event: str) -> None:
    result = run("-e", event)
    assert (result.code, result.out) == (1, b"")
    assert error_of(result)["errorType"] == "ValueError"
    assert "expected" in error_of(result)["errorMessage"]


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the sample function's module; its pauses are left out."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return runpy.run_path(str(ROOT / "function" / "lambda_function.py"))


def url_event(body: str | None, encoded: bool = False) -> dict[str, Any]:
    return {"version": "2.0", "requestContext": {}, "body": body, "isBase64Encoded": encoded}


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("event", "chunks"),
    [
        ({"sentence": "Test streaming response"}, [b"Test ", b"streaming ", b"response "]),
        ({"sentence": " two\t\n\r words\u00a0\u2003"}, [b"two ", b"words "]),
        ({"sentence": "Grüße 世界 \U0001f600"}, ["Grüße ".encode(), "世界 ".encode(), "\U0001f600 ".encode()]),
        ({"sentence": ""}, []),
        (url_event('{"sentence": "a b"}'), [b"a ", b"b "]),
        (url_event(in_base64('{"sentence": "ä b"}'), encoded=True), ["ä ".encode(), b"b "]),
    ],
)
def test_the_sample_yields_a_chunk_for_each_word(sample: dict[str, Any], event: Any, chunks: list[bytes]) -> None:
    assert list(sample["handler"](event, None)) == chunks


@pytest.mark.parametrize("event", [{}, {"other": 1}, url_event(None), url_event(""), url_event("{}")])
def test_the_sample_has_a_default_sentence(sample: dict[str, Any], event: Any) -> None:
    own = sample["DEFAULT_SENTENCE"]
    assert list(sample["handler"](event, None)) == [f"{word} ".encode() for word in own.split()]


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "text",
        {"sentence": None},
        {"sentence": ["a"]},
        url_event("no JSON"),
        url_event("[]"),
        url_event("null"),
        url_event("%%%", encoded=True),
        url_event(base64.b64encode(b"\xff\xfe").decode(), encoded=True),
    ],
)
def test_the_sample_refuses_other_events(sample: dict[str, Any], event: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        list(sample["handler"](event, None))


def test_the_sample_pauses_after_a_word_and_not_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = runpy.run_path(str(ROOT / "function" / "lambda_function.py"))
    recorded: list[object] = []
    monkeypatch.setattr(time, "sleep", recorded.append)
    for word in sample["handler"]({"sentence": "a b"}, None):
        recorded.append(word)
    assert recorded == [b"a ", sample["SECONDS_PER_WORD"], b"b ", sample["SECONDS_PER_WORD"]]
