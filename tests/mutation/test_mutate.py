"""`./build.sh mutate`: the changes, which tests reach what, and the processes that run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.checkout import ROOT
from support.function_process import TIMEOUT

from tools.mutation import reach, running
from tools.mutation.bytecode import write_module
from tools.mutation.cache import Cache
from tools.mutation.changes import changes_of
from tools.mutation.reach import Reach
from tools.mutation.running import Job

MODULES = [ROOT / "layer" / "runtime.py", *sorted(ROOT.glob("layer/streaming_runtime/*.py"))]


def described(source: str) -> list[str]:
    data = source.encode()
    return [each.describe(data) for each in changes_of(data)]


# The changes

CHANGES = {
    "a call": ("lock.acquire()", ["without lock.acquire()"]),
    "an assignment to an attribute": ("def f(self):\n    self.body = data", ["without self.body = data"]),
    "an assignment to a variable is not removed": ("body = data", []),
    "a raise": ("raise ValueError('no')", ["without raise ValueError('no')"]),
    "a value that is returned": ("def f():\n    return data", ["data -> None"]),
    "a comparison": ("x = a < b", ["< -> <="]),
    "a comparison after brackets": ("x = (a) is not (b)", [") is not ( -> ) is ("]),
    "a condition": ("if ready:\n    x = y", ["ready -> False", "ready -> True"]),
    "a loop is not made endless": ("while ready:\n    x = y", ["ready -> False"]),
    "each part of a condition": ("x = a and b and c", ["a and b and c -> ((b) and (c))"]),
    "a negation": ("x = not a", ["not a -> a"]),
    "a number": ("x = 16", ["16 -> 17"]),
    "a truth value": ("x = True", ["True -> False"]),
    "an operator": ("x = a + b", ["+ -> -"]),
    "the addition of texts": ("x = a + 'b'", []),
    "a keyword argument": ("x = f(1, key=a)", ["1 -> 2", "f(1, key=a) -> f(1)"]),
    "the larger of two": ("x = max(a, b)", ["max -> min"]),
    "a constant text": ("NAME = 'a'", ["'a' -> 'aa'"]),
    "an exception that is handled": ("try:\n    x = y\nexcept OSError:\n    x = z", ["x = z -> raise"]),
    "the condition of a comprehension": ("x = [a for a in b if c]", ["c -> True"]),
    "a message": ("x = f'{a} of {b + 1}'", []),
    "a docstring": ("'''Not a statement.'''", []),
    "code for the type checker": ("if TYPE_CHECKING:\n    limit = 1", []),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_each_kind_of_statement_has_its_changes(kind: str) -> None:
    source, expected = CHANGES[kind]
    found = described(source)
    assert set(expected) <= set(found) if expected else found == []


@pytest.mark.parametrize("path", MODULES, ids=[path.stem for path in MODULES])
def test_every_change_of_the_layer_is_valid_python_and_differs_from_the_source(path: Path) -> None:
    source = path.read_bytes()
    for change in changes_of(source)[::20]:  # to compile all takes half a minute
        changed = change.apply(source)
        assert changed != source
        compile(changed, path.name, "exec")


def test_a_change_knows_its_statement_and_its_function() -> None:
    source = b"class A:\n    def f(self):\n        self.a = (\n            1\n        )\n"
    assert [(each.line, each.statement, each.function) for each in changes_of(source)] == [
        (3, 3, "A.f"),
        (4, 3, "A.f"),
    ]


# What a test reaches


def test_an_instrumented_module_does_the_same_and_records_what_it_reaches(tmp_path: Path) -> None:
    package = tmp_path / "streaming_runtime"
    package.mkdir()
    (tmp_path / "runtime.py").write_text("import streaming_runtime.part\n")
    (package / "__init__.py").write_text('"""Docstring."""\n')
    (package / "part.py").write_text(
        '"""Docstring."""\n'
        "def f(value):\n"
        '    """Docstring."""\n'
        "    if value:\n"
        "        return 1\n"
        "    elif value is None:\n"
        "        return 2\n"
        "    return 3\n"
        "class A:\n"
        "    def _record(self):\n"
        "        pass\n"
        "    x = 1\n"
    )
    record = tmp_path / "record"
    reach.instrument(tmp_path, record)
    code = "import runtime; from streaming_runtime.part import f; print(f(None), f.__doc__, f(None))"
    result = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("2 Docstring. 2\n", "")
    assert reach.read(record) == {("runtime", 1), *(("part", line) for line in (2, 4, 6, 7, 9, 10, 12))}
    assert reach.read(record) == frozenset()


def test_the_file_of_the_module_comes_first_and_then_the_test_of_each_file_that_reaches_rare_statements() -> None:
    start, rare, elsewhere = ("http1", 10), ("http1", 12), ("http1", 30)
    tests = [
        Reach("tests/runtime/test_api.py::a", 0.1, frozenset({start, elsewhere})),
        Reach("tests/runtime/test_api.py::b", 0.1, frozenset({start, rare})),
        Reach("tests/runtime/test_log.py::c", 0.1, frozenset({start})),
        Reach("tests/runtime/test_http1.py::slow", 5.0, frozenset({start, rare})),
        Reach("tests/runtime/test_http1.py::fast", 1.0, frozenset({start, rare})),
        Reach("tests/runtime/test_http1.py::other", 0.1, frozenset({elsewhere})),
    ]
    chosen = reach.choose(tests, start, range(10, 13))
    assert [each.test.rpartition("::")[2] for each in chosen] == ["fast", "slow", "b", "c", "a"]
    assert reach.within(chosen, 0.5) == chosen[:1]
    assert reach.within(chosen, 6.0) == chosen[:2]


def test_the_bytecode_of_a_changed_module_replaces_that_of_the_layer(tmp_path: Path) -> None:
    path = tmp_path / "part.py"
    for number in (1, 2):
        write_module(path, f"print({number})".encode())
    path.write_text("print('from the source')")  # Python does not compare it with the bytecode
    result = subprocess.run([sys.executable, "-c", "import part"], cwd=tmp_path, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("2\n", "")


# What earlier runs have found out


def test_what_a_test_noticed_is_known_in_the_next_run_and_tests_that_noticed_changes_nearby_come_first(
    tmp_path: Path,
) -> None:
    file = tmp_path / "test_part.py"
    file.write_text("one")
    names = [f"tests/runtime/test_part.py::{letter}" for letter in "abcd"]
    tests = [Reach(name, 0.1, frozenset({("http1", 10)})) for name in names]
    source = "def f(a, b):\n    return a < b\ndef g(a):\n    return a + 1\ndef h(a):\n    return a + 1\n"
    less, plus, elsewhere = {each.function: each for each in changes_of(source.encode())}.values()

    def open_cache() -> Cache:
        return Cache("http1", [file], tmp_path / "mutation.json")

    cache = open_cache()
    assert cache.promising(tests, less) == tests and cache.noticed_by(less) is None
    cache.keep_noticed(less, names[3])
    cache.keep_noticed(plus, names[2])
    cache.save()
    cache = open_cache()
    assert (cache.noticed_by(less), cache.noticed_by(elsewhere)) == (names[3], None)
    assert [each.test[-1] for each in cache.promising(tests, less)] == ["d", "c", "a", "b"]
    assert [each.test[-1] for each in cache.promising(tests, plus)] == ["c", "d", "a", "b"]
    file.write_text("two")
    cache = open_cache()
    assert cache.noticed_by(less) is None
    assert [each.test[-1] for each in cache.promising(tests, less)] == ["d", "c", "a", "b"]


def test_what_a_test_reaches_is_known_until_the_test_changes(tmp_path: Path) -> None:
    file = tmp_path / "test_part.py"
    places = frozenset({("http1", 10), ("api", 3)})
    file.write_text("one")
    cache = Cache("http1", [file], tmp_path / "mutation.json")
    cache.keep_reach(file, [Reach("test_part.py::a", 0.5, places)])
    cache.save()
    (known,) = Cache("api", [file], tmp_path / "mutation.json").reach(file) or []
    assert (known.test, known.seconds, known.places) == ("test_part.py::a", 0.5, {("api", 3)})
    file.write_text("two")
    assert Cache("api", [file], tmp_path / "mutation.json").reach(file) is None


# The processes


def results(*works: Any, seconds: float = TIMEOUT, slots: int = 2, deadline: float = TIMEOUT) -> dict[int, Any]:
    jobs = (Job(number, work, seconds) for number, work in enumerate(works))
    return dict(running.run_all(jobs, slots, time.monotonic() + deadline))


def sleep(_: int) -> None:
    signal.pause()


def test_the_result_of_each_job_is_returned_with_its_key() -> None:
    assert results(lambda slot: "a", lambda slot: "b", lambda slot: "c") == {0: "a", 1: "b", 2: "c"}


def test_a_job_that_takes_too_long_or_dies_has_no_result() -> None:
    assert results(sleep, lambda slot: os._exit(1), seconds=0.2) == {0: None, 1: None}


def test_at_the_deadline_everything_ends() -> None:
    assert results(sleep, sleep, sleep, slots=1, deadline=0.2) == {}


# The command


def test_the_help_needs_no_packages_and_unknown_modules_are_wrong_usage() -> None:
    command = [sys.executable, "-S", "-m", "tools.mutation", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: ./build.sh mutate ")
    for words, status in ((["--lines"], 2), (["http1"], 3)):  # 3: build.sh installs the packages
        command = [sys.executable, "-S", "-m", "tools.mutation", *words]
        environment = os.environ | {"STATUS_WITHOUT_PACKAGES": "3"}
        assert subprocess.run(command, capture_output=True, cwd=ROOT, env=environment).returncode == status
    wrong = [sys.executable, "-m", "tools.mutation", "bootstrap"]
    result = subprocess.run(wrong, capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("build.sh: error: the layer has no module 'bootstrap': use one of __init__, ")


@pytest.mark.long
def test_what_a_test_notices_is_no_survivor() -> None:
    lines = (ROOT / "layer" / "streaming_runtime" / "http1.py").read_text().splitlines()
    line = lines.index("        if head.status in (204, 304):") + 1
    command = [ROOT / "build.sh", "mutate", "http1", "--lines", str(line)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "304 -> 305" not in result.stdout
    assert result.stdout.splitlines()[-1].startswith("http1.py: ")
