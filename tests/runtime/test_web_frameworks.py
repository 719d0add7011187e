"""Applications of web frameworks behind a local Function URL, and the same applications behind their web servers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from support import http_events
from support.emulator import ROOT, FunctionFolder, Server, until
from support.web_applications import ENVIRONMENT, Exchange, exchange, needs_frameworks, serve, web_server

pytestmark = needs_frameworks

PAGE = ROOT / "docs" / "web-applications.md"

FASTAPI = """
import asyncio
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, Cookie, Depends, FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse

@asynccontextmanager
async def lifespan(app):
    print("startup", flush=True)
    yield {"visits": []}
    print("shutdown", flush=True)

app = FastAPI(lifespan=lifespan)

async def session():
    print("session opened", flush=True)
    try:
        yield "a session"
    finally:
        print("session closed", flush=True)

@app.get("/")
async def document(request: Request):
    request.state.visits.append(1)
    return {"visits": len(request.state.visits)}

@app.get("/session")
async def with_session(value: str = Depends(session)):
    return {"session": value}

@app.get("/items/{name}")
async def item(name: str, q: list[str] = None, session: str = Cookie("none")):
    return {"name": name, "q": q, "session": session}

@app.get("/scope")
async def scope(request: Request):
    return {"query": str(request.query_params), "path": request.url.path, "accept": request.headers.get("accept")}

@app.post("/form")
async def form(name: str = Form(), upload: UploadFile = File()):
    return {"name": name, "size": len(await upload.read()), "filename": upload.filename}

@app.post("/echo")
async def echo(request: Request):
    return Response(await request.body(), media_type="application/octet-stream")

@app.get("/cookies")
async def cookies(response: Response):
    response.set_cookie("first", "1", httponly=True)
    response.set_cookie("second", "2, and more")
    return {}

@app.delete("/item", status_code=204)
async def delete():
    return None

@app.get("/redirect")
async def redirect():
    return RedirectResponse("/items/b")

@app.get("/file")
async def file():
    return FileResponse("data.bin", filename="data.bin")

@app.get("/not-modified")
async def not_modified():
    return Response(status_code=304, headers={"ETag": "a"})

@app.get("/forbidden")
async def forbidden():
    raise HTTPException(403, "not for you", headers={"X-Reason": "none"})

@app.get("/broken")
async def broken():
    raise RuntimeError("broken before the start")

@app.get("/background")
async def background(tasks: BackgroundTasks):
    tasks.add_task(after)
    return {"sent": True}

async def after():
    await asyncio.to_thread(wait)
    print("background done", flush=True)

@app.get("/stream")
async def stream():
    async def words():
        yield b"one "
        await asyncio.to_thread(wait)
        yield b"two"
    return StreamingResponse(words(), media_type="text/plain")

@app.get("/events")
async def events():
    async def lines():
        for number in range(3):
            yield f"data: {number}\\n\\n"
    return StreamingResponse(lines(), media_type="text/event-stream")

@app.get("/broken-stream")
async def broken_stream():
    async def words():
        yield b"one "
        raise RuntimeError("broken after the start")
    return StreamingResponse(words())

@app.get("/endless")
async def endless():
    async def numbers():
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0)
        finally:
            notify("left")
    return StreamingResponse(numbers())
"""

UVICORN = ("uvicorn", "main:app", "--fd", "{descriptor}", "--no-access-log")
BOUNDARY = "boundary"
FORM = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="name"\r\n\r\nvalue\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="upload"; filename="a.txt"\r\n\r\nsome text\r\n'
    f"--{BOUNDARY}--\r\n"
).encode()

# Requests whose responses must be the same as those of uvicorn: method, target, headers, body.
REQUESTS: dict[str, tuple[str, str, dict[str, str], bytes | None]] = {
    "a JSON document": ("GET", "/session", {}, None),
    "a path with escapes, a repeated parameter, a cookie": (
        "GET",
        "/items/a%2Fb%20c?q=1&q=%C3%A9",
        {"Cookie": "session=s; other=o"},
        None,
    ),
    "query string, path and a header": ("GET", "/scope?a=1&a=&b=%2B+", {"Accept": "text/html, */*;q=0.1"}, None),
    "a form with a file": (
        "POST",
        "/form",
        {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
        FORM,
    ),
    "a binary body": ("POST", "/echo", {"Content-Type": "image/png"}, bytes(range(256)) * 100),
    "several cookies": ("GET", "/cookies", {}, None),
    "HEAD": ("HEAD", "/file", {}, None),
    "204": ("DELETE", "/item", {}, None),
    "304": ("GET", "/not-modified", {}, None),
    "a redirect": ("GET", "/redirect", {}, None),
    "a file": ("GET", "/file", {}, None),
    "a range of a file": ("GET", "/file", {"Range": "bytes=10-19"}, None),
    "server-sent events": ("GET", "/events", {}, None),
    "an HTTP exception": ("GET", "/forbidden", {}, None),
    "an exception before the start": ("GET", "/broken", {}, None),
    "a validation error": ("POST", "/form", {}, b"{}"),
    "not found": ("GET", "/missing", {}, None),
    "method not allowed": ("PUT", "/", {}, None),
}


@pytest.fixture(scope="module")
def fastapi_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FunctionFolder]:
    with FunctionFolder(tmp_path_factory.mktemp("fastapi") / "function", FASTAPI, "main") as function:
        (function.path / "data.bin").write_bytes(bytes(range(256)) * 4096)
        yield function


@pytest.fixture(scope="module")
def fastapi(fastapi_folder: FunctionFolder) -> Iterator[Server]:
    with serve(fastapi_folder) as server:
        yield server


@pytest.fixture(scope="module")
def uvicorn(fastapi_folder: FunctionFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with web_server(fastapi_folder.path, *UVICORN) as url:
        yield url


def documented() -> dict[str, str]:
    """The table of docs/web-applications.md: what is said about the headers, by request."""
    rows = re.findall(r"^\| (.+?) \| same \| (.+?) \| same \|$", PAGE.read_text(), re.MULTILINE)
    return dict(rows)


def test_the_documented_table_lists_the_compared_requests():
    assert list(documented()) == list(REQUESTS)


def with_content_type(response: Exchange) -> Exchange:
    """A Function URL adds a content type to a response that has none."""
    assert "content-type" not in dict(response.headers)
    return response._replace(headers=sorted([*response.headers, ("content-type", "application/octet-stream")]))


@pytest.mark.parametrize("name", REQUESTS)
def test_status_headers_and_body_are_those_of_uvicorn(fastapi, uvicorn, name):
    theirs = exchange(uvicorn, *REQUESTS[name])
    expected = theirs if documented()[name] == "same" else with_content_type(theirs)
    assert exchange(fastapi.url, *REQUESTS[name]) == expected


def test_lifespan_runs_once_and_each_request_has_a_copy_of_its_state(fastapi):
    before = fastapi.errors().count("startup")
    # Several: one that arrives while an environment still ends the request before gets another environment.
    counts = [exchange(fastapi.url, "GET", "/").body for _ in range(6)]
    assert len(set(counts)) > 1, "the copy is shallow: the list is the same"
    assert fastapi.errors().count("startup") - before < len(counts) - 1


def test_a_yield_dependency_is_closed_after_its_request(fastapi):
    closed = fastapi.errors().count("session closed")
    assert exchange(fastapi.url, "GET", "/session").status == 200
    until(lambda: fastapi.errors().count("session closed") == closed + 1)


def test_the_first_chunk_arrives_before_the_second_one_is_made(fastapi, fastapi_folder):
    with fastapi.connect() as client:
        client.send_request("GET /stream HTTP/1.1")
        status_line, headers = client.read_head()
        assert (status_line, headers["content-type"]) == ("HTTP/1.1 200 OK", "text/plain; charset=utf-8")
        assert client.read(9) == b"4\r\none \r\n"
        fastapi_folder.release()
        assert client.read(13) == b"3\r\ntwo\r\n0\r\n\r\n"


def test_a_background_task_runs_after_the_caller_has_the_whole_response(fastapi, fastapi_folder):
    assert exchange(fastapi.url, "GET", "/background").body == b'{"sent":true}'
    assert "background done" not in fastapi.errors()
    fastapi_folder.release()
    until(lambda: "background done" in fastapi.errors())


def test_an_exception_after_the_start_cuts_the_response(fastapi):
    with fastapi.connect() as client:
        client.send_request("GET /broken-stream HTTP/1.1")
        client.read_head()
        assert client.read_rest() == b"4\r\none \r\n", "without the last chunk"
    assert "broken after the start" in fastapi.errors()


ENDLESS = """
import asyncio

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()

@app.get("/")
async def document():
    return {"tasks": len(asyncio.all_tasks())}

@app.get("/endless")
async def endless():
    async def numbers():
        try:
            while True:
                yield b"number"
                await asyncio.sleep(0)
        finally:
            print("left", flush=True)
    return StreamingResponse(numbers())
"""


def test_a_response_that_the_service_refuses_ends_the_stream_and_its_tasks(runtime):
    python = [str(ENVIRONMENT.python), "/var/runtime/bootstrap.py"]
    function = runtime({"main.py": ENDLESS}, variables={"_HANDLER": "main.app"}, arguments=python)
    before = function.respond(http_events.function_url()).body
    function.expect_response(function.invoke(http_events.function_url(target="/endless")))
    while function.peer.read_chunk() != b"number":
        pass
    function.peer.reset()
    function.connect()
    assert function.respond(http_events.function_url()).body == before
    assert function.stdout == "left\n"


DJANGO = """
import asyncio

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="test", DEBUG=False)

async def words():
    yield b"one "
    await asyncio.to_thread(wait)
    yield b"two"

async def stream(request):
    return StreamingHttpResponse(words(), content_type="text/plain")

def form(request):
    response = JsonResponse({"name": request.POST.get("name"), "method": request.method, "host": request.get_host()})
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response

def broken(request):
    raise RuntimeError("broken view")

urlpatterns = [path("stream", stream), path("form", form), path("broken", broken)]
app = {make}()
"""
DJANGO_FORM = ("POST", "/form", {"Content-Type": "application/x-www-form-urlencoded"}, b"name=value&other=%C3%A9")


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_django_streams_and_reads_forms(tmp_path, interface):
    source = DJANGO.replace("{make}", f"get_{interface}_application")
    with FunctionFolder(tmp_path / "function", source, "main") as function, serve(function) as server:
        form = exchange(server.url, *DJANGO_FORM)
        assert b'"name": "value"' in form.body and b'"method": "POST"' in form.body
        assert [value.split(";")[0] for name, value in form.headers if name == "set-cookie"] == ["a=1", "b=2"]
        assert exchange(server.url, "GET", "/broken").status == 500
        if interface == "asgi":
            with server.connect() as client:
                client.send_request("GET /stream HTTP/1.1")
                client.read_head()
                assert client.read(9) == b"4\r\none \r\n"
                function.release()
                assert client.read(13) == b"3\r\ntwo\r\n0\r\n\r\n"


FLASK = """
from flask import Flask, Response, abort, jsonify, make_response, request, send_file, stream_with_context

app = Flask(__name__)

@app.get("/stream")
def stream():
    @stream_with_context
    def words():
        yield f"{request.args['name']} "
        wait()
        yield request.path
    return Response(words(), mimetype="text/plain")

@app.post("/form")
def form():
    response = make_response(jsonify(name=request.form["name"], url=request.url_root, agent=request.user_agent.string))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response

@app.post("/echo")
def echo():
    return request.get_data(), 201, {"X-Length": str(request.content_length)}

@app.get("/broken")
def broken():
    raise RuntimeError("broken view")

@app.get("/file")
def file():
    return send_file("data.bin")

@app.delete("/item")
def delete():
    return "", 204

@app.get("/abort")
def teapot():
    abort(418)
"""
FLASK_REQUESTS: dict[str, tuple[str, str, dict[str, str], bytes | None]] = {
    "a form": DJANGO_FORM,
    "a binary body": ("POST", "/echo", {"Content-Type": "image/png"}, bytes(range(256))),
    "HEAD": ("HEAD", "/file", {}, None),
    "a file": ("GET", "/file", {}, None),
    "204": ("DELETE", "/item", {}, None),
    "an abort": ("GET", "/abort", {}, None),
    "an exception": ("GET", "/broken", {}, None),
    "not found": ("GET", "/missing", {}, None),
}
GUNICORN = ("gunicorn", "main:app", "--bind", "fd://{descriptor}", "--no-control-socket")


@pytest.fixture(scope="module")
def flask_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FunctionFolder]:
    with FunctionFolder(tmp_path_factory.mktemp("flask") / "function", FLASK, "main") as function:
        (function.path / "data.bin").write_bytes(b"data" * 1000)
        yield function


@pytest.fixture(scope="module")
def flask(flask_folder: FunctionFolder) -> Iterator[Server]:
    with serve(flask_folder) as server:
        yield server


@pytest.fixture(scope="module")
def gunicorn(flask_folder: FunctionFolder) -> Iterator[str]:
    with web_server(flask_folder.path, *GUNICORN) as url:
        yield url


def without_host(response: Exchange) -> Exchange:
    """The port in `url_root` differs."""
    return response._replace(body=response.body.replace(b"localhost", b"127.0.0.1"))


@pytest.mark.parametrize("name", FLASK_REQUESTS)
def test_status_headers_and_body_are_those_of_gunicorn(flask, gunicorn, name):
    method, target, headers, body = FLASK_REQUESTS[name]
    request = (method, target, {**headers, "Host": "localhost", "User-Agent": "test"}, body)
    assert exchange(flask.url, *request) == exchange(gunicorn, *request)


def test_flask_streams_with_the_context_of_its_request(flask, flask_folder):
    with flask.connect() as client:
        client.send_request("GET /stream?name=first HTTP/1.1")
        client.read_head()
        assert client.read(11) == b"6\r\nfirst \r\n"
        flask_folder.release()
        assert client.read(17) == b"7\r\n/stream\r\n0\r\n\r\n"
