"""Writing JSON without the package `json`, whose import of `re` and `enum` would delay the first response or error."""

from streaming_runtime import import_standard

try:
    from _json import encode_basestring_ascii, make_encoder
except ImportError:  # an interpreter that is built differently
    make_encoder = None  # type: ignore[assignment, misc]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "0.1.0"


def to_json(value: object) -> str:
    """Return the ASCII JSON of a value made of dicts, lists, tuples, strings, numbers and None.

    Unlike `json.dumps`, this does not change if the function replaces that.
    """
    try:
        # The arguments that `json.JSONEncoder.iterencode` passes; our documents contain no cycles to check for.
        encode = make_encoder(None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, True)
        return "".join(encode(value, 0))
    except Exception:  # the C part is not a public interface; it can be missing or different in another Python
        return str(import_standard("json").JSONEncoder().encode(value))


def _refuse(value: object) -> "Any":
    raise TypeError(f"cannot encode a {type(value).__name__}")
