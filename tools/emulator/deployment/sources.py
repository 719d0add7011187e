"""What a function is made of: layers and the function's own code, in folders or zips, and the folders they run from.

Layers are merged as the service does it: unpacked into one folder in their order, later files in place of earlier ones
(AWS Lambda Developer Guide, chapter-layers).
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tools.common.archives import Archive, Member, open_zip
from tools.common.errors import ToolError
from tools.common.lambda_facts import MAX_UNPACKED_BYTES
from tools.emulator.sandbox.supervisor_client import remove

ZIP_HINT = "build it again with ./build.sh"
LOOK_EVERY = 0.5  # seconds
FEW_FILES = 1000  # so many are looked at before each invocation, which takes a few milliseconds
LOOKING_SHARE = 0.05  # of the time, at most, is spent on looking at more

State = tuple[int, int, int]  # of a file or a folder: time, size, number
Snapshot = dict[str, State]


class CodeError(Exception):
    """A folder or a zip cannot be used; the message names it, and tells why."""


class Layout:
    """The folders that environments run from.

    Args:
        made: folders that were made for this layout, to be removed when nothing uses them any more.
    """

    def __init__(self, layer: Path, task_root: Path, made: list[Path]) -> None:
        self.layer = layer
        self.task_root = task_root
        self._made = made
        self._users = 1  # the code itself
        self._lock = threading.Lock()

    def use(self) -> None:
        with self._lock:
            self._users += 1

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
        for folder in self._made:
            remove(folder)


class Code:
    """The sources of one function, laid out in folders, anew when they change.

    Args:
        layers: folders or zips, in their order.
        function: a folder or a zip.
        runtime: the folder of the layer that is put under the others where none of them brings a `bootstrap`.
        make_folder: makes a folder of a new name that is removed at the end.
        on_change: called with the path of a source that has changed, and was laid out.
        on_error: called with the reason why a change could not be laid out.

    Raises CodeError where a source cannot be used.
    """

    def __init__(
        self,
        layers: Sequence[Path],
        function: Path,
        runtime: Path,
        make_folder: Callable[[], Path],
        on_change: Callable[[str], None] | None = None,
        on_error: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._layers = layers if any(map(has_bootstrap, layers)) else [runtime, *layers]
        self._function = function
        self._make_folder = make_folder
        self._on_change = on_change
        self._on_error = on_error
        self._lock = threading.Lock()
        self._folders: Snapshot = {}
        self._seen = self._snapshot() if on_change else {}
        self._next_look = 0.0
        self.layout = self._lay_out()
        if on_change is not None:
            threading.Thread(target=self._watch, daemon=True).start()

    def use(self) -> Layout:
        """The present layout; to be released by the one who asks for it."""
        with self._lock:
            self.layout.use()
            return self.layout

    def look_for_changes(self) -> None:
        """See to it that what was saved before this call is what is used after it."""
        if self._on_change is None:
            return
        with self._lock:
            start = time.monotonic()
            if start < self._next_look or self._stands_still():
                return
            seen = self._snapshot()
            if len(seen) > FEW_FILES:
                self._next_look = time.monotonic() + (time.monotonic() - start) / LOOKING_SHARE
            changed = next(
                (path for path in sorted({*seen, *self._seen}) if seen.get(path) != self._seen.get(path)), None
            )
            if changed is None:
                return
            self._seen = seen
            try:
                layout = self._lay_out()
            except CodeError as error:
                self._on_error(f"{error}; the code from before goes on")
                return
            self.layout.release()
            self.layout = layout
            self._on_change(changed)

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_EVERY)
            self.look_for_changes()

    def _stands_still(self) -> bool:
        """Whether all that was seen last is as it was then; for a new file, its folder is not."""
        known = self._seen | self._folders
        return len(known) <= FEW_FILES and all(state_of(path) == state for path, state in known.items())

    def _snapshot(self) -> Snapshot:
        """What tells one state of the sources from another: all their files."""
        self._folders.clear()
        sources = (*self._layers, self._function)
        return {path: state for source in sources for path, state in files_of(source, self._folders)}

    def _lay_out(self) -> Layout:
        made: list[Path] = []
        try:
            sources = [self._as_folder(source, made) for source in (*self._layers, self._function)]
            *layers, task_root = sources
            layer = layers[0] if len(layers) == 1 else self._merge(layers, made)
            if made:
                check_size(sum(size_of(folder) for folder in (layer, task_root)))
        except (CodeError, OSError) as error:
            for folder in made:
                remove(folder)
            if isinstance(error, OSError):
                raise CodeError(f"{error.filename}: {error.strerror}") from None
            raise
        return Layout(layer, task_root, made)

    def _as_folder(self, source: Path, made: list[Path]) -> Path:
        if source.is_dir():
            return source
        made.append(self._make_folder())
        unpack(source, made[-1])
        return made[-1]

    def _merge(self, layers: Sequence[Path], made: list[Path]) -> Path:
        made.append(self._make_folder())
        for layer in layers:
            try:
                copy_over(layer, made[-1])
            except OSError as error:
                raise CodeError(f"{layer} cannot be merged with the layers before it: {error.strerror}") from None
        return made[-1]


def files_of(source: Path, folders: Snapshot) -> Iterator[tuple[str, State]]:
    """The regular files that make up a source, but for hidden ones and bytecode; the folders are added to `folders`."""
    pending = [str(source)]
    while pending:
        path = pending.pop()
        try:
            told = os.stat(path)
            state = (told.st_mtime_ns, told.st_size, told.st_ino)
            if stat.S_ISDIR(told.st_mode):
                folders[path] = state  # before it is read: what comes later is seen the next time
                pending += [entry.path for entry in os.scandir(path) if counts(entry)]
            elif stat.S_ISREG(told.st_mode):
                yield path, state
        except OSError:
            continue  # it has gone meanwhile


def state_of(path: str) -> State | None:
    try:
        told = os.stat(path)
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size, told.st_ino


def counts(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is followed: links to folders are not, they may lead anywhere, and round in circles."""
    if entry.name.startswith(".") or entry.name == "__pycache__" or entry.name.endswith(".pyc"):
        return False
    return not (entry.is_symlink() and entry.is_dir())


def has_bootstrap(layer: Path) -> bool:
    if layer.is_dir():
        return (layer / "bootstrap").exists()
    try:
        with open_zip(layer, ZIP_HINT, str(layer)) as archive:
            return any(member.path == "bootstrap" for member in archive.files)
    except ToolError as error:
        raise CodeError(str(error)) from None


def copy_over(source: Path, target: Path) -> None:
    """Copy a folder's content into another one; what is there already gives way."""
    import shutil

    target.mkdir(exist_ok=True)
    for entry in os.scandir(source):
        place = target / entry.name
        if entry.is_dir(follow_symlinks=False):
            if place.is_symlink() or place.is_file():
                place.unlink()
            copy_over(Path(entry.path), place)
            continue
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        elif place.is_symlink() or place.exists():
            place.unlink()
        if entry.is_symlink() or entry.is_file():
            shutil.copy2(entry.path, place, follow_symlinks=False)


def size_of(folder: Path) -> int:
    return sum(os.lstat(os.path.join(where, name)).st_size for where, _, names in os.walk(folder) for name in names)


def check_size(size: int) -> None:
    if size > MAX_UNPACKED_BYTES:
        raise CodeError(
            f"the function and its layers have {size:,} bytes unpacked, the limit is {MAX_UNPACKED_BYTES:,}"
        )


def unpack(path: Path, folder: Path) -> None:
    """Unpack a zip as the service does it, modes and links as they are in it.

    Raises CodeError where it is none, is above the limit, or where something in it would land outside the folder.
    """
    try:
        with open_zip(path, ZIP_HINT, str(path)) as archive:
            archive.check_size()
            check_paths(archive)
            for member in archive.members:
                if not member.is_link:
                    extract(archive, member, folder)
            # Last, so that nothing can be written through them.
            links = [member for member in archive.members if member.is_link]
            for member in links:
                make_link(folder, member.path, os.fsdecode(archive.read(member)))
                check_link(path, folder, member.path)
            for member in links:
                check_link(path, folder, member.path)  # again: all links that it leads through exist now
    except ToolError as error:
        raise CodeError(str(error)) from None
    except (OSError, ValueError) as error:
        raise CodeError(f"{path} cannot be unpacked: {getattr(error, 'strerror', None) or error}") from None


def check_paths(archive: Archive) -> None:
    for member in archive.members:
        name = member.stored_path.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise CodeError(
                f"{archive.name} is refused: {member.stored_path!r} in it leads out of the folder it is unpacked in"
            )


def extract(archive: Archive, member: Member, folder: Path) -> None:
    """Extract one file or folder. A zip from a system without permission bits gets files that all can read."""
    place = folder / member.path
    if member.is_folder:
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as target:
        for piece in archive.pieces(member):
            target.write(piece)
    place.chmod((member.mode or 0) & 0o777 or 0o644)


def make_link(folder: Path, name: str, to: str) -> None:
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(to)


def check_link(path: Path, folder: Path, name: str) -> None:
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise CodeError(f"{path} is refused: the link {name!r} in it leads out of the folder it is unpacked in")
