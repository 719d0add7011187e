"""The runtime against a Runtime API that is slow, odd, hostile or gone."""

from __future__ import annotations

import contextlib
import json
import os
import socket

import pytest

ECHO = "def handler(event, context):\n    yield repr(event).encode()\n"
# Closes its gate file when it is left: the test sees that `finally` has run.
ENDLESS = """
def handler(event, context):
    try:
        while True:
            yield b"x" * event
    finally:
        print("left", flush=True)
"""


def next_answer(request_id, body=b"{}", extra=b""):
    return b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
        request_id,
        extra,
        len(body),
        body,
    )


# What comes from `next`


def test_header_names_come_in_any_case(runtime):
    code = "def handler(event, context):\n    yield repr((event, context.aws_request_id, context.tenant_id)).encode()\n"
    function = runtime(code)
    function.expect_next()
    function.peer.send(
        b"HTTP/1.1 200 OK\r\nLAMBDA-RUNTIME-AWS-REQUEST-ID: one\r\nlambda-runtime-aws-tenant-id:two\r\n"
        b"content-LENGTH:   2  \r\ncontent-type: APPLICATION/JSON; charset=utf-8\r\n\r\n[]"
    )
    assert eval(function.read_response("one").body) == ([], "one", "two")


def test_an_answer_without_a_content_type_holds_json(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(next_answer(b"one", b'{"a": 1}'))
    assert eval(function.read_response("one").body) == {"a": 1}


def test_another_content_type_gives_the_handler_the_bytes(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(next_answer(b"one", b"\xff\0", b"Content-Type: image/png\r\n"))
    assert eval(function.read_response("one").body) == b"\xff\0"


def test_a_chunked_event_is_put_together(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(
        b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: one\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'3;ext=1\r\n["a\r\n00A\r\nbcdefghijk\r\n2\r\n"]\r\n0\r\nTrailer: x\r\n\r\n'
    )
    assert eval(function.read_response("one").body) == ["abcdefghijk"]
    function.accept()
    function.invoke()


def test_an_event_of_6_mb_and_one_that_comes_byte_by_byte(runtime):
    function = runtime("def handler(event, context):\n    yield str(len(event)).encode()\n")
    assert function.respond("x" * 6_000_000).body == b"6000000"
    function.expect_next()
    for byte in next_answer(b"one", b'"abc"'):
        function.peer.send(bytes([byte]))
    assert function.read_response("one").body == b"3"


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"\xff", b"[" * 100_000], ids=str)
def test_an_event_that_is_not_json_is_an_unmarshal_error(runtime, body):
    function = runtime(ECHO)
    _, document = function.read_error(function.invoke(raw=body))
    assert document["errorType"] == "Runtime.UnmarshalError"
    function.respond()


def test_interim_answers_are_passed_over(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + next_answer(b"one")
    )
    function.expect_response("one")


def test_204_means_poll_again(runtime):
    function = runtime(ECHO)
    for _ in range(3):
        function.expect_next()
        function.peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert function.respond(5).body == b"5"


def test_connection_close_is_honoured_after_each_answer(runtime):
    function = runtime(ECHO)
    for number in range(3):
        function.expect_next()
        function.peer.send(next_answer(b"%d" % number, extra=b"Connection: close\r\n"))
        assert function.read_response(str(number)).body == b"{}"
        function.peer.send(b"HTTP/1.1 202 Accepted\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n")
    function.expect_next()


def test_an_answer_of_http_1_0_ends_with_its_connection(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(b"HTTP/1.0 200 OK\r\nLambda-Runtime-Aws-Request-Id: one\r\n\r\n[1]")
    function.connect()
    assert function.read_response("one").body == b"[1]"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        next_answer(b""),
        next_answer(b"a b"),
        next_answer(b"../../x"),
    ],
    ids=lambda answer: answer[9:60].decode(),
)
def test_an_answer_to_next_that_is_no_invocation_ends_the_process(runtime, answer):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(answer)
    assert function.wait() == 1
    assert "without an invocation" in function.stderr and function.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: a\nX-Forged: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_100_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 200,
    ],
    ids=["nonsense", "HTTP/2", "no status", "bare LF", "NUL", "endless head", "endless 1xx"],
)
def test_an_answer_that_is_not_http_is_asked_for_again_and_then_given_up(runtime, answer):
    function = runtime(ECHO)
    for _ in range(6):
        function.expect_next()
        with contextlib.suppress(OSError):  # it may have heard enough
            function.peer.send(answer)
        function.peer.close()
        function.peer = None
    assert function.wait() == 1
    assert "returned no next invocation" in function.stderr


def test_an_event_cut_in_the_middle_is_reported_for_its_invocation(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(next_answer(b"one", b'{"a": 1}')[:-3])
    function.connect()
    _, document = function.read_error("one")
    assert document["errorType"] == "Runtime.UnmarshalError"
    assert function.respond(1).body == b"1"


@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_idle_connection_that_ends_is_opened_again(runtime, how):
    function = runtime(ECHO)
    for number in range(3):
        function.expect_next()
        getattr(function.peer, how)()
        function.connect()
        assert function.respond(number).body == b"%d" % number


def test_a_runtime_api_that_is_gone_ends_the_process(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.listener.close()
    function.peer.close()
    assert function.wait() == 1
    assert "returned no next invocation" in function.stderr


# What is posted


def test_a_connection_closed_while_the_handler_runs_is_opened_again_for_the_response(runtime):
    code = "def handler(event, context):\n    open(event).close()\n    yield b'a'\n"
    function = runtime(code)
    gate = str(function.task / "gate")
    os.mkfifo(gate)
    request_id = function.invoke(gate)
    function.peer.close()
    function.peer = None
    open(gate, "w").close()
    assert function.read_response(request_id).body == b"a"
    function.accept()
    function.expect_next()


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "204 No Content", "299 Fine"])
def test_any_2xx_accepts_a_response(runtime, status):
    function = runtime(ECHO)
    for _ in range(2):
        function.read_response(function.invoke())
        length = "" if status.startswith("204") else "Content-Length: 0\r\n"
        function.peer.send(f"HTTP/1.1 {status}\r\n{length}\r\n".encode())
    function.expect_next()
    assert function.stderr == ""


@pytest.mark.parametrize("status", [400, 403, 410, 413])
@pytest.mark.parametrize("way", ["response", "trailers", "error"])
def test_a_refused_post_is_logged_and_the_loop_goes_on(runtime, status, way):
    function = runtime(
        "def handler(event, context):\n    if event != 'error':\n        yield b'a'\n"
        "    if event != 'response':\n        raise ValueError('boom')\n"
    )
    request_id = function.invoke(way)
    if way == "error":
        assert function.request().path.endswith(f"{request_id}/error")
    else:
        function.read_response(request_id)
    function.peer.send(b'HTTP/1.1 %d Refused\r\nContent-Length: 11\r\n\r\n{"why":"no"}'[:-1] % status)
    function.expect_next()
    assert f"status {status}" in function.told[-1] and len(function.told) == (1 if way == "response" else 2)


@pytest.mark.parametrize("way", ["response", "error"])
def test_a_container_error_ends_the_process(runtime, way):
    function = runtime(
        "def handler(event, context):\n    if event == 'error':\n        raise ValueError\n    yield b''\n"
    )
    request_id = function.invoke(way)
    function.request() if way == "error" else function.read_response(request_id)
    function.peer.send(b"HTTP/1.1 500 Container error\r\nContent-Length: 0\r\n\r\n")
    assert function.wait() == 1
    assert "status 500" in function.stderr


@pytest.mark.parametrize(
    "answer", [b"", b"HTT", b"HTTP/1.1 202 Accepted\r\nContent-Length: 15\r\n\r\n{", b"garbage\r\n\r\n"]
)
def test_an_answer_to_a_response_that_is_cut_is_not_waited_for_and_nothing_is_sent_twice(runtime, answer):
    function = runtime(ECHO)
    function.read_response(function.invoke())
    function.peer.send(answer)
    function.connect()
    assert function.respond(2).body == b"2"


def test_a_half_closed_connection_is_given_up(runtime):
    function = runtime(ECHO)
    function.read_response(function.invoke())
    function.peer.socket.shutdown(socket.SHUT_WR)
    function.connect()
    assert function.respond(2).body == b"2"


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_other_side_going_away_mid_stream_closes_the_generator(runtime, how, size):
    function = runtime(ENDLESS)
    function.expect_response(function.invoke(size))
    function.peer.read_chunk()
    getattr(function.peer, how)()
    function.connect()
    function.expect_next()
    assert function.stdout == "left\n"
    assert "was not delivered" in function.stderr and function.stderr.count("\n") == 1


@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_async_generator_is_closed_too(runtime, how):
    function = runtime(
        "import asyncio\n"
        + ENDLESS.replace("def handler", "async def handler").replace(
            'print("left", flush=True)', 'await asyncio.sleep(0)\n        print("left", flush=True)'
        )
    )
    function.expect_response(function.invoke(100))
    function.peer.read_chunk()
    getattr(function.peer, how)()
    function.connect()
    function.expect_next()
    assert function.stdout == "left\n"


@pytest.mark.parametrize("status", [b"413 Too Large", b"400 Bad Request"])
def test_an_early_refusal_ends_a_stream_that_nobody_reads(runtime, status):
    function = runtime(ENDLESS)
    function.expect_response(function.invoke(100_000))
    function.peer.send(b"HTTP/1.1 %b\r\nContent-Length: 4\r\n\r\nfull" % status)
    first = function.peer  # stays open and is never read again
    function.peer = None
    function.expect_next()
    assert function.stdout == "left\n"
    assert f"status {status[:3].decode()} full" in function.stderr
    first.close()


def test_an_early_refusal_of_a_stream_that_is_read_to_its_end_is_logged(runtime):
    function = runtime("def handler(event, context):\n    yield b'a'\n    yield b'b'\n")
    function.expect_response(function.invoke())
    function.peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert list(iter(function.peer.read_chunk, b"")) == [b"a", b"b"]
    function.connect()
    function.expect_next()
    assert "status 413" in function.stderr


def test_an_early_acceptance_is_no_reason_to_stop(runtime):
    function = runtime("def handler(event, context):\n    for _ in range(50):\n        yield bytes(1_000_000)\n")
    function.expect_response(function.invoke())
    function.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert [len(chunk) for chunk in iter(function.peer.read_chunk, b"")] == [1_000_000] * 50
    assert function.peer.read_trailers() == {}
    function.expect_next()
    assert function.stderr == ""


def test_an_early_container_error_ends_the_process(runtime):
    function = runtime(ENDLESS)
    function.expect_response(function.invoke(100_000))
    function.peer.send(b"HTTP/1.1 500 Container error\r\nContent-Length: 0\r\n\r\n")
    assert function.wait() == 1
    assert function.stdout == "left\n"


def test_the_invocation_id_is_echoed_only_where_it_came(runtime):
    function = runtime("def handler(event, context):\n    if event:\n        raise ValueError\n    yield b''\n")
    header = {"Lambda-Runtime-Invocation-Id": "nonce-1"}
    assert function.respond(headers=header).head.headers["lambda-runtime-invocation-id"] == "nonce-1"
    assert function.fail(1, headers=header)[0].headers["lambda-runtime-invocation-id"] == "nonce-1"
    assert "lambda-runtime-invocation-id" not in function.respond().head.headers


@pytest.mark.parametrize(
    ("host", "address", "prefix"),
    [
        ("127.0.0.1", "http://{host}:{port}/.rt", "/.rt"),
        ("127.0.0.1", "{host}:{port}/.rt/name/", "/.rt/name"),
        ("127.0.0.1", "http://{host}:{port}", ""),
        ("127.0.0.1", "localhost:{port}", ""),
        ("::1", "[{host}]:{port}", ""),
        ("::1", "http://[{host}]:{port}/p", "/p"),
    ],
)
def test_the_address_may_have_a_scheme_a_path_and_an_ipv6_host(runtime, host, address, prefix):
    function = runtime(ECHO, host=host, address=address)
    request = function.expect_next()
    assert request.path == f"{prefix}/2018-06-01/runtime/invocation/next"
    request_id = function.answer_next()
    head = function.read_response(request_id).head
    assert head.path == f"{prefix}/2018-06-01/runtime/invocation/{request_id}/response"
    assert head.headers["host"].endswith(f":{function.listener.getsockname()[1]}")


@pytest.mark.parametrize(
    "address", ["", "nonsense", "host:port", ":9001", "https://127.0.0.1:9001", "127.0.0.1:99999999"]
)
def test_an_address_that_is_none_ends_the_process_with_one_line(runtime, address):
    function = runtime(ECHO, variables={"AWS_LAMBDA_RUNTIME_API": address})
    assert function.wait() == 1
    assert function.stderr.count("\n") == 1 and "Traceback" not in function.stderr


# What the function does to the process


@pytest.mark.parametrize(
    "hostile",
    [
        "import socket\nsocket.setdefaulttimeout(0.01)\n",
        "import socket\nsocket.socket = None\nsocket.create_connection = None\n",
        "import json\njson.loads = json.dumps = None\n",
        "import sys, io\nsys.stdout = sys.stderr = None\n",
        "import signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\n",
        "import os\nos.chdir('/')\n",
        "import os\nos.environ.clear()\n",
        "import sys\nsys.path.clear()\n",
        "import os, sys\nos.close(1)\nos.close(2)\n",
    ],
    ids=lambda code: code.splitlines()[1],
)
def test_what_a_function_does_to_the_process_does_not_break_the_loop(runtime, hostile):
    function = runtime(
        f"{hostile}def handler(event, context):\n    if event == 2:\n        raise ValueError('boom')\n"
        "    yield b'x' * 100_000\n"
    )
    function.expect_next()
    function.peer.close()
    function.connect()
    assert len(function.respond(1).body) == 100_000
    assert function.fail(2)[1]["errorType"] == "ValueError"
    function.expect_response(function.invoke(3))
    function.peer.reset()
    function.connect()
    assert len(function.respond(1).body) == 100_000


def test_the_error_document_is_plain_ascii(runtime):
    function = runtime("def handler(event, context):\n    raise ValueError('é \\udc80 \\0 \\u2028')\n    yield b''\n")
    request, document = function.fail()
    assert request.body.isascii()
    assert document["errorMessage"] == "é \udc80 \0 \u2028"
    assert json.loads(request.headers["lambda-runtime-function-xray-error-cause"])["exceptions"][0]["message"]
