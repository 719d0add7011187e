"""What a web application gets of an event: each part of both payload formats, in its usual and unusual forms.

Each test serves all of its events with one process.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.http_events import DOMAIN, REST_DOMAIN, function_url, rest_api
from support.http_responses import parse

ECHO = """
    import json

    async def handler(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        fields = "method path root_path scheme http_version client server".split()
        shown = {name: scope[name] for name in fields}
        shown |= {name: scope[name].decode("latin-1") for name in ("raw_path", "query_string")}
        shown["headers"] = [[part.decode("latin-1") for part in header] for header in scope["headers"]]
        shown["body"] = (await receive())["body"].decode("latin-1")
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": json.dumps(shown).encode()})
    """


@pytest.fixture
def function(runtime):
    return runtime(ECHO)


def changed(event: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the event with other fields in its request context; `http_` precedes those of payload 2.0."""
    context = {**event["requestContext"], "http": {**event["requestContext"].get("http", {})}}
    for name, value in changes.items():
        (context["http"] if name.startswith("http_") else context)[name.removeprefix("http_")] = value
    if "httpMethod" in event:
        del context["http"]
    return {**event, "requestContext": context}


def check(function, cases):
    """Compare what the application gets of each event with a part of it."""
    for event, expected in cases:
        shown = json.loads(parse(function.respond(event)).body)
        assert {name: shown[name] for name in expected} == expected, event


def test_the_scheme_the_server_and_the_client(function):
    def host(name, **headers):
        headers = {"host": name, "x-forwarded-proto": "https", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return changed({**function_url(), "headers": headers}, domainName=None)

    http = function_url(headers={"x-forwarded-proto": "http", "x-forwarded-port": "80"})
    check(
        function,
        [
            (function_url(), {"scheme": "https", "server": [DOMAIN, 443], "client": ["203.0.113.7", 0]}),
            (rest_api(), {"scheme": "https", "server": [REST_DOMAIN, 443], "client": ["203.0.113.7", 0]}),
            (http, {"scheme": "http", "server": [DOMAIN, 80]}),
            (host("a.test", x_forwarded_proto="HTTP, https"), {"scheme": "http", "server": ["a.test", 80]}),
            (host("a.test", x_forwarded_proto="gopher"), {"scheme": "https", "server": ["a.test", 443]}),
            (host("a.test", x_forwarded_port="8443"), {"server": ["a.test", 8443]}),
            (host("a.test:81", x_forwarded_port="8443"), {"server": ["a.test", 81]}),
            (host("a.test", x_forwarded_port="65535"), {"server": ["a.test", 65535]}),
            (host("a.test", x_forwarded_port="65536"), {"server": ["a.test", 443]}),
            (host("a.test", x_forwarded_port="x"), {"server": ["a.test", 443]}),
            (host("[::1]:81"), {"server": ["::1", 81]}),
            (host("[::1]"), {"server": ["::1", 443]}),
            (host("::1"), {"server": ["::1", 443]}),
            (host(""), {"server": None}),
            (changed(function_url(), http_sourceIp=None), {"client": None}),
            (changed(function_url(), http_sourceIp=""), {"client": None}),
            (changed(rest_api(), identity=None), {"client": None}),
        ],
    )


def test_the_version_of_http(function):
    versions = {"HTTP/1.0": "1.0", "HTTP/2.0": "2", "HTTP/2": "2", "SPDY/3": "1.1", None: "1.1"}
    check(
        function,
        [(changed(function_url(), http_protocol=name), {"http_version": version}) for name, version in versions.items()]
        + [(changed(rest_api(), protocol="HTTP/2.0"), {"http_version": "2"})],
    )


def test_the_path_and_its_root(function):
    def stage(name, target):
        return changed(function_url(target=target), stage=name)

    def full(path, target, **changes):
        return changed(rest_api(target=target), path=path, **changes)

    check(
        function,
        [
            (stage("prod", "/prod/a"), {"root_path": "/prod", "path": "/prod/a"}),
            (stage("prod", "/prod"), {"root_path": "/prod", "path": "/prod"}),
            (stage("prod", "/product"), {"root_path": "", "path": "/product"}),
            (stage("$default", "/$default/a"), {"root_path": ""}),
            (full("/prod/a", "/a"), {"root_path": "/prod", "path": "/prod/a", "raw_path": "/prod/a"}),
            (full("/a", "/a", domainName="a.test"), {"root_path": "", "path": "/a"}),
            (full("/base/a", "/a", domainName="a.test"), {"root_path": "/base", "path": "/base/a"}),
            (full("/prod/a%20b", "/a b"), {"root_path": "/prod", "raw_path": "/prod/a%20b", "path": "/prod/a b"}),
            (full(None, "/a"), {"root_path": "/prod"}),
            (full("/other", "/a"), {"root_path": "/prod"}),
            (full("/other", "/a", domainName="a.test"), {"root_path": ""}),
            (full(None, "/a", stage="$default"), {"root_path": ""}),
            (full(None, "/a", stage=""), {"root_path": ""}),
            (full(None, "/a", stage=5), {"root_path": ""}),
            (stage(5, "/5/a"), {"root_path": ""}),
            ({**function_url(), "rawPath": "/\ud800"}, {"raw_path": "/%ED%A0%80", "path": "/\ud800"}),
            (function_url(target="/a\tb"), {"raw_path": "/a%09b", "path": "/a\tb"}),
            (function_url(target="/é/\u20ac\n%41"), {"raw_path": "/%C3%A9/%E2%82%AC%0A%41", "path": "/é/\u20ac\nA"}),
        ],
    )


def test_the_query(function):
    single = {"multiValueQueryStringParameters": None, "queryStringParameters": {"a": "1", "b": "ö &"}}
    check(
        function,
        [
            (function_url(target="/?a=1&a=%20"), {"query_string": "a=1&a=%20"}),
            ({**function_url(), "rawQueryString": None}, {"query_string": ""}),
            ({**function_url(), "rawQueryString": 5}, {"query_string": ""}),
            (rest_api(target="/?a=1&b=&a=%2B+"), {"query_string": "a=1&a=%2B%20&b="}),
            ({**rest_api(), **single}, {"query_string": "a=1&b=%C3%B6%20%26"}),
            ({**rest_api(), **single, "queryStringParameters": {"a": "\ud800"}}, {"query_string": "a=%ED%A0%80"}),
            (rest_api(), {"query_string": ""}),
        ],
    )


def test_headers_cookies_and_the_body(function):
    def shown(headers, body=""):
        return {"headers": headers, "body": body}

    url, rest = {**function_url(), "headers": {}}, {**rest_api(), "headers": None, "multiValueHeaders": None}
    check(
        function,
        [
            ({**url, "headers": {"A": "é", "B": "\u20ac"}}, shown([["a", "é"], ["b", "\xe2\x82\xac"]])),
            ({**url, "headers": {"A": "\ud800"}}, shown([["a", "\xed\xa0\x80"]])),
            ({**url, "headers": None}, shown([])),
            ({**url, "headers": {"Cookie": "a=1"}}, shown([["cookie", "a=1"]])),
            (
                {**url, "headers": {"cookie": "a=1", "x": "y"}, "cookies": ["b=2", "c=3"]},
                shown([["x", "y"], ["cookie", "b=2; c=3"]]),
            ),
            ({**rest, "headers": {"A": "1"}}, shown([["a", "1"]])),
            (
                {**rest, "multiValueHeaders": {"Cookie": ["a=1", "b=2"], "A": ["1", "2"]}},
                shown([["a", "1"], ["a", "2"], ["cookie", "a=1; b=2"]]),
            ),
            ({**rest, "body": None}, shown([])),
            ({**url, "body": "é"}, shown([], "\xc3\xa9")),
            ({**url, "body": "/w==", "isBase64Encoded": True}, shown([], "\xff")),
            (changed(url, http_method="patch"), {"method": "PATCH"}),
        ],
    )


def test_other_events_are_errors_that_name_what_is_wrong(function):
    url, rest = function_url(), rest_api()
    for event, message in [
        ({**url, "cookies": ["a=1", 2]}, "cookies is not a list of strings"),
        ({**url, "cookies": "a=1"}, "cookies is not a list of strings"),
        ({**url, "body": "a=b", "isBase64Encoded": True}, "body cannot be decoded"),
        ({**url, "body": "aG!kh", "isBase64Encoded": True}, "body cannot be decoded"),
        ({**url, "headers": {"a": 1}}, "the header a is a value of type int"),
        ({**url, "headers": ["a"]}, "headers is a value of type list"),
        ({**url, "rawPath": ""}, "rawPath is empty"),
        ({**url, "version": "3.0"}, "it has the keys"),
        (changed(url, http_method=None), "method is None"),
        ({**rest, "multiValueHeaders": {"a": "1"}}, "multiValueHeaders contains a value of type str"),
        ({**rest, "httpMethod": None}, "httpMethod is None"),
        (changed(rest, elb={"targetGroupArn": "arn"}), "it has the keys"),
        ({**url, "requestContext": None}, "it has the keys"),
    ]:
        _, document = function.fail(event)
        assert document["errorType"] == "Runtime.InvalidEvent"
        assert message in document["errorMessage"], event
