"""The head of a response as web applications give it, a status and header fields, and its prelude.

What can go wrong:

- A prelude has one value for each name. Fields that occur several times are joined with a comma (RFC 9110, 5.3).
  `Set-Cookie` is the exception: dates in it contain commas (RFC 6265, 3). Each cookie is an item of `cookies`.
- Header fields about one connection end where the function ends, at the Runtime API (RFC 9110, 7.6.1). The service has
  connections of its own to the caller.
- Responses to HEAD, and those with the status 204 or 304, have no body (RFC 9110, 6.4.1). Some frameworks send one all
  the same. The Runtime API would transmit it.
"""

from streaming_runtime import ContractError, describe_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

VERSION = "0.1.0"

OF_ONE_CONNECTION = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
STATUS_WITHOUT_BODY = (204, 304)


def prelude_of(status: int, fields: "Iterable[tuple[Any, Any]]") -> "dict[str, Any]":
    """Return the prelude, in the form in which a handler yields it.

    Args:
        fields: names and values of the headers. `prelude.encode` checks the characters in them.

    Raises ContractError (`InvalidResponseHead`) if a name or a value is not a string.
    """
    headers: dict[str, str] = {}
    cookies: list[str] = []
    names: dict[str, str] = {}  # by the name in lower case: as it occurred first
    for name, value in fields:
        if not isinstance(name, str) or not isinstance(value, str):
            other = name if not isinstance(name, str) else value
            raise ContractError("InvalidResponseHead", f"the response has a header with {describe_type(other)}")
        lower = name.lower()
        if lower == "set-cookie":
            cookies.append(value)
        elif lower not in OF_ONE_CONNECTION:
            first = names.setdefault(lower, name)
            headers[first] = f"{headers[first]}, {value}" if first in headers else value
    return {"statusCode": status, "headers": headers, "cookies": cookies}


def has_body(method: str, status: int) -> bool:
    """Return whether the response to a request with this method may have a body."""
    return method != "HEAD" and status not in STATUS_WITHOUT_BODY


def content_length(headers: "dict[str, str]") -> "int | None":
    """Return the length of the body that a response announces; None if it announces none."""
    value = next((value for name, value in headers.items() if name.lower() == "content-length"), "")
    return int(value) if value.isascii() and value.isdecimal() else None
