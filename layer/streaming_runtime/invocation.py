"""An invocation as `next` delivers it, and the context object that its handler gets."""

import sys
import time

from streaming_runtime import ContractError, import_standard, load, set_variable, variable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from streaming_runtime.after_response import Callbacks
    from streaming_runtime.client_context import ClientContext
    from streaming_runtime.http1 import ResponseHead
    from streaming_runtime.log import Log

VERSION = "0.1.0"

JSON = "application/json"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # RFC 8259, 8.1: parsers may ignore it
CONTENT_TYPE = "content-type"
DEADLINE_MS = "lambda-runtime-deadline-ms"
FUNCTION_ARN = "lambda-runtime-invoked-function-arn"
TRACE_ID = "lambda-runtime-trace-id"
CLIENT_CONTEXT = "lambda-runtime-client-context"
COGNITO_IDENTITY = "lambda-runtime-cognito-identity"
TENANT_ID = "lambda-runtime-aws-tenant-id"

# --- The invocation ---------------------------------------------------------------------------------------------------


class Invocation:
    """One invocation.

    Args:
        headers: of the response to `next`.
        body: the event as received; None if the connection ended inside it.

    Attributes:
        callbacks: those of `context.after_response`; None if there is none.
        has_ended: the response has ended, or cannot be sent any more.
    """

    __slots__ = ("body", "callbacks", "has_ended", "headers", "request_id")

    def __init__(self, request_id: str, headers: "ResponseHead", body: "bytes | None") -> None:
        self.request_id = request_id
        self.headers = headers
        self.body = body
        self.callbacks: Callbacks | None = None
        self.has_ended = False

    @property
    def trace_id(self) -> "str | None":
        trace_id: str | None = self.headers.get(TRACE_ID)
        return trace_id

    @property
    def tenant_id(self) -> "str | None":
        tenant_id: str | None = self.headers.get(TENANT_ID)
        return tenant_id

    @property
    def deadline_ms(self) -> int:
        """When the invocation times out, in milliseconds since 1970; 0 if the Runtime API sends no deadline."""
        try:
            return int(self.headers.get(DEADLINE_MS, "0"))
        except ValueError:
            return 0

    def event(self) -> "Any":
        """Return the event: parsed JSON, or the bytes if the content type is another one.

        Raises ContractError (`UnmarshalError`) if the event is incomplete or invalid.
        """
        if self.body is None:
            raise ContractError("UnmarshalError", "Unable to unmarshal input: the connection ended within the event")
        content_type = self.headers.get(CONTENT_TYPE, JSON)
        if content_type != JSON and content_type.partition(";")[0].strip().lower() != JSON:
            return self.body
        try:
            return from_json(self.body)
        except (ValueError, RecursionError) as error:
            raise ContractError("UnmarshalError", f"Unable to unmarshal input: {error}") from error

    def json_header(self, name: str, title: str) -> "dict[str, Any] | None":
        """Return the JSON object in a header; None if it is absent. Raises ContractError for anything else."""
        text = self.headers.get(name)
        if not text:
            return None
        try:
            value = from_json(text.encode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError) as error:
            raise ContractError("LambdaContextUnmarshalError", f"Unable to parse {title} JSON: {error}") from error
        if isinstance(value, dict) or value is None:
            return value
        raise ContractError("LambdaContextUnmarshalError", f"Unable to parse {title} JSON: it is not an object")


def set_trace_id(trace_id: "str | None") -> None:
    """Set the trace id where the X-Ray SDK reads it, or clear the one of the previous invocation."""
    set_variable("_X_AMZN_TRACE_ID", trace_id)


# --- The context object -----------------------------------------------------------------------------------------------


def make_picklable(self: object) -> "Any":
    """`__reduce__` of the context and its parts: a child process loads them without the layer on its `sys.path`."""
    return load("pickling").reduce(self)


class LambdaContext:
    """The `context` argument of a handler, with the names and types of the managed runtime's.

    https://docs.aws.amazon.com/lambda/latest/dg/python-context.html
    """

    log_group_name: "str | None"
    log_stream_name: "str | None"
    function_name: "str | None"
    memory_limit_in_mb: "str | None"  # a str, as on the managed runtime
    function_version: "str | None"

    _log: "Log | None" = None  # a copy in another process has none
    _invocation: "Invocation | None" = None  # a copy has none

    __reduce__ = make_picklable

    def __init__(self, invocation: Invocation, configuration: "dict[str, str | None]", log: "Log") -> None:
        self.aws_request_id = invocation.request_id
        vars(self).update(configuration)
        header = invocation.headers.get
        self.invoked_function_arn = header(FUNCTION_ARN)
        self.tenant_id = header(TENANT_ID)
        self.client_context: ClientContext | None = None
        self._w3c_fields: dict[str, str] = {}
        client_context = invocation.json_header(CLIENT_CONTEXT, "Client Context") if header(CLIENT_CONTEXT) else None
        if client_context is not None:
            self._w3c_fields = load("client_context").take_w3c_fields(client_context)
            self.client_context = load("client_context").ClientContext(client_context)
        identity = invocation.json_header(COGNITO_IDENTITY, "Cognito Identity") if header(COGNITO_IDENTITY) else None
        self.identity = CognitoIdentity(identity or {})
        self._epoch_deadline_time_in_ms = invocation.deadline_ms
        self._log = log
        self._invocation = invocation

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the invocation times out, never less than 0."""
        return max(0, self._epoch_deadline_time_in_ms - int(time.time() * 1000))

    def w3c(self) -> "dict[str, str]":
        """Return the W3C trace context: those of `traceparent`, `tracestate` and `baggage` that the service sent."""
        return dict(self._w3c_fields)

    def log(self, msg: object) -> None:
        """Write to the log, unchanged; no line end is added."""
        if self._log is not None:
            self._log.text(str(msg))
        else:
            sys.stdout.write(str(msg))

    def after_response(self, function: "Callable[..., object]", /, *args: "Any", **kwargs: "Any") -> None:
        """Register a function to call when the response has ended, before the environment is frozen.

        The registered functions are called in order, whatever the outcome of the invocation. A coroutine function runs
        on the event loop. Errors are logged.

        Raises:
            TypeError: `function` cannot be called.
            RuntimeError: the last of the functions has returned, or this context is a copy.
        """
        load("after_response").register(self._invocation, function, args, kwargs)

    def __repr__(self) -> str:
        return represent(
            self,
            "aws_request_id log_group_name log_stream_name function_name memory_limit_in_mb function_version "
            "invoked_function_arn client_context identity tenant_id",
        )


def function_configuration() -> "dict[str, str | None]":
    """Return the attributes of a context that are the same for all invocations of an environment."""
    return {
        "log_group_name": variable("AWS_LAMBDA_LOG_GROUP_NAME"),
        "log_stream_name": variable("AWS_LAMBDA_LOG_STREAM_NAME"),
        "function_name": variable("AWS_LAMBDA_FUNCTION_NAME"),
        "memory_limit_in_mb": variable("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
        "function_version": variable("AWS_LAMBDA_FUNCTION_VERSION"),
    }


class CognitoIdentity:
    """The caller that Amazon Cognito authenticated; both fields are None for other callers."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    __reduce__ = make_picklable

    def __init__(self, fields: "dict[str, Any]") -> None:
        self.cognito_identity_id = fields.get("cognitoIdentityId")
        self.cognito_identity_pool_id = fields.get("cognitoIdentityPoolId")

    def __repr__(self) -> str:
        return represent(self, "cognito_identity_id cognito_identity_pool_id")


def represent(owner: object, names: str) -> str:
    """Return the `repr` that the managed runtime's class of the same name has."""
    return f"{type(owner).__name__}([{','.join(f'{name}={getattr(owner, name)}' for name in names.split())}])"


# --- JSON -------------------------------------------------------------------------------------------------------------


class ScannerContext:
    """The attributes that the C scanner reads from a `json.JSONDecoder`; from 3.15 on also `array_hook`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.__getitem__


# The C part of `json` suffices: its Python part imports `re`, which takes longer than the rest of a cold start. It is
# not a public interface. If it is missing or different in another Python, the public one takes its place.
try:
    from _json import make_scanner

    scan: "Any" = make_scanner(ScannerContext())  # type: ignore[arg-type]
except Exception:
    scan = None


def from_json(data: bytes) -> "Any":
    """Parse like `json.loads`, but import `json` only for its error messages. Raises ValueError."""
    text = data.removeprefix(BYTE_ORDER_MARK).decode().strip(" \t\n\r")
    try:
        value, end = scan(text, 0)
        if end == len(text):
            return value
    except Exception:  # invalid JSON, whose cause `json` reports, or another interface
        pass
    return import_standard("json").JSONDecoder().decode(text)
