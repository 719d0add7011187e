"""The prelude: a first dict with the status, headers and cookies of an HTTP response."""

from __future__ import annotations

import json

import pytest
from support.function_process import Gate


def test_a_first_dict_is_a_prelude_of_two_chunks(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield {
                "statusCode": 201,
                "headers": {"X-A": "b, c", "X-Ü": "é"},
                "cookies": ["a=1", "b=2; E=Wed, 1"],
            }
            yield b"body"
        """
    )
    response = function.respond()
    assert response.head.headers["content-type"] == "application/vnd.awslambda.http-integration-response"
    prelude, end, *body = response.chunks
    assert json.loads(prelude) == {
        "statusCode": 201,
        "headers": {"X-A": "b, c", "X-Ü": "é"},
        "cookies": ["a=1", "b=2; E=Wed, 1"],
    }
    assert end == bytes(8)
    assert body == [b"body"]


def test_a_prelude_is_sent_at_once_with_all_three_keys(runtime, tmp_path):
    function = runtime(
        """
        def handler(event, context):
            yield {}
            with open(event) as gate:
                gate.read()
            yield b"body"
        """
    )
    gate = Gate(tmp_path)
    function.expect_response(function.invoke(gate.path))
    assert json.loads(function.peer.read_chunk()) == {"statusCode": 200, "headers": {}, "cookies": []}
    assert function.peer.read_chunk() == bytes(8)
    gate.open()
    assert function.peer.read_chunk() == b"body"


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_prelude_without_a_body_is_a_complete_response(runtime, keyword):
    code = f"""
        import http

        {keyword} handler(event, context):
            yield {{"statusCode": http.HTTPStatus.NO_CONTENT}}
        """
    response = runtime(code).respond()
    assert json.loads(response.chunks[0])["statusCode"] == 204
    assert (response.chunks[1:], response.trailers) == ([bytes(8)], {})


@pytest.mark.parametrize(
    "head",
    [
        "{'statusCode': 200, 'body': 'x'}",
        "{5: 6}",
        "{'statusCode': '200'}",
        "{'statusCode': True}",
        "{'statusCode': 99}",
        "{'statusCode': 600}",
        "{'headers': []}",
        "{'headers': {'a': 5}}",
        "{'headers': {5: 'a'}}",
        "{'headers': {'a': 'b', 'c': 5}}",
        "{'headers': {'': 'a'}}",
        "{'headers': {'a': 'b\\r\\nX: y'}}",
        "{'headers': {'a\\nb': 'c'}}",
        "{'headers': {'a': 'b\\0'}}",
        "{'cookies': 'a=1'}",
        "{'cookies': ['a=1', 5]}",
        "{'cookies': ['a=1\\r\\nX: y']}",
        "{'headers': {'a': 'x' * 16384}}",
    ],
)
def test_an_invalid_prelude_is_an_error_before_the_first_byte(runtime, head):
    function = runtime(
        f"""
        def handler(event, context):
            yield {head}
            yield b"never"
        """
    )
    request, document = function.fail()
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.InvalidResponseHead"
    assert document["errorType"] == "Runtime.InvalidResponseHead"
    function.expect_next()


def test_a_prelude_can_have_16_kb_with_its_delimiter_and_no_more(runtime):
    empty = len(json.dumps({"statusCode": 200, "headers": {"a": ""}, "cookies": []}))
    function = runtime(
        """
        def handler(event, context):
            yield {"headers": {"a": "x" * event}}
        """
    )
    room = 16 * 1024 - 8 - empty
    assert sum(map(len, function.respond(room).chunks)) == 16 * 1024
    assert function.fail(room + 1)[1]["errorType"] == "Runtime.InvalidResponseHead"


def test_multi_value_headers_are_passed_through(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield {"multiValueHeaders": {"X-A": ["b", "c"], "X-Empty": []}}
            yield b"body"
        """
    )
    document = json.loads(function.respond().chunks[0])
    assert document == {
        "statusCode": 200,
        "headers": {},
        "cookies": [],
        "multiValueHeaders": {"X-A": ["b", "c"], "X-Empty": []},
    }


@pytest.mark.parametrize(
    "value",
    [
        "[]",
        "{'a': 'b'}",
        "{'a': ['b'], 'c': [5]}",
        "{'a': ['b', 5]}",
        "{'': ['b']}",
        "{'a\\n': ['b']}",
        "{'a': ['b\\r\\nX: y']}",
        "None",
    ],
)
def test_invalid_multi_value_headers_are_an_error_before_the_first_byte(runtime, value):
    function = runtime(
        f"""
        def handler(event, context):
            yield {{"multiValueHeaders": {value}}}
        """
    )
    assert function.fail()[1]["errorType"] == "Runtime.InvalidResponseHead"


def test_multi_value_headers_count_toward_the_limit(runtime):
    function = runtime(
        """
        def handler(event, context):
            yield {"multiValueHeaders": {"a": ["x" * 8_000, "y" * 9_000]}}
        """
    )
    assert function.fail()[1]["errorType"] == "Runtime.InvalidResponseHead"
