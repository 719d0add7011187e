"""The runtime of a Lambda function whose handler is a generator: what it yields is streamed to the caller at once.

One execution environment runs one process of this file. Its life, as the code below tells it from the top down:

    load the handler, then again and again: next invocation -> handler -> stream its chunks, or report its error

What the handler may give, and what becomes of it:

    a generator, or any other iterator of bytes, bytearray or memoryview    each item leaves as one HTTP chunk
    anything else                                                          Runtime.InvalidHandler
    an item that is not bytes-like                                         Runtime.InvalidChunk

Sources of the rules: "Using the Lambda runtime API" and "Building a custom runtime" in the AWS Lambda Developer Guide
(docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, runtimes-custom.html), HTTP/1.1 from RFC 9112.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import time

TYPE_CHECKING = False  # what typing.TYPE_CHECKING is, without the import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Handler = Callable[[Any, "LambdaContext"], Any]
    Frame = tuple[str, int, str, str]  # path, line number, name of the function, line

VERSION = "0.1.0"

# --- Names on the wire ------------------------------------------------------------------------------------------------

API_VERSION = "/2018-06-01"
NEXT_PATH = API_VERSION + "/runtime/invocation/next"
RESPONSE_PATH = API_VERSION + "/runtime/invocation/%s/response"
ERROR_PATH = API_VERSION + "/runtime/invocation/%s/error"
INIT_ERROR_PATH = API_VERSION + "/runtime/init/error"
USER_AGENT = f"python-streaming-runtime/{VERSION} CPython/{sys.version.split()[0]}"

# Of the answer to `next`; compared in lower case, as header names have none of their own (RFC 9110, 5.1).
REQUEST_ID = "lambda-runtime-aws-request-id"
DEADLINE_MS = "lambda-runtime-deadline-ms"
FUNCTION_ARN = "lambda-runtime-invoked-function-arn"
TRACE_ID = "lambda-runtime-trace-id"
CLIENT_CONTEXT = "lambda-runtime-client-context"
COGNITO_IDENTITY = "lambda-runtime-cognito-identity"
TENANT_ID = "lambda-runtime-aws-tenant-id"
INVOCATION_ID = "lambda-runtime-invocation-id"

# Of what we post.
ECHOED_INVOCATION_ID = "Lambda-Runtime-Invocation-Id"
RESPONSE_MODE = "Lambda-Runtime-Function-Response-Mode"
STREAMING = "streaming"
ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
ERROR_BODY = "Lambda-Runtime-Function-Error-Body"
XRAY_CAUSE = "Lambda-Runtime-Function-XRay-Error-Cause"
OCTET_STREAM = "application/octet-stream"
JSON = "application/json"

# HTTP's own, of the answers that we read.
CONTENT_TYPE = "content-type"
CONTENT_LENGTH = "content-length"
TRANSFER_ENCODING = "transfer-encoding"
CONNECTION = "connection"

# --- Limits -----------------------------------------------------------------------------------------------------------

LARGEST_COPIED_CHUNK = 16 * 1024  # bytes; up to here a copy is cheaper than a gathering send
LARGEST_HEAD = 1024 * 1024  # bytes of a status line with its headers; the service stays below (gettingstarted-limits)
LARGEST_RECEIVE = 256 * 1024  # bytes
MOST_INTERIM_ANSWERS = 100  # 1xx before a final answer
LARGEST_ERROR_BODY = 256 * 1024  # bytes; the size of a log event
LARGEST_XRAY_CAUSE = 64 * 1024  # bytes; the service drops what is longer
LARGEST_MESSAGE = 64 * 1024  # characters of an error message that are passed on
LARGEST_TRAILERS = 3500  # bytes; Go servers, the service's own among them, read trailers into a buffer of 4096
SEND_NOW = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)  # no wait, no SIGPIPE whatever the function set
NEXT_RETRY_PAUSES = (0.0, 0.1, 0.2, 0.4, 0.8)  # seconds, before `next` is tried again on a new connection

# --- The loop ---------------------------------------------------------------------------------------------------------


def main() -> NoReturn:
    """Load the handler and answer invocations until the environment ends. Exits 1 where it cannot go on."""
    sys.argv = [__file__]
    sys.modules.pop(__name__, None)  # the function may have a module of this name
    try:
        api = RuntimeApi(os.environ.get("AWS_LAMBDA_RUNTIME_API", ""))
        run(api, initialize(api))
    except RuntimeApiError as error:
        log_line(f"{error}; the environment ends")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def initialize(api: RuntimeApi) -> Handler:
    """Import the function, or post the one `/init/error` that an environment may post, and exit."""
    try:
        set_import_path()
        return load_handler(os.environ.get("_HANDLER", ""))
    except BaseException as error:
        failure = describe(error, "the function's module")
        log_failure(failure, request_id="")
        api.post_init_error(failure)
        sys.exit(failure.exit_status or 1)


def run(api: RuntimeApi, handler: Handler) -> NoReturn:
    while True:
        serve(api, handler, api.next_invocation())


def serve(api: RuntimeApi, handler: Handler, invocation: Invocation) -> None:
    """Answer one invocation: a stream; before its first byte `/error`; after it the error in the trailers.

    Raises SystemExit, after the report, where the handler did; RuntimeApiError where the Runtime API can't go on.
    """
    set_trace_id(invocation.trace_id)
    response = ResponseStream(api, invocation)
    try:
        stream(handler, invocation, response)
        response.finish()
    except RuntimeApiError:
        raise
    except NotDelivered as reason:
        log_line(f"RequestId: {invocation.request_id} the response was not delivered: {reason}")
    except BaseException as error:
        failure = describe(error, "the handler")
        log_failure(failure, invocation.request_id)
        response.fail(failure)
        if failure.exit_status is not None:
            sys.exit(failure.exit_status)


def stream(handler: Handler, invocation: Invocation, response: ResponseStream) -> None:
    """Call the handler and send what it yields, each chunk before the handler resumes."""
    result = handler(invocation.event(), LambdaContext(invocation))
    if not is_iterator(result):
        discard(result)
        raise InvalidHandler(result)
    try:
        for chunk in result:
            response.write(chunk)
    finally:
        close(result, invocation.request_id)


def is_iterator(result: object) -> bool:
    # What was returned counts, not how the handler was defined: a decorated one is often a plain function.
    kind = type(result)
    return hasattr(kind, "__next__") and hasattr(kind, "__iter__")


def discard(result: object) -> None:
    if hasattr(type(result), "__await__") and hasattr(result, "close"):
        result.close()  # or Python warns of a coroutine that was never awaited


def close(chunks: object, request_id: str) -> None:
    """Run the `finally` of a generator that is left early. What goes wrong in it must not hide why it was left."""
    if not hasattr(chunks, "close"):
        return
    try:
        chunks.close()
    except BaseException as error:
        log_failure(describe(error, "the handler's clean-up"), request_id)


# --- The response -----------------------------------------------------------------------------------------------------


class Phase:
    """Where a response stands. It only moves down this list."""

    FRESH = "nothing sent"
    OPEN = "head sent"
    DONE = "ended"


class ResponseStream:
    """One invocation's response, FRESH -> OPEN -> DONE; in chunks (RFC 9112, 7.1), the head in one send with the first.

    The phase alone decides where an error goes: `/error` is allowed only until a response is begun.
    """

    __slots__ = ("_api", "_invocation", "_send", "phase")

    def __init__(self, api: RuntimeApi, invocation: Invocation) -> None:
        self._api = api
        self._invocation = invocation
        self._send = api.connection.send
        self.phase = Phase.FRESH

    def write(self, chunk: object) -> None:
        """Send one yielded chunk (bytes, bytearray or memoryview) at once.

        An empty one is skipped: on the wire it would end the body. Raises InvalidChunk for any other type,
        NotDelivered where the other side has gone or said no.
        """
        data = chunk if type(chunk) is bytes else bytes_of(chunk)
        if not data:
            return
        size = b"%x\r\n" % len(data)
        if self.phase is Phase.FRESH:
            size = self._begin() + size
        if len(data) <= LARGEST_COPIED_CHUNK:
            self._send(b"".join((size, data, b"\r\n")))
        else:
            self._api.connection.send_gathered(size, data, b"\r\n")

    def finish(self) -> None:
        """End the response well; one without a chunk is begun first, so that the caller gets an empty answer."""
        self._end(b"0\r\n\r\n")

    def fail(self, failure: Failure) -> None:
        """Tell the caller of a failure by the way that is still open."""
        if self.phase is Phase.FRESH:
            self.phase = Phase.DONE
            self._api.post_error(self._invocation, failure)
        elif self.phase is Phase.OPEN:
            try:
                self._end(b"0\r\n" + failure.trailers(self._invocation.request_id) + b"\r\n")
            except NotDelivered as reason:
                log_line(f"RequestId: {self._invocation.request_id} the error was not delivered: {reason}")

    def _begin(self) -> bytes:
        self.phase = Phase.OPEN
        self._api.connection.renew()
        return self._api.response_head(self._invocation, OCTET_STREAM)

    def _end(self, last: bytes) -> None:
        if self.phase is Phase.DONE:
            raise RuntimeError("a response ends once")
        if self.phase is Phase.FRESH:
            last = self._begin() + last
        self.phase = Phase.DONE
        self._send(last)
        self._api.read_acceptance(f"the response of {self._invocation.request_id}")


def bytes_of(chunk: object) -> memoryview:
    """The bytes of a chunk that is not plain `bytes`, without a copy unless they are scattered."""
    if not isinstance(chunk, (bytes, bytearray, memoryview)):
        raise InvalidChunk(chunk)
    view = memoryview(chunk)
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


# --- The handler ------------------------------------------------------------------------------------------------------


def set_import_path() -> None:
    """Order `sys.path` as the managed runtime does: the function, dependency layers, then the interpreter's own."""
    task_root = os.environ.get("LAMBDA_TASK_ROOT") or os.getcwd()
    site_packages = f"/opt/python/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    ours = os.path.dirname(os.path.abspath(__file__))
    interpreters = [path for path in sys.path if path and os.path.abspath(path) != ours]
    sys.path[:] = [task_root, site_packages, "/opt/python", *interpreters]


def load_handler(name: str) -> Handler:
    """The function that `_HANDLER` names: `module.function`, with `/` or `.` between packages.

    Raises Fault with the reasons of the managed runtime; what the module itself raises passes through.
    """
    path, dot, attribute = name.rpartition(".")
    module_name = path.replace("/", ".")
    if not dot or not attribute or not all(module_name.split(".")):
        raise Fault("MalformedHandlerName", f"Bad handler '{name}': _HANDLER is to be module.function")
    if module_name.split(".")[0] in sys.builtin_module_names:
        raise Fault("BuiltInModuleConflict", f"Cannot use built-in module {path} as a handler module")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise Fault("ImportModuleError", f"Unable to import module '{path}': {cause(error, module_name)}") from error
    except SyntaxError as error:
        trace = [f'  File "{error.filename}" Line {error.lineno}\n    {error.text}']
        raise Fault("UserCodeSyntaxError", f"Syntax error in module '{path}': {error}", trace) from error
    handler: Handler | None = getattr(module, attribute, None)
    if handler is None or not callable(handler):
        what = "missing" if handler is None else f"a {type(handler).__name__}, not a function,"
        raise Fault("HandlerNotFound", f"Handler '{attribute}' {what} on module '{path}'")
    return handler


def cause(error: ImportError, module_name: str) -> str:
    """Tell a handler module that is missing from an import that is missing inside it."""
    missing = error.name or ""
    if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{missing}."):
        return f"{error} (the function's zip must hold {module_name.replace('.', '/')}.py)"
    if isinstance(error, ModuleNotFoundError):
        return f"{error} (which it imports: it must be in the function's zip, or in a layer under python/)"
    return str(error)


# --- Invocation and context -------------------------------------------------------------------------------------------


class Invocation:
    """What the answer to `next` says.

    Args:
        headers: by lower-case name.
        body: the event as it was received; None where the connection ended before the whole of it had come.
    """

    __slots__ = ("body", "headers", "request_id")

    def __init__(self, headers: dict[str, str], body: bytes | None) -> None:
        self.headers = headers
        self.body = body
        self.request_id = headers[REQUEST_ID]

    @property
    def trace_id(self) -> str | None:
        return self.headers.get(TRACE_ID)

    @property
    def deadline_ms(self) -> int:
        """When the invocation times out, in milliseconds since 1970; 0 where the Runtime API does not say."""
        try:
            return int(self.headers.get(DEADLINE_MS, "0"))
        except ValueError:
            return 0

    def event(self) -> Any:
        """The event: JSON unless the Runtime API says that it is something else, which is then passed on as bytes."""
        if self.body is None:
            raise Fault("UnmarshalError", "Unable to unmarshal input: the connection ended within the event")
        media_type = self.headers.get(CONTENT_TYPE, JSON).partition(";")[0].strip().lower()
        if media_type != JSON:
            return self.body
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Fault("UnmarshalError", f"Unable to unmarshal input: {error}") from error

    def json_header(self, name: str, what: str) -> dict[str, Any] | None:
        text = self.headers.get(name)
        if not text:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Fault("LambdaContextUnmarshalError", f"Unable to parse {what} JSON: {error}") from error
        if isinstance(value, dict) or value is None:
            return value
        raise Fault("LambdaContextUnmarshalError", f"Unable to parse {what} JSON: it is no object")


class LambdaContext:
    """What the handler is told of its invocation: names and types of the managed runtime's context object.

    https://docs.aws.amazon.com/lambda/latest/dg/python-context.html
    """

    def __init__(self, invocation: Invocation) -> None:
        environ = os.environ
        self.aws_request_id = invocation.request_id
        self.log_group_name = environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.function_name = environ.get("AWS_LAMBDA_FUNCTION_NAME")
        self.memory_limit_in_mb = environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")  # a str, as on the managed runtime
        self.function_version = environ.get("AWS_LAMBDA_FUNCTION_VERSION")
        self.invoked_function_arn = invocation.headers.get(FUNCTION_ARN)
        self.tenant_id = invocation.headers.get(TENANT_ID)
        client_context = invocation.json_header(CLIENT_CONTEXT, "Client Context")
        self._w3c_fields = take_w3c_fields(client_context)
        self.client_context = None if client_context is None else ClientContext(client_context)
        self.identity = CognitoIdentity(invocation.json_header(COGNITO_IDENTITY, "Cognito Identity") or {})
        self._epoch_deadline_time_in_ms = invocation.deadline_ms

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation times out, never below 0."""
        return max(0, self._epoch_deadline_time_in_ms - int(time.time() * 1000))

    def w3c(self) -> dict[str, str]:
        """The W3C trace context at invoke time: `traceparent`, `tracestate` and `baggage`, those that came."""
        return dict(self._w3c_fields)

    def log(self, msg: object) -> None:
        """Write to the log as it is; no line end is added."""
        sys.stdout.write(str(msg))

    def __repr__(self) -> str:
        shown = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return describe_fields(self, shown)


class ClientContext:
    """What a mobile client says of itself: `client`, `custom`, `env`."""

    __slots__ = ("client", "custom", "env")

    def __init__(self, fields: dict[str, Any]) -> None:
        client = fields.get("client")
        self.custom = fields.get("custom")
        self.env = fields.get("env")
        self.client = Client(client) if isinstance(client, dict) else None

    def __repr__(self) -> str:
        return describe_fields(self, {"custom": self.custom, "env": self.env, "client": self.client})


class Client:
    """The mobile application that a client context names."""

    __slots__ = ("app_package_name", "app_title", "app_version_code", "app_version_name", "installation_id")

    def __init__(self, fields: dict[str, Any]) -> None:
        for name in self.__slots__:
            setattr(self, name, fields.get(name))

    def __repr__(self) -> str:
        return describe_fields(self, {name: getattr(self, name) for name in self.__slots__})


class CognitoIdentity:
    """Who called, where Amazon Cognito authenticated the caller; both fields are None otherwise."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self, fields: dict[str, Any]) -> None:
        self.cognito_identity_id = fields.get("cognitoIdentityId")
        self.cognito_identity_pool_id = fields.get("cognitoIdentityPoolId")

    def __repr__(self) -> str:
        return describe_fields(self, {name: getattr(self, name) for name in self.__slots__})


def describe_fields(owner: object, fields: dict[str, Any]) -> str:
    return f"{type(owner).__name__}([{','.join(f'{name}={value}' for name, value in fields.items())}])"


def take_w3c_fields(client_context: dict[str, Any] | None) -> dict[str, str]:
    """Take the trace context out of the client context, where the service puts it."""
    fields = client_context.pop("w3c", None) if client_context else None
    if not isinstance(fields, dict):
        return {}
    wanted = ("traceparent", "tracestate", "baggage")
    return {name: fields[name] for name in wanted if isinstance(fields.get(name), str)}


def set_trace_id(trace_id: str | None) -> None:
    """Hand the trace on to the X-Ray SDK, which reads it from the environment; an old one must not stay."""
    if trace_id is None:
        os.environ.pop("_X_AMZN_TRACE_ID", None)
    else:
        os.environ["_X_AMZN_TRACE_ID"] = trace_id


# --- Failures ---------------------------------------------------------------------------------------------------------


class Fault(Exception):
    """A rule that the function, its event or its answer breaks.

    Args:
        reason: the part after `Runtime.` of the error type that the caller and the log are told.
        message: what is wrong, and what to do.
        stack_trace: lines of the error report, where Python's own trace would not show the place.
    """

    def __init__(self, reason: str, message: str, stack_trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.stack_trace = stack_trace


class InvalidHandler(Fault):
    def __init__(self, result: object) -> None:
        super().__init__(
            "InvalidHandler",
            f"the handler returned {a_value_of(result)}, but must be a generator of bytes: "
            "use yield instead of return, for example: yield json.dumps(result).encode()",
        )


class InvalidChunk(Fault):
    def __init__(self, chunk: object) -> None:
        super().__init__(
            "InvalidChunk",
            f"the handler yielded {a_value_of(chunk)}, but each chunk must be bytes, bytearray or memoryview: "
            'turn text into bytes with .encode("utf-8")',
        )


def a_value_of(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


class RuntimeApiError(Exception):
    """The Runtime API cannot be worked with any further; the environment has to end."""


class NotDelivered(Exception):
    """One exchange with the Runtime API failed: the other side has gone, or said no. The next one may work."""


class Failure:
    """What the caller, the log and X-Ray are told of an error.

    Args:
        error_type: the bare name of an exception's class, or `Runtime.` and a reason.
        message: the error's own words.
        frames: the user's, outermost first.
        stack_trace: takes the place of the frames where the trace of an error is not one of Python's.
        exit_status: set where the process must end after the report.
    """

    def __init__(
        self,
        error_type: str,
        message: str,
        frames: list[Frame] | None = None,
        stack_trace: list[str] | None = None,
        exit_status: int | None = None,
    ) -> None:
        self.error_type = error_type
        self.message = message if len(message) <= LARGEST_MESSAGE else message[:LARGEST_MESSAGE] + " [cut]"
        self.frames = frames or []
        self.stack_trace = stack_trace if stack_trace is not None else format_frames(self.frames)
        self.exit_status = exit_status

    @property
    def header(self) -> str:
        """The error type as the platform keeps it: `Function.<Class>` or `Runtime.<Reason>`, safe in a header."""
        if self.error_type.startswith("Runtime."):
            return self.error_type
        return "Function." + "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in self.error_type)

    def body(self, request_id: str, limit: int = LARGEST_ERROR_BODY) -> bytes:
        """The documented error document, in ASCII."""

        def document(stack_trace: list[str], message: str) -> dict[str, object]:
            described = {"errorMessage": message, "errorType": self.error_type}
            return {**described, "requestId": request_id, "stackTrace": stack_trace}

        return json_within(limit, document, self.stack_trace, self.message)

    def trailers(self, request_id: str) -> bytes:
        """The two declared trailers, each a line with its end; in base64 the JSON can hold anything."""
        from binascii import b2a_base64

        room = LARGEST_TRAILERS * 3 // 4 - len(self.header)
        body = b2a_base64(self.body(request_id, room), newline=False)
        return b"%b: %b\r\n%b: %b\r\n" % (ERROR_TYPE.encode(), self.header.encode(), ERROR_BODY.encode(), body)

    def xray_cause(self) -> bytes:
        """The cause for X-Ray, one line of ASCII JSON."""

        def document(frames: list[Frame], message: str) -> dict[str, object]:
            stack = [{"label": name, "path": path, "line": line} for path, line, name, _ in frames]
            exception = {"message": message, "type": self.error_type, "stack": stack}
            paths = sorted({path for path, *_ in frames})
            return {"working_directory": working_directory(), "exceptions": [exception], "paths": paths}

        return json_within(LARGEST_XRAY_CAUSE, document, self.frames, self.message)


def json_within(limit: int, document: Callable[[list[Any], str], object], stack: list[Any], message: str) -> bytes:
    """The JSON of a document, with as much of the inner stack and of the message as fits the limit (bytes)."""
    while True:
        text = json.dumps(document(stack, message)).encode("ascii")
        if len(text) <= limit or not (stack or message):
            return text
        if stack:
            stack = stack[len(stack) // 2 + 1 :]
        else:
            message = message[: len(message) // 2]


def working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # the function may have removed it
        return ""


def describe(error: BaseException, culprit: str) -> Failure:
    """What to tell of an exception. Whatever the exception does when it is looked at, this does not raise."""
    if isinstance(error, Fault):
        return Failure(f"Runtime.{error.reason}", str(error), user_frames(error), error.stack_trace)
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        message = f"{culprit} called sys.exit({text_of(error.code, repr)})"
        return Failure("Runtime.ExitError", message, user_frames(error), exit_status=status)
    interrupted = 130 if isinstance(error, KeyboardInterrupt) else None
    return Failure(type(error).__name__, text_of(error, str), user_frames(error), exit_status=interrupted)


def text_of(value: object, convert: Callable[[object], str]) -> str:
    try:
        return convert(value)
    except BaseException:
        return f"<{convert.__name__}() of a {type(value).__name__} failed>"


def user_frames(error: BaseException) -> list[Frame]:
    """The frames of an error from the user's first one inwards; those before are ours or the import system's."""
    try:
        extracted = import_standard("traceback").extract_tb(error.__traceback__)
        frames = [(frame.filename, frame.lineno or 0, frame.name, frame.line or "") for frame in extracted]
    except BaseException:  # out of memory or of stack; the error itself is worth more than its trace
        return []
    machinery = (__file__, importlib.__file__, "<frozen importlib")
    while frames and frames[0][0].startswith(machinery):
        del frames[0]
    return frames


def format_frames(frames: list[Frame]) -> list[str]:
    try:
        return list(import_standard("traceback").format_list(frames)) if frames else []
    except BaseException:
        return []


def import_standard(name: str) -> Any:
    """Import a module of the standard library late, though the function may hold a file of the same name."""
    library = os.path.dirname(os.__file__)
    own = [library, os.path.join(library, "lib-dynload")]
    sys.path[:0] = own
    try:
        return importlib.import_module(name)
    finally:
        del sys.path[: len(own)]


# --- The log ----------------------------------------------------------------------------------------------------------


def log_failure(failure: Failure, request_id: str) -> None:
    """One log event, as the managed runtime writes it: a carriage return does not end an event, a line feed does."""
    lines = [f"[ERROR] {failure.error_type}: {failure.message}" if failure.message else f"[ERROR] {failure.error_type}"]
    if failure.stack_trace:
        lines.append("Traceback (most recent call last):")
        lines += [keep_indentation(line) for entry in failure.stack_trace for line in entry.splitlines()]
    write_event(1, "\r".join(lines))


def keep_indentation(line: str) -> str:
    bare = line.lstrip(" ")
    return "\u00a0" * (len(line) - len(bare)) + bare  # CloudWatch shows ordinary leading blanks as none


def log_line(text: str) -> None:
    """Say something of the runtime itself, on standard error."""
    write_event(2, f"python-streaming-runtime {VERSION}: {text}")


def write_event(descriptor: int, text: str) -> None:
    """One write for one event, past `sys.stdout`, which the function may have replaced."""
    data = memoryview(text.replace("\r\n", "\r").replace("\n", "\r").encode("utf-8", "backslashreplace") + b"\n")
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        pass  # nobody reads the log; the invocation matters more


# --- The Runtime API --------------------------------------------------------------------------------------------------


class RuntimeApi:
    """The calls of the Lambda Runtime API, over one connection.

    Args:
        address: `AWS_LAMBDA_RUNTIME_API`: `host:port`, with a scheme and a path before the API's own where an
            emulator has them (`http://127.0.0.1:9000/.rt`). Raises RuntimeApiError for any other form.
    """

    def __init__(self, address: str) -> None:
        authority, slash, path = address.removeprefix("http://").partition("/")
        self._prefix = (slash + path).rstrip("/")
        self._common = f"Host: {authority}\r\nUser-Agent: {USER_AGENT}\r\n"
        self.connection = Connection(*host_and_port(authority, address))

    def next_invocation(self) -> Invocation:
        """Wait, for as long as it takes, for the next invocation. Raises RuntimeApiError where none can come."""
        request = f"GET {self._prefix}{NEXT_PATH} HTTP/1.1\r\n{self._common}\r\n".encode("utf-8", "surrogateescape")
        pauses = iter(NEXT_RETRY_PAUSES)
        while True:
            try:
                invocation = self._ask_for_invocation(request)
            except NotDelivered as reason:
                pause = next(pauses, None)
                if pause is None:
                    raise RuntimeApiError(f"the Runtime API gave no next invocation: {reason}") from None
                time.sleep(pause)
                continue
            if invocation is not None:
                return invocation

    def _ask_for_invocation(self, request: bytes) -> Invocation | None:
        connection = self.connection
        connection.renew()
        connection.send(request)
        answer = connection.read_answer()
        if answer.status == 204:
            return None
        request_id = answer.headers.get(REQUEST_ID, "")
        if not answer.accepted or not is_path_segment(request_id):
            what = f"status {answer.status}, {REQUEST_ID} {request_id!r}"
            raise RuntimeApiError(f"the Runtime API answered {NEXT_PATH} with no invocation: {what}")
        return Invocation(answer.headers, answer.body)

    def response_head(self, invocation: Invocation, content_type: str) -> bytes:
        """The head of a streamed response, trailers declared: an undeclared one is dropped on the way."""
        return (
            f"POST {self._prefix}{RESPONSE_PATH % invocation.request_id} HTTP/1.1\r\n{self._common}"
            f"{self._echo(invocation)}{RESPONSE_MODE}: {STREAMING}\r\nContent-Type: {content_type}\r\n"
            f"Transfer-Encoding: chunked\r\nTrailer: {ERROR_TYPE}, {ERROR_BODY}\r\n\r\n"
        ).encode("utf-8", "surrogateescape")

    def post_error(self, invocation: Invocation, failure: Failure) -> None:
        """Report a failed invocation whose response was not begun."""
        path = ERROR_PATH % invocation.request_id
        extra = f"{self._echo(invocation)}{XRAY_CAUSE}: {failure.xray_cause().decode('ascii')}\r\n"
        self._post_failure(path, failure, extra, failure.body(invocation.request_id))

    def post_init_error(self, failure: Failure) -> None:
        """Report that the environment could not start; only once, and instead of the first `next`."""
        self._post_failure(INIT_ERROR_PATH, failure, "", failure.body(request_id=""))

    def _post_failure(self, path: str, failure: Failure, extra: str, body: bytes) -> None:
        head = (
            f"POST {self._prefix}{path} HTTP/1.1\r\n{self._common}{extra}{ERROR_TYPE}: {failure.header}\r\n"
            f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode("utf-8", "surrogateescape")
        try:
            self.connection.renew()
            self.connection.send(head + body)
            self.read_acceptance(path)
        except NotDelivered as reason:
            log_line(f"the error was not delivered to {path}: {reason}")

    def read_acceptance(self, what: str) -> None:
        """Take the answer to a POST. A refusal is logged and the loop goes on; a container error ends the process.

        https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html lists 202, 400, 403, 413 and 500.
        """
        answer = self.connection.read_answer()
        if answer.status >= 500:
            raise RuntimeApiError(f"the Runtime API answered {what} with {answer}")
        if not answer.accepted:
            log_line(f"the Runtime API refused {what} with {answer}")

    @staticmethod
    def _echo(invocation: Invocation) -> str:
        """The id of this attempt, where the service sent one: an answer to an attempt that is over is then refused."""
        invocation_id = invocation.headers.get(INVOCATION_ID)
        return f"{ECHOED_INVOCATION_ID}: {invocation_id}\r\n" if invocation_id else ""


def is_path_segment(text: str) -> bool:
    return text.isascii() and text.isprintable() and text != "" and not any(c in " /?#%" for c in text)


def host_and_port(authority: str, address: str) -> tuple[str, int]:
    host, colon, port = authority.rpartition(":")
    if colon and port.isdecimal() and host:
        return host.removeprefix("[").removesuffix("]"), int(port)
    raise RuntimeApiError(f"AWS_LAMBDA_RUNTIME_API is {address!r}, and not host:port")


class Connection:
    """One keep-alive HTTP/1.1 connection, on which one request follows the answer to the one before.

    No method waits with a time limit: the service freezes the process while it waits.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None
        self._received = b""  # beyond what was read of the answer so far
        self._last = False  # the answer under way is the last on this connection
        self._early_answer: Answer | None = None  # came before the request was sent to its end

    # Before a request

    def renew(self) -> None:
        """Make the connection fit for a request: one that the other side closed while idle is opened again.

        Only here: within an exchange, a second connection could deliver an answer twice. Raises NotDelivered.
        """
        if self._socket is not None and (self._last or self._received or self._is_stale(self._socket)):
            self.close()
        if self._socket is None:
            self._open()

    @staticmethod
    def _is_stale(sock: socket.socket) -> bool:
        try:
            sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True  # closed, or bytes that nobody asked for

    def _open(self) -> None:
        try:
            sock = socket.create_connection(self._address)
        except OSError as error:
            raise NotDelivered(f"no connection to {self._address[0]} port {self._address[1]}: {error}") from None
        sock.settimeout(None)  # the function may have set another default
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._received, self._last, self._early_answer = None, b"", False, None

    # Sending

    def send(self, data: bytes) -> None:
        """Send all of it, with one system call where there is room.

        Raises NotDelivered where the other side has gone or answers that it wants no more; it is then closed.
        """
        try:
            sent = self._connected().send(data, SEND_NOW)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._give_up(error)
        if sent != len(data):
            self._send_rest(memoryview(data)[sent:])

    def send_gathered(self, *parts: bytes | memoryview) -> None:
        """Send the parts as if they were one, without joining them: for those that are too large to copy. As `send`."""
        try:
            sent = self._connected().sendmsg(parts, [], SEND_NOW)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._give_up(error)
        for part in parts:
            if sent < len(part):
                self._send_rest(memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    def _send_rest(self, rest: memoryview) -> None:
        """Wait for room to send, with an eye on what comes in: some servers answer before they have read it all."""
        import select

        sock = self._connected()
        poller = select.poll()
        poller.register(sock, select.POLLOUT | (0 if self._early_answer else select.POLLIN))
        while rest:
            for _, events in poller.poll():
                if events & select.POLLIN:
                    self._take_early_answer()
                    poller.modify(sock, select.POLLOUT)
            try:
                rest = rest[sock.send(rest, SEND_NOW) :]
            except BlockingIOError:
                continue
            except OSError as error:
                self._give_up(error)

    def _take_early_answer(self) -> None:
        """A refusal ends the request; an acceptance is kept, as the rest of the request is still expected."""
        self._early_answer = self.read_answer()
        if not self._early_answer.accepted:
            self._give_up(None)

    def _give_up(self, error: OSError | None) -> NoReturn:
        """Leave a request unfinished. The other side's answer, where one came, tells more than the error."""
        try:
            answer = self.read_answer()
        except NotDelivered:
            raise NotDelivered(f"the other side has gone ({error})") from None
        finally:
            self.close()
        if answer.status >= 500:
            raise RuntimeApiError(f"the Runtime API answered with {answer}")
        raise NotDelivered(f"the other side ended it with {answer}")

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise NotDelivered("the connection is closed")
        return self._socket

    # Receiving

    def read_answer(self) -> Answer:
        """The final answer to the request; interim ones (1xx) are passed over (RFC 9110, 15.2).

        Raises NotDelivered where none comes, or none that is HTTP/1.1; the connection is then closed.
        """
        if self._early_answer is not None:
            answer, self._early_answer = self._early_answer, None
            return answer
        for _ in range(MOST_INTERIM_ANSWERS):
            head = self._read_through(b"\r\n\r\n", LARGEST_HEAD)
            version, status, headers = self._parse_head(head)
            if status >= 200:
                break
        else:
            self._fail("too many interim answers")
        persistent = "keep-alive" if version == "HTTP/1.0" else "close"
        self._last = (persistent in headers.get(CONNECTION, "").lower()) == (persistent == "close")
        try:
            return Answer(status, headers, self._read_body(status, headers))
        except NotDelivered:
            return Answer(status, headers, None)

    def _parse_head(self, head: bytes) -> tuple[str, int, dict[str, str]]:
        text = head.decode("utf-8", "surrogateescape").removesuffix("\r\n\r\n")
        status_line, *lines = text.split("\r\n")
        version, _, rest = status_line.partition(" ")
        code = rest[:3]
        # A bare CR or LF, or a NUL, in a value could forge a line of a request that repeats the value (RFC 9112, 11.1).
        forged = text.count("\n") != len(lines) or text.count("\r") != len(lines) or "\0" in text
        if (
            forged
            or version not in ("HTTP/1.1", "HTTP/1.0")
            or len(code) != 3
            or not (code.isascii() and code.isdigit())
        ):
            self._fail(f"an answer that is not HTTP/1.1: {status_line[:80]!r}")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip(" \t")
        return version, int(code), headers

    def _read_body(self, status: int, headers: dict[str, str]) -> bytes:
        """The body, by the rules of RFC 9112, 6.3. Raises NotDelivered where it is cut or its framing is wrong."""
        if status in (204, 304):
            return b""
        if TRANSFER_ENCODING in headers:
            if headers[TRANSFER_ENCODING].lower() != "chunked":
                self._fail(f"an answer with transfer encoding {headers[TRANSFER_ENCODING]!r}")
            return self._read_chunks()
        length = headers.get(CONTENT_LENGTH)
        if length is None:
            return self._read_to_the_end()
        if not (length.isascii() and length.isdigit()):
            self._fail(f"an answer of length {length!r}")
        return self._read_exactly(int(length))

    def _read_chunks(self) -> bytes:
        body = bytearray()
        while True:
            size = self._read_through(b"\r\n", LARGEST_HEAD).partition(b";")[0].strip()
            if not size or size.strip(b"0123456789abcdefABCDEF"):
                self._fail(f"a chunk of size {size[:20]!r}")
            if int(size, 16) == 0:
                break
            body += self._read_exactly(int(size, 16))
            if self._read_exactly(2) != b"\r\n":
                self._fail("a chunk longer than its size")
        while self._read_through(b"\r\n", LARGEST_HEAD) != b"\r\n":
            pass  # a trailer
        return bytes(body)

    def _read_to_the_end(self) -> bytes:
        self._last = True
        body, self._received = bytearray(self._received), b""
        while data := self._receive():
            body += data
        return bytes(body)

    def _read_exactly(self, length: int) -> bytes:
        if len(self._received) >= length:
            data, self._received = self._received[:length], self._received[length:]
            return data
        body, self._received = bytearray(self._received), b""
        while len(body) < length:
            body += self._receive_some(min(length - len(body), LARGEST_RECEIVE))
        return bytes(body)

    def _read_through(self, end: bytes, limit: int) -> bytes:
        searched = 0
        while (found := self._received.find(end, searched)) < 0:
            if len(self._received) > limit:
                self._fail("an answer with a head or line beyond any limit")
            searched = max(0, len(self._received) - len(end) + 1)
            self._received += self._receive_some(LARGEST_RECEIVE)
        stop = found + len(end)
        data, self._received = self._received[:stop], self._received[stop:]
        return data

    def _receive_some(self, most: int) -> bytes:
        data = self._receive(most)
        if not data:
            self._fail("the other side closed the connection")
        return data

    def _receive(self, most: int = LARGEST_RECEIVE) -> bytes:
        try:
            return self._connected().recv(most)
        except OSError as error:
            self._fail(str(error))

    def _fail(self, reason: str) -> NoReturn:
        self.close()
        raise NotDelivered(reason)


class Answer:
    """An answer of the Runtime API; `body` is None where the connection ended before the whole of it had come."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str], body: bytes | None) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300

    def __str__(self) -> str:
        return f"status {self.status} {(self.body or b'')[:500].decode('utf-8', 'replace')}".rstrip()
