"""The web applications of docs/ run behind the local Function URL, and each way of migrating is followed."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from support import documents
from support.checkout import ROOT
from support.emulator import WAIT, Result, Server, run, until
from support.http_events import function_url
from support.package_environments import FRAMEWORKS

needs_frameworks = pytest.mark.skipif(not FRAMEWORKS.is_prepared, reason=FRAMEWORKS.reason_to_skip)
MAIN = (FRAMEWORKS.python, ROOT / "main.py")


def only(page: str, word: str) -> str:
    (block,) = (block for block in documents.blocks("python", [page]) if word in block.text)
    return block.text


class Received(NamedTuple):
    status: int
    cookies: list[str] | None
    body: bytes


class Application:
    """An application of docs/ behind its local Function URL."""

    def __init__(self, folder: Path, source: str) -> None:
        folder.mkdir()
        self.path = folder / "main.py"
        self.path.write_text(source)
        self.server = Server(folder, "--handler", "main.app", command=MAIN)

    def request(self, method: str, target: str, body: object = None) -> Received:
        connection = http.client.HTTPConnection(urlsplit(self.server.url).netloc, timeout=WAIT)
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"}
            connection.request(method, target, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return Received(response.status, response.headers.get_all("set-cookie"), response.read())

    def chunks(self, target: str) -> list[bytes]:
        """Return the body of a response as it arrives."""
        with self.server.connect() as client:
            client.send_request(f"GET {target} HTTP/1.1")
            status_line, headers = client.read_head()
            assert " 200 " in status_line and headers["transfer-encoding"] == "chunked"
            chunks = []
            while size := int(client.read_line(), 16):
                chunks.append(client.read(size))
                assert client.read(2) == b"\r\n"
            return chunks


@pytest.fixture(scope="module")
def flask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    application = Application(tmp_path_factory.mktemp("flask") / "app", only("docs/web-frameworks.md", "from flask"))
    with application.server:
        yield application


@pytest.fixture(scope="module")
def fastapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    source = only("docs/web-frameworks.md", "from fastapi")
    application = Application(tmp_path_factory.mktemp("fastapi") / "app", source)
    with application.server:
        yield application


# --- Flask ------------------------------------------------------------------------------------------------------------


@needs_frameworks
def test_each_row_of_the_flask_report_is_sent_when_it_is_made(flask: Application) -> None:
    assert flask.chunks("/report?rows=3") == [b"number,square\n", b"0,0\n", b"1,1\n", b"2,4\n"]


@needs_frameworks
def test_flask_sets_two_cookies_in_a_response_without_a_body(flask: Application) -> None:
    response = flask.request("POST", "/login", {"user": "ada"})
    assert (response.status, response.body) == (204, b"")
    assert response.cookies == ["session=ada; HttpOnly; Path=/", "theme=dark; Path=/"]


@needs_frameworks
def test_a_changed_application_serves_the_next_request(flask: Application) -> None:
    assert json.loads(flask.request("GET", "/").body) == {"try": "/report?rows=3"}
    flask.path.write_text(flask.path.read_text().replace("/report?rows=3", "/report"))
    assert json.loads(flask.request("GET", "/").body) == {"try": "/report"}
    assert "main.py has changed" in flask.server.errors()


@needs_frameworks
def test_an_unknown_path_is_the_404_of_the_framework(flask: Application) -> None:
    assert flask.request("GET", "/nowhere").status == 404


# --- FastAPI ----------------------------------------------------------------------------------------------------------


@needs_frameworks
def test_each_token_of_the_fastapi_answer_is_sent_when_it_is_made(fastapi: Application) -> None:
    expected = [f'data: "{word}"\n\n'.encode() for word in ("You", "asked:", "hello")]
    for _ in range(2):
        assert fastapi.chunks("/answer?prompt=hello") == [*expected, b"event: end\ndata: {}\n\n"]
    saved = 'saved {"prompt": "hello", "answer": ["You", "asked:", "hello"]}'
    until(lambda: fastapi.server.errors().count(saved) == 2)
    until(lambda: fastapi.server.errors().count("REPORT RequestId") == fastapi.server.errors().count("START RequestId"))
    # Once for each environment: a request that arrives while the background task of another runs gets a second one.
    assert fastapi.server.errors().count("model opened") == fastapi.server.errors().count("Init Duration")


@needs_frameworks
def test_fastapi_serves_json_and_its_own_errors(fastapi: Application) -> None:
    assert json.loads(fastapi.request("GET", "/").body) == {"try": "/answer?prompt=hello"}
    assert fastapi.request("GET", "/answer").status == 422


def with_middleware(source: str) -> str:
    """Return an application with the middleware of the page."""
    middleware = only("docs/web-frameworks.md", "class FlushAfterResponse")
    return f"{middleware}\n\n{source}\n\napp.add_middleware(FlushAfterResponse, flush=lambda: print('flushed'))\n"


@needs_frameworks
def test_the_middleware_flushes_after_each_response(tmp_path: Path) -> None:
    source = with_middleware(only("docs/web-frameworks.md", "from fastapi"))
    event = function_url("GET", "/answer?prompt=hello")
    result = one_shot(tmp_path, source, event, "--handler", "lambda_function.app", command=MAIN)
    assert result.err.count("flushed") == 1
    assert result.err.index("saved") < result.err.index("flushed") < result.err.index("END RequestId")


# --- Migrating --------------------------------------------------------------------------------------------------------


def one_shot(folder: Path, source: str, event: Any, *arguments: str, **options: Any) -> Result:
    (folder / "lambda_function.py").write_text(source)
    return run("--function", folder, "--event", json.dumps(event), *arguments, **options)


def parts(out: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the prelude and the body of a response."""
    prelude, _, body = out.partition(bytes(8))
    return json.loads(prelude), body


@pytest.mark.long
@needs_frameworks
def test_the_application_behind_mangum_gives_the_same_response_as_the_handler(tmp_path: Path) -> None:
    source = only("docs/migrating.md", "Mangum(app)")
    event = function_url("GET", "/hello?name=Ada")
    result = one_shot(tmp_path, source, event, "--handler", "lambda_function.app", command=MAIN)
    head, body = parts(result.out)
    script = "import json, sys, lambda_function; print(json.dumps(lambda_function.handler(json.load(sys.stdin), None)))"
    done = subprocess.run(
        [FRAMEWORKS.python, "-c", script], cwd=tmp_path, input=json.dumps(event), capture_output=True, text=True
    )
    expected = json.loads(done.stdout)
    assert (head["statusCode"], head["headers"], body.decode()) == (
        expected["statusCode"],
        expected["headers"],
        expected["body"],
    )
    assert json.loads(body) == {"message": "Hello Ada", "path": "/hello"}


@needs_frameworks
def test_the_handler_of_mangum_itself_is_an_error_that_names_the_fix(tmp_path: Path) -> None:
    event = function_url("GET", "/hello")
    result = one_shot(tmp_path, only("docs/migrating.md", "Mangum(app)"), event, command=MAIN)
    assert result.code == 1 and "Runtime.InvalidHandler" in result.err


def test_the_request_context_is_found_behind_the_web_adapter_and_here() -> None:
    names: dict[str, Any] = {}
    exec(only("docs/migrating.md", "x-amzn-request-context"), names)
    event = function_url()
    behind_the_adapter = [(b"x-amzn-request-context", json.dumps(event["requestContext"]).encode())]
    assert names["request_context"]({"headers": behind_the_adapter}) == event["requestContext"]
    assert names["request_context"]({"headers": [], "aws.event": event}) == event["requestContext"]
    assert names["request_context"]({"headers": []}) == {}


@pytest.mark.long
def test_a_resolver_of_powertools_and_a_stream_share_a_handler(tmp_path: Path) -> None:
    pytest.importorskip("aws_lambda_powertools")
    source = only("docs/migrating.md", "LambdaFunctionUrlResolver")

    def call(path: str) -> tuple[dict[str, Any], bytes]:
        handler = ("--handler", "lambda_function.lambda_handler")
        return parts(one_shot(tmp_path, source, function_url("GET", path), *handler).out)

    head, body = call("/hello")
    assert head["statusCode"] == 200 and json.loads(body) == {"message": "Hello"}
    assert call("/nowhere")[0]["statusCode"] == 404
    assert call("/tokens")[1] == b'data: "one "\n\ndata: "token "\n\ndata: "at a time"\n\n'


def test_a_handler_that_writes_to_a_stream_becomes_a_generator(tmp_path: Path) -> None:
    source = only("docs/migrating.md", "def streamed")
    result = one_shot(tmp_path, source, {"sentence": "one two"}, "--handler", "lambda_function.lambda_handler")
    assert result.code == 0, result.err
    assert parts(result.out)[1] == b"one\ntwo\n"
    failed = one_shot(tmp_path, source, {}, "--handler", "lambda_function.lambda_handler")
    assert failed.code == 1 and "KeyError" in failed.err


@pytest.mark.long
def test_a_handler_that_writes_to_a_stream_ends_when_the_caller_leaves(tmp_path: Path) -> None:
    script = only("docs/migrating.md", "def streamed") + (
        "\n\n"
        "ended = threading.Event()\n\n\n"
        "@streamed\n"
        "def endless(event, response_stream, context):\n"
        "    try:\n"
        "        while True:\n"
        "            response_stream.write(b'more')\n"
        "    except BrokenPipeError:\n"
        "        ended.set()\n\n\n"
        "items = endless({}, None)\n"
        "assert next(items) == b'more'\n"
        "items.close()\n"
        "assert ended.wait(20)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=WAIT)
