"""Function zips: the files of one folder, and nothing of the runtime."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from tools.common.function_folder import is_ignored
from tools.common.lambda_facts import Limits
from tools.common.paths import files_below, read, shown
from tools.packaging import PackagingError
from tools.packaging.zips.archive import PLAIN, PROGRAM, Entry, check_unpacked_size

_LAYER_ZIP_NAME = re.compile(r"layer-(slim|python3\.\d+-(x86_64|arm64))\.zip", re.IGNORECASE)
_SCRIPT = b"#!"
_PROGRAM_STARTS = (_SCRIPT, b"\x7fELF")


# --- The names that the layer uses ------------------------------------------------------------------------------------
#
# A function zip is unpacked to /var/task, the layer to /opt. Two of the layer's names matter in a function:
#
# - OS-only runtimes run /var/task/bootstrap if it exists, and never reach /opt/bootstrap (AWS Lambda Developer Guide,
#   runtimes-custom).
# - The layer's package streaming_runtime is loaded before the function's modules. A module of that name in the function
#   is therefore never imported: the function gets the layer's package in its place.
#
# Both are right in one case: a function that contains the whole runtime (bootstrap, runtime.py and the package), and
# needs no layer. So the two rules apply only where the runtime is not complete.

RESERVED_MODULE = "streaming_runtime"
_RESERVED_PATH = re.compile(rf"{RESERVED_MODULE}(/.*)?(\.py|\.pyc|\.so)|{RESERVED_MODULE}\.[^/]*\.so")
_RUNTIME = ("bootstrap", "runtime.py", f"{RESERVED_MODULE}/__init__.py")


def contains_runtime(paths: Collection[str]) -> bool:
    """Return whether a function with files at `paths` contains the whole runtime, and needs no layer."""
    return all(path in paths for path in _RUNTIME)


def reserved_path(paths: Collection[str]) -> str | None:
    """Return the first of `paths` that is a module or in a package with the reserved name; None if there is none."""
    if contains_runtime(paths):
        return None
    return min(filter(_RESERVED_PATH.fullmatch, paths), default=None)


def replaces_bootstrap(paths: Collection[str]) -> bool:
    """Return whether a function with files at `paths` replaces the layer's `bootstrap` on OS-only runtimes."""
    return "bootstrap" in paths and not contains_runtime(paths)


# --- The zip ----------------------------------------------------------------------------------------------------------


def zip_name(folder: Path) -> str:
    """Return the name of the zip made from `folder`, an absolute path without links.

    Raises:
        PackagingError: the folder has no usable name, or that of a zip of the layer.
    """
    name = f"{folder.name}.zip"
    if not folder.name or "\\" in name or not name.isprintable():
        raise PackagingError(f"a zip cannot be named after the folder {str(folder)!r}: rename the folder")
    if _LAYER_ZIP_NAME.fullmatch(name):  # in any case: some file systems ignore it
        raise PackagingError(f"{shown(folder)} would overwrite the layer {name.lower()}: rename it")
    return name


def function_entries(folder: Path, limits: Limits) -> list[Entry]:
    """Read all files below `folder` except hidden ones and bytecode; programs get mode 0755, others 0644.

    Raises:
        PackagingError: `folder` is not a folder, contains no Python file or is too large; a script has CRLF line
            ends; a `bootstrap` would run in place of the layer's; or a module has the reserved name.
        ToolError: an entry is not a regular file, or cannot be read.
    """
    if not folder.is_dir():
        raise PackagingError(f"{shown(folder)} is not a folder: use the folder that contains the handler")
    files = {path.relative_to(folder).as_posix(): path for path in files_below(folder, is_ignored)}
    if not any(path.endswith(".py") for path in files):
        raise PackagingError(f"{shown(folder)} contains no .py file: use the folder that contains the handler")
    _check_names(folder, files)
    check_unpacked_size(shown(folder), sum(path.stat().st_size for path in files.values()), limits)
    return [_entry(name, path) for name, path in files.items()]


def refuse_overlap(folder: Path, output: Path) -> None:
    """Raise `PackagingError` if one of the two folders contains the other: a build would pack the last one's output.

    Args:
        folder: the sources; like `output`, an absolute path without links.
    """
    if folder.is_relative_to(output) or output.is_relative_to(folder):
        raise PackagingError(f"{shown(folder)} and the output {shown(output)} overlap: choose another -o")


def _check_names(folder: Path, names: Collection[str]) -> None:
    if replaces_bootstrap(names):
        raise PackagingError(f"{shown(folder / 'bootstrap')} would run in place of the layer's: rename it")
    if reserved := reserved_path(names):
        raise PackagingError(
            f"{shown(folder / reserved)} would never be imported, because the layer's own package has the name "
            f"{RESERVED_MODULE}: rename it"
        )


def _entry(name: str, path: Path) -> Entry:
    if not name.isprintable():
        raise PackagingError(f"{os.fspath(path)!r} cannot be a name in a zip: use printable UTF-8")
    data = read(path)
    if data.startswith(_SCRIPT) and b"\r\n" in data:
        raise PackagingError(f"{shown(path)} is a script with CRLF line ends: save it with LF")
    return Entry(name, PROGRAM if data.startswith(_PROGRAM_STARTS) else PLAIN, data)
