"""A folder that shows a function as its zip would: without hidden files and bytecode.

Theory of operation. A function that finds its `.env` here fails on Lambda, where the zip of `./build.sh function` has
no such file. So a folder with files that the zip leaves out is not used itself, but a view of it: folders, and a link
to each file.

The links are hard ones. Symbolic links would lead back to the source: `Path(__file__).resolve().parent`, which many
frameworks use, would be the folder with the hidden files. Where a hard link is not possible, on another file system
for example, the file is copied. Debuggers are the exception: an editor sets its breakpoints in the source, and debugpy
finds them because it resolves symbolic links.

A symbolic link of the source, such as a shared package of a monorepo, leads to the same place from the view.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from tools.common.function_folder import entries_of, is_ignored


def update_view(source: Path, view: Path, symbolic: bool = False) -> None:
    """Make `view` show what a zip of `source` would contain, and remove from it what it would not.

    Args:
        view: an existing folder; it is empty, or an older view.
        symbolic: whether files are symbolic links.

    Raises OSError if a file can be neither linked nor copied.
    """
    source = Path(os.path.realpath(source))
    _update(source, source, view, symbolic)


def _update(source: Path, folder: Path, view: Path, symbolic: bool) -> None:
    entries = [entry for entry in entries_of(str(folder)) if not is_ignored(entry.name)]
    for old in {entry.name for entry in entries_of(str(view))} - {entry.name for entry in entries}:
        _remove(view / old)
    for entry in entries:
        place = view / entry.name
        with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
            if entry.is_symlink():
                _replace_by_link(_target(source, folder, entry.path), place)
            elif entry.is_dir():
                if place.is_symlink() or place.is_file():
                    place.unlink()
                place.mkdir(exist_ok=True)
                _update(source, Path(entry.path), place, symbolic)
            elif symbolic:
                _replace_by_link(entry.path, place)
            else:
                _remove(place)
                _link_or_copy(entry.path, place)


def _target(source: Path, folder: Path, link: str) -> str:
    """Where a symbolic link of the source leads to from the view.

    A relative one within the function stays as it is: an absolute one would lead out of the view, and to nothing with
    `--isolate`, which hides /tmp. One that leads to a place that the view does not show gets its absolute path.
    """
    text = os.readlink(link)
    target = os.path.normpath(folder / text)
    within = os.path.relpath(target, source).split(os.sep)
    if not os.path.isabs(text) and ".." not in within and not any(is_ignored(name) for name in within if name != "."):
        return text
    return os.path.realpath(link)


def _replace_by_link(target: str, place: Path) -> None:
    if place.is_symlink() and os.readlink(place) == target:
        return
    _remove(place)
    os.symlink(target, place)


def _link_or_copy(path: str, place: Path) -> None:
    try:
        os.link(path, place)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or a file of somebody else (proc_sys_fs(5), protected_hardlinks)
        if stat.S_ISREG(os.stat(path).st_mode):
            shutil.copy2(path, place)
        else:  # a named pipe or a socket, of which there is one
            os.symlink(path, place)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
