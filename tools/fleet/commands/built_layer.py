"""The zips that are to be published."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools.common.archives import open_zip
from tools.common.output import remark
from tools.common.paths import ROOT, read, shown
from tools.fleet import FleetError
from tools.packaging.manifest import Manifest, Variant

_SMALL = 1_000_000


@dataclass(frozen=True)
class Zip:
    """A built layer."""

    variant: Variant
    data: bytes

    @property
    def sha256(self) -> str:
        """In hexadecimal, as in SHA256SUMS."""
        return hashlib.sha256(self.data).hexdigest()


def built(variant: Variant, manifest: Manifest, output: Path, dry_run: bool) -> Zip:
    """Read the zip of ``variant`` from the folder ``output``; the slim one is built where it is not there.

    Args:
        dry_run: nothing is written, so that it is built elsewhere.

    Raises:
        FleetError: it is not there, is of other sources, or is none that AWS Lambda takes.
    """
    return Zip(variant, _checked(variant, manifest, _read(variant, variant == manifest.slim, output, dry_run)))


def _read(variant: Variant, is_slim: bool, output: Path, dry_run: bool) -> bytes:
    path = output / variant.zip_name
    if path.is_file():
        return read(path)
    if not is_slim:
        python, _, architecture = variant.name.removeprefix("python").partition("-")
        command = f"./build.sh layer --python {python} --arch {architecture}"
        raise FleetError(f"{shown(path)} is missing: run {command}, and repeat")
    if not dry_run:
        _build(output)
        remark(f"built {shown(path)}")
        return read(path)
    with tempfile.TemporaryDirectory() as folder:
        _build(Path(folder) / "dist")
        return read(Path(folder) / "dist" / variant.zip_name)


def _build(output: Path) -> None:
    command = [sys.executable, "-P", "-S", "-X", "utf8", "-m", "tools.packaging", "-o", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode:
        raise FleetError(result.stderr.removeprefix("build.sh: error: ").strip() or "the layer could not be built")


def _checked(variant: Variant, manifest: Manifest, data: bytes) -> bytes:
    """Refuse a zip that AWS Lambda would, and one of another version; tell where the sources have moved on since."""
    files = _files(variant.zip_name, data)
    if f'VERSION = "{manifest.version}"'.encode() not in files.get("runtime.py", b""):
        raise FleetError(f"{variant.zip_name} is not of version {manifest.version}: run ./build.sh, and repeat")
    for file in manifest.files:
        if files.get(file.path) != read(ROOT / "layer" / file.path):
            remark(f"{variant.zip_name} holds another {file.path} than layer/ does now: ./build.sh builds it anew")
    return data


def _files(name: str, data: bytes) -> dict[str, bytes]:
    """Return the small files of a zip, which include those of the layer itself, by path."""
    with open_zip(data, "build it again with ./build.sh", name) as archive:
        archive.check_size()
        return {member.path: archive.read(member) for member in archive.files if member.size < _SMALL}
