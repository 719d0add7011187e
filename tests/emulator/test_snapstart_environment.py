"""`--snapstart`: hooks, the process that is held between its phases, its connections and its credentials."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.emulator import (
    ROOT,
    Client,
    FunctionFolder,
    MakeFunction,
    Response,
    Serving,
    assert_usage_error,
    error_of,
    run,
    until,
)
from support.invocations import Caller
from support.processes import state_of

from tools.emulator.console import Console
from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.execution.invocation import Invocation, InvocationFailed
from tools.emulator.execution.pool import EnvironmentPool
from tools.emulator.execution.snapstart import Credentials, SnapStartApiServer
from tools.emulator.http1.server import listen
from tools.emulator.sandbox.supervisor_client import Supervisor

HOOKS = """
from snapshot_restore_py import register_after_restore, register_before_snapshot

register_before_snapshot(print, "before")
register_after_restore(print, "after")

def handler(event, context):
    print(os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"], context.log_group_name, context.log_stream_name)
    yield b"served"
"""

# `fetch(token)` in a function: the response of the URL for credentials.
FETCH = """
import urllib.request
from snapshot_restore_py import register_after_restore, register_before_snapshot

def fetch(token=None):
    token = token or os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
    url = os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": token})) as response:
        return json.load(response)
"""


def first_words(log: str) -> list[str]:
    return [line.split(":")[0] for line in log.splitlines() if " runs on " not in line]


# --- One invocation ---------------------------------------------------------------------------------------------------


def test_the_log_shows_both_phases_with_their_durations(make_function: MakeFunction) -> None:
    result = run("--snapstart", "--function", make_function(HOOKS).path)
    assert (result.code, result.out) == (0, b"served")
    assert first_words(result.err) == [
        "before",
        "INIT_REPORT Init Duration",
        "after",
        "RESTORE_REPORT Restore Duration",
        "START RequestId",
        "snap-start None None",
        "END RequestId",
        "REPORT RequestId",
    ]
    report = result.err.splitlines()[-1]
    assert "\tRestore Duration: " in report and "Init Duration" not in report


def test_the_json_report_has_both_durations(make_function: MakeFunction) -> None:
    result = run("--snapstart", "--json", "--function", make_function(HOOKS).path)
    report = json.loads(result.err.splitlines()[-1])
    assert report["initDurationMs"] > 0 and report["restoreDurationMs"] > 0
    assert report["billedDurationMs"] >= report["durationMs"] + report["restoreDurationMs"]


@pytest.mark.parametrize(
    ("hook", "error_type"),
    [
        ("register_before_snapshot", "ZeroDivisionError"),
        ("register_after_restore", "ZeroDivisionError"),
    ],
)
def test_the_caller_gets_the_error_of_a_hook(make_function: MakeFunction, hook: str, error_type: str) -> None:
    source = f"""
    from snapshot_restore_py import {hook}

    {hook}(lambda: 1 / 0)

    def handler(event, context):
        yield b"served"
    """
    result = run("--snapstart", "--function", make_function(source).path)
    assert result.code == 1
    assert error_of(result)["errorType"] == error_type
    assert ("RESTORE_REPORT" in result.err) == (hook == "register_after_restore")


@pytest.mark.parametrize("hook", ["register_before_snapshot", "register_after_restore"])
def test_a_hook_that_ends_the_process_fails_the_invocation(make_function: MakeFunction, hook: str) -> None:
    source = f"""
    from snapshot_restore_py import {hook}

    {hook}(os._exit, 7)

    def handler(event, context):
        yield b"served"
    """
    result = run("--snapstart", "--function", make_function(source).path)
    assert result.code == 1
    assert error_of(result)["errorType"] == "Runtime.ExitError"
    assert "exit status 7" in error_of(result)["errorMessage"]


def test_a_process_of_a_developer_cannot_be_held() -> None:
    assert_usage_error(run("--api-only", "--snapstart", cwd=ROOT), "--snapstart")


def test_an_error_before_the_first_request_is_logged_and_each_request_gets_it(serving: Serving) -> None:
    source = """
    from snapshot_restore_py import register_before_snapshot

    register_before_snapshot(lambda: 1 / 0)

    def handler(event, context):
        yield b"served"
    """
    server, _ = serving(source, "--snapstart")
    until(lambda: "[ERROR] ZeroDivisionError" in server.errors())
    for _ in range(2):
        assert server.get().status == 502
    until(lambda: server.errors().count("Error Type: ZeroDivisionError") == 2)  # a report follows the end of a process


# --- The held process -------------------------------------------------------------------------------------------------

HELD = """
from snapshot_restore_py import register_before_snapshot

@register_before_snapshot
def start_child():
    child = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    notify(f"{os.getpid()} {child.pid}")
    hold_lifeline(in_a_child=True)

def handler(event, context):
    yield str(os.getpid()).encode()
"""


def test_the_process_and_its_children_are_stopped_until_the_first_request(serving: Serving) -> None:
    server, folder = serving(HELD, "--snapstart")
    pids = [int(pid) for pid in folder.receive().split()]
    until(lambda: all(state_of(pid) == "T" for pid in pids))
    assert "START" not in server.errors()
    assert server.get().body == str(pids[0]).encode()
    until(lambda: all(state_of(pid) != "T" for pid in pids))
    assert server.get().body == str(pids[0]).encode()


def test_a_held_process_ends_with_the_emulator(serving: Serving) -> None:
    server, folder = serving(HELD, "--snapstart")
    pid = int(folder.receive().split()[0])
    until(lambda: state_of(pid) == "T")
    server.process.send_signal(signal.SIGKILL)
    folder.wait_until_gone()


def test_a_second_environment_is_restored_too(serving: Serving) -> None:
    source = """
    from snapshot_restore_py import register_after_restore

    calls = []
    register_after_restore(calls.append, "after")

    def handler(event, context):
        if event["rawPath"] == "/slow":
            notify("slow")
            wait()
        yield str(calls).encode()
    """
    server, folder = serving(source, "--snapstart")
    with server.connect() as client:
        client.send_request("GET /slow HTTP/1.1")
        folder.receive()
        assert server.get().body == b"['after']"
        folder.release()
        assert client.read_response().body == b"['after']"
    assert server.errors().count("RESTORE_REPORT") == 2


def test_an_idle_connection_to_the_runtime_api_is_closed(make_function: MakeFunction) -> None:
    source = f"""
    {FETCH.replace(chr(10), chr(10) + "    ")}
    import http.client

    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])

    @register_before_snapshot
    def keep_connection():
        headers = {{"Authorization": os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]}}
        connection.request("GET", "/2021-04-23/credentials", headers=headers)
        assert connection.getresponse().read()
        connection.sock.setblocking(False)
        try:
            connection.sock.recv(1)
        except BlockingIOError:
            print("open before")

    @register_after_restore
    def use_connection():
        print("received after:", connection.sock.recv(1))

    def handler(event, context):
        yield b"served"
    """
    result = run("--snapstart", "--function", make_function(source).path)
    assert result.out == b"served", result.err
    assert "open before" in result.err and "received after: b''" in result.err


def test_a_runtime_without_hooks_is_held_in_next(make_function: MakeFunction, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "bootstrap").write_text(f"""#!{sys.executable}
import http.client, os

connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
for _ in range(2):
    connection.request("GET", "/2018-06-01/runtime/invocation/next")
    response = connection.getresponse()
    body = response.read()
    path = f"/2018-06-01/runtime/invocation/{{response.headers['Lambda-Runtime-Aws-Request-Id']}}/response"
    connection.request("POST", path, body)
    connection.getresponse().read()
""")
    (layer / "bootstrap").chmod(0o755)
    result = run("--snapstart", "--layer", layer, "-e", "{}", "--function", make_function("").path)
    assert (result.code, result.out) == (0, b"{}"), result.err
    names = ["INIT_REPORT Init Duration", "RESTORE_REPORT Restore Duration", "START RequestId", "END RequestId"]
    assert first_words(result.err)[:4] == names


# --- Credentials ------------------------------------------------------------------------------------------------------

CREDENTIALS = (
    FETCH
    + """
found = []
register_before_snapshot(lambda: found.append(fetch()))
register_after_restore(lambda: found.append(fetch()))

def handler(event, context):
    names = [name for name in os.environ if name.startswith("AWS_") and ("KEY" in name or "SESSION" in name)]
    yield json.dumps([*found, names]).encode()
"""
)


def test_credentials_come_by_url_and_change_with_the_restore(make_function: MakeFunction) -> None:
    result = run("--snapstart", "--function", make_function(CREDENTIALS).path)
    before, after, names = json.loads(result.out)
    assert names == []
    assert set(before) == set(after) == {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"}
    assert before["Token"] != after["Token"]


def test_credentials_of_the_configuration_are_not_in_the_environment(make_function: MakeFunction) -> None:
    given = ["--env", "AWS_ACCESS_KEY_ID=key", "--env", "AWS_SECRET_ACCESS_KEY=secret", "--env", "AWS_SESSION_TOKEN=s"]
    result = run("--snapstart", *given, "--function", make_function(CREDENTIALS).path)
    before, after, names = json.loads(result.out)
    assert names == []
    for credentials in (before, after):
        found = credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials["Token"]
        assert found == ("key", "secret", "s")


def test_boto3_finds_the_credentials(make_function: MakeFunction) -> None:
    source = """
    import boto3

    def handler(event, context):
        credentials = boto3.Session().get_credentials()
        frozen = credentials.get_frozen_credentials()
        yield f"{credentials.method} {frozen.access_key} {frozen.token}".encode()
    """
    result = run("--snapstart", "--function", make_function(source).path)
    assert result.out == b"container-role local after-restore", result.err


def test_a_wrong_token_is_refused_and_the_environment_continues(make_function: MakeFunction) -> None:
    source = f"""
    {FETCH.replace(chr(10), chr(10) + "    ")}
    import urllib.error

    def handler(event, context):
        try:
            fetch("wrong")
        except urllib.error.HTTPError as error:
            yield str(error.code).encode()
            error.close()
    """
    result = run("--snapstart", "--function", make_function(source).path)
    assert (result.code, result.out) == (0, b"404"), result.err


# --- Time limits ------------------------------------------------------------------------------------------------------


@pytest.fixture
def make_pool(tmp_path: Path, console: Console) -> Iterator[Callable[..., tuple[EnvironmentPool, FunctionFolder]]]:
    """Makes a function with SnapStart, on the layer of the checkout."""
    supervisor = Supervisor()
    folders: list[FunctionFolder] = []

    def make(source: str, **options: Any) -> tuple[EnvironmentPool, FunctionFolder]:
        folders.append(FunctionFolder(tmp_path / "function", source))
        configuration = FunctionConfiguration("a-function", ROOT / "layer", folders[-1].path, snapstart=True)
        return EnvironmentPool(configuration, console, supervisor, **options), folders[-1]

    yield make
    supervisor.close()
    for folder in folders:
        folder.__exit__()


HANGING = """
from snapshot_restore_py import {hook}

@{hook}
def hang():
    hold_lifeline()
    wait()

def handler(event, context):
    yield b"served"
"""


@pytest.mark.parametrize(
    ("hook", "option", "error_type"),
    [
        ("register_before_snapshot", "init_timeout", "Sandbox.Timedout"),
        ("register_after_restore", "restore_timeout", "Runtime.RestoreHookUserTimeout"),
    ],
)
def test_a_hook_that_hangs_reaches_the_limit_of_its_phase(
    make_pool: Callable[..., tuple[EnvironmentPool, FunctionFolder]], hook: str, option: str, error_type: str
) -> None:
    pool, folder = make_pool(HANGING.format(hook=hook), **{option: 3.0})
    caller = Caller(pool.start_invocation(b"{}"))
    error = caller.error()
    assert error["errorType"] == error_type
    assert "limit of 3.00 seconds" in error["errorMessage"]
    folder.wait_until_gone()


def test_no_time_limit_is_set_while_a_process_is_held(
    make_pool: Callable[..., tuple[EnvironmentPool, FunctionFolder]], log: Path
) -> None:
    source = """
    def handler(event, context):
        yield b"served"
    """
    pool, _ = make_pool(source, restore_timeout=20.0)
    pool.prepare()
    until(lambda: "INIT_REPORT" in log.read_text())
    (environment,) = pool._idle
    assert environment._deadline not in pool._deadlines._pending
    assert Caller(pool.start_invocation(b"{}")).response() == b"served"


# --- The Runtime API --------------------------------------------------------------------------------------------------

API = "/2018-06-01/runtime"
ERROR = json.dumps({"errorType": "KeyError", "errorMessage": "x"}).encode()


class RecordedEvents:
    """Records the events of a runtime, and lets the test wait for the snapshot."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.held = threading.Event()

    def on_start(self, invocation: Invocation) -> None:
        self.events.append("start")

    def on_idle(self) -> None:
        self.events.append("idle")

    def on_init_error(self) -> None:
        self.events.append("init error")

    def on_violation(self, message: str) -> None:
        self.events.append(f"violation: {message}")

    def on_snapshot(self) -> None:
        self.events.append("snapshot")
        self.held.set()

    def on_restore(self) -> None:
        self.events.append("restore")


class Runtime:
    """A runtime that makes the calls of the test."""

    def __init__(self) -> None:
        self.recorded = RecordedEvents()
        function = FunctionConfiguration("a-function", Path("/nonexistent"), Path("/nonexistent"))
        self.server = SnapStartApiServer(function, self.recorded, listen(), Credentials({}))
        self.server.start()
        self.client = self.connect()

    def connect(self) -> Client:
        host, port = self.server.address.split(":")
        return Client(host, int(port))

    def call(self, line: str, body: bytes = b"") -> Response:
        self.client.send_request(f"{line} HTTP/1.1", body=body)
        return self.client.read_response()

    def restore_with(self, line: str) -> Response:
        """Make the call that waits for the restore, and hand over an invocation when the process would be stopped."""
        self.client.send_request(f"{line} HTTP/1.1")
        assert self.recorded.held.wait(30)
        self.server.hand_over(Invocation(b"{}", 30))
        return self.client.read_response()

    def close(self) -> None:
        self.client.close()
        self.server.process_ended(InvocationFailed.of_type("Runtime.ExitError", "end of the test"))


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    made = Runtime()
    yield made
    made.close()


def test_restore_next_responds_when_an_invocation_is_there(runtime: Runtime) -> None:
    response = runtime.restore_with(f"GET {API}/restore/next")
    assert (response.status, response.body) == (200, b"")
    assert runtime.call(f"GET {API}/invocation/next").body == b"{}"
    assert runtime.recorded.events == ["snapshot", "restore", "idle", "start"]


def test_a_runtime_without_hooks_is_held_in_its_first_next(runtime: Runtime) -> None:
    idle = runtime.connect()
    assert runtime.restore_with(f"GET {API}/invocation/next").body == b"{}"
    assert idle.read_rest() == b""
    assert runtime.recorded.events == ["idle", "snapshot", "restore", "start"]
    idle.close()


@pytest.mark.parametrize(
    ("line", "body"),
    [(f"GET {API}/restore/next", b""), (f"POST {API}/init/error", ERROR), (f"POST {API}/restore/error", ERROR)],
)
def test_calls_of_the_restore_are_refused_after_it(runtime: Runtime, line: str, body: bytes) -> None:
    runtime.restore_with(f"GET {API}/restore/next")
    runtime.call(f"GET {API}/invocation/next")
    assert runtime.call(line, body).status == 403


def test_a_restore_error_before_the_restore_is_refused(runtime: Runtime) -> None:
    assert runtime.call(f"POST {API}/restore/error", ERROR).status == 403


@pytest.mark.parametrize("path", ["restore/error", "init/error"])
def test_an_error_of_the_restore_fails_the_invocation(runtime: Runtime, path: str) -> None:
    runtime.restore_with(f"GET {API}/restore/next")
    assert runtime.call(f"POST {API}/{path}", ERROR).status == 202
    assert runtime.recorded.events[-1] == "init error"
    late = Invocation(b"{}", 30)
    runtime.server.hand_over(late)
    assert late.error is not None and late.error.document["errorType"] == "KeyError"


def test_the_end_of_a_held_process_ends_the_wait(runtime: Runtime) -> None:
    runtime.client.send_request(f"GET {API}/restore/next HTTP/1.1")
    assert runtime.recorded.held.wait(30)
    runtime.server.process_ended(InvocationFailed.of_type("Runtime.ExitError", "exit status 7"))
    assert runtime.client.read_rest() == b""
    assert runtime.recorded.events == ["snapshot"]
