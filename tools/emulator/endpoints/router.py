"""Everything that callers can reach, on one port.

    POST /2015-03-31/functions/NAME/invocations                       Invoke
    POST /2021-11-15/functions/NAME/response-streaming-invocations    InvokeWithResponseStream
    any  /lambda-url/NAME/...                                         the function's URL
    any  /...                                                         the URL of the first function
    any  /2018-06-01/runtime/...                                      the Runtime API, where a runtime is attached

`http1` refuses what is no HTTP before it comes to any of them.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

from tools.emulator.endpoints.function_url import FunctionUrl
from tools.emulator.endpoints.invoke_api import InvokeApi
from tools.emulator.execution.pool import Function
from tools.emulator.execution.runtime_api import PREFIX as RUNTIME_API_PREFIX
from tools.emulator.execution.runtime_api import RuntimeApi
from tools.emulator.http1.responses import answer_json
from tools.emulator.http1.server import Connection, ProtocolError, Request, Server

URL_PATH = re.compile(r"/lambda-url/([^/?]+)(?=[/?]|$)")
ABSOLUTE_FORM = re.compile(r"(?i:https?)://[^/?#]*")


class FrontDoor:
    """Serves functions at an address.

    Args:
        functions: by their names, the first one being that of all other paths.
        listener: where callers come.
        runtime_api: of the attached runtime, where there is one.
    """

    def __init__(
        self,
        functions: Mapping[str, Function],
        function_url: FunctionUrl,
        invoke_api: InvokeApi,
        listener: socket.socket,
        runtime_api: RuntimeApi | None = None,
    ) -> None:
        self._functions = functions
        self._first = next(iter(functions.values()))
        self._function_url = function_url
        self._invoke_api = invoke_api
        self._runtime_api = runtime_api
        self._server = Server(self._serve, listener)
        self.authority = self._server.authority
        self.url = f"http://{self.authority}/"

    def close(self) -> None:
        self._server.close()

    def _serve(self, connection: Connection) -> None:
        try:
            while (request := connection.read_request()) is not None:
                if self._runtime_api is not None and request.target.startswith(f"{RUNTIME_API_PREFIX}/"):
                    return self._runtime_api.serve(connection, request)
                if not self._answer(connection, request):
                    return
        except ProtocolError as error:
            answer_json(connection, None, error.status, {"Message": str(error)})
            connection.linger()

    def _answer(self, connection: Connection, request: Request) -> bool:
        """Returns whether the connection can take another request."""
        request.target = origin_form(request.target)
        if self._invoke_api.answers(request.target.partition("?")[0]):
            return self._invoke_api.serve(connection, request)
        function = self._first
        match = URL_PATH.match(request.target)
        if match is not None:
            if match[1] not in self._functions:
                message = f"there is no function {match[1]!r}, only {', '.join(self._functions)}"
                raise ProtocolError(message, 404)
            function = self._functions[match[1]]
            rest = request.target[match.end() :]
            request.target = rest if rest.startswith("/") else f"/{rest}"
        return self._function_url.serve(function, connection, request, self._server.port)


def origin_form(target: str) -> str:
    """The path and query of a request's target, also where it is told as to a proxy (RFC 9112, 3.2)."""
    authority = ABSOLUTE_FORM.match(target)
    if authority is None and not target.startswith("/"):
        raise ProtocolError(f"the target {target[:80]!r} is no path")
    path = target[authority.end() :] if authority else target
    return path if path.startswith("/") else f"/{path}"
