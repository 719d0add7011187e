"""A local API Gateway REST API, whose integration has the response transfer mode STREAM.

https://docs.aws.amazon.com/apigateway/latest/developerguide/response-transfer-mode-lambda.html. Its rules differ from
those of a Function URL: the event has payload 1.0 and a stage; every response needs a prelude, which is found by its
delimiter, whatever the content type; `multiValueHeaders` has an effect; the first 10 MB are sent at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tools.emulator.console import Console
from tools.emulator.endpoints.function_url import RESPONSE_STREAM, Exchange, FunctionUrl
from tools.emulator.endpoints.prelude import ResponseHead, contains_text, malformed, response_head, split_at_delimiter
from tools.emulator.endpoints.rest_api_event import rest_api_event
from tools.emulator.execution.invocation import InvocationFailed
from tools.emulator.execution.pool import EnvironmentPool
from tools.emulator.http1.connection import TOKEN

DEFAULT_CONTENT_TYPE = "application/json"
NEEDS_PRELUDE = "a REST API needs one in every stream: let the handler yield a dict with statusCode first"


class RestApi(FunctionUrl):
    """Converts requests to invocations of one function, and its streams to HTTP responses.

    Args:
        stage: the first part of the path at the default domain of the API.
        throttle: whether to limit the bandwidth as the service does.
    """

    burst_bytes = 10 * 1024 * 1024

    def __init__(self, pool: EnvironmentPool, console: Console, stage: str, throttle: bool) -> None:
        super().__init__(pool, console, RESPONSE_STREAM, None, throttle)
        self._stage = stage

    def _event(self, exchange: Exchange, body: bytes, port: int) -> dict[str, Any]:
        peer, request_id, trace_id = exchange.connection.peer, exchange.request_id, exchange.trace_id
        return rest_api_event(exchange.request, body, peer, port, request_id, trace_id, self._stage)

    def _read_head(self, content_type: str, chunks: Iterator[bytes]) -> tuple[ResponseHead, bytes]:
        try:
            text, rest = split_at_delimiter(chunks)
        except InvocationFailed as failure:
            if is_malformed(failure):
                raise malformed(f"{failure.document['errorMessage'].partition(': ')[2]}; {NEEDS_PRELUDE}") from None
            raise
        return rest_api_head(text), rest

    def _failure_status(self, failure: InvocationFailed) -> int:
        return 500 if is_malformed(failure) else 502


def is_malformed(failure: InvocationFailed) -> bool:
    return bool(failure.document["errorType"] == "Runtime.InvalidResponseHead")


def rest_api_head(text: bytes) -> ResponseHead:
    """Parse the prelude. The values of `multiValueHeaders` replace those of the same name in `headers`.

    Raises InvocationFailed.
    """
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise malformed(f"{error}; {NEEDS_PRELUDE}") from None
    if not isinstance(document, dict):
        raise malformed("it is not a JSON object")
    multiple = document.get("multiValueHeaders") or {}
    if not isinstance(multiple, dict) or not all(contains_text(values, list) for values in multiple.values()):
        raise malformed("multiValueHeaders is not an object of lists of strings")
    if not all(TOKEN.fullmatch(name) for name in multiple):
        raise malformed("the name of a header contains characters that HTTP does not allow")
    repeated = [(name.lower(), value) for name, values in multiple.items() for value in values]
    replaced = {name for name, _ in repeated}
    head = response_head(document, DEFAULT_CONTENT_TYPE)
    head.headers = [(name, value) for name, value in head.headers if name not in replaced] + repeated
    return head
