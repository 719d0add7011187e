"""Powertools for AWS Lambda: its decorators are plain functions around a handler that is a generator."""

from __future__ import annotations

import json
import os
import socket

import pytest
from support.function_process import TIMEOUT

pytest.importorskip("aws_lambda_powertools")


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_the_logger_adds_the_request_to_each_line_while_the_handler_streams(runtime, tmp_path):
    function = runtime(
        """
        from aws_lambda_powertools import Logger

        logger = Logger(service="shop")

        @logger.inject_lambda_context(correlation_id_path="order")
        def handler(event, context):
            logger.info("before")
            yield b"first"
            open(event["gate"]).close()
            logger.info("after")
            yield b"second"
        """
    )
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    expected = []
    for order in ("a-1", "a-2"):
        request_id = function.invoke({"gate": str(gate), "order": order})
        function.expect_response(request_id)
        assert function.peer.read_chunk() == b"first"
        gate.open("w").close()  # until here the handler waits
        assert function.peer.read_chunk() == b"second"
        assert (function.peer.read_chunk(), function.peer.read_trailers()) == (b"", {})
        function.accept()
        expected += [(message, request_id, order, "f", "128") for message in ("before", "after")]
    function.expect_next()
    fields = ("message", "function_request_id", "correlation_id", "function_name", "function_memory_size")
    assert [tuple(line[field] for field in fields) for line in json_lines(function.stdout)] == expected
    assert function.stderr == ""


def test_the_trace_of_a_decorated_handler_has_the_users_frames(runtime):
    function = runtime(
        """
        from aws_lambda_powertools import Logger

        logger = Logger()

        @logger.inject_lambda_context
        def handler(event, context):
            if event:
                yield b"part"
            raise ValueError("boom")
        """
    )
    _, document = function.fail({})
    assert "line 9, in handler" in document["stackTrace"][-1]
    trailers = function.respond({"after": 1}).trailers
    assert trailers["Lambda-Runtime-Function-Error-Type"] == "Function.ValueError"


# capture_response=False: otherwise the X-Ray SDK reads the generator, which is the response, before it is streamed.
TRACED = """
from aws_lambda_powertools import Tracer

tracer = Tracer(service="shop")

@tracer.capture_method
def work():
    yield b"two "

@tracer.capture_lambda_handler(capture_response=False)
def handler(event, context):
    yield b"one "
    yield from work()
    with tracer.provider.in_subsegment("## part") as subsegment:
        subsegment.put_annotation("who", event)
        yield b"three"
"""


def test_a_traced_handler_streams_without_a_daemon(runtime):
    function = runtime(TRACED, variables={"POWERTOOLS_TRACE_DISABLED": "true"})
    assert [function.respond(who).body for who in ("a", "b")] == [b"one two three"] * 2
    assert (function.stdout, function.stderr) == ("", "")


def test_the_tracer_uses_the_trace_id_of_each_invocation(runtime):
    pytest.importorskip("aws_xray_sdk")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        daemon.settimeout(TIMEOUT)
        function = runtime(TRACED, variables={"AWS_XRAY_DAEMON_ADDRESS": f"127.0.0.1:{daemon.getsockname()[1]}"})
        for n, who in enumerate("ab", 1):
            root = f"1-5bef4de7-ad49b0e87f6ef6c87fc2e70{n}"
            trace = f"Root={root};Parent=9a9197af755a641{n};Sampled=1"
            assert function.respond(who, {"Lambda-Runtime-Trace-Id": trace}).body == b"one two three"
            segments = [json.loads(daemon.recv(65536).partition(b"\n")[2]) for _ in range(3)]
            assert {segment["name"] for segment in segments} == {"## handler", "## lambda_function.work", "## part"}
            assert {segment["trace_id"] for segment in segments} == {root}
            assert {segment["parent_id"] for segment in segments} == {f"9a9197af755a641{n}"}
            assert [s["annotations"]["who"] for s in segments if s["name"] == "## part"] == [who]


def test_metrics_that_the_handler_flushes_contain_those_of_the_stream(runtime):
    # @metrics.log_metrics flushes when the handler returns, which is before a generator has begun to run.
    function = runtime(
        """
        from aws_lambda_powertools import Metrics

        metrics = Metrics(namespace="shop", service="s")

        def handler(event, context):
            try:
                yield b"one"
                metrics.add_metric(name="Sold", unit="Count", value=event)
                yield b"two"
            finally:
                metrics.flush_metrics()
        """
    )
    for value in (1, 2):
        assert function.respond(value).chunks == [b"one", b"two"]
    function.expect_next()
    assert [line["Sold"] for line in json_lines(function.stdout)] == [[1.0], [2.0]]


def test_event_classes_and_middleware_work_with_a_stream(runtime):
    function = runtime(
        """
        from aws_lambda_powertools.middleware_factory import lambda_handler_decorator
        from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2, event_source
        from aws_lambda_powertools.utilities.parser import BaseModel, event_parser

        class Order(BaseModel):
            rawPath: str

        @lambda_handler_decorator
        def around(handler, event, context):
            yield {"statusCode": 201}
            yield from handler(event, context)

        @around
        @event_source(data_class=APIGatewayProxyEventV2)
        def handler(event, context):
            yield event.raw_path.encode()
            yield from parsed(event.raw_event, context)

        @event_parser(model=Order)
        def parsed(order, context):
            yield order.rawPath.upper().encode()
        """
    )
    assert function.respond({"rawPath": "/x"}).chunks[2:] == [b"/x", b"/X"]
