"""WSGI applications as handlers, without a server: PEP 3333, "Python Web Server Gateway Interface".

    event -> http_event -> environ -> application(environ, start_response) -> each item is sent when it is given

What can go wrong:

- An application may call `start_response` in the call, or when its first item is asked for. It may call it again with
  `exc_info` and another status, as long as nothing was sent. So the head waits for the first item that is not empty.
  An error before that is reported to `/error`, and the caller gets a status of its own.
- An application may send its body through the callable `write` that `start_response` returns, before its iterable.
- The iterable has a `close` method that has to be called in every case. Frameworks release resources there, such as
  connections to databases. It comes after the last chunk, so that the caller does not wait for it.
- `Content-Length` can be wrong. A longer body would be taken for the next response, and a shorter one would never end.
- A name with an underscore would get the same variable as the one with a hyphen, so that a caller could replace a
  header that a proxy sets. Such headers are dropped, as other servers do.
"""

import sys
from _io import BytesIO

from streaming_runtime import ContractError, describe_type, import_standard, load
from streaming_runtime.api import USER_AGENT, bytes_of
from streaming_runtime.handler import Handler
from streaming_runtime.log import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from streaming_runtime.api import ResponseStream
    from streaming_runtime.http_event import HttpRequest
    from streaming_runtime.invocation import Invocation
    from streaming_runtime.log import Log

    Application = Callable[[Any, Any], Any]  # (environ, start_response)

VERSION = "0.1.0"

DEFAULT_SERVER = ("localhost", 443)  # PEP 3333: SERVER_NAME and SERVER_PORT can never be empty


def make_handler(application: "Application", log: "Log") -> "WsgiHandler":
    return WsgiHandler(application, log)


class WsgiHandler(Handler):
    """A handler that is a WSGI application."""

    def __init__(self, application: "Application", log: "Log") -> None:
        super().__init__(application, log)
        self._events = load("http_event").EventReader(log)

    def stream(self, invocation: "Invocation", response: "ResponseStream") -> None:
        """Call the application, and send the items that it gives, each before the application resumes.

        Raises ContractError (`InvalidEvent`) if the event is not an HTTP request.
        """
        event, context = self.arguments(invocation)
        request = self._events.read(event)
        environ = {**environ_of(request), "aws.event": event, "aws.context": context}
        exchange = Exchange(request.method, response)
        items = exchange.call(self._handler, environ)
        try:
            exchange.send_all(items)
        finally:
            if hasattr(items, "close"):
                try:
                    items.close()
                except Exception as error:  # it must not replace the reason why the stream ended
                    self._log.error(describe(error, "the application's clean-up"))


# --- The request ------------------------------------------------------------------------------------------------------


def environ_of(request: "HttpRequest") -> "dict[str, Any]":
    """Return the variables of PEP 3333. Strings contain the bytes of the request as latin-1."""
    name, port = request.server or DEFAULT_SERVER
    script_name, path_info = split_path(request)
    raw_path, query = request.raw_path.decode("latin-1"), request.query_string.decode("latin-1")
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path_info,
        "QUERY_STRING": query,
        "REQUEST_URI": f"{raw_path}?{query}" if query else raw_path,  # not in PEP 3333, but most servers have it
        "SERVER_NAME": name,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": f"HTTP/{request.http_version}",
        "SERVER_SOFTWARE": USER_AGENT,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": BytesIO(request.body),
        "wsgi.input_terminated": True,  # reading past the body returns b"", also without CONTENT_LENGTH
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,  # other environments run the application at the same time
        "wsgi.run_once": False,
        **variables_of(request.headers),
    }
    if request.client is not None:
        environ["REMOTE_ADDR"] = request.client[0]
    if request.body or "CONTENT_LENGTH" in environ:
        environ["CONTENT_LENGTH"] = str(len(request.body))
    return environ


def split_path(request: "HttpRequest") -> "tuple[str, str]":
    """Return SCRIPT_NAME and PATH_INFO, percent-decoded."""
    path = request.raw_path
    if b"%" in path:
        path = import_standard("urllib.parse").unquote_to_bytes(path)
    root = request.root_path.encode("utf-8", "surrogateescape")
    return root.decode("latin-1"), path.removeprefix(root).decode("latin-1")


def variables_of(headers: "list[tuple[bytes, bytes]]") -> "dict[str, str]":
    """Return the variables of the headers. Values of repeated ones are joined (RFC 3875, 4.1.18)."""
    variables: dict[str, str] = {}
    for field, content in headers:
        if b"_" in field:
            continue
        name, value = field.decode("latin-1").upper().replace("-", "_"), content.decode("latin-1")
        if name not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = f"HTTP_{name}"
        variables[name] = f"{variables[name]},{value}" if name in variables else value
    return variables


# --- The response -----------------------------------------------------------------------------------------------------


class Exchange:
    """The response to one request: the head that the application has set, and how much of the body was sent."""

    def __init__(self, method: str, response: "ResponseStream") -> None:
        self._method = method
        self._response = response
        self._head: dict[str, Any] | None = None
        self._is_sent = False  # the head
        self._has_body = True
        self._missing: int | None = None  # bytes of the body, if the application has set Content-Length

    def call(self, application: "Application", environ: "dict[str, Any]") -> "Iterable[object]":
        """Return the iterable of the application. Raises ContractError (`InvalidResponse`) if it returns none."""
        items = application(environ, self.start_response)
        if isinstance(items, (bytes, str)) or not (hasattr(items, "__iter__") or hasattr(items, "__getitem__")):
            found = f"the application returned {describe_type(items)}"
            raise ContractError("InvalidResponse", f"{found}, but must return an iterable of bytes, such as [body]")
        return items  # type: ignore[no-any-return]

    def start_response(
        self, status: str, headers: "Iterable[tuple[str, str]]", exc_info: "Any" = None
    ) -> "Callable[[object], None]":
        """Set the head of the response. Return the callable `write`.

        The head is checked here and sent later, so that the application can handle the error (PEP 3333, "The
        start_response() Callable").

        Raises:
            ContractError: `InvalidResponseHead`; or `InvalidResponse` for a second call without `exc_info`.
            BaseException: that of `exc_info`, if the head was sent.
        """
        if exc_info:
            try:
                if self._is_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # the traceback refers to this frame
        elif self._head is not None:
            raise ContractError("InvalidResponse", "the application called start_response twice, without exc_info")
        http_response = load("http_response")
        code = status_code(status)
        head = http_response.prelude_of(code, headers)
        load("prelude").encode(head)
        self._missing = http_response.content_length(head["headers"])
        self._head, self._has_body = head, http_response.has_body(self._method, code)
        return self.write

    def write(self, item: object) -> None:
        """Send an item of the body, and the head before the first one. An empty item sends nothing.

        Raises ContractError: `InvalidChunk` for an item that is not bytes, `InvalidResponse` for one that is not
        allowed here.
        """
        data = item if type(item) is bytes else bytes_of(item)
        size, excess = len(data), 0
        if size == 0:
            return
        self._send_head()
        if not self._has_body:
            return
        if self._missing is not None:
            data, excess = data[: self._missing], max(0, size - self._missing)
            self._missing -= len(data)
        self._response.write(data)
        if excess:
            message = f"the application sent {excess} bytes more than its Content-Length; they were dropped"
            raise ContractError("InvalidResponse", message)

    def send_all(self, items: "Iterable[object]") -> None:
        """Send the items, and end the response."""
        for item in items:
            self.write(item)
            del item  # or two large chunks would exist at a time
            if self._is_complete():
                break
        self._send_head()
        if self._has_body and self._missing:
            raise ContractError(
                "InvalidResponse", f"the application sent {self._missing} bytes less than its Content-Length"
            )
        self._response.finish()

    def _is_complete(self) -> bool:
        """Return whether the response can have no more bytes, so that the application need not make them."""
        return self._is_sent and (not self._has_body or self._missing == 0)

    def _send_head(self) -> None:
        if self._head is None:
            raise ContractError("InvalidResponse", "the application has not called start_response before its body")
        if not self._is_sent:
            self._response.write_first(self._head)
            self._is_sent = True


def status_code(status: object) -> int:
    """Return the number in a status such as `200 OK`. Raises ContractError (`InvalidResponseHead`)."""
    number = status.partition(" ")[0] if isinstance(status, str) else ""
    if len(number) == 3 and number.isascii() and number.isdecimal():
        return int(number)
    raise ContractError("InvalidResponseHead", f'the status must be a string such as "200 OK", not {status!r:.40}')
