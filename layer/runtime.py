"""The runtime of a Lambda function whose handler is a generator: what it yields is streamed to the caller at once.

One execution environment runs one process of this file. Its life, as the code below tells it from the top down:

    load the handler, then again and again: next invocation -> handler -> stream its chunks, or report its error

What the handler may give, and what becomes of it:

    a generator, an async generator, or any other iterator    each item leaves at once, as one HTTP chunk
    anything else                                             Runtime.InvalidHandler
    an item that is bytes, bytearray or memoryview            sent; an empty one is skipped
    a first item that is a dict                               status, headers and cookies of an HTTP response
    any other item                                            Runtime.InvalidChunk

Sources of the rules: "Using the Lambda runtime API" and "Building a custom runtime" in the AWS Lambda Developer Guide
(docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, runtimes-custom.html), HTTP/1.1 from RFC 9112.
"""

from __future__ import annotations

import builtins
import os
import sys
import time

TYPE_CHECKING = False  # what typing.TYPE_CHECKING is, without the import
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
    from types import FrameType
    from typing import Any, NoReturn

    Handler = Callable[[Any, "LambdaContext"], Any]
    Frame = tuple[str, int, str, str]  # path, line number, name of the function, line

# The C parts of three standard modules have all that the way to the first answer needs. Their Python parts import `re`,
# `enum` and `selectors` besides, which would take longer than the rest of a cold start.
try:
    import _signal as signal  # type: ignore[import-not-found]
    import _socket as socket
    from _json import make_scanner
except ImportError:  # a Python that is built in another way
    import signal
    import socket  # type: ignore[no-redef]

    make_scanner = None  # type: ignore[assignment, misc]

VERSION = "0.1.0"

# --- Names on the wire ------------------------------------------------------------------------------------------------

API_VERSION = "/2018-06-01"
NEXT_PATH = API_VERSION + "/runtime/invocation/next"
RESPONSE_PATH = API_VERSION + "/runtime/invocation/%s/response"
ERROR_PATH = API_VERSION + "/runtime/invocation/%s/error"
INIT_ERROR_PATH = API_VERSION + "/runtime/init/error"
REGISTER_PATH = "/2020-01-01/extension/register"
EXTENSION_EVENT_PATH = "/2020-01-01/extension/event/next"
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
EXTENSION_NAME = "Lambda-Extension-Name"
EXTENSION = "python-streaming-runtime"
EXTENSION_ID = "Lambda-Extension-Identifier"  # in the answer to a registration, and of what the extension asks
OCTET_STREAM = "application/octet-stream"
HTTP_INTEGRATION = "application/vnd.awslambda.http-integration-response"
PRELUDE_END = b"\0" * 8  # JSON holds no NUL, so this cannot be part of it
JSON = "application/json"

# HTTP's own, of the answers that we read.
CONTENT_TYPE = "content-type"
CONTENT_LENGTH = "content-length"
TRANSFER_ENCODING = "transfer-encoding"
CONNECTION = "connection"

# --- Variables of the function's configuration that are ours ---------------------------------------------------------

GRACEFUL_SHUTDOWN = "STREAMING_RUNTIME_GRACEFUL_SHUTDOWN"  # 1 or true: SIGTERM before the environment ends

# --- Files of the layer -----------------------------------------------------------------------------------------------

VARIANT_FILE = "cpython/VARIANT"  # only where the layer brings its own Python

# --- Limits -----------------------------------------------------------------------------------------------------------

LARGEST_COPIED_CHUNK = 16 * 1024  # bytes; up to here a copy is cheaper than a gathering send
LARGEST_HEAD = 1024 * 1024  # bytes of a status line with its headers; the service stays below (gettingstarted-limits)
LARGEST_PRELUDE = 16 * 1024  # bytes, PRELUDE_END included (API Gateway Developer Guide, response-transfer-mode-lambda)
LONGEST_TYPE_NAME = 128  # characters of an error type
MOST_RELATED_ERRORS = 8  # causes, contexts and members of groups that are told with an error
LARGEST_HEAD_RECEIVE = 16 * 1024  # bytes; above 128 KiB each buffer is a mapping of its own, made and undone
LARGEST_BODY_RECEIVE = 256 * 1024  # bytes
LONGEST_LENGTH = 15  # digits of a Content-Length
MOST_INTERIM_ANSWERS = 100  # 1xx before a final answer
LARGEST_ERROR_BODY = 256 * 1024  # bytes
LARGEST_LOG_EVENT = 128 * 1024  # characters of an error in the log
LARGEST_XRAY_CAUSE = 64 * 1024  # bytes; the service drops what is longer
LARGEST_MESSAGE = 64 * 1024  # characters of an error message that are passed on
LARGEST_TRAILERS = 3500  # bytes; Go servers, the service's own among them, read trailers into a buffer of 4096
SEND_NOW = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)  # no wait, no SIGPIPE whatever the function set
TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None  # tcp(7)
ESTABLISHED = b"\x01"  # TCP_ESTABLISHED of the kernel's tcp_states.h
PATIENCE_WITH_TASKS = 1.0  # seconds, for a task that is cancelled
NEXT_RETRY_PAUSES = (0.0, 0.1, 0.2, 0.4, 0.8)  # seconds, before `next` is tried again on a new connection

# --- The loop ---------------------------------------------------------------------------------------------------------


def main() -> NoReturn:
    """Load the handler and answer invocations until the environment ends. Exits 1 where it cannot go on."""
    sys.argv = [__file__]
    if __name__ != "__main__":
        sys.modules.pop(__name__, None)  # the function may have a module of this name
    log = Log(os.environ)
    try:
        api = RuntimeApi(os.environ.get("AWS_LAMBDA_RUNTIME_API", ""), log)
        exit_on_sigterm(api)
        os.register_at_fork(after_in_child=api.connection.disown)
        run(api, initialize(api, log), log)
    except RuntimeApiError as error:
        log.line(f"{error}; the environment ends")
        leave(1)
    except BaseException as error:
        failure = describe(error, "the function")
        if failure.exit_status is None:  # raised while nothing was to be answered, by a signal's handler for example
            log.failure(failure)
        leave(1 if failure.exit_status is None else failure.exit_status)


def leave(status: int) -> NoReturn:
    """End the process with what is registered to be done at its end, but without a wait for the function's threads.

    Python would wait for them without a limit, and the service would hand the next invocation to nobody.
    """
    try:
        import_standard("atexit")._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(status)


def initialize(api: RuntimeApi, log: Log) -> Function:
    """Import the function, or post the one `/init/error` that an environment may post, and exit."""
    try:
        set_up_site()
        set_import_path()
        log.follow_logging()
        function = Function(load_handler(os.environ.get("_HANDLER", "")), log)
    except BaseException as error:
        failure = describe(error, "the function's module")
        log.failure(failure)
        api.post_init_error(failure)
        leave(failure.exit_status or 1)
    if os.environ.get(GRACEFUL_SHUTDOWN, "").lower() in ("1", "true"):
        api.register_extension()
    return function


def run(api: RuntimeApi, function: Function, log: Log) -> NoReturn:
    try:
        while True:
            invocation = api.next_invocation()
            log.invocation = invocation
            serve(api, function, invocation, log)
    finally:
        function.close()
        api.connection.close()


def serve(api: RuntimeApi, function: Function, invocation: Invocation, log: Log) -> None:
    """Answer one invocation: a stream; before its first byte `/error`; after it the error in the trailers.

    Raises SystemExit, after the report, where the handler did; RuntimeApiError where the Runtime API can't go on.
    """
    response = ResponseStream(api, invocation, log)
    try:
        set_trace_id(invocation.trace_id)
        function.stream(invocation, response)
        response.finish()
    except RuntimeApiError:
        raise
    except NotDelivered as reason:
        log.line(f"the response was not delivered: {reason}")
    except BaseException as error:
        if api.connection.disowned:
            raise  # in a process that the handler forked; the answer is its parent's
        failure = describe(error, "the handler")
        log.failure(failure)
        response.fail(failure)
        if failure.exit_status is not None:
            sys.exit(failure.exit_status)


def exit_on_sigterm(api: RuntimeApi) -> None:
    """End in order when the service asks for it: `finally` of a generator under way, then atexit.

    It asks only where an extension is registered (AWS Lambda Developer Guide, lambda-runtime-environment).
    """

    sending = {method.__code__ for method in (ResponseStream.write_first, ResponseStream.write, ResponseStream._end)}
    waiting = {method.__code__ for method in (Connection._send_rest, Connection._receive)}

    def terminate(signum: int, frame: FrameType | None) -> None:
        interrupted = set()
        while frame is not None:
            interrupted.add(frame.f_code)
            frame = frame.f_back
        error = Terminated(128 + signum)
        if interrupted.isdisjoint(sending) or not interrupted.isdisjoint(waiting):
            raise error
        api.connection.pending_exit = error  # in a moment, when what is being sent is out

    signal.signal(signal.SIGTERM, terminate)


# --- The response -----------------------------------------------------------------------------------------------------


# Where a response stands. It only moves down this list.
FRESH = "nothing sent"
OPEN = "head sent"
DONE = "ended"


class ResponseStream:
    """One invocation's response, FRESH -> OPEN -> DONE; in chunks (RFC 9112, 7.1), the head in one send with the first.

    The phase alone decides where an error goes: `/error` is allowed only until a response is begun.
    """

    __slots__ = ("_api", "_connection", "_invocation", "_log", "_send", "phase")

    def __init__(self, api: RuntimeApi, invocation: Invocation, log: Log) -> None:
        self._api = api
        self._invocation = invocation
        self._log = log
        self._connection = api.connection
        self._send = api.connection.send
        self.phase = FRESH

    def write_first(self, item: object) -> None:
        """Send the first item: the prelude of an HTTP response where it is a dict, a chunk otherwise.

        A prelude leaves at once, its JSON in one chunk and its end in another, with no byte of the body in them: there
        are readers that take the first two chunks for the prelude. Raises InvalidResponseHead, and what `write` raises.
        """
        if isinstance(item, dict):
            prelude = encode_prelude(item)
            self._send(self._begin(HTTP_INTEGRATION) + framed(prelude) + framed(PRELUDE_END))
            self._exit_if_asked_to()
        else:
            self.write(item)

    def write(self, item: object) -> None:
        """Send one yielded chunk (bytes, bytearray or memoryview) at once.

        An empty one is skipped: on the wire it would end the body. Raises InvalidChunk for any other type,
        NotDelivered where the other side has gone or said no.
        """
        data = item if type(item) is bytes else bytes_of(item)
        size = len(data)
        if 0 < size <= LARGEST_COPIED_CHUNK:
            chunk = b"%x\r\n%b\r\n" % (size, data)  # type: ignore[str-format]  # %b takes a memoryview too
            self._send(chunk if self.phase is OPEN else self._begin(OCTET_STREAM) + chunk)
        elif size:
            head = b"" if self.phase is OPEN else self._begin(OCTET_STREAM)
            self._connection.send_gathered(b"%b%x\r\n" % (head, size), data, b"\r\n")
        if self._connection.pending_exit is not None:
            self._exit_if_asked_to()

    def _exit_if_asked_to(self) -> None:
        error = self._connection.pending_exit
        if error is not None:
            self._connection.pending_exit = None
            raise error

    def finish(self) -> None:
        """End the response well; one without a chunk is begun first, so that the caller gets an empty answer."""
        self._end(b"0\r\n\r\n")

    def fail(self, failure: Failure) -> None:
        """Tell the caller of a failure by the way that is still open."""
        if self.phase is FRESH:
            self.phase = DONE
            self._api.post_error(self._invocation, failure)
        elif self.phase is OPEN:
            try:
                self._end(b"0\r\n" + failure.trailers(self._invocation.request_id) + b"\r\n")
            except NotDelivered as reason:
                self._log.line(f"the error was not delivered: {reason}")

    def _begin(self, content_type: str) -> bytes:
        if self.phase is not FRESH:
            raise RuntimeError("a response begins once")
        self.phase = OPEN
        self._connection.renew()
        return self._api.response_head(self._invocation, content_type)

    def _end(self, last: bytes) -> None:
        if self.phase is DONE:
            raise RuntimeError("a response ends once")
        if self.phase is FRESH:
            last = self._begin(OCTET_STREAM) + last
        self.phase = DONE
        self._send(last)
        self._exit_if_asked_to()
        self._api.read_acceptance("the response")


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def bytes_of(chunk: object) -> memoryview:
    """The bytes of a chunk that is not plain `bytes`, without a copy unless they are scattered."""
    if not isinstance(chunk, (bytes, bytearray, memoryview)):
        raise InvalidChunk(chunk)
    view = memoryview(chunk)
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def encode_prelude(head: dict[Any, Any]) -> bytes:
    """The JSON of status, headers and cookies; always all three keys, as some readers insist on them.

    Raises InvalidResponseHead, before anything of it is sent.
    """
    unknown = [key for key in head if key not in ("statusCode", "headers", "cookies")]
    if unknown:
        raise InvalidResponseHead(f"has the key {text_of(unknown[0], repr)}; it takes statusCode, headers and cookies")
    status, headers, cookies = head.get("statusCode", 200), head.get("headers", {}), head.get("cookies", [])
    if not isinstance(status, int) or isinstance(status, bool) or not 100 <= status <= 599:
        raise InvalidResponseHead("needs a statusCode that is an int from 100 to 599")
    if not isinstance(headers, dict) or not all(
        is_field(name) and name and is_field(headers[name]) for name in headers
    ):
        raise InvalidResponseHead("needs headers that are a dict of strings without CR, LF and NUL")
    if not isinstance(cookies, (list, tuple)) or not all(is_field(cookie) for cookie in cookies):
        raise InvalidResponseHead("needs cookies that are a list of strings without CR, LF and NUL")
    text = to_json({"statusCode": int(status), "headers": headers, "cookies": cookies}).encode("ascii")
    if len(text) + len(PRELUDE_END) > LARGEST_PRELUDE:
        raise InvalidResponseHead(f"is {len(text)} bytes of JSON; with its end it may have {LARGEST_PRELUDE}")
    return text


def is_field(value: object) -> bool:
    return isinstance(value, str) and not any(c in value for c in "\r\n\0")


# --- The handler ------------------------------------------------------------------------------------------------------


class Function:
    """A handler, and what it needs to be streamed: an event loop, once it has yielded its first async generator."""

    def __init__(self, handler: Handler, log: Log) -> None:
        self._handler = handler
        self._log = log
        self._description = function_description()
        self._runner: Any = None  # asyncio.Runner

    def stream(self, invocation: Invocation, response: ResponseStream) -> None:
        """Call the handler and send what it yields, each chunk before the handler resumes."""
        result = self._handler(invocation.event(), LambdaContext(invocation, self._description, self._log))
        # What was returned counts, not how the handler was defined: a decorated one is often a plain function.
        kind = type(result)
        if hasattr(kind, "__next__") and hasattr(kind, "__iter__"):
            self._stream_iterator(result, response)
        elif hasattr(kind, "__anext__") and hasattr(kind, "__aiter__"):
            self._stream_async_iterator(result, response)
        else:
            if hasattr(kind, "__await__") and hasattr(kind, "close"):
                result.close()  # or Python warns of a coroutine that was never awaited
            raise InvalidHandler(result)

    def close(self) -> None:
        """End what handlers have left running in the event loop."""
        if self._runner is not None:
            try:
                self._runner.close()
            except Exception as error:
                self._log_clean_up(error)

    def _stream_iterator(self, items: Iterator[object], response: ResponseStream) -> None:
        try:
            write, write_next = response.write_first, response.write
            for item in items:
                write(item)
                write = write_next
        finally:
            if hasattr(items, "close"):
                try:
                    items.close()
                except Exception as error:
                    self._log_clean_up(error)

    def _stream_async_iterator(self, items: AsyncIterator[object], response: ResponseStream) -> None:
        async def send_all() -> None:
            try:
                write, write_next = response.write_first, response.write
                async for item in items:
                    write(item)
                    write = write_next
            finally:
                if hasattr(items, "aclose"):
                    try:
                        await items.aclose()
                    except Exception as error:
                        self._log_clean_up(error)

        loop = self._event_loop()
        task = loop.create_task(send_all())
        try:
            loop.run_until_complete(task)
        finally:
            if task.done():
                task.cancelled() or task.exception()  # asked for, or asyncio warns that nobody did
            else:  # an exit interrupted the loop itself
                task.cancel()
                loop.run_until_complete(import_standard("asyncio").wait([task], timeout=PATIENCE_WITH_TASKS))
                if not task.done():
                    self._runner = None  # it would go on in the midst of the next invocation

    def _event_loop(self) -> Any:
        """One loop for the life of the process: a client that is bound to it serves many invocations."""
        if self._runner is None or self._runner.get_loop().is_closed():
            self._runner = import_standard("asyncio").Runner()
        return self._runner.get_loop()

    def _log_clean_up(self, error: Exception) -> None:
        """An error in the `finally` of a generator that is left early must not hide why it was left."""
        self._log.failure(describe(error, "the handler's clean-up"))


def set_up_site() -> None:
    """Do what `site` does and a function may need, in a small part of its time; bootstrap starts Python without it.

    The whole of it is done in a virtual environment, on a Python of Debian, which keeps packages elsewhere, and where a
    `sitecustomize` on PYTHONPATH waits for it, as those of tracing agents do.
    """
    if not sys.flags.no_site:
        return
    library = os.path.dirname(os.__file__)
    telltales = [
        os.path.join(os.path.dirname(os.path.dirname(sys.executable)), "pyvenv.cfg"),
        os.path.join(os.path.dirname(library), "python3", "dist-packages"),
    ]
    search_path = os.environ.get("PYTHONPATH", "")
    telltales += [os.path.join(path, "sitecustomize.py") for path in search_path.split(os.pathsep) if path]
    if any(map(os.path.exists, telltales)):
        sys.path[:] = [path for path in sys.path if path]  # or the working folder would be named there for good
        import_standard("site").main()
    else:
        sys.path.append(os.path.join(library, "site-packages"))
        builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]


def set_import_path() -> None:
    """Order `sys.path` as the managed runtime does: the function, dependency layers, then the interpreter's own.

    A folder that is there twice, as by a PYTHONPATH, stays in its first place.
    """
    task_root = os.environ.get("LAMBDA_TASK_ROOT") or os.getcwd()
    site_packages = f"/opt/python/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    ours = os.path.dirname(os.path.abspath(__file__))
    interpreters = [path for path in sys.path if path and os.path.abspath(path) != ours]
    sys.path[:] = dict.fromkeys([task_root, site_packages, "/opt/python", *interpreters])


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
        __import__(module_name)
        module = sys.modules[module_name]
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
        headers: of the answer.
        body: the event as it was received; None where the connection ended before the whole of it had come.
    """

    __slots__ = ("body", "headers", "request_id")

    def __init__(self, request_id: str, headers: Head, body: bytes | None) -> None:
        self.request_id = request_id
        self.headers = headers
        self.body = body

    @property
    def trace_id(self) -> str | None:
        trace_id: str | None = self.headers.get(TRACE_ID)
        return trace_id

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
        content_type = self.headers.get(CONTENT_TYPE, JSON)
        if content_type != JSON and content_type.partition(";")[0].strip().lower() != JSON:
            return self.body
        try:
            return from_json(self.body)
        except (ValueError, RecursionError) as error:
            raise Fault("UnmarshalError", f"Unable to unmarshal input: {error}") from error

    def json_header(self, name: str, what: str) -> dict[str, Any] | None:
        text = self.headers.get(name)
        if not text:
            return None
        try:
            value = from_json(text.encode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError) as error:
            raise Fault("LambdaContextUnmarshalError", f"Unable to parse {what} JSON: {error}") from error
        if isinstance(value, dict) or value is None:
            return value
        raise Fault("LambdaContextUnmarshalError", f"Unable to parse {what} JSON: it is no object")


class LambdaContext:
    """What the handler is told of its invocation: names and types of the managed runtime's context object.

    https://docs.aws.amazon.com/lambda/latest/dg/python-context.html
    """

    log_group_name: str | None
    log_stream_name: str | None
    function_name: str | None
    memory_limit_in_mb: str | None  # a str, as on the managed runtime
    function_version: str | None

    def __init__(self, invocation: Invocation, description: dict[str, str | None], log: Log) -> None:
        self.aws_request_id = invocation.request_id
        vars(self).update(description)
        self.invoked_function_arn = invocation.headers.get(FUNCTION_ARN)
        self.tenant_id = invocation.headers.get(TENANT_ID)
        client_context = invocation.json_header(CLIENT_CONTEXT, "Client Context")
        self._w3c_fields = {} if client_context is None else take_w3c_fields(client_context)
        self.client_context = None if client_context is None else ClientContext(client_context)
        self.identity = CognitoIdentity(invocation.json_header(COGNITO_IDENTITY, "Cognito Identity") or {})
        self._epoch_deadline_time_in_ms = invocation.deadline_ms
        self._log = log

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation times out, never below 0."""
        return max(0, self._epoch_deadline_time_in_ms - int(time.time() * 1000))

    def w3c(self) -> dict[str, str]:
        """The W3C trace context at invoke time: `traceparent`, `tracestate` and `baggage`, those that came."""
        return dict(self._w3c_fields)

    def log(self, msg: object) -> None:
        """Write to the log as it is; no line end is added."""
        self._log.text(str(msg))

    def __repr__(self) -> str:
        return shown(
            self,
            "aws_request_id log_group_name log_stream_name function_name memory_limit_in_mb function_version "
            "invoked_function_arn client_context identity tenant_id",
        )


def function_description() -> dict[str, str | None]:
    """The attributes of a context that are the same for all invocations of an environment."""
    return {
        "log_group_name": os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME"),
        "log_stream_name": os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME"),
        "function_name": os.environ.get("AWS_LAMBDA_FUNCTION_NAME"),
        "memory_limit_in_mb": os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
        "function_version": os.environ.get("AWS_LAMBDA_FUNCTION_VERSION"),
    }


class ClientContext:
    """What a mobile client says of itself: `client`, `custom`, `env`."""

    __slots__ = ("client", "custom", "env")

    def __init__(self, fields: dict[str, Any]) -> None:
        client = fields.get("client")
        self.custom = fields.get("custom")
        self.env = fields.get("env")
        self.client = Client(client) if isinstance(client, dict) else None

    def __repr__(self) -> str:
        return shown(self, "custom env client")


class Client:
    """The mobile application that a client context names."""

    __slots__ = ("app_package_name", "app_title", "app_version_code", "app_version_name", "installation_id")

    def __init__(self, fields: dict[str, Any]) -> None:
        for name in self.__slots__:
            setattr(self, name, fields.get(name))

    def __repr__(self) -> str:
        return shown(self, "installation_id app_title app_version_name app_version_code app_package_name")


class CognitoIdentity:
    """Who called, where Amazon Cognito authenticated the caller; both fields are None otherwise."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self, fields: dict[str, Any]) -> None:
        self.cognito_identity_id = fields.get("cognitoIdentityId")
        self.cognito_identity_pool_id = fields.get("cognitoIdentityPoolId")

    def __repr__(self) -> str:
        return shown(self, "cognito_identity_id cognito_identity_pool_id")


def shown(owner: object, names: str) -> str:
    """An object as the managed runtime shows its own of that kind."""
    return f"{type(owner).__name__}([{','.join(f'{name}={getattr(owner, name)}' for name in names.split())}])"


def take_w3c_fields(client_context: dict[str, Any]) -> dict[str, str]:
    """Take the trace context out of the client context, where the service puts it."""
    fields = client_context.pop("w3c", None)
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


# --- JSON -------------------------------------------------------------------------------------------------------------


class ScannerContext:
    """What `json.JSONDecoder()` tells the scanner, which does the work there too."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.__getitem__


scan: Any = make_scanner(ScannerContext()) if make_scanner is not None else None  # type: ignore[arg-type]


def from_json(data: bytes) -> Any:
    """As `json.loads`, but without the import of `json` as long as the text is in order. Raises ValueError."""
    text = data.decode().strip(" \t\n\r")
    if scan is not None:
        try:
            value, end = scan(text, 0)
            if end == len(text):
                return value
        except (StopIteration, ValueError, SystemError):
            pass  # `json` will say what is wrong; without it the C part can't, which up to 3.11 is a SystemError
    return import_standard("json").JSONDecoder().decode(text)


def to_json(value: object, **options: Any) -> str:
    """As `json.dumps`, whatever the function has made of that."""
    return str(import_standard("json").JSONEncoder(**options).encode(value))


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


class InvalidResponseHead(Fault):
    def __init__(self, message: str) -> None:
        super().__init__("InvalidResponseHead", f"the dict that the handler yielded first {message}")


def a_value_of(value: object) -> str:
    return "None" if value is None else f"a value of type {type_name(value)}"


class Terminated(SystemExit):
    """The environment is asked to end, by a signal; `code` is 128 and its number, as shells have it."""


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
        related: the errors that this one came of, and the members of a group; the log and X-Ray are told of them.
    """

    def __init__(
        self,
        error_type: str,
        message: str,
        frames: list[Frame] | None = None,
        stack_trace: list[str] | None = None,
        exit_status: int | None = None,
        related: list[Failure] | None = None,
    ) -> None:
        self.error_type = error_type[:LONGEST_TYPE_NAME]
        self.message = message if len(message) <= LARGEST_MESSAGE else message[:LARGEST_MESSAGE] + " [cut]"
        self.frames = frames or []
        self.stack_trace = stack_trace if stack_trace is not None else format_frames(self.frames)
        self.exit_status = exit_status
        self.related = related or []

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
        room = LARGEST_TRAILERS * 3 // 4 - len(self.header)
        body = import_standard("binascii").b2a_base64(self.body(request_id, room), newline=False)
        return b"%b: %b\r\n%b: %b\r\n" % (ERROR_TYPE.encode(), self.header.encode(), ERROR_BODY.encode(), body)

    def xray_cause(self) -> bytes:
        """The cause for X-Ray, one line of ASCII JSON."""

        def document(frames: list[Frame], message: str) -> dict[str, object]:
            exceptions = [xray_exception(self.error_type, message, frames)]
            exceptions += [
                xray_exception(other.error_type, other.message[:1000], other.frames[-10:]) for other in others
            ]
            paths = sorted({path for path, *_ in frames})
            return {"working_directory": working_directory(), "exceptions": exceptions, "paths": paths}

        others = self.related
        cause = json_within(LARGEST_XRAY_CAUSE, document, self.frames, self.message)
        if len(cause) > LARGEST_XRAY_CAUSE:
            others = []
            cause = json_within(LARGEST_XRAY_CAUSE, document, self.frames, self.message)
        return cause


def xray_exception(error_type: str, message: str, frames: list[Frame]) -> dict[str, object]:
    stack = [{"label": name, "path": path, "line": line} for path, line, name, _ in frames]
    return {"message": message, "type": error_type, "stack": stack}


def json_within(limit: int, document: Callable[[list[Any], str], object], stack: list[Any], message: str) -> bytes:
    """The JSON of a document, with as much of the inner stack and of the message as fits the limit (bytes)."""
    while True:
        text = to_json(document(stack, message)).encode("ascii")
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
    try:
        return failure_of(error, culprit)
    except BaseException:
        return Failure(type_name(error), "")


def failure_of(error: BaseException, culprit: str) -> Failure:
    frames = user_frames(error)
    if isinstance(error, Fault):
        return Failure(f"Runtime.{error.reason}", str(error), frames, error.stack_trace)
    if isinstance(error, Terminated):
        message = f"{culprit} was ended by the shutdown of the environment"
        return Failure("Runtime.ExitError", message, frames, exit_status=int(str(error.code)))
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        message = f"{culprit} called sys.exit({text_of(error.code, repr)})"
        return Failure("Runtime.ExitError", message, frames, exit_status=status)
    interrupted = 130 if isinstance(error, KeyboardInterrupt) else None
    related = [Failure(type_name(other), text_of(other, str), user_frames(other)) for other in related_to(error)]
    return Failure(type_name(error), text_of(error, str), frames, exit_status=interrupted, related=related)


def related_to(error: BaseException) -> list[BaseException]:
    """The errors that led to this one, and the members of a group, nearest first."""
    try:
        return chain_of(error)[1 : MOST_RELATED_ERRORS + 1]
    except Exception:  # attributes may be properties of the error's own
        return []


def chain_of(error: BaseException) -> list[BaseException]:
    found = [error]
    for each in found:
        context = None if each.__suppress_context__ else each.__context__
        members = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        for other in (each.__cause__ or context, *members):
            if other is not None and all(other is not known for known in found):
                found.append(other)
        if len(found) > MOST_RELATED_ERRORS:
            break
    return found


def text_of(value: object, convert: Callable[[object], str]) -> str:
    try:
        return str.__str__(convert(value))  # of plain str, whatever subclass the value has made up
    except BaseException:
        return f"<{convert.__name__}() of a {type_name(value)} failed>"


def type_name(value: object) -> str:
    name: str = type.__dict__["__name__"].__get__(type(value))  # past a metaclass that has other ideas
    return name


def user_frames(error: BaseException) -> list[Frame]:
    """The frames of an error from the user's first one inwards; those before lead there from our own."""
    try:
        extracted = import_standard("traceback").extract_tb(error.__traceback__)
        frames = [(frame.filename, frame.lineno or 0, frame.name, frame.line or "") for frame in extracted]
    except BaseException:  # out of memory or of stack; the error itself is worth more than its trace
        return []
    asyncio = os.path.join(os.path.dirname(os.__file__), "asyncio", "")
    machinery = (__file__, asyncio, "<frozen importlib")
    while frames and frames[0][0].startswith(machinery):
        del frames[0]
    while frames and frames[-1][0] == __file__:
        del frames[-1]
    return frames


def format_frames(frames: list[Frame]) -> list[str]:
    try:
        return list(import_standard("traceback").format_list(frames)) if frames else []
    except BaseException:
        return []


def import_standard(name: str) -> Any:
    """A module of the standard library, though the function may hold, and have imported, one of the same name."""
    known = sys.modules.get(name)
    library = os.path.dirname(os.__file__)
    if known is not None and is_standard(known, library):
        return known
    own = [library, os.path.join(library, "lib-dynload")]
    sys.path[:0] = own
    try:
        sys.modules.pop(name, None)
        __import__(name)
        return sys.modules[name]
    finally:
        for path in own:
            sys.path.remove(path)
        if known is not None:
            sys.modules[name] = known


def is_standard(module: Any, library: str) -> bool:
    file = getattr(module, "__file__", None)
    return file is None or (file.startswith(library + os.sep) and "site-packages" not in file)


# --- The log ----------------------------------------------------------------------------------------------------------


class Log:
    """Where events of the runtime and of the function's loggers go, in the form that the function is configured for.

    A text event is one line of the output, the lines within it parted by carriage returns, as on the managed runtime;
    where the service hands over a descriptor for them, events are framed instead and may hold any character.

    Args:
        environ: with AWS_LAMBDA_LOG_FORMAT and AWS_LAMBDA_LOG_LEVEL (AWS Lambda Developer Guide,
            python-logging and monitoring-cloudwatchlogs-advanced).
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self.invocation: Invocation | None = None
        self._json = environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"
        level = environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
        self._level = "DEBUG" if level == "TRACE" else level
        descriptor = environ.pop("_LAMBDA_TELEMETRY_LOG_FD", "")
        self._framed_descriptor = int(descriptor) if descriptor.isdecimal() else None
        self._descriptors = {1: own_descriptor(1), 2: own_descriptor(2)}
        self._has_introduced_itself = False

    @property
    def request_id(self) -> str:
        return self.invocation.request_id if self.invocation is not None else ""

    def failure(self, failure: Failure) -> None:
        """One event for one error, with the user's frames alone."""
        self._introduce_itself()
        if self._json:
            document = from_json(failure.body(self.request_id))
            self._write_event(to_json({"timestamp": timestamp(time.time()), "level": "ERROR", **document}), ERROR)
        else:
            self._write_event(within("\n".join(text_lines(failure)), LARGEST_LOG_EVENT), ERROR)

    def line(self, text: str) -> None:
        """Something of the runtime itself that went wrong, on standard error."""
        self._write_event(self._own_line(text), ERROR, descriptor=2)

    def _introduce_itself(self) -> None:
        """Say once which layer and interpreter a request for support is about; beside the frames of the events."""
        if not self._has_introduced_itself:
            line = self._own_line("an error of the function is in the log", "INFO")
            write_all(self._descriptors[2], f"{line}\n".encode("utf-8", "backslashreplace"))

    def _own_line(self, text: str, level: str = "ERROR") -> str:
        name = f"python-streaming-runtime {VERSION}"
        if not self._has_introduced_itself:
            self._has_introduced_itself = True
            name += f" ({variant()}, CPython {sys.version.split()[0]} at {sys.executable})"
        if not self._json:
            return f"{name}: {self.request_id and f'RequestId: {self.request_id} '}{text}"
        event = {"timestamp": timestamp(time.time()), "level": level, "message": f"{name}: {text}"}
        return to_json({**event, "logger": USER_AGENT, "requestId": self.request_id})

    def text(self, text: str) -> None:
        """What the function says through its context: one event where events are framed, as it is elsewhere."""
        if self._framed_descriptor is not None:
            write_all(self._framed_descriptor, telemetry_frame(text, 0, False))
        else:
            sys.stdout.write(text)

    def follow_logging(self) -> None:
        """Set the root logger up when `logging` is imported; a function that never logs does not pay for it."""
        if "logging" in sys.modules:
            self.configure(sys.modules["logging"])
        else:
            sys.meta_path.insert(0, LoggingFinder(self))

    def configure(self, logging: Any) -> None:
        """Give the root logger the handler, the format and the level of the managed runtime.

        Args:
            logging: the module, which may be one of the function's own that has only the name.
        """
        if not hasattr(logging, "LogRecord"):
            return
        logging.Formatter.converter = time.gmtime
        formatter = logging.Formatter(
            "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        if self._json:
            standard = {*vars(logging.makeLogRecord({})), "aws_request_id", "tenant_id"} - {"taskName"}
            formatter.format = lambda record: json_record(logging, record, standard)
        handler = logging.Handler()
        handler.emit = lambda record: self._emit(handler, record)
        handler.setFormatter(formatter)
        root = logging.getLogger()
        root.addHandler(handler)
        if isinstance(logging.getLevelName(self._level), int):
            root.setLevel(self._level)

    def _emit(self, handler: Any, record: Any) -> None:
        record.aws_request_id = self.request_id
        record.tenant_id = self.invocation.headers.get(TENANT_ID) if self.invocation is not None else None
        try:
            self._write_event(handler.format(record).removesuffix("\n"), record.levelno)
        except Exception:
            handler.handleError(record)

    def _write_event(self, text: str, level: int, descriptor: int = 1) -> None:
        """One write for one event, past `sys.stdout`, which the function may have replaced."""
        if self._framed_descriptor is not None:
            write_all(self._framed_descriptor, telemetry_frame(text, level, self._json))
        else:
            line = text.replace("\r\n", "\r").replace("\n", "\r") + "\n"
            write_all(self._descriptors[descriptor], line.encode("utf-8", "backslashreplace"))


ERROR = 40  # logging.ERROR


def variant() -> str:
    """The zip that this layer was unpacked from, without `layer-` and `.zip`."""
    try:
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), VARIANT_FILE)) as file:
            return file.read().strip()
    except OSError:
        return "slim"


def text_lines(failure: Failure) -> list[str]:
    lines = [f"[ERROR] {failure.error_type}: {failure.message}" if failure.message else f"[ERROR] {failure.error_type}"]
    if failure.stack_trace:
        lines.append("Traceback (most recent call last):")
    lines += [keep_indentation(line) for entry in failure.stack_trace for line in entry.splitlines()]
    for other in failure.related:
        lines.append(f"Related: {other.error_type}: {other.message}")
        lines += [keep_indentation(line) for entry in other.stack_trace for line in entry.splitlines()]
    return lines


def within(text: str, limit: int) -> str:
    """A text, without its middle where it has more characters than the limit."""
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} [cut] {text[-half:]}"


def keep_indentation(line: str) -> str:
    bare = line.lstrip(" ")
    return "\u00a0" * (len(line) - len(bare)) + bare  # CloudWatch shows ordinary leading blanks as none


def json_record(logging: Any, record: Any, standard: set[str]) -> str:
    """A log record as the managed runtime writes it, with what `extra` added; fields without a value are left out.

    Args:
        standard: the attributes that are not of `extra`.
    """
    kind, error, trace = record.exc_info if record.exc_info and record.exc_info[0] else (None, None, None)
    level = min(50, max(0, record.levelno)) // 10 * 10
    fields = {
        "timestamp": timestamp(record.created),
        "level": logging.getLevelName(level),
        "message": record.msg if isinstance(record.msg, dict) and not record.args else record.getMessage(),
        "logger": record.name,
        "stackTrace": import_standard("traceback").format_tb(trace) if kind else None,
        "errorType": kind.__name__ if kind else None,
        "errorMessage": str(error) if kind else None,
        "requestId": record.aws_request_id,
        "location": f"{record.pathname}:{record.funcName}:{record.lineno}" if kind else None,
    }
    if record.tenant_id is not None:
        fields["tenantId"] = record.tenant_id
    extra = {name: value for name, value in vars(record).items() if name not in standard and name not in fields}
    given = {name: value for name, value in (fields | extra).items() if value is not None}
    return to_json(given, ensure_ascii=False, default=str)


def timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def telemetry_frame(text: str, level: int, is_json: bool) -> bytes:
    """An event for the service's log descriptor: type, length, time in microseconds, all big-endian; then the text."""
    data = text.encode("utf-8", "backslashreplace")
    kind = 0xA55A0002 if is_json else 0xA55A0003
    severity = (min(50, level) // 10 + 1) * 4 if level >= 10 else 0  # DEBUG 8, INFO 12, and so on
    header = (kind | severity, 4), (len(data), 4), (time.time_ns() // 1000, 8)
    return b"".join(number.to_bytes(size, "big") for number, size in header) + data


def own_descriptor(descriptor: int) -> int:
    """A second descriptor for the same output: the number of one that the function closes goes to the next socket."""
    try:
        return os.dup(descriptor)
    except OSError:
        return descriptor


def write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # the function has made it so
            select = import_standard("select")
            poller = select.poll()
            poller.register(descriptor, select.POLLOUT)
            poller.poll()
        except OSError:
            return  # nobody reads the log; the invocation matters more


class LoggingFinder:
    """Sees `logging` being imported, and has it configured before anybody else has it."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "logging":
            return None
        for finder in sys.meta_path:
            spec: Any = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = ConfiguringLoader(spec.loader, self)
                return spec
        return None

    def configure(self, module: Any) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            self._log.configure(module)


class ConfiguringLoader:
    """Loads as the loader that it stands for does, and leaves no trace of itself."""

    def __init__(self, loader: Any, finder: LoggingFinder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._finder.configure(module)


# --- The Runtime API --------------------------------------------------------------------------------------------------


class RuntimeApi:
    """The calls of the Lambda Runtime API, over one connection.

    Args:
        address: `AWS_LAMBDA_RUNTIME_API`: `host:port`, with a scheme and a path before the API's own where an
            emulator has them (`http://127.0.0.1:9000/.rt`). Raises RuntimeApiError for any other form.
    """

    def __init__(self, address: str, log: Log) -> None:
        self._log = log
        authority, slash, path = address.removeprefix("http://").partition("/")
        self._prefix = (slash + path).rstrip("/")
        self._common = f"Host: {authority}\r\nUser-Agent: {USER_AGENT}\r\n"
        self._ask = f"GET {self._prefix}{NEXT_PATH} HTTP/1.1\r\n{self._common}\r\n".encode("utf-8", "surrogateescape")
        self._address = host_and_port(authority, address)
        self.connection = Connection(*self._address)
        self._extension: Connection | None = None  # kept open: its end would be the end of the extension

    def next_invocation(self) -> Invocation:
        """Wait, for as long as it takes, for the next invocation. Raises RuntimeApiError where none can come."""
        pauses = iter(NEXT_RETRY_PAUSES)
        empty_pause = 0.0
        while True:
            try:
                invocation = self._ask_for_invocation()
            except NotDelivered as reason:
                pause = next(pauses, None)
                if pause is None:
                    raise RuntimeApiError(f"the Runtime API gave no next invocation: {reason}") from None
                time.sleep(pause)
                continue
            if invocation is not None:
                return invocation
            time.sleep(empty_pause)  # a server that has nothing, and says so at once, is not to be asked without end
            empty_pause = min(1.0, 2 * empty_pause + 0.001)

    def _ask_for_invocation(self) -> Invocation | None:
        connection = self.connection
        connection.reuse()
        connection.send(self._ask)
        answer = connection.read_answer()
        if answer.status == 204:
            return None
        request_id = answer.headers.get(REQUEST_ID, "")
        if not answer.accepted or not is_path_segment(request_id):
            what = f"status {answer.status}, {REQUEST_ID} {request_id!r}"
            raise RuntimeApiError(f"the Runtime API answered {NEXT_PATH} with no invocation: {what}")
        return Invocation(request_id, answer.headers, answer.body)

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

    def register_extension(self) -> None:
        """Be an internal extension too, without events: the service then sends SIGTERM before it ends the environment.

        AWS Lambda Developer Guide, runtimes-extensions-api. Each extension must ask for its next event, or the service
        waits for it; without events no answer comes, so none is read.
        """
        connection = self._extension = Connection(*self._address)
        body = b'{"events":[]}'
        register = (
            f"POST {self._prefix}{REGISTER_PATH} HTTP/1.1\r\n{self._common}{EXTENSION_NAME}: {EXTENSION}\r\n"
            f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            connection.renew()
            connection.send(register.encode("utf-8", "surrogateescape") + body)
            answer = connection.read_answer()
            if not answer.accepted:
                raise NotDelivered(f"it was answered with {answer}")
            ask = (
                f"GET {self._prefix}{EXTENSION_EVENT_PATH} HTTP/1.1\r\n{self._common}"
                f"{EXTENSION_ID}: {answer.headers.get(EXTENSION_ID.lower(), '')}\r\n\r\n"
            )
            connection.renew()
            connection.send(ask.encode("utf-8", "surrogateescape"))
        except NotDelivered as reason:
            self._log.line(f"no SIGTERM will come before the environment ends: the registration failed: {reason}")

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
            self._log.line(f"the error was not delivered to {path}: {reason}")

    def read_acceptance(self, what: str) -> None:
        """Take the answer to a POST. A refusal is logged and the loop goes on; a container error ends the process.

        https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html lists 202, 400, 403, 413 and 500.
        """
        answer = self.connection.read_answer()
        if answer.status >= 500:
            raise RuntimeApiError(f"the Runtime API answered {what} with {answer}")
        if not answer.accepted:
            self._log.line(f"the Runtime API refused {what} with {answer}")

    @staticmethod
    def _echo(invocation: Invocation) -> str:
        """The id of this attempt, where the service sent one: an answer to an attempt that is over is then refused."""
        invocation_id = invocation.headers.get(INVOCATION_ID)
        return f"{ECHOED_INVOCATION_ID}: {invocation_id}\r\n" if invocation_id else ""


NOT_IN_A_PATH_SEGMENT = frozenset(" /?#%")


def is_path_segment(text: str) -> bool:
    return text.isascii() and text.isprintable() and text != "" and NOT_IN_A_PATH_SEGMENT.isdisjoint(text)


def host_and_port(authority: str, address: str) -> tuple[str, int]:
    host, colon, port = authority.rpartition(":")
    if colon and port.isdecimal() and host:
        return host.removeprefix("[").removesuffix("]"), int(port)
    raise RuntimeApiError(f"AWS_LAMBDA_RUNTIME_API is {address!r}, and not host:port")


class NotConnected:
    """Stands where a socket will be."""

    def send(self, *_: object) -> int:
        raise OSError("not connected")

    recv: Any = send
    sendmsg: Any = send
    getsockopt: Any = send

    def close(self) -> None:
        pass


NOT_CONNECTED = NotConnected()


class Connection:
    """One keep-alive HTTP/1.1 connection, on which one request follows the answer to the one before.

    No method waits with a time limit: the service freezes the process while it waits.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | NotConnected = NOT_CONNECTED
        self._received = b""  # beyond what was read of the answer so far
        self._last = False  # the answer under way is the last on this connection
        self._early_answer: Answer | None = None  # came before the request was sent to its end
        self.pending_exit: SystemExit | None = None  # to be raised when all of what is being sent is out
        self.disowned = False  # this process is a fork of the one whose connection it is

    # Before a request

    def renew(self) -> None:
        """Make the connection fit for a request that can be sent only once: one that has ended is opened again.

        Only here: within an exchange, a second connection could deliver an answer twice. Raises NotDelivered.
        """
        if self._is_stale():
            self.close()
        self.reuse()

    def reuse(self) -> None:
        """As `renew`, for a request that can be sent again, so that the end of the connection may show up later."""
        if self._last or self._received:
            self.close()
        if self._socket is NOT_CONNECTED:
            self._open()

    def _is_stale(self) -> bool:
        try:
            if TCP_INFO is not None:  # begins with the state, and says more cheaply than a receive that nothing came
                return self._socket.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 1) != ESTABLISHED
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True  # closed, or bytes that nobody asked for

    def disown(self) -> None:
        """In a process that the function has forked: its end of the connection is closed, and no other is opened."""
        self.close()
        self.disowned = True

    def _open(self) -> None:
        if self.disowned:
            raise RuntimeApiError("a process that the function has forked came back from its handler")
        host, port = self._address
        problem: Exception | None = None
        try:
            for family, kind, protocol, _, address in socket.getaddrinfo(host.encode(), port, 0, socket.SOCK_STREAM):
                sock = socket.socket(family, kind, protocol)
                sock.settimeout(None)  # the function may have set another default
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    sock.connect(address)
                    self._socket = sock
                    return
                except OSError as error:
                    sock.close()
                    problem = error
        except (OSError, OverflowError) as error:
            problem = error
        raise NotDelivered(f"no connection to {host} port {port}: {problem}")

    def close(self) -> None:
        self._socket.close()
        self._socket, self._received, self._last, self._early_answer = NOT_CONNECTED, b"", False, None

    # Sending

    def send(self, data: bytes) -> None:
        """Send all of it, with one system call where there is room.

        Raises NotDelivered where the other side has gone or answers that it wants no more; it is then closed.
        """
        try:
            sent = self._socket.send(data, SEND_NOW)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._give_up(error)
        except BaseException:  # of a signal's handler, perhaps within a chunk
            self.close()
            raise
        if sent != len(data):
            self._send_rest(memoryview(data)[sent:])

    def send_gathered(self, *parts: bytes | memoryview) -> None:
        """Send the parts as if they were one, without joining them: for those that are too large to copy. As `send`."""
        try:
            sent = self._socket.sendmsg(parts, [], SEND_NOW)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._give_up(error)
        except BaseException:
            self.close()
            raise
        for part in parts:
            if sent < len(part):
                self._send_rest(memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    def _send_rest(self, rest: memoryview) -> None:
        """Send on, and close the connection if anything comes between: nothing more could be said on it."""
        try:
            self._send_when_there_is_room(rest)
        except BaseException:
            self.close()
            raise

    def _send_when_there_is_room(self, rest: memoryview) -> None:
        """Wait for room to send, with an eye on what comes in: some servers answer before they have read it all."""
        select = import_standard("select")
        sock = self._socket
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
        answer = self.read_answer()
        if self._socket is NOT_CONNECTED:
            raise NotDelivered("the other side has gone")
        self._early_answer = answer
        if not answer.accepted:
            self._give_up(None)

    def _give_up(self, error: OSError | None) -> NoReturn:
        """Leave a request unfinished. The other side's answer, where one came, tells more than the error."""
        if error is not None and not isinstance(error, ConnectionError):  # of the function's own signal handler
            self.close()
            raise NotDelivered(str(error))
        try:
            answer = self.read_answer()
        except NotDelivered:
            raise NotDelivered(f"the other side has gone ({error})") from None
        finally:
            self.close()
        if answer.status >= 500:
            raise RuntimeApiError(f"the Runtime API answered with {answer}")
        raise NotDelivered(f"the other side ended it with {answer}")

    # Receiving

    def read_answer(self) -> Answer:
        """The final answer to the request; interim ones (1xx) are passed over (RFC 9110, 15.2).

        Raises NotDelivered where none comes, or none that is HTTP/1.1; the connection is then closed.
        """
        if self._early_answer is not None:
            answer, self._early_answer = self._early_answer, None
            return answer
        try:
            return self._read_answer()
        except BaseException:  # NotDelivered, or of a signal's handler: the rest would be taken for the next answer
            self.close()
            raise

    def _read_answer(self) -> Answer:
        for _ in range(MOST_INTERIM_ANSWERS):
            head = Head(self._read_through(b"\r\n\r\n", LARGEST_HEAD))
            if head.status >= 200:
                break
            if not head.status:
                self._fail(f"an answer that is not HTTP/1.1: {head.status_line[:80]!r}")
        else:
            self._fail("too many interim answers")
        connection = head.get(CONNECTION, "").lower()
        self._last = "close" in connection or (head.is_http_1_0 and "keep-alive" not in connection)
        try:
            return Answer(head, self._read_body(head))
        except NotDelivered:
            return Answer(head, None)

    def _read_body(self, head: Head) -> bytes:
        """The body, by the rules of RFC 9112, 6.3. Raises NotDelivered where it is cut or its framing is wrong."""
        if head.status in (204, 304):
            return b""
        encoding = head.get(TRANSFER_ENCODING)
        length = head.get(CONTENT_LENGTH)
        if encoding is not None:
            if encoding.lower() != "chunked":
                self._fail(f"an answer with transfer encoding {encoding!r}")
            return self._read_chunks()
        if length is None:
            return self._read_to_the_end()
        if not (length.isascii() and length.isdigit() and len(length) <= LONGEST_LENGTH):
            self._fail(f"an answer of length {length[:80]!r}")
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
        while data := self._receive(LARGEST_BODY_RECEIVE, or_end=True):
            body += data
        return bytes(body)

    def _read_exactly(self, length: int) -> bytes:
        received = self._received
        if len(received) >= length:
            self._received = received[length:]
            return received[:length]
        body, self._received = bytearray(self._received), b""
        while len(body) < length:
            body += self._receive(min(length - len(body), LARGEST_BODY_RECEIVE))
        return bytes(body)

    def _read_through(self, end: bytes, limit: int) -> bytes:
        received = self._received or self._receive(LARGEST_HEAD_RECEIVE)
        searched = 0
        while (found := received.find(end, searched)) < 0:
            if len(received) > limit:
                self._fail("an answer with a head or line beyond any limit")
            searched = max(0, len(received) - len(end) + 1)
            received += self._receive(LARGEST_HEAD_RECEIVE)
        stop = found + len(end)
        self._received = received[stop:]
        return received[:stop]

    def _receive(self, most: int, or_end: bool = False) -> bytes:
        """What has come, at least one byte; b"" where the other side has ended the connection and that is in order."""
        try:
            data = self._socket.recv(most)
        except OSError as error:
            self._fail(str(error))
        if data or or_end:
            return data
        self._fail("the other side closed the connection")

    def _fail(self, reason: str) -> NoReturn:
        self.close()
        raise NotDelivered(reason)


class Head:
    """The status line and the headers of an answer.

    Args:
        data: up to and with the empty line.
    """

    __slots__ = ("get", "is_http_1_0", "status", "status_line")

    def __init__(self, data: bytes) -> None:
        text = data[:-4].decode("utf-8", "surrogateescape")
        self.status_line, *lines = text.split("\r\n")
        version, code = self.status_line[:9], self.status_line[9:12]
        # A bare CR or LF, or a NUL, in a value could forge a line of a request that repeats the value (RFC 9112, 11.1).
        sound = text.count("\n") == text.count("\r") == len(lines) and "\0" not in text
        known = version in ("HTTP/1.1 ", "HTTP/1.0 ") and len(code) == 3 and code.isascii() and code.isdigit()
        self.status = int(code) if sound and known else 0  # 0 where it is no HTTP/1.1
        self.is_http_1_0 = version == "HTTP/1.0 "
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip(" \t")
        self.get: Callable[..., Any] = headers.get  # by lower-case name


class Answer:
    """An answer of the Runtime API; `body` is None where the connection ended before the whole of it had come."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, head: Head, body: bytes | None) -> None:
        self.status = head.status
        self.headers = head
        self.body = body

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300

    def __str__(self) -> str:
        return f"status {self.status} {(self.body or b'')[:500].decode('utf-8', 'replace')}".rstrip()


if __name__ == "__main__":
    main()
