"""`--max-concurrency`: one environment serves several invocations at a time, as on Lambda Managed Instances."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.emulator import Server, Serving, assert_usage_error, run, until

HANDLER = """
import asyncio

log_types = os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"], os.environ["AWS_LAMBDA_LOG_FORMAT"]

async def handler(event, context):
    path = event["rawPath"]
    print("request", path)
    yield b"%d " % os.getpid()
    if path == "/wait":
        try:
            await asyncio.Event().wait()
        finally:
            print("cancelled")
    if path == "/types":
        yield str(log_types).encode()
    if path == "/die":
        os._exit(3)
"""


def records(server: Server) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.errors().splitlines() if line.startswith("{")]


@pytest.fixture
def server(serving: Serving) -> Server:
    return serving(HANDLER, "--max-concurrency", "4", "--timeout", "1")[0]


def test_an_environment_serves_several_invocations_at_a_time_and_refuses_more(server: Server) -> None:
    clients = [server.connect() for _ in range(4)]
    for client in clients:
        client.send_request("GET /wait HTTP/1.1")
    until(lambda: sum(record.get("message") == "request /wait" for record in records(server)) == 4)
    error = server.get()
    assert (error.status, b"Runtime.Unavailable" in server.errors().encode()) == (502, True)
    for client in clients:
        client.close()
    until(lambda: sum(record.get("message") == "cancelled" for record in records(server)) == 4)
    until(lambda: server.get().status == 200)
    assert "started again" not in server.errors()  # no process was stopped
    assert "Task timed out after 1.00 seconds" in server.errors()


def test_a_generator_ends_with_its_next_chunk_after_the_deadline(serving: Serving) -> None:
    source = """
        def handler(event, context):
            yield b"%d " % os.getpid()
            while event["rawPath"] == "/slow":
                time.sleep(0.1)
                yield b"x"
    """
    server, _ = serving(source, "--max-concurrency", "1", "--timeout", "1")
    process = server.get().body
    with server.connect() as client:
        client.send_request("GET /slow HTTP/1.1")
        client.read_rest()
    until(lambda: any("Task timed out after 1.00 seconds" in str(record) for record in records(server)))
    until(lambda: server.get().body == process)
    (record,) = [record for record in records(server) if record.get("level") == "ERROR"]
    assert (record["errorType"], record["errorMessage"]) == ("Function.Timeout", "Task timed out after 1.00 seconds")
    assert not any("410" in str(record.get("message")) for record in records(server))


def test_each_record_has_the_id_of_its_invocation(server: Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        responses = list(pool.map(server.get, [f"/{n}" for n in range(4)]))
    assert [response.status for response in responses] == [200] * 4
    own = [record for record in records(server) if str(record.get("message")).startswith("request /")]
    assert len({record["requestId"] for record in own}) == 4
    assert server.get("/types").body.endswith(b" ('lambda-managed-instances', 'JSON')")


def test_a_process_that_dies_is_replaced_and_its_response_is_incomplete(server: Server) -> None:
    with server.connect() as client:
        client.send_request("GET /die HTTP/1.1")
        until(lambda: "Runtime.TruncatedResponse" in server.errors())
    until(lambda: "ended with exit status 3" in server.errors())
    assert server.get().status == 200


def test_an_init_error_fails_each_request(serving: Serving) -> None:
    server, _ = serving("import nothing_of_this_name", "--max-concurrency", "2")
    for _ in range(2):
        assert server.get().status == 502
    assert "Runtime.ImportModuleError" in server.errors()


def test_changed_code_is_used_by_the_next_request(serving: Serving) -> None:
    server, function = serving("def handler(event, context):\n    yield b'old'", "--max-concurrency", "2")
    assert server.get().body == b"old"
    function.write("def handler(event, context):\n    yield b'new'")
    until(lambda: server.get().body == b"new")


@pytest.mark.parametrize("value", ["0", "-1", "many", "1601"])
def test_the_number_is_checked(value: str) -> None:
    assert_usage_error(run("--max-concurrency", value), "--max-concurrency")


def test_a_managed_instance_has_no_snapshot() -> None:
    assert_usage_error(run("--max-concurrency", "2", "--snapstart"), "--snapstart")
