"""A Runtime API that hands out many invocations at once, with faults, and accounts for each of them.

It knows nothing of the layer. It parses HTTP itself, on one event loop, and records how each invocation ends:

    response     a whole response, with or without an error in its trailers
    error        a report to /error
    truncated    the connection ended within the response
"""

from __future__ import annotations

import asyncio
import json
import random
import select
import time
from collections import Counter
from typing import Any


class Invocation:
    """One invocation, and everything that ended it."""

    def __init__(self, number: int, event: dict[str, Any]) -> None:
        self.request_id = f"request-{number}"
        self.invocation_id = f"attempt-{number}"
        self.event = {**event, "token": f"token-{number}"}
        self.ends: list[tuple[str, bytes]] = []
        self.ended = asyncio.Event()

    @property
    def token(self) -> str:
        return str(self.event["token"])

    def end(self, kind: str, content: bytes) -> None:
        self.ends.append((kind, content))
        self.ended.set()


def has_ended(writer: asyncio.StreamWriter) -> bool:
    """Return whether the peer has ended the connection.

    `StreamReader.at_eof` is late on a busy machine. An invocation would then be written to a connection that nobody
    reads any more, and nobody could report it.
    """
    poller = select.poll()
    poller.register(writer.get_extra_info("socket"), select.POLLRDHUP)
    return bool(poller.poll(0))


class StressApi:
    """The server.

    Args:
        events: of all invocations.
        faults: the probability of a fault of the server at each step.
        crowd: how many invocations run at a time before the server reads the first response.
    """

    def __init__(self, events: list[dict[str, Any]], faults: float, crowd: int = 0, seed: int = 1) -> None:
        self._crowd = crowd
        self._is_crowded = asyncio.Event()
        self.invocations = [Invocation(number, event) for number, event in enumerate(events)]
        self.by_id = {invocation.request_id: invocation for invocation in self.invocations}
        self.violations: list[str] = []
        self.init_errors = 0
        self.running = 0
        self.most_running = 0
        self.counts: Counter[str] = Counter()
        self._waiting = list(reversed(self.invocations))
        self._faults = faults
        self._random = random.Random(seed)
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self) -> int:
        """Listen. Return the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        self._server.close()
        for writer in self._open.values():
            writer.close()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _fails(self) -> bool:
        return self._random.random() < self._faults

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            del self._open[task]
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request. Return whether the connection can serve another."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        fields = {name.lower(): value for name, _, value in (field.partition(": ") for field in lines)}
        path = line.split(" ")[1]
        if path.endswith("/next"):
            return await self._next(reader, writer)
        if path.endswith("/init/error"):
            self.init_errors += 1
            await reader.readexactly(int(fields["content-length"]))
            return await self._respond(writer, 202)
        *_, request_id, kind = path.split("/")
        invocation = self.by_id[request_id]
        if fields.get("lambda-runtime-invocation-id") != invocation.invocation_id:
            self.violations.append(f"{path} with the invocation id {fields.get('lambda-runtime-invocation-id')}")
        await self._is_crowded.wait()
        if kind == "error":
            body = await reader.readexactly(int(fields["content-length"]))
        else:
            body = await self._read_chunks(reader, invocation)
        self._end(invocation, kind, body)
        if self._fails():
            self.counts["refused"] += 1
            return await self._respond(writer, self._random.choice([400, 410, 413]))
        return await self._respond(writer, 202) and not self._fails()  # or the connection closes while it is idle

    async def _read_chunks(self, reader: asyncio.StreamReader, invocation: Invocation) -> bytes:
        body = b""
        try:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += await reader.readexactly(size)
                await reader.readexactly(2)
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                body += b"|" + line
        except (asyncio.IncompleteReadError, ConnectionError):
            self._end(invocation, "truncated", body)
            raise
        return body

    def _end(self, invocation: Invocation, kind: str, content: bytes) -> None:
        if not invocation.ends:
            self.running -= 1
        self.counts[kind] += 1
        invocation.end(kind, content)

    async def _next(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if self._fails():
            self.counts["next failed"] += 1
            return self._random.random() < 0.5 and await self._respond(writer, self._random.choice([204, 403, 500]))
        await asyncio.sleep(0)
        if not self._waiting or has_ended(writer):
            await reader.read(1)  # nothing more to do: until the environment ends
            return False
        invocation = self._waiting.pop()
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        if self.running >= self._crowd:
            self._is_crowded.set()
        body = json.dumps(invocation.event).encode()
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Lambda-Runtime-Aws-Request-Id: {invocation.request_id}\r\n"
            f"Lambda-Runtime-Invocation-Id: {invocation.invocation_id}\r\n"
            f"Lambda-Runtime-Trace-Id: Root={invocation.token}\r\n"
            f"Lambda-Runtime-Deadline-Ms: {int((time.time() + 300) * 1000)}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        data = head + body
        if self._fails():  # the response arrives in two parts
            cut = self._random.randrange(1, len(data))
            writer.write(data[:cut])
            await writer.drain()
            await asyncio.sleep(0.005)
            data = data[cut:]
        writer.write(data)
        await writer.drain()
        return True

    async def _respond(self, writer: asyncio.StreamWriter, status: int) -> bool:
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
        await writer.drain()
        return True
