"""A Python of the machine with changes to its modules, in place of a Python that does not exist yet."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from support.function_process import source


def make(folder: Path, changes: str) -> list[str]:
    """Make a program that runs Python after `changes`, a piece of code. Return the arguments of bootstrap for it.

    Bootstrap starts Python with `-u -B -S -c CODE`.
    """
    folder.mkdir()
    program, code = folder / "python3", folder / "changes.py"
    code.write_text(source(changes))
    program.write_text(
        f"""#!/bin/sh
[ "$4" = -c ] || exit 99
code=$(cat {shlex.quote(str(code))})
start=$5
shift 5
exec {shlex.quote(sys.executable)} -u -B -S -c "$code
$start" "$@"
"""
    )
    program.chmod(0o755)
    return [str(program), "/var/runtime/bootstrap.py"]
