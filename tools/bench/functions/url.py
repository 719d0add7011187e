"""The function that is measured behind a local Function URL: one small chunk for every request."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def handler(event: "dict[str, object]", context: object) -> "Iterator[bytes]":
    yield b"x" * 16
