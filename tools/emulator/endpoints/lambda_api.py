"""The Lambda API: calls that invoke a function, and calls that describe what is served.

https://docs.aws.amazon.com/lambda/latest/api/API_Operations.html. Requests are not authenticated. Every path of the API
is recognized, also those of calls that are not emulated: otherwise `aws lambda delete-function` would be a request to
the Function URL, which invokes the function and succeeds.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import Any

from tools.emulator.console import Console
from tools.emulator.endpoints.api_call import ApiError, Functions, id_fields, raise_invalid_parameter, send_error
from tools.emulator.endpoints.function_description import FunctionDescription
from tools.emulator.endpoints.function_url import MAX_REQUEST_BYTES
from tools.emulator.endpoints.invoke_api import InvokeApi
from tools.emulator.execution.invocation import new_request_id
from tools.emulator.http1.connection import Connection, ProtocolError, Request
from tools.emulator.http1.responses import send_json

# The date of the API's version, and the first part of the paths of all calls.
API_PATH = re.compile(
    r"/\d{4}-\d\d-\d\d/(?:account-settings|capacity-providers|code-signing-configs|durable-execution-callbacks"
    r"|durable-executions|event-source-mappings|functions|layers|resource-policy|tags)(?:/.*)?"
)
CALLS = {
    "ListFunctions": re.compile(r"/2015-03-31/functions/?"),
    "GetFunction": re.compile(r"/2015-03-31/functions/([^/]+)"),
    "GetFunctionConfiguration": re.compile(r"/2015-03-31/functions/([^/]+)/configuration"),
    "ListVersionsByFunction": re.compile(r"/2015-03-31/functions/([^/]+)/versions"),
    "GetPolicy": re.compile(r"/2015-03-31/functions/([^/]+)/policy"),
    "GetFunctionUrlConfig": re.compile(r"/2021-10-31/functions/([^/]+)/url"),
}
EMULATED = ("Invoke", "InvokeWithResponseStream", *CALLS)
MAX_ITEMS = 10_000  # of a page of a list (API_ListFunctions)


class LambdaApi:
    """Serves the calls."""

    def __init__(self, functions: Functions, invoke_api: InvokeApi, console: Console) -> None:
        self._functions = functions
        self._invoke_api = invoke_api
        self._console = console

    @staticmethod
    def matches(path: str) -> bool:
        return API_PATH.fullmatch(path) is not None

    def serve(self, connection: Connection, request: Request, url: str) -> bool:
        """Respond to a request whose body is unread. Returns whether the connection can serve another request.

        Args:
            url: the Function URL of the first function.
        """
        path, _, query = request.target.partition("?")
        if self._invoke_api.matches(path):
            return self._invoke_api.serve(connection, request)
        request_id = new_request_id()
        body_unread = False
        try:
            connection.read_body(request, MAX_REQUEST_BYTES)
        except ProtocolError as error:
            if error.status != 413:
                raise
            body_unread = True  # the code of a function, for example, to a call that is not emulated
        try:
            document = self._describe(request.method, path, query, url)
        except ApiError as refused:
            return send_error(connection, request, request_id, refused, close=body_unread)
        return send_json(connection, request, 200, document, id_fields(request_id), close=body_unread)

    def _describe(self, method: str, path: str, query: str, url: str) -> dict[str, Any]:
        """Raises ApiError."""
        call, match = next(((call, m) for call, form in CALLS.items() if (m := form.fullmatch(path))), (None, None))
        if method != "GET" or call is None or match is None:
            self._console.error(f"a caller requested {method} {path} of the Lambda API, which is not emulated")
            message = f"{method} {path} is not emulated; the emulator has {', '.join(EMULATED)}"
            raise ApiError(501, "NotImplementedException", message)
        if call == "ListFunctions":
            return self._list(query, url)
        return self._description(match[1], query, url).of_call(call)

    def _description(self, name: str, query: str, url: str) -> FunctionDescription:
        addressed = self._functions.look_up(name, query)
        found = addressed.pool.configuration.name
        is_first = found == next(iter(self._functions.urls))
        function_url = url if is_first else f"{url}lambda-url/{found}/"
        return FunctionDescription(addressed, addressed.url.settings, function_url)

    def _list(self, query: str, url: str) -> dict[str, Any]:
        """A page of the functions; its marker is the number of functions before it."""
        given = urllib.parse.parse_qs(query)
        first = whole_number(given.get("Marker", ["0"])[0], "Marker", 0)
        most = whole_number(given.get("MaxItems", ["50"])[0], "MaxItems", 1)
        names = list(self._functions.urls)
        on_page = names[first : first + most]
        configurations = [self._description(name, "", url).of_call("GetFunctionConfiguration") for name in on_page]
        more = {"NextMarker": str(first + most)} if len(names) > first + most else {}
        return {"Functions": configurations, **more}


def whole_number(text: str, name: str, least: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= MAX_ITEMS):
        raise_invalid_parameter(f"{name} {text[:40]!r} is not a whole number from {least} to {MAX_ITEMS}")
    return int(text)
