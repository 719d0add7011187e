"""The rules of asgion, a checker of the ASGI protocol, around applications that the layer calls.

It observes the scopes and events of the layer as well as those of the application, for HTTP and for the lifespan.
"""

from __future__ import annotations

import json

import pytest
from support import http_events
from support.web_applications import ENVIRONMENT, needs_frameworks

pytestmark = needs_frameworks

APPLICATIONS = {
    "starlette": """
import asyncio
from contextlib import asynccontextmanager

from asgion import Inspector
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

@asynccontextmanager
async def lifespan(app):
    yield {"started": True}

async def echo(request):
    return Response(await request.body(), headers={"X-Started": str(request.state.started)})

async def cookies(request):
    response = JSONResponse(request.cookies, background=BackgroundTask(asyncio.sleep, 0))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response

async def stream(request):
    async def words():
        yield b"one"
        yield b""
        yield b"two"
    return StreamingResponse(words())

async def broken(request):
    raise ValueError("broken")

async def violations(request):
    return JSONResponse([f"{each.rule_id} {each.message}" for each in app.violations])

routes = [
    Route("/echo", echo, methods=["GET", "POST"]),
    Route("/cookies", cookies),
    Route("/stream", stream),
    Route("/broken", broken),
    Route("/violations", violations),
]
app = Inspector(Starlette(routes=routes, lifespan=lifespan))
""",
    "a bare application": """
import json

from asgion import Inspector

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (event := await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    if scope["path"].endswith("/violations"):
        found = [f"{each.rule_id} {each.message}" for each in app.violations]
        await send({"type": "http.response.body", "body": json.dumps(found).encode()})
        return
    await send({"type": "http.response.body", "body": b"one", "more_body": True})
    await send({"type": "http.response.body", "body": b"two"})
    assert (await receive())["type"] == "http.disconnect"

app = Inspector(application)
""",
}
# Rules about the application, which these break on purpose, and remarks.
NOT_OF_THE_LAYER = {
    "HF-010": "remark: the response is a stream",
    "HF-011": "the application sends a body in response to HEAD; the layer drops it",
    "LF-010": "remark: the lifespan has a state",
    "SEM-002": "the application sends no content type",
    "SEM-013": "the application sends text without a charset",
}


def function_url(method: str, target: str, headers: dict[str, str] | None = None, body: bytes | str | None = None):
    return http_events.function_url(method, target, headers, body, ["a=1", "b=2"])


def rest_api(method: str, target: str, headers: dict[str, str] | None = None, body: bytes | str | None = None):
    lists = {name: [value] for name, value in (headers or {}).items()}
    return http_events.rest_api(method, target, {**lists, "cookie": ["a=1", "b=2"]}, body)


@pytest.mark.parametrize("name", APPLICATIONS)
@pytest.mark.parametrize("make", [function_url, rest_api])
def test_no_rule_is_violated(runtime, name, make):
    function = runtime(
        {"main.py": APPLICATIONS[name]},
        variables={"_HANDLER": "main.app"},
        arguments=[str(ENVIRONMENT.python), "/var/runtime/bootstrap.py"],
    )
    requests = [
        make("GET", "/echo"),
        make("POST", "/echo?a=1&b=%C3%A9", {"content-type": "text/plain"}, "body"),
        make("POST", "/echo", {"content-type": "image/png"}, b"\xff" * 100_000),
        make("GET", "/cookies"),
        make("HEAD", "/stream"),
        make("GET", "/stream"),
        make("GET", "/broken"),
        make("GET", "/m%2Fissing"),
    ]
    for request in requests:
        function.respond(request)
    found = json.loads(function.respond(make("GET", "/violations")).body.partition(bytes(8))[2])
    assert [violation for violation in found if not violation.startswith(tuple(NOT_OF_THE_LAYER))] == []


# Rules about what an application should do, by what these applications do on purpose.
