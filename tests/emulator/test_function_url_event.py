"""The event of an HTTP request to a Function URL."""

from __future__ import annotations

import base64
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from support.emulator import Server, event_of

CAPTURED = sorted((Path(__file__).parent / "captured_events").glob("*.json"))
# What only the service adds to a request, and what differs between two requests.
SERVICE_HEADERS = ("x-amzn-tls-cipher-suite", "x-amzn-tls-version", "x-forwarded-for", "x-forwarded-port")
OF_ONE_REQUEST = ("accountId", "apiId", "authorizer", "requestId", "time", "timeEpoch")


@pytest.mark.parametrize("path", CAPTURED, ids=[path.stem for path in CAPTURED])
def test_the_request_of_a_captured_event_makes_the_same_event(echo: Server, path: Path) -> None:
    captured = json.loads(path.read_text())
    with echo.connect() as client:
        client.send(request_of(captured))
        event = event_of(client.read_response())
    assert comparable(event) == comparable(captured)


def request_of(event: dict[str, Any]) -> bytes:
    """The HTTP request that the event was made from."""
    target = event["rawPath"] + (f"?{event['rawQueryString']}" if event["rawQueryString"] else "")
    added = {*SERVICE_HEADERS, "x-forwarded-proto"}
    fields = [f"{name}: {value}" for name, value in event["headers"].items() if name not in added]
    lines = [f"{event['requestContext']['http']['method']} {target} HTTP/1.1", *fields, "Connection: keep-alive"]
    body = event.get("body", "").encode()
    return "\r\n".join([*lines, "", ""]).encode() + (base64.b64decode(body) if event["isBase64Encoded"] else body)


def comparable(event: dict[str, Any]) -> dict[str, Any]:
    """The event without what differs between the service and a local request, or between two requests."""
    headers = {name: value for name, value in event["headers"].items() if name not in SERVICE_HEADERS}
    context = {name: value for name, value in event["requestContext"].items() if name not in OF_ONE_REQUEST}
    http = {**context["http"], "sourceIp": "any"}
    return {
        **event,
        "headers": {**headers, "x-forwarded-proto": "any"},
        "requestContext": {**context, "http": http},
    }


@pytest.mark.parametrize(
    ("authority", "name", "prefix"),
    [
        ("localhost:9000", "localhost", "localhost"),
        ("id.lambda-url.us-east-1.on.aws", "id.lambda-url.us-east-1.on.aws", "id"),
        ("127.0.0.1:9000", "127.0.0.1", "127"),
        ("[::1]:9000", "[::1]", "[::1]"),
    ],
)
def test_the_domain_name_is_the_host_without_its_port(echo: Server, authority: str, name: str, prefix: str) -> None:
    with echo.connect() as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        event = event_of(client.read_response())
    assert event["headers"]["host"] == authority
    context = event["requestContext"]
    assert (context["domainName"], context["domainPrefix"]) == (name, prefix)


def test_the_event_has_the_form_of_payload_2_0(echo: Server) -> None:
    event = event_of(
        echo.request("GET /a%20path/x?a=1&b=two%20words&a=3&empty= HTTP/1.1", "User-Agent: test", "X-Own: Value")
    )
    port = echo.url.split(":")[2].strip("/")
    context = event["requestContext"]
    assert event.keys() == {
        "version",
        "routeKey",
        "rawPath",
        "rawQueryString",
        "headers",
        "queryStringParameters",
        "requestContext",
        "isBase64Encoded",
    }
    assert (event["version"], event["routeKey"]) == ("2.0", "$default")
    assert event["rawPath"] == "/a%20path/x"
    assert event["rawQueryString"] == "a=1&b=two%20words&a=3&empty="
    assert event["queryStringParameters"] == {"a": "1,3", "b": "two words", "empty": ""}
    assert event["headers"].pop("x-amzn-trace-id").startswith("Root=1-")
    assert event["headers"] == {
        "host": "localhost",
        "user-agent": "test",
        "x-own": "Value",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-port": port,
        "x-forwarded-proto": "http",
    }
    assert event["isBase64Encoded"] is False
    assert context["http"] == {
        "method": "GET",
        "path": "/a path/x",
        "protocol": "HTTP/1.1",
        "sourceIp": "127.0.0.1",
        "userAgent": "test",
    }
    assert (context["accountId"], context["routeKey"], context["stage"]) == ("anonymous", "$default", "$default")
    assert (context["domainName"], context["domainPrefix"]) == ("localhost", "localhost")
    assert isinstance(context["apiId"], str) and context["requestId"]
    assert re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000", context["time"])
    assert isinstance(context["timeEpoch"], int)
    assert abs(context["timeEpoch"] / 1000 - time.time()) < 600  # milliseconds


def test_the_trace_id_of_the_client_is_kept(echo: Server) -> None:
    trace = "Root=1-00000000-000000000000000000000000;Parent=0000000000000000;Sampled=1"
    response = echo.request("GET / HTTP/1.1", f"X-Amzn-Trace-Id: {trace}")
    assert event_of(response)["headers"]["x-amzn-trace-id"] == trace == response.headers["x-amzn-trace-id"]


def test_a_plain_request_has_no_query_cookies_or_body_in_its_event(echo: Server) -> None:
    event = event_of(echo.get("/"))
    assert (event["rawPath"], event["rawQueryString"]) == ("/", "")
    assert "queryStringParameters" not in event and "cookies" not in event and "body" not in event


def test_header_names_are_in_lower_case_and_repeated_values_joined(echo: Server) -> None:
    event = event_of(echo.request("GET / HTTP/1.1", "X-MiXed: one", "x-mixed: two", "X-mixed: three"))
    assert event["headers"]["x-mixed"] == "one,two,three"


def test_cookies_are_a_list_and_a_header(echo: Server) -> None:
    event = event_of(echo.request("GET / HTTP/1.1", "Cookie: a=1; b=2", "Cookie: c=3; "))
    assert event["cookies"] == ["a=1", "b=2", "c=3"]
    assert event["headers"]["cookie"] == "a=1; b=2; c=3;"


def test_headers_of_a_single_hop_are_not_part_of_the_event(echo: Server) -> None:
    lines = ("Connection: keep-alive", "Keep-Alive: timeout=5", "TE: trailers", "Upgrade: h2c")
    headers = event_of(echo.request("GET / HTTP/1.1", *lines))["headers"]
    assert not {"connection", "keep-alive", "te", "upgrade"} & headers.keys()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_is_an_invocation(echo: Server, method: str) -> None:
    assert event_of(echo.request(f"{method} / HTTP/1.1"))["requestContext"]["http"]["method"] == method


@pytest.mark.parametrize(
    ("content_type", "body", "encoded"),
    [
        ("application/json", '{"a": "ä"}'.encode(), False),
        ("text/plain; charset=utf-8", b"words", False),
        ("APPLICATION/JSON", b"{}", False),
        ("application/xml", b"<a/>", False),
        ("application/javascript", b"1", False),
        ("application/problem+json", b"{}", True),
        ("image/svg+xml", b"<svg/>", True),
        ("", b"words", True),
        ("application/octet-stream", b"words", True),
        ("application/x-www-form-urlencoded", b"a=1", True),
        ("image/png", bytes(range(256)), True),
        ("text/plain", b"\xff\xfe", True),
    ],
)
def test_a_body_is_text_or_base64_by_its_content_type(
    echo: Server, content_type: str, body: bytes, encoded: bool
) -> None:
    fields = [f"Content-Type: {content_type}"] if content_type else []
    event = event_of(echo.request("POST / HTTP/1.1", *fields, body=body))
    assert event["isBase64Encoded"] is encoded
    assert (base64.b64decode(event["body"]) if encoded else event["body"].encode()) == body


def test_a_chunked_body_is_joined(echo: Server) -> None:
    with echo.connect() as client:
        client.send_request("POST / HTTP/1.1", "Content-Type: text/plain", "Transfer-Encoding: chunked")
        client.send(b"5;x=y\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n")
        assert event_of(client.read_response())["body"] == "hello world"


@pytest.mark.parametrize(
    ("raw", "text"),
    [("Zoë".encode(), "Zoë"), ("a \N{FOX FACE}".encode(), "a \N{FOX FACE}"), (b"Zo\xeb", "Zoë"), (b"plain", "plain")],
    ids=["UTF-8", "four bytes of UTF-8", "Latin-1", "ASCII"],
)
def test_header_values_are_decoded_as_utf_8_if_they_are_valid(echo: Server, raw: bytes, text: str) -> None:
    with echo.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Name: " + raw + b"\r\n\r\n")
        assert event_of(client.read_response())["headers"]["x-name"] == text
