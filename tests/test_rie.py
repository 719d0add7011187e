"""The built layer in its real place: `/opt/bootstrap`, started by AWS's own Runtime Interface Emulator.

In namespaces of its own the machine's file system gets the layer at `/opt`, the function at `/var/task` and the
interpreter at `/var/lang`, as on Lambda; nothing of that is seen outside. Where the system does not allow it, or the
emulator (which comes with `aws-sam-cli`) is not installed, these tests are skipped.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_local import ROOT, WAIT, until

ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
INVOKE = "/2015-03-31/functions/function/invocations"
UNSHARE = [
    "unshare",
    *([] if os.geteuid() == 0 else ["--map-root-user"]),
    *("--mount", "--pid", "--fork", "--kill-child"),
]

# Arguments: the folder of the new root; the layer, the function, the interpreter's folder; the emulator's own.
# /opt and /var are put together anew, all else is the machine's.
ENTER = """
set -eu
PATH=$PATH:/usr/sbin:/sbin
root=$1 layer=$2 task=$3 lang=$4 rie=$5
shift 5
mount -t tmpfs tmpfs "$root"
mkdir "$root/opt" "$root/var" "$root/proc"
for path in /* /var/*; do
  case $path in
    /opt | /var | /proc | /var/task | /var/lang) ;;
    *)
      if [ -L "$path" ]; then
        cp -P "$path" "$root$path"
      elif [ -d "$path" ]; then
        mkdir "$root$path"
        mount --rbind "$path" "$root$path"
      fi ;;
  esac
done
mount -t proc proc "$root/proc"
mkdir "$root/var/task" "$root/var/lang"
mount --bind "$lang" "$root/var/lang"
cp "$rie" "$root/rie"
chmod 755 "$root/rie"
for pair in "$layer:/opt" "$task:/var/task"; do
  mount --bind "${pair%%:*}" "$root${pair##*:}"
  mount -o remount,ro,bind "$root${pair##*:}"
done
exec chroot "$root" /bin/sh -c 'cd /var/task && exec env -i PATH=/usr/bin:/bin LANG=C TZ=:UTC "$@"' sh /rie "$@"
"""

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
    """The emulator's program."""
    package = importlib.util.find_spec("samcli")
    if package is None or package.origin is None:
        pytest.skip("aws-sam-cli, which the Runtime Interface Emulator comes with, is not installed")
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    program = Path(package.origin).parent / "local" / "rapid" / f"aws-lambda-rie-{architecture}"
    if sys.platform != "linux" or not program.is_file():
        pytest.skip(f"aws-sam-cli has no Runtime Interface Emulator for {sys.platform} on {platform.machine()}")
    return program


@pytest.fixture(scope="module")
def interpreter() -> Path:
    """The folder of the Python that runs the tests, which stands for `/var/lang`."""
    folder = Path(sys.base_prefix)
    if not (folder / "bin" / "python3").exists():
        pytest.skip(f"there is no bin/python3 in {folder}")
    return folder


@pytest.fixture(scope="module")
def namespaces(tmp_path_factory: pytest.TempPathFactory) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare on PATH")
    root = tmp_path_factory.mktemp("probe")
    probe = 'mount -t tmpfs tmpfs "$1" && mkdir "$1/proc" && mount -t proc proc "$1/proc"'
    tried = subprocess.run([*UNSHARE, "sh", "-c", probe, "sh", root], capture_output=True, text=True, timeout=WAIT)
    if tried.returncode:
        pytest.skip(f"the system does not allow namespaces with mounts: {tried.stderr.strip()}")


class Lambda:
    """A function under the emulator; an invocation is a request to it."""

    def __init__(self, program: Path, root: Path, layer: Path, task: Path, interpreter: Path) -> None:
        self.log = root.with_suffix(".log")
        root.mkdir()
        self.port, runtime_api = free_ports(2)
        addresses = ["--runtime-api-address", f"127.0.0.1:{runtime_api}"]
        addresses += ["--runtime-interface-emulator-address", f"127.0.0.1:{self.port}"]
        command = ["sh", "-c", ENTER, "sh", root, layer, task, interpreter, program, *addresses]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*UNSHARE, *command, "/opt/bootstrap", "lambda_function.handler"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._is_listening)

    def invoke(self, event: object) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        try:
            connection.request("POST", INVOKE, json.dumps(event))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)  # with the first process of a pid namespace all others end
        self.process.wait()

    def _is_listening(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; the emulator cannot tell of one that it has chosen itself."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def start(
    namespaces: None, rie: Path, interpreter: Path, layer: Path, tmp_path: Path
) -> Iterator[Callable[[str], Lambda]]:
    """Starts a function, built and unpacked as it is deployed, on the layer."""
    started: list[Lambda] = []

    def start(source: str) -> Lambda:
        (tmp_path / "function").mkdir()
        (tmp_path / "function" / "lambda_function.py").write_text(source)
        build = [ROOT / "build.sh", "function", tmp_path / "function", "-o", tmp_path / "dist"]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL, timeout=WAIT)
        with zipfile.ZipFile(tmp_path / "dist" / "function.zip") as archive:
            archive.extractall(tmp_path / "task")
        started.append(Lambda(rie, tmp_path / "root", layer, tmp_path / "task", interpreter))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_hundred_invocations_in_a_row_are_answered_and_a_failure_does_no_harm(
    start: Callable[[str], Lambda],
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


def test_the_layer_and_the_function_are_read_only_and_the_interpreter_is_lambdas(
    start: Callable[[str], Lambda],
) -> None:
    status, body = start(FUNCTION).invoke({"where": True})
    assert (status, json.loads(body)) == (200, ["/var/lang/bin/python3", "/var/task", ["EROFS", "EROFS"]])


def test_a_function_that_cannot_be_loaded_is_told_of(start: Callable[[str], Lambda]) -> None:
    status, body = start("import nothing_of_this_name").invoke({})
    assert (status, json.loads(body)["errorType"]) == (502, "Runtime.ImportModuleError")
