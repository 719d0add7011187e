"""HTTP responses of web applications, as the caller of a Function URL gets them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from support.function_process import Response


@dataclass
class HttpResponse:
    """The prelude of a streamed response, and the chunks of its body."""

    status: int
    headers: dict[str, str]
    cookies: list[str]
    chunks: list[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


def parse(response: Response) -> HttpResponse:
    """Read the prelude: JSON in the first chunk, eight NUL bytes in the second one."""
    prelude, end, *chunks = response.chunks
    assert end == bytes(8)
    head = json.loads(prelude)
    return HttpResponse(head["statusCode"], head["headers"], head["cookies"], chunks)
