"""The Flask application that is measured: a small document, and a stream of time stamps."""

import time
from collections.abc import Iterator

from flask import Flask, Response, request

app = Flask(__name__)


@app.get("/")
def document() -> dict[str, str]:
    return {"message": "hello"}


@app.get("/stream")
def stream() -> Response:
    chunks, pause_us = int(request.args["chunks"]), int(request.args["pause_us"])

    def stamps() -> Iterator[bytes]:
        for _ in range(chunks):
            time.sleep(pause_us / 1_000_000)
            yield b"%020d" % time.monotonic_ns()

    return Response(stamps())
