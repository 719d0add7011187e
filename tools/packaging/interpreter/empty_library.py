"""A shared library without content: the `libpython` of an interpreter that contains its code itself.

Some wheels contain extension modules that are linked to `libpython3.X.so.1.0`, although an extension module should not
be (PEP 513, "libpythonX.Y.so.1"). They load wherever a library of that name is found; the symbols come from the
interpreter. A copy of the real one would add 29 MB to the layer, and an empty one is enough.

Format: System V ABI (gABI, chapters 4 and 5). The dynamic loader needs a symbol table and its hash table, even if there
is no symbol.
"""

import struct

from tools.packaging.interpreter.elf import MACHINES

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<QQ")
_SYMBOL_BYTES = 24
_ET_DYN = 3
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_DT_NULL, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = 0, 4, 5, 6, 10, 11, 14
_READ, _WRITE = 4, 2
_ALIGNMENT = 0x10000  # the largest page size of both architectures


def empty_library(name: str, architecture: str) -> bytes:
    """Return a shared library with this DT_SONAME, and no symbols.

    Args:
        architecture: x86_64 or arm64.
    """
    machine = next(number for number, each in MACHINES.items() if each == architecture)
    segments = 3
    symbols = _HEADER.size + segments * _PROGRAM_HEADER.size
    hash_table = symbols + _SYMBOL_BYTES  # the first symbol is always empty
    table = struct.pack("<IIII", 1, 1, 0, 0)  # one bucket, one symbol
    dynamic = hash_table + len(table)
    strings = b"\0" + name.encode() + b"\0"
    entries = 7
    strings_start = dynamic + entries * _DYNAMIC.size
    size = strings_start + len(strings)
    tags = (
        (_DT_SONAME, 1),
        (_DT_HASH, hash_table),
        (_DT_STRTAB, strings_start),
        (_DT_SYMTAB, symbols),
        (_DT_STRSZ, len(strings)),
        (_DT_SYMENT, _SYMBOL_BYTES),
        (_DT_NULL, 0),
    )
    identification = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head = (identification, _ET_DYN, machine, 1, 0, _HEADER.size, 0, 0, _HEADER.size, _PROGRAM_HEADER.size, segments)
    # The loader writes to the dynamic section. Without PT_GNU_STACK it would make the stack executable.
    mapped = (_PT_LOAD, _READ | _WRITE, 0, 0, 0, size, size, _ALIGNMENT)
    dynamic_segment = (_PT_DYNAMIC, _READ | _WRITE, dynamic, dynamic, dynamic, *[entries * _DYNAMIC.size] * 2, 8)
    stack = (_PT_GNU_STACK, _READ | _WRITE, 0, 0, 0, 0, 0, 16)
    return b"".join(
        (
            _HEADER.pack(*head, 0, 0, 0),
            *(_PROGRAM_HEADER.pack(*segment) for segment in (mapped, dynamic_segment, stack)),
            bytes(_SYMBOL_BYTES),
            table,
            *(_DYNAMIC.pack(*tag) for tag in tags),
            strings,
        )
    )
