"""`--api rest`: an API Gateway REST API that streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.emulator import FunctionFolder, Response, Server, assert_usage_error, run

from tools.emulator.endpoints.bandwidth import limit_bandwidth
from tools.emulator.endpoints.rest_api import RestApi

SOURCE = """
def handler(event, context):
    path = event["path"]
    if path == "/headers":
        yield {
            "statusCode": 201,
            "headers": {"X-One": "1", "x-two": "replaced"},
            "multiValueHeaders": {"X-Two": ["2", "3"], "Set-Cookie": ["a=1", "b=2"]},
            "cookies": ["c=3"],
        }
        yield b"body"
    elif path == "/bytes":
        yield b"no prelude"
    elif path == "/fails":
        raise ValueError("wrong")
    elif path == "/chunks":
        yield {"headers": {"Content-Type": "text/plain"}}
        yield b"first"
        wait()
        yield b"second"
    else:
        yield {}
        yield json.dumps(event).encode()
"""


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FunctionFolder]:
    with FunctionFolder(tmp_path_factory.mktemp("rest") / "api", SOURCE) as folder:
        yield folder


@pytest.fixture(scope="module")
def server(function: FunctionFolder) -> Iterator[Server]:
    with Server(function.path, "--api", "rest", "--throttle") as server:
        assert server.first_line.startswith("REST API ") and server.url.endswith("/prod/")
        yield server


def event_of(response: Response) -> dict[str, Any]:
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    event: dict[str, Any] = json.loads(response.body)
    return event


def test_the_event_has_payload_1_0(server: Server) -> None:
    lines = ("POST /prod/orders/%C3%BC?tag=a&tag=b%20c&empty= HTTP/1.1", "X-Name: 1", "x-name: 2", "User-Agent: test")
    event = event_of(server.request(*lines, body='{"a": "\u00fc"}'.encode()))
    assert (event["httpMethod"], event["path"], event["resource"]) == ("POST", "/orders/%C3%BC", "/{proxy+}")
    assert event["pathParameters"] == {"proxy": "orders/%C3%BC"}
    assert event["multiValueHeaders"]["X-Name"] == ["1", "2"] and event["headers"]["X-Name"] == "2"
    assert event["queryStringParameters"] == {"tag": "b c", "empty": ""}
    assert event["multiValueQueryStringParameters"] == {"tag": ["a", "b c"], "empty": [""]}
    assert (event["body"], event["isBase64Encoded"]) == ('{"a": "\u00fc"}', False)
    context = event["requestContext"]
    assert (context["stage"], context["path"]) == ("prod", "/prod/orders/%C3%BC")
    assert (context["identity"]["sourceIp"], context["identity"]["userAgent"]) == ("127.0.0.1", "test")
    assert (context["domainName"], context["domainPrefix"]) == ("localhost", "localhost")
    assert context["protocol"] == "HTTP/1.1"
    assert "version" not in event


def test_the_event_has_the_keys_of_the_sample_event(server: Server) -> None:
    sample = json.loads(run("--print-event", "rest").out)
    event = event_of(server.get("/prod/"))
    assert event.keys() == sample.keys()
    assert event["requestContext"].keys() == sample["requestContext"].keys()
    assert event["requestContext"]["identity"].keys() == sample["requestContext"]["identity"].keys()


@pytest.mark.parametrize(
    ("target", "path", "full"),
    [
        ("/prod", "/", "/prod/"),
        ("/prod/", "/", "/prod/"),
        ("/prod/a//b", "/a//b", "/prod/a//b"),
        ("/a", "/a", "/a"),
        ("/production", "/production", "/production"),
        ("/lambda-url/api/prod/x", "/x", "/prod/x"),
    ],
)
def test_a_path_with_the_stage_is_one_of_the_default_domain(server: Server, target: str, path: str, full: str) -> None:
    event = event_of(server.get(target))
    assert (event["path"], event["requestContext"]["path"]) == (path, full)


def test_missing_parts_are_null_and_binary_bodies_are_in_base64(server: Server) -> None:
    event = event_of(server.get("/"))
    names = ("body", "queryStringParameters", "multiValueQueryStringParameters", "pathParameters", "stageVariables")
    assert [event[name] for name in names] == [None] * 5
    event = event_of(server.request("POST / HTTP/1.1", body=b"\xff"))
    assert (event["body"], event["isBase64Encoded"]) == ("/w==", True)


def test_headers_with_several_values_replace_those_with_one(server: Server) -> None:
    with server.connect() as client:
        client.send_request("GET /headers HTTP/1.1", "Connection: close")
        head, _, body = client.read_rest().partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0].startswith("http/1.1 201") and body == b"4\r\nbody\r\n0\r\n\r\n"
    assert [line for line in lines if line.startswith(("x-one", "x-two", "set-cookie"))] == [
        *("x-one: 1", "x-two: 2", "x-two: 3", "set-cookie: a=1", "set-cookie: b=2", "set-cookie: c=3"),
    ]


def test_a_stream_without_a_prelude_is_an_error(server: Server) -> None:
    response = server.get("/bytes")
    document = json.loads(response.body)
    assert (response.status, document["errorType"]) == (500, "Runtime.InvalidResponseHead")
    assert "yield a dict with statusCode first" in document["errorMessage"]
    assert server.get("/fails").status == 502


def test_chunks_arrive_while_they_are_sent(server: Server, function: FunctionFolder) -> None:
    with server.connect() as client:
        client.send_request("GET /prod/chunks HTTP/1.1")
        client.read_head()
        assert client.read(10) == b"5\r\nfirst\r\n"
        function.release()
        assert client.read(11) == b"6\r\nsecond\r\n"


def test_the_first_10_mb_are_not_limited() -> None:
    pauses: list[float] = []
    chunks = [b"x" * 1024 * 1024] * 12
    sent = limit_bandwidth(iter(chunks), lambda: 0.0, pauses.append, RestApi.burst_bytes)
    assert list(sent) == chunks
    assert pauses == [0.5, 1.0]  # the clock stands still, so the second pause contains the first one


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--api", "rest"], ["--serve"]),
        (["--serve", "--api", "http"], ["--api"]),
        (["--serve", "--stage", "test"], ["--api rest"]),
        (["--serve", "--api", "rest", "--stage", "a/b"], ["--stage"]),
        (["--serve", "--api", "rest", "--cors"], ["--cors"]),
        (["--serve", "--api", "rest", "--invoke-mode", "BUFFERED"], ["--invoke-mode"]),
    ],
)
def test_wrong_combinations_are_refused(arguments: list[str], words: list[str]) -> None:
    assert_usage_error(run(*arguments), *words)


def test_a_web_application_has_the_stage_as_its_root_path(tmp_path: Path) -> None:
    source = """
        async def handler(scope, receive, send):
            if scope["type"] == "lifespan":
                return
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": f"{scope['root_path']} {scope['path']}".encode()})
    """
    with (
        FunctionFolder(tmp_path / "app", source) as folder,
        Server(folder.path, "--api", "rest", "--stage", "v1") as server,
    ):
        assert server.get("/v1/orders").body == b"/v1 /v1/orders"
        assert server.get("/v1").body == b"/v1 /v1/"
        assert server.get("/orders").body == b" /orders"
