"""Checks of the zip of a layer or a function. Nothing here calls AWS.

AWS Lambda unpacks a layer to /opt and a function to /var/task without changes, so their paths, modes and line ends must
be right.
"""

from __future__ import annotations

import posixpath
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.common.archives import Member, open_zip
from tools.common.lambda_facts import MANAGED_PYTHON, MAX_UNPACKED_BYTES, MAX_ZIP_BYTES, OS_ONLY
from tools.common.output import shortened
from tools.fleet.checks.finding import Finding
from tools.fleet.checks.handler_module import check_handler
from tools.packaging.interpreter import elf
from tools.packaging.zips.function import RESERVED_MODULE, replaces_bootstrap, reserved_path

_READ_BY_ALL = 0o444
_RUN_BY_ALL = 0o111
_READ_AND_ENTER_BY_ALL = 0o555
_MAX_NAMES = 3  # in a finding


@dataclass(frozen=True)
class FunctionSettings:
    """The configuration of the function that a zip is for; None if unknown.

    Args:
        importable: the paths of the files of its layers, relative to the folders from which Python imports.
    """

    architecture: str | None = None
    handler: str | None = None
    runtime: str | None = None
    importable: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Contents:
    """The content of a zip.

    Args:
        name: of the zip in messages.
        size: of the zip, in bytes.
        unpacked: the size of its content, in bytes.
        modes: of the files, by path; None if the zip was made by a system without them.
        folders: the modes of the folders, by path.
        files: by path; empty if the content is above the limit.
    """

    name: str
    size: int
    unpacked: int
    modes: dict[str, int | None]
    folders: dict[str, int | None]
    files: dict[str, bytes]

    @property
    def is_layer(self) -> bool:
        """Whether it looks like a layer of this project: it has the two entry files, at the top or one folder below."""
        names = {path.split("/")[-1] for path in self.modes if path.count("/") < 2}
        return {"runtime.py", "bootstrap"} <= names


def read_zip(name: str, source: Path | bytes) -> Contents:
    """Read a zip. If its content is above the limit, nothing is decompressed.

    Raises:
        InvalidZip: it is not a valid zip file.
        ToolError: the file cannot be read.
    """
    with open_zip(source, "build it again", name) as archive:
        is_too_large = archive.unpacked_bytes > MAX_UNPACKED_BYTES
        return Contents(
            name,
            source.stat().st_size if isinstance(source, Path) else len(source),
            archive.unpacked_bytes,
            {_path(member): member.mode for member in archive.files},
            {_path(member): member.mode for member in archive.members if member.is_folder},
            {} if is_too_large else {_path(member): archive.read(member) for member in archive.files},
        )


def _path(member: Member) -> str:
    """Return the path without `./`, which some tools write in front, and which unpacking removes."""
    return posixpath.normpath(member.path) + ("/" if member.is_folder else "")


def check_layer(contents: Contents, architecture: str | None = None) -> Iterator[Finding]:
    """Yield the findings of a layer's zip.

    Args:
        architecture: of the function, if known.
    """
    yield from _sizes(contents)
    if contents.unpacked > MAX_UNPACKED_BYTES:
        return  # the content was not read
    yield from _layout_of_layer(contents)
    yield from _modes(contents, "./build.sh")
    yield from _scripts(contents, "./build.sh")
    yield from _machines(contents, architecture, "./build.sh, and attach the layer of the function's architecture")


def check_function(contents: Contents, settings: FunctionSettings) -> Iterator[Finding]:
    """Yield the findings of a function's zip."""
    yield from _sizes(contents)
    if contents.unpacked > MAX_UNPACKED_BYTES:
        return  # the content was not read
    fix = "./build.sh function FOLDER"
    yield from _names(contents, fix)
    yield from _conflicting_bootstrap(contents, settings.runtime)
    yield from _reserved_module(contents)
    yield from check_handler(contents.name, contents.files, settings.handler, settings.runtime, settings.importable)
    yield from _modes(contents, fix)
    yield from _scripts(contents, fix)
    install = _install_command(settings)
    yield from _machines(contents, settings.architecture, install)
    yield from _extension_modules(contents, settings.runtime, install)


def _names(contents: Contents, fix: str) -> Iterator[Finding]:
    """A backslash is an ordinary character on Linux; some tools for Windows write it between folders."""
    names = [path for path in contents.modes if "\\" in path]
    if names:
        yield Finding(
            f"{contents.name}: {_listed(names)} contains a backslash",
            "it becomes a part of the file name and no folder, so the module cannot be imported",
            fix,
        )


def _layout_of_layer(contents: Contents) -> Iterator[Finding]:
    for name in ("bootstrap", "runtime.py", f"{RESERVED_MODULE}/__init__.py"):
        if name in contents.files:
            continue
        below = [path for path in contents.files if path.endswith(f"/{name}")]
        where = f"is in the folder {below[0].removesuffix(f'/{name}')}" if below else "is missing"
        yield Finding(
            f"{contents.name}: {name} {where}",
            f"AWS Lambda unpacks a layer to /opt and expects /opt/{name}",
            "./build.sh",
        )


def _modes(contents: Contents, fix: str) -> Iterator[Finding]:
    mode = contents.modes.get("bootstrap", _RUN_BY_ALL)
    if mode is None or mode & _RUN_BY_ALL != _RUN_BY_ALL:
        words = "no mode" if mode is None else f"mode {mode:04o}"
        yield Finding(
            f"{contents.name}: bootstrap has {words}, so it cannot be run",
            "the function fails with Runtime.InvalidEntrypoint, or with exit status 126",
            fix,
        )
    unreadable = [
        path for path, mode in contents.modes.items() if mode is not None and mode & _READ_BY_ALL != _READ_BY_ALL
    ]
    if unreadable:
        yield Finding(
            f"{contents.name}: {_listed(unreadable)} cannot be read by all users",
            "functions run as a user that does not own their files: Permission denied",
            fix,
        )
    closed = [
        path
        for path, mode in contents.folders.items()
        if mode is not None and mode & _READ_AND_ENTER_BY_ALL != _READ_AND_ENTER_BY_ALL
    ]
    if closed:
        yield Finding(
            f"{contents.name}: the folder {_listed(closed)} cannot be entered by all users",
            "AWS Lambda rejects the layer, or the function cannot import from the folder",
            fix,
        )


def _scripts(contents: Contents, fix: str) -> Iterator[Finding]:
    for path, data in contents.files.items():
        if path != "bootstrap" and not data.startswith(b"#!"):
            continue
        if data.startswith(elf.MAGIC):
            continue
        first = data.split(b"\n", 1)[0]
        mode = contents.modes[path]
        is_executed = path == "bootstrap" or (mode is not None and mode & _RUN_BY_ALL)
        if is_executed and b"\r\n" in data:
            yield Finding(
                f"{contents.name}: {path} has CRLF line ends",
                "there is no program named /bin/sh\\r, so the script ends with exit status 127",
                f"sed -i 's/\\r$//' {path}, then {fix}",
            )
        if path == "bootstrap" and not first.startswith(b"#!/"):
            yield Finding(
                f"{contents.name}: {path} does not begin with #! and the path of a program",
                "the system cannot run it: the function fails with Runtime.InvalidEntrypoint",
                fix,
            )


def _machines(contents: Contents, architecture: str | None, fix: str) -> Iterator[Finding]:
    by_machine: dict[str, list[str]] = {}
    for path, data in contents.files.items():
        if machine := elf_machine(data):
            by_machine.setdefault(machine, []).append(path)
    for machine, paths in sorted(by_machine.items()):
        if architecture and machine != architecture:
            yield Finding(
                f"{contents.name}: {_listed(paths)} is for {machine}, the function runs on {architecture}",
                "the processor cannot run it: an exec format error, or a failing import",
                fix,
            )
    if not architecture and len(by_machine) > 1:
        yield Finding(
            f"{contents.name} contains programs for {' and '.join(sorted(by_machine))}",
            "a function runs on one of them, so the programs for the other fail",
            fix,
        )


def _install_command(settings: FunctionSettings) -> str:
    """Return the command that installs packages for the function."""
    machine = {"arm64": "aarch64"}.get(settings.architecture or "", "x86_64")
    runtime = settings.runtime or ""
    version = f" --python-version {runtime.removeprefix('python')}" if runtime.startswith(MANAGED_PYTHON) else ""
    return (
        f"python3 -m pip install --platform manylinux2014_{machine}{version} --only-binary=:all: "
        "--target FOLDER -r requirements.txt"
    )


# Names of extension modules: PEP 3149, and `sysconfig.get_config_var("EXT_SUFFIX")` of each platform.
_EXTENSION = re.compile(r".*\.cpython-(?P<digits>[0-9]+)[a-z]*(-(?P<platform>[^/]*))?\.so")


def _extension_modules(contents: Contents, runtime: str | None, fix: str) -> Iterator[Finding]:
    """Yield findings about modules that the function's Python does not import, because of their names."""
    python = runtime.removeprefix("python").replace(".", "") if runtime and runtime.startswith("python3.") else ""
    reasons: dict[str, list[str]] = {}
    # A package can contain a module for several Pythons; one that fits is enough.
    usable = {path.partition(".")[0] for path in contents.modes if path.endswith(".so") and not _unusable(path, python)}
    for path in contents.modes:
        if path.partition(".")[0] not in usable and (reason := _unusable(path, python)):
            reasons.setdefault(reason, []).append(path)
    for reason, paths in sorted(reasons.items()):
        yield Finding(
            f"{contents.name}: {_listed(paths)} is for {reason}",
            "Python does not find the module: the import fails",
            fix,
        )


def _unusable(path: str, python: str) -> str:
    """Return what an extension module is for, if that is not Python `python`, such as 313, on Linux with glibc."""
    if path.endswith((".pyd", ".dylib")):
        return "Windows" if path.endswith(".pyd") else "macOS"
    match = _EXTENSION.fullmatch(path)
    if not match:
        return ""
    platform = match["platform"] or ""
    if "darwin" in path.rpartition("/")[2]:
        return "macOS"
    if "musl" in platform:
        return "Linux with musl, and the function runs on glibc"
    digits = match["digits"]
    return f"Python {digits[0]}.{digits[1:]}" if python and digits != python else ""


def elf_machine(data: bytes) -> str:
    """Return the architecture of an ELF file; an empty string if `data` is not one."""
    if not data.startswith(elf.MAGIC) or len(data) < 20:
        return ""
    (machine,) = struct.unpack_from("<H" if data[5] == 1 else ">H", data, 18)
    return elf.MACHINES.get(machine, f"ELF machine {machine}")


def _sizes(contents: Contents) -> Iterator[Finding]:
    if contents.size > MAX_ZIP_BYTES:
        yield Finding(
            f"{contents.name} has {contents.size:,} bytes",
            f"{MAX_ZIP_BYTES:,} can be uploaded directly; larger zips go through S3",
            "./build.sh publish --bucket BUCKET, or aws lambda update-function-code --s3-bucket …",
        )
    if contents.unpacked > MAX_UNPACKED_BYTES:
        yield Finding(
            f"{contents.name} has {contents.unpacked:,} bytes unpacked",
            f"{MAX_UNPACKED_BYTES:,} are allowed for a function and all its layers together",
            "remove files, and build it again",
        )


def _conflicting_bootstrap(contents: Contents, runtime: str | None) -> Iterator[Finding]:
    if replaces_bootstrap(contents.files) and (runtime is None or runtime.startswith(OS_ONLY)):
        yield Finding(
            f"{contents.name} has a bootstrap of its own",
            "on OS-only runtimes, AWS Lambda runs /var/task/bootstrap in place of the layer's",
            "git mv bootstrap start, then ./build.sh function FOLDER",
        )


def _reserved_module(contents: Contents) -> Iterator[Finding]:
    if path := reserved_path(contents.files):
        yield Finding(
            f"{contents.name}: {path} has the reserved name {RESERVED_MODULE}",
            "it is never imported, because the layer's own package has this name",
            "rename it, then ./build.sh function FOLDER",
        )


def importable_paths(contents: Contents) -> set[str]:
    """Return the paths of a layer's files, relative to the folders from which Python imports: AWS Lambda Developer
    Guide, packaging-layers.
    """
    folder = re.compile(r"python/(lib/python3\.[0-9]+/site-packages/)?")
    return {each[match.end() :] for each in contents.modes if (match := folder.match(each))}


def check_total_size(parts: Sequence[tuple[str, int]]) -> Iterator[Finding]:
    """Yield a finding if a function and its layers are too large together.

    Args:
        parts: name and unpacked bytes of each.
    """
    total = sum(size for _, size in parts)
    if total > MAX_UNPACKED_BYTES:
        largest = ", ".join(f"{name} {size:,}" for name, size in sorted(parts, key=lambda part: -part[1])[:_MAX_NAMES])
        yield Finding(
            f"the function and its layers have {total:,} bytes unpacked ({largest})",
            f"AWS Lambda allows {MAX_UNPACKED_BYTES:,} together, and rejects the next update",
            "remove files or layers",
        )


def _listed(paths: Sequence[str]) -> str:
    return shortened(paths, _MAX_NAMES)
