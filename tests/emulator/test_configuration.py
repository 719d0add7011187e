"""What a function finds in its process: variables, folders, the context."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from support.emulator import (
    BARE_ENVIRONMENT,
    ROOT,
    FunctionFolder,
    MakeFunction,
    Server,
    run,
    until,
    with_tmpdir,
)

from tools.emulator.deployment.configuration import function_name

SHELLS_AND_PYTHONS_OWN = {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}

MANAGED_RUNTIMES = {
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_EXEC_WRAPPER",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_FORMAT",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "HOME",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
    "LANG",
    "LD_LIBRARY_PATH",
    "PATH",
    "TMPDIR",
    "TZ",
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
}


def test_the_function_has_the_variables_of_lambda_and_none_of_the_shell(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield json.dumps(dict(os.environ)).encode()
    """)
    shell = {
        "AWS_PROFILE": "production",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "PYTHONPATH": str(function.path.parent),
        "PYTHONWARNINGS": "ignore",
        "SECRET": "1",
    }
    result = run("--function", function.path, "--memory", "1024", env=BARE_ENVIRONMENT | shell)
    seen = json.loads(result.out)
    assert seen.keys() - SHELLS_AND_PYTHONS_OWN == MANAGED_RUNTIMES
    assert {name: seen[name] for name in ("AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "TZ")} == {
        "AWS_LAMBDA_FUNCTION_NAME": "a-function",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
        "TZ": ":UTC",
    }
    assert seen["_HANDLER"] == "lambda_function.handler"
    assert seen["LAMBDA_TASK_ROOT"] == str(function.path)
    assert seen["AWS_LAMBDA_LOG_GROUP_NAME"] == "/aws/lambda/a-function"
    assert seen["AWS_LAMBDA_EXEC_WRAPPER"] == str(ROOT / "layer/bootstrap")
    assert seen["PATH"] == "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin"
    assert all(folder.startswith((str(function.path), "/opt")) for folder in seen["LD_LIBRARY_PATH"].split(":"))


def test_the_name_of_a_function_is_that_of_its_folder_as_far_as_the_service_allows_it() -> None:
    assert [function_name(text) for text in ("a.b c", "n" * 65, "")] == ["a-b-c", "n" * 64, "function"]


def test_the_context_agrees_with_the_variables(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield f"{context.function_name} {context.memory_limit_in_mb} {context.invoked_function_arn}".encode()
            yield b" in time" if 20_000 < context.get_remaining_time_in_millis() <= 25_000 else b" too late"
    """)
    result = run("--function", function.path, "--timeout", "25")
    arn = b"arn:aws:lambda:us-east-1:123456789012:function:a-function"
    assert result.out == b"a-function 128 " + arn + b" in time"


def test_the_working_directory_is_the_task_root(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield os.getcwd().encode()
    """)
    assert run("--function", function.path)[:2] == (0, bytes(function.path))


def test_the_function_runs_on_the_interpreter_that_runs_the_emulator(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield sys.executable.encode()
    """)
    assert run("--function", function.path)[:2] == (0, os.fsencode(sys.executable))


def test_a_function_can_have_modules_with_the_names_of_the_runtimes_files(make_function: MakeFunction) -> None:
    function = make_function("""
        import bootstrap, runtime, tools
        def handler(event, context):
            yield (runtime.NAME + bootstrap.NAME + tools.NAME).encode()
    """)
    for name in ("runtime", "bootstrap", "tools"):
        (function.path / f"{name}.py").write_text(f"NAME = 'own {name} '")
    assert run("--function", function.path)[:2] == (0, b"own runtime own bootstrap own tools ")


def test_each_environment_has_a_temporary_folder_of_its_own_until_its_end(tmp_path: Path) -> None:
    source = """
    import tempfile
    def handler(event, context):
        with tempfile.NamedTemporaryFile(delete=False) as file:
            yield json.dumps([os.environ["TMPDIR"], file.name, os.listdir(os.environ["TMPDIR"])]).encode() + b"\\n"
        if event["rawPath"] == "/end":
            os._exit(1)
        if event["rawPath"] == "/slow":
            wait()
    """
    with (
        FunctionFolder(tmp_path / "a-function", source) as function,
        Server(function.path, env=with_tmpdir(tmp_path)) as server,
        server.connect() as client,
        server.connect() as other,
    ):
        seen = []
        for each in (client, other):
            each.send_request("GET /slow HTTP/1.1")
            each.read_head()
            size = int(each.read_line(), 16)
            seen.append(json.loads(each.read(size)))
        assert seen[0][0] != seen[1][0]
        for folder, file, files in seen:
            assert Path(folder).is_relative_to(tmp_path / "temporary")
            assert (Path(file).parent, files) == (Path(folder), [Path(file).name])
        function.release()
        function.release()
        until(lambda: server.errors().count("REPORT") == 2)
        with server.connect() as last:
            last.send_request("GET /end HTTP/1.1")
            last.read_rest()
        until(lambda: len([folder for folder, _, _ in seen if Path(folder).exists()]) == 1)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_one_invocation_leaves_no_temporary_file(tmp_path: Path) -> None:
    with FunctionFolder(
        tmp_path / "a-function",
        """
            def handler(event, context):
                open(os.environ['TMPDIR'] + '/x', 'w')
                yield b''
        """,
    ) as root:
        assert run("--function", root.path, env=with_tmpdir(tmp_path)).code == 0
    assert list((tmp_path / "temporary").iterdir()) == []


def test_env_with_a_name_passes_the_value_of_the_shell(make_function: MakeFunction) -> None:
    function = make_function("""
        def handler(event, context):
            yield os.environ["TOKEN"].encode()
    """)
    options = ("--function", function.path, "--env", "TOKEN")
    assert run(*options, env=BARE_ENVIRONMENT | {"TOKEN": "a=b"}).out == b"a=b"
    result = run(*options)
    assert result.code == 2 and "TOKEN is not set in the shell" in result.err
