"""The layers and the code of a function, in folders or zips, and the folders that environments run from.

Theory of operation. `FunctionCode` compares the sources with a snapshot: the modification time, size and inode of each
file. It does that before each invocation, so that a request never runs code from before the last save, and every half
second, so that a change is reported without a request. The check before each invocation must be cheap. With few files
it compares only the files of the last snapshot and their folders, because a new file changes its folder. With many
files it checks less often, so that the checks take a limited share of the time.

The snapshot is taken before the sources are read. A file that changes in between is found at the next check, and read
again; the other order would miss it.

A folder with files that its zip would not contain is replaced by a view of it, see `zip_view`. When the first of these
files appears, there is a new layout too.

A change makes a new `Layout`, also where the folders are the same, because processes have loaded the old files. Layouts
count their users: environments that still run from an unpacked zip keep its folder.

https://docs.aws.amazon.com/lambda/latest/dg/chapter-layers.html: layers are unpacked into one folder in their order,
and a later file replaces an earlier one.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tools.common.errors import ToolError
from tools.common.function_folder import NotInZip, compare_with_zip, is_ignored
from tools.emulator.sandbox.supervisor_client import remove_folder

CHECK_INTERVAL = 0.5  # seconds
FEW_FILES = 1000  # so many are checked before each invocation, which takes a few milliseconds
MAX_CHECK_SHARE = 0.05  # of the time, for more files

State = tuple[int, int, int]  # of a file or a folder: modification time, size, inode
Snapshot = dict[str, State]


class Layout:
    """The folders that environments run from.

    Args:
        made: folders that were made for this layout; they are removed when nothing uses it any more.
        source_root: the function's folder if `task_root` is a view of it.
    """

    def __init__(self, layer: Path, task_root: Path, made: list[Path], source_root: Path | None = None) -> None:
        self.layer = layer
        self.task_root = task_root
        self.source_root = source_root
        self._made = made
        self._users = 1  # FunctionCode, while this is the current layout
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
            remove_folder(folder)


class FunctionCode:
    """The sources of one function, and their current layout.

    Args:
        layers: folders or zips, in their order.
        function: a folder or a zip.
        runtime: the folder of the runtime's own layer, which precedes the others unless one of them has a `bootstrap`.
        make_folder: returns a new folder, which is removed at the end of the emulator.
        reload: whether `watch` will be called. Otherwise no snapshot is taken, which would delay the first invocation.
        debugged: whether an editor sets breakpoints in the function's folder.

    Attributes:
        not_in_zip: what the zip of the function's folder would not contain, when the layout was made.

    Raises ToolError if a source cannot be used.
    """

    def __init__(
        self,
        layers: Sequence[Path],
        function: Path,
        runtime: Path,
        make_folder: Callable[[], Path],
        reload: bool = False,
        debugged: bool = False,
    ) -> None:
        self._layers = layers if any(map(has_bootstrap, layers)) else [runtime, *layers]
        self._function = function
        self._make_folder = make_folder
        self._debugged = debugged
        self.not_in_zip = NotInZip([], [])
        self._on_change: Callable[[str | None], None] | None = None
        self._on_error: Callable[[str], None] = lambda message: None
        self._is_watching = False
        self._lock = threading.Lock()
        self._folders: Snapshot = {}
        self._seen = self._snapshot() if reload else {}
        self._next_check = 0.0
        self.layout = self._make_layout()

    @property
    def sources(self) -> tuple[Sequence[Path], Path]:
        """The layers in their order, and the function; folders or zips."""
        return self._layers, self._function

    def watch(self, on_change: Callable[[str | None], None], on_error: Callable[[str], None]) -> None:
        """Load the sources again whenever they change.

        Args:
            on_change: called with the path of a file that has changed, when there is a new layout; with None if all
                files are the same, but the zip would not contain some of them.
            on_error: called with the reason why the changed sources cannot be used.
        """
        self._on_change, self._on_error = on_change, on_error
        self._is_watching = True
        threading.Thread(target=self._watch, daemon=True).start()

    def stop_watching(self) -> None:
        self._is_watching = False

    def use(self) -> Layout:
        """Return the current layout; the caller releases it."""
        with self._lock:
            self.layout.use()
            return self.layout

    def check_for_changes(self) -> None:
        """Make a new layout if a source has changed before this call."""
        if self._on_change is None:
            return
        with self._lock:
            start = time.monotonic()
            if start < self._next_check or self._is_unchanged():
                return
            seen = self._snapshot()
            changed = {path for path in {*seen, *self._seen} if seen.get(path) != self._seen.get(path)}
            makes_view = not changed and self.layout.source_root is None and self._finds_left_out()
            if len(seen) > FEW_FILES:
                self._next_check = time.monotonic() + (time.monotonic() - start) / MAX_CHECK_SHARE
            if not changed and not makes_view:
                return
            self._seen = seen
            try:
                layout = self._make_layout()
            except ToolError as error:
                self._on_error(f"{error}; the previous code stays in use")
                return
            self.layout.release()
            self.layout = layout
            self._on_change(min(changed, default=None))

    def follow_source(self) -> None:
        """Keep the view of the function's folder current, in its place: a developer's process runs from there."""
        if self.layout.source_root is not None:
            threading.Thread(target=self._follow_source, daemon=True).start()

    def _follow_source(self) -> None:
        from tools.emulator.deployment.zip_view import update_view  # see `_make_view`

        duration = 0.0
        while True:
            time.sleep(max(CHECK_INTERVAL, duration / MAX_CHECK_SHARE))
            start = time.monotonic()
            with contextlib.suppress(OSError):  # the next round repeats it
                update_view(self._function, self.layout.task_root, self._debugged)
            duration = time.monotonic() - start

    def _watch(self) -> None:
        time.sleep(CHECK_INTERVAL)
        while self._is_watching:  # not after `stop_watching`: the sources may be removed then
            self.check_for_changes()
            time.sleep(CHECK_INTERVAL)

    def _is_unchanged(self) -> bool:
        """Whether all files and folders of the last snapshot are the same; False if there are too many to check."""
        known = self._seen | self._folders
        return len(known) <= FEW_FILES and all(state_of(path) == state for path, state in known.items())

    def _snapshot(self) -> Snapshot:
        self._folders.clear()
        sources = (*self._layers, self._function)
        return {path: state for source in sources for path, state in files_of(source, self._folders)}

    def _make_layout(self) -> Layout:
        made: list[Path] = []
        try:
            *layers, task_root = [self._as_folder(source, made) for source in (*self._layers, self._function)]
            layer = layers[0] if len(layers) == 1 else self._merge(layers, made)
            is_unpacked, source_root = bool(made), None
            if self._finds_left_out():
                source_root, task_root = task_root, self._make_view(made)
            if is_unpacked:
                from tools.emulator.deployment.unpack import check_size  # see `_as_folder`

                check_size(sum(size_of(folder) for folder in (layer, task_root)))
            return Layout(layer, task_root, made, source_root)
        except (ToolError, OSError) as error:
            for folder in made:
                remove_folder(folder)
            if isinstance(error, OSError):
                raise ToolError(f"{error.filename}: {error.strerror}") from None
            raise

    def _finds_left_out(self) -> bool:
        """Look for files of the function's folder that its zip would not contain, and return whether there are any."""
        if self._function.is_dir():
            self.not_in_zip = compare_with_zip(self._function)
        return bool(self.not_in_zip.left_out)

    def _make_view(self, made: list[Path]) -> Path:
        from tools.emulator.deployment.zip_view import update_view  # few functions need it

        made.append(self._make_folder())
        view = made[-1] / (self._function.name or "function")
        view.mkdir()
        update_view(self._function, view, self._debugged)
        return view

    def _as_folder(self, source: Path, made: list[Path]) -> Path:
        if source.is_dir():
            return source
        # Imported here: `zipfile` with all its compression formats would delay a start without zips by 15 ms.
        from tools.emulator.deployment.unpack import unpack

        made.append(self._make_folder())
        unpack(source, made[-1])
        return made[-1]

    def _merge(self, layers: Sequence[Path], made: list[Path]) -> Path:
        made.append(self._make_folder())
        for layer in layers:
            try:
                copy_over(layer, made[-1])
            except OSError as error:
                raise ToolError(f"{layer} cannot be merged with the layers before it: {error.strerror}") from None
        return made[-1]


def files_of(source: Path, folders: Snapshot) -> Iterator[tuple[str, State]]:
    """Yield the regular files of a source, except hidden ones and bytecode, and add its folders to `folders`.

    Links to folders are followed, because imports follow them: a package of a monorepo is often such a link. They can
    lead in a circle, so each folder is read once, and a link to a folder around the source is not followed. Links come
    after all other folders: a folder that has a path without links keeps that path in every snapshot.
    """
    known = {identity(status) for folder in source.parents if (status := status_of(str(folder)))}
    pending = [str(source)]
    links: list[str] = []
    while pending or links:
        path = pending.pop() if pending else links.pop()
        status = status_of(path)
        if status is None:  # it was removed meanwhile, or it is a link to nothing
            continue
        if stat.S_ISREG(status.st_mode):
            yield path, state_in(status)
        if not stat.S_ISDIR(status.st_mode) or identity(status) in known:
            continue
        known.add(identity(status))
        folders[path] = state_in(status)  # taken before the folder is read: a later change is found at the next check
        for entry in watched_entries(path):
            (links if entry.is_symlink() else pending).append(entry.path)


def watched_entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        entries = [entry for entry in os.scandir(folder) if not is_ignored(entry.name)]
    except OSError:  # it was removed meanwhile, or it cannot be read
        return []
    return sorted(entries, key=lambda entry: entry.name)


def status_of(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def state_in(status: os.stat_result) -> State:
    return status.st_mtime_ns, status.st_size, status.st_ino


def state_of(path: str) -> State | None:
    status = status_of(path)
    return state_in(status) if status else None


def has_bootstrap(layer: Path) -> bool:
    if layer.is_dir():
        return (layer / "bootstrap").exists()
    from tools.emulator.deployment.unpack import contains  # see `_as_folder`

    return contains(layer, "bootstrap")


def copy_over(source: Path, target: Path) -> None:
    """Copy the content of a folder into another one. Existing files are replaced, folders are merged."""
    import shutil  # a start with one layer does not need it

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
    files = (status_of(os.path.join(where, name)) for where, _, names in os.walk(folder) for name in names)
    return sum(status.st_size for status in files if status is not None)
