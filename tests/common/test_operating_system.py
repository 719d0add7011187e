"""The differences between Linux and macOS, each with a stand-in for the call that is missing or different there."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tools.common import operating_system

UNLIMITED = 2**63 - 1


class Limits:
    """RLIMIT_NOFILE of a system that refuses values above `largest`."""

    def __init__(self, soft: int, hard: int, largest: int = UNLIMITED) -> None:
        self.limits = (soft, hard)
        self.largest = largest

    def write(self, limits: tuple[int, int]) -> None:
        soft, hard = limits
        if soft > self.largest:
            raise ValueError("current limit exceeds maximum limit")
        if hard != self.limits[1]:
            raise PermissionError(errno.EPERM, "not permitted")
        self.limits = limits

    def raise_limit(self) -> int:
        return operating_system._raise_limit(lambda: self.limits, self.write, UNLIMITED)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param(Limits(1024, 1048576), 65536, id="Linux"),
        pytest.param(Limits(1024, 4096), 4096, id="a low hard limit"),
        pytest.param(Limits(256, UNLIMITED), 65536, id="no hard limit"),
        pytest.param(Limits(256, UNLIMITED, 10240), 10240, id="macOS"),
        pytest.param(Limits(256, UNLIMITED, 1000), 256, id="a system that refuses both"),
        pytest.param(Limits(100000, 1048576), 100000, id="a higher soft limit"),
        pytest.param(Limits(20000, UNLIMITED, 10240), 20000, id="a soft limit between the two"),
        pytest.param(Limits(UNLIMITED, UNLIMITED), UNLIMITED, id="no soft limit"),
    ],
)
def test_the_limit_of_descriptors_is_raised_as_far_as_the_system_allows(limits: Limits, expected: int) -> None:
    assert limits.raise_limit() == expected
    assert limits.limits[0] == expected


def test_the_limit_of_this_system_can_be_raised() -> None:
    program = "from tools.common.operating_system import raise_descriptor_limit; print(raise_descriptor_limit())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(result.stdout) >= 1024


def test_peak_memory_is_in_kib_on_both_systems() -> None:
    assert operating_system.peak_kib(5120, "linux") == 5120
    assert operating_system.peak_kib(5 * 1024 * 1024, "darwin") == 5120


def test_without_proc_there_are_no_descendants_and_no_peak_memory(tmp_path: Path) -> None:
    missing = str(tmp_path / "proc")
    assert operating_system.descendants(os.getpid(), missing) == []
    assert operating_system.peak_memory(os.getpid(), missing) is None


def test_descendants_are_found_through_their_parents(tmp_path: Path) -> None:
    parents = {10: 1, 11: 10, 12: 11, 13: 10, 20: 1}
    for pid, parent in parents.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a ) name) S {parent} 1 1")
    (tmp_path / "self").mkdir()
    (tmp_path / "30").mkdir()  # it has ended meanwhile
    assert sorted(operating_system.descendants(10, str(tmp_path))) == [11, 12, 13]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")
def test_linux_has_subreapers_and_the_end_of_a_parent_and_peak_memory() -> None:
    program = """
import os, signal
from tools.common.operating_system import adopt_orphans, descendants, die_with_parent, peak_memory
print(adopt_orphans(), die_with_parent(signal.SIGKILL), descendants(os.getpid()), peak_memory(os.getpid()) > 1000)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "True True [] True\n"


def test_other_systems_have_neither() -> None:
    program = """
import sys
sys.platform = "darwin"
from tools.common.operating_system import adopt_orphans, die_with_parent
print(adopt_orphans(), die_with_parent(9))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "False False\n"


class Reset:
    """A socket on macOS whose peer has reset the connection."""

    def setsockopt(self, *arguments: int) -> None:
        raise OSError(errno.EINVAL, "invalid argument")


def test_a_connection_that_was_reset_is_no_error() -> None:
    operating_system.send_without_delay(Reset())  # type: ignore[arg-type]


def test_small_segments_are_sent_without_delay() -> None:
    with socket.socket() as connection:
        operating_system.send_without_delay(connection)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
