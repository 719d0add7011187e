"""Updates the pinned interpreters of `layer-manifest.json`.

The versions come from the package pbs-installer, whose `versions.json` lists the archives of python-build-standalone
with their hashes. So the hash comes from another source than the download that it must match.
"""

import json
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.common.archives import open_zip
from tools.common.lambda_facts import ARCHITECTURE_OF_MACHINE
from tools.common.paths import read, shown, write_atomically
from tools.common.urls import redact
from tools.packaging import PackagingError
from tools.packaging.manifest import FILE_NAME, Pin, parse
from tools.packaging.manifest_edit import with_pins

_PACKAGE = "pbs-installer"
_LISTING = "pbs_installer/versions.json"

# The stripped archives for glibc. Not x86_64_v2 or later: AWS does not document the CPUs of Lambda.
_ARCHIVE = re.compile(
    r"cpython-(?P<version>(?P<python>3\.\d+)\.(?P<patch>\d+))\+(?P<release>\d{8})"
    r"-(?P<machine>x86_64|aarch64)-unknown-linux-gnu-install_only_stripped\.tar\.gz"
)


def refresh(path: Path, listing: Path | None, dry_run: bool) -> list[str]:
    """Pin the newest release of each Python that the manifest at `path` pins, and return a line about each.

    Args:
        listing: a `versions.json` of pbs-installer (None: pip fetches the newest version of the package).

    Raises:
        ToolError: the listing cannot be fetched or parsed, or lacks a pinned Python; or the manifest cannot be written.
    """
    text = read(path)
    manifest = parse(text)
    name, data = (shown(listing), read(listing)) if listing else (_LISTING, _fetched())
    newest = _newest(_parsed(name, data))
    pins = [_renewed(pin, newest) for pin in manifest.pins]
    changed = with_pins(text.decode(), pins).encode()
    if not dry_run and changed != text:
        write_atomically(path, changed, stat.S_IMODE(path.stat().st_mode))
    return [_line(old, new) for old, new in zip(manifest.pins, pins, strict=True)]


def _fetched() -> bytes:
    with tempfile.TemporaryDirectory(prefix="pbs-installer-") as folder:
        command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:"]
        environment = {**os.environ, "TMPDIR": folder}  # a signal kills pip, which then leaves its temporary folders
        result = subprocess.run([*command, "--dest", folder, _PACKAGE], env=environment, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode or not wheels:
            reason = result.stderr.strip().rpartition("\n")[2] or f"status {result.returncode}"
            raise PackagingError(
                f"pip could not fetch {_PACKAGE}: {redact(reason)}; fetch it another way and use its "
                "versions.json with --versions"
            )
        with open_zip(wheels[0], "use a versions.json with --versions", wheels[0].name) as wheel:
            listing = wheel.read_path(_LISTING)
        if listing is None:
            raise PackagingError(f"{wheels[0].name} contains no {_LISTING}: use one with --versions")
        return listing


def _parsed(name: str, listing: bytes) -> Iterator[Pin]:
    """Yield every archive in the listing that a layer can contain; raises `PackagingError` if it is not a listing."""
    try:
        for entry in json.loads(listing):
            if not entry["python_version"]["freethreaded"]:
                yield from _archives(entry["files"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PackagingError(f"{name} is not the versions.json of pbs-installer: {error!r}") from error


def _archives(files: list[dict[str, Any]]) -> Iterator[Pin]:
    for file in files:
        if match := _ARCHIVE.fullmatch(file["filename"]):
            yield Pin(
                python=match["python"],
                architecture=ARCHITECTURE_OF_MACHINE[match["machine"]],
                version=match["version"],
                release=match["release"],
                url=file["url"],
                sha256=file["sha256"],
            )


def _newest(pins: Iterator[Pin]) -> dict[tuple[str, str], Pin]:
    newest: dict[tuple[str, str], Pin] = {}
    for pin in pins:
        known = newest.get((pin.python, pin.architecture))
        if known is None or _age(known) < _age(pin):
            newest[pin.python, pin.architecture] = pin
    return newest


def _age(pin: Pin) -> tuple[int, str]:
    return int(pin.version.rpartition(".")[2]), pin.release


def _renewed(pin: Pin, newest: dict[tuple[str, str], Pin]) -> Pin:
    found = newest.get((pin.python, pin.architecture))
    if found is None:
        raise PackagingError(
            f"versions.json contains no Python {pin.python} for {pin.architecture}: {_PACKAGE} no longer lists it; "
            f"remove the pin from {FILE_NAME}"
        )
    return found if _age(found) > _age(pin) else pin


def _line(old: Pin, new: Pin) -> str:
    name = f"{old.python} {old.architecture:6}"
    if old == new:
        return f"{name}  {old.version} of {old.release} is the newest"
    return f"{name}  {old.version} of {old.release} becomes {new.version} of {new.release}"
