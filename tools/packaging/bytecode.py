"""The layer's bytecode: ``runtime.py`` compiled by each supported Python, so that no cold start has to do it."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tools.packaging import PackagingError, interpreters
from tools.packaging.archive import PLAIN, Entry
from tools.packaging.interpreters import Interpreter, NotFoundError

_COMPILER = Path(__file__).with_name("compile_source.py")
_UNPACKED_AT = "/opt/runtime.py"  # AWS Lambda Developer Guide, chapter-layers


@dataclass(frozen=True)
class Bytecode:
    """A ``.pyc`` of the layer, and the interpreter that made it."""

    entry: Entry
    interpreter: Interpreter


def make(source: bytes, versions: Iterable[str]) -> list[Bytecode | NotFoundError]:
    """Compile the ``source`` of ``runtime.py`` for the Python ``versions``, all at a time.

    Raises:
        PackagingError: an interpreter was found, but does not compile it.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(partial(_make, source), versions))


def record(zip_name: str, made: Iterable[Bytecode]) -> bytes:
    """Give the lines that say which interpreters made the bytecode in the zip, for whoever builds it again."""
    interpreters_used = (bytecode.interpreter for bytecode in made)
    return "".join(f"{zip_name}  {used.cache_tag}  {used.build}\n" for used in interpreters_used).encode()


def _make(source: bytes, version: str) -> Bytecode | NotFoundError:
    try:
        interpreter = interpreters.find(version)
    except NotFoundError as error:
        return error
    try:
        compiled = interpreters.run(interpreter.path, _COMPILER, _UNPACKED_AT, stdin=source)
    except PackagingError as error:
        raise PackagingError(f"runtime.py cannot be compiled: {error}") from error
    return Bytecode(Entry(f"__pycache__/runtime.{interpreter.cache_tag}.pyc", PLAIN, compiled), interpreter)
