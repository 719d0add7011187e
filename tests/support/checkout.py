"""A copy of the product in a folder of its own, and the real `build.sh` run in it."""

import atexit
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# The variables of the caller, without those of Python and of version managers: one of their shims takes longer than a
# whole build. Those of GitHub Actions would become part of a release. The Python of the tests comes first on PATH.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYENV", "GITHUB_"))}
ENVIRONMENT["PATH"] = ":".join(
    [
        str(Path(sys.executable).resolve().parent),
        *(folder for folder in os.environ["PATH"].split(":") if Path(folder).name != "shims"),
    ]
)
ENVIRONMENT["PYENV_ROOT"] = "/nonexistent"

_BUILD_INPUTS = (
    "build.sh",
    "LICENSE",
    "layer-manifest.json",
    "layer",
    "function",
    "tools/common",
    "tools/packaging",
    "tools/fleet",
    "tools/emulator",
)
_NOT_FOR_BUILDS = ("tools/fleet", "tools/emulator")
_TEST_INPUTS = ("tests/requirements.txt", "tests/requirements-no-deps.txt")

_IGNORED = shutil.ignore_patterns("__pycache__")


@cache
def _tools() -> Path:
    """Return a folder with a copy of `tools`. Checkouts have links to its files: a copy of each takes much longer.

    The modules of the build are compiled: it keeps no bytecode, and compiling them takes a quarter of its time.
    """
    folder = Path(tempfile.mkdtemp(prefix="tools-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=_IGNORED)
    compiled = [folder / "tools" / name for name in ("common", "packaging")]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *compiled], env=ENVIRONMENT, check=True)
    return folder


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another file system
        shutil.copy2(source, target)


@dataclass(frozen=True)
class Checkout:
    root: Path

    @classmethod
    def at(cls, root: Path) -> "Checkout":
        return cls._with((*_BUILD_INPUTS, *_TEST_INPUTS), root)

    @classmethod
    def for_fleet(cls, root: Path) -> "Checkout":
        """Make one in which only the commands for AWS run, with a link to their code, which nothing must change."""
        checkout = cls._with([name for name in _BUILD_INPUTS if name not in _NOT_FOR_BUILDS], root)
        (root / "tools" / "fleet").symlink_to(_tools() / "tools" / "fleet")
        return checkout

    @classmethod
    def _with(cls, names: Iterable[str], root: Path) -> "Checkout":
        for name in names:
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name.startswith("tools/"):
                shutil.copytree(_tools() / name, target, copy_function=_link)
            elif (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target, ignore=_IGNORED)
            else:
                shutil.copy2(ROOT / name, target)
        return cls(root)

    @property
    def dist(self) -> Path:
        return self.root / "dist"

    def run(
        self, *arguments: str | Path, cwd: Path | None = None, umask: int = 0o022, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `build.sh` with `environment` in addition to `ENVIRONMENT`, in `cwd` (default: the checkout)."""
        return subprocess.run(
            [self.root / "build.sh", *arguments],
            cwd=cwd or self.root,
            env=ENVIRONMENT | environment,
            umask=umask,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def build(self, *arguments: str | Path, **options: Any) -> str:
        """Run `build.sh`, which must succeed with nothing on stderr. Return its report."""
        result = self.run(*arguments, **options)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    def refusal(self, *arguments: str | Path, **options: Any) -> str:
        """Run `build.sh`, which must fail with one line and change no file. Return that line."""
        before = self.state()
        result = self.run(*arguments, **options)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("build.sh: error: ") and result.stderr.count("\n") == 1
        assert self.state() == before
        return result.stderr.removeprefix("build.sh: error: ").rstrip("\n")

    def state(self) -> dict[str, object]:
        """Return every path in the checkout with its content; for the code, with what changes when it is written."""
        code = tuple(str(self.root / name) for name in ("layer", "tools"))
        paths: dict[str, object] = {}
        for folder, names, files in os.walk(self.root):
            for path in (os.path.join(folder, name) for name in files):
                status = os.lstat(path)
                is_read = stat.S_ISREG(status.st_mode) and not folder.startswith(code)
                paths[path] = (
                    Path(path).read_bytes() if is_read else (status.st_ino, status.st_size, status.st_mtime_ns)
                )
            paths |= {os.path.join(folder, name): None for name in names}
        return paths

    def files(self) -> dict[str, bytes | None]:
        """Return every path in the checkout with its content; None for a folder or a link to one."""
        paths = sorted(self.root.rglob("*"))
        return {str(path): path.read_bytes() if path.is_file() else None for path in paths}
