"""What a cold start loads. Each module costs time before the first response."""

from __future__ import annotations

import json
import subprocess

import pytest
from support import interpreters
from support.interpreters import Interpreter

OF_THE_LAYER = {
    "streaming_runtime",
    "streaming_runtime.api",
    "streaming_runtime.connection",
    "streaming_runtime.handler",
    "streaming_runtime.http1",
    "streaming_runtime.invocation",
    "streaming_runtime.log",
}
# No module of Python's library in Python code, not even `os`: it takes a tenth of a cold start.
C_MODULES = {"_json", "_socket", "_signal", "gc"}

TRACE_ID = "Lambda-Runtime-Trace-Id"
MODULES = "import sys; names = sorted(sys.modules); import json; print(json.dumps(names))"
FUNCTION = """
import sys

print(*sorted(sys.modules))

def handler(event, context):
    yield " ".join(sorted(sys.modules)).encode()
"""


@pytest.fixture(params=interpreters.VERSIONS)
def interpreter(request: pytest.FixtureRequest) -> Interpreter:
    return interpreters.require(request.param)


def test_these_modules_are_loaded_until_the_first_next_and_no_more_by_the_first_invocation(runtime, interpreter):
    bare = subprocess.run([interpreter.program, "-S", "-c", MODULES], capture_output=True, text=True, check=True)
    built_in = set(json.loads(bare.stdout))
    function = runtime(FUNCTION, arguments=[interpreter.program, "/var/runtime/bootstrap.py"])
    function.expect_next()
    expected = OF_THE_LAYER | C_MODULES | {"lambda_function"}
    assert set(function.stdout.split()) - built_in == expected - built_in
    response = function.read_response(function.send_invocation({"any": ["event", 1.5, None]}))
    assert response.body.decode().split() == function.stdout.split()


def test_an_http_prelude_loads_neither_json_nor_re_nor_enum(runtime, interpreter):
    function = runtime(
        """
        import sys

        def handler(event, context):
            yield {"headers": {"Content-Type": "text/plain"}, "cookies": ["a=b"]}
            yield " ".join(sorted(sys.modules)).encode()
        """,
        arguments=[interpreter.program, "/var/runtime/bootstrap.py"],
    )
    modules = set(function.respond().chunks[2].decode().split())
    assert "streaming_runtime" in modules
    assert modules.isdisjoint({"json", "re", "enum", "logging", "traceback", "asyncio"})


def test_a_function_that_imports_os_late_and_its_child_processes_see_the_trace_id_of_the_invocation(
    runtime, interpreter
):
    function = runtime(
        """
        import sys

        NAME = "_X_AMZN_TRACE_ID"

        def handler(event, context):
            if event == "import":
                import os
            if "os" in sys.modules:
                os = sys.modules["os"]
                yield os.environ.get(NAME, "none").encode() + b" "
                yield os.popen(f"printf %s ${{{NAME}-none}}").read().encode()
            yield b"."
        """,
        arguments=[interpreter.program, "/var/runtime/bootstrap.py"],
    )
    expected = {"": b".", "import": b"Root=1-b Root=1-b.", "again": b"none none."}
    headers = {"": {TRACE_ID: "Root=1-a"}, "import": {TRACE_ID: "Root=1-b"}, "again": {}}
    for event, body in expected.items():
        assert function.respond(event, headers=headers[event]).body == body


def test_a_module_that_calls_sys_exit_ends_the_process_with_its_status(runtime):
    function = runtime(
        """
        import sys

        sys.exit(3)
        """
    )
    _, document = function.read_init_error()
    assert document["errorType"] == "Runtime.ExitError"
    assert function.wait() == 3


def test_what_the_function_has_buffered_is_in_the_log_when_the_process_ends(runtime):
    function = runtime(
        """
        import sys

        sys.stdout = open(1, "w", buffering=65536, closefd=False)

        def handler(event, context):
            print("buffered")
            sys.exit(0)
            yield
        """
    )
    function.fail()
    assert function.wait() == 0
    assert function.stdout.endswith("\nbuffered\n")


def test_garbage_is_collected(runtime):
    function = runtime(
        """
        import gc

        def handler(event, context):
            yield str(gc.isenabled()).encode()
        """
    )
    assert function.respond().body == b"True"


def test_sys_argv_is_the_path_of_the_runtime(runtime):
    function = runtime(
        """
        import sys

        def handler(event, context):
            yield repr([sys.argv[0].rpartition("/")[2], *sys.argv[1:]]).encode()
        """
    )
    assert function.respond().body == b"['runtime.py']"
