"""The programs that a benchmark needs, made on the spot: the built layer, the C programs, awslambdaric."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.bench import HERE, BenchError
from tools.common.archives import open_zip
from tools.common.paths import ROOT

REQUIREMENT = "awslambdaric==4.2.2"
OLDEST = (3, 11)
_ABOUT = "import platform, sys; print(sys.executable, platform.python_version(), sep='\\n')"


def run(*command: str | Path) -> None:
    """Run a command; raises BenchError, with the last line that it wrote, where it fails."""
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise BenchError(f"{command[0]} could not be started: {error.strerror}") from error
    if result.returncode:
        lines = (result.stderr.strip() or result.stdout.strip()).splitlines() or ["it said nothing"]
        raise BenchError(f"{command[0]} failed: {lines[-1]}")


def build_layer(folder: Path) -> Path:
    """Build the slim layer and unpack it as AWS Lambda does, modes and all. Returns the place of /opt."""
    run(ROOT / "build.sh", "-o", folder / "dist")
    unpacked = folder / "opt"
    with open_zip(folder / "dist" / "layer-slim.zip", "build it again") as archive:
        for member in archive.files:
            path = unpacked / member.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(member))
            path.chmod(member.mode or 0o644)
    return unpacked


def compile_c(name: str, folder: Path) -> Path:
    """Compile one of the C files here. Raises BenchError where there is no compiler, or it refuses."""
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        raise BenchError(f"no C compiler ({compiler[0]} is not on PATH)")
    program = folder / name
    run(*compiler, "-O2", "-o", program, HERE / f"{name}.c")
    return program


@dataclass(frozen=True)
class Interpreter:
    """A Python to measure, with awslambdaric in an environment of its own.

    Args:
        path: the interpreter itself.
        environment: the virtual environment that is made from it.
    """

    path: Path
    version: str
    environment: Path

    @classmethod
    def at(cls, path: str) -> Interpreter:
        """Raises BenchError where that is no Python, or too old a one."""
        try:
            result = subprocess.run([path, "-c", _ABOUT], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        except OSError as error:
            raise BenchError(f"{path} could not be started: {error.strerror}") from error
        executable, _, version = result.stdout.strip().partition("\n")
        numbers = version.split(".")[:2]
        if result.returncode or not all(number.isdecimal() for number in numbers):
            raise BenchError(f"{path} is no Python")
        if tuple(map(int, numbers)) < OLDEST:
            raise BenchError(f"{path} is Python {version}, the layer needs 3.11 or newer")
        digest = hashlib.sha256(executable.encode()).hexdigest()[:8]
        return cls(Path(executable), version, ROOT / ".venv" / "bench" / f"{version}-{digest}")

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.environment / "bin" / "python3"

    @property
    def site_packages(self) -> Path:
        major, minor = self.version.split(".")[:2]
        return self.environment / "lib" / f"python{major}.{minor}" / "site-packages"

    def install_awslambdaric(self) -> None:
        """Make the environment, unless it is there. Raises BenchError where pip cannot do it."""
        stamp = self.environment / "stamp"
        text = f"{self.environment}\n{self.path}\n{self.version}\n{REQUIREMENT}\n"
        if stamp.is_file() and stamp.read_text() == text:
            return
        print(f"bench: installing {REQUIREMENT} into {self.environment.relative_to(ROOT)} (once)", file=sys.stderr)
        try:
            run(self.path, "-m", "venv", "--clear", self.environment)
            run(self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT)
        except BenchError as error:
            raise BenchError(
                f"{REQUIREMENT} could not be installed (is a package index within reach?): {error}"
            ) from error
        stamp.write_text(text)  # last, so that one that was made half-way is made anew
