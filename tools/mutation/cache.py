"""What earlier runs have found out, in `.venv/mutation.json`: what each test reaches, and what noticed a change."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from tools.common.paths import ROOT, write_atomically
from tools.mutation.changes import Change
from tools.mutation.reach import Reach

PATH = ROOT / ".venv" / "mutation.json"


class Cache:
    """The file and its two parts.

    Both are valid until the file of the test or the module changes. Afterwards, the tests that noticed changes of a
    function still come first.

    Args:
        module: of the layer, whose changes are tested.
        files: of the tests.
    """

    def __init__(self, module: str, files: list[Path], path: Path = PATH) -> None:
        self._path = path
        self._module = module
        self._keys = {file: _digest(file) for file in files}
        self._digests = {file.name: digest for file, digest in self._keys.items()}
        self._sources = {source.stem: _digest(source) for source in sources()}
        try:
            document = json.loads(path.read_text())
            reach, noticed = document["reach"], document["noticed"]
        except (OSError, ValueError, KeyError):  # the first run
            reach, noticed = {}, {}
        self._reach: dict[str, Any] = {key: reach[key] for key in self._keys.values() if key in reach}
        self._noticed: dict[str, dict[str, list[str | None]]] = noticed
        self._of_module = noticed.setdefault(module, {})
        self._by_function: dict[str, Counter[str]] = {}
        self._in_module: Counter[str] = Counter()
        for key, (test, *_) in self._of_module.items():
            self._count(key.partition(":")[0], test)

    def reach(self, file: Path) -> list[Reach] | None:
        """Return what the tests of a file reach in the module, None if that is unknown."""
        known = self._reach.get(self._keys[file])
        if known is None or known["sources"].get(self._module) != self._sources[self._module]:
            return None
        return [
            Reach(name, seconds, frozenset((self._module, line) for line in lines.get(self._module, ())))
            for name, seconds, lines in known["tests"]
        ]

    def keep_reach(self, file: Path, found: list[Reach]) -> None:
        tests = [[each.test, each.seconds, _by_module(each)] for each in found]
        self._reach[self._keys[file]] = {"sources": self._sources, "tests": tests}

    def keep_noticed(self, change: Change, test: str) -> None:
        """Remember the test that noticed a change."""
        self._of_module[_key(change)] = [test, self._sources[self._module], self._test_digest(test)]
        self._count(change.function, test)

    def noticed_by(self, change: Change) -> str | None:
        """Return the test that noticed the change in an earlier run; None if it has to run again."""
        test, *digests = self._of_module.get(_key(change), ("", "", ""))
        return test if digests == [self._sources[self._module], self._test_digest(test)] else None

    def promising(self, tests: list[Reach], change: Change) -> list[Reach]:
        """Return the tests in another order: those first that noticed most other changes near this one."""
        near = self._by_function.get(change.function, Counter())
        return sorted(tests, key=lambda each: (-near[each.test], -self._in_module[each.test]))

    def _test_digest(self, test: str) -> str | None:
        return self._digests.get(test.partition("::")[0].rpartition("/")[2])

    def save(self) -> None:
        write_atomically(self._path, json.dumps({"reach": self._reach, "noticed": self._noticed}).encode())

    def _count(self, function: str, test: str) -> None:
        self._by_function.setdefault(function, Counter())[test] += 1
        self._in_module[test] += 1


def sources() -> list[Path]:
    """Return the modules of the layer."""
    return [ROOT / "layer" / "runtime.py", *sorted(ROOT.glob("layer/streaming_runtime/*.py"))]


def _key(change: Change) -> str:
    return f"{change.function}:{change.start}-{change.end}:{change.replacement.decode()}"


def _by_module(test: Reach) -> dict[str, list[int]]:
    lines: dict[str, list[int]] = {}
    for module, line in sorted(test.places):
        lines.setdefault(module, []).append(line)
    return lines


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
