"""A Python to measure, and packages for it in virtual environments."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.common.errors import ToolError
from tools.common.paths import ROOT

REQUIREMENT = "awslambdaric==4.2.2"
OLDEST = (3, 11)
_ABOUT = "import platform, sys; print(sys.executable, platform.python_version(), sep='\\n')"


def run_command(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a command.

    Raises:
        ToolError: it fails; the text contains the last line of its output.
    """
    try:
        result = subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        raise ToolError(f"cannot start {command[0]}: {error.strerror}") from error
    if result.returncode:
        lines = (result.stderr.strip() or result.stdout.strip()).splitlines() or ["no output"]
        raise ToolError(f"{command[0]} failed: {lines[-1]}")


@dataclass(frozen=True)
class Interpreter:
    """A Python to measure.

    Args:
        path: the interpreter itself, not a shim of a version manager.
        environments: the folder of its virtual environments, which `packages` creates.
    """

    path: Path
    version: str
    environments: Path

    @classmethod
    def at(cls, path: str) -> Interpreter:
        """Find out the version of an interpreter.

        Raises:
            ToolError: the program is not a Python, or too old.
        """
        try:
            result = subprocess.run([path, "-c", _ABOUT], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        except OSError as error:
            raise ToolError(f"cannot start {path}: {error.strerror}") from error
        executable, _, version = result.stdout.strip().partition("\n")
        numbers = version.split(".")[:2]
        if result.returncode or not all(number.isdecimal() for number in numbers):
            raise ToolError(f"{path} is not a Python interpreter")
        if tuple(map(int, numbers)) < OLDEST:
            raise ToolError(f"{path} is Python {version}; the layer needs 3.11 or newer")
        digest = hashlib.sha256(executable.encode()).hexdigest()[:8]
        return cls(Path(executable), version, ROOT / ".venv" / "bench" / f"{version}-{digest}")

    def packages(self, name: str, *requirements: str) -> Path:
        """Install packages into a virtual environment of their own, unless it exists. Return the folder of packages.

        Raises:
            ToolError: pip cannot install them.
        """
        environment = self.environments / name
        major, minor = self.version.split(".")[:2]
        folder = environment / "lib" / f"python{major}.{minor}" / "site-packages"
        stamp = environment / "stamp"
        text = "\n".join(map(str, (environment, self.path, self.version, *requirements))) + "\n"
        if stamp.is_file() and stamp.read_text() == text:
            return folder
        what = ", ".join(requirements)
        print(f"bench: installing {what} into {environment.relative_to(ROOT)} (once)", file=sys.stderr)
        python = environment / "bin" / "python3"
        try:
            run_command(self.path, "-m", "venv", "--clear", environment)
            run_command(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
        except ToolError as error:
            raise ToolError(f"cannot install {what} (is a package index reachable?): {error}") from error
        stamp.write_text(text)  # last, so that an interrupted installation is repeated
        return folder
