"""The value of an `--event` option: JSON, a file that contains JSON, or `-` for standard input."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn


def event_bytes(text: str) -> bytes:
    """Return the event as bytes, for `type=` of an option.

    It is checked here because Lambda, too, refuses an event that is not JSON before it invokes the function.

    Raises:
        argparse.ArgumentTypeError: the event cannot be read, or is not JSON.
    """
    data, name = _read(text)
    try:
        check_json(data)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{name} is not JSON: {error}") from None
    return data


def check_json(event: bytes | str) -> None:
    """Raise ValueError or RecursionError if an event is not JSON. NaN and Infinity are not JSON (RFC 8259, 6)."""
    json.loads(event, parse_constant=_refuse_constant)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _read(text: str) -> tuple[bytes, str]:
    """Return the bytes of the event, and the name of its source for messages."""
    path = Path(text)
    if not text:
        raise argparse.ArgumentTypeError("cannot read the event: it is empty")
    try:
        if text == "-" and sys.stdin is None:
            raise argparse.ArgumentTypeError("standard input is closed")
        if text == "-":
            return sys.stdin.buffer.read(), "standard input"
        if text.lstrip()[:1] in ("{", "[", '"') or (not path.exists() and _is_json(text)):
            return text.encode("utf-8", "surrogateescape"), "the argument"
        return path.read_bytes(), text
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {text}: {getattr(error, 'strerror', error)}") from None


def _is_json(text: str) -> bool:
    try:
        check_json(text)
    except ValueError:
        return False
    return True
