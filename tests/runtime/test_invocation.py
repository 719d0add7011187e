"""The event and the context object. Each attribute is compared with that of AWS's own Python runtimes."""

from __future__ import annotations

import json
import time

import pytest
from support.function_process import AWSLAMBDARIC, invocation

pytest.importorskip("awslambdaric")

ECHO = """
def handler(event, context):
    yield repr(event).encode()
"""

DESCRIBE = """
import json, os

def described(value):
    if value is None or isinstance(value, (str, int, float, list, dict)):
        return [type(value).__name__, value]
    names = [name for name in dir(value) if not name.startswith("_")]
    fields = {name: getattr(value, name) for name in names}
    return {
        "type": type(value).__name__,
        "fields": {name: described(field) for name, field in fields.items() if not callable(field)},
        "methods": [name for name, field in fields.items() if callable(field)],
    }

def describe(context):
    remaining = context.get_remaining_time_in_millis()
    everything = {
        "context": described(context),
        "repr": repr(context),
        "w3c": described(context.w3c()),
        "w3c is a copy": context.w3c() is not context.w3c(),
        "remaining": [type(remaining).__name__, remaining > 0],
        "trace id": os.environ.get("_X_AMZN_TRACE_ID"),
    }
    return json.dumps(everything).replace(context.aws_request_id, "the id").encode()
"""
OURS = f"""
{DESCRIBE}
def handler(event, context):
    yield describe(context)
"""
THEIRS = f"""
{DESCRIBE}
def handler(event, context):
    return describe(context)
"""

CLIENT_CONTEXT = "Lambda-Runtime-Client-Context"
IDENTITY = "Lambda-Runtime-Cognito-Identity"
TENANT = "Lambda-Runtime-Aws-Tenant-Id"
TRACE = "Lambda-Runtime-Trace-Id"
DEADLINE = "Lambda-Runtime-Deadline-Ms"

CLIENT = {
    "installation_id": "i-1",
    "app_title": "An app",
    "app_version_name": "1.2",
    "app_version_code": "12",
    "app_package_name": "org.example.app",
}
FULL = {"client": CLIENT, "custom": {"a": "1", "b": [2, {"c": None}]}, "env": {"locale": "de"}}
W3C = {"traceparent": "00-1-2-01", "tracestate": "a=b", "baggage": "c=d"}

HEADERS = {
    "nothing": {},
    "a full client context": {CLIENT_CONTEXT: json.dumps(FULL)},
    "a client context without a client": {CLIENT_CONTEXT: json.dumps({"custom": {"a": "1"}})},
    "a client context with an empty client": {CLIENT_CONTEXT: json.dumps({"client": {}, "env": {}})},
    "an incomplete client": {CLIENT_CONTEXT: json.dumps({"client": {"app_title": "An app"}})},
    "unknown fields": {CLIENT_CONTEXT: json.dumps({"client": {"x": 1}, "services": {"y": 2}})},
    "values of odd types": {CLIENT_CONTEXT: json.dumps({"client": {"app_title": 5}, "custom": "text", "env": [1]})},
    "an empty object": {CLIENT_CONTEXT: "{}"},
    "an empty header": {CLIENT_CONTEXT: "", IDENTITY: ""},
    "null": {CLIENT_CONTEXT: "null", IDENTITY: "null"},
    "a W3C trace": {CLIENT_CONTEXT: json.dumps({**FULL, "w3c": W3C})},
    "nothing but a W3C trace": {CLIENT_CONTEXT: json.dumps({"w3c": W3C})},
    "half a W3C trace": {CLIENT_CONTEXT: json.dumps({"w3c": {"traceparent": "00-1-2-01"}})},
    "a W3C trace of odd types": {
        CLIENT_CONTEXT: json.dumps({"w3c": {"traceparent": 5, "tracestate": None, "baggage": "c=d", "else": "x"}})
    },
    "a W3C trace that is not an object": {CLIENT_CONTEXT: json.dumps({"custom": {}, "w3c": ["traceparent"]})},
    "a W3C trace of null": {CLIENT_CONTEXT: json.dumps({"w3c": None})},
    "non-ASCII text": {CLIENT_CONTEXT: json.dumps({"custom": {"name": "Jürgen 🦊 日本"}}, ensure_ascii=False)},
    "escaped text": {CLIENT_CONTEXT: json.dumps({"custom": {"name": "Jürgen 🦊 日本"}})},
    "a Cognito identity": {IDENTITY: json.dumps({"cognitoIdentityId": "id-1", "cognitoIdentityPoolId": "pool-1"})},
    "half a Cognito identity": {IDENTITY: json.dumps({"cognitoIdentityId": "id-1", "else": "x"})},
    "a tenant": {TENANT: "tenant-1"},
    "a trace id": {TRACE: "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=1"},
    "an ARN with an alias": {"Lambda-Runtime-Invoked-Function-Arn": "arn:aws-cn:lambda:cn-north-1:1:function:f:live"},
    "a deadline in the past": {DEADLINE: "1000"},
}


def ours(function, headers):
    return json.loads(function.respond(headers=headers).body)


def theirs(function, headers):
    request_id = function.invoke(headers=headers)
    request = function.request()
    assert request.path.endswith(f"/{request_id}/response"), request.body
    function.accept()
    return json.loads(request.body)


@pytest.fixture
def both(runtime):
    return runtime(OURS), runtime(THEIRS, command=AWSLAMBDARIC)


def test_the_context_equals_that_of_the_managed_runtime(both):
    described = {case: (ours(both[0], headers), theirs(both[1], headers)) for case, headers in HEADERS.items()}
    for description in (each for pair in described.values() for each in pair):
        del description["repr"]  # the next test compares it
    for description, _ in described.values():
        description["context"]["methods"].remove("after_response")  # an addition of this runtime
    assert {case: pair for case, pair in described.items() if pair[0] != pair[1]} == {}


@pytest.mark.parametrize("case", ["nothing", "a full client context", "an incomplete client", "a tenant"])
def test_the_repr_of_the_context_equals_that_of_the_managed_runtime(both, case):
    shown, expected = ours(both[0], HEADERS[case]), theirs(both[1], HEADERS[case])
    assert shown["repr"] == expected["repr"]


def test_the_context_without_environment_variables_equals_that_of_the_managed_runtime(runtime):
    names = ("FUNCTION_NAME", "FUNCTION_VERSION", "FUNCTION_MEMORY_SIZE", "LOG_GROUP_NAME", "LOG_STREAM_NAME")
    variables = {f"AWS_LAMBDA_{name}": None for name in names}
    function = runtime(OURS, variables=variables)
    managed = runtime(THEIRS, variables=variables, command=AWSLAMBDARIC)
    assert ours(function, {})["context"]["fields"] == theirs(managed, {})["context"]["fields"]


@pytest.mark.parametrize(
    "headers",
    [{CLIENT_CONTEXT: "{bad"}, {IDENTITY: "bad"}, {CLIENT_CONTEXT: "NaN,"}, {CLIENT_CONTEXT: "{}", IDENTITY: "{"}],
)
def test_a_context_that_is_not_json_fails_like_on_the_managed_runtime(both, headers):
    function, managed = both
    for _ in range(2):
        request, document = function.fail(headers=headers)
        _, expected = managed.fail(headers=headers)
        assert document["errorType"] == expected["errorType"] == "Runtime.LambdaContextUnmarshalError"
        assert document["errorMessage"] == expected["errorMessage"]
        assert request.headers["lambda-runtime-function-error-type"] == "Runtime.LambdaContextUnmarshalError"
        assert ours(function, {}) is not None


@pytest.mark.parametrize("text", ["[1]", "5", '"text"', "true", "[" * 100_000])
def test_a_context_that_is_not_a_json_object_is_an_unmarshal_error(runtime, text):
    function = runtime(OURS)
    for name in (CLIENT_CONTEXT, IDENTITY):
        _, document = function.fail(headers={name: text})
        assert document["errorType"] == "Runtime.LambdaContextUnmarshalError"
    assert ours(function, {})["context"]["type"] == "LambdaContext"


def test_the_header_of_the_client_context_is_case_insensitive(runtime):
    function = runtime(OURS)
    for headers in ({CLIENT_CONTEXT.lower(): '{"custom": 1}'}, {CLIENT_CONTEXT.upper(): '{"custom": 1}'}):
        assert ours(function, headers)["context"]["fields"]["client_context"]["fields"]["custom"] == ["int", 1]


@pytest.mark.parametrize(
    ("deadline", "remaining"),
    [("1000", 0), ("0", 0), ("-5", 0), ("", 0), ("soon", 0), ("1e12", 0), ("9" * 30, int("9" * 30)), ("9" * 5000, 0)],
    ids=lambda value: str(value)[:6],
)
def test_the_remaining_time_is_never_negative_even_for_an_invalid_deadline(runtime, deadline, remaining):
    code = """
        def handler(event, context):
            yield str(context.get_remaining_time_in_millis()).encode()
        """
    shown = int(runtime(code).respond(headers={DEADLINE: deadline}).body)
    assert 0 <= remaining - shown < 10**13


def test_the_remaining_time_without_a_deadline_is_0(runtime):
    code = """
        def handler(event, context):
            yield str(context.get_remaining_time_in_millis()).encode()
        """
    function = runtime(code)
    function.expect_next()
    function.peer.send(
        b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: 1\r\nContent-Length: 2\r\n\r\n{}",
    )
    assert function.read_response("1").body == b"0"


def test_the_remaining_time_decreases(runtime):
    code = """
        import time

        def handler(event, context):
            first = context.get_remaining_time_in_millis()
            while context.get_remaining_time_in_millis() == first:
                pass
            yield str(first - context.get_remaining_time_in_millis()).encode()
        """
    in_a_minute = str(int(time.time() * 1000) + 60_000)
    assert 0 < int(runtime(code).respond(headers={DEADLINE: in_a_minute}).body) < 60_000


def test_the_trace_id_is_set_and_cleared_for_each_invocation(both):
    traces = ["Root=1-a", None, "Root=1-b", "Root=1-c", None]
    for function, ask in zip(both, (ours, theirs), strict=True):
        assert [ask(function, {TRACE: trace} if trace else {})["trace id"] for trace in traces] == traces


def test_a_trace_id_in_the_environment_is_cleared_before_the_first_invocation(runtime):
    function = runtime(OURS, variables={"_X_AMZN_TRACE_ID": "Root=1-old"})
    assert ours(function, {})["trace id"] is None


LOG = """
def write(context):
    context.log("one")
    context.log("two\\nthree\\n")
    context.log({"a": 5})
    context.log("")
    print("plain")
"""
STREAMING_LOG = f"""
{LOG}
def handler(event, context):
    write(context)
    yield b""
"""
BUFFERED_LOG = f"""
{LOG}
def handler(event, context):
    write(context)
"""


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_context_log_writes_text_unchanged(runtime, log_format):
    variables = {"AWS_LAMBDA_LOG_FORMAT": log_format}
    function = runtime(STREAMING_LOG, variables=variables)
    managed = runtime(BUFFERED_LOG, variables=variables, command=AWSLAMBDARIC)
    function.respond()
    managed.invoke()
    managed.request()
    assert function.stdout == managed.stdout == "onetwo\nthree\n{'a': 5}plain\n"


def test_an_event_without_a_content_type_is_json(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(invocation(b"one", b'{"a": 1}'))
    assert function.read_response("one").body == b"{'a': 1}"


def test_an_event_of_another_content_type_is_passed_as_bytes(runtime):
    function = runtime(ECHO)
    function.expect_next()
    function.peer.send(invocation(b"one", b"\xff\0", b"Content-Type: image/png\r\n"))
    assert function.read_response("one").body == b"b'\\xff\\x00'"


@pytest.mark.parametrize("body", [b"", b"{", b"{}{}", b"nonsense", b"\xff", b'"a\nb"', b"[" * 100_000], ids=str)
def test_an_event_that_is_not_json_is_an_unmarshal_error(runtime, body):
    function = runtime(ECHO)
    _, document = function.read_error(function.invoke(raw=body))
    assert document["errorType"] == "Runtime.UnmarshalError"
    function.respond()


def test_an_event_with_a_byte_order_mark_is_read(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield event["text"].encode()
        """
    )
    raw = b"\xef\xbb\xbf" + json.dumps({"text": "J\u00fcrgen"}).encode()
    assert function.read_response(function.invoke(raw=raw)).body.decode() == "J\u00fcrgen"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_process_gets_the_context(runtime, method):
    child = """
        import sys

        def work(context, connection):
            connection.send([
                context.aws_request_id,
                context.client_context.custom,
                context.get_remaining_time_in_millis() > 1000,
                any(path.endswith("/opt") for path in sys.path),
                context.mine,
                repr(context),
            ])
        """
    handler = f"""
        import multiprocessing

        from child import work

        def handler(event, context):
            context.mine = "kept"
            processes = multiprocessing.get_context("{method}")
            ours, theirs = processes.Pipe()
            process = processes.Process(target=work, args=(context, theirs))
            process.start()
            request_id, custom, has_time, has_layer, mine, text = ours.recv()
            process.join()
            same = (request_id, mine, text) == (context.aws_request_id, "kept", repr(context))
            yield repr([same, custom, has_time, has_layer]).encode()
        """
    function = runtime({"child.py": child, "lambda_function.py": handler})
    headers = {"Lambda-Runtime-Client-Context": json.dumps({"custom": {"a": 1}})}
    assert function.respond(headers=headers).body == b"[True, {'a': 1}, True, False]"


def test_a_copy_of_the_context_can_log(runtime):
    function = runtime(
        """
        import copy
        import pickle

        def handler(event, context):
            pickle.loads(pickle.dumps(context)).log("pickled\\n")
            copy.deepcopy(context).log("copied\\n")
            yield b""
        """
    )
    function.respond()
    function.expect_next()
    assert function.stdout == "pickled\ncopied\n"
