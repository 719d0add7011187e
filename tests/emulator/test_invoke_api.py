"""The Lambda API, as boto3 and the AWS CLI call it, and as bytes where boto3 would hide something."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from support.emulator import PID, WAIT, FunctionFolder, Server, Serving, until

from tools.emulator.endpoints.invoke_api import MAX_QUEUED_EVENTS

ARN = "arn:aws:lambda:us-east-1:123456789012:function:a-function"

NOBODY = "arn:aws:lambda:us-east-1:123456789012:function:nobody"

Client = Any

Connect = Callable[[Server], Client]

ANSWER = """
def handler(event, context):
    print("in the log")
    client = context.client_context and context.client_context.custom
    yield json.dumps([event, context.aws_request_id, context.invoked_function_arn, client, context.tenant_id]).encode()
"""


@pytest.fixture(scope="module")
def invoked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two functions that respond with their event and context, for the tests that need no other function."""
    folder = tmp_path_factory.mktemp("functions")
    with FunctionFolder(folder / "a-function", ANSWER) as root, FunctionFolder(folder / "second", ANSWER) as second:
        arguments = ("--function", f"other={second.path}", "--concurrency", "1")
        with Server(root.path, *arguments) as server:
            yield server


@pytest.fixture(scope="module")
def client(connect: Connect, invoked_server: Server) -> Client:
    return connect(invoked_server)


@pytest.fixture(scope="module")
def connect() -> Iterator[Connect]:
    """Makes clients, which call once and do not try again."""
    with contextlib.ExitStack() as clients:

        def connect(server: Server) -> Client:
            client = boto3.client(
                "lambda",
                endpoint_url=server.url.rstrip("/"),
                region_name="us-east-1",
                aws_access_key_id="key",
                aws_secret_access_key="secret",
                config=Config(retries={"total_max_attempts": 1}, read_timeout=WAIT),
            )
            clients.callback(client.close)
            return client

        yield connect


def test_invoke_returns_the_response(client: Client) -> None:
    response = client.invoke(FunctionName="a-function", Payload=b'{"word": "\xc3\xa4"}')
    headers = response["ResponseMetadata"]["HTTPHeaders"]
    assert (response["StatusCode"], response["ExecutedVersion"]) == (200, "$LATEST")
    assert "FunctionError" not in response and "LogResult" not in response
    assert json.loads(response["Payload"].read()) == [{"word": "ä"}, headers["x-amzn-requestid"], ARN, None, None]
    assert headers["content-type"] == "application/json"


def test_invoke_without_a_payload_has_an_empty_object_for_an_event(client: Client) -> None:
    assert json.loads(client.invoke(FunctionName="a-function")["Payload"].read())[0] == {}


def test_invoke_returns_the_end_of_the_log_on_request(client: Client) -> None:
    response = client.invoke(FunctionName="a-function", LogType="Tail")
    log = base64.b64decode(response["LogResult"]).decode()
    request_id = response["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"]
    assert f"START RequestId: {request_id} Version: $LATEST\nin the log\nEND RequestId: {request_id}\nREPORT " in log


def test_the_returned_log_has_at_most_4_kb(connect: Connect, serving: Serving) -> None:
    server, _ = serving("""
        def handler(event, context):
            print('x' * 9000)
            yield b'{}'
    """)
    log = base64.b64decode(connect(server).invoke(FunctionName="a-function", LogType="Tail")["LogResult"])
    assert len(log) == 4096 and b"REPORT RequestId" in log


@contextlib.contextmanager
def streaming(client: Client, **arguments: Any) -> Iterator[tuple[dict[str, Any], Iterator[dict[str, Any]]]]:
    """A response of `InvokeWithResponseStream`, and its events."""
    response = client.invoke_with_response_stream(**({"FunctionName": "a-function"} | arguments))
    with contextlib.closing(response["EventStream"]) as events:
        yield response, iter(events)


@pytest.mark.parametrize(
    ("name", "qualifier", "arn"),
    [
        ("other", None, "function:other"),
        ("other:live", None, "function:other:live"),
        ("other:$LATEST", None, "function:other:$LATEST"),
        ("other", "7", "function:other:7"),
        ("other:7", "7", "function:other:7"),
        ("123456789012:function:other", None, "function:other"),
        ("function:other", None, "function:other"),
        ("arn:aws:lambda:us-east-1:123456789012:function:other", None, "function:other"),
        ("arn:aws:lambda:us-east-1:123456789012:function:other:live", None, "function:other:live"),
        ("arn:aws-us-gov:lambda:us-gov-west-1:123456789012:function:other", "live", "function:other:live"),
        ("arn:aws-eusc:lambda:eusc-de-east-1:123456789012:function:other", None, "function:other"),
    ],
)
def test_a_function_can_be_named_in_each_form(client: Client, name: str, qualifier: str | None, arn: str) -> None:
    more = {"Qualifier": qualifier} if qualifier else {}
    response = json.loads(client.invoke(FunctionName=name, **more)["Payload"].read())
    assert response[2] == f"arn:aws:lambda:us-east-1:123456789012:{arn}"
    with streaming(client, FunctionName=name, **more) as (_, events):
        assert list(events)[-1] == {"InvokeComplete": {}}


def test_the_client_context_reaches_the_handler(client: Client) -> None:
    context = base64.b64encode(json.dumps({"custom": {"a": "ä\n\u2028"}}, ensure_ascii=False).encode()).decode()
    response = client.invoke(FunctionName="a-function", ClientContext=context)
    assert json.loads(response["Payload"].read())[3] == {"a": "ä\n\u2028"}


def test_the_tenant_id_reaches_the_handler(client: Client) -> None:
    response = client.invoke(FunctionName="a-function", TenantId="tenant: 1/a")
    assert json.loads(response["Payload"].read())[4] == "tenant: 1/a"
    with streaming(client, TenantId="t=2") as (_, events):
        assert json.loads(next(events)["PayloadChunk"]["Payload"])[4] == "t=2"


def test_a_dry_run_does_not_invoke(invoked_server: Server, client: Client) -> None:
    response = client.invoke(FunctionName="a-function", InvocationType="DryRun")
    assert (response["StatusCode"], response["Payload"].read()) == (204, b"")
    assert response["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"] not in invoked_server.errors()


def test_an_asynchronous_invocation_is_accepted_and_runs(connect: Connect, serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            wait()
            notify(f"{event} {context.aws_request_id}")
            yield b"nobody reads this" * 100_000
    """)
    response = connect(server).invoke(FunctionName="a-function", InvocationType="Event", Payload=b"7")
    assert (response["StatusCode"], response["Payload"].read()) == (202, b"")
    assert "ExecutedVersion" not in response  # it runs later
    function.release()
    request_id = response["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"]
    assert function.receive() == f"7 {request_id}"
    until(lambda: f"REPORT RequestId: {request_id}" in server.errors())


def test_asynchronous_invocations_wait_for_an_environment(connect: Connect, serving: Serving) -> None:
    server, function = serving(
        """
            def handler(event, context):
                wait()
                notify('done')
                yield b''
        """,
        "--concurrency",
        "1",
    )
    client = connect(server)
    for _ in range(3):
        assert client.invoke(FunctionName="a-function", InvocationType="Event")["StatusCode"] == 202
    for _ in range(3):
        function.release()
        assert function.receive() == "done"


def test_asynchronous_invocations_that_have_run_do_not_fill_the_queue(connect: Connect, serving: Serving) -> None:
    server, _ = serving(PID)
    client = connect(server)
    for number in range(MAX_QUEUED_EVENTS + 5):
        assert client.invoke(FunctionName="a-function", InvocationType="Event")["StatusCode"] == 202
        until(lambda number=number: server.errors().count("REPORT ") == number + 1)


def test_asynchronous_invocations_above_the_size_of_the_queue_are_throttled(connect: Connect, serving: Serving) -> None:
    server, function = serving(
        """
        def handler(event, context):
            wait()
            yield b""
        """,
        *("--concurrency", "1"),
    )
    client = connect(server)
    for _ in range(MAX_QUEUED_EVENTS + 1):  # one of them runs
        client.invoke(FunctionName="a-function", InvocationType="Event")
    error = refusal(client.invoke, FunctionName="a-function", InvocationType="Event")
    assert isinstance(error, client.exceptions.TooManyRequestsException)
    function.release()


FAILURES = """
def handler(event, context):
    print("in the log")
    if event == "before":
        raise ValueError("too early")
    yield b"one "
    if event == "after":
        raise ValueError("too late")
    if event == "exit":
        os._exit(3)
    if event == "late":
        wait()
"""


@pytest.mark.parametrize(("event", "error_type"), [("before", "ValueError"), ("after", "ValueError")])
def test_an_error_of_the_function_is_the_payload(
    connect: Connect, serving: Serving, event: str, error_type: str
) -> None:
    server, _ = serving(FAILURES)
    response = connect(server).invoke(FunctionName="a-function", Payload=json.dumps(event).encode(), LogType="Tail")
    error = json.loads(response["Payload"].read())
    assert (response["StatusCode"], response["FunctionError"], error["errorType"]) == (200, "Unhandled", error_type)
    assert error["stackTrace"] and error["errorMessage"].startswith("too ")
    assert b"Status: error\tError Type: ValueError" in base64.b64decode(response["LogResult"])


def test_errors_of_the_platform_have_the_messages_of_the_service(connect: Connect, serving: Serving) -> None:
    server, _ = serving(FAILURES, "--timeout", "0.5")
    client = connect(server)
    for event, error_type, words in (
        ("exit", "Runtime.ExitError", "Runtime exited with error: exit status 3"),
        ("late", "Sandbox.Timedout", "Task timed out after 0.50 seconds"),
    ):
        response = client.invoke(FunctionName="a-function", Payload=json.dumps(event).encode())
        request_id = response["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"]
        assert response["FunctionError"] == "Unhandled"
        message = f"RequestId: {request_id} Error: {words}"
        assert json.loads(response["Payload"].read()) == {"errorType": error_type, "errorMessage": message}
    assert "\tStatus: timeout\n" in server.errors()
    assert client.invoke(FunctionName="a-function")["Payload"].read() == b"one "


def test_a_function_that_cannot_be_loaded_is_reported(connect: Connect, serving: Serving) -> None:
    server, _ = serving("import nothing_of_this_name")
    response = connect(server).invoke(FunctionName="a-function")
    assert json.loads(response["Payload"].read())["errorType"] == "Runtime.ImportModuleError"
    assert response["FunctionError"] == "Unhandled"


def test_a_response_above_6_mb_is_an_error(connect: Connect, serving: Serving) -> None:
    server, _ = serving("""
        def handler(event, context):
            for _ in range(7):
                yield b"x" * event
    """)
    client = connect(server)
    assert len(client.invoke(FunctionName="a-function", Payload=b"890000")["Payload"].read()) == 6_230_000
    response = client.invoke(FunctionName="a-function", Payload=b"900000")
    assert response["FunctionError"] == "Unhandled"
    assert json.loads(response["Payload"].read())["errorType"] == "Function.ResponseSizeTooLarge"


def refusal(call: Callable[..., Any], **arguments: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value


@pytest.mark.parametrize(
    ("arguments", "status", "code", "words"),
    [
        ({"FunctionName": "nobody"}, 404, "ResourceNotFoundException", f"Function not found: {NOBODY}:$LATEST"),
        ({"FunctionName": "nobody:7"}, 404, "ResourceNotFoundException", f"Function not found: {NOBODY}:7"),
        (
            {"FunctionName": "nobody", "Qualifier": "live"},
            404,
            "ResourceNotFoundException",
            f"Function not found: {NOBODY}:live",
        ),
        ({"FunctionName": "a-function", "TenantId": "a,b"}, 400, "ValidationException", "tenantId"),
        ({"FunctionName": "a b"}, 400, "ValidationException", "functionName"),
        ({"FunctionName": "a-function", "Qualifier": "a b"}, 400, "ValidationException", "qualifier"),
        ({"FunctionName": "a-function:1", "Qualifier": "2"}, 400, "InvalidParameterValueException", "qualifier"),
        ({"FunctionName": "a-function", "InvocationType": "Later"}, 400, "InvalidParameterValueException", "Later"),
        ({"FunctionName": "a-function", "Payload": b"words"}, 400, "InvalidRequestContentException", "json"),
        ({"FunctionName": "a-function", "Payload": b"[" * 100_000}, 400, "InvalidRequestContentException", "json"),
        ({"FunctionName": "a-function", "ClientContext": "%%%"}, 400, "InvalidRequestContentException", "Base64"),
        ({"FunctionName": "a-function", "ClientContext": "QQ=="}, 400, "InvalidRequestContentException", "JSON"),
        ({"FunctionName": "a-function", "ClientContext": "A" * 3584}, 400, "InvalidRequestContentException", "3583"),
        ({"FunctionName": "a-function", "Payload": b"[NaN]"}, 400, "InvalidRequestContentException", "NaN"),
        (
            {"FunctionName": "a-function", "InvocationType": "Event", "Payload": b"1" * 1_048_577},
            413,
            "RequestTooLargeException",
            "1048576",
        ),
    ],
)
def test_a_wrong_call_raises_the_right_exception_of_botocore(
    client: Client, arguments: dict[str, Any], status: int, code: str, words: str
) -> None:
    error = refusal(client.invoke, **arguments)
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert error.response["Error"]["Code"] == code
    assert words in error.response["Error"]["Message"]
    assert json.loads(client.invoke(FunctionName="a-function")["Payload"].read())


@pytest.mark.parametrize(
    "path",
    ["2015-03-31/functions/a-function/invocations", "2021-11-15/functions/a-function/response-streaming-invocations"],
)
def test_a_payload_above_6_mb_and_another_method_are_refused(invoked_server: Server, path: str) -> None:
    with invoked_server.connect() as connection:
        connection.send_request(f"POST /{path} HTTP/1.1", "Content-Length: 6291457")
        response = connection.read_response()
        assert (response.status, response.headers["x-amzn-errortype"]) == (413, "RequestTooLargeException")
        assert b"must be smaller than 6291456 bytes" in response.body
    assert invoked_server.get(f"/{path}").status == 405


def test_a_call_above_the_limit_is_throttled(connect: Connect, serving: Serving) -> None:
    server, function = serving(
        """
        def handler(event, context):
            yield b'one '
            wait()
    """,
        "--concurrency",
        "1",
    )
    client = connect(server)
    with streaming(client) as (_, events):
        assert next(events) == {"PayloadChunk": {"Payload": b"one "}}
        for call in (client.invoke, client.invoke_with_response_stream):
            error = refusal(call, FunctionName="a-function")
            assert isinstance(error, client.exceptions.TooManyRequestsException)
            assert error.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
        url = server.get()
        assert (url.status, url.headers["x-amzn-errortype"]) == (429, "TooManyRequestsException")
        function.release()
        assert next(events) == {"InvokeComplete": {}}
    function.release()
    assert client.invoke(FunctionName="a-function")["Payload"].read() == b"one "


def test_a_stream_allows_dry_runs_and_no_asynchronous_calls(client: Client) -> None:
    call = client.invoke_with_response_stream
    response = call(FunctionName="a-function", InvocationType="DryRun")
    response["EventStream"].close()
    assert response["StatusCode"] == 204
    error = refusal(call, FunctionName="a-function", InvocationType="Event")
    assert error.response["Error"]["Code"] == "InvalidParameterValueException"


def test_chunks_arrive_while_the_handler_runs(connect: Connect, serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            yield b"one "
            wait()
            yield bytes(range(256))
            wait()
    """)
    with streaming(connect(server), Payload=b"{}", LogType="Tail") as (response, events):
        assert (response["StatusCode"], response["ExecutedVersion"]) == (200, "$LATEST")
        assert response["ResponseStreamContentType"] == "application/vnd.amazon.eventstream"
        assert next(events) == {"PayloadChunk": {"Payload": b"one "}}
        function.release()
        assert next(events) == {"PayloadChunk": {"Payload": bytes(range(256))}}
        function.release()
        complete = next(events)["InvokeComplete"]
        assert b"\nREPORT RequestId: " in base64.b64decode(complete.pop("LogResult"))
        assert complete == {}
        assert next(events, None) is None


def test_the_prelude_is_part_of_the_payload(connect: Connect, serving: Serving) -> None:
    server, _ = serving("""
        def handler(event, context):
            yield {'statusCode': 201}
            yield b'body'
    """)
    with streaming(connect(server)) as (_, events):
        payload = b"".join(event["PayloadChunk"]["Payload"] for event in events if "PayloadChunk" in event)
    prelude, body = payload.split(b"\0" * 8)
    assert (json.loads(prelude)["statusCode"], body) == (201, b"body")


@pytest.mark.parametrize(
    ("event", "chunks", "code", "error_type"),
    [
        ("before", [], "Function.ValueError", "ValueError"),
        ("after", [b"one "], "Function.ValueError", "ValueError"),
        ("exit", [b"one "], "Runtime.ExitError", "Runtime.ExitError"),
        ("late", [b"one "], "Sandbox.Timedout", "Sandbox.Timedout"),
    ],
)
def test_an_error_is_reported_at_the_end_of_the_stream(
    connect: Connect, serving: Serving, event: str, chunks: list[bytes], code: str, error_type: str
) -> None:
    server, _ = serving(FAILURES, *(("--timeout", "0.5") if event == "late" else ()))
    with streaming(connect(server), Payload=json.dumps(event).encode()) as (_, events):
        *chunk_events, complete = events
    assert [chunk["PayloadChunk"]["Payload"] for chunk in chunk_events] == chunks
    assert complete["InvokeComplete"]["ErrorCode"] == code
    assert json.loads(complete["InvokeComplete"]["ErrorDetails"])["errorType"] == error_type


def test_a_caller_that_disconnects_does_not_stop_the_handler(serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            yield b"one "
            wait()
            for _ in range(300):  # beyond what the buffers between the processes can hold
                yield b"x" * 100_000
            notify("at the end")
    """)
    with server.connect() as connection:
        connection.send_request("POST /2021-11-15/functions/a-function/response-streaming-invocations HTTP/1.1")
        assert connection.read_head()[0] == "HTTP/1.1 200 OK"
        connection.reset()
    function.release()
    assert function.receive() == "at the end"


@pytest.fixture(scope="module")
def aws() -> Path:
    program = Path(sys.executable).with_name("aws")
    found = program if program.exists() else shutil.which("aws")
    if found is None:
        pytest.skip("the AWS CLI is not installed")
    return Path(found)


def version_of(aws: Path) -> bytes:
    return subprocess.run([aws, "--version"], capture_output=True, timeout=WAIT).stdout


@pytest.mark.long
def test_the_aws_cli_invokes_a_function(aws: Path, invoked_server: Server, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    command = [
        aws,
        "lambda",
        "invoke",
        "--endpoint-url",
        invoked_server.url.rstrip("/"),
        "--function-name",
        "other:live",
    ]
    payload = ["--payload", base64.b64encode(b"[1]").decode() if b"/2." in version_of(aws) else "[1]"]
    result = subprocess.run(
        [*command, *payload, "--log-type", "Tail", tmp_path / "out"],
        capture_output=True,
        env=environment,
        timeout=WAIT,
    )
    assert result.returncode == 0, result.stderr.decode()
    assert json.load(io.BytesIO(result.stdout))["ExecutedVersion"] == "$LATEST"
    assert json.loads((tmp_path / "out").read_bytes())[0:3:2] == [[1], f"{ARN.removesuffix('a-function')}other:live"]
