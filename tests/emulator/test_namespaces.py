"""`--isolate`: a file system like the service's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.emulator import ROOT, WAIT, FunctionFolder, Program, Server, run, with_tmpdir


@pytest.fixture(scope="module")
def isolation(tmp_path_factory: pytest.TempPathFactory) -> None:
    with FunctionFolder(
        tmp_path_factory.mktemp("isolation") / "a-function",
        """
            def handler(event, context):
                yield b''
        """,
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
def test_isolated_code_is_in_opt_and_var_task_and_read_only(tmp_path: Path) -> None:
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
        with Server(root.path, "--isolate", env=with_tmpdir(tmp_path)) as server, server.connect() as client:
            client.send_request("GET /slow HTTP/1.1")
            client.read_head()
            assert client.read(7) == b"2\r\n[]\r\n"
            assert server.get("/one").body == b"[]"
            assert server.get("/two").body == b'["one"]'
            root.release()
        assert list((tmp_path / "temporary").iterdir()) == []


# Holds the lifeline in the process, in a child, and in a grandchild in a session of its own.
STUBBORN = """
def handler(event, context):
    hold_lifeline(in_a_child=True)
    subprocess.Popen(["setsid", "--fork", "sleep", "3600"], close_fds=False)
    yield b"one "
    wait()
"""


@pytest.mark.usefixtures("isolation")
def test_no_isolated_process_outlives_an_emulator_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "a-function"
    with FunctionFolder(folder, STUBBORN) as function, Program("--isolate", "--function", folder) as program:
        assert program.read(4) == b"one "
        program.process.kill()
        function.wait_until_gone()


def test_a_system_that_does_not_allow_isolation_is_reported(tmp_path: Path) -> None:
    without = "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin"
    forbid = f'echo 0 > /proc/sys/user/max_user_namespaces && exec {without} "$@"'
    command = ("unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh")
    tried = subprocess.run([*command, "true"], capture_output=True, timeout=WAIT) if sys.platform == "linux" else None
    if tried is None or tried.returncode:
        pytest.skip("namespaces cannot be forbidden here")
    result = run("--isolate", command=(*command, sys.executable, ROOT / "main.py"))
    assert (result.code, result.out) == (1, b"")
    assert result.err.startswith("error: --isolate is not possible here") and result.err.count("\n") == 1


def test_folders_on_a_mount_with_locked_flags_can_be_isolated(tmp_path: Path) -> None:
    source = """
        def handler(event, context):
            flags = [os.statvfs(path).f_flag for path in ("/opt", "/var/task")]
            yield json.dumps([bool(flag & os.ST_NOSUID and flag & os.ST_NODEV) for flag in flags]).encode()
    """
    (tmp_path / "mount").mkdir()
    with FunctionFolder(tmp_path / "a-function", source) as root:
        # In the inner user namespace the kernel locks the flags of a mount that the outer one has made.
        script = """
            mount -t tmpfs -o nosuid,nodev,noatime,mode=755 none "$1" &&
            cp -r "$2" "$1/layer" && mkdir "$1/function" && cp "$3/lambda_function.py" "$1/function" &&
            exec unshare --user --map-root-user "$4" "$5" --isolate --layer "$1/layer" --function "$1/function"
        """
        arguments = (tmp_path / "mount", ROOT / "layer", root.path, sys.executable, ROOT / "main.py")
        namespaces = ("unshare", "--user", "--map-root-user", "--mount")
        if subprocess.run([*namespaces, "unshare", "--user", "--mount", "true"], capture_output=True).returncode:
            pytest.skip("user namespaces are not possible here")
        result = run(command=(*namespaces, "sh", "-c", script, "sh", *arguments))
    assert result[:2] == (0, b"[true, true]"), result.err
