"""The environment of the tracing agents: `.venv/agents`, with `tests/requirements-agents.txt`.

Run as a program, it makes the environment, once for each set of requirements. Without a package index it reports why
the tests of the agents are skipped, and exits with 0: the other tests do not need them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv" / "agents"
PYTHON = FOLDER / "bin" / "python"
REQUIREMENTS = ROOT / "tests" / "requirements-agents.txt"
STAMP = FOLDER / "stamp"


def is_prepared() -> bool:
    return STAMP.is_file() and STAMP.read_text() == stamp()


def stamp() -> str:
    return f"{FOLDER}\n{sys.version}\n{REQUIREMENTS.read_text()}"


def packages() -> Path:
    """Return the folder of the installed packages."""
    return FOLDER / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def prepare() -> str:
    """Install the agents. Return why that failed, or an empty string."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=1"]
    for command in ([sys.executable, "-m", "venv", FOLDER], [*pip, "-r", REQUIREMENTS]):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            return errors[0].removeprefix("ERROR: ") if errors else f"status {done.returncode}"
    STAMP.write_text(stamp())  # last, so that an interrupted installation is repeated
    return ""


def main() -> int:
    if not is_prepared():
        print("build.sh: installing tracing agents into .venv/agents (once)", file=sys.stderr)
        reason = prepare()
        if reason:
            print(f"build.sh: the tests of tracing agents will be skipped: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
