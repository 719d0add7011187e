"""Run `main.py` on a Linux that lacks what macOS lacks: the emulator's own processes see `sys.platform == "darwin"`.

Replaced in them: no /proc; `shutdown` of a listening socket fails, so it does not wake `accept`; an accepted socket is
non-blocking like its listener; `setsockopt(TCP_NODELAY)` fails with EINVAL; RLIMIT_NOFILE is at most 10,240.
The function's process is not simulated.
"""

from __future__ import annotations

import sys
from pathlib import Path

from support.emulator import ROOT

REPLACEMENTS = """
import builtins, errno, os, socket, sys
import resource

sys.platform = "darwin"

def without_proc(function):
    def replaced(path, *arguments, **options):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(errno.ENOENT, "no /proc", str(path))
        return function(path, *arguments, **options)
    return replaced

os.listdir = without_proc(os.listdir)
builtins.open = without_proc(open)

class Socket(socket.socket):
    def shutdown(self, how):
        if self.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(errno.ENOTCONN, "not connected")
        super().shutdown(how)

    def setsockopt(self, level, name, value):
        if (level, name) == (socket.IPPROTO_TCP, socket.TCP_NODELAY):
            raise OSError(errno.EINVAL, "invalid argument")
        super().setsockopt(level, name, value)

    def accept(self):
        blocking = os.get_blocking(self.fileno())
        descriptor, address = self._accept()
        os.set_blocking(descriptor, blocking)
        return Socket(self.family, self.type, self.proto, fileno=descriptor), address

socket.socket = Socket

set_limit = resource.setrlimit

def setrlimit(kind, limits):
    if kind == resource.RLIMIT_NOFILE and limits[0] > 10240:
        raise ValueError("current limit exceeds maximum limit")
    set_limit(kind, limits)

resource.setrlimit = setrlimit
"""
RUN = """
sys.executable = {interpreter!r}
sys.path.insert(0, {root!r})
del sys.argv[0]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# The interpreter for the supervisor. Every other program gets the real one.
INTERPRETER = """\
#!{real} -S
import os, sys
if "tools.emulator" not in str(sys.argv):
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
{replacements}
program = sys.argv[sys.argv.index("-c") + 1]
sys.argv[:] = ["-c", *sys.argv[sys.argv.index("-c") + 2 :]]
exec(program)
"""


def command(folder: Path) -> tuple[str | Path, ...]:
    """The command line of `main.py`. Args: `folder` is an empty one for the interpreter."""
    interpreter = folder / "python3"
    interpreter.write_text(INTERPRETER.format(real=sys.executable, replacements=REPLACEMENTS))
    interpreter.chmod(0o755)
    run = RUN.format(interpreter=str(interpreter), root=str(ROOT))
    return sys.executable, "-c", REPLACEMENTS + run, ROOT / "main.py"
