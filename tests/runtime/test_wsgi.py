"""WSGI applications as handlers: PEP 3333 from the event to the bytes of the response."""

from __future__ import annotations

import json

import pytest
from support.function_process import PEAK_MEMORY, Gate, source
from support.http_events import DOMAIN, REST_DOMAIN, function_url, rest_api
from support.http_responses import parse

VARIABLES = {"_HANDLER": "app.app"}


@pytest.fixture
def start(runtime):
    def start(code, **options):
        variables = VARIABLES | options.pop("variables", {})
        return runtime(code if isinstance(code, dict) else {"app.py": code}, variables=variables, **options)

    return start


def request(function, *arguments, event=function_url, **options):
    return parse(function.respond(event(*arguments, **options)))


# --- The environ ------------------------------------------------------------------------------------------------------

ENVIRON = """
import json

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    shown = {name: value for name, value in environ.items() if isinstance(value, (str, bool, int, tuple))}
    shown["body"] = environ["wsgi.input"].read().decode("latin-1")
    shown["event"] = environ["aws.event"]["requestContext"]["domainName"]
    shown["request id"] = environ["aws.context"].aws_request_id
    yield json.dumps(shown).encode()
"""


def environ(function, *arguments, **options):
    return json.loads(request(function, *arguments, **options).body)


def test_a_header_of_payload_1_0_counts_once_whatever_the_case_of_its_names(start):
    event = rest_api(headers={"X-Custom": ["one", "two"]})
    event["headers"] = {"x-custom": "two", "x-other": "three"}
    shown = json.loads(parse(start(ENVIRON).respond(event)).body)
    assert (shown["HTTP_X_CUSTOM"], shown["HTTP_X_OTHER"]) == ("one,two", "three")


def test_the_environ_describes_the_request(start):
    function = start(ENVIRON)
    headers = {"content-type": "text/plain", "x-custom": "a, b", "user-agent": "curl"}
    shown = environ(function, "POST", "/some/path?a=1&b=%20", headers=headers, body="text", cookies=["a=1", "b=2"])
    assert len(shown.pop("request id")) == 36
    assert shown.pop("SERVER_SOFTWARE").startswith("python-streaming-runtime/")
    assert shown == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/some/path",
        "QUERY_STRING": "a=1&b=%20",
        "REQUEST_URI": "/some/path?a=1&b=%20",
        "SERVER_NAME": DOMAIN,
        "SERVER_PORT": "443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "203.0.113.7",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "4",
        "HTTP_HOST": DOMAIN,
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_X_CUSTOM": "a, b",
        "HTTP_USER_AGENT": "curl",
        "HTTP_X_FORWARDED_PROTO": "https",
        "HTTP_X_FORWARDED_PORT": "443",
        "wsgi.version": [1, 0],
        "wsgi.url_scheme": "https",
        "wsgi.input_terminated": True,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "body": "text",
        "event": DOMAIN,
    }


def test_the_stage_of_a_rest_api_is_the_script_name(start):
    function = start(ENVIRON)
    shown = environ(function, "GET", "/items?a=1&a=2", headers={"X-A": ["1", "2"]}, event=rest_api)
    assert (shown["SCRIPT_NAME"], shown["PATH_INFO"]) == ("/prod", "/items")
    assert (shown["QUERY_STRING"], shown["HTTP_X_A"]) == ("a=1&a=2", "1,2")
    assert shown["SERVER_NAME"] == REST_DOMAIN
    assert "CONTENT_LENGTH" not in shown and shown["body"] == ""


def test_the_path_contains_the_bytes_of_the_request_as_latin_1(start):
    function = start(ENVIRON)
    shown = environ(function, "GET", "/caf%C3%A9/%FF/a%2Fb")
    assert shown["PATH_INFO"] == "/caf\u00c3\u00a9/\u00ff/a/b"
    assert shown["REQUEST_URI"] == "/caf%C3%A9/%FF/a%2Fb"


def test_a_binary_body_is_decoded(start):
    function = start(ENVIRON)
    shown = environ(function, "PUT", body=b"\xff\0\r\n", headers={"content-length": "99"})
    assert (shown["body"], shown["CONTENT_LENGTH"]) == ("\u00ff\0\r\n", "4")


def test_a_header_with_an_underscore_cannot_replace_one_with_a_hyphen(start):
    function = start(ENVIRON)
    shown = environ(function, headers={"x-forwarded-for": "203.0.113.7", "x_forwarded_for": "10.0.0.1"})
    assert shown["HTTP_X_FORWARDED_FOR"] == "203.0.113.7"


def test_the_body_can_be_read_in_parts_and_by_lines(start):
    function = start(
        """
        def app(environ, start_response):
            start_response("200 OK", [])
            stream = environ["wsgi.input"]
            parts = [stream.read(3), stream.readline(), *stream, stream.read()]
            environ["wsgi.errors"].write("to the log\\n")
            yield repr(parts).encode()
        """
    )
    received = request(function, "POST", body="onetwo\nthree\nfour")
    assert received.body == b"[b'one', b'two\\n', b'three\\n', b'four', b'']"
    assert "to the log" in function.stderr


# --- The response -----------------------------------------------------------------------------------------------------


def test_the_head_and_the_cookies(start):
    function = start(
        """
        def app(environ, start_response):
            headers = [
                ("Content-Type", "text/plain"),
                ("Set-Cookie", "a=1; Expires=Wed, 01 Jan 2031 00:00:00 GMT"),
                ("set-cookie", "b=2"),
                ("Vary", "Accept"),
                ("vary", "Cookie"),
                ("Connection", "keep-alive"),
                ("Transfer-Encoding", "chunked"),
            ]
            start_response("418 I'm a teapot", headers)
            return [b"tea"]
        """
    )
    received = request(function)
    assert received.status == 418
    assert received.headers == {"Content-Type": "text/plain", "Vary": "Accept, Cookie"}
    assert received.cookies == ["a=1; Expires=Wed, 01 Jan 2031 00:00:00 GMT", "b=2"]
    assert received.body == b"tea"


GATED = """
import os

def wait(path):
    with open(path) as gate:
        gate.read()

def app(environ, start_response):
    path = environ["HTTP_X_GATE"]
    {body}
"""
ITEMS = """
    start_response("200 OK", [])
    yield b"one"
    wait(path)
    yield b""
    yield b"two"
"""
WRITTEN = """
    write = start_response("200 OK", [])
    write(b"one")
    wait(path)
    write(b"")
    return [b"two"]
"""


@pytest.mark.parametrize("body", [ITEMS, WRITTEN], ids=["items", "write"])
def test_each_item_leaves_at_once_and_empty_ones_are_skipped(start, tmp_path, body):
    gate = Gate(tmp_path)
    function = start(GATED.replace("    {body}\n", body))
    function.expect_response(function.invoke(function_url(headers={"x-gate": gate.path})))
    function.peer.read_chunk()
    assert function.peer.read_chunk() == bytes(8)
    assert function.peer.read_chunk() == b"one"
    gate.open()
    assert function.peer.read_chunk() == b"two"
    assert function.peer.read_chunk() == b""


def test_one_large_item_exists_at_a_time(start):
    size = 16 << 20
    function = start(
        f"""
        {PEAK_MEMORY}

        def app(environ, start_response):
            start_response("200 OK", [])
            before = peak_memory()
            for _ in range(4):
                yield bytes([1]) * {size}
            yield str(peak_memory() - before).encode()
        """
    )
    assert int(function.respond(function_url()).chunks[-1]) < 1.3 * size


def test_start_response_may_come_with_the_first_item_that_is_not_empty(start):
    function = start(
        """
        def app(environ, start_response):
            yield b""
            start_response("201 Created", [])
            yield b""
            yield b"late"
        """
    )
    received = request(function)
    assert (received.status, received.chunks) == (201, [b"late"])


def test_the_head_waits_for_the_body_so_that_an_error_can_replace_it(start):
    function = start(
        """
        import sys

        def app(environ, start_response):
            start_response("200 OK", [("X-First", "yes")])
            try:
                raise ValueError("no database")
            except ValueError:
                start_response("503 Unavailable", [("X-Second", "yes")], sys.exc_info())
            return [b"later"]
        """
    )
    received = request(function)
    assert (received.status, received.headers, received.body) == (503, {"X-Second": "yes"}, b"later")


def test_after_the_head_was_sent_the_exception_of_exc_info_is_raised_again(start):
    function = start(
        """
        import sys

        def app(environ, start_response):
            start_response("200 OK", [])
            yield b"one"
            try:
                raise ValueError("no database")
            except ValueError:
                start_response("500 Internal Server Error", [], sys.exc_info())
            yield b"never"
        """
    )
    response = function.respond(function_url())
    assert response.chunks[2:] == [b"one"]
    assert response.error["errorType"] == "ValueError"
    assert response.error["stackTrace"][-1].endswith('raise ValueError("no database")\n')


@pytest.mark.parametrize(
    "case",
    [
        ("GET", "204 No Content"),
        ("GET", "304 Not Modified"),
        ("HEAD", "200 OK"),
    ],
    ids=" ".join,
)
def test_responses_without_a_body_have_a_head(start, case):
    method, status = case
    function = start(
        f"""
        def app(environ, start_response):
            start_response("{status}", [("Content-Length", "3"), ("Set-Cookie", "a=1")])
            try:
                yield b"one"
                yield b"never"
            finally:
                print("closed")
        """
    )
    received = request(function, method)
    assert (received.status, received.cookies, received.chunks) == (int(status[:3]), ["a=1"], [])
    function.expect_next()
    assert function.stdout == "closed\n"


@pytest.mark.parametrize(("method", "chunks"), [("GET", [b"one"]), ("HEAD", [])])
def test_an_application_that_yields_without_end_is_closed_when_its_response_is_complete(start, method, chunks):
    function = start(
        """
        def app(environ, start_response):
            start_response("200 OK", [("Content-Length", "3")])
            try:
                yield b"one"
                while True:
                    yield b""
            finally:
                print("closed")
        """
    )
    assert request(function, method).chunks == chunks
    function.expect_next()
    assert function.stdout == "closed\n"


def test_an_event_without_a_host_has_a_server_all_the_same(start):
    event = function_url()
    event["headers"], event["requestContext"]["domainName"] = {}, None
    shown = json.loads(parse(start(ENVIRON).respond(event)).body)
    assert (shown["SERVER_NAME"], shown["SERVER_PORT"]) == ("localhost", "443")


def test_an_empty_iterable_is_a_complete_response(start):
    function = start(
        """
        def app(environ, start_response):
            start_response("302 Found", [("Location", "/")])
            return []
        """
    )
    received = request(function)
    assert (received.status, received.headers, received.chunks) == (302, {"Location": "/"}, [])


CLOSING = """
class Items:
    def __init__(self, environ):
        self.environ = environ
        self.count = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.count += 1
        if self.environ["PATH_INFO"] == "/endless":
            return bytes(100_000)
        if self.environ["PATH_INFO"] == "/broken" and self.count == 2:
            raise ValueError("broken")
        if self.count == 3:
            raise StopIteration
        return b"item"

    def close(self):
        print("closed", flush=True)
        if self.environ["PATH_INFO"] == "/close":
            raise OSError("not released")

def app(environ, start_response):
    start_response("200 OK", [])
    return Items(environ)
"""


def test_close_is_called_whatever_happens(start):
    function = start(CLOSING)
    assert request(function).chunks == [b"item", b"item"]
    assert function.respond(function_url("GET", "/broken")).error["errorType"] == "ValueError"
    response = function.respond(function_url("GET", "/close"))
    assert (parse(response).chunks, response.trailers) == ([b"item", b"item"], {})
    function.expect_response(function.invoke(function_url("GET", "/endless")))
    function.peer.read_chunk()
    function.peer.reset()
    function.connect()
    function.expect_next()
    assert function.stdout.count("closed\n") == 4
    assert function.stdout.count("[ERROR] OSError: not released") == 1


def test_close_is_called_after_the_caller_has_the_last_chunk(start, tmp_path):
    gate = Gate(tmp_path)
    function = start(
        """
        class Items(list):
            def __init__(self, environ):
                self.path = environ["HTTP_X_GATE"]
                self.append(b"all")

            def close(self):
                with open(self.path) as gate:
                    gate.read()
                print("closed", flush=True)

        def app(environ, start_response):
            start_response("200 OK", [])
            return Items(environ)
        """
    )
    assert request(function, headers={"x-gate": gate.path}).body == b"all"
    assert function.stdout == ""
    gate.open()
    function.expect_next()
    assert function.stdout == "closed\n"


# --- Applications that break the rules --------------------------------------------------------------------------------

WRONG = {  # statements of the application, the type of the error, a part of its message
    "no start": ("return [b'body']", "InvalidResponse", "has not called start_response"),
    "no start and no body": ("return []", "InvalidResponse", "has not called start_response"),
    "two starts": ("start_response('200 OK', []); start_response('200 OK', []); return []", "InvalidResponse", "twice"),
    "None": ("start_response('200 OK', [])", "InvalidResponse", "returned None"),
    "bytes": ("start_response('200 OK', []); return b'body'", "InvalidResponse", "type bytes"),
    "text": ("start_response('200 OK', []); return ['text']", "InvalidChunk", "type str"),
    "number as status": ("start_response(200, []); return []", "InvalidResponseHead", "not 200"),
    "words as status": ("start_response('Yes', []); return []", "InvalidResponseHead", "not 'Yes'"),
    "a status below 100": ("start_response('099 Low', []); return []", "InvalidResponseHead", "from 100 to 599"),
    "bytes in a header": ("start_response('200 OK', [('A', b'1')]); return []", "InvalidResponseHead", "type bytes"),
    "a number as name": ("start_response('200 OK', [(5, 'a')]); return []", "InvalidResponseHead", "type int"),
    "a number as cookie": ("start_response('200 OK', [('Set-Cookie', 5)])", "InvalidResponseHead", "type int"),
    "a line break": ("start_response('200 OK', [('A', '1\\r\\nB: 2')])", "InvalidResponseHead", "without CR"),
    "many headers": ("start_response('200 OK', [(f'A{i}', '') for i in range(10000)])", "InvalidResponseHead", "JSON"),
    "an exception": ("raise LookupError('no such page')", "LookupError", "no such page"),
}


@pytest.fixture(scope="module")
def wrong_application():
    branches = "".join(
        f"    if environ['HTTP_X_CASE'] == {case!r}:\n"
        + "".join(f"        {statement}\n" for statement in statements.split("; "))
        for case, (statements, _, _) in WRONG.items()
    )
    return f"def wrong(environ, start_response):\n{branches}\n" + source(
        """
        def app(environ, start_response):
            if environ.get("HTTP_X_CASE"):
                return wrong(environ, start_response)
            start_response("200 OK", [])
            return [b"right"]
        """
    )


def test_each_mistake_is_a_named_error_and_the_next_request_works(start, wrong_application):
    function = start(wrong_application)
    for case, (_, error_type, text) in WRONG.items():
        _, document = function.fail(function_url(headers={"x-case": case}))
        expected = error_type if error_type == "LookupError" else f"Runtime.{error_type}"
        assert document["errorType"] == expected, case
        assert text in document["errorMessage"], case
        assert request(function).body == b"right"


LENGTH = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    try:
        for item in environ["QUERY_STRING"].split(","):
            yield item.encode()
    finally:
        print("closed", flush=True)
"""


def test_the_content_length_is_kept(start):
    function = start(LENGTH)
    assert request(function, "GET", "/?one,to").chunks == [b"one", b"to"]
    for query, chunks in (("one,two", [b"one", b"tw"]), ("one", [b"one"]), ("one,t", [b"one", b"t"])):
        response = function.respond(function_url("GET", f"/?{query}"))
        assert response.chunks[2:] == chunks
        assert response.error["errorType"] == "Runtime.InvalidResponse"
    # The application need not make what the caller would not get.
    assert request(function, "GET", "/?one,to,,,never").chunks == [b"one", b"to"]
    function.expect_next()
    assert function.stdout.count("closed\n") == 5


def test_another_event_is_an_error_that_names_the_web_application(start):
    function = start(ENVIRON)
    _, document = function.fail({"Records": []})
    assert document["errorType"] == "Runtime.InvalidEvent"
    assert "web application" in document["errorMessage"]
    assert request(function).status == 200


# --- Other people's rules and applications ----------------------------------------------------------------------------

VALIDATED = """
from wsgiref.validate import validator

class Items:
    def __init__(self, items):
        self.items = iter(items)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.items)

    def close(self):
        pass

def inner(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH", 0)))
    path = environ["PATH_INFO"]
    environ["wsgi.errors"].write("")
    if path == "/write":
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"written ")
        return Items([body])
    if path == "/none":
        start_response("204 No Content", [])
        return Items([])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Set-Cookie", "a=1")])
    return Items([body, b"", path.encode("latin-1")])

app = validator(inner)
"""


def test_the_validator_of_the_standard_library_finds_nothing(start):
    function = start(VALIDATED, variables={"STREAMING_RUNTIME_INTERFACE": "wsgi"})
    for event in (function_url, rest_api):
        assert request(function, "POST", "/echo", body="body", event=event).body == b"body/echo"
        assert request(function, "POST", "/write", body=b"\xff", event=event).body == b"written \xff"
        assert request(function, "GET", "/none", event=event).status == 204
        assert request(function, "HEAD", "/", event=event).chunks == []
        assert request(function, "GET", "/caf%C3%A9?a=b", event=event).status == 200
    function.expect_next()
    assert "Error" not in function.stderr and "never closed" not in function.stderr


def test_an_application_that_imports_sentry_is_still_an_application(start):
    code = """
        import sentry_sdk

        def app(environ, start_response):
            start_response("200 OK", [])
            return [sentry_sdk.NAME.encode()]
        """
    function = start({"app.py": code, "sentry_sdk.py": "NAME = 'sentry'"})
    assert request(function).body == b"sentry"


def test_work_after_the_response_can_be_registered(start):
    function = start(
        """
        def app(environ, start_response):
            environ["aws.context"].after_response(print, "saved")
            start_response("200 OK", [])
            return [b"all"]
        """
    )
    assert request(function).body == b"all"
    function.expect_next()
    assert function.stdout == "saved\n"


def test_each_request_has_context_variables_of_its_own(start):
    function = start(
        """
        import contextvars

        user = contextvars.ContextVar("user", default="nobody")

        def app(environ, start_response):
            start_response("200 OK", [])
            yield user.get().encode()
            user.set(environ["PATH_INFO"])
            yield user.get().encode()
        """
    )
    assert request(function, "GET", "/one").chunks == [b"nobody", b"/one"]
    assert request(function, "GET", "/two").chunks == [b"nobody", b"/two"]
