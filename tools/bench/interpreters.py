"""A Python to measure, with awslambdaric in a virtual environment."""

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
        environment: the folder of the virtual environment, which `install_awslambdaric` creates.
    """

    path: Path
    version: str
    environment: Path

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

    @property
    def site_packages(self) -> Path:
        """The folder of the virtual environment that contains awslambdaric."""
        major, minor = self.version.split(".")[:2]
        return self.environment / "lib" / f"python{major}.{minor}" / "site-packages"

    def install_awslambdaric(self) -> None:
        """Create the virtual environment, unless it exists.

        Raises:
            ToolError: pip cannot install awslambdaric.
        """
        stamp = self.environment / "stamp"
        text = f"{self.environment}\n{self.path}\n{self.version}\n{REQUIREMENT}\n"
        if stamp.is_file() and stamp.read_text() == text:
            return
        print(f"bench: installing {REQUIREMENT} into {self.environment.relative_to(ROOT)} (once)", file=sys.stderr)
        python = self.environment / "bin" / "python3"
        try:
            run_command(self.path, "-m", "venv", "--clear", self.environment)
            run_command(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT)
        except ToolError as error:
            raise ToolError(f"cannot install {REQUIREMENT} (is a package index reachable?): {error}") from error
        stamp.write_text(text)  # last, so that an interrupted installation is repeated
