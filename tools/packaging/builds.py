"""What ``build.sh`` can build: each gives the zips, the lines about them for ``INTERPRETERS``, and remarks to print."""

import hashlib
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tools.common.lambda_facts import MAX_UNPACKED_BYTES
from tools.common.paths import read
from tools.packaging import PackagingError
from tools.packaging.interpreter import bundle as self_contained
from tools.packaging.interpreter import download as fetch
from tools.packaging.interpreter import source_tree as distribution
from tools.packaging.interpreter.bundle import Bundle
from tools.packaging.interpreter.source_tree import Distribution
from tools.packaging.manifest import Manifest, Pin
from tools.packaging.zips import archive, bytecode, function, layer
from tools.packaging.zips import pythons as interpreters
from tools.packaging.zips.archive import Entry
from tools.packaging.zips.bytecode import Bytecode
from tools.packaging.zips.pythons import Interpreter, NotFoundError

_MACHINES = {"x86_64": "x86_64", "aarch64": "arm64"}  # as Linux and as AWS Lambda call it


@dataclass(frozen=True)
class Build:
    """What goes into the output folder, and what the report says besides."""

    zips: dict[str, bytes]
    record: bytes = b""
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Origin:
    """Where the CPython to bring is to come from: a file, a folder or a URL; the pinned one if None."""

    interpreter: str | None
    sha256: str | None


def function_zip(folder: Path, output: Path) -> Build:
    """The handler-only zip of ``folder``; raises ``PackagingError`` as ``function.function_entries`` does."""
    function.refuse_overlap(folder, output)
    return Build({function.zip_name(folder): archive.pack(function.function_entries(folder))})


def slim_layer_and_sample(root: Path, manifest: Manifest, versions: tuple[str, ...] | None, output: Path) -> Build:
    """The slim layer with bytecode for the Python ``versions`` (None: all that are found), and the sample function.

    Raises:
        PackagingError: the sources are unsound, or a version that is asked for is not found.
    """
    function.refuse_overlap(root / "layer", output)
    sample = function_zip(root / "function", output)
    entries = layer.layer_entries(root / "layer", manifest)
    made, missing = _bytecode(entries, manifest.python_versions if versions is None else versions)
    if missing and versions is not None:
        raise PackagingError(f"{missing[0]}: install it, or leave it out of --bytecode")
    zip_name = manifest.slim.zip_name
    zipped = archive.pack([*entries, *(entry for each in made for entry in each.entries)])
    return Build({zip_name: zipped, **sample.zips}, bytecode.record(zip_name, made), list(_remarks(made, missing)))


def self_contained_layer(
    root: Path, manifest: Manifest, python: str, architecture: str, origin: Origin, runtime: str, output: Path
) -> Build:
    """The layer that brings CPython ``python`` for ``architecture``, able to run on the OS-only ``runtime``.

    Raises:
        PackagingError: the sources are unsound, or the interpreter cannot be had, is another one, or cannot run there.
    """
    function.refuse_overlap(root / "layer", output)
    entries = layer.layer_entries(root / "layer", manifest)
    found, sha256 = _distribution(manifest, python, architecture, origin)
    bundle = self_contained.bundle(found, architecture, runtime)
    variant = manifest.self_contained(python, architecture)
    entries += [*bundle.entries(), Entry(self_contained.VARIANT_FILE, archive.PLAIN, f"{variant.name}\n".encode())]
    with self_contained.unpacked(bundle) as unpacked:
        with _compiler(manifest, bundle, unpacked.interpreter, origin) as interpreter:
            made = _compiled(entries, interpreter)
        missing, obstacle = unpacked.missing, unpacked.obstacle
    entries += made.entries
    archive.check_unpacked_size(variant.zip_name, sum(len(entry.data) for entry in entries))
    zipped = archive.pack(entries, deflated=True)
    told = {"bundled": f"CPython {bundle.version}, {bundle.name}{sha256 and f', sha256 {sha256}'}"}
    told["deflated"] = archive.deflater()
    record = "".join(f"{variant.zip_name}  {what}  {value}\n" for what, value in told.items()).encode()
    record += bytecode.record(variant.zip_name, [made])
    remarks = [*_bundle_remarks(bundle, missing), *_making_remarks(bundle, obstacle, made, entries)]
    return Build({variant.zip_name: zipped}, record, remarks)


# --- The interpreter --------------------------------------------------------------------------------------------------


def _distribution(manifest: Manifest, python: str, architecture: str, origin: Origin) -> tuple[Distribution, str]:
    """Give what is to be bundled, and the hash of the archive ("" for a folder)."""
    if origin.interpreter is None:
        pin = _pin(manifest, python, architecture)
        data = fetch.pinned(pin)
        name = f"python-build-standalone {pin.release} {pin.version} {pin.architecture}"
    elif not fetch.is_url(origin.interpreter) and Path(origin.interpreter).is_dir():
        if origin.sha256:
            raise PackagingError(
                f"{origin.interpreter} is a folder, which has no sha256: give an archive, or drop --sha256"
            )
        return distribution.find(distribution.from_folder(Path(origin.interpreter).resolve()), python), ""
    else:
        name = origin.interpreter
        if fetch.is_url(name):
            data = fetch.from_url(name)
            name = fetch.without_secrets(name)
        else:
            data = read(Path(name).absolute())
        if origin.sha256:
            fetch.check(name, data, origin.sha256, "--sha256 says")
    return distribution.find(distribution.from_archive(name, data), python), hashlib.sha256(data).hexdigest()


def _pin(manifest: Manifest, python: str, architecture: str) -> Pin:
    for pin in manifest.pins:
        if (pin.python, pin.architecture) == (python, architecture):
            return pin
    there = ", ".join(pin.python for pin in manifest.pins if pin.architecture == architecture)
    raise PackagingError(
        f"layer-manifest.json pins no Python {python} for {architecture} (it has {there or 'none'}): "
        "choose one of these, or give an archive with --interpreter"
    )


@contextmanager
def _compiler(manifest: Manifest, bundle: Bundle, own: Interpreter | None, origin: Origin) -> Iterator[Interpreter]:
    """Find what compiles for ``bundle``: itself, else the pinned one for this machine, else one that is installed."""
    if own:
        yield own
        return
    machine = _MACHINES.get(platform.machine(), "")
    twins = [pin for pin in manifest.pins if (pin.python, pin.architecture) == (bundle.python, machine)]
    if twins and not origin.interpreter and sys.platform == "linux" and machine != bundle.architecture:
        archived = distribution.from_archive(twins[0].url, fetch.pinned(twins[0]))
        twin = self_contained.bundle(distribution.find(archived, bundle.python), machine, bundle.fit.runtimes[0])
        with self_contained.unpacked(twin) as unpacked:
            if unpacked.interpreter:
                yield unpacked.interpreter
                return
    try:
        yield interpreters.find(bundle.python)
    except NotFoundError as error:
        raise PackagingError(
            f"{bundle.name} does not run on this machine, so that another CPython {bundle.python} has to make its "
            f"bytecode, and there is {error}: install one"
        ) from error


def _compiled(entries: Sequence[Entry], interpreter: Interpreter) -> Bytecode:
    sources = {entry.path: entry.data for entry in entries if entry.path.endswith(".py")}
    made = bytecode.compile_all(interpreter, sources)
    if not any(entry.path.startswith("__pycache__/runtime.") for entry in made.entries):
        raise PackagingError(f"runtime.py cannot be compiled: {'; '.join(made.not_compiled)}")
    return made


def _bytecode(entries: list[Entry], versions: tuple[str, ...]) -> tuple[list[Bytecode], list[NotFoundError]]:
    sources = {entry.path: entry.data for entry in entries if entry.path.endswith(".py")}
    results = bytecode.make(sources, versions)
    made = [result for result in results if isinstance(result, Bytecode)]
    return made, [result for result in results if isinstance(result, NotFoundError)]


# --- Remarks ----------------------------------------------------------------------------------------------------------


def _remarks(made: list[Bytecode], missing: list[NotFoundError]) -> Iterator[str]:
    for each in made:
        yield f"bytecode for {each.interpreter.version}  by {each.interpreter.path}"
    for error in missing:
        yield f"bytecode for {error.version}  left out, {error}"


def _bundle_remarks(bundle: Bundle, missing: Sequence[str]) -> Iterator[str]:
    yield f"interpreter  CPython {bundle.version} for {bundle.architecture}, {bundle.name}"
    need = f"needs glibc {'.'.join(map(str, bundle.fit.glibc))}" if bundle.fit.glibc else "brings its own glibc"
    yield f"runs on      {', '.join(bundle.fit.runtimes)} ({need})"
    size = sum(map(len, bundle.files.values()))
    yield f"trimmed      {megabytes(bundle.size_before)} to {megabytes(size)}"
    for path, library in bundle.fit.unusable:
        yield f"left out     {path}, which needs {library}"
    if missing:
        yield f"not in it    {', '.join(missing)}: a function cannot import that"


def _making_remarks(bundle: Bundle, obstacle: str, made: Bytecode, entries: Sequence[Entry]) -> Iterator[str]:
    maker = made.interpreter.build.partition(" ")[0]
    yield f"bytecode     by CPython {maker}{obstacle and f', because the bundled one {obstacle}'}"
    for reason in made.not_compiled:
        yield f"no bytecode  {reason}"
    yield f"unpacked     {megabytes(sum(len(entry.data) for entry in entries))} of {megabytes(MAX_UNPACKED_BYTES)}"
    yield f"deflated     by {archive.deflater()}; another one makes other bytes"


def megabytes(size: int) -> str:
    """Write a number of bytes as one would say it."""
    return f"{size / 1e6:.1f} MB"
