"""CORS of a Function URL."""

from __future__ import annotations

import json

import pytest
from support.emulator import ECHO, Response, Server, Serving, event_of

from tools.emulator.endpoints.cors import Cors

PREFLIGHT = ("OPTIONS /x HTTP/1.1", "Origin: https://here.example", "Access-Control-Request-Method: PUT")

HELLO = """
def handler(event, context):
    yield {"headers": {"Access-Control-Allow-Origin": "the function's"}}
    yield b"hello"
"""


def cors_headers(response: Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


def test_a_preflight_request_needs_no_invocation(serving: Serving) -> None:
    server, _ = serving(HELLO, "--cors")
    response = server.request(*PREFLIGHT, "Access-Control-Request-Headers: x-one,x-two")
    assert (response.status, response.body) == (200, b"")
    assert cors_headers(response) == {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "PUT",
        "access-control-allow-headers": "x-one,x-two",
    }
    assert "START" not in server.errors()
    response = server.request("GET / HTTP/1.1", "Origin: https://here.example")
    assert (cors_headers(response), response.body) == ({"access-control-allow-origin": "*"}, b"hello")
    assert cors_headers(server.get()) == {}


def test_cors_settings_are_those_of_the_aws_cli(serving: Serving) -> None:
    configuration = {
        "AllowOrigins": ["https://here.example"],
        "AllowMethods": ["GET", "PUT"],
        "AllowHeaders": ["x-one"],
        "ExposeHeaders": ["x-two", "x-three"],
        "AllowCredentials": True,
        "MaxAge": 300,
    }
    server, _ = serving(HELLO, "--cors", json.dumps(configuration))
    common = {
        "access-control-allow-origin": "https://here.example",
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "x-two,x-three",
    }
    assert cors_headers(server.request(*PREFLIGHT)) == common | {
        "access-control-allow-methods": "GET,PUT",
        "access-control-allow-headers": "x-one",
        "access-control-max-age": "300",
    }
    response = server.request("GET / HTTP/1.1", "Origin: https://here.example")
    assert (cors_headers(response), response.headers["vary"]) == (common, "Origin")
    other = ("Origin: https://other.example", *PREFLIGHT[2:])
    assert cors_headers(server.request(PREFLIGHT[0], *other)) == {}
    assert cors_headers(server.request("GET / HTTP/1.1", "Origin: https://other.example")) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("MaxAge", value) for value in (-1, 86_401, True, "300")),
        *(("AllowOrigins", value) for value in ("*", [""], [1], ["a\nb"], ["\u00e9"])),
        ("AllowCredentials", 1),
    ],
)
def test_a_setting_that_the_service_does_not_accept_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name} cannot be "):
        Cors.parse(json.dumps({name: value}))


def test_the_longest_and_the_shortest_time_of_a_preflight_are_accepted() -> None:
    assert [Cors.parse(json.dumps({"MaxAge": age})).settings["MaxAge"] for age in (0, 86_400)] == [0, 86_400]


def test_a_page_can_read_errors(serving: Serving) -> None:
    server, function = serving(
        """
        def handler(event, context):
            if event["rawPath"] == "/wait":
                yield b"one"
                wait()
            raise ValueError("for the page")
        """,
        *("--cors", "https://here.example", "--concurrency", "1"),
    )
    allowed = {"access-control-allow-origin": "https://here.example"}
    for path, length, status in (("/", 0, 502), ("/lambda-url/nobody/", 0, 404), ("/", 6_291_457, 413)):
        lines = (f"POST {path} HTTP/1.1", "Origin: https://here.example", f"Content-Length: {length}")
        response = server.request(*lines)
        assert (response.status, cors_headers(response)) == (status, allowed)
        assert cors_headers(server.request(lines[0], "Origin: https://other.example", lines[2])) == {}
    with server.connect() as client:
        client.send_request("GET /wait HTTP/1.1")
        client.read_head()
        response = server.request("GET / HTTP/1.1", "Origin: https://here.example")
        assert (response.status, cors_headers(response)) == (429, allowed)
        function.release()


def test_other_options_requests_are_invocations(serving: Serving, echo: Server) -> None:
    assert event_of(echo.request(*PREFLIGHT))["requestContext"]["http"]["method"] == "OPTIONS"
    server, _ = serving(ECHO, "--cors", "https://here.example")
    assert event_of(server.request("OPTIONS / HTTP/1.1"))["requestContext"]["http"]["method"] == "OPTIONS"
