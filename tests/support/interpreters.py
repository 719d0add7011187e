"""The interpreters of this machine that can take the place of a managed runtime's."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.packaging import PackagingError
from tools.packaging.zips import pythons

VERSIONS = ["3.11", "3.12", "3.13", "3.14"]


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
    def dependencies(self) -> str:
        """The folder of dependency layers for this version."""
        return f"/opt/python/lib/python{self.version}/site-packages"


@functools.cache
def find(version: str) -> Interpreter | None:
    try:
        path = pythons.find(version).path
    except PackagingError:
        return None
    probe = "import platform, sys; print(platform.python_version(), sys.base_prefix)"
    done = subprocess.run([path, "-I", "-c", probe], capture_output=True, text=True, check=True)
    release, prefix = done.stdout.strip().split(" ", 1)
    own = [Path(prefix, "bin", f"python{version}"), Path(prefix, "lib", f"python{version}", "site-packages")]
    return Interpreter(version, release, Path(prefix)) if all(each.exists() for each in own) else None


def require(version: str) -> Interpreter:
    """Return the interpreter, or skip the test."""
    interpreter = find(version)
    if interpreter is None:
        pytest.skip(f"there is no CPython {version} with a folder of its own here")
    return interpreter
