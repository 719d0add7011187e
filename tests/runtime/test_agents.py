"""The stream within the call that an agent observes. The agents are small ones that log what they see."""

from __future__ import annotations

import json
import os
import signal

import pytest
from support.function_process import Gate, source
from support.http_events import function_url
from support.http_responses import parse

# An agent: the module that _HANDLER names. It logs what it observes of the function's handler.
AGENT = """
import app

def handler(event, context):
    print("begin")
    try:
        result = app.handler(event, context)
    except BaseException as error:
        print(f"failed {type(error).__name__}: {error}")
        raise
    finally:
        print("end")
    print(f"result {result}")
    return result
"""
INNER = {"STREAMING_RUNTIME_INNER_HANDLER": "app.handler", "_HANDLER": "agent.handler"}

TWO_CHUNKS = """
def handler(event, context):
    print("first line")
    yield b"one"
    print("between")
    yield b"two"
    print("last line")
"""
WITHIN = ["begin", "first line", "between", "last line", "end", "result {'statusCode': 200}"]


def start(runtime, app, agent=AGENT, variables=None, **options):
    return runtime({"app.py": app, "agent.py": agent}, variables=INNER | (variables or {}), **options)


def lines(function):
    function.expect_next()
    return function.stdout.splitlines()


def test_the_call_of_an_agent_contains_the_stream(runtime):
    function = start(runtime, TWO_CHUNKS)
    assert function.respond().chunks == [b"one", b"two"]
    assert lines(function) == WITHIN


def test_an_async_stream_is_contained_too(runtime):
    function = start(runtime, TWO_CHUNKS.replace("def handler", "async def handler"))
    assert function.respond().chunks == [b"one", b"two"]
    assert lines(function) == WITHIN


def test_each_chunk_leaves_at_once_and_the_last_one_before_the_agent_continues(runtime, tmp_path):
    gate = Gate(tmp_path)
    agent = """
        import app

        def handler(event, context):
            app.handler(event, context)
            with open(event) as gate:
                gate.read()
        """
    function = start(runtime, TWO_CHUNKS, agent)
    assert function.respond(gate.path).chunks == [b"one", b"two"]
    assert function.stdout.splitlines()[-1] == "last line"
    gate.open()
    function.expect_next()


@pytest.mark.parametrize(("prelude", "status"), [({"statusCode": 404}, 404), ({"headers": {}}, 200)])
def test_the_status_of_the_prelude_is_the_result_of_the_call(runtime, prelude, status):
    function = start(
        runtime,
        """
        def handler(event, context):
            yield event
            yield b"body"
        """,
    )
    assert function.respond(prelude).chunks[2:] == [b"body"]
    assert lines(function)[-1] == f"result {{'statusCode': {status}}}"


FAILING = """
def handler(event, context):
    if event["chunks"]:
        yield b"one"
    raise ValueError("broken")
"""
SWALLOWING = AGENT.replace("        raise\n", "        result = None\n")
REPLACING = AGENT.replace("        raise\n", "        raise KeyError('another')\n")


@pytest.mark.parametrize("agent", [AGENT, SWALLOWING, REPLACING], ids=["raises", "swallows", "replaces"])
def test_an_error_in_the_stream_is_raised_within_the_call_and_reported_once(runtime, agent):
    function = start(runtime, FAILING, agent)
    response = function.respond({"chunks": 1})
    assert response.chunks == [b"one"] and response.error["errorType"] == "ValueError"
    _, document = function.fail({"chunks": 0})
    assert document["errorType"] == "ValueError"
    path = function.task / "app.py"
    assert [entry.split(",")[0].strip() for entry in document["stackTrace"]] == [f'File "{path}"']
    function.expect_next()
    assert function.stdout.count("failed ValueError: broken") == 2
    assert function.stdout.count("[ERROR]") == 2


def test_before_the_first_byte_the_error_is_reported_after_the_agent_has_returned(runtime, tmp_path):
    gate = Gate(tmp_path)
    agent = """
        import app

        def handler(event, context):
            try:
                app.handler({"chunks": 0}, context)
            finally:
                with open(event) as gate:
                    gate.read()
                print("flushed")
        """
    function = start(runtime, FAILING, agent)
    request_id = function.invoke(gate.path)
    gate.open()
    function.read_error(request_id)
    assert function.stdout.startswith("flushed\n")


def test_an_error_of_the_agent_itself_is_logged_and_the_response_is_complete(runtime):
    agent = AGENT + "    raise RuntimeError('no exporter')\n"
    function = start(runtime, TWO_CHUNKS, agent.replace("    return result\n", ""))
    assert function.respond().chunks == [b"one", b"two"]
    assert "[ERROR] RuntimeError: no exporter" in "\n".join(lines(function))


def test_a_caller_that_leaves_is_not_an_error_for_the_agent(runtime):
    function = start(
        runtime,
        """
        def handler(event, context):
            try:
                while True:
                    yield bytes(100_000)
            finally:
                print("closed")
        """,
    )
    function.expect_response(function.invoke())
    function.peer.reset()
    function.connect()
    assert lines(function) == ["begin", "closed", "end", "result {'statusCode': 200}"]
    assert function.runtime_lines[0].startswith("the response was not delivered: ")


@pytest.mark.parametrize("first", ["yield item", "pass"])
def test_a_generator_that_a_failed_handler_reads_is_closed_before_the_next_invocation(runtime, first):
    app = f"""
        import asyncio

        async def upstream():
            try:
                yield b"item"
            finally:
                await asyncio.sleep(0)
                print("closed")

        async def handler(event, context):
            items = upstream()
            async for item in items:
                {first}
                raise ValueError("no")
            yield b""
        """
    function = start(runtime, source(app))
    if first == "pass":
        function.fail()
    else:
        function.respond()
    assert lines(function)[-1] == "closed"


def test_sys_exit_in_the_stream_ends_the_process_with_its_status(runtime):
    function = start(
        runtime,
        """
        import sys

        def handler(event, context):
            yield b"one"
            sys.exit(7)
        """,
    )
    response = function.read_response(function.invoke())
    function.accept()
    assert response.trailers["Lambda-Runtime-Function-Error-Type"] == "Runtime.ExitError"
    assert function.wait() == 7
    assert function.stdout.count("[ERROR]") == 1


@pytest.mark.parametrize(
    "result", ["None", "{'statusCode': 200}", "b'bytes'", "[b'list']"], ids=["None", "dict", "bytes", "list"]
)
def test_a_handler_that_does_not_stream_fails_within_the_call(runtime, result):
    function = start(
        runtime,
        f"""
        def handler(event, context):
            return {result}
        """,
    )
    _, document = function.fail()
    assert document["errorType"] == "Runtime.InvalidHandler"
    assert "failed ContractError" in lines(function)[1]


@pytest.mark.parametrize("chunks", [1, 0])
def test_the_record_of_a_stream_is_written_once(runtime, chunks):
    function = start(runtime, FAILING, variables={"STREAMING_RUNTIME_LOG_STREAMS": "1"})
    request_id = function.invoke({"chunks": chunks})
    if chunks:
        function.read_response(request_id)
        function.accept()
    else:
        function.read_error(request_id)
    function.expect_next()
    [record] = [line for line in function.stderr.splitlines() if line.startswith("STREAM ")]
    assert f"Chunks: {chunks}\tStatus: error\tError Type: ValueError" in record


# Which calls are observed


def test_only_the_first_call_of_an_invocation_streams(runtime):
    agent = """
        import app

        def handler(event, context):
            app.handler(event, context)
            yield b"".join(app.handler(event, context))
        """
    other = """
        import app

        def handler(event, context):
            first = app.handler(event, context)
            print(first, list(app.handler(event, context)))
            return first
        """
    function = start(runtime, TWO_CHUNKS, other)
    assert function.respond().chunks == [b"one", b"two"]
    assert lines(function)[3] == "first line"
    assert "{'statusCode': 200} [b'one', b'two']" in function.stdout
    assert start(runtime, TWO_CHUNKS, agent).invoke()


def test_a_call_in_another_thread_or_at_import_gets_the_result_of_the_handler(runtime):
    agent = """
        import threading
        import app

        print(list(app.handler(None, None)))

        def handler(event, context):
            thread = threading.Thread(target=lambda: print(list(app.handler(None, None))))
            thread.start()
            thread.join()
            return app.handler(event, context)
        """
    function = start(runtime, TWO_CHUNKS, agent)
    assert function.respond().chunks == [b"one", b"two"]
    assert lines(function).count("[b'one', b'two']") == 2


def test_a_call_within_an_event_loop_gets_the_result_of_the_handler(runtime):
    agent = """
        import asyncio
        import app

        async def call(event, context):
            return [chunk async for chunk in app.handler(event, context)]

        def handler(event, context):
            print(asyncio.run(call(event, context)))
            return app.handler(event, context)
        """
    function = start(runtime, TWO_CHUNKS.replace("def", "async def"), agent)
    assert function.respond().chunks == [b"one", b"two"]
    assert "[b'one', b'two']" in lines(function)


def test_the_replacement_is_a_plain_function_with_the_names_of_the_handler(runtime):
    app = '''
        import functools

        def wrapped(event, context):
            yield b"x"

        @functools.wraps(wrapped)
        async def handler(event, context):
            """Stream."""
            yield b"x"
        '''
    agent = """
        import inspect
        import app

        kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
        print(type(app.handler).__name__, [kind(app.handler) for kind in kinds], hasattr(app.handler, "__wrapped__"))
        print(app.handler.__name__, app.handler.__module__)

        def handler(event, context):
            return app.handler(event, context)
        """
    function = start(runtime, app, agent)
    assert function.respond().chunks == [b"x"]
    assert lines(function) == ["function [False, False, False] False", "wrapped app"]


def test_the_innermost_handler_may_be_the_handler_of_the_function(runtime):
    variables = {"STREAMING_RUNTIME_INNER_HANDLER": "app.handler", "_HANDLER": "app.handler"}
    function = start(runtime, TWO_CHUNKS, variables=variables)
    assert function.respond().chunks == [b"one", b"two"]
    assert function.respond().chunks == [b"one", b"two"]


@pytest.mark.parametrize(
    ("variable", "module"),
    [
        ("DD_LAMBDA_HANDLER", "datadog_lambda/handler"),
        ("ELASTICAPM_ORIGINAL_HANDLER", "elasticapm_handler"),
        ("NEW_RELIC_LAMBDA_HANDLER", "newrelic_lambda_wrapper"),
        ("ORIG_HANDLER", "otel_wrapper"),
    ],
)
@pytest.mark.parametrize("name", ["app.handler", "pkg/app.handler"])
def test_the_variables_of_agents_are_used_if_the_handler_is_theirs(runtime, variable, module, name):
    agent = AGENT.replace(
        "import app\n", f"import importlib\napp = importlib.import_module({name[:-8]!r}.replace('/', '.'))\n"
    )
    code = {f"{module}.py": agent, f"{name[:-8]}.py": TWO_CHUNKS}
    function = runtime(code, variables={"_HANDLER": f"{module}.handler", variable: name})
    assert function.respond().chunks == [b"one", b"two"]
    assert lines(function) == WITHIN
    other = runtime(code | {"agent.py": agent}, variables={"_HANDLER": "agent.handler", variable: name})
    other.respond()
    assert lines(other)[:2] == ["begin", "end"]


def test_the_variable_of_this_layer_has_precedence_over_those_of_agents(runtime):
    code = {"app.py": TWO_CHUNKS, "otel_wrapper.py": AGENT}
    variables = INNER | {"_HANDLER": "otel_wrapper.handler", "ORIG_HANDLER": "nothing.handler"}
    function = runtime(code, variables=variables)
    assert function.respond().chunks == [b"one", b"two"]
    assert lines(function) == WITHIN


def test_a_handler_that_the_agent_imports_at_its_first_call_is_imported_at_init(runtime):
    agent = """
        def handler(event, context):
            import app

            return app.handler(event, context)
        """
    function = start(runtime, "print('imported')\n" + source(TWO_CHUNKS), agent)
    function.expect_next()
    assert function.stdout == "imported\n"
    function.send_invocation()


def test_an_agent_that_starts_with_sitecustomize_finds_the_replacement(runtime, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        source(
            """
            import app

            original = app.handler

            def observed(event, context):
                print("begin")
                try:
                    return original(event, context)
                finally:
                    print("end")

            app.handler = observed
            """
        )
    )
    variables = {"STREAMING_RUNTIME_INNER_HANDLER": "app.handler", "_HANDLER": "app.handler"}
    task = tmp_path / "function0" / "task"
    function = start(runtime, TWO_CHUNKS, variables=variables | {"PYTHONPATH": f"{tmp_path}:{task}"})
    assert function.respond().chunks == [b"one", b"two"]
    assert lines(function) == WITHIN[:-1]


# What Sentry does when the function starts it: it patches the names of the managed runtime's script.
SENTRY = """
import sys

def init():
    bootstrap = sys.modules["__main__"].bootstrap
    client = bootstrap.LambdaRuntimeClient
    call = bootstrap.handle_event_request

    def observed(client, handler, event, context):
        print("begin")
        try:
            return call(client, handler, event, context)
        finally:
            print("end")

    def fail(self, _):
        raise ZeroDivisionError

    bootstrap.handle_event_request = observed
    client.post_invocation_result = lambda self: print("result")
    client.post_invocation_error = lambda self: print("error")
    client.post_init_error = fail
"""


def test_sentry_observes_the_stream_and_sends_its_events_after_it(runtime):
    handler = """
        import sentry_sdk

        sentry_sdk.init()

        def handler(event, context):
            print("first line")
            yield b"one"
            if event == "fail":
                raise ValueError("no")
            print("last line")
        """
    function = runtime({"lambda_function.py": handler, "sentry_sdk.py": SENTRY})
    assert function.respond().chunks == [b"one"]
    assert lines(function) == ["begin", "first line", "last line", "end", "result"]
    request_id = function.send_invocation("fail")
    assert function.read_response(request_id).error["errorType"] == "ValueError"
    function.accept()
    seen = [line for line in lines(function)[5:] if line in ("begin", "first line", "end", "result", "error")]
    assert seen == ["begin", "first line", "end", "error"]


def test_an_error_of_sentry_does_not_replace_the_init_error(runtime):
    handler = """
        import sentry_sdk

        sentry_sdk.init()
        raise KeyError("no")
        """
    function = runtime({"lambda_function.py": handler, "sentry_sdk.py": SENTRY})
    assert function.read_init_error()[1]["errorType"] == "KeyError"
    assert function.wait() == 1
    assert "KeyError" in function.stdout and "ZeroDivisionError" in function.stdout


def test_an_agent_may_import_sentry(runtime):
    code = {"app.py": TWO_CHUNKS, "agent.py": f"import sentry_sdk{AGENT}", "sentry_sdk.py": ""}
    function = runtime(code, variables=INNER)
    assert function.respond().chunks == [b"one", b"two"]
    assert lines(function) == WITHIN


def test_sentry_may_start_with_sitecustomize(runtime, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sentry_sdk")
    (tmp_path / "sentry_sdk.py").touch()
    function = runtime(TWO_CHUNKS, variables={"PYTHONPATH": str(tmp_path)})
    assert function.respond().chunks == [b"one", b"two"]


def test_a_namespace_package_of_the_function_may_have_the_name_of_an_agent(runtime):
    code = """
        from sentry_sdk.part import NAME

        def handler(event, context):
            yield NAME
        """
    assert runtime({"lambda_function.py": code, "sentry_sdk/part.py": "NAME = b'part'"}).respond().body == b"part"


@pytest.mark.parametrize(
    "interference",
    [
        # A finder of the agent's own, ahead of all others
        """
        import importlib.machinery
        import sys

        class Finder:
            def find_spec(name, path=None, target=None):
                return importlib.machinery.PathFinder.find_spec(name, path, target)

        sys.meta_path.insert(0, Finder)
        """,
        # A finder whose loader makes the module
        """
        import importlib.machinery
        import sys
        import types

        class Module(types.ModuleType):
            pass

        class Loader(importlib.machinery.SourceFileLoader):
            def create_module(self, spec):
                return Module(spec.name)

            def exec_module(self, module):
                assert type(module) is Module
                super().exec_module(module)

        class Finder:
            def find_spec(name, path=None, target=None):
                spec = importlib.machinery.PathFinder.find_spec(name, path, target)
                if name == "app":
                    spec.loader = Loader(name, spec.origin)
                return spec

        sys.meta_path.insert(0, Finder)
        """,
        # The module in sys.modules is replaced by a proxy
        """
        import sys
        import app

        class Proxy:
            def __getattr__(self, name):
                return getattr(original, name)

        original = sys.modules["app"]
        sys.modules["app"] = Proxy()
        """,
        # All modules of the function are imported anew
        """
        import sys
        import app

        del sys.modules["app"]
        """,
    ],
    ids=["finder", "loader", "proxy", "imported again"],
)
def test_an_agent_that_interferes_with_imports_observes_the_stream(runtime, tmp_path, interference):
    (tmp_path / "sitecustomize.py").write_text(source(interference))
    task = tmp_path / "function0" / "task"
    function = start(runtime, TWO_CHUNKS, variables={"PYTHONPATH": f"{tmp_path}:{task}"})
    assert function.respond().chunks == [b"one", b"two"]
    assert lines(function) == WITHIN


# Wrong settings


@pytest.mark.parametrize(
    ("name", "reason", "cause"),
    [
        ("app.missing", "HandlerNotFound", "Handler 'missing' missing on module 'app'"),
        ("app.number", "HandlerNotFound", "Handler 'number' a int, not a function, on module 'app'"),
        ("nothing.handler", "ImportModuleError", "Unable to import module 'nothing'"),
        ("handler", "MalformedHandlerName", "Bad handler 'handler'"),
    ],
)
def test_an_inner_handler_that_does_not_exist_is_an_init_error(runtime, name, reason, cause):
    function = start(
        runtime, source(TWO_CHUNKS) + "\nnumber = 1\n", variables={"STREAMING_RUNTIME_INNER_HANDLER": name}
    )
    _, document = function.read_init_error()
    assert function.wait() == 1
    assert document["errorType"] == f"Runtime.{reason}"
    assert cause in document["errorMessage"] and "STREAMING_RUNTIME_INNER_HANDLER" in document["errorMessage"]
    assert function.stdout.count("[ERROR]") == 1


def test_an_inner_handler_that_is_never_called_is_logged_once(runtime):
    agent = """
        def handler(event, context):
            yield b"from the agent"
        """
    function = start(runtime, TWO_CHUNKS, agent)
    assert [function.respond().chunks for _ in range(3)] == [[b"from the agent"]] * 3
    function.expect_next()
    [line] = function.runtime_lines
    assert line.startswith("STREAMING_RUNTIME_INNER_HANDLER names app.handler, which was not called within the call")


def test_a_function_without_an_agent_loads_nothing_for_it(runtime):
    function = runtime(
        """
        import json
        import sys

        def handler(event, context):
            yield json.dumps([name for name in sys.modules if name.startswith("streaming_runtime")]).encode()
        """
    )
    assert "streaming_runtime.agents" not in json.loads(function.respond().body)


ASGI_APPLICATION = """
async def handler(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("startup", flush=True)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shutdown", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    print("first line")
    if scope["path"] == "/fail":
        raise ValueError("no")
    scope["aws.context"].after_response(print, "callback")
    await send({"type": "http.response.start", "status": 201})
    await send({"type": "http.response.body", "body": b"one"})
    print("last line")
"""

WSGI_APPLICATION = """
def handler(environ, start_response):
    print("first line")
    if environ["PATH_INFO"] == "/fail":
        raise ValueError("no")
    environ["aws.context"].after_response(print, "callback")
    start_response("201 Created", [])
    yield b"one"
    print("last line")
"""


@pytest.mark.parametrize("application", [ASGI_APPLICATION, WSGI_APPLICATION], ids=["asgi", "wsgi"])
def test_the_innermost_handler_may_be_a_web_application(runtime, application):
    function = start(runtime, application)
    response = parse(function.respond(function_url()))
    assert (response.status, response.chunks) == (201, [b"one"])
    _, document = function.fail(function_url(target="/fail"))
    assert document["errorType"] == "ValueError"
    found = lines(function)
    first = ["begin", "first line", "last line", "callback", "end", "result {'statusCode': 201}"]
    assert [line for line in found if line != "startup"][:9] == [*first, "begin", "first line", "failed ValueError: no"]
    assert found.count("startup") == (application == ASGI_APPLICATION)
    os.kill(function.process.pid, signal.SIGTERM)
    function.wait()
    assert function.stdout.count("shutdown\n") == (application == ASGI_APPLICATION)
