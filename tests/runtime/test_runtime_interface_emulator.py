"""The built layer under AWS's Runtime Interface Emulator, for on-demand functions and for managed instances.

The emulator starts `/opt/bootstrap` in namespaces of its own, with the layer at `/opt`, the function at `/var/task` and
the interpreter at `/var/lang`. The tests are skipped if the system does not allow that, or if `aws-sam-cli`, which
contains the emulator, is not installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import root_file_system
from support.emulator import ROOT, WAIT
from support.function_process import source
from support.root_file_system import EmulatedFunction, Root

# The variables of a managed runtime that matter to the interpreter.
ENVIRONMENT = {"LANG": "C", "LD_LIBRARY_PATH": "/var/lang/lib", "PATH": "/usr/bin:/bin", "TZ": ":UTC"}

FUNCTION = """
import errno, json, os, sys

served = 0

def handler(event, context):
    global served
    served += 1
    if "fail" in event:
        raise ValueError(event["fail"])
    if "where" in event:
        yield json.dumps([sys.executable, os.getcwd(), [refusal(path) for path in ("/opt/x", "/var/task/x")]]).encode()
        return
    for word in event["words"]:
        yield f"{word} ".encode()
    yield str(served).encode()

def refusal(path):
    try:
        open(path, "w")
    except OSError as error:
        return errno.errorcode[error.errno]
"""


@pytest.fixture(scope="module")
def rie() -> Path:
    """The program of the emulator."""
    if (reason := root_file_system.unavailable_reason(Root())) is not None:
        pytest.skip(reason)
    return root_file_system.find_emulator()


@pytest.fixture(scope="module")
def interpreter() -> Path:
    """The folder of the Python that runs the tests. It is mounted as `/var/lang`."""
    folder = Path(sys.base_prefix)
    if not (folder / "bin" / "python3").exists():
        pytest.skip(f"there is no bin/python3 in {folder}")
    return folder


@pytest.fixture
def start(rie: Path, interpreter: Path, layer: Path, tmp_path: Path) -> Iterator[Callable[[str], EmulatedFunction]]:
    """Starts a function that was built and unpacked like a deployed one."""
    started: list[EmulatedFunction] = []

    def start(code: str) -> EmulatedFunction:
        (tmp_path / "function").mkdir()
        (tmp_path / "function" / "lambda_function.py").write_text(code)
        build = [ROOT / "build.sh", "function", tmp_path / "function", "-o", tmp_path / "dist"]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL, timeout=WAIT)
        with zipfile.ZipFile(tmp_path / "dist" / "function.zip") as archive:
            archive.extractall(tmp_path / "task")
        mounts = {"/opt": layer, "/var/task": tmp_path / "task", "/var/lang": interpreter}
        started.append(EmulatedFunction(rie, Root(), tmp_path, mounts, ENVIRONMENT))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_hundred_invocations_succeed_and_a_failure_does_not_affect_the_next(
    start: Callable[[str], EmulatedFunction],
) -> None:
    function = start(FUNCTION)
    for n in range(1, 101):
        words = [f"w{n}"] * (n % 7) + ["ü" * n]
        assert function.invoke({"words": words}) == (200, f"{' '.join(words)} {n}".encode())
    status, body = function.invoke({"fail": "the 101st"})
    error: dict[str, Any] = json.loads(body)
    assert (status, error["errorType"], error["errorMessage"]) == (200, "ValueError", "the 101st")
    assert error["stackTrace"][0].startswith('  File "/var/task/lambda_function.py"')
    assert function.invoke({"words": ["again"]}) == (200, b"again 102")


def test_the_layer_and_the_function_are_read_only(
    start: Callable[[str], EmulatedFunction],
) -> None:
    status, body = start(FUNCTION).invoke({"where": True})
    assert (status, json.loads(body)) == (200, ["/var/lang/bin/python3", "/var/task", ["EROFS", "EROFS"]])


def test_an_init_error_is_returned_to_the_caller(start: Callable[[str], EmulatedFunction]) -> None:
    status, body = start("import nothing_of_this_name").invoke({})
    assert (status, json.loads(body)["errorType"]) == (502, "Runtime.ImportModuleError")


@pytest.mark.parametrize("name", ["lambda_function.handler", "pkg/module.handler"])
def test_a_container_image_starts_bootstrap_with_the_name_of_the_handler(
    rie: Path, interpreter: Path, layer: Path, tmp_path: Path, name: str
) -> None:
    """ENTRYPOINT ["/opt/bootstrap"], CMD [name]: the layer is copied to /opt of an image that has Python."""
    module = tmp_path / "task" / f"{name.rpartition('.')[0]}.py"
    module.parent.mkdir(parents=True)
    module.write_text(FUNCTION)
    mounts = {"/opt": layer, "/var/task": tmp_path / "task", "/var/lang": interpreter}
    function = EmulatedFunction(rie, Root(), tmp_path, mounts, ENVIRONMENT, ("/opt/bootstrap", name))
    try:
        assert function.invoke({"words": ["from", "an", "image"]}) == (200, b"from an image 1")
    finally:
        function.close()


# The variant for managed instances checks more: the echo of the invocation id, and the length of trailers.

MANAGED_INSTANCE = {"AWS_LAMBDA_MAX_CONCURRENCY": "1", "AWS_LAMBDA_FUNCTION_TIMEOUT": "30"}


class ManagedInstance:
    def __init__(self, function: EmulatedFunction) -> None:
        self._function = function

    def invoke(self, event: object = None) -> tuple[dict[str, str], bytes]:
        """Return the header fields by lower-case name, and the body. Retry until the runtime has polled."""
        while True:
            status, headers, body = self._function.request(event)
            if status == 400 and b"Runtime.Unavailable" in body + str(headers).encode():
                continue
            assert status == 200, (body, self.log)
            return headers, body

    @property
    def log(self) -> str:
        return self._function.log


@pytest.fixture
def managed_instance(rie: Path, interpreter: Path, layer: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a function under the variant for managed instances."""
    if os.geteuid() != 0:
        pytest.skip("the variant for managed instances needs root")
    started: list[EmulatedFunction] = []

    def start(code: str, variables: dict[str, str] | None = None) -> ManagedInstance:
        (tmp_path / "task").mkdir()
        (tmp_path / "task" / "lambda_function.py").write_text(source(code))
        mounts = {"/opt": layer, "/var/task": tmp_path / "task", "/var/lang": interpreter}
        environment = {**ENVIRONMENT, **MANAGED_INSTANCE, **(variables or {})}
        options = ("--log-level", "debug")
        started.append(EmulatedFunction(rie, Root(), tmp_path, mounts, environment, options=options, as_root=True))
        return ManagedInstance(started[-1])

    yield start
    for each in started:
        each.close()


def test_one_environment_streams_several_responses(managed_instance):
    function = managed_instance(
        """
        count = 0

        def handler(event, context):
            global count
            count += 1
            for n in range(event):
                yield b"%d.%d " % (count, n)
        """
    )
    for count, chunks in enumerate([3, 0, 1, 500], 1):
        headers, body = function.invoke(chunks)
        assert body == b"".join(b"%d.%d " % (count, n) for n in range(chunks))
        assert headers["content-type"] == "application/octet-stream"
        assert headers["lambda-runtime-function-response-mode"] == "streaming"
        assert "error-type" not in headers


def test_a_prelude_and_large_chunks_arrive(managed_instance):
    function = managed_instance(
        """
        def handler(event, context):
            yield {"statusCode": 201}
            yield bytes(3_000_000)
        """
    )
    headers, body = function.invoke()
    prelude, _, rest = body.partition(bytes(8))
    assert headers["content-type"] == "application/vnd.awslambda.http-integration-response"
    assert json.loads(prelude) == {"statusCode": 201, "headers": {}, "cookies": []}
    assert rest == bytes(3_000_000)


RAISE = """
def handler(event, context):
    if event["after"]:
        yield b"part"
    raise ValueError("x" * event["length"])
    yield
"""


@pytest.mark.parametrize("after", [False, True], ids=["before the first byte", "after the first byte"])
def test_errors_arrive(managed_instance, after):
    function = managed_instance(RAISE)
    for _ in range(3):
        headers, body = function.invoke({"after": after, "length": 4})
        document = json.loads(body)
        assert headers["error-type"] == "Function.ValueError"
        assert (document["errorType"], document["errorMessage"]) == ("ValueError", "xxxx")
        assert len(document["stackTrace"]) == 1 and "lambda_function.py" in document["stackTrace"][0]


@pytest.mark.parametrize("after", [False, True], ids=["before the first byte", "after the first byte"])
def test_errors_with_messages_of_any_length_arrive(managed_instance, after):
    # Servers in Go read trailers into a buffer of 4096 bytes and refuse longer ones ("suspiciously long trailer").
    function = managed_instance(RAISE)
    for length in (2000, 3000, 4000, 40_000, 400_000, 4):
        headers, body = function.invoke({"after": after, "length": length})
        document = json.loads(body)
        assert headers["error-type"] == "Function.ValueError"
        assert document["errorType"] == "ValueError"
        assert document["errorMessage"].startswith("xxxx")


def test_violations_of_the_contract_arrive(managed_instance):
    function = managed_instance(
        """
        def handler(event, context):
            if event:
                yield b"part"
            yield "text"
        """
    )
    for event in (False, True):
        headers, body = function.invoke(event)
        assert headers["error-type"] == "Runtime.InvalidChunk"
        assert json.loads(body)["errorType"] == "Runtime.InvalidChunk"


def test_the_invocation_id_is_sent_back(managed_instance):
    function = managed_instance(
        """
        def handler(event, context):
            if event:
                raise ValueError
            yield b"x"
        """
    )
    function.invoke(0)
    function.invoke(1)
    posts = [line for line in function.log.splitlines() if "API request" in line and "method=POST" in line]
    assert ["/response" in line for line in posts] == [True, False]
    assert all("Lambda-Runtime-Invocation-Id:[" in line for line in posts)


# Several invocations at a time: each waits until all have begun.

GATHER = """
import asyncio
import json
import os
import tempfile
import time

folder = os.path.join(tempfile.gettempdir(), "gathering")

def has_gathered(event):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, str(event["n"])), "w"):
        pass
    return len(os.listdir(folder)) >= event["count"]
"""
PROCESSES = f"""{GATHER}
def handler(event, context):
    yield b"%d " % event["n"]
    while not has_gathered(event):
        time.sleep(0.02)
    yield context.aws_request_id.encode()
"""
ONE_LOOP = f"""{GATHER}
async def handler(event, context):
    yield b"%d " % event["n"]
    while not has_gathered(event):
        await asyncio.sleep(0.02)
    yield context.aws_request_id.encode()
"""
EXITS = """
import os

def handler(event, context):
    if event:
        os._exit(1)
    yield b"alive"
"""


@pytest.mark.parametrize("code", [PROCESSES, ONE_LOOP], ids=["processes", "one loop"])
def test_a_managed_instance_serves_sixteen_invocations_at_a_time(managed_instance, code):
    function = managed_instance(code, {"AWS_LAMBDA_MAX_CONCURRENCY": "16"})
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda n: function.invoke({"n": n, "count": 16})[1].split(), range(16)))
    assert [int(number) for number, _ in found] == list(range(16))
    assert len({request_id for _, request_id in found}) == 16


def test_a_managed_instance_survives_the_death_of_a_process(managed_instance):
    function = managed_instance(EXITS, {"AWS_LAMBDA_MAX_CONCURRENCY": "2"})
    for _ in range(3):
        headers, body = function.invoke(True)
        assert headers["error-type"] == "Runtime.ExitError"
        assert b"exit status 1 before its response began" in body
        assert function.invoke(False)[1] == b"alive"
