"""What `build.sh` builds. Each build returns its zips, its lines of `INTERPRETERS`, and remarks for the report.

`self_contained` has the build that bundles a CPython. It is apart, because it needs half of this package, and reading
those modules takes as long as the rest of a build.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.common.function_folder import MAX_LEFT_OUT, compare_with_zip
from tools.common.lambda_facts import Limits
from tools.common.output import shortened
from tools.packaging import PackagingError
from tools.packaging.manifest import Manifest
from tools.packaging.zips import archive, bytecode, function, layer
from tools.packaging.zips.archive import Entry
from tools.packaging.zips.bytecode import Bytecode
from tools.packaging.zips.pythons import InterpreterNotFound


@dataclass(frozen=True)
class Build:
    """The result of a build: what the output folder will contain, and remarks for the report."""

    zips: dict[str, bytes]
    record: bytes = b""
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sources:
    """The input of a build of the layer.

    Args:
        root: the checkout.
        output: the output folder, which must not overlap with the sources.
    """

    root: Path
    manifest: Manifest
    output: Path
    limits: Limits

    def layer_entries(self) -> list[Entry]:
        """Read the files that every variant of the layer contains."""
        function.refuse_overlap(self.root / "layer", self.output)
        return layer.layer_entries(self.root / "layer", self.manifest)


def function_zip(folder: Path, output: Path, limits: Limits) -> Build:
    """Build the function zip of `folder`; raises as `function.function_entries`."""
    function.refuse_overlap(folder, output)
    zipped = archive.pack(function.function_entries(folder, limits))
    missing = compare_with_zip(folder).left_out
    remarks = [f"left out  {shortened(missing, MAX_LEFT_OUT)}"] if missing else []
    return Build({function.zip_name(folder): zipped}, remarks=remarks)


def slim_layer_and_sample(sources: Sources, versions: tuple[str, ...] | None) -> Build:
    """Build the slim layer, and the zip of the sample function.

    Args:
        versions: the Pythons for which to compile bytecode (None: all supported ones that are found).

    Raises:
        ToolError: the sources cannot be packed, or a Python of `versions` is not found.
    """
    manifest = sources.manifest
    entries = sources.layer_entries()
    sample = function_zip(sources.root / "function", sources.output, sources.limits)
    compiled, missing = _bytecode(entries, manifest.python_versions if versions is None else versions)
    if missing and versions is not None:
        raise PackagingError(f"{missing[0]}: install it, or remove it from --bytecode")
    name = manifest.slim.zip_name
    zipped = archive.pack([*entries, *(entry for each in compiled for entry in each.entries)])
    record = bytecode.record(name, compiled)
    return Build({name: zipped, **sample.zips}, record, [*_slim_remarks(compiled, missing), *sample.remarks])


# --- Bytecode ---------------------------------------------------------------------------------------------------------


def _bytecode(entries: Sequence[Entry], versions: Sequence[str]) -> tuple[list[Bytecode], list[InterpreterNotFound]]:
    results = bytecode.compile_for_versions(python_files(entries), versions)
    compiled = [result for result in results if isinstance(result, Bytecode)]
    return compiled, [result for result in results if isinstance(result, InterpreterNotFound)]


def python_files(entries: Sequence[Entry]) -> dict[str, bytes]:
    """Return the Python files among `entries`, by path."""
    return {entry.path: entry.data for entry in entries if entry.path.endswith(".py")}


# --- Remarks ----------------------------------------------------------------------------------------------------------


def _slim_remarks(compiled: Sequence[Bytecode], missing: Sequence[InterpreterNotFound]) -> Iterator[str]:
    for each in compiled:
        yield f"bytecode for {each.interpreter.version}  by {each.interpreter.path}"
    for error in missing:
        yield f"bytecode for {error.version}  left out, {error}"
