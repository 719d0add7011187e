"""What all calls of the Lambda API share: the names of functions, and errors as the service words them.

https://docs.aws.amazon.com/lambda/latest/api/CommonErrors.html
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from tools.emulator.console import Console
from tools.emulator.deployment.configuration import ACCOUNT, REGION
from tools.emulator.endpoints.function_url import FunctionUrl
from tools.emulator.execution.pool import EnvironmentPool
from tools.emulator.http1.connection import Connection, Request
from tools.emulator.http1.responses import send_json

# NamespacedFunctionName of the API model: a name, an ARN, or the end of an ARN; each with or without a qualifier.
NAME = re.compile(
    r"(?:arn:(?:aws[a-zA-Z-]*)?:lambda:)?(?:(?:eusc-)?[a-z]{2}(?:-gov|-iso[a-z]?)?-[a-z]+-\d:)?(?:\d{12}:)?(?:function:)?"
    r"([a-zA-Z0-9_.-]+)(?::(\$LATEST(?:\.PUBLISHED)?|[a-zA-Z0-9_-]+))?"
)
QUALIFIER = re.compile(r"\$LATEST(?:\.PUBLISHED)?|[a-zA-Z0-9_$-]{1,128}")


class ApiError(Exception):
    """An error of the API, as the service words it."""

    def __init__(self, status: int, error_type: str, message: str, more: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        # The API itself uses both spellings.
        self.document = {"Type": "User", "Message" if status == 404 else "message": message, **(more or {})}


class Addressed(NamedTuple):
    """The function that a call names, and the qualifier, if the call has one."""

    url: FunctionUrl
    qualifier: str | None

    @property
    def pool(self) -> EnvironmentPool:
        return self.url.pool

    @property
    def arn(self) -> str:
        arn = self.pool.configuration.arn
        return f"{arn}:{self.qualifier}" if self.qualifier else arn


class Functions:
    """The functions that are served.

    Attributes:
        urls: by name; the first function is the default one. It can be replaced by another mapping at any time.
    """

    def __init__(self, urls: Mapping[str, FunctionUrl], console: Console) -> None:
        self.urls = urls
        self._console = console

    def look_up(self, name: str, query: str, default_qualifier: str | None = None) -> Addressed:
        """Find a function.

        Args:
            name: a part of a path, in percent-encoding.
            query: it can contain a `Qualifier`.
            default_qualifier: for the message if there is no such function.

        Raises ApiError.
        """
        name = urllib.parse.unquote(name)
        match = NAME.fullmatch(name)
        if match is None:
            raise_invalid_value(name, "functionName")
        qualifier = urllib.parse.parse_qs(query).get("Qualifier", [None])[0]
        if qualifier is not None and not QUALIFIER.fullmatch(qualifier):
            raise_invalid_value(qualifier, "qualifier")
        if qualifier is not None and match[2] not in (None, qualifier):
            raise_invalid_parameter(
                "The derived qualifier from the function name does not match the specified qualifier."
            )
        urls = self.urls
        if match[1] not in urls:
            functions = ", ".join(urls)
            self._console.error(f"a caller named {match[1]!r}, which is not served; the functions are {functions}")
            named = ":".join(filter(None, (match[1], match[2] or qualifier or default_qualifier)))
            message = f"Function not found: arn:aws:lambda:{REGION}:{ACCOUNT}:function:{named}"
            raise ApiError(404, "ResourceNotFoundException", message)
        return Addressed(urls[match[1]], match[2] or qualifier)


def send_error(connection: Connection, request: Request, request_id: str, error: ApiError, close: bool = False) -> bool:
    """Returns whether the connection can serve another request.

    Args:
        close: the body of the request was not read.
    """
    fields = [*id_fields(request_id), ("x-amzn-ErrorType", error.error_type)]
    reusable = send_json(connection, request, error.status, error.document, fields, close=close)
    if close:
        connection.linger()
    return reusable


def id_fields(request_id: str) -> list[tuple[str, str]]:
    return [("x-amzn-RequestId", request_id)]


def raise_invalid_parameter(message: str) -> NoReturn:
    raise ApiError(400, "InvalidParameterValueException", message)


def raise_invalid_value(value: str, member: str) -> NoReturn:
    rule = "Member must satisfy regular expression pattern"
    message = f"1 validation error detected: Value {value!r} at {member!r} failed to satisfy constraint: {rule}"
    raise ApiError(400, "ValidationException", message)
