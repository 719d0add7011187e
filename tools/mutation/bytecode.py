"""Writes a module with its bytecode: without it, each process of the tests would compile the module."""

import py_compile
import sys
import warnings
from pathlib import Path


def write_module(path: Path, source: bytes) -> None:
    """Replace a module of an unpacked layer.

    Its bytecode is compiled for this interpreter, which runs most functions of the tests; the others compile it
    themselves. Python does not compare it with the source, like the bytecode of a built layer.
    """
    path.write_bytes(source)
    for bytecode in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        bytecode.unlink()
    compiled = path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    with warnings.catch_warnings(action="ignore"):  # about `is` with a number, and the like
        py_compile.compile(str(path), str(compiled), doraise=True, invalidation_mode=mode)
