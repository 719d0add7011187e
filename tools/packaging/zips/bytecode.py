"""The layer's bytecode: its Python files compiled by each supported Python, so that no cold start has to do it."""

import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tools.common.errors import ToolError
from tools.packaging import PackagingError
from tools.packaging.zips import pythons as interpreters
from tools.packaging.zips.archive import PLAIN, Entry
from tools.packaging.zips.pythons import Interpreter, NotFoundError

_COMPILER = Path(__file__).with_name("compile_tree.py")
_UNPACKED_AT = "/opt"  # AWS Lambda Developer Guide, chapter-layers


@dataclass(frozen=True)
class Bytecode:
    """The ``.pyc`` files of the layer that one interpreter made."""

    entries: tuple[Entry, ...]
    interpreter: Interpreter
    not_compiled: tuple[str, ...]  # files that are no valid Python, each with the reason


def make(sources: Mapping[str, bytes], versions: Iterable[str]) -> list[Bytecode | NotFoundError]:
    """Compile the layer's Python files, by their paths, for the Python ``versions``, all at a time.

    Raises:
        PackagingError: an interpreter was found, but does not compile it.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(partial(_make, sources), versions))


def compile_all(interpreter: Interpreter, sources: Mapping[str, bytes]) -> Bytecode:
    """Compile the Python files among ``sources``, by their paths below ``/opt``.

    Raises:
        PackagingError: the interpreter fails.
    """
    with tempfile.TemporaryDirectory(prefix="bytecode-") as name:
        folder = Path(name)
        for path, source in sources.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(source)
        limit = interpreters.COMPILING_LIMIT
        refused = interpreters.run(interpreter.command, _COMPILER, folder, _UNPACKED_AT, limit=limit)
        compiled = sorted(folder.rglob("*.pyc"))
        entries = tuple(Entry(path.relative_to(folder).as_posix(), PLAIN, path.read_bytes()) for path in compiled)
    reasons = (line.replace("\t", ": ") for line in refused.decode(errors="replace").splitlines())
    return Bytecode(entries, interpreter, tuple(reasons))


def record(zip_name: str, made: Iterable[Bytecode]) -> bytes:
    """Give the lines that say which interpreters made the bytecode in the zip, for whoever builds it again."""
    used = (bytecode.interpreter for bytecode in made)
    return "".join(f"{zip_name}  {each.cache_tag}  {each.build}\n" for each in used).encode()


def _make(sources: Mapping[str, bytes], version: str) -> Bytecode | NotFoundError:
    try:
        interpreter = interpreters.find(version)
    except NotFoundError as error:
        return error
    try:
        made = compile_all(interpreter, sources)
    except ToolError as error:
        raise PackagingError(f"the layer cannot be compiled: {error}") from error
    if made.not_compiled:
        raise PackagingError(f"the layer cannot be compiled: {made.not_compiled[0]}")
    return made
