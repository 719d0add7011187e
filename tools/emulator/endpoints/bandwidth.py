"""The speed of a streamed response as the service limits it: some megabytes at once, then so many a second.

The numbers are those of the service's own limiter: a bucket of 6 MiB that 2 MiB flow into each second (AWS Lambda
Developer Guide, configuration-response-streaming: "bandwidth").
"""

from __future__ import annotations

import time
from collections.abc import Iterator

BURST = 6 * 1024 * 1024  # bytes
RATE = 2 * 1024 * 1024  # bytes a second


def throttled(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, each when there is room for it in the bucket."""
    room, then = float(BURST), time.monotonic()
    for chunk in chunks:
        now = time.monotonic()
        room, then = min(BURST, room + (now - then) * RATE) - len(chunk), now
        if room < 0:
            time.sleep(-room / RATE)
        yield chunk
