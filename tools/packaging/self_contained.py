"""The build of a self-contained layer: the layer with a CPython for OS-only runtimes."""

import hashlib
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.common.lambda_facts import ARCHITECTURE_OF_MACHINE, MAX_UNPACKED_BYTES
from tools.common.paths import read
from tools.common.urls import without_secrets
from tools.packaging import PackagingError
from tools.packaging.builds import Build, Sources, python_files
from tools.packaging.interpreter import bundle as bundles
from tools.packaging.interpreter import download, source_tree
from tools.packaging.interpreter.bundle import Bundle
from tools.packaging.interpreter.source_tree import Distribution
from tools.packaging.manifest import Manifest, Pin
from tools.packaging.zips import archive, bytecode, pythons
from tools.packaging.zips.archive import Entry
from tools.packaging.zips.bytecode import Bytecode
from tools.packaging.zips.pythons import Interpreter, InterpreterNotFound


@dataclass(frozen=True)
class SelfContained:
    """The request for a self-contained layer.

    Args:
        python: such as 3.13.
        target: the OS-only runtime on which it must run.
        interpreter: the CPython to bundle: a file, a folder or a URL (None: the pinned one).
        sha256: the hash that the archive `interpreter` must have.
    """

    python: str
    architecture: str
    target: str
    interpreter: str | None
    sha256: str | None


def self_contained_layer(sources: Sources, request: SelfContained) -> Build:
    """Build the layer that contains a CPython.

    Raises:
        ToolError: the sources cannot be packed; or the interpreter cannot be fetched, is another version, or does not
            run on the requested runtime.
    """
    entries = sources.layer_entries()
    distribution, sha256 = _distribution(sources.manifest, request)
    bundle = bundles.bundle(distribution, request.architecture, request.target, sources.limits)
    variant = sources.manifest.self_contained(request.python, request.architecture)
    entries += [*bundle.entries(), Entry(bundles.VARIANT_FILE, archive.PLAIN, f"{variant.name}\n".encode())]
    with (
        bundles.unpacked(bundle) as unpacked,
        _compiler(sources.manifest, bundle, unpacked.interpreter, request) as interpreter,
    ):
        compiled = _compile(entries, interpreter)
    entries += compiled.entries
    archive.check_unpacked_size(variant.zip_name, _size(entries), sources.limits)
    zipped = archive.pack(entries, deflated=True)
    record = _record(variant.zip_name, bundle, sha256, compiled)
    remarks = [
        *_bundle_remarks(bundle, unpacked.missing),
        *_bytecode_remarks(compiled, unpacked.obstacle),
        *_size_remarks(entries),
    ]
    return Build({variant.zip_name: zipped}, record, remarks)


def _record(zip_name: str, bundle: Bundle, sha256: str, compiled: Bytecode) -> bytes:
    """Return the lines of `INTERPRETERS`: all that decides about the bytes besides the sources."""
    values = {
        "bundled": f"CPython {bundle.version}, {bundle.name}{sha256 and f', sha256 {sha256}'}",
        "deflated": archive.deflater(),
    }
    lines = "".join(f"{zip_name}  {key}  {value}\n" for key, value in values.items())
    return lines.encode() + bytecode.record(zip_name, [compiled])


def _size(entries: Sequence[Entry]) -> int:
    return sum(len(entry.data) for entry in entries)


# --- The interpreter --------------------------------------------------------------------------------------------------


def _distribution(manifest: Manifest, request: SelfContained) -> tuple[Distribution, str]:
    """Return the CPython to bundle, and the hash of its archive (an empty string for a folder)."""
    name = request.interpreter
    if name is not None and not download.is_url(name) and Path(name).is_dir():
        if request.sha256:
            raise PackagingError(f"{name} is a folder, which has no sha256: use an archive, or drop --sha256")
        return source_tree.find(source_tree.from_folder(Path(name).resolve()), request.python), ""
    if name is None:
        pin = _pin(manifest, request)
        data = download.pinned(pin)
        name = f"python-build-standalone {pin.release} {pin.version} {pin.architecture}"
    else:
        data = download.from_url(name) if download.is_url(name) else read(Path(name).absolute())
        name = without_secrets(name) if download.is_url(name) else name
        if request.sha256:
            download.check(name, data, request.sha256, "--sha256 is")
    archived = source_tree.from_archive(name, data)
    return source_tree.find(archived, request.python), hashlib.sha256(data).hexdigest()


def _pin(manifest: Manifest, request: SelfContained) -> Pin:
    for pin in manifest.pins:
        if (pin.python, pin.architecture) == (request.python, request.architecture):
            return pin
    pinned = ", ".join(pin.python for pin in manifest.pins if pin.architecture == request.architecture)
    raise PackagingError(
        f"layer-manifest.json pins no Python {request.python} for {request.architecture} (it pins {pinned or 'none'}): "
        "choose one of these, or name an archive with --interpreter"
    )


@contextmanager
def _compiler(
    manifest: Manifest, bundle: Bundle, own: Interpreter | None, request: SelfContained
) -> Iterator[Interpreter]:
    """Yield the interpreter that compiles the files of `bundle`.

    The best is the bundled one itself (`own`): its bytecode fits by construction. If it does not run on this machine,
    its twin for this machine is next, which is the same release; any other CPython of the same minor version produces
    valid bytecode, but perhaps other bytes.
    """
    if own:
        yield own
        return
    machine = ARCHITECTURE_OF_MACHINE.get(platform.machine(), "")
    twins = [pin for pin in manifest.pins if (pin.python, pin.architecture) == (bundle.python, machine)]
    if twins and not request.interpreter and sys.platform == "linux" and machine != bundle.architecture:
        archived = source_tree.from_archive(twins[0].url, download.pinned(twins[0]))
        twin = bundles.bundle(source_tree.find(archived, bundle.python), machine, bundle.fit.runtimes[0])
        with bundles.unpacked(twin) as unpacked:
            if unpacked.interpreter:
                yield unpacked.interpreter
                return
    try:
        yield pythons.find(bundle.python)
    except InterpreterNotFound as error:
        raise PackagingError(
            f"{bundle.name} does not run on this machine, so another CPython {bundle.python} must compile it, and "
            f"there is {error}: install one"
        ) from error


def _compile(entries: Sequence[Entry], interpreter: Interpreter) -> Bytecode:
    """Compile all Python files. Files of the bundled standard library may be invalid on purpose, the layer's not."""
    compiled = bytecode.compile_all(interpreter, python_files(entries))
    own = [reason for reason in compiled.not_compiled if not reason.startswith(f"{bundles.PREFIX}/")]
    if own:
        raise PackagingError(f"the layer cannot be compiled: {own[0]}")
    return compiled


# --- Remarks ----------------------------------------------------------------------------------------------------------


def _bundle_remarks(bundle: Bundle, missing: Sequence[str]) -> Iterator[str]:
    yield f"interpreter  CPython {bundle.version} for {bundle.architecture}, {bundle.name}"
    need = f"needs glibc {'.'.join(map(str, bundle.fit.glibc))}" if bundle.fit.glibc else "contains its own glibc"
    yield f"runs on      {', '.join(bundle.fit.runtimes)} ({need})"
    size = sum(map(len, bundle.files.values()))
    yield f"trimmed      {megabytes(bundle.size_before)} to {megabytes(size)}"
    for path, library in bundle.fit.unusable:
        yield f"left out     {path}, which needs {library}"
    if missing:
        yield f"not in it    {', '.join(missing)}: a function cannot import these modules"


def _bytecode_remarks(compiled: Bytecode, obstacle: str) -> Iterator[str]:
    version = compiled.interpreter.build.partition(" ")[0]
    yield f"bytecode     by CPython {version}{obstacle and f', because the bundled one {obstacle}'}"
    for reason in compiled.not_compiled:
        yield f"no bytecode  {reason}"


def _size_remarks(entries: Sequence[Entry]) -> Iterator[str]:
    yield f"unpacked     {megabytes(_size(entries))} of {megabytes(MAX_UNPACKED_BYTES)}"
    yield f"deflated     by {archive.deflater()}; another library produces other bytes"


def megabytes(size: int) -> str:
    """Format a number of bytes in megabytes."""
    return f"{size / 1e6:.1f} MB"
