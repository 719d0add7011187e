"""The Extensions API, external extensions, and the end of an environment with and without them."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.emulator import (
    ECHO,
    HANDLER_HELPERS,
    FunctionFolder,
    MakeFunction,
    Program,
    Serving,
    error_of,
    run,
    until,
)
from support.processes import state_of

from tools.emulator.console import Console
from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.execution.invocation import InvocationFailed
from tools.emulator.execution.pool import EnvironmentPool
from tools.emulator.sandbox.supervisor_client import Supervisor

# The start of an extension whose calls the test chooses. `record` writes a line to a file beside the function's folder,
# because a change within the folder would be a change of the code.
EXTENSION = '''
import http.client

def call(method, path, body=None, **headers):
    """Call the Extensions API; return the status, the headers and the JSON document."""
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    target = path if path.startswith("/") else f"/2020-01-01/extension/{path}"
    connection.request(method, target, json.dumps(body) if body is not None else None, fields)
    response = connection.getresponse()
    return response.status, response.headers, json.loads(response.read())

def register(name, *events):
    status, headers, document = call("POST", "register", {"events": list(events)}, Lambda_Extension_Name=name)
    assert status == 200, document
    return headers["Lambda-Extension-Identifier"]

def next_event(identifier):
    return call("GET", "event/next", Lambda_Extension_Identifier=identifier)[2]

def record(*words):
    with open(os.path.join(FOLDER, "..", "record"), "a") as file:
        print(*words, file=file)
'''

SERVE = """
identifier = register(NAME, "INVOKE", "SHUTDOWN")
while True:
    event = next_event(identifier)
    record(event["eventType"], event.get("requestId") or event["shutdownReason"])
    if event["eventType"] == "SHUTDOWN":
        break
"""

MakeLayer = Callable[..., Path]


@pytest.fixture
def make_layer(tmp_path: Path) -> MakeLayer:
    """Makes a layer with external extensions, from their sources by name."""

    def make(folder: Path, mode: int = 0o755, **sources: str) -> Path:
        extensions = tmp_path / "extension-layer" / "extensions"
        extensions.mkdir(parents=True)
        for name, source in sources.items():
            start = f"#!{sys.executable}\n{HANDLER_HELPERS}{EXTENSION}FOLDER, NAME = {str(folder)!r}, {name!r}\n"
            (extensions / name).write_text(start + "os.chdir(FOLDER)\n" + textwrap.dedent(source))
            (extensions / name).chmod(mode)
        return extensions.parent

    return make


def recorded(function: FunctionFolder) -> list[str]:
    path = function.path.parent / "record"
    return path.read_text().splitlines() if path.exists() else []


GRACEFUL = ("--env", "STREAMING_RUNTIME_GRACEFUL_SHUTDOWN=1")
ON_EXIT = """
    import atexit

    atexit.register(lambda: open("../exited", "w").close())

    def handler(event, context):
        hold_lifeline()
        try:
            yield b"one"
            if event == "wait":
                wait()
        finally:
            print("finally")
"""


# The internal extension of the layer


def test_with_an_internal_extension_the_functions_of_atexit_run_at_the_end(make_function: MakeFunction) -> None:
    function = make_function(ON_EXIT)
    result = run(*GRACEFUL, "-e", "{}", "--function", function.path)
    assert (result.code, result.out) == (0, b"one")
    assert "EXTENSION\tName: python-streaming-runtime\tState: Ready\tEvents: []\nSTART " in result.err
    assert "failed" not in result.err
    assert (function.path.parent / "exited").exists()
    function.wait_until_gone()


def test_without_an_extension_the_process_is_killed_at_once(make_function: MakeFunction) -> None:
    function = make_function(ON_EXIT)
    assert run("-e", "{}", "--function", function.path).code == 0
    assert not (function.path.parent / "exited").exists()
    function.wait_until_gone()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_emulator_ends_the_environments_in_order(make_function: MakeFunction, signum: int) -> None:
    function = make_function(ON_EXIT)
    with Program(*GRACEFUL, "-e", '"wait"', "--function", function.path) as program:
        assert program.read(3) == b"one"
        program.interrupt(signum)
        result = program.end()
    assert result.code == 130
    assert "finally" in result.err
    assert (function.path.parent / "exited").exists()
    function.wait_until_gone()


def test_a_process_that_ignores_sigterm_is_killed_after_its_time(make_function: MakeFunction) -> None:
    function = make_function("""
        import signal

        def handler(event, context):
            signal.signal(signal.SIGTERM, lambda *_: notify("terminated"))
            hold_lifeline(in_a_child=True)
            yield b"one"
            while True:
                time.sleep(1)
    """)
    with Program(*GRACEFUL, "-e", "{}", "--function", function.path) as program:
        assert program.read(3) == b"one"
        program.interrupt()
        assert function.receive() == "terminated"
        assert program.end().code == 130
    function.wait_until_gone()


def test_a_reload_ends_the_old_process_in_order(serving: Serving) -> None:
    server, function = serving(ON_EXIT, *GRACEFUL)
    assert server.get().body == b"one"
    function.write(ON_EXIT.replace('b"one"', 'b"two"'))
    assert server.get().body == b"two"
    until((function.path.parent / "exited").exists)


def test_a_timeout_ends_the_process_in_order(serving: Serving) -> None:
    source = """
        def handler(event, context):
            try:
                yield b"one"
                wait()
            finally:
                notify("finally")
    """
    server, function = serving(source, *GRACEFUL, "--timeout", "0.5")
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        client.read_head()
        assert client.read_rest() == b"3\r\none\r\n"
    assert function.receive() == "finally"
    until(lambda: "Status: timeout" in server.errors())


# External extensions


def test_an_external_extension_receives_invoke_and_shutdown(make_function: MakeFunction, make_layer: MakeLayer) -> None:
    function = make_function("""
        def handler(event, context):
            yield context.aws_request_id.encode()
    """)
    layer = make_layer(function.path, watcher=SERVE)
    result = run("-e", "{}", "--function", function.path, "--layer", layer)
    assert result.code == 0, result.err
    assert recorded(function) == [f"INVOKE {result.out.decode()}", "SHUTDOWN SPINDOWN"]
    assert "EXTENSION\tName: watcher\tState: Ready\tEvents: [INVOKE,SHUTDOWN]\nSTART " in result.err


def test_a_snapshot_contains_the_extensions(serving: Serving, make_layer: MakeLayer, tmp_path: Path) -> None:
    source = """
        identifier = register(NAME, "INVOKE")
        notify(str(os.getpid()))
        while True:
            next_event(identifier)
        """
    layer = make_layer(tmp_path / "a-function", watcher=source)
    server, function = serving(ECHO, "--snapstart", "--layer", layer)
    watcher = int(function.receive())
    until(lambda: state_of(watcher) == "T")
    assert server.get().status == 200
    until(lambda: state_of(watcher) != "T")


def test_the_runtime_starts_when_all_extensions_have_registered(
    make_function: MakeFunction, make_layer: MakeLayer
) -> None:
    function = make_function("""
        with open("../record") as file:
            registered = file.read().split()

        def handler(event, context):
            yield repr(registered).encode()
    """)
    source = """
        identifier = register(NAME)
        record(NAME)
        next_event(identifier)
    """
    slow = f"time.sleep(0.3)\n{textwrap.dedent(source)}"
    layer = make_layer(function.path, first=source, second=slow)
    result = run("-e", "{}", "--function", function.path, "--layer", layer)
    assert sorted(json.loads(result.out.decode().replace("'", '"'))) == ["first", "second"]


def test_the_next_invocation_waits_until_the_extension_is_done(
    serving: Serving, make_layer: MakeLayer, tmp_path: Path
) -> None:
    source = """
        def handler(event, context):
            with open("../record") as file:
                yield file.read().encode()
    """
    busy = """
        identifier = register(NAME, "INVOKE")
        record("registered")
        while True:
            next_event(identifier)
            time.sleep(0.2)
            record("done")
    """
    layer = make_layer(tmp_path / "a-function", busy=busy)
    server, _ = serving(source, "--layer", layer, "--concurrency", "1")
    bodies = [server.get().body.decode().split() for _ in range(3)]
    assert bodies == [["registered"], ["registered", "done"], ["registered", "done", "done"]]


def test_the_end_of_an_environment_has_a_reason(serving: Serving, make_layer: MakeLayer, tmp_path: Path) -> None:
    source = """
        def handler(event, context):
            yield b"one"
            if event["rawPath"] == "/exit":
                os._exit(3)
            if event["rawPath"] == "/timeout":
                wait()
    """
    layer = make_layer(tmp_path / "a-function", watcher=SERVE)
    server, function = serving(source, "--layer", layer, "--timeout", "1")

    def reasons() -> list[str]:
        return [line.split()[1] for line in recorded(function) if line.startswith("SHUTDOWN")]

    for path, reason in (("/exit", "FAILURE"), ("/timeout", "TIMEOUT")):
        with server.connect() as client:
            client.send_request(f"GET {path} HTTP/1.1")
            client.read_head()
            client.read_rest()
        until(lambda reason=reason: reasons()[-1:] == [reason])
    assert server.get().status == 200
    function.write(source)
    until(lambda: reasons() == ["FAILURE", "TIMEOUT", "SPINDOWN"])


def test_the_runtime_ends_before_the_extensions_and_those_that_stay_are_killed(
    make_function: MakeFunction, make_layer: MakeLayer
) -> None:
    function = make_function("""
        import atexit

        def handler(event, context):
            atexit.register(lambda: print("runtime", file=open("../record", "a")))
            yield b"one"
    """)
    stays = """
        identifier = register(NAME, "SHUTDOWN")
        hold_lifeline(in_a_child=True)
        record(next_event(identifier)["eventType"])
        time.sleep(3600)
    """
    result = run("-e", "{}", "--function", function.path, "--layer", make_layer(function.path, stays=stays))
    assert (result.code, result.out) == (0, b"one")
    assert recorded(function) == ["runtime", "SHUTDOWN"]
    function.wait_until_gone()


def test_an_extension_without_shutdown_is_killed(make_function: MakeFunction, make_layer: MakeLayer) -> None:
    function = make_function("""
        def handler(event, context):
            yield b"one"
    """)
    source = """
        identifier = register(NAME)
        hold_lifeline()
        next_event(identifier)
        record("an event")
    """
    result = run("-e", "{}", "--function", function.path, "--layer", make_layer(function.path, silent=source))
    assert (result.code, recorded(function)) == (0, [])
    function.wait_until_gone()


def test_an_extension_has_the_variables_of_the_function_but_not_those_of_the_runtime(
    make_function: MakeFunction, make_layer: MakeLayer
) -> None:
    function = make_function("""
        def handler(event, context):
            yield b"one"
    """)
    source = """
        record(json.dumps(dict(os.environ)))
        next_event(register(NAME))
    """
    layer = make_layer(function.path, dump=source)
    run("-e", "{}", "--env", "STAGE=local", "--function", function.path, "--layer", layer)
    variables = json.loads(recorded(function)[0])
    assert variables["AWS_LAMBDA_FUNCTION_NAME"] == "a-function" and variables["STAGE"] == "local"
    assert not {"_HANDLER", "LAMBDA_TASK_ROOT", "AWS_EXECUTION_ENV"} & variables.keys()


@pytest.mark.parametrize(
    ("source", "mode", "error_type", "words"),
    [
        ("sys.exit(4)", 0o755, "Extension.InitError", "ended with status 4 before it registered"),
        ("pass", 0o644, "Extension.LaunchError", "chmod +x"),
        (
            """
            identifier = register(NAME)
            error = {"errorType": "Own.Error", "errorMessage": "no key"}
            names = {"Lambda_Extension_Identifier": identifier, "Lambda_Extension_Function_Error_Type": "Own.Error"}
            call("POST", "init/error", error, **names)
            wait()
            """,
            0o755,
            "Extension.InitError",
            "the extension broken reported Own.Error: no key",
        ),
        (
            """
            identifier = register(NAME, "INVOKE")
            next_event(identifier)
            sys.exit(5)
            """,
            0o755,
            "Extension.Crash",
            "the extension broken exited with status 5",
        ),
    ],
)
def test_the_failure_of_an_extension_fails_the_invocation(
    make_function: MakeFunction, make_layer: MakeLayer, source: str, mode: int, error_type: str, words: str
) -> None:
    function = make_function("""
        def handler(event, context):
            wait()
            yield b"one"
    """)
    layer = make_layer(function.path, mode, broken=source)
    result = run("-e", "{}", "--function", function.path, "--layer", layer)
    assert result.code == 1
    error = error_of(result)
    assert error["errorType"] == error_type and words in error["errorMessage"]


def test_an_extension_that_does_not_register_reaches_the_limit_of_the_init_phase(
    make_function: MakeFunction, make_layer: MakeLayer, console: Console, tmp_path: Path
) -> None:
    function = make_function("")
    layer = make_layer(function.path, late="hold_lifeline()\nwait()")
    supervisor = Supervisor()
    try:
        configuration = FunctionConfiguration("a-function", layer, function.path)
        pool = EnvironmentPool(configuration, console, supervisor, init_timeout=2)
        with pytest.raises(InvocationFailed, match="has not registered within"):
            pool.start_invocation(b"{}")
        function.wait_until_gone()
        assert list(supervisor.scratch.iterdir()) == []
    finally:
        supervisor.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[Any]]]:
    """Makes one call of the Extensions API from a function's module; returns status and document."""
    source = EXTENSION + textwrap.dedent("""
        outcomes = []
        identifiers = [register("first", "INVOKE")]

        for arguments in json.loads(os.environ["CALLS"]):
            method, path, body, headers = arguments
            headers = {name: value.replace("IDENTIFIER", identifiers[0]) for name, value in headers.items()}
            status, fields, document = call(method, path, body, **headers)
            outcomes.append([status, document])
            identifiers += filter(None, [fields["Lambda-Extension-Identifier"]])

        def fetch_events(identifier):
            while True:
                next_event(identifier)

        for identifier in identifiers:
            threading.Thread(target=fetch_events, args=(identifier,), daemon=True).start()

        def handler(event, context):
            yield json.dumps(outcomes).encode()
    """)
    folder = tmp_path_factory.mktemp("api")

    def call(*calls: Any) -> list[Any]:
        name = f"function-{len(os.listdir(folder))}"
        with FunctionFolder(folder / name, source) as function:
            result = run("-e", "{}", "--env", f"CALLS={json.dumps(calls)}", "--function", function.path)
        return json.loads(result.out)

    yield call


def test_wrong_calls_are_refused_with_the_error_types_of_the_service(api: Callable[..., list[Any]]) -> None:
    named = {"Lambda_Extension_Name": "other"}
    identified = {"Lambda_Extension_Identifier": "IDENTIFIER"}
    wrong = [
        (["POST", "register", {"events": []}, {}], "Extension.InvalidExtensionName"),
        (["POST", "register", {"events": []}, {"Lambda_Extension_Name": "first"}], "Extension.InvalidExtensionState"),
        (["POST", "register", {"events": ["SHUTDOWN"]}, named], "Extension.InvalidEventType"),
        (["POST", "register", {"events": ["OTHER"]}, named], "Extension.InvalidEventType"),
        (["POST", "register", {"events": 5}, named], "InvalidRequestFormat"),
        (["POST", "register", [1], named], "InvalidRequestFormat"),
        (["GET", "event/next", None, {}], "Extension.MissingExtensionIdentifier"),
        (["GET", "event/next", None, {"Lambda_Extension_Identifier": "x"}], "Extension.UnknownExtensionIdentifier"),
        (["POST", "exit/error", {}, identified], "Extension.MissingHeader"),
    ]
    outcomes = api(*(call for call, _ in wrong))
    assert [(status, document["errorType"]) for status, document in outcomes] == [(403, kind) for _, kind in wrong]


def test_the_response_to_a_registration_describes_the_function(api: Callable[..., list[Any]]) -> None:
    headers = {"Lambda_Extension_Name": "second", "Lambda_Extension_Accept_Feature": "accountId"}
    [[status, document]] = api(["POST", "register", {}, headers])
    assert status == 200
    assert document == {
        "functionName": document["functionName"],
        "functionVersion": "$LATEST",
        "handler": "lambda_function.handler",
        "accountId": "123456789012",
    }


def test_telemetry_and_logs_are_accepted_and_not_sent(api: Callable[..., list[Any]]) -> None:
    paths = {"/2022-07-01/telemetry": "Telemetry", "/2020-08-15/logs": "Logs"}
    outcomes = api(*(["PUT", path, {}, {}] for path in paths))
    assert [(status, document["errorType"]) for status, document in outcomes] == [
        (202, f"{name}.NotSupported") for name in paths.values()
    ]
