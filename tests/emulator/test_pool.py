"""The execution environments of a function: reuse, limit, and replacement."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from support.emulator import (
    PID,
    Server,
    Serving,
    until,
)


def test_requests_above_the_limit_are_throttled_until_an_environment_is_free(serving: Serving) -> None:
    server, function = serving(
        """
        def handler(event, context):
            yield b"%6d" % os.getpid()
            if event["rawPath"] == "/slow":
                wait()
        """,
        "--concurrency",
        "2",
    )
    with server.connect() as one, server.connect() as two:
        pids = set()
        for client in (one, two):
            client.send_request("GET /slow HTTP/1.1")
            client.read_head()
            pids.add(client.read(9)[3:])
        assert len(pids) == 2
        refused = server.get()
        assert (refused.status, refused.headers["x-amzn-errortype"]) == (429, "TooManyRequestsException")
        assert json.loads(refused.body)["message"] == "Rate Exceeded."
        function.release()
        function.release()
        for client in (one, two):
            assert client.read(7) == b"\r\n0\r\n\r\n"
    assert server.get().body in pids


def test_consecutive_requests_share_one_environment(serving: Serving) -> None:
    server, _ = serving(PID, "--concurrency", "1")
    responses = [server.get() for _ in range(40)]
    assert {response.status for response in responses} == {200}
    assert len({response.body for response in responses}) == 1


# Calls the Runtime API where a runtime must not.
BREACH = """urlopen(f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation/next")"""


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)", "raise SystemExit(1)", "wait()", BREACH])
def test_an_environment_that_ends_is_replaced(serving: Serving, end: str) -> None:
    server, _ = serving(
        f"""
        from urllib.request import urlopen

        def handler(event, context):
            if event["rawPath"] == "/end":
                {end}
            yield b"here"
        """,
        *("--concurrency", "1", "--timeout", "1"),
    )
    for _ in range(3):
        assert server.get("/end").status == 502
        assert server.get()[::2] == (200, b"here")


def test_an_environment_whose_client_does_not_read_is_free_after_the_timeout(serving: Serving) -> None:
    server, function = serving(
        """
        def handler(event, context):
            if event["rawPath"] == "/endless":
                hold_lifeline()
                while True:
                    yield b"x" * 100_000
            yield b"here"
        """,
        *("--concurrency", "1", "--timeout", "1"),
    )
    with server.connect() as client:
        client.send_request("GET /endless HTTP/1.1")
        client.read_head()
        function.wait_until_gone()
        assert server.get()[::2] == (200, b"here")


def test_a_hundred_connections_at_once_all_receive_a_response(serving: Serving) -> None:
    server, _ = serving(PID)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(100)]
        for client in clients:
            client.send_request("GET / HTTP/1.1")
        statuses = [client.read_response().status for client in clients]
    assert set(statuses) <= {200, 429} and 200 in statuses
    assert server.get().status == 200


def test_concurrent_clients_receive_their_own_responses(serving: Serving) -> None:
    server, _ = serving(
        """
        def handler(event, context):
            yield event['rawPath'].encode()
    """,
        "--concurrency",
        "8",
    )
    failed: list[Any] = []

    def call(number: int) -> None:
        for n in range(25):
            response = server.get(f"/{number}/{n}")
            if response[::2] != (200, f"/{number}/{n}".encode()):
                failed.append(response)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def memory(server: Server) -> int:
    """KiB that the emulator had at most."""
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("the system does not report the memory of a process")
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])


def test_a_slow_reader_slows_the_handler_down_without_growing_memory(serving: Serving) -> None:
    server, function = serving(
        """
        def handler(event, context):
            if event["rawPath"] != "/large":
                yield b"small"
                return
            for n in range(3200):
                with open("made", "w") as file:
                    file.write(str(n))
                yield b"x" * 65536
    """,
        "--no-reload",
    )
    server.get()
    before = memory(server)
    with server.connect() as client:
        client.send_request("GET /large HTTP/1.1")
        assert client.read_head()[0] == "HTTP/1.1 200 OK"
        for _ in range(50):
            assert server.get().body == b"small"
        assert int((function.path / "made").read_text() or 0) < 1600
        size = 0
        while size < 3200 * 65536:
            size += len(client.read(8192))
    assert memory(server) - before < 8 * 1024


def test_an_environment_that_died_while_idle_is_replaced(serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            if event["rawPath"] == "/dying":
                hold_lifeline()
                threading.Timer(0.0, lambda: (wait(), os._exit(3))).start()
            yield str(os.getpid()).encode()
    """)
    pid = server.get("/dying").body
    function.release()
    function.wait_until_gone()
    until(lambda: not os.path.exists(f"/proc/{int(pid)}"))
    until(lambda: server.get().status == 200)  # the emulator has taken notice of it


def test_requests_on_one_connection_share_one_environment(serving: Serving) -> None:
    server, _ = serving(PID)
    with server.connect() as client:  # which reads its next request when the environment is free again
        pids = set()
        for _ in range(5):
            client.send_request("GET / HTTP/1.1")
            pids.add(client.read_response().body)
    assert len(pids) == 1


def test_concurrent_requests_have_environments_of_their_own(serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            yield b"%6d" % os.getpid()
            if event["rawPath"] == "/slow":
                wait()
                yield b" done"
    """)
    with server.connect() as slow:
        slow.send_request("GET /slow HTTP/1.1")
        slow.read_head()
        pid = slow.read(11)[3:9]
        assert server.get().body != pid
        function.release()
        assert slow.read(15) == b"5\r\n done\r\n0\r\n\r\n"


# Tenants


def pid_for(server: Server, tenant_id: str | None) -> str:
    """Invoke the function for a tenant. Return the number of the process that has served it."""
    headers = [f"X-Amz-Tenant-Id: {tenant_id}"] if tenant_id else []
    line = "POST /2015-03-31/functions/a-function/invocations HTTP/1.1"
    response = server.request(line, *headers, body=b"{}")
    assert response.status == 200, response.body
    return response.body.decode()


def test_tenants_do_not_share_environments(serving: Serving) -> None:
    server, _ = serving(PID)
    tenants = ["one", "two", None]
    pids = [pid_for(server, tenant) for tenant in tenants]
    assert len(set(pids)) == 3
    assert [pid_for(server, tenant) for tenant in tenants] == pids


def test_at_the_concurrency_limit_an_idle_environment_of_another_tenant_is_replaced(serving: Serving) -> None:
    server, _ = serving(PID, "--concurrency", "2")
    one, two, three = (pid_for(server, tenant) for tenant in ("one", "two", "three"))
    assert len({one, two, three}) == 3
    until(lambda: not Path(f"/proc/{one}").exists())
    assert pid_for(server, "two") == two  # that of the first tenant was idle for longer
    assert pid_for(server, "one") not in (one, two, three)
