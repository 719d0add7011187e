"""The function that is measured on the layer: sends the chunks that its event asks for.

As what it imports would be measured too, it imports nothing that costs.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def handler(event: dict[str, int], context: object) -> Iterator[bytes]:
    chunk = b"x" * event["size"]
    pause = event.get("pause_us", 0) / 1_000_000
    if not pause:
        for _ in range(event["chunks"]):
            yield chunk
        return
    for _ in range(event["chunks"]):
        time.sleep(pause)
        yield b"%020d" % time.monotonic_ns()  # CLOCK_MONOTONIC, which the server reads too
