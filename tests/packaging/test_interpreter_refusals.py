"""Interpreters that `./build.sh layer` refuses: each in one line, before anything is written."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.checkout import ROOT, Checkout
from support.fake_cpython import (
    ELSEWHERE,
    HERE,
    LIBRARY,
    NAMES,
    PROGRAM,
    VERSION,
    Link,
    archive,
    cpython,
    elf,
    member,
    module,
    program,
    unpack,
)

from tools.common.lambda_facts import LIMITS, Limits
from tools.packaging import cli
from tools.packaging.interpreter import source_tree

OPTIONS = ("layer", "--python", VERSION, "--arch", NAMES[HERE])
SSL = f"{LIBRARY}/lib-dynload/_ssl.so"
STANDALONE = "such as those of python-build-standalone"


Refusal = Callable[..., str]


@pytest.fixture
def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """Run the command in this process. It must fail with one line, which is returned."""

    def refuse(*words: str | Path, status: int = 1, limits: Limits = LIMITS) -> str:
        monkeypatch.chdir(tmp_path)
        try:
            ended = cli.main([*map(str, words), "-o", f"{tmp_path}/dist"], limits=limits)
        except SystemExit as wrong_usage:
            ended = wrong_usage.code
        output = capsys.readouterr()
        assert (ended, output.out, output.err.count("\n")) == (status, "", 1)
        assert not (tmp_path / "dist").exists()
        return output.err.removeprefix("build.sh: error: ").rstrip("\n")

    return refuse


# Interpreters that do not run on AWS Lambda

OWN = {"ld.so": module(), "libc.so.6": module(needed="ld.so")}
OWN_LOADER = {
    "loader": "/opt/cpython/lib/ld.so",
    "rpath": "/opt/cpython/lib",
    "needed": ["libc.so.6"],
    "files": {f"lib/{name}": library for name, library in OWN.items()},
}
WRONG_RPATH = (
    "so AWS Lambda would load the system's in its place: run patchelf --force-rpath --set-rpath /opt/cpython/lib"
)

UNSUITABLE: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": (
        {"machine": ELSEWHERE},
        f"bin/python3 is for {NAMES[ELSEWHERE]}, not for {NAMES[HERE]}: use the other archive",
    ),
    "a library of another architecture": (
        {"files": {"lib/libz.so.1": module(ELSEWHERE)}},
        f"lib/libz.so.1 is for {NAMES[ELSEWHERE]}, not for {NAMES[HERE]}: use the other archive",
    ),
    "an unknown architecture": (
        {"files": {PROGRAM: elf(243)}},
        f"bin/python3 is for machine 243, not for {NAMES[HERE]}: use the other archive",
    ),
    "32 bits": (
        {"files": {PROGRAM: b"\x7fELF\1" + program()[5:]}},
        f"bin/python3 is not a 64-bit little-endian ELF file: use another build for {NAMES[HERE]}",
    ),
    "a damaged library": (
        {"files": {"lib/libz.so.1": module(data=b"x" * 99)[:-50]}},
        f"lib/libz.so.1 is a damaged ELF file: use another build for {NAMES[HERE]}",
    ),
    "a script": (
        {"files": {PROGRAM: b"#!/bin/sh\nexec python3\n"}},
        "bin/python3 is not an ELF program: use a build for Linux, not a script",
    ),
    "for macOS": (
        {"files": {PROGRAM: b"\xcf\xfa\xed\xfe"}},
        "bin/python3 is not an ELF program: use a build for Linux, not a script",
    ),
    "musl": ({"loader": "/lib/ld-musl-x86_64.so.1"}, " is built for musl: use the build for gnu, "),
    "a loader of the machine's own": (
        {"loader": "/nix/store/ld-linux.so.2"},
        "bin/python3 needs the loader /nix/store/ld-linux.so.2, which will be missing on AWS Lambda: use another build",
    ),
    "a loader that is missing": (
        {**OWN_LOADER, "files": {"lib/libc.so.6": module(needed="libc.so.6")}},
        "bin/python3 needs the loader /opt/cpython/lib/ld.so, which will be missing on AWS Lambda: use another build",
    ),
    "a loader without a libc": (
        {**OWN_LOADER, "files": {"lib/ld.so": module(needed="ld.so")}},
        " contains the loader lib/ld.so without libc.so.6 beside it: add it",
    ),
    "a libc that is searched too late": (
        {**OWN_LOADER, "rpath": None, "runpath": "/opt/cpython/lib"},
        f"bin/python3 finds its own libc through DT_RUNPATH, {WRONG_RPATH}",
    ),
    "a search path that is ignored": (
        {**OWN_LOADER, "runpath": ""},
        f"bin/python3 finds its own libc through DT_RUNPATH, {WRONG_RPATH}",
    ),
    "a libc that is not searched": (
        {**OWN_LOADER, "rpath": None},
        f"bin/python3 finds its own libc through no DT_RPATH of /opt/cpython/lib, {WRONG_RPATH}",
    ),
    "a libc that is searched elsewhere": (
        {**OWN_LOADER, "rpath": "/usr/lib:$ORIGIN/lib"},
        f"bin/python3 finds its own libc through no DT_RPATH of /opt/cpython/lib, {WRONG_RPATH}",
    ),
    "an own libc without its libm": (
        {**OWN_LOADER, "needed": ["libc.so.6", "libm.so.6"]},
        "bin/python3 needs libm.so.6, which is neither in it nor in the OS-only runtimes: "
        f"use a build that contains its libraries, {STANDALONE}",
    ),
    "a library that is missing": (
        {"needed": ["libc.so.6", "libpython3.so.1.0"]},
        "bin/python3 needs libpython3.so.1.0, which is neither in it nor in the OS-only runtimes: ",
    ),
    "a module that functions need": (
        {"files": {SSL: module(needed="libssl.so.3")}},
        f"{SSL} needs libssl.so.3, which is neither in it nor in the OS-only runtimes: ",
    ),
    "a library for a library": (
        {"files": {"lib/liba.so": module(needed="libb.so")}},
        "lib/liba.so needs libb.so, which is neither in it nor in the OS-only runtimes: ",
    ),
    "a newer glibc": (
        {"glibc": "2.35"},
        f" needs glibc 2.35, provided.al2023 has 2.34: use a build for an older Linux, {STANDALONE}",
    ),
    "a newer glibc for a module": (
        {"files": {SSL: module(versions={"libc.so.6": ["GLIBC_2.17", "GLIBC_2.38"]})}},
        " needs glibc 2.38, provided.al2023 has 2.34: ",
    ),
    "a newer glibc for a library that is missing besides": (
        {"glibc": "2.35", "needed": ["libz.so.1"]},
        " needs glibc 2.35, provided.al2023 has 2.34: ",
    ),
    "relocations that an older glibc cannot read": (
        {"versions": {"libc.so.6": ["GLIBC_2.17", "GLIBC_ABI_DT_RELR"]}},
        " needs glibc 2.36, provided.al2023 has 2.34: ",
    ),
}


@pytest.mark.parametrize("fault", UNSUITABLE)
def test_an_interpreter_that_cannot_run_on_aws_lambda_is_refused(refusal: Refusal, tmp_path: Path, fault: str) -> None:
    options, message = UNSUITABLE[fault]
    file = tmp_path / "a.tar.gz"
    file.write_bytes(archive(cpython(**options)))
    separator = "" if message.startswith(" ") else ": "
    assert refusal(*OPTIONS, "--interpreter", file).startswith(f"{file}{separator}{message}")


def test_a_glibc_that_is_too_new_for_the_older_runtime_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    file = tmp_path / "a.tar.gz"
    file.write_bytes(archive(cpython(glibc="2.27")))
    assert refusal(*OPTIONS, "--interpreter", file, "--target", "provided.al2") == (
        f"{file} needs glibc 2.27, provided.al2 has 2.26: use a build for an older Linux, {STANDALONE}"
    )


@pytest.mark.long
def test_the_zip_of_the_last_build_is_kept(checkout: Checkout, tmp_path: Path) -> None:
    file = tmp_path / "a.tar.gz"
    file.write_bytes(archive(cpython()))
    checkout.build(*OPTIONS, "--interpreter", file)
    file.write_bytes(archive(cpython(glibc="2.35")))
    checkout.refusal(*OPTIONS, "--interpreter", file)


# Files that are not an interpreter

GIVE = "use an install_only archive of python-build-standalone"
OTHER = {path.replace(VERSION, "3.9"): content for path, content in cpython().items()}
NO_ARCHIVE = f" is not a tar archive, or is damaged: {GIVE}"

NONE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", NO_ARCHIVE),
    "text": (b"<html>not found</html>" * 100, NO_ARCHIVE),
    "zip": (b"PK\3\4" + bytes(600), NO_ARCHIVE),
    "cut": (archive(cpython({"lib/random": os.urandom(5000)}))[:-2000], NO_ARCHIVE),
    "cut, not compressed": (archive(cpython({"lib/x": bytes(9000)}), kind="")[:4000], NO_ARCHIVE),
    "followed by something else": (archive(cpython()) + b"x" * 600, NO_ARCHIVE),
    "without files": (
        archive({}),
        f" contains no CPython {VERSION}: {LIBRARY}/os.py is missing; {GIVE}, or a folder with that layout",
    ),
    "another version": (
        archive(OTHER),
        f" contains no CPython {VERSION}: {LIBRARY}/os.py is missing (it contains python3.9); "
        f"{GIVE}, or a folder with that layout",
    ),
    "without a program": (
        archive(cpython({PROGRAM: None, "bin/python": None, "bin/python3": None})),
        " contains no bin/python3: use a complete archive",
    ),
    "with a program that is a broken link": (
        archive(cpython({PROGRAM: Link("/usr/bin/python3")})),
        " contains no bin/python3: use a complete archive",
    ),
    "with a name that no zip can contain": (
        archive(cpython({f"{LIBRARY}/a\nb.py": b""})),
        f": '{LIBRARY}/a\\nb.py' cannot be a name in a zip: use printable UTF-8",
    ),
    "with a name that is not UTF-8": (
        archive(cpython({f"{LIBRARY}/\udcff.py": b""})),
        f": '{LIBRARY}/\\udcff.py' cannot be a name in a zip: use printable UTF-8",
    ),
}
OUT = "leads out of the archive: do not use it, it may be an attack"
STRANGE = "is neither a file, a folder nor a link: use another archive"
MEMBERS: dict[str, tuple[tarfile.TarInfo, str]] = {
    "an absolute path": (member("/etc/passwd"), f"'/etc/passwd' {OUT}"),
    "a path that leads out of the archive": (member("python/../../x"), f"'python/../../x' {OUT}"),
    "the parent folder": (member("..", tarfile.DIRTYPE), f"'..' {OUT}"),
    "a hard link that leads out of the archive": (
        member("python/x", tarfile.LNKTYPE, linkname="../x"),
        f"'../x' {OUT}",
    ),
    "a device": (member("python/null", tarfile.CHRTYPE), f"python/null {STRANGE}"),
    "a pipe": (member("python/pipe", tarfile.FIFOTYPE), f"python/pipe {STRANGE}"),
    "far too much": (
        member("python/zeros", size=2 * 1024**3),
        "has more than 2,147,483,648 bytes unpacked: it is more than a CPython",
    ),
}


@pytest.mark.parametrize("fault", [*NONE, *MEMBERS])
def test_a_file_that_is_not_an_interpreter_is_refused(refusal: Refusal, tmp_path: Path, fault: str) -> None:
    if fault in MEMBERS:
        extra, message = MEMBERS[fault]
        data = archive(cpython(), "python", "gz", extra)
        message = f" {message}" if message.startswith("has ") else f": {message}"
    else:
        data, message = NONE[fault]
    file = tmp_path / "a.tar.gz"
    file.write_bytes(data)
    assert refusal(*OPTIONS, "--interpreter", file) == f"{file}{message}"


def test_an_archive_with_far_too_much_behind_its_end_is_refused(
    refusal: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 4 * 1024**2
    monkeypatch.setattr(source_tree, "_MAX_UNPACKED_BYTES", limit)
    file = tmp_path / "a.tar.gz"
    file.write_bytes(archive(cpython()) + gzip.compress(bytes(limit)))
    message = f"{file} has more than 4,194,304 bytes unpacked: it is more than a CPython"
    assert refusal(*OPTIONS, "--interpreter", file) == message


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (
        lambda folder: None,
        f" contains no CPython {VERSION}: {LIBRARY}/os.py is missing; {GIVE}, or a folder with that layout",
    ),
    "pipe": (
        lambda folder: os.mkfifo(unpack(cpython(), folder) / "pipe"),
        "/pipe is neither a file, a folder nor a link: remove it",
    ),
    "far too much": (
        lambda folder: os.truncate(unpack(cpython({"lib/zeros": b""}), folder) / "lib/zeros", 2 * 1024**3),
        " has more than 2,147,483,648 bytes unpacked: it is more than a CPython",
    ),
    "name that is not UTF-8": (
        lambda folder: unpack(cpython({f"{LIBRARY}/\udcff.py": b""}), folder),
        f": '{LIBRARY}/\\udcff.py' cannot be a name in a zip: use printable UTF-8",
    ),
}


@pytest.mark.parametrize("fault", FOLDERS)
def test_a_folder_without_an_interpreter_is_refused(refusal: Refusal, tmp_path: Path, fault: str) -> None:
    make, message = FOLDERS[fault]
    (tmp_path / "folder").mkdir()
    make(tmp_path / "folder")
    assert refusal(*OPTIONS, "--interpreter", "folder") == f"folder{message}"


def test_a_missing_file_is_refused(refusal: Refusal) -> None:
    assert refusal(*OPTIONS, "--interpreter", "nowhere.tar") == "cannot read nowhere.tar: No such file or directory"


# Its hash


def test_an_archive_must_have_the_given_hash(checkout: Checkout, tmp_path: Path) -> None:
    file = tmp_path / "a.tar.gz"
    file.write_bytes(archive(cpython()))
    right, wrong = hashlib.sha256(file.read_bytes()).hexdigest(), "0" * 64
    for place in (str(file), file.as_uri()):
        refusal = checkout.refusal(*OPTIONS, "--interpreter", place, "--sha256", wrong)
        assert refusal.startswith(
            f"{place} has the sha256 {right}, --sha256 is {wrong}: it is damaged or another file; "
        )
        checkout.build(*OPTIONS, "--interpreter", place, "--sha256", right.upper(), "-n")


def test_a_folder_has_no_hash(refusal: Refusal, tmp_path: Path) -> None:
    assert refusal(*OPTIONS, "--interpreter", tmp_path, "--sha256", "0" * 64) == (
        f"{tmp_path} is a folder, which has no sha256: use an archive, or drop --sha256"
    )


# Limits of AWS Lambda


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            Limits(zip_bytes=100_000),
            f"layer-python{VERSION}-{NAMES[HERE]}.zip has {{}} bytes, the limit of an upload is 100,000: remove files",
        ),
        (Limits(unpacked_bytes=100_000), "{file} has {} bytes unpacked, the limit is 100,000: remove files"),
    ],
)
def test_a_layer_that_is_too_large_for_aws_lambda_is_refused(
    refusal: Refusal, tmp_path: Path, limits: Limits, message: str
) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(archive(cpython({f"{LIBRARY}/random": os.urandom(200_000)})))
    refused = refusal(*OPTIONS, "--interpreter", file, limits=limits)
    assert re.sub(r"(?<=has )[\d,]+", "{}", refused) == message.replace("{file}", str(file))


def test_bytecode_counts_in_the_unpacked_size(refusal: Refusal, tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    file.write_bytes(archive(cpython()))
    size = sum(path.stat().st_size for path in (ROOT / "layer").rglob("*.py")) + 60_000
    refused = refusal(*OPTIONS, "--interpreter", file, limits=Limits(unpacked_bytes=size))  # enough without bytecode
    assert refused.startswith(f"layer-python{VERSION}-{NAMES[HERE]}.zip has ")


# Wrong usage

USAGE = {
    "no architecture": (["--python", VERSION], "the following arguments are required: --arch"),
    "no version": (["--arch", "arm64"], "the following arguments are required: --python"),
    "unknown version": (
        ["--python", "3.9", "--arch", "arm64"],
        "argument --python: '3.9' is unknown, use one of 3.11, 3.12, 3.13, 3.14",
    ),
    "patch version": (
        ["--python", "3.13.5", "--arch", "arm64"],
        "argument --python: '3.13.5' is unknown, use one of ",
    ),
    "architecture of others": (["--python", VERSION, "--arch", "amd64"], "argument --arch: invalid choice: 'amd64' "),
    "unknown runtime": ([*OPTIONS[1:], "--target", "python3.13"], "argument --target: invalid choice: 'python3.13' "),
    "short hash": (
        [*OPTIONS[1:], "--interpreter", "a", "--sha256", "abc"],
        "argument --sha256: a sha256 is 64 of the characters 0-9 a-f",
    ),
    "hash for a pinned archive": ([*OPTIONS[1:], "--sha256", "0" * 64], "--sha256 goes with --interpreter; "),
    "bytecode": ([*OPTIONS[1:], "--bytecode", "none"], "--bytecode is for the slim layer; "),
    "folder": ([*OPTIONS[1:], "function"], "unrecognized arguments: function"),
    "abbreviation": ([*OPTIONS[1:], "--inter", "a"], "unrecognized arguments: --inter a"),
}


@pytest.mark.parametrize("fault", USAGE)
def test_wrong_usage_is_one_line_and_status_2(refusal: Refusal, fault: str) -> None:
    words, message = USAGE[fault]
    assert refusal("layer", *words, status=2).startswith(message)


@pytest.mark.parametrize("output", ["layer", "layer/out"])
def test_the_output_must_not_be_among_the_sources(checkout: Checkout, tmp_path: Path, output: str) -> None:
    (tmp_path / "a.tar").write_bytes(archive(cpython()))
    assert " overlap: choose another -o" in checkout.refusal(*OPTIONS, "--interpreter", "../a.tar", "-o", output)
