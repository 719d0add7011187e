"""What the tests of the packaging share: the manifest of this checkout, the content of zips, the Pythons here."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

from support import python_stand_ins
from support.checkout import ENVIRONMENT, ROOT

MANIFEST = json.loads((ROOT / "layer-manifest.json").read_bytes())
VERSIONS = [name.removeprefix("python") for name in MANIFEST["compatibleRuntimes"]]
THIS_VERSION = "{}.{}".format(*sys.version_info)
MEBIBYTE = 1024 * 1024

FILES = [file["path"] for file in MANIFEST["files"]]
SOURCES = {path: (ROOT / "layer" / path).read_bytes() for path in FILES if path.endswith(".py")}


def pyc(version: str, source: str = "runtime.py") -> str:
    """The path of the bytecode of a source file of the layer."""
    folder, _, name = source.rpartition("/")
    compiled = f"__pycache__/{name.removesuffix('.py')}.cpython-{version.replace('.', '')}.pyc"
    return f"{folder}/{compiled}" if folder else compiled


def pycs(version: str) -> list[str]:
    return [pyc(version, source) for source in SOURCES]


def modes(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as zipped:
        return {info.filename: stat.filemode(info.external_attr >> 16) for info in zipped.infolist()}


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def interpreter(version: str) -> Path | None:
    """Find a Python of `version` that starts: a version of pyenv, one on PATH, or one in .venv/pythons."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = shutil.which(f"python{version}", path=ENVIRONMENT["PATH"])
    stand_in = python_stand_ins.prefix(version)
    candidates = [*pyenv.glob(f"versions/{version}.*/bin/python3"), *([Path(on_path)] if on_path else [])]
    for candidate in [*candidates, *([stand_in / "bin" / "python3"] if stand_in else [])]:
        check = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
        if subprocess.run([candidate, "-c", check], capture_output=True).returncode == 0:
            return candidate
    return None


class Pythons:
    """A folder with the supported Pythons of this machine as python3.X, for the start of PATH."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.path = f"{folder}:{ENVIRONMENT['PATH']}"
        found = {version: interpreter(version) for version in VERSIONS}
        self.versions = [version for version, path in found.items() if path]
        for version in self.versions:
            self[version].symlink_to(found[version])

    def __getitem__(self, version: str) -> Path:
        return self.folder / f"python{version}"

    def run(self, version: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self[version], *words], env=ENVIRONMENT, capture_output=True, text=True)
