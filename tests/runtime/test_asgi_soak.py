"""Many requests to an ASGI application, whose callers leave at random: nothing of one request is left for the next."""

from __future__ import annotations

import json
import random

import pytest
from support.function_process import source
from support.http_events import function_url
from support.http_responses import parse

MAX_GROWTH = 1024  # KiB

APPLICATION = """
import asyncio
import gc
import json
import os


async def stream(scope, receive, send):
    # As Starlette: send in one task, wait for the disconnect in another, cancel the one that remains.
    async def send_all():
        await send({"type": "http.response.start", "status": 200})
        for number in range(int(scope["query_string"])):
            chunk = b"%b %d\\n" % (scope["path"].encode(), number)
            await send({"type": "http.response.body", "body": chunk * 500, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body"})

    async def wait_for_disconnect():
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.create_task(send_all()), asyncio.create_task(wait_for_disconnect())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    if scope["path"] != "/state":
        return await stream(scope, receive, send)
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    state = {"tasks": len(asyncio.all_tasks()), "descriptors": len(os.listdir("/proc/self/fd")), "resident": resident}
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": json.dumps(state).encode()})
"""


def leave(function, generator):
    """Read a random number of chunks; then close, reset or refuse."""
    for _ in range(generator.randrange(6)):
        if not function.peer.read_chunk():
            break
    how = generator.choice(["close", "reset", "refuse"])
    if how == "refuse":
        function.peer.send(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
        how = "close"
    getattr(function.peer, how)()
    function.connect()


@pytest.mark.parametrize("requests", [200, pytest.param(10_000, marks=pytest.mark.long)])
def test_callers_that_leave_at_random_leave_nothing_behind(runtime, requests):
    function = runtime({"main.py": source(APPLICATION)}, variables={"_HANDLER": "main.app"})
    generator = random.Random(requests)

    def state():
        return json.loads(parse(function.respond(function_url(target="/state"))).body)

    before = None
    for number in range(requests):
        if number == requests // 10:
            before = state()
        count = generator.randrange(30)
        request_id = function.invoke(function_url(target=f"/{number}?{count}"))
        if generator.random() < 0.4:
            function.expect_response(request_id)
            leave(function, generator)
        else:
            expected = [b"/%d %d" % (number, each) for each in range(count)]
            chunks = parse(function.read_response(request_id)).chunks
            function.accept()
            assert [set(chunk.splitlines()) for chunk in chunks] == [{line} for line in expected]
    after = state()
    assert (after["tasks"], after["descriptors"]) == (before["tasks"], before["descriptors"])
    assert after["resident"] - before["resident"] <= MAX_GROWTH
    assert function.stdout == ""
