"""Messages of `application/vnd.amazon.eventstream`, the body of an `InvokeWithResponseStream` response.

A message is its length, the length of its headers and the checksum of the two; the headers; the payload; and the
checksum of everything before. Numbers are big-endian, checksums CRC-32 (Smithy specification, "Amazon Event Stream
Specification").
"""

from __future__ import annotations

import json
from binascii import crc32

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_STRING = b"\x07"  # the type of a header value


def encode_message(headers: dict[str, str], payload: bytes) -> bytes:
    fields = b"".join(encode_header(name, value) for name, value in headers.items())
    lengths = (12 + len(fields) + len(payload) + 4).to_bytes(4) + len(fields).to_bytes(4)
    message = b"".join((lengths, crc32(lengths).to_bytes(4), fields, payload))
    return message + crc32(message).to_bytes(4)


def encode_header(name: str, value: str) -> bytes:
    name_bytes, value_bytes = name.encode(), value.encode()
    return b"".join((len(name_bytes).to_bytes(1), name_bytes, _STRING, len(value_bytes).to_bytes(2), value_bytes))


def encode_event(event_type: str, content_type: str, payload: bytes) -> bytes:
    return encode_message({":event-type": event_type, ":content-type": content_type, ":message-type": "event"}, payload)


def payload_chunk(data: bytes) -> bytes:
    """A part of the response."""
    return encode_event("PayloadChunk", "application/octet-stream", data)


def invoke_complete(error_code: str | None, error_details: str | None, log_result: str | None) -> bytes:
    """The end of the response (AWS Lambda API Reference, API_InvokeWithResponseStreamCompleteEvent)."""
    values = {"ErrorCode": error_code, "ErrorDetails": error_details, "LogResult": log_result}
    present = {name: value for name, value in values.items() if value is not None}
    return encode_event("InvokeComplete", "application/json", json.dumps(present).encode())
