"""A function in the places that it has on Lambda: a root file system and namespaces of its own.

The layer is at `/opt` and the function at `/var/task`. Only `/tmp` is writable. The user is not root. The network is a
loopback interface. A test gets sockets in that network, so it can be the Runtime API or a client.
"""

from __future__ import annotations

import contextlib
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
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from support import function_process
from support.emulator import WAIT, until

ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "arm64"}
NAMESPACE_INIT = Path(__file__).with_name("namespace_init.py")
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts")

# All variables that the service sets on an OS-only runtime, except `AWS_LAMBDA_RUNTIME_API` (AWS Lambda Developer
# Guide, configuration-envvars). The credentials are AWS's examples.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
    "AWS_LAMBDA_FUNCTION_NAME": "f",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    "AWS_LAMBDA_LOG_FORMAT": "Text",
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/f",
    "AWS_LAMBDA_LOG_STREAM_NAME": "2026/11/23/[$LATEST]0",
    "AWS_REGION": "eu-west-1",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_SESSION_TOKEN": "made up",
    "LAMBDA_RUNTIME_DIR": "/var/runtime",
    "LAMBDA_TASK_ROOT": "/var/task",
    "LANG": "en_US.UTF-8",
    "LD_LIBRARY_PATH": "/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
    "PATH": "/usr/local/bin:/usr/bin/:/bin:/opt/bin",
    "TZ": ":UTC",
    "_HANDLER": "lambda_function.handler",
}
USER, GROUP = 993, 990
API_PORT, EMULATOR_PORT = 9001, 8080  # of the Runtime Interface Emulator
INVOKE = "/2015-03-31/functions/function/invocations"

# The kernel then runs every aarch64 program of the user namespace with the emulator. It opens that one now (F).
# https://docs.kernel.org/admin-guide/binfmt-misc.html
REGISTER_AARCH64 = r"""
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
printf '%s' ":qemu-aarch64:M::$magic:$mask:$emulator:F" >/proc/sys/fs/binfmt_misc/register
"""

# The file system of the machine, with other folders at /opt and /var.
MACHINE_ROOT = """
mount -t tmpfs tmpfs "$root"
mkdir "$root/opt" "$root/var" "$root/proc" "$root/tmp"
for path in /* /var/*; do
  case $path in
    /opt | /var | /proc | /tmp | /var/task | /var/lang) ;;
    *)
      if [ -L "$path" ]; then
        cp -P "$path" "$root$path"
      elif [ -d "$path" ]; then
        mkdir "$root$path"
        mount --rbind "$path" "$root$path"
      fi ;;
  esac
done
"""

# A prepared root file system, with the devices that programs need.
OTHER_ROOT = """
mount --bind "$source" "$root"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in full null random urandom zero; do
  : >"$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
ln -s /proc/self/fd "$root/dev/fd"
"""

# Arguments: an empty folder, the source of the root file system, the emulator; pairs of a path and its place; `--`; and
# options of unshare with the command. A missing place is created, so in a copy of the machine's root it must be at the
# top or below /opt or /var. nosuid and nodev: a user namespace may not remove them from a mount that has them.
ENTER = """
set -eu
PATH=$PATH:/usr/sbin:/sbin
root=$1 source=$2 emulator=$3
shift 3
{prepare}
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
while [ "$1" != -- ]; do
  [ -e "$root$2" ] || if [ -d "$1" ]; then mkdir -p "$root$2"; else : >"$root$2"; fi
  mount --bind "$1" "$root$2"
  mount -o remount,ro,bind,nosuid,nodev "$root$2"
  shift 2
done
shift
mount -o remount,ro,bind,nosuid,nodev "$root"
exec unshare --root "$root" --wd /var/task "$@"
"""


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a layer with its modes, like the service."""
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            path = Path(opened.extract(entry, folder))
            path.chmod(entry.external_attr >> 16 & 0o777)
    return folder


@dataclass(frozen=True)
class Root:
    """A root file system: a folder, or None for one like the machine's; and the emulator that its programs need."""

    folder: Path | None = None
    emulator: Path | None = None

    @property
    def in_user_namespace(self) -> bool:
        """Whether a user namespace is needed: for ordinary users, and for the registration of the emulator."""
        return os.geteuid() != 0 or self.emulator is not None


class Namespaces:
    """New namespaces. They end with the command that runs in them, or with `close`."""

    def __init__(self, root: Root, stderr: IO[bytes] | None = None) -> None:
        self.root = root
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(WAIT)
        options = ["--user", "--map-root-user"] if root.in_user_namespace else []
        with theirs:
            self.process = subprocess.Popen(
                [*UNSHARE, *options, sys.executable, "-I", NAMESPACE_INIT, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def socket(self) -> socket.socket:
        """Return a TCP socket in that network."""
        self._channel.send(b"socket")
        _, descriptors, _, _ = socket.recv_fds(self._channel, 16, 1)
        return socket.socket(fileno=descriptors[0])

    def listen(self, port: int) -> socket.socket:
        listener = self.socket()
        listener.bind(("127.0.0.1", port))
        listener.listen()
        return listener

    def connect(self, port: int) -> socket.socket:
        """Return a connection. Raises ConnectionRefusedError while nothing listens on the port."""
        connection = self.socket()
        try:
            connection.settimeout(WAIT)
            connection.connect(("127.0.0.1", port))
        except OSError:
            connection.close()
            raise
        return connection

    def run(
        self,
        command: list[str],
        environment: Mapping[str, str],
        mounts: Mapping[str, Path],
        stdout: IO[bytes],
        stderr: IO[bytes],
        as_root: bool = False,
    ) -> None:
        """Start the command in the root file system, with this environment alone; `mounts` are by their place in it."""
        source, emulator = self.root.folder or "", self.root.emulator or ""
        prepare = (REGISTER_AARCH64 if emulator else "") + (OTHER_ROOT if source else MACHINE_ROOT)
        # A user namespace has one user. A second namespace gives that one another number.
        user = [f"--map-user={USER}", f"--map-group={GROUP}"] if self.root.in_user_namespace else []
        user = [] if as_root else user or [f"--setuid={USER}", f"--setgid={GROUP}"]
        arguments = [tempfile.mkdtemp(prefix="root-", dir=Path(stdout.name).parent), source, emulator]
        pairs = [str(each) for target, path in mounts.items() for each in (path, target)]
        variables = [f"{name}={value}" for name, value in environment.items()]
        enter = ["sh", "-c", ENTER.format(prepare=prepare), "sh", *map(str, arguments), *pairs, "--"]
        message = json.dumps([*enter, *user, "/usr/bin/env", "-i", *variables, *command]).encode()
        socket.send_fds(self._channel, [message], [stdout.fileno(), stderr.fileno()])

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # ends all processes of the pid namespace
        self.process.wait(WAIT)
        self._channel.close()


def unavailable_reason(root: Root) -> str | None:
    """Return why the root file system cannot be used here, or None."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return "there is no unshare on PATH"
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w+b") as log:
        namespaces = Namespaces(root, log)
        with contextlib.suppress(OSError):  # it has ended, and its log contains the reason
            namespaces.run(["/bin/true"], {}, {"/var/task": Path(folder)}, log, log)
        try:
            status = namespaces.process.wait(WAIT)
        finally:
            namespaces.close()
        output = " ".join(Path(log.name).read_text(errors="replace").split()) or f"status {status}"
        return f"the system does not allow namespaces with a root file system: {output}" if status else None


def find_emulator() -> Path:
    """Return AWS's Runtime Interface Emulator, which is part of `aws-sam-cli`, or skip the test."""
    package = importlib.util.find_spec("samcli")
    if package is None or package.origin is None:
        pytest.skip("aws-sam-cli, which the Runtime Interface Emulator comes with, is not installed")
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    program = Path(package.origin).parent / "local" / "rapid" / f"aws-lambda-rie-{architecture}"
    if sys.platform != "linux" or not program.is_file():
        pytest.skip(f"aws-sam-cli has no Runtime Interface Emulator for {sys.platform} on {platform.machine()}")
    return program


class IsolatedFunctionProcess(function_process.FunctionProcess):
    """The process of a function in a root file system. The test is its Runtime API.

    Args:
        mounts: paths that are mounted read-only, by their place.
        Others: see `function_process.FunctionProcess`.
    """

    def __init__(
        self,
        root: Root,
        layer: Path,
        folder: Path,
        code: str | dict[str, str],
        variables: Mapping[str, str | None] | None = None,
        mounts: Mapping[str, Path] | None = None,
    ) -> None:
        self.namespaces = Namespaces(root)
        self._mounts = {"/opt": layer, **(mounts or {})}
        super().__init__(layer, folder, code, {**ENVIRONMENT, **(variables or {})}, command=["/opt/bootstrap"])

    def listen(self, host: str) -> socket.socket:
        return self.namespaces.listen(API_PORT)

    def start(
        self, command: list[str], environment: dict[str, str], stdout: IO[bytes], stderr: IO[bytes], *_: object
    ) -> subprocess.Popen[bytes]:
        self.namespaces.run(command, environment, {**self._mounts, "/var/task": self.task}, stdout, stderr)
        return self.namespaces.process

    def is_gone(self) -> bool:
        return False  # it is in the process group of the namespaces

    def end(self) -> None:
        super().end()
        self.namespaces.close()


class EmulatedFunction:
    """A function in a root file system under AWS's Runtime Interface Emulator.

    Args:
        program: the emulator.
        environment: of the emulator, which passes it to the function.
        command: what the emulator starts, and the name of the handler.
        options: of the emulator.
        as_root: the variant for managed instances changes the user itself.
    """

    def __init__(
        self,
        program: Path,
        root: Root,
        folder: Path,
        mounts: Mapping[str, Path],
        environment: Mapping[str, str],
        command: tuple[str, ...] = ("/opt/bootstrap", "lambda_function.handler"),
        options: tuple[str, ...] = (),
        as_root: bool = False,
    ) -> None:
        self._log = folder / "lambda.log"
        self.namespaces = Namespaces(root)
        place = "/aws-lambda-rie"
        with self._log.open("wb") as log:
            mounts = {**mounts, place: program}
            self.namespaces.run([place, *options, *command], environment, mounts, log, log, as_root)
        until(self._is_listening)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def invoke(self, event: object) -> tuple[int, bytes]:
        """Return the status and the body."""
        status, _, body = self.request(event)
        return status, body

    def request(self, event: object) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the header fields by lower-case name, and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", EMULATOR_PORT, timeout=WAIT)
        connection.sock = self.namespaces.connect(EMULATOR_PORT)
        try:
            connection.request("POST", INVOKE, json.dumps(event), {"Content-Type": "application/json"})
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read()
        finally:
            connection.close()

    def close(self) -> None:
        self.namespaces.close()

    def _is_listening(self) -> bool:
        assert self.namespaces.process.poll() is None, self.log
        try:
            self.namespaces.connect(EMULATOR_PORT).close()
        except OSError:  # nothing listens yet, or the emulator has just ended
            return False
        return True
