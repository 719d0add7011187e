"""A Runtime API that vanishes without closing its connection, in a network namespace whose loopback device goes down.

This takes more than a minute: the kernel sends the first probe after 60 seconds without traffic (tcp(7)).
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
PROGRAM = """
import fcntl
import socket
import struct
import sys
from pathlib import Path

from support import function_process
from support.function_process import FunctionProcess

SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # netdevice(7)


def set_loopback(flags: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags))


function_process.TIMEOUT = 240
set_loopback(IFF_UP)
handler = "def handler(event, context):\\n    yield b'a'\\n"
function = FunctionProcess(Path(sys.argv[1]), Path(sys.argv[2]), handler)
function.expect_next()
set_loopback(0)
print(function.wait(), function.stderr)
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="a network namespace needs root")
def test_the_wait_for_a_vanished_peer_ends_and_that_for_a_silent_one_does_not(runtime, layer, tmp_path):
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0:
        pytest.skip("network namespaces are not allowed here")
    handler = """
        def handler(event, context):
            yield b"a"
        """
    silent = runtime(handler)
    silent.expect_next()
    command = ["unshare", "--net", sys.executable, "-c", PROGRAM, str(layer), str(tmp_path / "vanished")]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    vanished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert vanished.stdout.startswith("1 "), vanished
    assert "the environment ends" in vanished.stdout
    assert silent.read_response(silent.send_invocation()).chunks == [b"a"]
