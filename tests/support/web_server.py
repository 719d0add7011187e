"""A web server on loopback with the responses that a test defines; it records the requested paths."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_INTERVAL = 0.01  # seconds, between two checks whether the server has been stopped


class Request(http.server.BaseHTTPRequestHandler):
    server: WebServer

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.server.responses[self.path](self)

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


Respond = Callable[[Request], object]


class WebServer(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.requests: list[str] = []
        self.responses: dict[str, Respond] = {}

    def serve(self, path: str, response: bytes | Respond) -> str:
        """Respond to requests for `path` with these bytes, or by calling `response`. Return the URL."""
        self.responses[path] = (lambda request: send(request, response)) if isinstance(response, bytes) else response
        return f"http://127.0.0.1:{self.server_port}{path}"


def send(request: Request, data: bytes, length: int | None = None) -> None:
    """Respond with `data` as the body. `length` is the Content-Length; None for the length of `data`."""
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
