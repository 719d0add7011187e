"""The zips of `./build.sh layer`, from small CPythons: content, report, `INTERPRETERS` and `SHA256SUMS`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import marshal
import os
import platform
import select
import shutil
import signal
import stat
import subprocess
import sys
import types
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import web_server
from support.checkout import ENVIRONMENT, ROOT, Checkout
from support.emulator import WAIT
from support.fake_cpython import (
    ELSEWHERE,
    HERE,
    LIBRARY,
    NAMES,
    PATCH,
    PROGRAM,
    VERSION,
    HardLink,
    Link,
    archive,
    cpython,
    launcher,
    module,
    unpack,
)

THIS_PYTHON = Path(sys.executable).resolve()
TAG = sys.implementation.cache_tag
OPTIONS = ("--python", VERSION, "--arch", NAMES[HERE])
ZIP = f"layer-python{VERSION}-{NAMES[HERE]}.zip"

MODULE = f"{LIBRARY}/lib-dynload/_struct.{TAG}.so"
TREE = cpython(
    {
        "LICENSE.txt": b"free",
        "bin/pip3": b"#!/bin/sh\n",
        "licenses/LICENSE.zlib.txt": b"free, too",
        "lib/libz.so.1": Link("libz.so.1.3.1"),
        "lib/libz.so.1.3.1": module(data=b"library"),
        f"{LIBRARY}/LICENSE.txt": b"free",
        f"{LIBRARY}/copy.py": HardLink(f"{LIBRARY}/os.py"),
        f"{LIBRARY}/json/__init__.py": b"def loads(text):\n    return [each for each in text]\n",
        f"{LIBRARY}/test/test_json.py": b"",
        MODULE: module(needed="libz.so.1"),
    }
)
SOURCES = ("copy", "encodings/__init__", "json/__init__", "os")
COMPILED = ("__pycache__/copy", "encodings/__pycache__/__init__", "json/__pycache__/__init__", "__pycache__/os")
LAYER = [file["path"] for file in json.loads((ROOT / "layer-manifest.json").read_bytes())["files"]]
LAYER_BYTECODE = [
    str(Path(path).parent / "__pycache__" / f"{Path(path).stem}.{TAG}.pyc") for path in LAYER if path.endswith(".py")
]
FILES = {
    *LAYER,
    *LAYER_BYTECODE,
    "cpython/LICENSE.txt",
    "cpython/VARIANT",
    "cpython/bin/python3",
    f"cpython/lib/libpython{VERSION}.so.1.0",
    f"lib/libpython{VERSION}.so.1.0",
    "cpython/lib/libz.so.1",
    "cpython/licenses/LICENSE.zlib.txt",
    f"cpython/{LIBRARY}/LICENSE.txt",
    f"cpython/{MODULE}",
    *(f"cpython/{LIBRARY}/{name}.py" for name in SOURCES),
    *(f"cpython/{LIBRARY}/{name}.{TAG}.pyc" for name in COMPILED),
}

LONG = functools.partial(pytest.param, marks=pytest.mark.long)


def packed(folder: Path, **options: object) -> Path:
    """Write an archive of `TREE`, or of a CPython with these options, to `folder`; return its path."""
    path = folder / "cpython.tar.gz"
    path.write_bytes(archive(cpython(**options) if options else TREE))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip of a build with `TREE`."""
    folder = tmp_path_factory.mktemp("built")
    checkout = Checkout.at(folder / "checkout")
    checkout.build("layer", *OPTIONS, "--interpreter", packed(folder))
    return checkout.dist / ZIP


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


# Content


def test_the_zip_contains_the_runtime_and_the_trimmed_interpreter_with_bytecode(built: Path) -> None:
    assert set(contents(built)) == FILES


def test_every_entry_is_a_deflated_regular_file_that_all_users_can_read(built: Path) -> None:
    with zipfile.ZipFile(built) as zipped:
        assert zipped.namelist() == sorted(FILES)
        for info in zipped.infolist():
            program = info.filename in ("bootstrap", "cpython/bin/python3")
            assert stat.filemode(info.external_attr >> 16) == ("-rwxr-xr-x" if program else "-rw-r--r--")
            assert (info.compress_type, info.create_system) == (zipfile.ZIP_DEFLATED, 3)
            assert info.date_time == (1980, 1, 1, 0, 0, 0)


def test_packed_files_are_unchanged(built: Path) -> None:
    inside = contents(built)
    assert inside["cpython/bin/python3"] == TREE[PROGRAM]
    assert inside["cpython/lib/libz.so.1"] == TREE["lib/libz.so.1.3.1"]
    assert inside[f"cpython/{LIBRARY}/copy.py"] == inside[f"cpython/{LIBRARY}/os.py"] == TREE[f"{LIBRARY}/os.py"]
    for name in LAYER:
        assert inside[name] == (ROOT / "layer" / name).read_bytes()


def test_the_variant_is_the_name_of_the_zip(built: Path) -> None:
    variant = contents(built)["cpython/VARIANT"]
    assert variant == f"python{VERSION}-{NAMES[HERE]}\n".encode()
    assert f"layer-{variant.decode().strip()}.zip" == built.name


def code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_objects(constant)


def test_every_source_has_bytecode_with_an_unchecked_hash(built: Path) -> None:
    inside = contents(built)
    for path in [path for path in inside if path.endswith(".py")]:
        folder, _, name = path.rpartition("/")
        compiled = inside[f"{folder}/__pycache__/{name[:-3]}.{TAG}.pyc".lstrip("/")]
        # PEP 552: 1 is a hash that is not checked.
        header = importlib.util.MAGIC_NUMBER + b"\1\0\0\0" + importlib.util.source_hash(inside[path])
        assert compiled[:16] == header, path
        code = marshal.loads(compiled[16:])
        ours = path == "runtime.py" or path.startswith("streaming_runtime/")  # without docstrings
        assert code == compile(inside[path], path, "exec", dont_inherit=True, optimize=2 if ours else 0)
        assert {each.co_filename for each in code_objects(code)} == {f"/opt/{path}"}


@pytest.mark.long
def test_a_file_that_is_not_valid_python_gets_no_bytecode(checkout: Checkout, tmp_path: Path) -> None:
    faulty = {"syntax": b"def\n", "null": b"\0", "encoding": b"# coding: x\n"}
    tree = packed(tmp_path, files={f"{LIBRARY}/{name}.py": source for name, source in faulty.items()})
    report = checkout.build("layer", *OPTIONS, "--interpreter", tree)
    for name in faulty:
        assert f"\nno bytecode  /opt/cpython/{LIBRARY}/{name}.py: " in report
    inside = contents(checkout.dist / ZIP)
    for name, source in faulty.items():
        assert inside[f"cpython/{LIBRARY}/{name}.py"] == source
        assert f"cpython/{LIBRARY}/__pycache__/{name}.{TAG}.pyc" not in inside


@pytest.mark.long
def test_a_file_nested_too_deep_for_the_compiler_does_not_stop_the_build(checkout: Checkout, tmp_path: Path) -> None:
    deep = {"unary": b"-" * 200_000 + b"1\n", "binary": b"1" + b"+1" * 200_000 + b"\n"}
    tree = packed(tmp_path, files={f"{LIBRARY}/{name}.py": source for name, source in deep.items()})
    checkout.build("layer", *OPTIONS, "--interpreter", tree)
    assert {f"cpython/{LIBRARY}/{name}.py" for name in deep} < set(contents(checkout.dist / ZIP))


# The same bytes everywhere


@pytest.mark.long
def test_two_copies_built_under_different_circumstances_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = Checkout.at(tmp_path / "a"), Checkout.at(tmp_path / "deeper" / "b")
    options = ("layer", *OPTIONS, "--interpreter", packed(tmp_path))
    first.build(*options, umask=0o022, TZ="UTC", LC_ALL="C.UTF-8")
    circumstances = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7", "PADDING": "x" * 100_000}
    second.build(*options, umask=0o077, cwd=tmp_path, **circumstances)
    one, other = ({path.name: path.read_bytes() for path in each.dist.iterdir()} for each in (first, second))
    assert one == other


@pytest.mark.long
def test_the_source_of_an_interpreter_does_not_change_the_bytes(checkout: Checkout, tmp_path: Path) -> None:
    file = packed(tmp_path)
    folder = unpack({**TREE, f"{LIBRARY}/copy.py": TREE[f"{LIBRARY}/os.py"]}, tmp_path / "folder")
    sha256 = f", sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
    results = []
    with web_server.running() as server:
        url = server.serve("/cpython.tar.gz?token=1", file.read_bytes())
        archives = {place: f"{place}{sha256}" for place in (str(file), file.as_uri())}
        archives[f"FILE://{file}"] = f"{file.as_uri()}{sha256}"
        archives[url] = f"{url.removesuffix('?token=1')}{sha256}"  # a query may contain a signature
        for place, name in {**archives, str(folder): str(folder), "../folder": str(folder)}.items():
            report = checkout.build("layer", *OPTIONS, "--interpreter", place)
            record = (checkout.dist / "INTERPRETERS").read_text()
            bundled = f"{ZIP}  bundled  CPython {PATCH}, {name}\n"
            assert record.startswith(bundled)
            lines = [line for line in report.splitlines() if not line.startswith("interpreter ")]
            results.append(((checkout.dist / "SHA256SUMS").read_text(), lines, record.removeprefix(bundled)))
    assert all(result == results[0] for result in results)


def test_the_deflating_library_is_named(built: Path, tmp_path: Path) -> None:
    runtime = zlib.ZLIB_RUNTIME_VERSION
    kind = "zlib-ng, as zlib" if "ng" in runtime or hasattr(zlib, "ZLIBNG_VERSION") else "zlib"
    assert f"{ZIP}  deflated  {kind} {runtime}\n" in built.with_name("INTERPRETERS").read_text()


# The report and the record


def test_the_report_and_the_record_list_all_inputs(checkout: Checkout, tmp_path: Path) -> None:
    file = packed(tmp_path)
    report = checkout.build("layer", *OPTIONS, "--interpreter", file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    data = (checkout.dist / ZIP).read_bytes()
    assert report.startswith(f"dist/{ZIP}  {len(data):,} bytes\n  sha256 {hashlib.sha256(data).hexdigest()}\n")
    assert f"\ninterpreter  CPython {PATCH} for {NAMES[HERE]}, {file}\n" in report
    assert "\nruns on      provided.al2023, provided.al2 (needs glibc 2.17)\n" in report
    assert f"\nbytecode     by CPython {platform.python_version()}, because the bundled one " in report
    assert report.endswith("\ndist/SHA256SUMS  1 zip\ndist/INTERPRETERS\n")
    bundled, compiled, deflated = (checkout.dist / "INTERPRETERS").read_text().splitlines()
    assert bundled == f"{ZIP}  bundled  CPython {PATCH}, {file}, sha256 {sha256}"
    assert compiled == f"{ZIP}  {TAG}  {' '.join(sys.version.split())}"
    assert f"\ndeflated     by {deflated.rpartition('  ')[2]}; another library produces other bytes\n" in report


@pytest.mark.long
def test_a_dry_run_prints_the_report_and_writes_nothing(checkout: Checkout, tmp_path: Path) -> None:
    file = packed(tmp_path)
    before = checkout.files()
    plan = checkout.build("layer", *OPTIONS, "--interpreter", file, "-n")
    assert checkout.files() == before
    assert plan.replace("would write ", "") == checkout.build("layer", *OPTIONS, "--interpreter", file)


@pytest.mark.long
def test_another_interpreter_compiles_one_that_does_not_run_here(checkout: Checkout, tmp_path: Path) -> None:
    file = packed(tmp_path, machine=ELSEWHERE)
    report = checkout.build("layer", "--python", VERSION, "--arch", NAMES[ELSEWHERE], "--interpreter", file)
    assert f"\nbytecode     by CPython {platform.python_version()}, because the bundled one " in report
    name = f"python{VERSION}-{NAMES[ELSEWHERE]}"
    assert contents(checkout.dist / f"layer-{name}.zip")["cpython/VARIANT"] == f"{name}\n".encode()


def test_modules_whose_libraries_are_missing_are_left_out_and_named(checkout: Checkout, tmp_path: Path) -> None:
    unusable = f"{LIBRARY}/lib-dynload/readline.{TAG}.so"
    newest = module(needed="libreadline.so.8", versions={"libc.so.6": ["GLIBC_2.99"]})
    file = packed(tmp_path, files={unusable: newest, MODULE: module()})
    report = checkout.build("layer", *OPTIONS, "--interpreter", file)
    assert f"\nleft out     {unusable}, which needs libreadline.so.8\n" in report
    assert "(needs glibc 2.17)" in report
    inside = contents(checkout.dist / ZIP)
    assert f"cpython/{MODULE}" in inside and f"cpython/{unusable}" not in inside


@pytest.mark.parametrize(
    ("glibc", "options", "runtimes"),
    [
        ("2.26", (), "provided.al2023, provided.al2"),
        LONG("2.26", ("--target", "provided.al2"), "provided.al2023, provided.al2"),
        ("2.27", (), "provided.al2023"),
        LONG("2.30", (), "provided.al2023"),
        LONG("2.34", ("--target", "provided.al2023"), "provided.al2023"),
    ],
)
def test_the_runtimes_with_a_new_enough_glibc_are_named(
    checkout: Checkout, tmp_path: Path, glibc: str, options: tuple[str, ...], runtimes: str
) -> None:
    file = packed(tmp_path, glibc=glibc)
    report = checkout.build("layer", *OPTIONS, "--interpreter", file, "-n", *options)
    assert f"\nruns on      {runtimes} (needs glibc {glibc})\n" in report


OWN_LOADER = {
    "loader": "/opt/cpython/lib/ld-linux.so.2",
    "rpath": "/opt/cpython/lib",
    "versions": {"libc.so.6": ["GLIBC_2.41"]},
    "needed": ["libc.so.6"],
    "files": {
        "lib/ld-linux.so.2": module(needed="libc.so.6"),
        "lib/libc.so.6": module(needed="ld-linux.so.2", versions={"ld-linux.so.2": ["GLIBC_2.41"]}),
    },
}


@pytest.mark.parametrize("rpath", [LONG("/opt/cpython/lib"), LONG("$ORIGIN/../lib"), "/nowhere:${ORIGIN}/../lib/"])
def test_an_interpreter_with_its_own_loader_and_libc_runs_on_every_glibc(
    checkout: Checkout, tmp_path: Path, rpath: str
) -> None:
    file = packed(tmp_path, **{**OWN_LOADER, "rpath": rpath})
    report = checkout.build("layer", *OPTIONS, "--interpreter", file, "--target", "provided.al2")
    assert "\nruns on      provided.al2023, provided.al2 (contains its own glibc)\n" in report
    with zipfile.ZipFile(checkout.dist / ZIP) as zipped:
        modes = {info.filename: stat.S_IMODE(info.external_attr >> 16) for info in zipped.infolist()}
    assert (modes["cpython/lib/ld-linux.so.2"], modes["cpython/lib/libc.so.6"]) == (0o755, 0o644)


# The bundled interpreter, where it runs

runs_here = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the launcher is for Linux on x86_64"
)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


@pytest.mark.long
@runs_here
def test_an_interpreter_that_runs_here_compiles_itself(checkout: Checkout, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    own = script(tmp_path / "python", f'echo "$*" >>{calls}\nexec {THIS_PYTHON} "$@"\n')
    file = packed(tmp_path, files={PROGRAM: launcher(own)})
    report = checkout.build("layer", *OPTIONS, "--interpreter", file)
    assert f"\nbytecode     by CPython {platform.python_version()}\n" in report
    assert "compile_tree.py" in calls.read_text().splitlines()[-1]


@runs_here
def test_missing_modules_are_named(checkout: Checkout, tmp_path: Path) -> None:
    own = script(
        tmp_path / "python",
        f"""for last; do :; done
case $last in *sqlite3*) printf 'sqlite3\\nlzma\\n' ;; *) exec {THIS_PYTHON} "$@" ;; esac
""",
    )
    file = packed(tmp_path, files={PROGRAM: launcher(own)})
    report = checkout.build("layer", *OPTIONS, "--interpreter", file, "-n")
    assert "\nnot in it    sqlite3, lzma: a function cannot import these modules\n" in report


@runs_here
def test_an_interpreter_that_fails_here_is_reported(checkout: Checkout, tmp_path: Path) -> None:
    file = packed(tmp_path, files={PROGRAM: launcher(script(tmp_path / "python", "echo 'no encodings' >&2; exit 1"))})
    report = checkout.build("layer", *OPTIONS, "--interpreter", file, "-n")
    assert (
        f"\nbytecode     by CPython {platform.python_version()}, because the bundled one fails: no encodings\n"
        in report
    )


ANSWER = "echo '{} cpython-0'\necho '{}.1 (main) [GCC]'\n"
OTHERS = {
    "another version": (ANSWER.format("cpython 3.9 final", "3.9"), "cpython 3.9.1"),
    "a release candidate": (ANSWER.format(f"cpython {VERSION} candidate", VERSION), f"cpython {VERSION}.1"),
    "another implementation": (ANSWER.format(f"pypy {VERSION} final", VERSION), f"pypy {VERSION}.1"),
    "not a Python": ("echo hello\n", "not a Python"),
}


@runs_here
@pytest.mark.parametrize("kind", OTHERS)
def test_an_interpreter_of_another_version_is_refused(checkout: Checkout, tmp_path: Path, kind: str) -> None:
    text, found = OTHERS[kind]
    file = packed(tmp_path, files={PROGRAM: launcher(script(tmp_path / "python", text))})
    assert checkout.refusal("layer", *OPTIONS, "--interpreter", file) == (
        f"{file}: its interpreter is {found}, not a final release of CPython {VERSION}: use another build"
    )


def test_without_a_python_of_its_version_it_cannot_be_compiled(checkout: Checkout, tmp_path: Path) -> None:
    other = next(version for version in ("3.13", "3.12") if version != VERSION)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name, program in {"python3": THIS_PYTHON, "dirname": shutil.which("dirname")}.items():
        (bare / name).symlink_to(str(program))
    tree = {path.replace(VERSION, other): content for path, content in cpython().items()}
    (tmp_path / "a.tar").write_bytes(archive({**tree, "bin/python3": Link(f"python{other}")}))
    options = ("layer", "--python", other, "--arch", NAMES[HERE], "--interpreter", tmp_path / "a.tar")
    assert checkout.refusal(*options, PATH=str(bare), HOME=str(tmp_path)) == (
        f"{tmp_path}/a.tar does not run on this machine, so another CPython {other} must compile it, "
        f"and there is no final release of CPython {other} on PATH or in pyenv: install one"
    )


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_compiler(checkout: Checkout, tmp_path: Path, signum: signal.Signals, status: int) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    # More than the buffer of a pipe: it is written while the build waits for the output of the compiler.
    compiler = f"head -c 1000000 /dev/zero; sh -c 'echo $$; exec sleep 600' >{fifo} & wait"
    script(
        tmp_path / f"python{VERSION}",
        f'case "$*" in *compile_tree.py*) {compiler} ;; *) exec {THIS_PYTHON} "$@" ;; esac\n',
    )
    command = [checkout.root / "build.sh", "layer", *OPTIONS, "--interpreter", packed(tmp_path)]
    environment = {**ENVIRONMENT, "PATH": f"{tmp_path}:{ENVIRONMENT['PATH']}", "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    before = checkout.files()
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the caller may ignore it
    )
    with process, fifo.open() as alive:
        started = int(alive.readline())
        try:
            process.send_signal(signum)
            assert process.communicate() == (b"", b"")
            assert select.select([alive], [], [], WAIT)[0] and alive.read() == ""  # it has ended
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(started, signal.SIGKILL)
    assert process.returncode == status
    assert checkout.files() == before
    assert list((tmp_path / "tmp").iterdir()) == []


# INTERPRETERS and SHA256SUMS


@pytest.mark.long
def test_the_lists_cover_all_zips_of_the_folder_until_they_are_removed(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "hello").mkdir()
    (tmp_path / "hello" / "app.py").touch()
    foreign = f"layer-python{VERSION}-{NAMES[ELSEWHERE]}.zip"
    for machine in (HERE, ELSEWHERE):
        arch = NAMES[machine]
        checkout.build("layer", "--python", VERSION, "--arch", arch, "--interpreter", packed(tmp_path, machine=machine))
    checkout.build("--bytecode", VERSION)
    layers = sorted([ZIP, foreign])
    assert listed(checkout) == (
        {layers[0]: 3, layers[1]: 3, "layer-slim.zip": 1},
        {*layers, "layer-slim.zip", "function.zip"},
    )
    (checkout.dist / foreign).unlink()
    checkout.build("function", tmp_path / "hello")
    assert listed(checkout) == ({ZIP: 3, "layer-slim.zip": 1}, {ZIP, "layer-slim.zip", "function.zip", "hello.zip"})
    report = checkout.build("layer", *OPTIONS, "--interpreter", packed(tmp_path))
    assert report.endswith("\ndist/SHA256SUMS  4 zips\ndist/INTERPRETERS\n")
    assert listed(checkout)[0] == {ZIP: 3, "layer-slim.zip": 1}


def listed(checkout: Checkout) -> tuple[dict[str, int], set[str]]:
    """Return the number of lines in `INTERPRETERS` for each zip, and the zips in `SHA256SUMS`, after checking these."""
    names = [line.split()[0] for line in (checkout.dist / "INTERPRETERS").read_text().splitlines()]
    sums = dict(reversed(line.split()) for line in (checkout.dist / "SHA256SUMS").read_text().splitlines())
    for name, digest in sums.items():
        assert hashlib.sha256((checkout.dist / name).read_bytes()).hexdigest() == digest
    return {name: names.count(name) for name in names}, set(sums)
