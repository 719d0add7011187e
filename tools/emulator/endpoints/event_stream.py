"""Frames of `application/vnd.amazon.eventstream`, as `InvokeWithResponseStream` answers with them.

A frame is its length, the length of its headers and their checksum; the headers; the payload; the checksum of all that.
Numbers are big-endian, checksums CRC-32 (Smithy specification, "Amazon Event Stream Specification").
"""

from __future__ import annotations

import json
from binascii import crc32

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_STRING = b"\x07"  # the type of a header's value


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One message: headers of strings, and any bytes."""
    fields = b"".join(header(name, value) for name, value in headers.items())
    prelude = (12 + len(fields) + len(payload) + 4).to_bytes(4) + len(fields).to_bytes(4)
    message = b"".join((prelude, crc32(prelude).to_bytes(4), fields, payload))
    return message + crc32(message).to_bytes(4)


def header(name: str, value: str) -> bytes:
    encoded_name, encoded = name.encode(), value.encode()
    return b"".join((len(encoded_name).to_bytes(1), encoded_name, _STRING, len(encoded).to_bytes(2), encoded))


def event(kind: str, content_type: str, payload: bytes) -> bytes:
    return frame({":event-type": kind, ":content-type": content_type, ":message-type": "event"}, payload)


def payload_chunk(data: bytes) -> bytes:
    """A piece of the response as the function sent it."""
    return event("PayloadChunk", "application/octet-stream", data)


def invoke_complete(error_code: str | None, error_details: str | None, log_result: str | None) -> bytes:
    """The end of a response (AWS Lambda API Reference, API_InvokeWithResponseStreamCompleteEvent)."""
    values = {"ErrorCode": error_code, "ErrorDetails": error_details, "LogResult": log_result}
    told = {name: value for name, value in values.items() if value is not None}
    return event("InvokeComplete", "application/json", json.dumps(told).encode())
