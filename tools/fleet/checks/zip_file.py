"""What is wrong with a zip, or a function, by what is known of it. Nothing here calls AWS.

The paths of a layer are those below /opt, the paths of a function those below /var/task.
"""

from __future__ import annotations

import ast
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.common.archives import open_zip
from tools.common.lambda_facts import MAX_UNPACKED_BYTES, MAX_ZIP_BYTES
from tools.packaging.interpreter import elf

_READ_BY_ALL = 0o444
_RUN_BY_ALL = 0o111
_MAX_NAMED = 3


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, why that matters, and the command that mends it."""

    what: str
    why: str
    mend: str


@dataclass(frozen=True)
class Contents:
    """A zip, read.

    Args:
        name: how to call it in a sentence.
        modes: by path; ``None`` where the zip was made by a system that has none.
    """

    name: str
    size: int
    unpacked: int
    modes: dict[str, int | None]
    folders: dict[str, int | None]
    files: dict[str, bytes]

    @property
    def is_layer(self) -> bool:
        """Whether it is this project's layer, and not a function: it has the runtime, at the top or a folder down."""
        return any(path.split("/")[-1] == "runtime.py" for path in self.modes if path.count("/") < 2) and any(
            path.split("/")[-1] == "bootstrap" for path in self.modes if path.count("/") < 2
        )


def read_zip(name: str, source: Path | bytes) -> Contents:
    """Read a zip; one above the limit is not decompressed, and its `files` are empty.

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
            {member.path: member.mode for member in archive.files},
            {member.path: member.mode for member in archive.members if member.is_folder},
            {} if is_too_large else {member.path: archive.read(member) for member in archive.files},
        )


def of_layer(contents: Contents, architecture: str | None = None) -> Iterator[Finding]:
    """What is wrong with a layer's zip."""
    if contents.unpacked > MAX_UNPACKED_BYTES:
        yield from _sizes(contents)  # the content was not read
        return
    yield from _layout_of_layer(contents)
    yield from _modes(contents, "./build.sh")
    yield from _scripts(contents, "./build.sh")
    yield from _machines(contents, architecture, "./build.sh, and attach the layer of the function's architecture")
    yield from _sizes(contents)


def of_function(
    contents: Contents, architecture: str | None, handler: str | None, runtime: str | None
) -> Iterator[Finding]:
    """What is wrong with a function's zip."""
    if contents.unpacked > MAX_UNPACKED_BYTES:
        yield from _sizes(contents)  # the content was not read
        return
    mend = "./build.sh function FOLDER"
    yield from _shadow(contents, runtime)
    yield from _handler(contents, handler)
    yield from _modes(contents, mend)
    yield from _scripts(contents, mend)
    yield from _machines(
        contents, architecture, "python3 -m pip install --platform manylinux2014_… --only-binary=:all: …"
    )
    yield from _sizes(contents)


def _layout_of_layer(contents: Contents) -> Iterator[Finding]:
    for name in ("bootstrap", "runtime.py"):
        if name in contents.files:
            continue
        below = [path for path in contents.files if path.endswith(f"/{name}")]
        where = f"is in the folder {below[0].rpartition('/')[0]}" if below else "is missing"
        yield Finding(
            f"{contents.name}: {name} {where}",
            f"a layer is unpacked to /opt as it is, and AWS Lambda looks for /opt/{name}",
            "./build.sh",
        )


def _modes(contents: Contents, mend: str) -> Iterator[Finding]:
    mode = contents.modes.get("bootstrap", _RUN_BY_ALL)
    if mode is None or mode & _RUN_BY_ALL != _RUN_BY_ALL:
        shown = "no mode at all" if mode is None else f"mode {mode:04o}"
        yield Finding(
            f"{contents.name}: bootstrap has {shown}, and cannot be run",
            "the function fails with Runtime.InvalidEntrypoint, or with exit status 126",
            mend,
        )
    unreadable = [
        path for path, held in contents.modes.items() if held is not None and held & _READ_BY_ALL != _READ_BY_ALL
    ]
    if unreadable:
        yield Finding(
            f"{contents.name}: {_named(unreadable)} cannot be read by all",
            "functions run as a user that does not own their files, and get Permission denied",
            mend,
        )
    closed = [path for path, held in contents.folders.items() if held is not None and held & 0o555 != 0o555]
    if closed:
        yield Finding(
            f"{contents.name}: the folder {_named(closed)} cannot be entered by all",
            "AWS Lambda refuses a layer with such a folder, or the function cannot import from it",
            mend,
        )


def _scripts(contents: Contents, mend: str) -> Iterator[Finding]:
    for path, data in contents.files.items():
        if path != "bootstrap" and not data.startswith(b"#!"):
            continue
        if data.startswith(elf.MAGIC):
            continue
        first = data.split(b"\n", 1)[0]
        if b"\r\n" in data:
            yield Finding(
                f"{contents.name}: {path} has CRLF line ends",
                "no program has a name like /bin/sh\\r, so that the script ends with exit status 127",
                f"sed -i 's/\\r$//' {path}, then {mend}",
            )
        if path == "bootstrap" and not first.startswith(b"#!/"):
            yield Finding(
                f"{contents.name}: {path} does not begin with #! and the path of a program",
                "the system cannot tell what runs it, and the function fails with Runtime.InvalidEntrypoint",
                mend,
            )


def _machines(contents: Contents, architecture: str | None, mend: str) -> Iterator[Finding]:
    by_machine: dict[str, list[str]] = {}
    for path, data in contents.files.items():
        if machine := elf_machine(data):
            by_machine.setdefault(machine, []).append(path)
    for machine, paths in sorted(by_machine.items()):
        if architecture and machine != architecture:
            yield Finding(
                f"{contents.name}: {_named(paths)} is made for {machine}, the function runs on {architecture}",
                "the processor cannot run it: exec format error, or an import that fails",
                mend,
            )
    if not architecture and len(by_machine) > 1:
        yield Finding(
            f"{contents.name} holds programs for {' and '.join(sorted(by_machine))}",
            "a function runs on one of them, and half of the programs will fail there",
            mend,
        )


def elf_machine(data: bytes) -> str:
    """The architecture that an ELF file is made for; empty where ``data`` is none."""
    if not data.startswith(elf.MAGIC) or len(data) < 20:
        return ""
    (machine,) = struct.unpack_from("<H" if data[5] == 1 else ">H", data, 18)
    return elf.MACHINES.get(machine, f"ELF machine {machine}")


def _sizes(contents: Contents) -> Iterator[Finding]:
    if contents.size > MAX_ZIP_BYTES:
        yield Finding(
            f"{contents.name} has {contents.size:,} bytes",
            f"a direct upload takes {MAX_ZIP_BYTES:,}; more has to go through S3",
            "./build.sh publish --bucket BUCKET, or aws lambda update-function-code --s3-bucket …",
        )
    if contents.unpacked > MAX_UNPACKED_BYTES:
        yield Finding(
            f"{contents.name} has {contents.unpacked:,} bytes unpacked",
            f"a function and all its layers may have {MAX_UNPACKED_BYTES:,} together",
            "drop files, and build it anew",
        )


def _shadow(contents: Contents, runtime: str | None) -> Iterator[Finding]:
    if "bootstrap" in contents.files and (runtime is None or runtime.startswith("provided")):
        yield Finding(
            f"{contents.name} has a bootstrap of its own",
            "on OS-only runtimes /var/task/bootstrap is run, and the layer's is not",
            "git mv bootstrap start, then ./build.sh function FOLDER",
        )


def _handler(contents: Contents, handler: str | None) -> Iterator[Finding]:
    if handler is None:
        if not any(path.endswith(".py") for path in contents.files):
            yield Finding(
                f"{contents.name} holds no .py file",
                "there is no handler that the runtime could import",
                "./build.sh function FOLDER, with the folder that holds the handler",
            )
        return
    module, dot, name = handler.rpartition(".")
    if not dot or not module or not name:
        yield Finding(
            f"the handler is {handler!r}",
            "it must be module.function, and the function fails with Runtime.MalformedHandlerName",
            "aws lambda update-function-configuration --function-name … --handler lambda_function.handler",
        )
        return
    path = module.replace(".", "/")
    found = [each for each in (f"{path}.py", f"{path}/__init__.py") if each in contents.files]
    if not found:
        below = [each for each in contents.files if each.endswith((f"/{path}.py", f"/{path}/__init__.py"))]
        hint = f"; there is {below[0]}, so the zip has a folder too many" if below else ""
        yield Finding(
            f"{contents.name} has no {path}.py, which the handler {handler} is in{hint}",
            "every invocation fails with Runtime.ImportModuleError",
            "./build.sh function FOLDER, with the folder that holds it, or correct the handler's name",
        )
    elif not _defines(contents.files[found[0]], name):
        yield Finding(
            f"{found[0]} defines no {name}, which the handler {handler} names",
            "every invocation fails with Runtime.HandlerNotFound",
            "aws lambda update-function-configuration --function-name … --handler MODULE.FUNCTION",
        )


def _defines(source: bytes, name: str) -> bool:
    """Tell whether a module may have ``name``; one that cannot be known for certain may."""
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    for node in ast.walk(module):
        match node:
            case ast.FunctionDef(name=held) | ast.AsyncFunctionDef(name=held) | ast.ClassDef(name=held) if held == name:
                return True
            case ast.Name(id=held, ctx=ast.Store()) if held == name:
                return True
            case ast.alias(name=held, asname=shown) if "*" in held or name in (held, shown):
                return True
    return False


def of_total(parts: Sequence[tuple[str, int]]) -> Iterator[Finding]:
    """What is wrong with the sum of a function and its layers, each with its bytes when unpacked."""
    total = sum(size for _, size in parts)
    if total > MAX_UNPACKED_BYTES:
        largest = ", ".join(f"{name} {size:,}" for name, size in sorted(parts, key=lambda part: -part[1])[:_MAX_NAMED])
        yield Finding(
            f"the function and its layers have {total:,} bytes unpacked ({largest})",
            f"AWS Lambda allows {MAX_UNPACKED_BYTES:,} together, and refuses the next change",
            "drop files or layers",
        )


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _MAX_NAMED} more" if len(paths) > _MAX_NAMED else ""
    return f"{', '.join(paths[:_MAX_NAMED])}{more}"
