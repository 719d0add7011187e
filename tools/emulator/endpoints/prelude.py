"""The prelude of a streamed HTTP response: status, headers and cookies as JSON, then eight NUL bytes, then the body.

AWS Lambda Developer Guide, runtimes-custom; the limit is from the API Gateway Developer Guide,
response-transfer-mode-lambda.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tools.emulator.execution.invocation import OCTET_STREAM, InvocationFailed
from tools.emulator.http1.server import TOKEN

CONTENT_TYPE = "application/vnd.awslambda.http-integration-response"
END = b"\0" * 8
LARGEST = 16 * 1024  # bytes, the end included
UNFIT = re.compile(r"[\r\n\0\ud800-\udfff]")  # what cannot stand in a header, half characters of JSON among it


class ResponseHead:
    """Status, headers in their order with names in lower case, and one string for each cookie."""

    def __init__(
        self, status: int = 200, headers: list[tuple[str, str]] | None = None, cookies: list[str] | None = None
    ) -> None:
        self.status = status
        self.headers = headers or []
        self.cookies = cookies or []

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


def read_head(content_type: str, chunks: Iterator[bytes]) -> tuple[ResponseHead, bytes]:
    """The head of a response, and what of its body came with it.

    The end of a prelude is looked for in the bytes, however they were cut into chunks. Raises InvocationFailed where it
    is malformed, or where the response ends with an error within it.
    """
    if content_type != CONTENT_TYPE:
        return ResponseHead(headers=[("content-type", content_type)]), b""
    received = b""
    while (length := received.find(END, 0, LARGEST)) < 0:
        if len(received) >= LARGEST:
            raise malformed(f"its end is not within the first {LARGEST} bytes")
        chunk = next(chunks, None)
        if chunk is None:
            raise malformed("the response ended before it did")
        received += chunk
    return parse(received[:length]), received[length + len(END) :]


def parse(text: bytes) -> ResponseHead:
    try:
        prelude = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise malformed(str(error)) from None
    if not isinstance(prelude, dict):
        raise malformed("it is no JSON object")
    return head_of(prelude, OCTET_STREAM)


def head_of(document: dict[str, Any], content_type: str) -> ResponseHead:
    """The head that `statusCode`, `headers` and `cookies` tell of; `content_type` where they name none.

    Raises InvocationFailed where they are not of their types, or cannot stand in a head.
    """
    status, headers, cookies = document.get("statusCode", 200), document.get("headers"), document.get("cookies")
    headers, cookies = {} if headers is None else headers, [] if cookies is None else cookies
    # Below 200 are those that announce another answer (RFC 9110, 15.2).
    sound_status = isinstance(status, int) and not isinstance(status, bool) and 200 <= status <= 599
    if not (sound_status and is_text(headers, dict) and is_text(cookies, list)):
        raise malformed("statusCode, headers or cookies are not of their types")
    if not all(TOKEN.fullmatch(name) for name in headers):
        raise malformed("a header has a name that HTTP does not allow")
    head = ResponseHead(status, [(name.lower(), value) for name, value in headers.items()], cookies)
    if head.get("content-type") is None:
        head.headers.append(("content-type", content_type))
    return head


def is_text(value: Any, kind: type[dict[Any, Any]] | type[list[Any]]) -> bool:
    """Whether all strings in a dictionary or a list are, and can stand in a header."""
    if not isinstance(value, kind):
        return False
    texts = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
    return all(isinstance(text, str) and not UNFIT.search(text) for text in texts)


def malformed(why: str) -> InvocationFailed:
    return InvocationFailed.because("Runtime.InvalidResponseHead", f"the prelude of the response is malformed: {why}")
