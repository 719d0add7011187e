"""Environments of packages that the tests use: tracing agents in `.venv/agents` and web frameworks in
`.venv/frameworks`, with which functions run, and validators of SBOMs in `.venv/sbom`. Their dependencies do not meet
those of the tests, and no other function can import them.

Run as a program with the name of an environment, it makes that one, once for each set of requirements. Without a
package index it reports why the tests of these packages are skipped, and exits with 0: the other tests do not need
them.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class PackageEnvironment:
    """A virtual environment below `.venv`, with the packages of `tests/requirements-NAME.txt`.

    Attributes:
        name: of the folder.
        content: the packages, for messages.
        versions: of the Python to use, in order of preference; without one of them, that of the tests is used.
        tested: a package whose own tests run too. Its source distribution, which contains them, is unpacked.
    """

    name: str
    content: str
    versions: tuple[str, ...] = ()
    tested: str = ""

    @property
    def folder(self) -> Path:
        return ROOT / ".venv" / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        """The folder of the installed packages."""
        return next(self.folder.glob("lib/python3.*/site-packages"))

    @property
    def sources(self) -> Path:
        """The folder of the unpacked source distribution."""
        return self.folder / "sources"

    @property
    def is_prepared(self) -> bool:
        stamp = self.folder / "stamp"
        return stamp.is_file() and stamp.read_text() == self._stamp()

    @property
    def reason_to_skip(self) -> str:
        return (
            f"the {self.content} are not installed in .venv/{self.name}: "
            "./build.sh test installs them, or reports why it cannot"
        )

    @property
    def _requirements(self) -> Path:
        return ROOT / "tests" / f"requirements-{self.name}.txt"

    def _stamp(self) -> str:
        return f"{self.folder}\n{sys.version}\n{self._requirements.read_text()}"

    def prepare(self) -> str:
        """Install the packages. Return why that failed, or an empty string."""
        shutil.rmtree(self.folder, ignore_errors=True)
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=1"]
        for command in ([self._interpreter(), "-m", "venv", self.folder], [*pip, "-r", self._requirements]):
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
                return errors[0].removeprefix("ERROR: ") if errors else f"status {done.returncode}"
        if self.tested:
            self._unpack_sources()
        (self.folder / "stamp").write_text(self._stamp())  # last, so that an interrupted installation is repeated
        return ""

    def _unpack_sources(self) -> None:
        """Unpack the source distribution of the tested package. Without it, its own tests are skipped."""
        [requirement] = [line for line in self._requirements.read_text().splitlines() if line.startswith(self.tested)]
        with tempfile.TemporaryDirectory() as download:
            pip = [self.python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries=1"]
            options = ["--no-deps", "--no-binary", self.tested, "--dest", download, requirement]
            if subprocess.run([*pip, *options], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0:
                [archive] = Path(download).iterdir()
                with tarfile.open(archive) as files:
                    files.extractall(download, filter="data")
                [unpacked] = (path for path in Path(download).iterdir() if path.is_dir())
                shutil.copytree(unpacked, self.sources)

    def _interpreter(self) -> str:
        for version in self.versions:
            for program in filter(None, [shutil.which(f"python{version}"), *pyenv_programs(version)]):
                probe = subprocess.run([program, "-c", "import venv"], stdin=subprocess.DEVNULL, capture_output=True)
                if probe.returncode == 0:  # otherwise it is a shim of a version manager, or lacks the module
                    return program
        return sys.executable


def pyenv_programs(version: str) -> list[str]:
    return sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")))


AGENTS = PackageEnvironment("agents", "tracing agents")
SBOM = PackageEnvironment("sbom", "validators of SBOMs")
FRAMEWORKS = PackageEnvironment("frameworks", "web frameworks", ("3.14", "3.13", "3.12"), tested="starlette")


def main(name: str) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # subprocess.run then ends pip
    [environment] = (each for each in (AGENTS, FRAMEWORKS, SBOM) if each.name == name)
    if environment.is_prepared:
        return 0
    print(f"build.sh: installing {environment.content} into .venv/{environment.name} (once)", file=sys.stderr)
    reason = environment.prepare()
    if reason:
        print(f"build.sh: the tests of {environment.content} will be skipped: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
