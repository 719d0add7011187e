"""Which statements of the layer each test reaches.

The tests start the layer as processes with an environment of their own, some in other file systems, and Python runs
there without `site`: no tool could measure them from outside. So the layer reports itself. In a copy of it, a call
precedes each statement; its first execution in a process appends `module:line` to a file. The file is read after each
test.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.mutation.bytecode import write_module

# Put at the top of each module. What the function does with `posix` or the module's names later does not matter.
_RECORDER = """
import posix as _posix
def _tools_record(line, seen=set(), name=__name__.rpartition(".")[2].encode(), open=_posix.open, write=_posix.write,
            close=_posix.close, flags=_posix.O_WRONLY | _posix.O_APPEND | _posix.O_CLOEXEC):
    if line not in seen:
        seen.add(line)
        try:
            file = open({path!r}, flags)
            write(file, b"%b:%d\\n" % (name, line))
            close(file)
        except OSError:
            pass
"""

Place = tuple[str, int]  # a module, and the first line of a statement


@dataclass(frozen=True)
class Reach:
    """What one test reaches.

    Args:
        test: the node ID of pytest.
        seconds: its duration.
        places: the statements.
    """

    test: str
    seconds: float
    places: frozenset[Place]


def instrument(layer: Path, record: Path) -> None:
    """Make the unpacked layer in `layer` append what it reaches to the file `record`."""
    record.touch()
    record.chmod(0o666)  # some tests run functions as another user
    for path in [layer / "runtime.py", *layer.glob("streaming_runtime/*.py")]:
        tree = ast.parse(path.read_bytes())
        _precede(tree)
        recorder = ast.parse(_RECORDER.format(path=str(record)))
        tree.body[_after_docstring(tree.body) : 0] = recorder.body
        write_module(path, ast.unparse(ast.fix_missing_locations(tree)).encode())


def _precede(tree: ast.AST) -> None:
    for node in list(ast.walk(tree)):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                start = _after_docstring(block) if name == "body" else 0
                block[start:] = [new for each in block[start:] for new in (_call(each), each)]


def _after_docstring(block: list[ast.stmt]) -> int:
    first = block[0] if block else None
    return int(isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant))


def _call(statement: ast.stmt) -> ast.stmt:
    call = ast.parse(f"_tools_record({statement.lineno})").body[0]
    return call


def read(record: Path) -> frozenset[Place]:
    """Return the statements that were reached since the last call, and clear the file."""
    lines = record.read_text().splitlines()
    record.write_text("")
    return frozenset(_places(lines))


def _places(lines: list[str]) -> Iterator[Place]:
    for line in lines:
        module, colon, number = line.partition(":")
        if colon and number.isdecimal():
            # `__init__` executes the others by their path; it and runtime.py have the names of their import.
            yield {"streaming_runtime": "__init__", "__main__": "runtime"}.get(module, module), int(number)


def within(tests: list[Reach], seconds: float) -> list[Reach]:
    """Return the first tests, and at least one, whose times add up to at most `seconds`."""
    total = 0.0
    chosen: list[Reach] = []
    for each in tests:
        total += each.seconds
        if chosen and total > seconds:
            break
        chosen.append(each)
    return chosen


def choose(reaches: list[Reach], place: Place, function: range) -> list[Reach]:
    """Return the tests that reach a statement, those that will probably notice a change first.

    Those in the file of the module's name come first. Of the others, a test of a function reaches statements of it that
    few others reach, and each start of the runtime executes the rest. So those come next that reach most of such
    statements per second: the best of each file, the second of each file, and so on, because each file tests something
    else.

    Args:
        function: the lines of the function that contains the statement.
    """
    found = [each for each in reaches if place in each.places]
    lines = {
        each.test: {line for module, line in each.places if module == place[0] and line in function} for each in found
    }
    reached_by = Counter(line for each in lines.values() for line in each)
    value = {each.test: sum(1 / reached_by[line] for line in lines[each.test]) / (each.seconds + 0.1) for each in found}
    found.sort(key=lambda each: -value[each.test])
    in_file: Counter[str] = Counter()
    ranks: dict[str, int] = {}  # by test
    for each in found:
        file = each.test.partition("::")[0]
        ranks[each.test] = in_file[file]
        in_file[file] += 1
    name = f"/test_{place[0].strip('_')}.py::"
    return sorted(found, key=lambda each: (name not in each.test, ranks[each.test], -value[each.test]))
