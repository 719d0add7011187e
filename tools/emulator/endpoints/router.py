"""The endpoints, all on one port.

    http://NAME.localhost/...                           the URL of a function, on all paths
    /2015-03-31/functions/..., also with other dates    the Lambda API
    /lambda-page/                                       the page of --open
    /lambda-url/NAME/...                                the URL of a function
    /...                                                the URL of the first function
    /2018-06-01/runtime/...                             the Runtime API of an attached runtime

`http1.connection` refuses malformed requests before they get here.
"""

from __future__ import annotations

import re
import socket
import time

from tools.emulator.console import Console
from tools.emulator.endpoints import page
from tools.emulator.endpoints.api_call import Functions
from tools.emulator.endpoints.function_url import FunctionUrl
from tools.emulator.endpoints.function_url_event import host_name
from tools.emulator.endpoints.lambda_api import LambdaApi
from tools.emulator.execution.runtime_api import PREFIX as RUNTIME_API_PREFIX
from tools.emulator.execution.runtime_api import RuntimeApiServer
from tools.emulator.http1.connection import Connection, ProtocolError, Request
from tools.emulator.http1.responses import send_json
from tools.emulator.http1.server import Server

URL_PATH = re.compile(r"/lambda-url/([^/?]+)(?=[/?]|$)")
LOCAL_DOMAIN = ".localhost"  # it and all names below it are this machine (RFC 6761, 6.3)
ABSOLUTE_FORM = re.compile(r"(?i:https?)://[^/?#]*")


class Router:
    """Serves functions on a listening socket.

    Args:
        functions: the first one has all paths that belong to no other.
        runtime_api: the Runtime API of the attached runtime, if there is one.
        has_page: whether the page of --open is served.
    """

    def __init__(
        self,
        functions: Functions,
        lambda_api: LambdaApi,
        listener: socket.socket,
        console: Console,
        runtime_api: RuntimeApiServer | None = None,
        has_page: bool = False,
    ) -> None:
        self._functions = functions
        self._has_page = has_page
        self._lambda_api = lambda_api
        self._console = console
        self._runtime_api = runtime_api
        self._server = Server(self._serve, listener)
        self.authority = self._server.authority
        self.url = f"http://{self.authority}/"

    @property
    def _first(self) -> FunctionUrl:
        return next(iter(self._functions.urls.values()))

    def start(self) -> None:
        """Begin to serve."""
        self._server.start()

    def close(self) -> None:
        self._server.close()

    def _serve(self, connection: Connection) -> None:
        request: Request | None = None
        try:
            while (request := connection.read_request()) is not None:
                if self._runtime_api is not None and request.target.startswith(f"{RUNTIME_API_PREFIX}/"):
                    return self._runtime_api.serve(connection, request)
                target = request.target
                try:
                    reusable = self._route(connection, request)
                finally:
                    self._log(request, target)
                if not reusable:
                    return
                request = None
        except ProtocolError as error:
            cors = self._first.cors_fields(request) if request is not None else []
            send_json(connection, None, error.status, {"Message": str(error)}, cors)
            if request is not None:
                request.status = error.status
                self._log(request, request.target)
            connection.linger()

    def _log(self, request: Request, target: str) -> None:
        """Write one line for a request that got a response. The response to a ProtocolError is sent later."""
        if request.status is not None:
            self._console.request(request_line(request, target))

    def _route(self, connection: Connection, request: Request) -> bool:
        """Returns whether the connection can serve another request."""
        request.target = origin_form(request.target)
        host = host_name(request.headers.get("Host")).lower().removesuffix(".")
        by_host = {f"{name.lower()}{LOCAL_DOMAIN}": url for name, url in self._functions.urls.items()}
        if host in by_host:
            return by_host[host].serve(connection, request, self._server.port)
        if self._has_page and request.target.startswith(page.PATH):
            return page.serve_page(connection, request)
        if self._lambda_api.matches(request.target.partition("?")[0]):
            return self._lambda_api.serve(connection, request, self.url)
        if host.endswith(LOCAL_DOMAIN):
            raise self._no_function(host.removesuffix(LOCAL_DOMAIN))
        function_url = self._first
        match = URL_PATH.match(request.target)
        if match is not None:
            function_urls = self._functions.urls
            if match[1] not in function_urls:
                raise self._no_function(match[1])
            function_url = function_urls[match[1]]
            rest = request.target[match.end() :]
            request.target = rest if rest.startswith("/") else f"/{rest}"
        return function_url.serve(connection, request, self._server.port)

    def _no_function(self, name: str) -> ProtocolError:
        return ProtocolError(f"there is no function {name!r}; the functions are {', '.join(self._functions.urls)}", 404)


def request_line(request: Request, target: str) -> str:
    """Method, path, status, bytes of the body, time to its first byte, duration, and the function.

    The query is left out, because it can contain a secret.
    """
    parts = [f"{request.method} {target.partition('?')[0]}", str(request.status), f"{request.sent_bytes} bytes"]
    if request.first_byte is not None:
        parts.append(f"first byte {request.first_byte * 1000:.0f} ms")
    parts.append(f"{(time.monotonic() - request.received) * 1000:.0f} ms")
    if request.function is not None:
        parts.append(request.function)
    return "  ".join(parts)


def origin_form(target: str) -> str:
    """The path and query of a request target; a proxy's client sends a whole URL (RFC 9112, 3.2)."""
    authority = ABSOLUTE_FORM.match(target)
    if authority is None and not target.startswith("/"):
        raise ProtocolError("the request target must begin with / or http://")
    path = target[authority.end() :] if authority else target
    return path if path.startswith("/") else f"/{path}"
