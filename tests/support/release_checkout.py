"""A checkout in a git repository that is ready for a release, with two small interpreters pinned."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.built_zips import MANIFEST, THIS_VERSION, Pythons
from support.checkout import ENVIRONMENT, Checkout
from support.fake_cpython import ELSEWHERE, HERE, NAMES, PATCH, PROGRAM, VERSION, archive, cpython, launcher, module

NAME, RELEASED = MANIFEST["name"], MANIFEST["version"]
COMMIT_TIME = "2026-11-28T12:00:00+00:00"
CHANGES = "### Added\n\n- A first feature."

OPENSSL = "OpenSSL 3.5.7 9 Jun 2026"
ZLIB = " deflate 1.3.2 Copyright 1995-2026 Jean-loup Gailly and Mark Adler "
STRINGS = f"\0{PATCH}\0{OPENSSL}\0{ZLIB}\0expat_2.8.3\x003.53.1\0".encode()


class Release:
    """The checkout, and the files of its release."""

    def __init__(self, folder: Path, pythons: Pythons) -> None:
        self.checkout = Checkout.at(folder / "checkout")
        self.root = self.checkout.root
        self.dist = self.checkout.dist
        self.environment = {
            "PATH": pythons.path,
            "XDG_CACHE_HOME": str(folder / "cache"),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_DATE": COMMIT_TIME,
            "GIT_COMMITTER_DATE": COMMIT_TIME,
        }
        self.versions = sorted({THIS_VERSION, pythons.versions[-1]})  # each one more lengthens all builds
        self.pins = [self._pin(folder, machine) for machine in (HERE, ELSEWHERE)]
        self.write(
            "CHANGELOG.md", f"# Changelog\n\n## {RELEASED} - 2026-11-28\n\n{CHANGES}\n\n## 0.0.1 - 2026-01-01\n\nOld.\n"
        )
        self.write(".gitignore", "dist/\n")
        self.edit_manifest(
            compatibleRuntimes=[f"python{version}" for version in self.versions],
            selfContained={"compatibleRuntimes": ["provided.al2023"], "interpreters": self.pins},
        )
        self.git("init", "--quiet")
        self.first = self.commit()

    def _pin(self, folder: Path, machine: int) -> dict[str, str]:
        """Pin an interpreter that runs on this machine, or does not because it is for another one."""
        interpreter = launcher(os.path.realpath(sys.executable)) if machine == HERE else None
        linked = module(machine, data=STRINGS)
        files = {"lib/libssl.so.3": linked, **({PROGRAM: interpreter} if interpreter else {})}
        data = archive(cpython(files, machine=machine))
        path = folder / "python-build-standalone" / f"{NAMES[machine]}.tar.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return {
            "python": VERSION,
            "architecture": NAMES[machine],
            "version": PATCH,
            "release": "20261021",
            "url": path.as_uri(),
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    @property
    def checkout_environment(self) -> dict[str, str]:
        """The variables of a program that runs outside of the checkout."""
        return ENVIRONMENT | self.environment

    def write(self, name: str, text: str) -> None:
        """Replace a file. Files of the checkout are links to those of other tests, so it is removed first."""
        path = self.root / name
        path.unlink(missing_ok=True)
        path.write_text(text)

    def edit_manifest(self, **fields: Any) -> None:
        text = json.loads((self.root / "layer-manifest.json").read_bytes())
        self.write("layer-manifest.json", json.dumps(text | fields))

    def git(self, *words: str) -> str:
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        command = ["git", *identity, *words]
        done = subprocess.run(
            command, cwd=self.root, env=ENVIRONMENT | self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a commit")
        return self.git("rev-parse", "HEAD")

    def reset(self) -> None:
        """Return to the first commit, and remove what a test has added."""
        self.git("reset", "--quiet", "--hard", self.first)
        self.git("clean", "-dxfq")
        for tag in self.git("tag").split():
            self.git("tag", "--delete", tag)

    def run(self, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.checkout.run(*words, **{**self.environment, **environment})
