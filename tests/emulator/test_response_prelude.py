"""The prelude of a streamed HTTP response."""

from __future__ import annotations

import json

import pytest

from tools.emulator.endpoints.prelude import CONTENT_TYPE, read_prelude
from tools.emulator.execution.invocation import InvocationFailed

COOKIES = ["a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "b=2; HttpOnly"]

PRELUDE = {"statusCode": 201, "headers": {"x-own": "value"}, "cookies": COOKIES}


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_the_prelude_is_found_in_chunks_of_any_size(size: int) -> None:
    stream = json.dumps(PRELUDE).encode() + b"\0" * 8 + b"body\0\0\0\0\0\0\0\0more"
    chunks = (stream[n : n + size] for n in range(0, len(stream), size))
    head, start = read_prelude(CONTENT_TYPE, chunks)
    assert (head.status, head.get("x-own"), head.cookies) == (201, "value", COOKIES)
    assert start + b"".join(chunks) == b"body\0\0\0\0\0\0\0\0more"


@pytest.mark.parametrize(
    "stream",
    [
        b"{}",
        b"[]" + b"\0" * 8,
        b"\xff" + b"\0" * 8,
        b"[" * 10_000 + b"\0" * 8,
        b'{"a": "' + b"x" * 20_000 + b'"}' + b"\0" * 8,
        *(
            json.dumps(prelude).encode() + b"\0" * 8
            for prelude in (
                {"statusCode": 99},
                {"statusCode": 99},
                {"statusCode": 600},
                {"statusCode": "200"},
                {"statusCode": True},
                {"headers": {"a": 1}},
                {"headers": {"a b": "c"}},
                {"headers": {"a": "b\r\nc: d"}},
                {"cookies": ["a\nb"]},
                {"cookies": ["\ud800"]},
                {"cookies": "a=1"},
            )
        ),
    ],
)
def test_a_malformed_prelude_fails_the_invocation(stream: bytes) -> None:
    with pytest.raises(InvocationFailed, match="prelude") as caught:
        read_prelude(CONTENT_TYPE, iter([stream]))
    assert caught.value.document["errorType"] == "Runtime.InvalidResponseHead"
