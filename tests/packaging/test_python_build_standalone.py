"""A self-contained layer with a CPython that python-build-standalone has really built, where this machine has one.

Its downloads are not reached by tests. But uv installs its builds, and the Google Cloud CLI contains one.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkout import ROOT
from support.fake_cpython import HERE, NAMES
from support.function_process import FunctionProcess
from support.root_file_system import unpack

PLACES = (
    ("/usr/lib/google-cloud-sdk/platform", "bundledpythonunix"),
    (str(Path.home() / ".local/share/uv/python"), "cpython-3.1[234].*-linux-*-gnu"),
)


def find() -> tuple[Path, str]:
    """Return the folder of a build of a version that a layer can contain, and the version; or skip the test."""
    for folder, pattern in PLACES:
        for path in sorted(Path(folder).glob(pattern)):
            done = subprocess.run([path / "bin/python3", "-V"], capture_output=True, text=True)
            if match := re.match(r"Python (3\.1[234])\.", done.stdout):
                return path, match[1]
    pytest.skip("this machine has no build of python-build-standalone: uv python install 3.13")


@pytest.mark.long
def test_a_layer_with_a_real_build_streams(runtime: Callable[..., FunctionProcess], tmp_path: Path) -> None:
    folder, version = find()
    architecture = NAMES[HERE]
    words = ["layer", "--python", version, "--arch", architecture, "--interpreter", folder, "-o", tmp_path / "dist"]
    subprocess.run([ROOT / "build.sh", *words], check=True, stdout=subprocess.DEVNULL)
    opt = tmp_path / "opt"
    unpack(tmp_path / "dist" / f"layer-python{version}-{architecture}.zip", opt)
    function = runtime(
        """
        import ctypes, hashlib, sqlite3, ssl, sys, zlib

        def handler(event, context):
            yield sys.executable.encode()
            yield b"%d.%d" % sys.version_info[:2]
            if event == "fail":
                raise ssl.SSLError("after")
        """,
        layer=opt,
        arguments=[""],
    )
    assert function.respond().chunks == [f"{opt}/cpython/bin/python3".encode(), version.encode()]
    assert function.respond("fail").error["errorType"] == "SSLError"
