"""A slim layer, unpacked as under /opt: from this checkout, a zip, a folder or a git revision."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from tools.bench.interpreters import run_command
from tools.common.archives import open_zip
from tools.common.errors import ToolError, UsageError
from tools.common.paths import ROOT, shown

_ZIP = "layer-slim.zip"


def build_layer(checkout: Path, folder: Path) -> Path:
    """Build the layer of a checkout with its own `build.sh`, and unpack it into `folder`/opt.

    Raises:
        ToolError: the build fails.
    """
    run_command(checkout / "build.sh", "-o", folder / "dist", cwd=checkout)
    return unpack_layer(folder / "dist" / _ZIP, folder / "opt")


def unpack_layer(path: Path, folder: Path) -> Path:
    """Unpack a layer zip with its file modes, as AWS Lambda does, and return `folder`.

    Raises:
        ToolError: the file is not a valid zip, or contains no `bootstrap`.
    """
    with open_zip(path, "build it again") as archive:
        for member in archive.files:
            target = folder / member.path
            if not target.resolve().is_relative_to(folder.resolve()):
                raise ToolError(f"{shown(path)} contains the path {member.path}, outside of the layer: build it again")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(member))
            target.chmod(member.mode or 0o644)
    return _checked(folder, shown(path))


def find_layer(name: str, folder: Path) -> Path:
    """Return the unpacked layer that a user names: a zip, a folder as under /opt, or a git revision of this checkout.

    Args:
        folder: receives what has to be unpacked or built.

    Raises:
        UsageError: there is no such file, folder or revision, or it is no layer.
    """
    path = Path(name)
    if path.is_dir():
        return _checked(path.resolve(), name)
    if path.is_file():
        return unpack_layer(path, folder / "opt")
    return build_layer(_export(name, folder / "checkout"), folder)


def _checked(folder: Path, name: str) -> Path:
    if not (folder / "bootstrap").is_file() or not (folder / "runtime.py").is_file():
        raise UsageError(f"{name} is not a layer: it has no bootstrap or no runtime.py at the top level")
    return folder


def _export(revision: str, folder: Path) -> Path:
    """Write the files of a revision to `folder`. The working folder and the index of the checkout stay as they are."""
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", "--end-of-options", f"{revision}^{{commit}}"]
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError as error:
        raise ToolError(f"cannot start git: {error.strerror}; name a layer zip or folder instead") from error
    if result.returncode:
        raise UsageError(f"{revision} is not a layer zip, a folder or a git revision of this checkout")
    with tarfile.open(fileobj=io.BytesIO(result.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder
