"""Compiles all ``.py`` files below a folder, each into ``__pycache__`` beside it; run by a Python, never imported.

Arguments: the folder, and the folder that it will be when it runs, which tracebacks show. Prints the files that are no
valid Python, each with a tab and the reason. A ``.pyc`` is of the kind that is never compared with its source (PEP 552,
unchecked hash): a layer cannot change, and its files have a date of their own.
"""

import marshal
import os
import sys
from importlib import util

UNCHECKED_HASH = (0b01).to_bytes(4, "little")


def main(folder: str, unpacked_at: str) -> None:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(parent, name)
                compile_apart(path, unpacked_at + path[len(folder) :])


def compile_apart(path: str, shown_path: str) -> None:
    """Compile in a child: marshal marks what is used more than once, be it by a file that was compiled before."""
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
        code = compile(source, shown_path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two where it nests too deep
        print(shown_path, error, sep="\t")
        return
    compiled = util.cache_from_source(path, optimization="")
    os.makedirs(os.path.dirname(compiled), exist_ok=True)
    with open(compiled, "wb") as file:
        file.write(util.MAGIC_NUMBER + UNCHECKED_HASH + util.source_hash(source) + marshal.dumps(code))


main(*sys.argv[1:])
