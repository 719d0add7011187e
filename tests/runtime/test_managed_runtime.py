"""The slim layer on a managed runtime: the service starts it through AWS_LAMBDA_EXEC_WRAPPER.

The interpreter is in `/var/lang`, and `/var/runtime` contains the script that the layer replaces. The tests use the
interpreters of this machine. They are skipped if the system does not allow the mounts, or has no such interpreter.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import examples, interpreters, root_file_system
from support.function_process import VERSION, FunctionProcess, source
from support.interpreters import Interpreter
from support.root_file_system import ENVIRONMENT, EmulatedFunction, IsolatedFunctionProcess, Root

# These variables differ from those of an OS-only runtime. The bootstrap of the runtime sets AWS_EXECUTION_ENV.
MANAGED = {
    **ENVIRONMENT,
    "AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap",
    "LD_LIBRARY_PATH": "/var/lang/lib:" + ENVIRONMENT["LD_LIBRARY_PATH"],
    "PATH": "/var/lang/bin:" + ENVIRONMENT["PATH"],
}

# Like that of the service: AWS Lambda Developer Guide, runtimes-modify.
BOOTSTRAP = """#!/bin/sh
export AWS_EXECUTION_ENV=AWS_Lambda_python{version}
exec $AWS_LAMBDA_EXEC_WRAPPER /var/lang/bin/python{version} /var/runtime/bootstrap.py
"""
NEVER_RUN = "raise SystemExit('the script of the managed runtime was run')\n"
SDK = ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3")


@pytest.fixture(params=examples.sample(interpreters.VERSIONS, 3))
def python(request: pytest.FixtureRequest) -> Interpreter:
    return interpreters.require(request.param)


@functools.cache
def unavailable_reason() -> str | None:
    return root_file_system.unavailable_reason(Root())


class ManagedRuntime(IsolatedFunctionProcess):
    """The process of a function on a managed runtime. `command` replaces the bootstrap of the runtime."""

    def __init__(self, *args: Any, command: list[str] | None = None, **options: Any) -> None:
        self._command = command or ["/var/runtime/bootstrap"]
        super().__init__(Root(), *args, **options)

    def start(self, command: list[str], *args: Any) -> subprocess.Popen[bytes]:
        return super().start(self._command, *args)


Start = Callable[..., ManagedRuntime]


@pytest.fixture
def places(python: Interpreter, layer: Path, tmp_path: Path) -> dict[str, Path]:
    """Return the folders to mount, by their place. A test can add files; all layers are merged into /opt."""
    if (reason := unavailable_reason()) is not None:
        pytest.skip(reason)
    opt = shutil.copytree(layer, tmp_path / "opt")
    (opt / python.dependencies.removeprefix("/opt/")).mkdir(parents=True)
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    (runtime / "bootstrap").write_text(BOOTSTRAP.format(version=python.version))
    (runtime / "bootstrap").chmod(0o755)
    (runtime / "bootstrap.py").write_text(NEVER_RUN)
    return {"/opt": opt, **python.mounts, "/var/runtime": runtime}


@pytest.fixture
def start(places: dict[str, Path], tmp_path: Path) -> Iterator[Start]:
    """Starts functions: `start(code, variables=...)`, with the options of `ManagedRuntime`."""
    started: list[FunctionProcess] = []

    def start(code: str | dict[str, str], **options: Any) -> ManagedRuntime:
        folder = tmp_path / f"function{len(started)}"
        variables = {**MANAGED, **options.pop("variables", {})}
        runtime = ManagedRuntime(places["/opt"], folder, code, variables, mounts=places, **options)
        started.append(runtime)
        return runtime

    yield start
    for each in started:
        each.end()


def handler(expression: str) -> str:
    """Return a function that yields the value of the expression as JSON."""
    return source(
        f"""
        import json, os, sys

        def handler(event, context):
            yield json.dumps({expression}).encode()
        """
    )


def result_of(runtime: FunctionProcess) -> Any:
    return json.loads(runtime.respond().body)


def test_without_the_wrapper_the_script_of_the_managed_runtime_runs(start: Start) -> None:
    runtime = start(handler("None"), variables={"AWS_LAMBDA_EXEC_WRAPPER": None})
    assert runtime.wait() == 1
    assert runtime.stderr == "the script of the managed runtime was run\n"


def test_the_managed_interpreter_runs_the_function_in_the_managed_environment(
    start: Start, python: Interpreter
) -> None:
    executable, prefix, folder, environment = result_of(
        start(handler("[sys.executable, sys.prefix, os.getcwd(), dict(os.environ)]"))
    )
    assert (executable, prefix, folder) == (f"/var/lang/bin/python{python.version}", "/var/lang", "/var/task")
    for name in ("LC_CTYPE", "OLDPWD", "PWD", "SHLVL", "_"):  # which Python (PEP 538) and shells add
        environment.pop(name, None)
    own = {"AWS_EXECUTION_ENV": f"AWS_Lambda_python{python.version}"}
    own["AWS_LAMBDA_RUNTIME_API"] = f"127.0.0.1:{root_file_system.API_PORT}"
    assert environment == {**MANAGED, **own}


@pytest.mark.parametrize(
    ("search_path", "added"),
    [
        (None, []),
        ("/var/runtime", []),
        ("/var/task/vendored:/opt/python:/var/runtime", ["/var/task/vendored"]),
        ("/opt:/var/task:", []),
    ],
)
def test_the_import_path_contains_each_folder_once_in_order(
    start: Start, python: Interpreter, search_path: str | None, added: list[str]
) -> None:
    library = f"/var/lang/lib/python{python.version}"
    assert result_of(start(handler("sys.path"), variables={"PYTHONPATH": search_path})) == [
        "/var/task",
        python.dependencies,
        "/opt/python",
        "/var/runtime",
        *added,
        f"/var/lang/lib/python{python.version.replace('.', '')}.zip",
        library,
        f"{library}/lib-dynload",
        f"{library}/site-packages",
    ]


def test_the_sdk_comes_from_the_function_then_from_dependency_layers_then_from_the_managed_runtime(
    start: Start, python: Interpreter, places: dict[str, Path]
) -> None:
    names = ("boto3", "botocore", "s3transfer", "jmespath")  # each in one place less
    folders = ["/var/task", python.dependencies, "/opt/python", "/var/runtime"]
    code = {"lambda_function.py": handler(f"[__import__(name).__file__ for name in {names}]")}
    code["boto3/__init__.py"] = ""
    for place, folder in enumerate(folders[1:], 1):
        mounted = next(path for path in places if folder.startswith(path))
        for name in names[: place + 1]:
            package = places[mounted] / folder.removeprefix(mounted).lstrip("/") / name
            package.mkdir()
            (package / "__init__.py").touch()
    expected = [f"{folder}/{name}/__init__.py" for folder, name in zip(folders, names, strict=True)]
    assert result_of(start(code)) == expected


@pytest.mark.parametrize("search_path", [None, "/var/runtime"])
def test_path_files_of_dependency_layers_are_processed_without_pythonpath(
    start: Start, python: Interpreter, places: dict[str, Path], search_path: str | None
) -> None:
    for folder in ("/opt/python", python.dependencies):
        path = places["/opt"] / folder.removeprefix("/opt/")
        (path / "vendored").mkdir()
        (path / "vendored.pth").write_text("vendored\n")
    entries = result_of(start(handler("sys.path"), variables={"PYTHONPATH": search_path}))
    vendored = [] if search_path else [f"{python.dependencies}/vendored", "/opt/python/vendored"]
    assert entries[entries.index(f"/var/lang/lib/python{python.version}/site-packages") + 1 :] == vendored


def test_the_boto3_of_the_managed_runtime_works(start: Start, python: Interpreter, places: dict[str, Path]) -> None:
    for name in SDK:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            pytest.skip(f"{name} is not installed")
        origin = Path(spec.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        target = places["/var/runtime"] / source.name
        target.mkdir() if source.is_dir() else target.touch()
        places[f"/var/runtime/{source.name}"] = source
    runtime = start(
        """
        import boto3
        import json

        client = boto3.client("sts")

        def handler(event, context):
            yield json.dumps([boto3.__file__, client.meta.endpoint_url]).encode()
        """
    )
    assert result_of(runtime) == ["/var/runtime/boto3/__init__.py", "https://sts.eu-west-1.amazonaws.com"]


@pytest.mark.parametrize("name", ["bootstrap", "runtime"])
def test_the_handler_module_can_be_named_bootstrap_or_runtime(start: Start, name: str) -> None:
    other = {"bootstrap": "runtime", "runtime": "bootstrap"}[name]
    code = {f"{name}.py": handler(f"[__file__, __import__({other!r}).__file__]"), f"{other}.py": ""}
    runtime = start(code, variables={"_HANDLER": f"{name}.handler"})
    assert result_of(runtime) == [f"/var/task/{name}.py", f"/var/task/{other}.py"]


GATED = """
def handler(event, context):
    yield b"first"
    with open("gate") as gate:
        gate.read()
    yield b"second"
"""


def test_a_chunk_arrives_before_the_handler_makes_the_next_one(start: Start) -> None:
    runtime = start(GATED)
    os.mkfifo(runtime.task / "gate")
    (runtime.task / "gate").chmod(0o644)
    for _ in range(2):
        runtime.expect_response(runtime.invoke())
        assert runtime.peer is not None
        assert runtime.peer.read_chunk() == b"first"
        (runtime.task / "gate").write_bytes(b"")
        assert [runtime.peer.read_chunk(), runtime.peer.read_chunk()] == [b"second", b""]
        assert runtime.peer.read_trailers() == {}
        runtime.accept()
    runtime.expect_next()
    assert (runtime.stdout, runtime.stderr) == ("", "")


def introduction(python: Interpreter, request_id: str = "", variant: str = "slim") -> str:
    name = f"python-streaming-runtime {VERSION}"
    facts = f"{variant}, CPython {python.release} at /var/lang/bin/python{python.version}"
    return f"{name} ({facts}): {request_id and f'RequestId: {request_id} '}an error of the function is in the log\n"


def test_the_first_error_is_logged_with_variant_version_and_interpreter(start: Start, python: Interpreter) -> None:
    runtime = start(
        """
        def handler(event, context):
            yield b""
            raise ValueError(event["n"])
        """
    )
    documents = [runtime.fail({"n": n})[1] for n in (1, 2)]
    runtime.expect_next()
    assert [document["errorMessage"] for document in documents] == ["1", "2"]
    assert runtime.stderr == introduction(python, documents[0]["requestId"])
    assert runtime.stdout.count("[ERROR] ValueError: ") == 2


def test_an_init_error_is_logged_with_variant_version_and_interpreter(start: Start, python: Interpreter) -> None:
    runtime = start("import nothing_of_this_name")
    _, document = runtime.read_init_error()
    assert runtime.wait() == 1
    assert document["errorType"] == "Runtime.ImportModuleError"
    assert runtime.stderr == introduction(python)


def test_a_self_contained_layer_does_not_use_its_own_interpreter(
    start: Start, python: Interpreter, places: dict[str, Path]
) -> None:
    bundled = places["/opt"] / "cpython" / "bin" / "python3"
    bundled.parent.mkdir(parents=True)
    bundled.write_text("#!/bin/sh\necho Python 3.13.0\n")
    bundled.chmod(0o755)
    (places["/opt"] / "cpython" / "VARIANT").write_text("python3.13-arm64\n")
    runtime = start(handler("[sys.executable, os.environ.get('SSL_CERT_FILE'), event['n']]"))
    _, document = runtime.fail({})
    assert document["errorType"] == "KeyError"
    assert json.loads(runtime.respond({"n": 1}).body) == [f"/var/lang/bin/python{python.version}", None, 1]
    assert runtime.stderr == introduction(python, document["requestId"], "python3.13-arm64")


def test_the_start_needs_no_second_process(start: Start) -> None:
    if shutil.which("prlimit") is None:
        pytest.skip("prlimit is not installed")
    runtime = start(handler("os.fork()"), command=["/usr/bin/prlimit", "--nproc=0", "/var/runtime/bootstrap"])
    _, document = runtime.fail()
    assert document["errorType"] == "BlockingIOError"  # not even the handler can start one


def test_the_layer_works_in_the_root_folder(start: Start, places: dict[str, Path], python: Interpreter) -> None:
    for name in ("bootstrap", "runtime.py", "streaming_runtime"):
        places[f"/{name}"] = places["/opt"] / name
    places["/opt"] = places["/opt"] / "python"
    command = ["/bootstrap", f"/var/lang/bin/python{python.version}", "/var/runtime/bootstrap.py"]
    assert result_of(start(handler("sys.path[0]"), command=command)) == "/var/task"


def test_the_runtime_interface_emulator_gets_every_response(
    places: dict[str, Path], python: Interpreter, tmp_path: Path
) -> None:
    program = root_file_system.find_emulator()
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "lambda_function.py").write_text(handler("[event, sys.executable]"))
    mounts = {**places, "/var/task": tmp_path / "task"}
    command = ("/var/runtime/bootstrap", "lambda_function.handler")
    function = EmulatedFunction(program, Root(), tmp_path, mounts, MANAGED, command)
    try:
        for n in range(5):
            expected = json.dumps([{"n": n}, f"/var/lang/bin/python{python.version}"]).encode()
            assert function.invoke({"n": n}) == (200, expected)
    finally:
        function.close()
