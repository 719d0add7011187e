"""The files of the layer: another version of one of them, a missing one, and a function that contains all of them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from support.function_process import VERSION, Response

START_FILES = [
    "runtime.py",
    "streaming_runtime/__init__.py",
    "streaming_runtime/api.py",
    "streaming_runtime/connection.py",
    "streaming_runtime/handler.py",
    "streaming_runtime/http1.py",
    "streaming_runtime/invocation.py",
    "streaming_runtime/log.py",
]
PYTHON_ON_PATH = {"PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"}
CONFLICT = "another layer has overwritten or hidden some of them; attach one version of this layer only"

FAILS = """
def handler(event, context):
    if event == "late":
        yield b"part"
    if event != "good":
        raise ValueError("boom")
    yield b"good"
"""


@pytest.fixture
def opt(layer, tmp_path):
    """A copy of the layer without bytecode, which Python would run even if its source is another one."""
    return Path(shutil.copytree(layer, tmp_path / "opt", ignore=shutil.ignore_patterns("__pycache__")))


def change_version(path):
    text = path.read_text()
    assert f'VERSION = "{VERSION}"' in text, path
    path.write_text(text.replace(f'VERSION = "{VERSION}"', 'VERSION = "0.0.9"'))


# Start modules


def refusal(function):
    request, document = function.read_init_error()
    assert function.wait() == 1
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.LayerConflict"
    assert document["errorType"] == "Runtime.LayerConflict"
    assert function.stderr == document["errorMessage"] + "\n"
    assert CONFLICT in document["errorMessage"]
    return document["errorMessage"]


@pytest.mark.parametrize("arguments", [None, [""]], ids=["managed", "on PATH"])
@pytest.mark.parametrize("file", START_FILES)
def test_bootstrap_refuses_a_start_module_of_another_version(runtime, opt, file, arguments):
    change_version(opt / file)
    function = runtime(FAILS, layer=opt, arguments=arguments, variables=PYTHON_ON_PATH)
    assert f"{file} has VERSION '0.0.9'" in refusal(function)


@pytest.mark.parametrize("file", START_FILES)
def test_bootstrap_refuses_a_layer_without_a_start_module(runtime, opt, file):
    (opt / file).unlink()
    function = runtime(FAILS, layer=opt, variables=PYTHON_ON_PATH)
    assert Path(file).stem.replace("__init__", "streaming_runtime") in refusal(function)


def test_bootstrap_refuses_a_layer_without_the_package(runtime, opt):
    shutil.rmtree(opt / "streaming_runtime")
    function = runtime(FAILS, layer=opt, variables=PYTHON_ON_PATH)
    assert "No module named 'streaming_runtime'" in refusal(function)


def test_bootstrap_refuses_a_package_that_another_layer_has_replaced(runtime, opt):
    shutil.rmtree(opt / "streaming_runtime")
    (opt / "streaming_runtime").mkdir()
    (opt / "streaming_runtime" / "__init__.py").write_text("name = 'another package'\n")
    refusal(runtime(FAILS, layer=opt, variables=PYTHON_ON_PATH))


# Modules that are loaded on first use

PRELUDE = """
def handler(event, context):
    yield {"statusCode": 201}
    yield b"body"
"""
ASYNC = """
async def handler(event, context):
    yield b"body"
"""


@pytest.mark.parametrize(
    ("file", "code"),
    [("errors.py", FAILS), ("prelude.py", PRELUDE), ("json_text.py", PRELUDE), ("aio.py", ASYNC)],
)
def test_a_later_module_of_another_version_is_reported_as_a_layer_conflict(runtime, opt, file, code):
    change_version(opt / "streaming_runtime" / file)
    function = runtime(code, layer=opt)
    for _ in range(2):
        request, document = function.fail("early")
        assert request.headers["lambda-runtime-function-error-type"] == "Runtime.LayerConflict"
        assert document["errorType"] == "Runtime.LayerConflict"
        message = document["errorMessage"]
        assert message.startswith(f"streaming_runtime/{file} does not belong to version {VERSION}")
        assert message.endswith("; the error was ValueError: boom") == (file == "errors.py")
        assert message.count("does not belong") == 1
    function.expect_next()


def test_an_extension_module_of_another_version_is_an_init_error(runtime, opt):
    change_version(opt / "streaming_runtime" / "extension.py")
    function = runtime(FAILS, layer=opt, variables={"STREAMING_RUNTIME_GRACEFUL_SHUTDOWN": "1"})
    _, document = function.read_init_error()
    assert document["errorType"] == "Runtime.LayerConflict"
    assert function.wait() == 1


@pytest.mark.parametrize("change", [change_version, Path.unlink], ids=["another version", "missing"])
def test_without_log_records_an_error_is_still_in_the_log(runtime, opt, change):
    change(opt / "streaming_runtime" / "log_records.py")
    function = runtime(FAILS, layer=opt)
    _, document = function.fail()
    assert (document["errorType"], document["errorMessage"]) == ("ValueError", "boom")
    function.expect_next()
    assert "ValueError: boom" in function.stdout + function.stderr


def test_without_log_records_the_end_of_a_response_is_still_in_the_log(runtime, opt):
    (opt / "streaming_runtime" / "log_records.py").unlink()
    function = runtime(FAILS, layer=opt)
    function.expect_response(function.invoke("good"))
    function.peer.close()
    function.connect()
    function.expect_next()
    assert f"python-streaming-runtime {VERSION}: the response was not delivered: " in function.stderr


# A report never depends on the modules that make it complete

DAMAGES = {
    "errors.py is missing": "",
    "sys.modules is empty": "sys.modules.clear()",
    "sys.meta_path is empty": "sys.meta_path.clear()",
    "sys.path and sys.path_hooks are empty": "sys.path[:] = sys.path_hooks[:] = []",
    "__import__ fails": "builtins.__import__ = None",
    "open files are at their limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))",
}


@pytest.mark.parametrize("late", [False, True], ids=["before the first byte", "after the first byte"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_type_and_message_of_an_error_arrive_with_any_damage(runtime, opt, damage, late):
    if damage == "errors.py is missing":
        (opt / "streaming_runtime" / "errors.py").unlink()
    function = runtime(
        f"""
        import builtins, resource, sys

        class Ordered(Exception):
            pass

        def handler(event, context):
            if event == "good":
                yield b"good"
                return
            if {late}:
                yield b"part"
            {DAMAGES[damage] or "pass"}
            raise Ordered('a "quoted"\\nmessage \uffff\U00010000\U0010ffff')
        """,
        layer=opt,
    )
    if late:
        response = function.respond()
        assert response.chunks == [b"part"]
        reported, document = response.trailers["Lambda-Runtime-Function-Error-Type"], response.error
    else:
        request, document = function.fail()
        reported = request.headers["lambda-runtime-function-error-type"]
    assert reported == "Function.Ordered"
    assert (document["errorType"], document["errorMessage"]) == (
        "Ordered",
        'a "quoted"\nmessage \uffff\U00010000\U0010ffff',
    )
    assert function.respond("good").body == b"good"
    assert "Ordered" in function.stdout + function.stderr


def test_the_trailers_of_a_minimal_report_are_near_their_limit(runtime, opt):
    (opt / "streaming_runtime" / "errors.py").unlink()
    function = runtime(
        """
        def handler(event, context):
            yield b"part"
            raise ValueError("x" * event)
        """,
        layer=opt,
    )
    for length in (1_000, *range(2_300, 4_000, 100), 100_000):
        response = function.respond(length)
        assert sum(map(len, response.trailers.values())) <= 3_500
        message = response.error["errorMessage"]
        assert message == "x" * len(message)
        assert len(message) == length or 1_000 < len(message) < length


def test_a_module_is_executed_once_also_if_sys_modules_was_emptied(runtime):
    function = runtime(
        """
        import sys

        own = {name: module for name, module in sys.modules.items() if name.startswith("streaming_runtime")}

        def handler(event, context):
            others = [name for name, module in own.items() if sys.modules.get(name, module) is not module]
            sys.modules.clear()
            raise ValueError(others)
        """
    )
    for _ in range(2):
        _, document = function.fail()
        assert (document["errorMessage"], len(document["stackTrace"])) == ("[]", 1)


def test_bytecode_that_is_not_for_this_python_is_not_used(runtime, layer, tmp_path):
    opt = Path(shutil.copytree(layer, tmp_path / "opt"))
    files = list(opt.glob("streaming_runtime/__pycache__/*.pyc"))
    for file in files:
        file.write_bytes(bytes(32))
    function = runtime(FAILS, layer=opt)
    assert files and function.fail()[1]["errorMessage"] == "boom"
    assert function.respond("good").body == b"good"


def test_an_init_error_arrives_without_the_module_that_makes_its_report(runtime, opt):
    (opt / "streaming_runtime" / "errors.py").unlink()
    function = runtime("raise ValueError('at import')\n", layer=opt)
    request, document = function.read_init_error()
    assert request.headers["lambda-runtime-function-error-type"] == "Function.ValueError"
    assert (document["errorType"], document["errorMessage"]) == ("ValueError", "at import")
    assert function.wait() == 1


def test_sys_exit_ends_the_process_without_the_module_that_makes_its_report(runtime, opt):
    (opt / "streaming_runtime" / "errors.py").unlink()
    function = runtime(
        """
        import sys

        def handler(event, context):
            sys.exit(3)
            yield
        """,
        layer=opt,
    )
    function.fail()
    assert function.wait() == 3


# A function that contains the layer, as on provided.al2023 without a layer


def test_a_function_can_contain_the_whole_layer(runtime, layer, tmp_path):
    task = tmp_path / "function0" / "task"
    task.parent.mkdir()
    shutil.copytree(layer, task)
    function = runtime(
        """
        async def handler(event, context):
            if event == "fail":
                raise ValueError("boom")
            if event == "prelude":
                yield {"statusCode": 201}
            yield b"body"
        """,
        command=[str(task / "bootstrap")],
        variables=PYTHON_ON_PATH,
    )
    assert function.respond().chunks == [b"body"]
    assert function.respond("prelude").chunks[1:] == [bytes(8), b"body"]
    _, document = function.fail("fail")
    assert [entry.splitlines()[0].rpartition("/")[2] for entry in document["stackTrace"]] == [
        'lambda_function.py", line 3, in handler'
    ]
    function.expect_next()
    assert str(task / "streaming_runtime") not in function.stdout
    function.process.terminate()
    assert function.wait() == 143


def test_a_function_can_have_modules_named_like_every_file_of_the_layer(runtime, layer):
    names = sorted({path.stem for path in layer.rglob("*.py")} - {"__init__"})
    assert {"runtime", "http1", "connection", "errors", "log"} <= set(names)
    function = runtime(
        {
            **{f"{name}.py": f"mine = {name!r}\n" for name in [*names, "bootstrap"]},
            "lambda_function.py": f"""
                import importlib

                names = {[*names, "bootstrap"]}
                modules = [importlib.import_module(name) for name in names]

                def handler(event, context):
                    if event == "fail":
                        raise ValueError("boom")
                    yield " ".join(module.mine for module in modules).encode()
                """,
        }
    )
    assert function.respond().body.decode().split() == [*names, "bootstrap"]
    assert function.fail("fail")[1]["errorType"] == "ValueError"
    assert function.respond().body.decode().split() == [*names, "bootstrap"]


@pytest.mark.parametrize("name", ["runtime", "bootstrap", "http1", "connection", "api", "handler", "log", "errors"])
def test_the_handler_module_can_be_named_like_a_file_of_the_layer(runtime, name):
    function = runtime(
        {
            f"{name}.py": """
                def handler(event, context):
                    if event == "fail":
                        raise ValueError("boom")
                    yield __name__.encode()
                """
        },
        variables={"_HANDLER": f"{name}.handler"},
    )
    assert function.respond().body.decode() == name
    assert function.fail("fail")[1]["errorType"] == "ValueError"


# No frame of the layer is shown to a user

TRACES = {
    "in a generator": (
        """
        def handler(event, context):
            yield b"part"
            raise ValueError("boom")
        """,
        ["handler"],
    ),
    "before the generator": (
        """
        def make():
            raise ValueError("boom")

        def handler(event, context):
            return make()
        """,
        ["handler", "make"],
    ),
    "in an iterator": (
        """
        class handler:
            def __init__(self, event, context):
                pass

            def __iter__(self):
                return self

            def __next__(self):
                raise ValueError("boom")
        """,
        ["__next__"],
    ),
    "in an async generator": (
        """
        import asyncio

        async def fail():
            await asyncio.sleep(0)
            raise ValueError("boom")

        async def handler(event, context):
            yield b"part"
            await fail()
        """,
        ["handler", "fail"],
    ),
    "in a task": (
        """
        import asyncio

        async def fail():
            raise ValueError("boom")

        async def handler(event, context):
            await asyncio.create_task(fail())
            yield b"part"
        """,
        ["handler", "fail"],
    ),
    "in a thread of the executor": (
        """
        import asyncio

        def fail():
            raise ValueError("boom")

        async def handler(event, context):
            yield b"part"
            await asyncio.to_thread(fail)
        """,
        None,  # between the user's frames are those of asyncio and concurrent.futures
    ),
    "sys.exit in a callback of the loop": (
        """
        import asyncio, sys

        def leave():
            sys.exit(3)

        async def handler(event, context):
            asyncio.get_running_loop().call_soon(leave)
            await asyncio.sleep(1000)
            yield b"never"
        """,
        ["leave"],
    ),
    "a chunk of a wrong type": (
        """
        def handler(event, context):
            yield 5
        """,
        [],
    ),
    "a chunk that fails when it is read": (
        """
        class Chunk(bytes):
            def __len__(self):
                raise ValueError("boom")

        def handler(event, context):
            yield {"headers": Headers(a="b")}

        class Headers(dict):
            def __iter__(self):
                raise ValueError("boom")
        """,
        ["__iter__"],
    ),
    "an error in the clean-up": (
        """
        def handler(event, context):
            try:
                yield 5
            finally:
                raise ValueError("late")
        """,
        [],
    ),
    "an error in the asynchronous clean-up": (
        """
        async def handler(event, context):
            try:
                yield 5
            finally:
                raise ValueError("late")
        """,
        [],
    ),
    "a cause": (
        """
        def fail():
            raise KeyError("first")

        def handler(event, context):
            try:
                fail()
            except KeyError as error:
                raise ValueError("second") from error
            yield
        """,
        ["handler"],
    ),
}


def shown_in(log, layer):
    """Return the lines of a log that contain a file of the layer."""
    return [line for line in log.splitlines() if str(layer) in line or "streaming_runtime" in line]


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
@pytest.mark.parametrize("kind", TRACES)
def test_no_frame_of_the_layer_is_in_a_trace(runtime, layer, kind, log_format):
    code, functions = TRACES[kind]
    function = runtime(code, variables={"AWS_LAMBDA_LOG_FORMAT": log_format})
    request_id = function.invoke()
    request = function.request()
    if request.path.endswith("/error"):
        document = json.loads(request.body)
        cause = request.headers["lambda-runtime-function-xray-error-cause"]
        assert shown_in(cause, layer) == []
    else:
        assert request.path.endswith(f"{request_id}/response")
        chunks = list(iter(function.peer.read_chunk, b""))
        document = Response(request, chunks, function.peer.read_trailers()).error
    function.accept()
    if "sys.exit" in kind:
        assert function.wait() == 3
    else:
        function.expect_next()
    trace = document["stackTrace"]
    assert shown_in("".join(trace), layer) == []
    if functions is not None:
        assert [entry.splitlines()[0].rpartition(" in ")[2] for entry in trace] == functions
    assert shown_in(function.stdout, layer) == []


@pytest.mark.parametrize("statement", ["import other", "import_module('other')", "raise ValueError"])
def test_no_frame_of_the_layer_is_in_the_trace_of_an_import_error(runtime, layer, statement):
    function = runtime(
        {
            "lambda_function.py": f"""
                from importlib import import_module

                {statement}
                """,
            "other.py": "raise ValueError('boom')\n",
        }
    )
    _, document = function.read_init_error()
    assert function.wait() == 1
    names = [entry.splitlines()[0].rpartition("/")[2] for entry in document["stackTrace"]]
    assert names[0] == 'lambda_function.py", line 3, in <module>'
    assert shown_in("".join(document["stackTrace"]) + function.stdout, layer) == []
