"""`--api-only` and `--debug`: a function under a debugger."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.common.errors import ToolError
from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.sandbox.supervisor_client import remove_folder

PLAIN = re.compile(r"[A-Za-z0-9_./:,@%+=\[\]$-]*")  # values that need no quotes in an env file


class StableFolder:
    """A folder at the same path in each run: an editor's configuration can name the files in it.

    The path contains the user's number, because other users can write to the folder above it. It is removed at the end.

    Args:
        temporary: the folder for temporary files.
        name: of the function.
        port: of the emulator; two of them can run at the same time.

    Raises ToolError if another process uses it, or if it belongs to somebody else.
    """

    def __init__(self, temporary: Path, name: str, port: int) -> None:
        self.path = temporary / f"python-streaming-runtime-{os.getuid()}-{name}-{port}"
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            status = os.fstat(self._descriptor)
            if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
                raise ToolError(f"{self.path} belongs to somebody else; remove it, or set TMPDIR to another folder")
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for entry in self.path.iterdir():
                remove_folder(entry)
        except BlockingIOError:
            raise ToolError(f"another main.py --api-only uses {self.path}; choose another port with --port") from None
        except OSError as error:
            raise ToolError(f"cannot make {self.path}: {error.strerror}; set TMPDIR to another folder") from None

    def remove(self) -> None:
        remove_folder(self.path)


def env_file_lines(variables: Mapping[str, str]) -> Iterator[str]:
    """The variables as lines of an env file, in the quoting of python-dotenv and of editors."""
    for name, value in variables.items():
        if not PLAIN.fullmatch(value):
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            value = f'"{escaped}"'
        yield f"{name}={value}"


def shell_command(configuration: FunctionConfiguration, variables: Mapping[str, str]) -> str:
    """One line for a shell: the runtime with these variables, in the folder of the function."""
    words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    program = shlex.join([configuration.python, "-u", str(configuration.layer / "runtime.py")])
    return f"(cd {shlex.quote(str(configuration.task_root))} && {' '.join(words)} {program})"


def check_debugpy(python: str) -> None:
    """Raises ToolError if an interpreter has no debugpy."""
    command = [python, "-c", "import debugpy"]
    if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode:
        raise ToolError(f"--debug needs debugpy; install it with: {shlex.quote(python)} -m pip install debugpy")
