"""The prelude of a streamed HTTP response: status code, headers and cookies as JSON, eight NUL bytes, then the body.

AWS Lambda Developer Guide, runtimes-custom; the limit is from the API Gateway Developer Guide,
response-transfer-mode-lambda.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tools.emulator.execution.invocation import OCTET_STREAM, InvocationFailed
from tools.emulator.http1.connection import TOKEN

CONTENT_TYPE = "application/vnd.awslambda.http-integration-response"
DELIMITER = b"\0" * 8
MAX_PRELUDE_BYTES = 16 * 1024  # with the delimiter
# Characters that would end a header line, and half surrogates from JSON, which no encoding can represent.
_INVALID = re.compile(r"[\r\n\0\ud800-\udfff]")


class ResponseHead:
    """Status code, headers in their order with names in lower case, and cookies, one string each."""

    def __init__(
        self, status: int = 200, headers: list[tuple[str, str]] | None = None, cookies: list[str] | None = None
    ) -> None:
        self.status = status
        self.headers = headers or []
        self.cookies = cookies or []

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


def read_prelude(content_type: str, chunks: Iterator[bytes]) -> tuple[ResponseHead, bytes]:
    """Read the head of a response. Returns it with the part of the body that was received with it.

    A response of another content type has no prelude. Raises InvocationFailed if the prelude is malformed, or if the
    response ends within it.
    """
    if content_type != CONTENT_TYPE:
        return ResponseHead(headers=[("content-type", content_type)]), b""
    text, rest = split_at_delimiter(chunks)
    return parse_prelude(text), rest


def split_at_delimiter(chunks: Iterator[bytes]) -> tuple[bytes, bytes]:
    """Read the bytes before the delimiter. Returns them with the bytes after it that were received with it.

    The delimiter is searched in the bytes: a runtime can cut prelude, delimiter and body into chunks as it likes.
    Raises InvocationFailed if there is none in time.
    """
    received = b""
    while (length := received.find(DELIMITER, 0, MAX_PRELUDE_BYTES)) < 0:
        if len(received) >= MAX_PRELUDE_BYTES:
            raise malformed(f"its first {MAX_PRELUDE_BYTES} bytes do not contain the delimiter")
        chunk = next(chunks, None)
        if chunk is None:
            raise malformed("the response ended before the delimiter")
        received += chunk
    return received[:length], received[length + len(DELIMITER) :]


def parse_prelude(text: bytes) -> ResponseHead:
    try:
        prelude = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise malformed(str(error)) from None
    if not isinstance(prelude, dict):
        raise malformed("it is not a JSON object")
    return response_head(prelude, OCTET_STREAM)


def response_head(document: dict[str, Any], content_type: str) -> ResponseHead:
    """The head from `statusCode`, `headers` and `cookies`.

    Args:
        content_type: for a response whose headers contain none.

    Raises InvocationFailed if a value has the wrong type, or contains characters that a header cannot contain.
    """
    status, headers, cookies = document.get("statusCode", 200), document.get("headers"), document.get("cookies")
    headers, cookies = {} if headers is None else headers, [] if cookies is None else cookies
    valid_status = isinstance(status, int) and 100 <= status <= 599  # True is 1
    if not (valid_status and contains_text(headers, dict) and contains_text(cookies, list)):
        raise malformed("statusCode, headers or cookies have an invalid type or value")
    if not all(TOKEN.fullmatch(name) for name in headers):
        raise malformed("the name of a header contains characters that HTTP does not allow")
    head = ResponseHead(status, [(name.lower(), value) for name, value in headers.items()], cookies)
    if head.get("content-type") is None:
        head.headers.append(("content-type", content_type))
    return head


def contains_text(value: Any, kind: type[dict[Any, Any]] | type[list[Any]]) -> bool:
    """Whether all items of a dictionary or list are strings that a header can contain."""
    if not isinstance(value, kind):
        return False
    items = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
    return all(isinstance(item, str) and not _INVALID.search(item) for item in items)


def malformed(cause: str) -> InvocationFailed:
    return InvocationFailed.of_type("Runtime.InvalidResponseHead", f"the prelude of the response is malformed: {cause}")
