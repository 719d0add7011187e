"""The layer's bytecode: its Python files, compiled by each supported Python.

Without bytecode, Python compiles the layer at every cold start, because it cannot write `__pycache__` below /opt. The
format of bytecode differs between Python versions, so each version compiles its own. Three things could change the
bytes between builds: the path in tracebacks, the hash seed, and the files compiled before in the same process.
`pythons.run` and `compile_tree` fix all three.
"""

import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tools.common.errors import ToolError
from tools.packaging import PackagingError
from tools.packaging.zips import pythons
from tools.packaging.zips.archive import PLAIN, Entry
from tools.packaging.zips.pythons import Interpreter, InterpreterNotFound

_COMPILER = Path(__file__).with_name("compile_tree.py")
_UNPACKED_AT = "/opt"  # AWS Lambda Developer Guide, chapter-layers
_COMPILE_TIMEOUT = 300.0  # seconds, for a whole standard library on a slow machine


@dataclass(frozen=True)
class Bytecode:
    """The `.pyc` files of the layer that one interpreter wrote."""

    entries: tuple[Entry, ...]
    interpreter: Interpreter
    not_compiled: tuple[str, ...]  # files that are not valid Python, each with the reason


def compile_for_versions(sources: Mapping[str, bytes], versions: Iterable[str]) -> list[Bytecode | InterpreterNotFound]:
    """Compile the layer's Python files for all `versions` in parallel.

    Args:
        sources: by path below /opt.

    Raises:
        PackagingError: an interpreter was found, but does not compile a file.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(partial(_compile_for, sources), versions))


def compile_all(interpreter: Interpreter, sources: Mapping[str, bytes]) -> Bytecode:
    """Compile `sources`, by path below /opt, each into `__pycache__` beside it.

    Raises:
        PackagingError: the interpreter fails.
    """
    with tempfile.TemporaryDirectory(prefix="bytecode-") as name:
        folder = Path(name)
        for path, source in sources.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(source)
        output = pythons.run(interpreter.command, _COMPILER, folder, _UNPACKED_AT, timeout=_COMPILE_TIMEOUT)
        paths = sorted(folder.rglob("*.pyc"))
        entries = tuple(Entry(path.relative_to(folder).as_posix(), PLAIN, path.read_bytes()) for path in paths)
    reasons = (line.replace("\t", ": ") for line in output.decode(errors="replace").splitlines())
    return Bytecode(entries, interpreter, tuple(reasons))


def record(zip_name: str, compiled: Iterable[Bytecode]) -> bytes:
    """Return the lines of `INTERPRETERS` about the bytecode in a zip: the same bytes need the same Pythons."""
    used = (bytecode.interpreter for bytecode in compiled)
    return "".join(f"{zip_name}  {each.cache_tag}  {each.build}\n" for each in used).encode()


def _compile_for(sources: Mapping[str, bytes], version: str) -> Bytecode | InterpreterNotFound:
    try:
        interpreter = pythons.find(version)
    except InterpreterNotFound as error:
        return error
    try:
        compiled = compile_all(interpreter, sources)
    except ToolError as error:
        raise PackagingError(f"the layer cannot be compiled: {error}") from error
    if compiled.not_compiled:
        raise PackagingError(f"the layer cannot be compiled: {compiled.not_compiled[0]}")
    return compiled
