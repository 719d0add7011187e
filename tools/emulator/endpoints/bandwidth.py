"""The bandwidth limit of streamed responses.

It is a token bucket of 6 MiB that is refilled at 2 MiB a second (AWS Lambda Developer Guide,
configuration-response-streaming: "bandwidth"). That of an API Gateway REST API has 10 MiB (API Gateway Developer Guide,
response-transfer-mode).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

BURST_BYTES = 6 * 1024 * 1024
BYTES_PER_SECOND = 2 * 1024 * 1024


def limit_bandwidth(
    chunks: Iterator[bytes],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    burst_bytes: int = BURST_BYTES,
) -> Iterator[bytes]:
    """Yield the same chunks, each when the bucket has room for it. `clock` and `sleep` are in seconds."""
    room, last = float(burst_bytes), clock()
    for chunk in chunks:
        now = clock()
        # An idle stream saves up no more than the bucket holds.
        room, last = min(burst_bytes, room + (now - last) * BYTES_PER_SECOND) - len(chunk), now
        if room < 0:
            sleep(-room / BYTES_PER_SECOND)
        yield chunk
