"""A Runtime API that vanishes without closing its connection, in a network namespace whose loopback device goes down.

With the times of the layer this takes more than a minute: the kernel sends the first probe after 60 seconds without
traffic (tcp(7)). So only a long run waits for them. In the other runs, the test reads the times from the socket of the
function, and then makes them shorter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

# Prints the exit status and the log of a function whose Runtime API has vanished while it waits for an invocation.
PROGRAM = '''
import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

from support import function_process
from support.function_process import FunctionProcess

SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # netdevice(7)
PIDFD_GETFD = 438  # the number of the system call on all architectures, pidfd_getfd(2)


def set_loopback(flags: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags))


def socket_of(function: FunctionProcess) -> socket.socket:
    """Return the other end of the connection, in the process of the function."""
    pid = function.process.pid
    process = os.pidfd_open(pid)
    for name in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
            copy = socket.socket(fileno=ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, process, int(name), 0))
            if copy.getsockname() == function.peer.socket.getpeername():
                return copy
    raise AssertionError("the function has no such socket")


function_process.TIMEOUT = 240
set_loopback(IFF_UP)
handler = "def handler(event, context):\\n    yield b'a'\\n"
function = FunctionProcess(Path(sys.argv[1]), Path(sys.argv[2]), handler)
function.expect_next()
if sys.argv[3] == "shorter times":
    with socket_of(function) as connection:
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT) == 2
        for option, time in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
            assert connection.getsockopt(socket.IPPROTO_TCP, option) == time, option
            connection.setsockopt(socket.IPPROTO_TCP, option, 1)
set_loopback(0)
print(function.wait(), function.stderr)
'''


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="a network namespace needs root")
@pytest.mark.long
@pytest.mark.parametrize("times", ["shorter times", "times of the layer"])
def test_the_wait_for_a_vanished_peer_ends_and_that_for_a_silent_one_does_not(runtime, layer, tmp_path, times):
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0:
        pytest.skip("network namespaces are not allowed here")
    handler = """
        def handler(event, context):
            yield b"a"
        """
    silent = runtime(handler)
    silent.expect_next()
    command = ["unshare", "--net", sys.executable, "-c", PROGRAM, str(layer), str(tmp_path / "vanished"), times]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    vanished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert vanished.stdout.startswith("1 "), vanished
    assert "the environment ends" in vanished.stdout
    assert silent.read_response(silent.send_invocation()).chunks == [b"a"]
