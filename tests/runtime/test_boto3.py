"""What a caller with boto3 sees of a streamed response."""

from __future__ import annotations

import base64
import io
import json
import zlib

import pytest


def invoke_with_response_stream(chunks, complete):
    """Return the events of boto3 if the service sends these chunks and this InvokeComplete."""
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
    """Return a message of application/vnd.amazon.eventstream (Smithy specification, "Event Stream")."""
    named = {":message-type": "event", ":event-type": event_type, ":content-type": content_type}
    headers = b"".join(
        b"%c%b\x07%b%b" % (len(name), name.encode(), len(value).to_bytes(2, "big"), value.encode())
        for name, value in named.items()
    )
    lengths = (16 + len(headers) + len(payload)).to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    message = lengths + zlib.crc32(lengths).to_bytes(4, "big") + headers + payload
    return message + zlib.crc32(message).to_bytes(4, "big")


def as_the_service_completes(response):
    """Return the InvokeComplete that the service makes of the trailers."""
    if not response.trailers:
        return {}
    return {
        "ErrorCode": response.trailers["Lambda-Runtime-Function-Error-Type"],
        "ErrorDetails": base64.b64decode(response.trailers["Lambda-Runtime-Function-Error-Body"]).decode("utf-8"),
    }


@pytest.mark.parametrize("message", ["boom", "Jürgen \U0001f98a", "many\r\nlines", "x" * 40_000])
def test_boto3_shows_an_error_in_the_trailers(runtime, message):
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


def test_boto3_shows_no_error_of_a_complete_response(runtime):
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
