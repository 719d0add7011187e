"""The messages of an event stream."""

from __future__ import annotations

import json

from botocore.eventstream import EventStreamBuffer

from tools.emulator.endpoints.event_stream import encode_message, invoke_complete, payload_chunk


def test_botocore_parses_the_messages_in_pieces_of_any_size() -> None:
    stream = payload_chunk(b"") + payload_chunk(bytes(range(256))) + invoke_complete("Code", "ä", None)
    for size in (1, 7, 64, len(stream)):
        buffer = EventStreamBuffer()
        messages = []
        for start in range(0, len(stream), size):
            buffer.add_data(stream[start : start + size])
            messages += list(buffer)
        assert [message.payload for message in messages[:2]] == [b"", bytes(range(256))]
        assert [message.headers[":event-type"] for message in messages] == [
            "PayloadChunk",
            "PayloadChunk",
            "InvokeComplete",
        ]
        assert {message.headers[":message-type"] for message in messages} == {"event"}
        assert json.loads(messages[2].payload) == {"ErrorCode": "Code", "ErrorDetails": "ä"}


def test_an_empty_message_has_the_bytes_of_the_specification() -> None:
    assert encode_message({}, b"") == bytes.fromhex("00000010000000 0005c248eb7d98c8ff".replace(" ", ""))
