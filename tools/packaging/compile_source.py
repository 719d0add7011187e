"""Compiles stdin to a ``.pyc`` on stdout; run by each Python that the layer gets bytecode for, never imported.

The argument is the file name that tracebacks show. The ``.pyc`` is of the kind that is never compared with its source
(PEP 552, unchecked hash): a layer cannot change, and its files have a date of their own.
"""

import marshal
import sys

UNCHECKED_HASH = (0b01).to_bytes(4, "little")


def main() -> None:
    source = sys.stdin.buffer.read()
    # Before the import: marshal marks what is used more than once, be it by another module of this process.
    code = marshal.dumps(compile(source, sys.argv[1], "exec", dont_inherit=True))
    from importlib import util

    sys.stdout.buffer.write(util.MAGIC_NUMBER + UNCHECKED_HASH + util.source_hash(source) + code)


main()
