"""The tracing agents that functions use, as their own packages: what they record of a stream.

Each is set up as its layer or its documentation does it, and exports to the loopback interface or to the log. A test
observes the function as Lambda does, and reads the record of the agent without waiting for it: the agent has to export
before the runtime asks for the next invocation.
"""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from support import documents, package_environments
from support.collector import Collector
from support.concurrent_function import ConcurrentFunction, one_process
from support.function_process import FunctionProcess, Gate, source

ENVIRONMENT = package_environments.AGENTS

pytestmark = pytest.mark.skipif(not ENVIRONMENT.is_prepared, reason=ENVIRONMENT.reason_to_skip)

TRACE_ID = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"

# The function. An agent adds `child`, which opens a span of its own, and lines for the start of the module.
APP = """
import time

{preamble}
def handler(event, context):
    start = time.monotonic()
    with child("step"):
        yield b"one"
        with open(event["gate"]) as gate:
            gate.read()
        if event["fails"]:
            raise ValueError("broken stream")
    yield b"two"
    print("elapsed", time.monotonic() - start)
"""


@dataclass(frozen=True)
class Record:
    """What an agent recorded of one invocation."""

    seconds: float
    error: str  # the type of the exception, empty without one
    children: list[str]


@dataclass(frozen=True)
class Agent:
    """An agent.

    Args:
        preamble: defines `child(name)` in the module of the handler.
        read: returns what the agent has exported.
        code: further files of the function.
        variables: of the function; `{address}` and `{datagrams}` are those of the collector, `{packages}` the folder
            of the agent.
        wrapper: the text of the program that STREAMING_RUNTIME_EXEC_WRAPPER names.
    """

    preamble: str
    read: Callable[[FunctionProcess, Collector], Record]
    code: dict[str, str]
    variables: dict[str, str]
    wrapper: str = ""


# OpenTelemetry


def read_opentelemetry(_: FunctionProcess, collector: Collector) -> Record:
    decode = """
        import json, sys
        from google.protobuf.json_format import MessageToDict
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        bodies = [bytes.fromhex(line) for line in sys.stdin.read().split()]
        print(json.dumps([MessageToDict(ExportTraceServiceRequest.FromString(body)) for body in bodies]))
        """
    lines = "\n".join(body.hex() for body in collector.bodies("/v1/traces"))
    command = [ENVIRONMENT.python, "-c", source(decode)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    spans = [
        span
        for request in json.loads(done.stdout)
        for resource in request["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    [root] = [span for span in spans if span["name"] == "f"]
    is_error = root["status"].get("code") == "STATUS_CODE_ERROR"
    errors = [
        attribute["value"]["stringValue"] for event in root.get("events", []) for attribute in event["attributes"]
    ]
    return Record(
        (int(root["endTimeUnixNano"]) - int(root["startTimeUnixNano"])) / 1e9,
        "ValueError" if is_error and "ValueError" in errors else "",
        [span["name"] for span in spans if span.get("parentSpanId") == root["spanId"]],
    )


OPENTELEMETRY = Agent(
    """
from opentelemetry import trace

child = trace.get_tracer("app").start_as_current_span
""",
    read_opentelemetry,
    {
        "otel_wrapper.py": """
            import os
            from importlib import import_module

            from opentelemetry.instrumentation.aws_lambda import AwsLambdaInstrumentor

            AwsLambdaInstrumentor().instrument()
            module_name, handler_name = os.environ["ORIG_HANDLER"].rsplit(".", 1)
            lambda_handler = getattr(import_module(module_name), handler_name)
            """
    },
    {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://{address}",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "PACKAGES": "{packages}",
    },
    """#!/bin/sh
export PYTHONPATH="$PACKAGES/opentelemetry/instrumentation/auto_instrumentation:$PACKAGES:$LAMBDA_TASK_ROOT"
export ORIG_HANDLER="$_HANDLER" _HANDLER=otel_wrapper.lambda_handler
exec "$@"
""",
)

# Datadog, without its extension: the spans are in the log


def read_datadog(function: FunctionProcess, _: Collector) -> Record:
    lines = [json.loads(line) for line in function.stdout.splitlines() if line.startswith('{"traces"')]
    spans = [span for line in lines for trace in line["traces"] for span in trace]
    [root] = [span for span in spans if span["name"] in ("aws.lambda", "f")]
    return Record(
        root["duration"] / 1e9,
        root["meta"]["error.type"].removeprefix("builtins.") if root["error"] else "",
        [span["name"] for span in spans if span["parent_id"] == root["span_id"]],
    )


DATADOG = Agent(
    """
from ddtrace.trace import tracer

child = tracer.trace
""",
    read_datadog,
    {},
    {
        "_HANDLER": "datadog_lambda.handler.handler",
        "DD_LAMBDA_HANDLER": "app.handler",
        "DD_TRACE_ENABLED": "true",
        "DD_FLUSH_TO_LOG": "true",
        "DD_COLD_START_TRACING": "false",
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    },
)

# Sentry


def read_sentry(_: FunctionProcess, collector: Collector) -> Record:
    envelopes = [body.split(b"\n") for body in collector.bodies("/envelope/")]
    items = [json.loads(line) for lines in envelopes for line in lines[2::2] if line]
    [transaction] = [item for item in items if item.get("type") == "transaction"]
    exceptions = [item["exception"]["values"][-1]["type"] for item in items if "exception" in item]
    root = transaction["contexts"]["trace"]
    is_error = root.get("status") == "internal_error"
    return Record(
        seconds_between(transaction["start_timestamp"], transaction["timestamp"]),
        exceptions[0] if is_error and exceptions else "",
        [span["op"] for span in transaction["spans"] if span["parent_span_id"] == root["span_id"]],
    )


def seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


SENTRY = Agent(
    """
import os

import sentry_sdk
from sentry_sdk.integrations.aws_lambda import AwsLambdaIntegration

sentry_sdk.init(os.environ["DSN"], integrations=[AwsLambdaIntegration()], traces_sample_rate=1.0)

def child(name):
    return sentry_sdk.start_span(op=name)
""",
    read_sentry,
    {},
    {"_HANDLER": "app.handler", "DSN": "http://key@{address}/1"},
)

# Elastic


def read_elastic(_: FunctionProcess, collector: Collector) -> Record:
    if any(b'{"error": ' in body for body in collector.bodies("/intake/")):
        # Elastic exports an error by itself; the end of that export can also end its wait for the transaction.
        collector.wait_for("/intake/", b'{"transaction": ')
    lines = [json.loads(line) for body in collector.bodies("/intake/") for line in body.splitlines()]
    [transaction] = [line["transaction"] for line in lines if "transaction" in line]
    errors = [line["error"]["exception"]["type"] for line in lines if "error" in line]
    spans = [line["span"] for line in lines if "span" in line]
    return Record(
        transaction["duration"] / 1e3,
        errors[0] if errors and transaction["outcome"] == "failure" else "",
        [span["name"] for span in spans if span["parent_id"] == transaction["id"]],
    )


ELASTIC = Agent(
    """
from elasticapm import capture_span as child
""",
    read_elastic,
    {},
    {
        "ELASTIC_APM_SERVER_URL": "http://{address}",
        "PACKAGES": "{packages}",
        "PYTHONPATH": "{packages}/elasticapm/contrib/serverless/aws_wrapper",
        "PYTHON": str(ENVIRONMENT.python),
    },
    """#!/bin/sh
exec "$PYTHON" "$PACKAGES/elasticapm/contrib/serverless/aws_wrapper/elasticapm-lambda.py" "$@"
""",
)

# New Relic, without its extension: the payload is in the log


def read_new_relic(function: FunctionProcess, _: Collector) -> Record:
    payloads = [json.loads(line) for line in function.stdout.splitlines() if "NR_LAMBDA_MONITORING" in line]
    [data] = [json.loads(gzip.decompress(base64.b64decode(encoded)))["data"] for _, _, encoded in payloads]
    [[transaction, *_]] = data["analytic_event_data"][2]
    spans = [span for span, *_ in data["span_event_data"][2]]
    errors = [error["error.class"] for error, *_ in data["error_event_data"][2]] if "error_event_data" in data else []
    [root] = [span for span in spans if span.get("nr.entryPoint")]
    return Record(
        transaction["duration"],
        errors[0].removeprefix("builtins:") if errors else "",
        [span["name"] for span in spans if span.get("parentId") == root["guid"]],
    )


NEW_RELIC = Agent(
    """
import newrelic.agent

def child(name):
    return newrelic.agent.FunctionTrace(name, group="app")
""",
    read_new_relic,
    {
        "newrelic_lambda_wrapper.py": """
            import os
            from importlib import import_module

            import newrelic.agent

            newrelic.agent.initialize()

            from newrelic_lambda.lambda_handler import lambda_handler

            module_name, handler_name = os.environ["NEW_RELIC_LAMBDA_HANDLER"].rsplit(".", 1)
            wrapped = getattr(import_module(module_name), handler_name)

            @lambda_handler()
            def handler(event, context):
                return wrapped(event, context)
            """
    },
    {
        "_HANDLER": "newrelic_lambda_wrapper.handler",
        "NEW_RELIC_LAMBDA_HANDLER": "app.handler",
        "NEW_RELIC_NO_CONFIG_FILE": "true",
        "NEW_RELIC_SERVERLESS_MODE_ENABLED": "true",
        "NEW_RELIC_DISTRIBUTED_TRACING_ENABLED": "true",
        "NEW_RELIC_ACCOUNT_ID": "1",
        "NEW_RELIC_TRUSTED_ACCOUNT_KEY": "1",
        "NEW_RELIC_APP_NAME": "f",
    },
)

# AWS X-Ray, with a handler of the function's around the one that streams


def read_xray(_: FunctionProcess, collector: Collector) -> Record:
    documents = collector.datagrams()
    [segment] = [document for document in documents if document["name"] in ("stream", "f")]
    assert segment["trace_id"] == TRACE_ID.split(";")[0].removeprefix("Root=")
    children = [document for document in documents if document.get("parent_id") == segment["id"]]
    causes = [document["cause"] for document in children if "cause" in document]  # the outer one refers to the inner
    return Record(
        segment["end_time"] - segment["start_time"],
        causes[0]["exceptions"][0]["type"] if causes and segment.get("fault") else "",
        [child["name"] for child in children],
    )


XRAY = Agent(
    """
from aws_xray_sdk.core import xray_recorder

child = xray_recorder.in_subsegment
""",
    read_xray,
    {
        "traced.py": """
            from aws_xray_sdk.core import xray_recorder

            import app

            @xray_recorder.capture("stream")
            def handler(event, context):
                return app.handler(event, context)
            """
    },
    {
        "_HANDLER": "traced.handler",
        "STREAMING_RUNTIME_INNER_HANDLER": "app.handler",
        "AWS_XRAY_DAEMON_ADDRESS": "{datagrams}",
    },
)

# The decorators of docs/tracing.md, with `span` and `flush` of the table there

SYNC_DECORATOR, ASYNC_DECORATOR = (
    block.text for block in documents.blocks("python", ["docs/tracing.md"]) if "def traced(span, flush)" in block.text
)

OPENTELEMETRY_SDK = """
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("app")
child = tracer.start_as_current_span
"""
NEW_RELIC_SDK = """
import newrelic.agent

newrelic.agent.initialize()

import newrelic_lambda.agent_protocol

def child(name):
    return newrelic.agent.FunctionTrace(name, group="app")
"""


def decorated(agent: Agent, span: str, flush: str, preamble: str = "") -> Agent:
    """Return the agent as a library: the handler is decorated, and nothing starts the agent."""
    variables = {name: value for name, value in agent.variables.items() if "HANDLER" not in name}
    preamble = f"{preamble or agent.preamble}\n{{decorator}}\n\n@traced({span}, {flush})"
    return Agent(preamble, agent.read, {}, variables)


AGENTS = {
    "opentelemetry": OPENTELEMETRY,
    "datadog": DATADOG,
    "sentry": SENTRY,
    "elastic": ELASTIC,
    "newrelic": NEW_RELIC,
    "xray": XRAY,
    "decorated by opentelemetry": decorated(
        OPENTELEMETRY,
        "tracer.start_as_current_span",
        "trace.get_tracer_provider().force_flush",
        OPENTELEMETRY_SDK,
    ),
    "decorated by datadog": decorated(DATADOG, "tracer.trace", "tracer.flush"),
    "decorated by newrelic": decorated(
        NEW_RELIC,
        "lambda name: newrelic.agent.BackgroundTask(newrelic.agent.application(), name)",
        "lambda: None",
        NEW_RELIC_SDK,
    ),
    "decorated by xray": decorated(XRAY, "xray_recorder.in_subsegment", "lambda: None"),
}


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest) -> Agent:
    return AGENTS[request.param]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(params=["sync", pytest.param("async", marks=pytest.mark.long)])
def start(
    request: pytest.FixtureRequest,
    runtime: Callable[..., FunctionProcess],
    agent: Agent,
    collector: Collector,
    tmp_path: Path,
) -> Callable[[], FunctionProcess]:
    """Starts the function with the agent."""

    def start() -> FunctionProcess:
        app = source(APP).replace("{preamble}", agent.preamble)
        if request.param == "async":
            app = app.replace("def handler", "async def handler").replace("{decorator}", ASYNC_DECORATOR)
        app = app.replace("{decorator}", SYNC_DECORATOR)
        values = {
            "address": collector.address,
            "datagrams": collector.datagram_address,
            "packages": ENVIRONMENT.packages,
        }
        variables = {"_HANDLER": "app.handler", "AWS_REGION": "eu-west-1", "HOME": str(tmp_path)}
        variables |= {name: value.format(**values) for name, value in agent.variables.items()}
        if agent.wrapper:
            path = tmp_path / "wrapper"
            path.write_text(agent.wrapper)
            path.chmod(0o755)
            variables["STREAMING_RUNTIME_EXEC_WRAPPER"] = str(path)
        arguments = [str(ENVIRONMENT.python), "/var/runtime/bootstrap.py"]
        return runtime({"app.py": app, **agent.code}, variables=variables, arguments=arguments)

    return start


def stream(function: FunctionProcess, gate: Gate, fails: bool) -> tuple[list[bytes], dict[str, str]]:
    """Serve an invocation. Return the chunks and the trailers; the first chunk arrived before the second was made."""
    function.expect_response(
        function.invoke({"gate": gate.path, "fails": fails}, {"Lambda-Runtime-Trace-Id": TRACE_ID})
    )
    assert function.peer is not None
    chunks = [function.peer.read_chunk()]
    gate.open()
    chunks += iter(function.peer.read_chunk, b"")
    trailers = function.peer.read_trailers()
    function.accept()
    return chunks, trailers


def elapsed(function: FunctionProcess) -> float:
    [line] = [line for line in function.stdout.splitlines() if line.startswith("elapsed ")]
    return float(line.split()[1])


def test_an_agent_records_the_whole_stream_with_its_children(
    start: Callable[[], FunctionProcess], agent: Agent, collector: Collector, tmp_path: Path
) -> None:
    function = start()
    assert stream(function, Gate(tmp_path), fails=False) == ([b"one", b"two"], {})
    function.expect_next()
    record = agent.read(function, collector)
    assert record.seconds >= elapsed(function) * 0.99 - 0.001  # agents round to milliseconds
    assert record.error == ""
    assert [name.split("/")[-1] for name in record.children] == ["step"]


def test_an_agent_records_an_error_in_the_stream(
    start: Callable[[], FunctionProcess], agent: Agent, collector: Collector, tmp_path: Path
) -> None:
    function = start()
    chunks, trailers = stream(function, Gate(tmp_path), fails=True)
    assert chunks == [b"one"]
    assert trailers["Lambda-Runtime-Function-Error-Type"] == "Function.ValueError"
    function.expect_next()
    assert agent.read(function, collector).error == "ValueError"
    assert function.stdout.count("[ERROR]") == 1


def test_sentry_records_an_init_error(
    runtime: Callable[..., FunctionProcess], collector: Collector, tmp_path: Path
) -> None:
    variables = {"_HANDLER": "app.handler", "DSN": f"http://key@{collector.address}/1"}
    code = f"{SENTRY.preamble}\nraise ValueError('no configuration')\n"
    function = runtime(
        {"app.py": code}, variables=variables, arguments=[str(ENVIRONMENT.python), "/var/runtime/bootstrap.py"]
    )
    _, document = function.read_init_error()
    assert (document["errorType"], function.wait()) == ("ValueError", 1)
    [envelope] = collector.bodies("/envelope/")
    [error] = [json.loads(line)["exception"]["values"] for line in envelope.split(b"\n") if b'"exception"' in line]
    assert error[0]["value"] == "no configuration"


# Several invocations on one event loop: each one has its own trace

CONCURRENT_OPENTELEMETRY = """
import asyncio

from opentelemetry.propagators.aws.aws_xray_propagator import AwsXRayLambdaPropagator
from opentelemetry.sdk.trace import TracerProvider

tracer = TracerProvider().get_tracer("app")
running = []
both = asyncio.Event()

async def handler(event, context):
    running.append(event)
    if len(running) == 2:
        both.set()
    await both.wait()  # now both are in this process
    with tracer.start_as_current_span("outer", AwsXRayLambdaPropagator().extract({})) as outer:
        await asyncio.sleep(0.01)
        with tracer.start_as_current_span("inner") as inner:
            await asyncio.sleep(0.01)
            is_child = inner.parent == outer.get_span_context()
    yield f"{outer.context.trace_id:032x} {outer.parent.span_id:016x} {is_child}".encode()
"""


def test_opentelemetry_finds_the_trace_of_each_of_several_invocations(
    concurrent: Callable[..., ConcurrentFunction],
) -> None:
    variables = {"PYTHONPATH": str(ENVIRONMENT.packages)}
    arguments = [str(ENVIRONMENT.python), "/var/runtime/bootstrap.py"]
    function = one_process(concurrent, CONCURRENT_OPENTELEMETRY, 2, variables=variables, arguments=arguments)
    slots = function.waiting_slots(2)
    ids = {}
    for slot, name in zip(slots, "ab", strict=True):
        trace = f"Root=1-5759e988-bd862e3fe1be46a99427279{name};Parent=53995c3f42cd8ad{name};Sampled=1"
        ids[slot.send_invocation(name, {"Lambda-Runtime-Trace-Id": trace})] = slot, name
    for request_id, (slot, name) in ids.items():
        expected = f"5759e988bd862e3fe1be46a99427279{name} 53995c3f42cd8ad{name} True"
        assert slot.read_response(request_id).body.decode() == expected
