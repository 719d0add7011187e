"""The built zips that `publish` sends."""

from __future__ import annotations

import hashlib
import posixpath
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tools.common.archives import open_zip
from tools.common.errors import ToolError
from tools.common.paths import read, shown
from tools.fleet.checks.bundles import Bundle
from tools.fleet.commands.interface import Context
from tools.packaging import build_process
from tools.packaging.interpreter.compatibility import PREFIX
from tools.packaging.manifest import Manifest, Variant, library_versions
from tools.packaging.release.libraries import linked
from tools.packaging.zips.output import INTERPRETERS_NAME

_CPYTHON = f"{posixpath.basename(PREFIX)}/"
_PROGRAM = re.compile(r"/bin/|\.so\b")
_SMALL_BYTES = 1_000_000  # more than any file of the layer itself has


@dataclass(frozen=True)
class BuiltLayer:
    """The zip of a variant.

    Args:
        bundled: the CPython in it and the name of its build, as in `INTERPRETERS`; empty if unknown.
    """

    variant: Variant
    data: bytes
    bundled: str = ""

    @property
    def sha256(self) -> str:
        """SHA-256 in hexadecimal, as in `SHA256SUMS`."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def libraries(self) -> str:
        """The libraries in the bundled CPython, as in `Published.libraries`; empty for the slim layer."""
        with open_zip(self.data, "build it again with ./build.sh", self.variant.zip_name) as archive:
            files = {
                member.path.removeprefix(_CPYTHON): archive.read(member)
                for member in archive.files
                if member.path.startswith(_CPYTHON) and _PROGRAM.search(member.path)
            }
        python = self.variant.name.removeprefix("python").partition("-")[0]
        found = linked(files, python, is_standalone=False) if files else ()
        return ", ".join(f"{each.library.name} {each.version}" for each in found if each.version)

    @property
    def description(self) -> str:
        """What the description of the layer version states about the bundle; empty if that is not known."""
        return str(Bundle.recorded(self.bundled, library_versions(self.libraries)) or "")


def read_layer(context: Context, variant: Variant, folder: Path, dry_run: bool) -> BuiltLayer:
    """Read the zip of `variant` from `folder`; build the slim one if it is missing.

    Args:
        dry_run: build in a temporary folder.

    Raises:
        ToolError: the zip is missing, not valid, or of another version.
    """
    data = _read(context, variant, folder, dry_run)
    _check(context.manifest, context.root, variant, data, context.output.note)
    return BuiltLayer(variant, data, _bundled(folder, variant))


def _bundled(folder: Path, variant: Variant) -> str:
    """Return what the build has recorded about the CPython in the zip, without the hash of its archive."""
    path = folder / INTERPRETERS_NAME
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    start = f"{variant.zip_name}  bundled  "
    return next((line.removeprefix(start).split(", sha256 ")[0] for line in lines if line.startswith(start)), "")


def _read(context: Context, variant: Variant, folder: Path, dry_run: bool) -> bytes:
    path = folder / variant.zip_name
    if path.is_file():
        return read(path)
    if variant != context.manifest.slim:
        python, _, architecture = variant.name.removeprefix("python").partition("-")
        command = f"./build.sh layer --python {python} --arch {architecture}"
        raise ToolError(f"{shown(path)} is missing: run {command}, and repeat the command")
    if not dry_run:
        _build(context, folder)
        context.output.note(f"built {shown(path)}")
        return read(path)
    with tempfile.TemporaryDirectory(prefix="publish-") as temporary:
        _build(context, Path(temporary) / "dist", lambda: shutil.rmtree(temporary, ignore_errors=True))
        return read(Path(temporary) / "dist" / variant.zip_name)


def _build(context: Context, folder: Path, cleanup: Callable[[], None] = lambda: None) -> None:
    """Build in a process of its own.

    Args:
        cleanup: called after the build if a signal ends this process, which then does not wait for its threads.
    """
    ending = context.environment.ending
    with build_process.start(context.root, [], folder) as build:

        def end() -> None:
            build.terminate()
            build.wait()
            cleanup()

        ending.before_end(end)
        errors = build.communicate()[1]
    if ending.is_requested:
        raise KeyboardInterrupt
    if build.returncode:
        raise ToolError(errors.removeprefix("build.sh: error: ").strip() or "the layer could not be built")


def _check(manifest: Manifest, root: Path, variant: Variant, data: bytes, note: Callable[[str], None]) -> None:
    """Refuse a zip of another version; note files that have changed since it was built."""
    files = _small_files(variant.zip_name, data)
    if f'VERSION = "{manifest.version}"'.encode() not in files.get("runtime.py", b""):
        raise ToolError(
            f"{variant.zip_name} is not of version {manifest.version}: run ./build.sh, and repeat the command"
        )
    for file in manifest.files:
        if files.get(file.path) != read(root / "layer" / file.path):
            note(f"layer/{file.path} has changed since {variant.zip_name} was built: ./build.sh builds it again")


def _small_files(name: str, data: bytes) -> dict[str, bytes]:
    with open_zip(data, "build it again with ./build.sh", name) as archive:
        archive.check_size()
        return {member.path: archive.read(member) for member in archive.files if member.size < _SMALL_BYTES}
