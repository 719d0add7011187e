"""The bandwidth limit of streamed responses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.emulator import Serving

from tools.emulator.endpoints.bandwidth import limit_bandwidth


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


MEBIBYTE = 1024 * 1024


def test_6_mb_of_a_stream_are_sent_at_once_and_then_2_mb_a_second() -> None:
    clock = Clock()
    chunks = limit_bandwidth(iter([bytes(MEBIBYTE)] * 12), clock.time, clock.sleep)
    times = [clock.now - 100 for _ in chunks]
    assert times[:6] == [0] * 6
    assert times[6:] == pytest.approx([0.5, 1, 1.5, 2, 2.5, 3])


def test_a_pause_in_a_stream_saves_up_no_more_than_6_mb() -> None:
    clock = Clock()

    def chunks() -> Iterator[bytes]:
        yield bytes(MEBIBYTE)
        clock.sleep(1000)
        yield from [bytes(MEBIBYTE)] * 8

    times = [clock.now - 1100 for _ in limit_bandwidth(chunks(), clock.time, clock.sleep)]
    assert times[1:7] == [0] * 6
    assert times[7:] == pytest.approx([0.5, 1])


def test_a_throttled_response_is_complete(serving: Serving) -> None:
    server, _ = serving(
        """
        def handler(event, context):
            yield b'x' * 6_500_000
    """,
        "--throttle",
    )
    assert server.get().body == b"x" * 6_500_000
