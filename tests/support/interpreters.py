"""The interpreters of this machine that can take the place of a managed runtime's."""

from __future__ import annotations

import functools
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import python_stand_ins
from support.python_stand_ins import PREVIEW, VERSIONS

__all__ = ["PREVIEW", "VERSIONS", "Interpreter", "find", "require"]


@dataclass(frozen=True)
class Interpreter:
    """An interpreter with a folder of its own, laid out like `/var/lang`.

    Attributes:
        version: such as 3.13.
        release: such as 3.13.0.
        prefix: the folder.
    """

    version: str
    release: str
    prefix: Path

    @property
    def program(self) -> str:
        return str(self.prefix / "bin" / f"python{self.version}")

    @property
    def mounts(self) -> dict[str, Path]:
        """What is mounted in the root file system of a managed runtime, by its place."""
        program = self.prefix / python_stand_ins.MANAGED / f"python{self.version}"
        return {"/var/lang": self.prefix, **({f"/var/lang/bin/{program.name}": program} if program.exists() else {})}

    @property
    def dependencies(self) -> str:
        """The folder of dependency layers for this version."""
        return f"/opt/python/lib/python{self.version}/site-packages"


@functools.cache
def find(version: str) -> Interpreter | None:
    prefix = python_stand_ins.has_own_folder(version) or python_stand_ins.prefix(version)
    if prefix is None:
        return None
    found = Interpreter(version, "", prefix)
    probe = [found.program, "-I", "-c", "import platform; print(platform.python_version())"]
    release = subprocess.run(probe, capture_output=True, text=True, check=True).stdout.strip()
    return Interpreter(version, release, prefix)


def search_path() -> str:
    """Return PATH with the stand-ins at its end, so that a build compiles bytecode for them too."""
    stand_ins = [path for version in VERSIONS if (path := python_stand_ins.prefix(version))]
    return os.pathsep.join([os.environ["PATH"], *(str(path / "bin") for path in stand_ins)])


def require(version: str) -> Interpreter:
    """Return the interpreter, or skip the test."""
    interpreter = find(version)
    if interpreter is None:
        reason = python_stand_ins.reasons().get(version, "run ./build.sh test once, which prepares it")
        pytest.skip(f"there is no CPython {version} with a folder of its own here: {reason}")
    return interpreter
