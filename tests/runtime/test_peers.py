"""Beside programs of others: AWS's own emulator of the service, Powertools for AWS Lambda, and what boto3 makes of it.

Run as a program, this file is the part that holds the emulator, within namespaces of its own.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import http.client
import importlib.util
import io
import json
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from support.function_process import TIMEOUT

# --- The Runtime Interface Emulator, in its variant for managed instances, which checks more than the classic one -----

TESTS = Path(__file__).resolve().parents[1]
EMULATOR = "local/rapid/aws-lambda-rie-x86_64"  # within aws-sam-cli, of which only this is used
PORT, API_PORT = 8080, 9001  # in a network of its own
INVOKE_PATH = "/2015-03-31/functions/function/invocations"
MS_BIND, MS_REC = 4096, 16384  # sys/mount.h
SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # net/if.h


def find_emulator():
    """The emulator's path, or why it cannot run here."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None, "the emulator is a program for Linux on x86_64"
    spec = importlib.util.find_spec("samcli")
    path = Path(next(iter(spec.submodule_search_locations))) / EMULATOR if spec is not None else None
    if path is None or not path.exists():
        return None, "aws-sam-cli is not installed"
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or os.geteuid() != 0:
        return None, "the emulator needs root, for file systems and a network of its own"
    if subprocess.run([*namespaces, "true"], capture_output=True).returncode != 0:
        return None, "namespaces are not allowed here"
    return ["env", f"PYTHONPATH={TESTS}", *namespaces, sys.executable, __file__, str(path)], ""


def hold_emulator(program, layer, function, log_path):
    """Run the emulator on a layer and a function; invoke it with each line of standard input, and print the answers."""
    files = {Path("/opt/emulator"): Path(program).read_bytes()}
    for folder, target in ((layer, Path("/opt")), (function, Path("/var/task"))):
        found = [path for path in Path(folder).rglob("*") if path.is_file()]
        files |= {target / path.relative_to(folder): path.read_bytes() for path in found}
    log, python = os.open(log_path, os.O_WRONLY | os.O_CREAT), os.open(sys.base_prefix, os.O_PATH)
    mount("none", "/opt", "tmpfs")
    mount("none", "/var", "tmpfs")
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755)
    Path("/var/runtime").mkdir()
    Path("/opt/cpython").mkdir()
    mount(f"/proc/self/fd/{python}", "/opt/cpython", None, MS_BIND | MS_REC)
    with socket.socket() as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
    options = {
        "--log-level": "debug",
        "--runtime-interface-emulator-address": f"127.0.0.1:{PORT}",
        "--runtime-api-address": f"127.0.0.1:{API_PORT}",
    }
    emulator = subprocess.Popen(
        ["/opt/emulator", *(word for pair in options.items() for word in pair), "/opt/bootstrap"],
        cwd="/var/task",
        env={
            "AWS_LAMBDA_MAX_CONCURRENCY": "1",
            "AWS_LAMBDA_FUNCTION_TIMEOUT": "30",
            "_HANDLER": "lambda_function.handler",
            "LAMBDA_TASK_ROOT": "/var/task",
            "LD_LIBRARY_PATH": "/opt/cpython/lib",  # where the interpreter has its library in a file of its own
            "PATH": "/usr/bin:/bin",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    initialized = threading.Event()
    threading.Thread(target=copy_log, args=(emulator.stdout, log, initialized), daemon=True).start()
    initialized.wait(TIMEOUT)
    for line in sys.stdin:
        print(json.dumps(invoke_when_idle(line)), flush=True)


def invoke_when_idle(event):
    """Status, headers and body; asked again for as long as the runtime has not asked for an invocation."""
    end = time.monotonic() + TIMEOUT
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=TIMEOUT)
        connection.request("POST", INVOKE_PATH, event, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        busy = answer.status == 400 and b"Runtime.Unavailable" in body + str(answer.headers).encode()
        if not busy or time.monotonic() > end:
            return answer.status, dict(answer.getheaders()), base64.b64encode(body).decode()


def mount(source, target, kind, flags=0):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def copy_log(lines, log, initialized):
    for line in lines:
        os.write(log, line.encode())
        if "Received Init Success" in line:
            initialized.set()


if __name__ == "__main__":
    hold_emulator(*sys.argv[1:])


class Emulated:
    """A function under the emulator."""

    def __init__(self, command, layer, folder, code):
        self.log_path = folder / "log"
        function = folder / "function"
        function.mkdir()
        (function / "lambda_function.py").write_text(code)
        self.process = subprocess.Popen(
            [*command, layer, function, self.log_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def invoke(self, event=None):
        """The answer's headers by lower-case name, and its body."""
        self.process.stdin.write(json.dumps(event).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.log
        status, headers, body = json.loads(line)
        assert status == 200, line + self.log.encode()
        return {name.lower(): value for name, value in headers.items()}, base64.b64decode(body)

    @property
    def log(self):
        return self.log_path.read_text() if self.log_path.exists() else ""

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(TIMEOUT)


@pytest.fixture
def emulated(layer, tmp_path):
    command, reason = find_emulator()
    if command is None:
        pytest.skip(reason)
    started = []

    def start(code):
        started.append(Emulated(command, layer, tmp_path, code))
        return started[-1]

    yield start
    for each in started:
        each.end()


def test_the_emulator_receives_streams_on_one_environment(emulated):
    function = emulated(
        """
        count = 0

        def handler(event, context):
            global count
            count += 1
            for n in range(event):
                yield b"%d.%d " % (count, n)
        """
    )
    for count, chunks in enumerate([3, 0, 1, 500], 1):
        headers, body = function.invoke(chunks)
        assert body == b"".join(b"%d.%d " % (count, n) for n in range(chunks))
        assert headers["content-type"] == "application/octet-stream"
        assert headers["lambda-runtime-function-response-mode"] == "streaming"
        assert "error-type" not in headers


def test_the_emulator_receives_a_prelude_and_large_chunks(emulated):
    function = emulated(
        """
        def handler(event, context):
            yield {"statusCode": 201}
            yield bytes(3_000_000)
        """
    )
    headers, body = function.invoke()
    prelude, _, rest = body.partition(bytes(8))
    assert headers["content-type"] == "application/vnd.awslambda.http-integration-response"
    assert json.loads(prelude) == {"statusCode": 201, "headers": {}, "cookies": []}
    assert rest == bytes(3_000_000)


RAISE = """
def handler(event, context):
    if event["after"]:
        yield b"part"
    raise ValueError("x" * event["length"])
    yield
"""


@pytest.mark.parametrize("after", [False, True], ids=["before the first byte", "after the first byte"])
def test_the_emulator_is_told_of_an_error(emulated, after):
    function = emulated(RAISE)
    for _ in range(3):
        headers, body = function.invoke({"after": after, "length": 4})
        document = json.loads(body)
        assert headers["error-type"] == "Function.ValueError"
        assert (document["errorType"], document["errorMessage"]) == ("ValueError", "xxxx")
        assert len(document["stackTrace"]) == 1 and "lambda_function.py" in document["stackTrace"][0]


@pytest.mark.parametrize("after", [False, True], ids=["before the first byte", "after the first byte"])
def test_the_emulator_is_told_of_an_error_however_long_its_message(emulated, after):
    # Servers in Go read trailers into a buffer of 4096 bytes and refuse longer ones ("suspiciously long trailer").
    function = emulated(RAISE)
    for length in (2000, 3000, 4000, 40_000, 400_000, 4):
        headers, body = function.invoke({"after": after, "length": length})
        document = json.loads(body)
        assert headers["error-type"] == "Function.ValueError"
        assert document["errorType"] == "ValueError"
        assert document["errorMessage"].startswith("xxxx")


def test_the_emulator_is_told_of_broken_rules(emulated):
    function = emulated(
        """
        def handler(event, context):
            if event:
                yield b"part"
            yield "text"
        """
    )
    for event in (False, True):
        headers, body = function.invoke(event)
        assert headers["error-type"] == "Runtime.InvalidChunk"
        assert json.loads(body)["errorType"] == "Runtime.InvalidChunk"


def test_the_emulator_gets_its_invocation_ids_back(emulated):
    function = emulated(
        """
        def handler(event, context):
            if event:
                raise ValueError
            yield b"x"
        """
    )
    function.invoke(0)
    function.invoke(1)
    posts = [line for line in function.log.splitlines() if "API request" in line and "method=POST" in line]
    assert ["/response" in line for line in posts] == [True, False]
    assert all("Lambda-Runtime-Invocation-Id:[" in line for line in posts)


# --- Powertools for AWS Lambda: decorators of plain functions around a handler that is a generator --------------------


@pytest.fixture
def powertools():
    pytest.importorskip("aws_lambda_powertools")


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_a_handler_that_powertools_logs_streams_live_and_its_lines_tell_the_request(runtime, powertools, tmp_path):
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


def test_an_error_in_a_handler_that_powertools_logs_shows_the_users_frames(runtime, powertools):
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
    assert "line 7, in handler" in document["stackTrace"][-1]
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


def test_powertools_traces_a_stream_without_a_daemon(runtime, powertools):
    function = runtime(TRACED, variables={"POWERTOOLS_TRACE_DISABLED": "true"})
    assert [function.respond(who).body for who in ("a", "b")] == [b"one two three"] * 2
    assert (function.stdout, function.stderr) == ("", "")


def test_powertools_traces_each_stream_under_the_trace_of_its_invocation(runtime, powertools):
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


def test_powertools_metrics_are_those_of_the_stream_where_it_flushes_them(runtime, powertools):
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


def test_powertools_event_classes_and_middleware_fit_a_stream(runtime, powertools):
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


# --- boto3: what its caller sees of a response that ended early -------------------------------------------------------


def invoke_with_response_stream(chunks, complete):
    """The events that boto3 gives its caller where the service sends these chunks and this InvokeComplete."""
    boto3 = pytest.importorskip("boto3")
    botocore = pytest.importorskip("botocore.awsrequest")
    client = boto3.client("lambda", "eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
    frames = [event_frame("PayloadChunk", "application/octet-stream", chunk) for chunk in chunks]
    frames.append(event_frame("InvokeComplete", "application/json", json.dumps(complete).encode()))
    raw = io.BytesIO(b"".join(frames))
    raw.stream = lambda: iter(lambda: raw.read(100), b"")
    headers = {"Content-Type": "application/vnd.amazon.eventstream", "X-Amz-Executed-Version": "$LATEST"}
    client.meta.events.register(
        "before-send.lambda.InvokeWithResponseStream",
        lambda request, **_: botocore.AWSResponse(request.url, 200, headers, raw),
    )
    return list(client.invoke_with_response_stream(FunctionName="f")["EventStream"])


def event_frame(event_type, content_type, payload):
    """A message of application/vnd.amazon.eventstream (Smithy specification, "Event Stream")."""
    named = {":message-type": "event", ":event-type": event_type, ":content-type": content_type}
    headers = b"".join(
        b"%c%b\x07%b%b" % (len(name), name.encode(), len(value).to_bytes(2, "big"), value.encode())
        for name, value in named.items()
    )
    lengths = (16 + len(headers) + len(payload)).to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    message = lengths + zlib.crc32(lengths).to_bytes(4, "big") + headers + payload
    return message + zlib.crc32(message).to_bytes(4, "big")


def as_the_service_completes(response):
    """InvokeComplete as the service makes it of the trailers."""
    if not response.trailers:
        return {}
    return {
        "ErrorCode": response.trailers["Lambda-Runtime-Function-Error-Type"],
        "ErrorDetails": base64.b64decode(response.trailers["Lambda-Runtime-Function-Error-Body"]).decode("utf-8"),
    }


@pytest.mark.parametrize("message", ["boom", "Jürgen \U0001f98a", "many\r\nlines", "x" * 40_000])
def test_boto3_shows_the_error_of_a_response_that_ended_early(runtime, message):
    function = runtime(
        """
        def handler(event, context):
            yield b"one"
            yield b"two"
            raise ValueError(event)
        """
    )
    response = function.respond(message)
    *chunks, last = invoke_with_response_stream(response.chunks, as_the_service_completes(response))
    assert chunks == [{"PayloadChunk": {"Payload": b"one"}}, {"PayloadChunk": {"Payload": b"two"}}]
    assert last["InvokeComplete"]["ErrorCode"] == "Function.ValueError"
    details = json.loads(last["InvokeComplete"]["ErrorDetails"])
    assert details["errorType"] == "ValueError"
    assert details["errorMessage"][:1000] == message[:1000]
    assert set(details) == {"errorMessage", "errorType", "requestId", "stackTrace"}


def test_boto3_shows_no_error_of_a_response_that_ended_well(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield {"statusCode": 201}
            yield b"body"
        """
    )
    response = function.respond()
    *chunks, last = invoke_with_response_stream(response.chunks, as_the_service_completes(response))
    payload = b"".join(chunk["PayloadChunk"]["Payload"] for chunk in chunks)
    assert json.loads(payload.split(bytes(8))[0])["statusCode"] == 201
    assert payload.split(bytes(8))[1:] == [b"body"]
    assert last == {"InvokeComplete": {}}
