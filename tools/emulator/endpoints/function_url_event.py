"""The event of an HTTP request to a Function URL.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html, "Request and response payloads": format 2.0.
"""

from __future__ import annotations

import base64
import time
import urllib.parse
from typing import Any

from tools.emulator.http1.connection import Headers, Request

# The service passes on bodies of these types and of text/* as text, and all others in base64: also those of forms, of
# types such as application/problem+json, and of requests without a type. The documentation has no list; this one was
# measured with payload 2.0 (https://github.com/ministackorg/ministack/pull/766).
TEXT_TYPES = ("application/json", "application/javascript", "application/xml")
# Headers of a single hop (RFC 9110, 7.6.1), which are not part of events.
HOP_HEADERS = ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")


def function_url_event(
    request: Request, body: bytes, source_ip: str, port: int, request_id: str, trace_id: str
) -> dict[str, Any]:
    """The payload 2.0 event of a request to a Function URL whose AuthType is NONE.

    Args:
        body: as received; the event contains it in base64 unless it is text.
        source_ip: address of the client.
        port: the port that the client connected to.
        trace_id: for the `x-amzn-trace-id` header that the service adds.
    """
    path, _, query = request.target.partition("?")
    domain = host_name(request.headers.get("Host", "localhost"))
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": event_headers(request.headers, source_ip, port, trace_id),
        "requestContext": request_context(request, path, domain, source_ip, request_id),
        "isBase64Encoded": False,
    }
    cookies = [cookie.strip() for line in request.headers.all("Cookie") for cookie in line.split(";") if cookie.strip()]
    if cookies:
        event["cookies"] = cookies
    if query:
        event["queryStringParameters"] = query_parameters(query)
    if body:
        event |= encoded_body(body, request.headers.get("Content-Type"))
    return event


def event_headers(headers: Headers, source_ip: str, port: int, trace_id: str) -> dict[str, str]:
    """Names in lower case, repeated values joined. The cookies are here too, beside the list of them in the event."""
    joined: dict[str, str] = {}
    for name, value in headers.fields:
        key = name.lower()
        separator = "; " if key == "cookie" else ","  # RFC 6265, 5.4: one list of pairs
        joined[key] = f"{joined[key]}{separator}{value}" if key in joined else value
    for key in HOP_HEADERS:
        joined.pop(key, None)
    joined |= {
        "x-amzn-trace-id": trace_id,
        "x-forwarded-for": source_ip,
        "x-forwarded-port": str(port),
        "x-forwarded-proto": "http",
    }
    return joined


def request_context(request: Request, path: str, domain: str, source_ip: str, request_id: str) -> dict[str, Any]:
    now = time.time()
    return {
        "accountId": "anonymous",
        "apiId": "local",
        "domainName": domain,
        "domainPrefix": domain.partition(".")[0],
        "http": {
            "method": request.method,
            "path": urllib.parse.unquote(path),
            "protocol": request.version,
            "sourceIp": source_ip,
            "userAgent": request.headers.get("User-Agent"),
        },
        "requestId": request_id,
        "routeKey": "$default",
        "stage": "$default",
        "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
        "timeEpoch": int(now * 1000),
    }


def host_name(authority: str) -> str:
    """The host of a `Host` header without its port; an IPv6 address keeps its brackets (RFC 3986, 3.2.2)."""
    address, bracket, _ = authority.partition("]")
    return f"{address}]" if bracket else authority.partition(":")[0]


def query_parameters(query: str) -> dict[str, str]:
    """The decoded parameters; the values of a repeated name are joined with a comma."""
    joined: dict[str, str] = {}
    for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def encoded_body(body: bytes, content_type: str) -> dict[str, Any]:
    if is_text(content_type):
        try:
            return {"body": body.decode("utf-8"), "isBase64Encoded": False}
        except UnicodeDecodeError:
            pass
    return {"body": base64.b64encode(body).decode("ascii"), "isBase64Encoded": True}


def is_text(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.startswith("text/") or media_type in TEXT_TYPES
