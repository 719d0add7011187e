"""The function that is measured behind a local Function URL: one small chunk for every request."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def handler(event: dict[str, object], context: object) -> Iterator[bytes]:
    yield b"x" * 16
