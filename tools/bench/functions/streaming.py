"""The function that is measured on the layer: yields the chunks that its event describes.

It imports nothing that takes time, not even `__future__`, because that time would be measured as well.
"""

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Any


def handler(event: "dict[str, int]", context: object) -> "Iterator[bytes | dict[str, Any]]":
    if event.get("prelude"):
        yield {
            "statusCode": 200,
            "headers": {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store"},
            "cookies": ["session=1; HttpOnly"],
        }
    chunk = b"x" * event["size"]
    pause = event.get("pause_us", 0) / 1_000_000
    if not pause:
        for _ in range(event["chunks"]):
            yield chunk
        if event.get("fail"):
            raise ValueError("the error that is measured")
        return
    for _ in range(event["chunks"]):
        time.sleep(pause)
        yield b"%020d" % time.monotonic_ns()  # CLOCK_MONOTONIC, which the server reads as well


async def async_handler(event: "dict[str, int]", context: object) -> "AsyncIterator[bytes]":
    chunk = b"x" * event["size"]
    for _ in range(event["chunks"]):
        yield chunk
