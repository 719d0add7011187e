"""Builds a zip of a release again, from the provenance beside it, and compares the two.

The commit is exported from the repository of this checkout, and its own build programs build it: the programs are an
input of the zip like the sources. The interpreters and zlib cannot be exported. If this machine has others
than the release, the files can differ for that reason, so the report names them.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.common.output import escaped
from tools.common.paths import read, shown
from tools.packaging import PackagingError, build_process
from tools.packaging.manifest import Manifest
from tools.packaging.release import comparison, git, provenance
from tools.packaging.release.provenance import Provenance
from tools.packaging.zips import archive, output

_CACHE_TAG = re.compile(r"cpython-(3)(\d+)")
_OPTIONS_OF_BUILDS = (", or remove it from --bytecode", ", or fetch it another way and use --interpreter")
_SELF_CONTAINED = re.compile(r"layer-python(3\.\d+)-(x86_64|arm64)\.zip")


def verify_build(root: Path, manifest: Manifest, path: Path, statement: Path) -> tuple[list[str], bool]:
    """Build the zip at `path` again, and return the report and whether the zips are equal.

    Args:
        root: the checkout, whose repository contains the commit.
        manifest: of the checkout.
        statement: the path of the provenance.

    Raises:
        ToolError: a file cannot be read, the provenance does not list the zip, or the build fails.
    """
    data = read(path)
    made = provenance.load(statement)
    if path.name not in made.sha256:
        raise PackagingError(f"{shown(statement)} does not list {path.name}: it lists {', '.join(made.sha256)}")
    lines = [f"{path.name} of {manifest.name} {made.version}, commit {made.commit}"]
    with (
        git.exported(root, made.commit) as sources,
        tempfile.TemporaryDirectory(prefix="rebuilt-") as folder,
    ):
        _build(sources, made, path.name, Path(folder))
        rebuilt = read(Path(folder, path.name))
        record = Path(folder, output.INTERPRETERS_NAME)
        here = provenance.interpreters(read(record)) if record.is_file() else {}
    lines += _unlisted(path.name, data, made)
    lines += _other_inputs(made.interpreters.get(path.name, {}), here.get(path.name, {}))
    compared, is_equal = _compare(path.name, data, rebuilt, made)
    # Zip and statement can come from anywhere, so nothing in them may control the terminal.
    return list(map(escaped, lines + compared)), is_equal and hashlib.sha256(data).hexdigest() == made.sha256[path.name]


def _build(sources: Path, made: Provenance, zip_name: str, folder: Path) -> None:
    """Run the build of the exported commit."""
    arguments = _arguments(zip_name, made.interpreters.get(zip_name, {}))
    with build_process.start(sources, arguments, folder) as build:
        try:
            errors = build.communicate()[1]
        except BaseException:  # also a signal: the build then removes its temporary folders
            build.terminate()
            build.wait()
            raise
    if build.returncode:
        reason = errors.strip().rpartition("\n")[2].removeprefix("build.sh: error: ")
        for advice in _OPTIONS_OF_BUILDS:
            reason = reason.removesuffix(advice)
        raise PackagingError(f"{zip_name} cannot be built again: {reason or f'status {build.returncode}'}")
    if not (folder / zip_name).is_file():
        raise PackagingError(f"the build of commit {made.commit} writes no {zip_name}: check the provenance")


def _arguments(zip_name: str, interpreters: Mapping[str, str]) -> list[str]:
    """Return the command line that builds a zip. Of the statement, it contains only versions."""
    if match := _SELF_CONTAINED.fullmatch(zip_name):
        return ["layer", "--python", match[1], "--arch", match[2]]
    tags = filter(None, map(_CACHE_TAG.fullmatch, interpreters))
    return ["--bytecode", ",".join(f"{tag[1]}.{tag[2]}" for tag in tags) or "none"]


# --- The report -------------------------------------------------------------------------------------------------------


def _unlisted(zip_name: str, data: bytes, made: Provenance) -> Iterator[str]:
    found = hashlib.sha256(data).hexdigest()
    if found != made.sha256[zip_name]:
        yield f"{zip_name} is not the released zip: its sha256 is {found}"
        yield f"the provenance lists {made.sha256[zip_name]}"


def _other_inputs(released: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    for key in sorted({*released, *here}):
        if released.get(key) != here.get(key):
            yield f"{key} was  {released.get(key, 'not used')}"
            yield f"{key} here {here.get(key, 'not used')}"


def _compare(zip_name: str, data: bytes, rebuilt: bytes, made: Provenance) -> tuple[list[str], bool]:
    if data == rebuilt:
        return [f"equal: both have the sha256 {hashlib.sha256(data).hexdigest()}"], True
    given, again = comparison.parse(zip_name, data), comparison.parse(f"the rebuilt {zip_name}", rebuilt)
    if different := comparison.differences(given, again):
        return different, False
    if different := comparison.other_differences(given, again):
        return ["the files are equal, but the zips are not:", *(f"  {line}" for line in different)], False
    if again.is_deflated and made.zlib != archive.deflater():
        return [f"equal files: {made.zlib} compressed them to other bytes than {archive.deflater()} here"], True
    return [
        "the files and their headers are equal, but other bytes of the zips are not, such as the compressed ones"
    ], False
