"""HTTP requests as the events of Function URLs (payload 2.0) and of API Gateway REST APIs (payload 1.0)."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

DOMAIN = "abcdefgh.lambda-url.eu-west-1.on.aws"
REST_DOMAIN = "abcdefgh.execute-api.eu-west-1.amazonaws.com"


def function_url(
    method: str = "GET",
    target: str = "/",
    headers: dict[str, str] | None = None,
    body: bytes | str | None = None,
    cookies: list[str] | None = None,
) -> dict[str, Any]:
    """Return the event of a Function URL. A body of type `bytes` is in base64."""
    path, _, query = target.partition("?")
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": DOMAIN, "x-forwarded-proto": "https", "x-forwarded-port": "443", **(headers or {})},
        "requestContext": {
            "domainName": DOMAIN,
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7"},
            "stage": "$default",
        },
        **_body(body),
    }
    return event | ({"cookies": cookies} if cookies else {})


def rest_api(
    method: str = "GET",
    target: str = "/",
    headers: dict[str, list[str]] | None = None,
    body: bytes | str | None = None,
    stage: str = "prod",
) -> dict[str, Any]:
    """Return the event of a REST API, called at its default domain."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    multiple = {"Host": [REST_DOMAIN], "X-Forwarded-Proto": ["https"], **(headers or {})}
    return {
        "version": "1.0",
        "httpMethod": method,
        "path": parts.path,
        "headers": {name: values[-1] for name, values in multiple.items()},
        "multiValueHeaders": multiple,
        "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
        "multiValueQueryStringParameters": query or None,
        "requestContext": {
            "domainName": REST_DOMAIN,
            "path": f"/{stage}{quote(parts.path)}",
            "stage": stage,
            "protocol": "HTTP/1.1",
            "identity": {"sourceIp": "203.0.113.7"},
        },
        **_body(body),
    }


def _body(body: bytes | str | None) -> dict[str, Any]:
    if isinstance(body, bytes):
        return {"body": base64.b64encode(body).decode("ascii"), "isBase64Encoded": True}
    return {"body": body, "isBase64Encoded": False}
