"""Paths: several functions on one port, and the forms of a request target."""

from __future__ import annotations

import json

import pytest
from support.emulator import MakeFunction, MakeZip, Response, Server, event_of


def test_each_of_several_functions_has_a_path(make_zip: MakeZip, make_function: MakeFunction) -> None:
    source = """
        def handler(event, context):
            yield (context.function_name + event['rawPath']).encode()
    """
    one, two = make_function(source, "one"), make_function(source, "two")
    more = ("--function", f"second={two.path}", "--function", make_zip({"lambda_function.py": source}))
    with Server(one.path, *more) as server:
        lines = [server.read_through(b"\n").decode().split() for _ in range(3)]
        assert lines == [[name, f"{server.url}lambda-url/{name}/"] for name in ("one", "second", "code")]
        for path, body in {
            "/x": b"one/x",
            "/lambda-url/one/x%20y": b"one/x%20y",
            "/lambda-url/second": b"second/",
            "/lambda-url/second?a=1": b"second/",
            "/lambda-url/code//": b"code//",
        }.items():
            assert server.get(path).body == body
        missing = server.get("/lambda-url/third/")
        assert missing.status == 404 and "second" in json.loads(missing.body)["Message"]


def get(server: Server, host: str, target: str) -> Response:
    with server.connect() as client:
        client.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return client.read_response()


def test_each_function_has_a_host_name(make_function: MakeFunction) -> None:
    source = """
        def handler(event, context):
            domain = event["requestContext"]["domainName"]
            yield f"{context.function_name} {domain}{event['rawPath']}".encode()
    """
    one, two = make_function(source, "one"), make_function(source, "Two_2")
    with Server(one.path, "--function", two.path) as server:
        for host, target, body in (
            ("one.localhost", "/x", b"one one.localhost/x"),
            ("two_2.localhost:9000", "/x?a", b"Two_2 two_2.localhost/x"),
            ("TWO_2.LocalHost.:80", "/", b"Two_2 TWO_2.LocalHost./"),
            ("two_2.localhost", "/2015-03-31/functions/", b"Two_2 two_2.localhost/2015-03-31/functions/"),
            ("two_2.localhost", "/lambda-url/one/", b"Two_2 two_2.localhost/lambda-url/one/"),
            ("localhost", "/x", b"one localhost/x"),
            ("example.com", "/x", b"one example.com/x"),
        ):
            assert get(server, host, target).body == body
        missing = get(server, "three.localhost", "/")
        assert missing.status == 404
        assert json.loads(missing.body)["Message"] == "there is no function 'three'; the functions are one, Two_2"
        assert get(server, "lambda.localhost", "/2015-03-31/functions/").status == 200


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/%7Euser/a%2Fb//c/../d", "/%7Euser/a%2Fb//c/../d", ""),
        ("/?", "/", ""),
        ("/a?b=?c", "/a", "b=?c"),
        ("http://example.com/a?b", "/a", "b"),
        ("HTTP://example.com", "/", ""),
        ("https://example.com?b", "/", "b"),
    ],
)
def test_path_and_query_are_not_changed(echo: Server, target: str, path: str, query: str) -> None:
    event = event_of(echo.get(target))
    assert (event["rawPath"], event["rawQueryString"]) == (path, query)
