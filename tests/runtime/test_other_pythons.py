"""The layer on the Pythons that it supports, on a preview of the next one, and on one with other internal modules."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import changed_python, interpreters, python_stand_ins
from support.function_process import PYTHON_VERSION

ECHO = """
def handler(event, context):
    if event == "fail":
        raise ValueError("boom")
    yield {"statusCode": 201, "headers": {"X-Text": "grün"}}
    yield repr(event).encode()
"""
SCANNERS = {
    "is missing": "del _json.make_scanner",
    "reads another attribute": "_json.make_scanner = lambda context: context.no_such_hook",
    "takes another argument": "_json.make_scanner = lambda context, hooks: None",
    "is called with another argument": "_json.make_scanner = lambda context: lambda text, start, end: None",
    "returns something else": "_json.make_scanner = lambda context: lambda text, start: None",
    "raises": "_json.make_scanner = lambda context: {}.__getitem__",
}
ENCODERS = {
    "is missing": "del _json.make_encoder",
    "takes other arguments": "_json.make_encoder = lambda: None",
    "returns something else": "_json.make_encoder = lambda *arguments: lambda value, level: None",
}
# json.scanner and json.encoder import them too, if they exist
PREPARED = "import json, _json\n"


@pytest.mark.parametrize("change", SCANNERS.values(), ids=SCANNERS)
def test_events_are_parsed_if_the_scanner_in_c(runtime, tmp_path, change):
    function = runtime(ECHO, arguments=changed_python.make(tmp_path / "python", PREPARED + change))
    event = {"a": [1, 2.5, None, True], "b": "ü"}
    assert function.respond(event).chunks[2] == repr(event).encode()
    _, document = function.read_error(function.invoke(raw=b'{"a": '))
    assert document["errorType"] == "Runtime.UnmarshalError"
    assert "char" in document["errorMessage"]


@pytest.mark.parametrize("change", ENCODERS.values(), ids=ENCODERS)
def test_preludes_and_errors_are_encoded_if_the_encoder_in_c(runtime, tmp_path, change):
    function = runtime(ECHO, arguments=changed_python.make(tmp_path / "python", PREPARED + change))
    prelude = b'{"statusCode": 201, "headers": {"X-Text": "gr\\u00fcn"}, "cookies": []}'
    assert function.respond(None).chunks[0] == prelude
    _, document = function.fail("fail")
    assert document["errorType"] == "ValueError"
    assert document["stackTrace"]


def test_a_python_on_which_the_layer_does_not_start_is_named_with_the_error(runtime, tmp_path):
    arguments = changed_python.make(tmp_path / "python", "import gc\ndel gc.freeze")
    function = runtime(ECHO, arguments=arguments)
    request, document = function.read_init_error()
    assert function.wait() == 1
    assert request.headers["lambda-runtime-function-error-type"] == "Runtime.LayerNotStarted"
    assert "another layer" not in document["errorMessage"]
    start = (
        f"the layer does not start on Python {PYTHON_VERSION} (AttributeError: module 'gc' has no attribute 'freeze')"
    )
    assert start in document["errorMessage"]


# Pythons that exist

CONTRACT = {
    "lambda_function.py": """
        import logging
        import sys

        def handler(event, context):
            logging.getLogger().warning("a record")
            yield {"statusCode": 201}
            yield "%d.%d" .encode() % sys.version_info[:2]
            if event == "late":
                raise ValueError("late")

        async def stream(event, context):
            import asyncio
            await asyncio.sleep(0)
            yield b"first"
            if event == "late":
                raise ValueError("late")
        """,
}


@pytest.fixture(scope="module", params=[*interpreters.VERSIONS, interpreters.PREVIEW])
def existing(request):
    return interpreters.require(request.param)


@pytest.mark.parametrize(("handler", "first"), [("handler", None), ("stream", b"first")])
def test_the_contract_is_kept_on(runtime, existing, handler, first):
    function = runtime(
        CONTRACT,
        arguments=[existing.program, "/var/runtime/bootstrap.py"],
        variables={"_HANDLER": f"lambda_function.{handler}"},
    )
    for _ in range(2):
        assert (first or existing.version.encode()) in function.respond({"a": [1, 2.5, None]}).chunks
    late = function.respond("late")
    assert late.error["errorType"] == "ValueError"
    assert late.error["stackTrace"][0].endswith('raise ValueError("late")\n')
    _, document = function.read_error(function.invoke(raw=b"{"))
    assert document["errorType"] == "Runtime.UnmarshalError"
    assert f"CPython {existing.release} at {existing.program}" in function.stderr
    assert "Warning" not in function.stderr
    assert handler == "stream" or "a record" in function.stdout


# Python imports `linecache` at its start, and `asyncio` imports `warnings` late; both are in the working folder here.
@pytest.mark.parametrize("variable", [None, "1"])
def test_modules_of_the_function_do_not_replace_those_of_the_interpreter_on(runtime, existing, variable):
    function = runtime(
        {
            "lambda_function.py": """
                import linecache
                import os
                import subprocess
                import warnings

                async def handler(event, context):
                    yield warnings.mine
                    yield getattr(linecache, "mine", b"part of the interpreter")
                    child = ["/bin/sh", "-c", "echo $PYTHONSAFEPATH"]
                    yield repr(os.environ.get("PYTHONSAFEPATH")).encode() + subprocess.check_output(child)
                """,
            "linecache.py": "mine = b'my linecache'\n",
            "warnings.py": "mine = b'my warnings'\ndef warn(*_): ...\n",
        },
        arguments=[existing.program, "/var/runtime/bootstrap.py"],
        variables={"PYTHONSAFEPATH": variable},
    )
    own, cached, safe_path = function.respond().chunks
    assert own == b"my warnings"
    assert cached == b"part of the interpreter" if existing.version == interpreters.PREVIEW else b"my linecache"
    assert safe_path.decode() == f"{variable!r}{variable or ''}\n"


def test_a_copy_of_the_interpreter_of_a_distribution_is_a_python_with_a_folder_of_its_own(runtime, tmp_path):
    program = "/usr/bin/python3"
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([program, "-c", code], capture_output=True, text=True) if Path(program).exists() else None
    if done is None or done.stdout.strip() not in interpreters.VERSIONS:
        pytest.skip("/usr/bin/python3 is not a Python that the layer supports")
    version = done.stdout.strip()
    python_stand_ins.copy(program, version, tmp_path / "lang")
    function = runtime(
        """
        import ctypes, ssl, sys

        def handler(event, context):
            yield sys.prefix.encode()
            yield ssl.__file__.encode()
        """,
        arguments=[str(tmp_path / "lang" / "bin" / f"python{version}"), "/var/runtime/bootstrap.py"],
    )
    folder, library = function.respond().chunks
    assert folder.decode() == str(tmp_path / "lang")
    assert library.decode() == f"{tmp_path}/lang/lib/python{version}/ssl.py"
