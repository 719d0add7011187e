"""The prelude of a streamed HTTP response: status, headers and cookies as JSON, then eight NUL bytes, then the body.

AWS Lambda Developer Guide, runtimes-custom; the limit is from the API Gateway Developer Guide,
response-transfer-mode-lambda.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tools.emulator.invocation import OCTET_STREAM, InvocationFailed

CONTENT_TYPE = "application/vnd.awslambda.http-integration-response"
END = b"\0" * 8
LARGEST = 16 * 1024  # bytes, the end included


@dataclass
class ResponseHead:
    """Status, headers in their order, and one string for each cookie."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    cookies: list[str] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


def read_head(content_type: str, chunks: Iterator[bytes]) -> tuple[ResponseHead, bytes]:
    """The head of a response, and what of its body came with it.

    The end of a prelude is looked for in the bytes, however they were cut into chunks. Raises InvocationFailed where it
    is malformed, or where the response ends with an error within it.
    """
    if content_type != CONTENT_TYPE:
        return ResponseHead(headers=[("content-type", content_type)]), b""
    received = b""
    while END not in received:
        if len(received) > LARGEST:
            raise malformed(f"its end is not within the first {LARGEST} bytes")
        chunk = next(chunks, None)
        if chunk is None:
            raise malformed("the response ended before it did")
        received += chunk
    text, _, body = received.partition(END)
    return parse(text), body


def parse(text: bytes) -> ResponseHead:
    try:
        prelude = json.loads(text)
    except ValueError as error:
        raise malformed(str(error)) from None
    if not isinstance(prelude, dict):
        raise malformed("it is no JSON object")
    status, headers, cookies = prelude.get("statusCode", 200), prelude.get("headers", {}), prelude.get("cookies", [])
    if not (isinstance(status, int) and 100 <= status <= 599 and is_text(headers, dict) and is_text(cookies, list)):
        raise malformed("statusCode, headers or cookies are not of their types")
    head = ResponseHead(status, [(name.lower(), value) for name, value in headers.items()], cookies)
    if head.get("content-type") is None:
        head.headers.append(("content-type", OCTET_STREAM))
    return head


def is_text(value: Any, kind: type[dict[Any, Any]] | type[list[Any]]) -> bool:
    """Whether all strings in a dictionary or a list are, and can stand in a header."""
    if not isinstance(value, kind):
        return False
    texts = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
    return all(isinstance(text, str) and not any(c in text for c in "\r\n\0") for text in texts)


def malformed(why: str) -> InvocationFailed:
    return InvocationFailed.because("Runtime.InvalidResponseHead", f"the prelude of the response is malformed: {why}")
