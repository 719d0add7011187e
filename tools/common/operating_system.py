"""What differs between Linux and macOS, for processes, limits and sockets.

Every difference is here, so that the rest of the tools has one code path. A function that has no equivalent on a system
does nothing there and returns a result that says so; its callers promise only what holds on both.

| | Linux | macOS |
|---|---|---|
| processes that leave their parent | children of a subreaper (prctl(2)) | children of launchd, not found |
| the end of a parent | PR_SET_PDEATHSIG | not reported |
| descendants, peak memory of a running process | /proc | none |
| `ru_maxrss` | KiB | bytes (getrusage(2)) |
| largest RLIMIT_NOFILE | any | OPEN_MAX, 10,240 (setrlimit(2)) |
| `setsockopt` after a reset | succeeds | EINVAL |

It is imported by the supervisor, whose start delays every run: it needs only modules that are loaded anyway.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` takes longer than the rest of this module
    import _socket
    from collections.abc import Callable

LINUX = sys.platform == "linux"
MACOS_OPEN_MAX = 10240  # <sys/syslimits.h>; setrlimit(2) of macOS: larger values are refused
MAX_DESCRIPTORS = 65536
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """Make this process the parent of descendants whose own parent ends. Returns whether the system can do that."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: int) -> bool:
    """Have the kernel send the signal `number` to this process when the *thread* that has made it ends.

    The setting is lost with a change of the user namespace. Returns whether the system can do that.
    """
    return _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> bool:
    if not LINUX:
        return False
    import ctypes  # not needed on other systems

    try:
        return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):  # a libc without it
        return False


def descendants(ancestor: int, proc: str = "/proc") -> list[int]:
    """Return the descendants of a process (proc(5)); none on systems without /proc."""
    children: dict[int, list[int]] = {}
    try:
        names = os.listdir(proc)
    except OSError:
        return []
    for name in names:
        if name.isdigit():
            children.setdefault(_parent_of(f"{proc}/{name}/stat"), []).append(int(name))
    found = [ancestor]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def _parent_of(stat: str) -> int:
    try:
        with open(stat, "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):  # it has ended meanwhile
        return 0


def peak_memory(pid: int, proc: str = "/proc") -> int | None:
    """Return the most memory that a running process had, in KiB; None if the system does not provide it."""
    try:
        with open(f"{proc}/{pid}/status", "rb") as file:  # proc(5), VmHWM
            return next((int(line.split()[1]) for line in file if line.startswith(b"VmHWM:")), None)
    except OSError:
        return None


def peak_kib(maxrss: int, platform: str = sys.platform) -> int:
    """Convert `ru_maxrss` to KiB: on macOS it is in bytes (getrusage(2))."""
    return maxrss // 1024 if platform == "darwin" else maxrss


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors as far as the system allows, and return it.

    On macOS the hard limit is often "unlimited", which setrlimit(2) refuses for this resource.
    """
    import resource  # only servers need it

    return _raise_limit(
        lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
        lambda limits: resource.setrlimit(resource.RLIMIT_NOFILE, limits),
        resource.RLIM_INFINITY,
    )


def _raise_limit(read: Callable[[], tuple[int, int]], write: Callable[[tuple[int, int]], None], unlimited: int) -> int:
    soft, hard = read()
    for wanted in (MAX_DESCRIPTORS, MACOS_OPEN_MAX):
        limit = wanted if hard == unlimited else min(hard, wanted)
        if soft == unlimited or limit <= soft:
            break
        try:
            write((limit, hard))
        except (ValueError, OSError):
            continue
        return limit
    return soft


def send_without_delay(connection: _socket.socket) -> None:
    """Turn off the delay of small segments (TCP_NODELAY, tcp(7)).

    After a reset by the peer macOS raises EINVAL. That is no error here: whoever reads or writes finds the reset.
    """
    import _socket  # a process without connections does not need it

    try:
        connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    except OSError:
        return
