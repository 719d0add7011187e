"""Execution environments of `main.py`: how many there are, what they see, when they are replaced, how they end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.emulator import BARE_ENVIRONMENT, ROOT, WAIT, Client, FunctionFolder, Program, Server, Serving, run, until

PID = "def handler(event, context): yield str(os.getpid()).encode()"

# Holds the life sign in the process, in a child, and in a grandchild that has left for a session of its own.
STUBBORN = """
def handler(event, context):
    hold_lifeline(in_a_child=True)
    subprocess.Popen(["setsid", "--fork", "sleep", "3600"], close_fds=False)
    yield b"one "
    wait()
"""


def temporary(tmp_path: Path) -> dict[str, str]:
    """An environment in which the emulator keeps its temporary files in a folder of the test's."""
    (tmp_path / "temporary").mkdir()
    return {**BARE_ENVIRONMENT, "TMPDIR": str(tmp_path / "temporary")}


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if not listed.exists():
        pytest.skip("the system does not list the children of a process")
    return [int(child) for child in listed.read_text().split()]


# How many


def test_beyond_the_limit_requests_are_throttled_and_served_again_later(serving: Serving) -> None:
    server, function = serving(
        """
        def handler(event, context):
            yield b"%6d" % os.getpid()
            if event["rawPath"] == "/slow":
                wait()
        """,
        "--concurrency",
        "2",
    )
    with server.connect() as one, server.connect() as two:
        pids = set()
        for client in (one, two):
            client.send_request("GET /slow HTTP/1.1")
            client.read_head()
            pids.add(client.read(9)[3:])
        assert len(pids) == 2
        refused = server.get()
        assert (refused.status, refused.headers["x-amzn-errortype"]) == (429, "TooManyRequestsException")
        assert json.loads(refused.body)["message"] == "Rate Exceeded."
        function.release()
        function.release()
        for client in (one, two):
            assert client.read(7) == b"\r\n0\r\n\r\n"
    assert server.get().body in pids


def test_one_environment_is_enough_for_requests_one_after_the_other(serving: Serving) -> None:
    server, _ = serving(PID, "--concurrency", "1")
    answers = [server.get() for _ in range(40)]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1


# Calls the Runtime API where a runtime must not.
BREACH = """urlopen(f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation/next")"""


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)", "raise SystemExit(1)", "wait()", BREACH])
def test_an_environment_that_ends_makes_room_for_the_next_one(serving: Serving, end: str) -> None:
    server, _ = serving(
        f"""
        from urllib.request import urlopen

        def handler(event, context):
            if event["rawPath"] == "/end":
                {end}
            yield b"here"
        """,
        *("--concurrency", "1", "--timeout", "1"),
    )
    for _ in range(3):
        assert server.get("/end").status == 502
        assert server.get()[::2] == (200, b"here")


def test_an_environment_whose_client_stands_still_is_free_when_it_is_timed_out(serving: Serving) -> None:
    server, function = serving(
        """
        def handler(event, context):
            if event["rawPath"] == "/endless":
                hold_lifeline()
                while True:
                    yield b"x" * 100_000
            yield b"here"
        """,
        *("--concurrency", "1", "--timeout", "1"),
    )
    with server.connect() as client:
        client.send_request("GET /endless HTTP/1.1")
        client.read_head()
        function.wait_until_gone()
        assert server.get()[::2] == (200, b"here")


def test_a_hundred_connections_at_once_each_get_an_answer(serving: Serving) -> None:
    server, _ = serving(PID)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(100)]
        for client in clients:
            client.send_request("GET / HTTP/1.1")
        statuses = [client.read_response().status for client in clients]
    assert set(statuses) <= {200, 429} and 200 in statuses
    assert server.get().status == 200


def test_many_clients_are_all_served(serving: Serving) -> None:
    server, _ = serving("def handler(event, context): yield event['rawPath'].encode()", "--concurrency", "8")
    failed: list[Any] = []

    def call(number: int) -> None:
        for n in range(25):
            answer = server.get(f"/{number}/{n}")
            if answer[::2] != (200, f"/{number}/{n}".encode()):
                failed.append(answer)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_slow_reader_slows_the_handler_down_and_memory_stays_flat(serving: Serving) -> None:
    server, function = serving(
        """
        def handler(event, context):
            if event["rawPath"] != "/large":
                yield b"small"
                return
            for n in range(3200):
                with open("made", "w") as file:
                    file.write(str(n))
                yield b"x" * 65536
    """,
        "--no-reload",
    )
    server.get()
    before = memory(server)
    with server.connect() as client:
        client.send_request("GET /large HTTP/1.1")
        assert client.read_head()[0] == "HTTP/1.1 200 OK"
        for _ in range(50):
            assert server.get().body == b"small"
        assert int((function.path / "made").read_text() or 0) < 1600
        size = 0
        while size < 3200 * 65536:
            size += len(client.read(8192))
    assert memory(server) - before < 8 * 1024


def memory(server: Server) -> int:
    """KiB that the emulator had at most."""
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("the system does not tell how much memory a process has")
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])


# What they see


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
        Server(function.path, env=temporary(tmp_path)) as server,
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
        tmp_path / "a-function", "def handler(event, context): open(os.environ['TMPDIR'] + '/x', 'w'); yield b''"
    ) as root:
        assert run("--function", root.path, env=temporary(tmp_path)).code == 0
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_temporary_folder_that_cannot_be_used_is_told_of(tmp_path: Path) -> None:
    result = run(env={**BARE_ENVIRONMENT, "TMPDIR": str(tmp_path / "missing")})
    assert (result.code, result.out) == (1, b"")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1 and "TMPDIR" in result.err


def test_variables_are_given_one_by_one_and_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "variables").write_text(
        "# a comment\n\nPLAIN=a b=c\nexport EXPORTED=1\nQUOTED=\"a 'b'\"\nSINGLE='x'\nEMPTY=\nBOTH=file\n  INDENTED=ä\n"
    )
    names = ["PLAIN", "EXPORTED", "QUOTED", "SINGLE", "EMPTY", "BOTH", "INDENTED", "AWS_REGION"]
    source = f"def handler(event, context): yield json.dumps([os.environ.get(name) for name in {names}]).encode()"
    with FunctionFolder(tmp_path / "a-function", source) as root:
        result = run(
            *("--function", root.path, "--env-file", tmp_path / "variables"),
            *("--env", "BOTH=flag=1", "--env", "AWS_REGION=eu-west-1"),
        )
    assert json.loads(result.out) == ["a b=c", "1", "a 'b'", "x", "", "flag=1", "ä", "eu-west-1"]


@pytest.mark.parametrize(
    ("lines", "word"),
    [(b"A=1\nwords\n", "line 2"), (b"\xff=1", "cannot read"), (b"_HANDLER=x", "line 1"), (b"A=\0", "line 1")],
)
def test_a_file_of_variables_that_is_wrong_is_refused(tmp_path: Path, lines: bytes, word: str) -> None:
    (tmp_path / "variables").write_bytes(lines)
    result = run("--env-file", tmp_path / "variables")
    assert (result.code, result.out) == (2, b"")
    assert result.err.count("\n") == 1 and word in result.err and "--env-file" in result.err


# Reload


def test_code_that_was_saved_is_what_the_next_request_gets(serving: Serving) -> None:
    server, function = serving("from other import WORD\ndef handler(event, context): yield WORD")
    for word in ("one", "two", "three"):
        (function.path / "other.py").write_text(f"WORD = b'{word}'")
        for _ in range(2):
            assert server.get()[::2] == (200, word.encode())
    lines = [line for line in server.errors().splitlines() if "has changed" in line]
    assert [f"{function.path}/other.py" in line for line in lines] in ([True] * 2, [True] * 3)


def test_a_change_is_told_of_before_any_request(serving: Serving) -> None:
    server, function = serving(PID)
    (function.path / "new.py").write_text("")
    until(lambda: f"{function.path}/new.py has changed" in server.errors())


def test_an_invocation_ends_with_the_code_that_it_began_with(serving: Serving) -> None:
    server, function = serving("def handler(event, context): yield b'old'; wait(); yield b'end'")
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        client.read_head()
        assert client.read(8) == b"3\r\nold\r\n"
        (function.path / "lambda_function.py").write_text("def handler(event, context): yield b'new'")
        assert server.get().body == b"new"
        function.release()
        assert client.read(13) == b"3\r\nend\r\n0\r\n\r\n"
    assert server.get().body == b"new"


def test_without_reload_the_code_stays(serving: Serving) -> None:
    server, function = serving("def handler(event, context): yield b'old'", "--no-reload")
    assert server.get().body == b"old"
    (function.path / "lambda_function.py").write_text("def handler(event, context): yield b'new'")
    assert server.get().body == b"old"
    assert "has changed" not in server.errors()


# The end


@pytest.mark.parametrize("to_group", [False, True])
def test_nothing_outlives_an_emulator_that_is_killed(tmp_path: Path, to_group: bool) -> None:
    with FunctionFolder(tmp_path / "a-function", STUBBORN) as function:
        with Program("--serve", "-p", "0", "--function", function.path, env=temporary(tmp_path)) as program:
            url = program.read_through(b"\n").split()[2].decode()
            with Client.to(url) as client:
                client.send_request("GET / HTTP/1.1")
                client.read_head()
                assert client.read(9) == b"4\r\none \r\n"
                if to_group:
                    os.killpg(program.process.pid, signal.SIGKILL)
                else:
                    program.process.kill()
                function.wait_until_gone()
        until(lambda: not list((tmp_path / "temporary").iterdir()))


def test_a_function_that_never_calls_does_not_outlive_an_emulator_that_is_killed(tmp_path: Path) -> None:
    source = "hold_lifeline(in_a_child=True)\nnotify('loading')\nwait()"
    folder = tmp_path / "a-function"
    with FunctionFolder(folder, source) as function, Program("--function", folder) as program:
        assert function.receive() == "loading"
        program.process.kill()
        function.wait_until_gone()


def test_environments_do_not_outlive_the_process_that_starts_them(serving: Serving) -> None:
    server, function = serving("def handler(event, context): hold_lifeline(); yield b'one '; wait()")
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        client.read_head()
        [supervisor] = children(server.process.pid)
        os.kill(supervisor, signal.SIGKILL)
        function.wait_until_gone()
    result = server.end()
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith(
        "error: the process that starts the execution environments was killed"
    )


def test_signals_again_and_again_change_nothing(serving: Serving) -> None:
    server, function = serving(STUBBORN)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        client.read_head()
        assert client.read(9) == b"4\r\none \r\n"
        for _ in range(100):
            for signum in (signal.SIGTERM, signal.SIGINT):
                with contextlib.suppress(ProcessLookupError):
                    server.process.send_signal(signum)
        result = server.end()
    assert (result.code, result.out) == (130, b"")
    assert "Traceback" not in result.err
    function.wait_until_gone()


# A file system as the service's


@pytest.fixture(scope="module")
def isolation(tmp_path_factory: pytest.TempPathFactory) -> None:
    with FunctionFolder(
        tmp_path_factory.mktemp("isolation") / "a-function", "def handler(event, context): yield b''"
    ) as root:
        result = run("--isolate", "--function", root.path)
    if result.code:
        pytest.skip(result.err.strip())


LOOK = """
import errno

def refusal(path):
    try:
        open(path, "w")
    except OSError as error:
        return errno.errorcode[error.errno]

def handler(event, context):
    yield json.dumps([
        os.getcwd(), __file__, sorted(os.listdir("/opt")), os.listdir("/tmp"), os.environ.get("TMPDIR"),
        os.environ["LAMBDA_TASK_ROOT"], [refusal(path) for path in ("/opt/x", "/var/task/x", "/tmp/x")], sys.executable,
    ]).encode()
"""


@pytest.mark.usefixtures("isolation")
def test_isolated_code_is_in_its_places_and_read_only(tmp_path: Path) -> None:
    with FunctionFolder(tmp_path / "a-function", LOOK) as root:
        result = run("--isolate", "--function", root.path)
        assert result.code == 0, result.err
        files = ["bootstrap", "runtime.py", "streaming_runtime"]
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        assert json.loads(result.out) == [
            "/var/task",
            "/var/task/lambda_function.py",
            files,
            [],
            None,
            "/var/task",
            ["EROFS", "EROFS", None],
            f"/var/lang/bin/{version}",
        ]


@pytest.mark.usefixtures("isolation")
def test_isolated_environments_share_no_temporary_folder_and_leave_nothing(tmp_path: Path) -> None:
    source = """
    def handler(event, context):
        yield json.dumps(os.listdir("/tmp")).encode()
        open(f"/tmp/{event['rawPath'][1:]}", "w").close()
        if event["rawPath"] == "/slow":
            wait()
    """
    with FunctionFolder(tmp_path / "a-function", source) as root:
        with Server(root.path, "--isolate", env=temporary(tmp_path)) as server, server.connect() as client:
            client.send_request("GET /slow HTTP/1.1")
            client.read_head()
            assert client.read(7) == b"2\r\n[]\r\n"
            assert server.get("/one").body == b"[]"
            assert server.get("/two").body == b'["one"]'
            root.release()
        assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.usefixtures("isolation")
def test_nothing_isolated_outlives_an_emulator_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "a-function"
    with FunctionFolder(folder, STUBBORN) as function, Program("--isolate", "--function", folder) as program:
        assert program.read(4) == b"one "
        program.process.kill()
        function.wait_until_gone()


def test_a_system_that_does_not_allow_isolation_is_told_of(tmp_path: Path) -> None:
    without = "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin"
    forbid = f'echo 0 > /proc/sys/user/max_user_namespaces && exec {without} "$@"'
    command = ("unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh")
    tried = subprocess.run([*command, "true"], capture_output=True, timeout=WAIT) if sys.platform == "linux" else None
    if tried is None or tried.returncode:
        pytest.skip("namespaces cannot be forbidden here")
    result = run("--isolate", command=(*command, sys.executable, ROOT / "main.py"))
    assert (result.code, result.out) == (1, b"")
    assert result.err.startswith("error: --isolate is not possible here") and result.err.count("\n") == 1
