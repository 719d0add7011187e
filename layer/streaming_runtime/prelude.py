"""The HTTP response head that a handler yields first: status, headers and cookies.

`multiValueHeaders` is an addition of API Gateway, where it replaces `headers` of the same name. Function URLs ignore
it.
"""

from streaming_runtime import ContractError, describe_type, load, text_of
from streaming_runtime.handler import INTERFACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "0.1.0"

# Bytes, with the delimiter of eight NULs (API Gateway Developer Guide, response-transfer-mode-lambda).
MAX_PRELUDE_BYTES = 16 * 1024
DELIMITER_BYTES = 8

KEYS = ("statusCode", "headers", "cookies", "multiValueHeaders")

# The statements that stream a response as Mangum, the resolvers of Powertools and apig-wsgi return it.
STREAM_RESPONSE = f"""\
yield {{key: result[key] for key in {KEYS} if result.get(key)}}
yield base64.b64decode(result["body"]) if result.get("isBase64Encoded") else (result.get("body") or "").encode()"""


def encode(head: "dict[Any, Any]") -> bytes:
    """Return the JSON of status, headers and cookies; always these three keys, as some readers require them.

    Raises ContractError (`InvalidResponseHead`) before any of it is sent.
    """
    unknown = [key for key in head if key not in KEYS]
    if unknown:
        raise invalid(f"has the key {text_of(unknown[0], repr)}; allowed are {', '.join(KEYS)}")
    status, headers, cookies = head.get("statusCode", 200), head.get("headers", {}), head.get("cookies", [])
    if not isinstance(status, int) or isinstance(status, bool) or not 100 <= status <= 599:
        raise invalid("needs a statusCode that is an int from 100 to 599")
    if not isinstance(headers, dict) or not all(
        is_field(name) and name and is_field(headers[name]) for name in headers
    ):
        raise invalid("needs headers that are a dict of strings without CR, LF and NUL")
    if not is_fields(cookies):
        raise invalid("needs cookies that are a list of strings without CR, LF and NUL")
    document: dict[str, Any] = {"statusCode": int(status), "headers": headers, "cookies": cookies}
    if "multiValueHeaders" in head:
        multiple = document["multiValueHeaders"] = head["multiValueHeaders"]
        if not isinstance(multiple, dict) or not all(
            is_field(name) and name and is_fields(multiple[name]) for name in multiple
        ):
            raise invalid("needs multiValueHeaders that are a dict of lists of strings without CR, LF and NUL")
    text: bytes = load("json_text").to_json(document).encode("ascii")
    if len(text) + DELIMITER_BYTES > MAX_PRELUDE_BYTES:
        raise invalid(f"is {len(text)} bytes of JSON; the limit is {MAX_PRELUDE_BYTES - DELIMITER_BYTES}")
    return text


def is_fields(values: object) -> bool:
    return isinstance(values, (list, tuple)) and all(is_field(value) for value in values)


def is_field(value: object) -> bool:
    return isinstance(value, str) and not any(c in value for c in "\r\n\0")


def invalid(message: str) -> ContractError:
    return ContractError("InvalidResponseHead", f"the head of the response {message}")


def not_a_stream(result: object) -> ContractError:
    """Return the error about a handler that returned a value instead of yielding chunks."""
    found = describe_type(result)
    message = f"the handler returned {found}, but must be a generator of bytes: use yield instead of return"
    if isinstance(result, dict) and "statusCode" in result:
        return ContractError(
            "InvalidHandler",
            f"{message}; if an adapter such as Mangum calls an ASGI or WSGI application, make the application itself "
            f"the handler; otherwise these two lines stream an HTTP response that is a dict:\n{STREAM_RESPONSE}",
        )
    if hasattr(type(result), "__await__"):
        return ContractError(
            "InvalidHandler", f"{message}, or set {INTERFACE}=asgi if the handler is an ASGI application"
        )
    return ContractError("InvalidHandler", f"{message}, for example: yield json.dumps(result).encode()")
