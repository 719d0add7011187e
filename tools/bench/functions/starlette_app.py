"""The Starlette application that is measured: a small document, and a stream of time stamps."""

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route


async def document(request: Request) -> JSONResponse:
    return JSONResponse({"message": "hello"})


async def stream(request: Request) -> StreamingResponse:
    chunks, pause_us = int(request.query_params["chunks"]), int(request.query_params["pause_us"])

    async def stamps() -> AsyncIterator[bytes]:
        for _ in range(chunks):
            await asyncio.sleep(pause_us / 1_000_000)
            yield b"%020d" % time.monotonic_ns()

    return StreamingResponse(stamps())


app = Starlette(routes=[Route("/", document), Route("/stream", stream)])
