"""The log record of each response that STREAMING_RUNTIME_LOG_STREAMS=1 requests."""

from __future__ import annotations

import json

import pytest
from support.concurrent_function import break_response, one_process

TEXT = {"STREAMING_RUNTIME_LOG_STREAMS": "1"}
JSON = {**TEXT, "AWS_LAMBDA_LOG_FORMAT": "JSON"}

CHUNKS = """
    def handler(event, context):
        yield b"one"
        yield b""
        yield bytearray(b"three")
    """


def records(function) -> list[dict]:
    lines = map(json.loads, function.stderr.splitlines())
    return [line for line in lines if line["message"].startswith("stream: ")]


def fields(line: str) -> dict[str, str]:
    return dict(field.split(": ", 1) for field in line.split("\t"))


def test_text_record_is_one_line_with_tabs(runtime):
    function = runtime(CHUNKS, variables=TEXT)
    request_id = function.invoke()
    function.read_response(request_id)
    function.accept()
    function.expect_next()
    found = fields(function.stderr.removesuffix("\n"))
    assert list(found) == [
        "STREAM RequestId",
        "Duration",
        "Time To First Byte",
        "Response Bytes",
        "Chunks",
        "Status",
    ]
    assert found["STREAM RequestId"] == request_id
    assert (found["Response Bytes"], found["Chunks"], found["Status"]) == ("8", "2", "success")
    assert float(found["Time To First Byte"].removesuffix(" ms")) <= float(found["Duration"].removesuffix(" ms"))


def test_json_record_has_numbers(runtime):
    function = runtime(CHUNKS, variables=JSON)
    for _ in range(2):
        function.respond()
    function.expect_next()
    for record in records(function):
        assert 0 <= record["timeToFirstByteMs"] <= record["durationMs"]
        assert (record["responseBytes"], record["chunks"], record["status"]) == (8, 2, "success")
        assert record["level"] == "INFO"
    assert len({record["requestId"] for record in records(function)}) == 2


def test_record_measures_the_wait_for_the_first_byte(runtime):
    code = """
        import time

        def handler(event, context):
            time.sleep(0.05)
            yield {"statusCode": 200}
            time.sleep(0.05)
            yield b"body"
        """
    function = runtime(code, variables=JSON)
    function.respond()
    function.expect_next()
    (record,) = records(function)
    assert 50 <= record["timeToFirstByteMs"] <= record["durationMs"] - 50
    assert (record["responseBytes"], record["chunks"]) == (4, 1)


def test_record_of_an_empty_response_has_no_first_byte(runtime):
    code = """
        def handler(event, context):
            yield from ()
        """
    function = runtime(code, variables=JSON)
    function.respond()
    function.expect_next()
    (record,) = records(function)
    assert record["timeToFirstByteMs"] is None
    assert (record["responseBytes"], record["chunks"], record["status"]) == (0, 0, "success")


@pytest.mark.parametrize(
    "code",
    [
        """
        def handler(event, context):
            yield b"part"
            raise KeyError("x")
        """,
        """
        async def handler(event, context):
            yield b"part"
            raise KeyError("x")
        """,
    ],
    ids=["sync", "async"],
)
def test_record_of_an_error_after_the_first_byte(runtime, code):
    function = runtime(code, variables=JSON)
    function.respond()
    function.expect_next()
    (record,) = records(function)
    assert (record["status"], record["errorType"], record["responseBytes"]) == ("error", "KeyError", 4)


def test_record_of_an_error_before_the_first_byte(runtime):
    code = """
        def handler(event, context):
            yield "text"
        """
    function = runtime(code, variables=TEXT)
    function.fail()
    function.expect_next()
    found = fields(function.stderr.splitlines()[-1])
    assert found["Error Type"] == "Runtime.InvalidChunk"
    assert found["Chunks"] == "0" and "Time To First Byte" not in found


def test_record_of_a_response_that_the_runtime_api_refuses(runtime):
    function = runtime(CHUNKS, variables=JSON)
    function.read_response(function.invoke())
    function.peer.send(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
    function.expect_next()
    assert [record["status"] for record in records(function)] == ["refused"]


def test_record_of_a_broken_connection(runtime):
    code = """
        def handler(event, context):
            while True:
                yield b"x" * 65536
        """
    function = runtime(code, variables=JSON)
    function.expect_response(function.invoke())
    assert function.peer.read_chunk()
    function.peer.reset()
    function.peer = None
    function.expect_next()
    (record,) = records(function)
    assert record["status"] == "not delivered"
    assert record["chunks"] * 65536 == record["responseBytes"] > 0


def test_record_of_a_response_that_nobody_has_accepted(runtime):
    function = runtime(CHUNKS, variables=JSON)
    function.read_response(function.invoke())
    function.peer.reset()
    function.peer = None
    function.expect_next()
    assert [record["status"] for record in records(function)] == ["not delivered"]
    assert function.stdout == ""


def test_a_stream_within_the_call_of_an_agent_has_one_record(runtime):
    code = {
        "app.py": """
            def handler(event, context):
                yield b"one"
                if event == "fail":
                    raise KeyError("x")
                yield b"two"
            """,
        "agent.py": """
            import app

            def handler(event, context):
                try:
                    return app.handler(event, context)
                except KeyError:
                    return None
            """,
    }
    inner = {"STREAMING_RUNTIME_INNER_HANDLER": "app.handler", "_HANDLER": "agent.handler"}
    function = runtime(code, variables=JSON | inner)
    function.respond()
    function.respond("fail")
    function.expect_next()
    assert [(record["status"], record["chunks"]) for record in records(function)] == [("success", 2), ("error", 1)]


@pytest.mark.parametrize(("keyword", "preload"), [("def", "0"), ("def", "1"), ("async def", "1")])
def test_records_of_several_slots_have_the_ids_of_their_invocations(concurrent, keyword, preload):
    function = concurrent(
        f"""
        {keyword} handler(event, context):
            yield b"one"
            if event == "error":
                raise KeyError("x")
            yield b"three"
        """,
        2,
        variables={**TEXT, "STREAMING_RUNTIME_PRELOAD": preload},
    )
    expected = {}
    for slot in function.waiting_slots(2):
        for status in ("success", "error", "refused", "not delivered"):
            request_id = slot.send_invocation(status)
            slot.read_response(request_id)
            if status == "not delivered":
                slot.peer.reset()
            elif status == "refused":
                slot.peer.send(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
            else:
                slot.accept()
            expected[request_id] = (status, 1, 3) if status == "error" else (status, 2, 8)
            if status != "not delivered":
                slot.expect_next()
    function.waiting_slots(2)
    function.shut_down()
    found = {record["requestId"]: record for record in function.records if record.get("message", "")[:7] == "stream:"}
    shown = {name: (each["status"], each["chunks"], each["responseBytes"]) for name, each in found.items()}
    assert shown == expected


def test_record_of_a_connection_that_breaks_before_the_end_on_an_event_loop(concurrent):
    function = one_process(
        concurrent,
        """
        import asyncio

        waiting = asyncio.Event()

        async def handler(event, context):
            yield b"one"
            if event:
                await waiting.wait()
            waiting.set()
        """,
        2,
        variables=TEXT,
    )
    request_id = break_response(function)
    assert [record["status"] for record in function.records_of(request_id) if "status" in record] == ["not delivered"]


def test_without_the_variable_there_is_no_record_and_its_module_is_not_loaded(runtime):
    code = """
        import sys

        def handler(event, context):
            yield str(sorted(sys.modules)).encode()
        """
    function = runtime(code)
    assert b"stream_log" not in function.respond().body
    function.expect_next()
    assert function.stderr == ""
