"""What kind of callable the handler is. Loaded if it is not a plain function with at most two parameters.

    asgi       a coroutine function with exactly three required positional parameters: (scope, receive, send)
    wsgi       anything else whose second positional parameter is named `start_response`
    handler    called with (event, context); what calls its first parameter `event` can only be that

Objects are judged by their `__call__`, classes by their `__init__`, partial functions by what is left to pass. The
rules are narrow, because a wrong guess calls the function with arguments that it does not expect. So `__wrapped__` is
not followed: a decorator that uses `functools.wraps` can have another signature than what it wraps. Where the
signature fits nothing, each invocation fails with a message that names the variable which decides instead.
"""

import sys

from streaming_runtime import ContractError, load, variable
from streaming_runtime.handler import COROUTINE, INTERFACE, START_RESPONSE, Handler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from streaming_runtime.log import Log

VERSION = "0.1.0"

ASGI, WSGI, HANDLER = INTERFACES = ("asgi", "wsgi", "handler")
UNCLEAR = "unclear"

ITERABLE_COROUTINE = 0x100  # of a code object: a generator that `types.coroutine` has marked
COROUTINE_MARKS = ("_is_coroutine_mark", "_is_coroutine")  # of `inspect.markcoroutinefunction` and of asgiref
MAX_INDIRECTIONS = 8  # partial functions, and objects whose `__call__` is an object


def make_handler(function: "Callable[..., Any]", log: "Log") -> Handler:
    """Return the handler for what `_HANDLER` names. For an ASGI application, this includes its lifespan startup.

    Raises:
        ContractError: STREAMING_RUNTIME_INTERFACE has an unknown value (`InvalidInterface`), or an application could
            not start (`LifespanError`).
    """
    interface = requested_interface() or detect(function)
    if interface in (ASGI, WSGI):
        handler: Handler = load(interface).make_handler(function, log)
        return handler
    return Handler(refuse if interface == UNCLEAR else function, log)


def requested_interface() -> str:
    """Return the value of STREAMING_RUNTIME_INTERFACE; empty if it is not set. Raises ContractError."""
    value = variable(INTERFACE) or ""
    if value and value not in INTERFACES:
        raise ContractError("InvalidInterface", f"{INTERFACE} is {value!r}; it must be asgi, wsgi or handler")
    return value


def detect(function: "Callable[..., Any]") -> str:
    """Return which kind of callable it is: ASGI, WSGI, HANDLER, or UNCLEAR if it cannot be called as any of them."""
    signature = signature_of(function)
    if signature is None:
        return HANDLER  # written in C, for example
    names, required = signature.names, signature.required
    if names[:1] == ["event"]:
        return HANDLER
    if signature.is_coroutine and required == 3 and not signature.has_required_keywords:
        return ASGI
    if not signature.is_coroutine and names[1:2] == [START_RESPONSE]:
        return WSGI
    return HANDLER if required <= 2 else UNCLEAR


def refuse(event: "Any", context: "Any") -> "Any":
    """Take the place of a handler that cannot be called."""
    raise ContractError(
        "InvalidHandler",
        "the handler must take two arguments, event and context, and yield bytes; or be an ASGI application, a "
        "coroutine function of (scope, receive, send); or a WSGI application, a function of (environ, start_response): "
        f"it takes other arguments; if it is an application all the same, set {INTERFACE} to asgi or wsgi",
    )


# --- Signatures -------------------------------------------------------------------------------------------------------

# `inspect.signature` is not used: importing `inspect` takes longer than the rest of a cold start.


class Signature:
    """The parameters that are left to pass to a callable.

    Attributes:
        names: of the positional parameters.
        required: how many of them have no default.
        has_required_keywords: it has a keyword-only parameter without a default.
        is_coroutine: a call returns a coroutine.
    """

    def __init__(self, function: "Any") -> None:
        code = function.__code__
        self.names = list(code.co_varnames[: code.co_argcount])
        self._optional = set(self.names[len(self.names) - len(function.__defaults__ or ()) :])
        keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        self._required_keywords = set(keywords) - set(function.__kwdefaults__ or ())
        is_marked = any(hasattr(function, mark) for mark in COROUTINE_MARKS)
        self.is_coroutine = bool(code.co_flags & (COROUTINE | ITERABLE_COROUTINE)) or is_marked

    @property
    def required(self) -> int:
        return sum(name not in self._optional for name in self.names)

    @property
    def has_required_keywords(self) -> bool:
        return bool(self._required_keywords)

    def pass_arguments(self, count: int, keywords: "Any") -> None:
        """Remove the parameters that a method or a partial function passes."""
        del self.names[:count]
        for name in keywords:
            if name in self.names:
                # Later ones can be passed by their name only.
                del self.names[self.names.index(name) :]
            self._required_keywords.discard(name)


def signature_of(function: "Any") -> "Signature | None":
    """Return the signature; None if it cannot be read. Nothing that the function's class does is raised here."""
    try:
        return _signature_of(function, MAX_INDIRECTIONS)
    except Exception:
        return None


def _signature_of(function: "Any", indirections: int) -> "Signature | None":
    if indirections == 0:
        return None
    if isinstance(function, type):
        signature = Signature(function.__init__)  # type: ignore[misc]
        signature.is_coroutine = False
        signature.pass_arguments(1, ())
        return signature
    partial = getattr(sys.modules.get("_functools"), "partial", None)
    if partial is not None and isinstance(function, partial):
        inner = _signature_of(function.func, indirections - 1)
        if inner is not None:
            inner.pass_arguments(len(function.args), function.keywords)
        return inner
    if attribute(function, "__code__") is not None:
        signature = Signature(function)
        if attribute(function, "__self__") is not None and attribute(function, "__func__") is not None:
            signature.pass_arguments(1, ())
        return signature
    return _signature_of(function.__call__, indirections - 1)


def attribute(owner: object, name: str) -> object:
    """Return an attribute; None if there is none, or if the class of the function raises another error about it."""
    try:
        return getattr(owner, name, None)
    except Exception:
        return None
