"""Replaces the conftest of Starlette's own tests: its `TestClient` reaches the application through the layer.

Each client has a runtime of its own in a thread, with the real loop, and this file is its Runtime API on a socket. A
request becomes an event of a Function URL, and the streamed response becomes the response of the client again. Only
WebSockets, which Lambda does not have, still take the way of Starlette's own client.
"""

from __future__ import annotations

import base64
import contextlib
import contextvars
import json
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
import runtime
from starlette.testclient import TestClient
from streaming_runtime import api, interface, log

from support.function_process import Peer, Request

ADDED_HEADER = "x-forwarded-proto"  # by Function URLs; the tests do not expect it


class Observer:
    """The application with its exceptions recorded, and without what only a Function URL adds."""

    def __init__(self, app: Any, has_lifespan: bool, state: dict[str, Any]) -> None:
        self._app = app
        self._has_lifespan = has_lifespan
        self._state = state
        self.errors: list[BaseException] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" and not self._has_lifespan:
            raise RuntimeError("a client outside of a `with` block runs no lifespan")
        if scope["type"] == "http":
            scope["headers"] = [field for field in scope["headers"] if field[0] != ADDED_HEADER.encode()]
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            self.errors.append(error)
            raise


class RuntimeThread:
    """The layer's loop with one application, and its Runtime API."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._peer: Peer | None = None
        self._failure: BaseException | None = None
        context = contextvars.copy_context()  # as if the application was imported here
        self._thread = threading.Thread(target=context.run, args=[self._run], daemon=True)
        self._thread.start()
        self.await_next()

    def _run(self) -> None:
        address = self._listener.getsockname()
        try:
            output = log.Log()
            client = api.RuntimeApi(f"{address[0]}:{address[1]}", output)
            runtime.run(client, interface.make_handler(self.observer, output), output)
        except BaseException as error:
            self._failure = error
        finally:
            with contextlib.suppress(OSError):
                socket.create_connection(address).close()  # ends a wait for `next`

    def await_next(self) -> None:
        """Wait until the runtime asks for an invocation. Raises the error with which it ended, if it has ended."""
        while True:
            if self._peer is None:
                self._peer = Peer(self._listener.accept()[0])
            request = self._peer.read_request()
            if request is not None:
                assert request.path.endswith("/next"), request.line
                return
            self._peer.close()
            self._peer = None
            if self._failure is not None:
                raise self.observer.errors[-1] if self.observer.errors else self._failure

    def invoke(self, event: dict[str, Any]) -> Request:
        """Send an invocation, and return the head of the request that responds to it."""
        body = json.dumps(event).encode()
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: 1\r\n"
            f"Lambda-Runtime-Deadline-Ms: 4102444800000\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.observer.errors.clear()
        assert self._peer is not None
        self._peer.send(head.encode() + body)
        request = self._peer.read_request()
        assert request is not None
        return request

    def chunks(self) -> Iterator[bytes]:
        """Yield the chunks of a streamed response. Raises the application's error if the trailers contain one."""
        assert self._peer is not None
        while chunk := self._peer.read_chunk():
            yield chunk
        self._peer.read_trailers()
        self.accept()

    def accept(self) -> None:
        """Accept the response and wait for the next `next`: the application has ended then."""
        assert self._peer is not None
        self._peer.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        self.await_next()

    def leave(self) -> None:
        """Close the connection in the middle of a response, as the service does if it refuses the rest."""
        if self._peer is not None:
            self._peer.reset()
            self._peer = None
            self.await_next()

    def stop(self) -> None:
        """End the loop, which ends the lifespan. Raises the application's error."""
        self.observer.errors.clear()
        if self._peer is not None:
            self._peer.send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
            self._peer.close()
        self._thread.join(30)
        self._listener.close()
        assert not self._thread.is_alive()
        if self.observer.errors:
            raise self.observer.errors[-1]


class Body(httpx.SyncByteStream):
    """The body of a response, as it arrives."""

    def __init__(self, thread: RuntimeThread, chunks: Iterator[bytes], raises: bool) -> None:
        self._thread = thread
        self._chunks = chunks
        self._raises = raises
        self._is_complete = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        self._is_complete = True
        if self._raises and self._thread.observer.errors:
            raise self._thread.observer.errors[0]

    def close(self) -> None:
        if not self._is_complete:
            self._thread.leave()


class RuntimeTransport(httpx.BaseTransport):
    def __init__(self, client: RuntimeClient, of_websockets: httpx.BaseTransport, raises: bool, root_path: str) -> None:
        self._client = client
        self._of_websockets = of_websockets
        self._raises = raises
        self._root_path = root_path

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme in ("ws", "wss"):
            return self._of_websockets.handle_request(request)
        thread = self._client.runtime()
        sent = thread.invoke(self._event(request))
        if sent.path.endswith("/error"):
            thread.accept()
            if self._raises and thread.observer.errors:
                raise thread.observer.errors[0]
            return httpx.Response(500, request=request)
        chunks = thread.chunks()
        prelude = json.loads(next(chunks))
        assert next(chunks) == bytes(8)
        headers = [*prelude["headers"].items(), *(("set-cookie", value) for value in prelude["cookies"])]
        body = Body(thread, chunks, self._raises)
        return httpx.Response(prelude["statusCode"], headers=headers, stream=body, request=request)

    def _event(self, request: httpx.Request) -> dict[str, Any]:
        raw_path, _, query = request.url.raw_path.decode("ascii").partition("?")
        headers: dict[str, str] = {ADDED_HEADER: request.url.scheme}
        cookies = []
        for name, value in request.headers.multi_items():
            if name == "cookie":
                cookies.append(value)
            else:
                headers[name] = f"{headers[name]},{value}" if name in headers else value
        return {
            "version": "2.0",
            "rawPath": raw_path,
            "rawQueryString": query,
            "headers": headers,
            **({"cookies": cookies} if cookies else {}),
            "body": base64.b64encode(request.read()).decode(),
            "isBase64Encoded": True,
            "requestContext": {
                "domainName": request.url.host,
                "stage": urllib.parse.unquote(self._root_path.strip("/")) or "$default",
                "http": {
                    "method": request.method,
                    "path": raw_path,
                    "protocol": "HTTP/1.1",
                    "sourceIp": "testclient",
                    "userAgent": "testclient",
                },
            },
        }

    def close(self) -> None:
        self._client.stop()


class RuntimeClient(TestClient):
    def __init__(self, app: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(app, *args, **kwargs)
        raises = kwargs.get("raise_server_exceptions", True)
        self._transport = RuntimeTransport(self, self._transport, raises, kwargs.get("root_path", ""))
        self._thread: RuntimeThread | None = None

    def runtime(self, has_lifespan: bool = False) -> RuntimeThread:
        if self._thread is None:
            self._thread = RuntimeThread(Observer(self.app, has_lifespan, self.app_state))
        return self._thread

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()

    def __enter__(self) -> RuntimeClient:
        self.stop()
        self.runtime(has_lifespan=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The layer runs applications on asyncio."""
    return request.param


@pytest.fixture
def test_client_factory() -> Iterator[Any]:
    made: list[RuntimeClient] = []

    def make(*args: Any, **kwargs: Any) -> RuntimeClient:
        made.append(RuntimeClient(*args, **kwargs))
        return made[-1]

    yield make
    for client in made:
        client.stop()
