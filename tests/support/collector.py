"""A collector of telemetry on the loopback interface, for agents that export over HTTP or UDP."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.function_process import TIMEOUT


class Collector:
    """Accepts any request and keeps its path and its body, decompressed. It also receives datagrams."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self._received = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self._read_body()
                with collector._received:
                    collector.requests.append((self.path, decompressed(body)))
                    collector._received.notify_all()
                self._respond()

            do_PUT = do_POST

            def do_GET(self) -> None:
                self._respond()

            def _read_body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _respond(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind(("127.0.0.1", 0))
        self._datagrams.setblocking(False)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.datagram_address = f"127.0.0.1:{self._datagrams.getsockname()[1]}"

    def bodies(self, path: str) -> list[bytes]:
        """Return the bodies of the requests whose path contains the text."""
        return [body for found, body in self.requests if path in found]

    def wait_for(self, path: str, content: bytes) -> None:
        """Wait for a request whose path and body contain these."""
        with self._received:
            arrived = self._received.wait_for(lambda: any(content in body for body in self.bodies(path)), TIMEOUT)
        assert arrived, f"no request to {path} with {content!r}"

    def datagrams(self) -> list[Any]:
        """Return the JSON documents, each after the line of its header, that have arrived."""
        documents = []
        while True:
            try:
                documents.append(json.loads(self._datagrams.recv(65536).split(b"\n", 1)[1]))
            except BlockingIOError:
                return documents

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._datagrams.close()


def decompressed(body: bytes) -> bytes:
    if body.startswith(b"\x1f\x8b"):
        return gzip.decompress(body)
    return zlib.decompress(body) if body.startswith((b"\x78\x9c", b"\x78\xda")) else body
