"""The search for the Pythons that compile bytecode."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from support import examples
from support.built_zips import (
    THIS_VERSION,
    VERSIONS,
)
from support.checkout import Checkout

from tools.packaging import PackagingError
from tools.packaging.zips import pythons as interpreters

MISSING = next(version for version in VERSIONS if version != THIS_VERSION)


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment where this Python is the only one, under the name python3."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name, program in {"python3": sys.executable, "dirname": shutil.which("dirname")}.items():
        (folder / name).symlink_to(Path(str(program)).resolve())
    return {"PATH": str(folder), "HOME": str(tmp_path)}


# Prints the identity of a Python, as the build requests it.
FAKE_PYTHON = """#!/bin/sh
echo '{name} {version} {level} cpython-0'
echo '{version}.{patch} (main) [GCC]'
"""


def fake(path: Path, text: str = FAKE_PYTHON, **identity: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    default = {"name": "cpython", "version": path.name.removeprefix("python"), "level": "final", "patch": 0}
    path.write_text(text.format(**default | identity))
    path.chmod(0o755)
    return path


def test_python3_is_used_if_it_has_the_version(checkout: Checkout, bare: dict[str, str]) -> None:
    assert f"bytecode for {THIS_VERSION}  by {bare['PATH']}/python3\n" in checkout.build(**bare)


def test_a_requested_interpreter_that_is_missing_is_named(checkout: Checkout, bare: dict[str, str]) -> None:
    refusal = checkout.refusal("--bytecode", f"{THIS_VERSION},{MISSING}", **bare)
    assert refusal == (
        f"no final release of CPython {MISSING} on PATH or in pyenv: install it, or remove it from --bytecode"
    )


NOT_INSTALLED = "#!/bin/sh\necho 'pyenv: not found\n\npyenv: see help' >&2\nexit 127\n"
UNSUITABLE = {
    "shim without the version": (NOT_INSTALLED, {}, "fails: pyenv: see help"),
    "silent failure": ("#!/bin/sh\nexit 3\n", {}, "fails: status 3"),
    "killed": ("#!/bin/sh\nkill -9 $$\n", {}, "fails: status -9"),
    "not a program": ("#!/nonexistent/sh\n", {}, "does not start: No such file or directory"),
    "another output": ("#!/bin/sh\necho Hello\n", {}, "is not a Python"),
    "another version": (FAKE_PYTHON, {"version": "3.99"}, "is cpython 3.99.0"),
    "release candidate": (FAKE_PYTHON, {"level": "candidate", "patch": "0rc2"}, f"is cpython {MISSING}.0rc2"),
    "another implementation": (FAKE_PYTHON, {"name": "pypy"}, f"is pypy {MISSING}.0"),
}


@pytest.mark.parametrize("kind", examples.sample(UNSUITABLE, 2))
def test_a_requested_interpreter_that_is_unsuitable_is_named(
    checkout: Checkout, bare: dict[str, str], kind: str
) -> None:
    text, identity, fault = UNSUITABLE[kind]
    python = fake(Path(bare["PATH"], f"python{MISSING}"), text, **identity)
    refusal = checkout.refusal("--bytecode", MISSING, **bare)
    assert refusal.startswith(f"no final release of CPython {MISSING} on PATH or in pyenv ({python} {fault}): install ")


def test_an_interpreter_that_cannot_compile_the_layer_is_an_error(checkout: Checkout, bare: dict[str, str]) -> None:
    text = FAKE_PYTHON.replace("echo", '[ "$2" = -c ] || {{ echo "SyntaxError: oh" >&2; exit 1; }}\necho', 1)
    python = fake(Path(bare["PATH"], f"python{MISSING}"), text)
    assert checkout.refusal(**bare) == f"the layer cannot be compiled: {python} fails: SyntaxError: oh"


def test_an_interpreter_that_hangs_is_killed_with_its_children(
    tmp_path: Path,
) -> None:
    python = fake(tmp_path / "python3.14", f"#!/bin/sh\nsleep 60 >{tmp_path}/alive &\nwait\n")
    os.mkfifo(tmp_path / "alive")
    with open(os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)) as alive:
        before = time.monotonic()
        with pytest.raises(PackagingError) as refusal:
            interpreters.run([str(python)], timeout=0.5)
        os.set_blocking(alive.fileno(), True)
        assert alive.read() == ""  # ends when sleep does
    assert time.monotonic() - before < 30
    assert str(refusal.value) == f"{python} does not end within 0.5 s"


def test_interpreters_are_searched_on_path_before_pyenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken, first, second, here = (tmp_path / name for name in ("broken", "first", "second", "here"))
    in_order = [
        fake(second / "python3.99"),
        fake(first / "python3", version="3.99"),
        *(fake(tmp_path / f".pyenv/versions/3.99.{patch}/bin/python3.99", patch=patch) for patch in (10, 9)),
    ]
    for name in ("3.99-dev", "3.99.0rc2", "3.99.11t", "13.99.12"):
        fake(tmp_path / f".pyenv/versions/{name}/bin/python3.99")
    fake(broken / "python3.99", "#!/bin/sh\nexit 1\n")
    fake(here / "python3.99")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", f":{broken}:{first}:{second}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYENV_ROOT", raising=False)
    for python in in_order:
        assert interpreters.find("3.99").path == str(python)
        python.unlink()
    with pytest.raises(PackagingError):
        interpreters.find("3.99")


def test_pyenv_root_is_the_folder_of_pyenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = fake(tmp_path / "versions" / "3.99.1" / "bin" / "python3.99")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert interpreters.find("3.99").path == str(python)


def test_a_pyenv_of_another_user_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sudo and CI systems keep PYENV_ROOT of the user who has called them."""
    fake(tmp_path / "versions" / "3.99.1" / "bin" / "python3.99")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", "/nonexistent")
    user, mode = os.geteuid(), tmp_path.stat().st_mode
    tmp_path.chmod(0)
    if user == 0:  # root may read every folder
        os.seteuid(65534)
    try:
        with pytest.raises(PackagingError, match=r"no final release of CPython 3\.99"):
            interpreters.find("3.99")
    finally:
        os.seteuid(user)
        tmp_path.chmod(mode)
