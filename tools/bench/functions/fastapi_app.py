"""The FastAPI application that is measured: a small document, and a stream of time stamps."""

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


@app.get("/")
async def document() -> dict[str, str]:
    return {"message": "hello"}


@app.get("/stream")
async def stream(chunks: int, pause_us: int) -> StreamingResponse:
    async def stamps() -> AsyncIterator[bytes]:
        for _ in range(chunks):
            await asyncio.sleep(pause_us / 1_000_000)
            yield b"%020d" % time.monotonic_ns()

    return StreamingResponse(stamps())
