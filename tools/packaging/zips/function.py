"""Handler-only function zips: the files of one folder, and nothing of the runtime."""

import os
import re
from pathlib import Path

from tools.common.paths import files_below, read, shown
from tools.packaging import PackagingError
from tools.packaging.zips.archive import PLAIN, PROGRAM, Entry, check_unpacked_size

_LAYER_ZIP_NAME = re.compile(r"layer-(slim|python3\.\d+-(x86_64|arm64))\.zip", re.IGNORECASE)
_SCRIPT = b"#!"
_PROGRAM_STARTS = (_SCRIPT, b"\x7fELF")


def zip_name(folder: Path) -> str:
    """Give the name of the zip made from ``folder``, an absolute path without links.

    Raises:
        PackagingError: the folder has no name to use, or that of the layer's zip.
    """
    name = f"{folder.name}.zip"
    if not folder.name or "\\" in name or not name.isprintable():
        raise PackagingError(f"a zip cannot be named after the folder {str(folder)!r}: rename the folder")
    if _LAYER_ZIP_NAME.fullmatch(name):  # whatever its case: one file where the file system knows none
        raise PackagingError(f"{shown(folder)} would overwrite the layer {name.lower()}: rename it")
    return name


def function_entries(folder: Path) -> list[Entry]:
    """Read all files below ``folder`` except hidden ones and bytecode; programs get 0755, others 0644.

    Raises:
        PackagingError: the folder is no folder, holds no Python file or is too large, something in it is no
            regular file, a script has CRLF line ends, or a ``bootstrap`` would run in place of the layer's.
    """
    if not folder.is_dir():
        raise PackagingError(f"{shown(folder)} is not a folder: name the one that holds the handler")
    paths = list(files_below(folder, _is_ignored))
    if not any(path.suffix == ".py" for path in paths):
        raise PackagingError(f"{shown(folder)} holds no .py file: name the folder that holds the handler")
    # AWS Lambda Developer Guide, runtimes-custom: /var/task is searched before /opt.
    if folder / "bootstrap" in paths:
        raise PackagingError(f"{shown(folder / 'bootstrap')} would run in place of the layer's: rename it")
    check_unpacked_size(shown(folder), sum(path.stat().st_size for path in paths))
    return [_entry(folder, path) for path in paths]


def refuse_overlap(folder: Path, output: Path) -> None:
    """Refuse, with ``PackagingError``, source and output folders of which one holds the other: a build would
    pack what the last one wrote. Both are absolute paths without links.
    """
    if folder.is_relative_to(output) or output.is_relative_to(folder):
        raise PackagingError(f"{shown(folder)} and the output {shown(output)} overlap: choose another -o")


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__" or name.endswith(".pyc")


def _entry(folder: Path, path: Path) -> Entry:
    name = path.relative_to(folder).as_posix()
    if not name.isprintable():
        raise PackagingError(f"{os.fspath(path)!r} cannot be a name in a zip: use printable UTF-8")
    data = read(path)
    if data.startswith(_SCRIPT) and b"\r\n" in data:
        raise PackagingError(f"{shown(path)} is a script with CRLF line ends: save it with LF")
    return Entry(name, PROGRAM if data.startswith(_PROGRAM_STARTS) else PLAIN, data)
