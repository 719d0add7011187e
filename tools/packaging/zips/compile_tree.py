"""Compiles all `.py` files below a folder, each into `__pycache__` beside it. A Python runs it; it is never imported.

Arguments: the folder, and the folder's path at run time, which tracebacks show. Prints each file that is not valid
Python, with a tab and the reason.

The `.pyc` files are of the kind that Python never compares with the source (PEP 552, unchecked hash): the files of a
layer cannot change, and their dates are those of its deployment.
"""

import marshal
import os
import sys
from importlib import util

# The layer's own files, which no code asks for their docstrings. They would be read at every cold start.
WITHOUT_DOCSTRINGS = ("/opt/runtime.py", "/opt/streaming_runtime/")
UNCHECKED_HASH = (0b01).to_bytes(4, "little")


def main(folder: str, unpacked_at: str) -> None:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(parent, name)
                compile_apart(path, unpacked_at + path[len(folder) :])


def compile_apart(path: str, shown_path: str) -> None:
    """Compile in a child process.

    `marshal` writes an object that is referenced more than once as a reference. Strings are shared within a process,
    so the bytes of a file would depend on the files that were compiled before it.
    """
    child = os.fork()
    if child == 0:
        try:
            compile_file(path, shown_path)
            sys.stdout.flush()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit(1)


def compile_file(path: str, shown_path: str) -> None:
    with open(path, "rb") as file:
        source = file.read()
    try:
        optimize = 2 if shown_path.startswith(WITHOUT_DOCSTRINGS) else 0
        code = compile(source, shown_path, "exec", dont_inherit=True, optimize=optimize)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deep
        print(shown_path, error, sep="\t")
        return
    compiled = util.cache_from_source(path, optimization="")
    os.makedirs(os.path.dirname(compiled), exist_ok=True)
    with open(compiled, "wb") as file:
        file.write(util.MAGIC_NUMBER + UNCHECKED_HASH + util.source_hash(source) + marshal.dumps(code))


main(*sys.argv[1:])
