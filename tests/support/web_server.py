"""A web server on loopback with the responses that a test defines; it records the requested paths."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_INTERVAL = 0.01  # seconds, after which it sees that it is to end


class Request(http.server.BaseHTTPRequestHandler):
    server: WebServer

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.answers[self.path](self)

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


Answer = Callable[[Request], object]


class WebServer(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.asked: list[str] = []
        self.answers: dict[str, Answer] = {}

    def serve(self, path: str, answer: bytes | Answer) -> str:
        """Answer requests for ``path`` with the bytes, or as the function does, and give its URL."""
        self.answers[path] = (lambda request: send(request, answer)) if isinstance(answer, bytes) else answer
        return f"http://127.0.0.1:{self.server_port}{path}"


def send(request: Request, data: bytes, length: int | None = None) -> None:
    """Answer with ``data`` in a body with ``length`` bytes as its Content-Length (None: as many as it has)."""
    request.head(200, Content_Length=len(data) if length is None else length)
    request.wfile.write(data)


@contextmanager
def running() -> Iterator[WebServer]:
    with WebServer() as server:
        threading.Thread(target=server.serve_forever, args=[POLL_INTERVAL]).start()
        try:
            yield server
        finally:
            server.shutdown()
