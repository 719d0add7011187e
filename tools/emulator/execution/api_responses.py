"""The responses of the Runtime API and the Extensions API: JSON with a status code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tools.emulator.http1.connection import Connection


def send_accepted(connection: Connection) -> None:
    send_json(connection, 202, {"status": "OK"})


def send_error(connection: Connection, status: int, error_type: str, message: str) -> None:
    send_json(connection, status, {"errorMessage": message, "errorType": error_type})


def send_json(
    connection: Connection, status: int, document: Mapping[str, Any], fields: Mapping[str, str] | None = None
) -> None:
    """Args: `fields` are further headers."""
    body = json.dumps(document).encode()
    reason = "OK" if status < 300 else "Refused"  # `http.HTTPStatus` would delay the first byte by 1 ms
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    lines = "".join(f"{name}: {value}\r\n" for name, value in (fields or {}).items())
    connection.write(f"{head}{lines}\r\n".encode() + body)
