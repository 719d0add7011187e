"""The zips that the real ``build.sh`` makes, in copies of the product."""

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.checkout import ENVIRONMENT, ROOT, Checkout

from tools.common.errors import ToolError
from tools.packaging import PackagingError, cli
from tools.packaging.zips import archive, bytecode
from tools.packaging.zips import pythons as interpreters

MANIFEST = json.loads((ROOT / "layer-manifest.json").read_bytes())
VERSIONS = [name.removeprefix("python") for name in MANIFEST["compatibleRuntimes"]]
THIS_VERSION = "{}.{}".format(*sys.version_info)
MEBIBYTE = 1024 * 1024


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.at(tmp_path / "checkout")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A function folder outside the checkout, with a handler in it."""
    path = tmp_path / "hello"
    path.mkdir()
    (path / "app.py").write_text('def handler(event, context):\n    yield b"hello"\n')
    return path


def modes(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as zipped:
        return {info.filename: stat.filemode(info.external_attr >> 16) for info in zipped.infolist()}


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def interpreter(version: str) -> Path | None:
    """Find a Python of ``version`` that starts, on PATH or among the versions of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = shutil.which(f"python{version}", path=ENVIRONMENT["PATH"])
    for candidate in [*pyenv.glob(f"versions/{version}.*/bin/python3"), *([Path(on_path)] if on_path else [])]:
        check = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
        if subprocess.run([candidate, "-c", check], capture_output=True).returncode == 0:
            return candidate
    return None


class Pythons:
    """The supported Pythons of this machine, as python3.X in a folder that goes first on PATH."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.path = f"{folder}:{ENVIRONMENT['PATH']}"
        found = {version: interpreter(version) for version in VERSIONS}
        self.versions = [version for version, path in found.items() if path]
        for version in self.versions:
            self[version].symlink_to(found[version])

    def __getitem__(self, version: str) -> Path:
        return self.folder / f"python{version}"

    def run(self, version: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self[version], *words], env=ENVIRONMENT, capture_output=True, text=True)


@pytest.fixture(scope="session")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> Pythons:
    return Pythons(tmp_path_factory.mktemp("pythons") / "bin")


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest, pythons: Pythons) -> str:
    """Each supported version that is there, as in 3.12."""
    if request.param not in pythons.versions:
        pytest.skip(f"there is no Python {request.param} here")
    return str(request.param)


FILES = [file["path"] for file in MANIFEST["files"]]
SOURCES = {path: (ROOT / "layer" / path).read_bytes() for path in FILES if path.endswith(".py")}


def pyc(version: str, source: str = "runtime.py") -> str:
    """The path of the bytecode of a source file of the layer."""
    folder, _, name = source.rpartition("/")
    compiled = f"__pycache__/{name.removesuffix('.py')}.cpython-{version.replace('.', '')}.pyc"
    return f"{folder}/{compiled}" if folder else compiled


def pycs(version: str) -> list[str]:
    return [pyc(version, source) for source in SOURCES]


# The same bytes everywhere


def test_two_copies_built_under_different_circumstances_give_the_same_bytes(tmp_path: Path, pythons: Pythons) -> None:
    first, second = Checkout.at(tmp_path / "a"), Checkout.at(tmp_path / "deeper" / "b")
    for path in [*second.root.glob("layer/**/*"), *second.root.glob("function/*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (0, 1_000_000_000))
    first.build(umask=0o022, TZ="UTC", LC_ALL="C.UTF-8", PATH=pythons.path)
    circumstances = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7", "PADDING": "x" * 100_000}
    second.build(umask=0o077, cwd=tmp_path, **circumstances, PATH=pythons.path)
    one, other = ({path.name: path.read_bytes() for path in each.dist.iterdir()} for each in (first, second))
    assert one == other


SWITCHES = {
    "PYTHONHASHSEED": "7",
    "PYTHONOPTIMIZE": "2",
    "PYTHONNODEBUGRANGES": "1",
    "PYTHONPROFILEIMPORTTIME": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONHOME": "/nonexistent",
    "PYTHONPYCACHEPREFIX": "/nonexistent",
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_no_switch_of_python_changes_bytecode(monkeypatch: pytest.MonkeyPatch, pythons: Pythons, switch: str) -> None:
    monkeypatch.setenv("PATH", pythons.path)
    plain = bytecode.make(SOURCES, pythons.versions)
    monkeypatch.setenv(switch, SWITCHES[switch])
    assert bytecode.make(SOURCES, pythons.versions) == plain


def test_every_python_version_gives_the_same_bytes(
    checkout: Checkout, tmp_path: Path, pythons: Pythons, version: str
) -> None:
    tmp_path.joinpath("bin").mkdir()
    tmp_path.joinpath("bin", "python3").symlink_to(pythons[version].resolve())
    checkout.build("-o", tmp_path / "here", PATH=pythons.path)
    checkout.build("-o", tmp_path / "there", PATH=f"{tmp_path}/bin:{pythons.folder}:/usr/bin:/bin")
    for name in ("SHA256SUMS", "INTERPRETERS"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_a_second_build_changes_nothing(checkout: Checkout) -> None:
    first = checkout.build(), checkout.files()
    assert (checkout.build(), checkout.files()) == first


def test_file_names_do_not_depend_on_the_locale(checkout: Checkout, folder: Path, tmp_path: Path) -> None:
    (folder / "grüße.txt").write_text("hello")
    checkout.build("function", folder, "-o", tmp_path / "utf8", LC_ALL="C.UTF-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    checkout.build("function", folder, "-o", tmp_path / "ascii", **ascii_only)
    assert contents(tmp_path / "utf8/hello.zip") == contents(tmp_path / "ascii/hello.zip")
    assert "grüße.txt" in contents(tmp_path / "ascii/hello.zip")


# What is in them


def test_the_layer_holds_exactly_the_files_of_the_manifest_with_its_modes(checkout: Checkout) -> None:
    for path in FILES:
        (checkout.root / "layer" / path).chmod(0o640)
    checkout.build("--bytecode", "none")
    names = {"0755": "-rwxr-xr-x", "0644": "-rw-r--r--"}
    assert modes(checkout.dist / "layer-slim.zip") == {file["path"]: names[file["mode"]] for file in MANIFEST["files"]}
    for path, data in contents(checkout.dist / "layer-slim.zip").items():
        assert data == (ROOT / "layer" / path).read_bytes()


def test_the_layer_holds_besides_the_bytecode_for_every_python_that_is_found(
    checkout: Checkout, pythons: Pythons
) -> None:
    checkout.build("--bytecode", "none", "-o", checkout.root / "plain")
    checkout.build(PATH=pythons.path)
    plain = modes(checkout.root / "plain" / "layer-slim.zip")
    added = {path: "-rw-r--r--" for version in pythons.versions for path in pycs(version)}
    assert modes(checkout.dist / "layer-slim.zip") == plain | added


def test_the_sample_function_zip_holds_the_handler_and_nothing_of_the_runtime(checkout: Checkout) -> None:
    checkout.build()
    assert modes(checkout.dist / "function.zip") == {"lambda_function.py": "-rw-r--r--"}


@pytest.mark.skipif(shutil.which("unzip") is None, reason="there is no unzip here")
def test_unzip_gives_a_bootstrap_that_can_be_run(checkout: Checkout, tmp_path: Path) -> None:
    checkout.build(umask=0o077)
    subprocess.run(["unzip", "-q", checkout.dist / "layer-slim.zip", "-d", tmp_path / "opt"], check=True)
    assert os.access(tmp_path / "opt" / "bootstrap", os.X_OK)
    assert not os.access(tmp_path / "opt" / "runtime.py", os.X_OK)


def test_a_zip_stores_its_files_uncompressed_with_one_date_and_no_folders(checkout: Checkout, folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "module.py").write_text("x = 1\n" * 1000)
    checkout.build("function", folder)
    with zipfile.ZipFile(checkout.dist / "hello.zip") as zipped:
        assert zipped.namelist() == ["app.py", "package/module.py"]
        for info in zipped.infolist():
            assert (info.compress_type, info.create_system) == (zipfile.ZIP_STORED, 3)
            assert info.date_time == (1980, 1, 1, 0, 0, 0)


def test_the_report_gives_path_size_checksum_and_modes(checkout: Checkout, folder: Path) -> None:
    data = (folder / "app.py").read_bytes()
    report = checkout.build("function", folder)
    zipped = (checkout.dist / "hello.zip").read_bytes()
    assert report == (
        f"dist/hello.zip  {len(zipped)} bytes\n"
        f"  sha256 {hashlib.sha256(zipped).hexdigest()}\n"
        f"  0644          {len(data)}  app.py\n"
        "\n"
        "dist/SHA256SUMS  1 zip\n"
    )


def test_a_long_listing_is_cut(checkout: Checkout, folder: Path) -> None:
    for number in range(60):
        (folder / f"m{number}.py").touch()
    report = checkout.build("function", folder)
    assert len(report.splitlines()) < 50
    assert "  and 21 more\n" in report


# SHA256SUMS and the output folder


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum here")
def test_sha256sum_accepts_the_list_of_all_zips(checkout: Checkout, folder: Path) -> None:
    checkout.build()
    checkout.build("function", folder)
    command = ["sha256sum", "-c", "--strict", "SHA256SUMS"]
    result = subprocess.run(command, cwd=checkout.dist, capture_output=True, text=True, check=True)
    assert result.stdout == "function.zip: OK\nhello.zip: OK\nlayer-slim.zip: OK\n"


def test_everyone_can_read_the_output_whatever_the_umask(checkout: Checkout) -> None:
    checkout.build(umask=0o077)
    assert {stat.S_IMODE(path.stat().st_mode) for path in checkout.dist.iterdir()} == {0o644}


def test_a_build_leaves_nothing_but_its_output(checkout: Checkout) -> None:
    before = set(checkout.files())
    checkout.build()
    new = {Path(path).relative_to(checkout.root).as_posix() for path in set(checkout.files()) - before}
    assert new == {
        "dist",
        *(f"dist/{name}" for name in ("INTERPRETERS", "SHA256SUMS", "function.zip", "layer-slim.zip")),
    }


@pytest.mark.parametrize("option", ["-n", "--dry-run"])
def test_a_dry_run_says_what_a_build_would_do_and_writes_nothing(checkout: Checkout, option: str) -> None:
    before = checkout.files()
    plan = checkout.build(option)
    assert checkout.files() == before
    assert plan.count("would write dist/") == 4
    assert plan.replace("would write ", "") == checkout.build()


@pytest.mark.parametrize("words", [("function", "hello", "-o", "out"), ("--output", "out", "function", "hello")])
def test_relative_folders_are_those_of_the_caller(checkout: Checkout, folder: Path, words: tuple[str, ...]) -> None:
    report = checkout.build(*words, cwd=folder.parent)
    assert report.startswith("out/hello.zip  ")
    assert (folder.parent / "out" / "hello.zip").is_file()


def test_a_module_of_the_callers_folder_is_never_imported(checkout: Checkout, tmp_path: Path) -> None:
    for name in ("tools", "zipfile", "argparse"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    checkout.build(cwd=tmp_path)


def test_a_reader_that_goes_away_does_not_disturb_the_build(checkout: Checkout) -> None:
    command = f"{{ {checkout.root}/build.sh; echo $? >&2; }} | :"
    result = subprocess.run(["sh", "-c", command], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.stderr == "0\n"
    assert checkout.dist.joinpath("SHA256SUMS").is_file()


def test_nothing_is_replaced_where_one_file_cannot_be(checkout: Checkout) -> None:
    checkout.build()
    checkout.dist.joinpath("SHA256SUMS").unlink()
    checkout.dist.joinpath("SHA256SUMS").mkdir()
    checkout.root.joinpath("function", "lambda_function.py").write_text("changed = True\n")
    assert checkout.refusal() == "dist/SHA256SUMS is a folder where a file has to go: remove it"


def test_an_output_that_is_no_folder_is_refused(checkout: Checkout) -> None:
    checkout.dist.touch()
    assert checkout.refusal() == "cannot write to dist: File exists"


def test_ctrl_c_ends_with_the_status_a_shell_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main([]) == 130


# Layers that are refused


def edit(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda root: (root / path).write_bytes(change((root / path).read_bytes()))


LAYER_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing file": (
        lambda root: (root / "layer/runtime.py").unlink(),
        "layer/runtime.py is missing: add it, or drop it from layer-manifest.json",
    ),
    "missing folder": (
        lambda root: shutil.rmtree(root / "layer"),
        "cannot read layer: No such file or directory",
    ),
    "stray file": (
        lambda root: (root / "layer/notes.txt").touch(),
        "layer/notes.txt is not named in layer-manifest.json: remove it or add it",
    ),
    "stray hidden file deep down": (
        lambda root: ((root / "layer/a/b").mkdir(parents=True), (root / "layer/a/b/.x").touch()),
        "layer/a/b/.x is not named in layer-manifest.json: remove it or add it",
    ),
    "symbolic link": (
        lambda root: (
            (root / "layer/runtime.py").unlink(),
            (root / "layer/runtime.py").symlink_to("/etc/hosts"),
        ),
        "layer/runtime.py is a symbolic link: replace it with a copy of its target",
    ),
    "pipe": (
        lambda root: os.mkfifo(root / "layer/pipe"),
        "layer/pipe is neither a file nor a folder: remove it",
    ),
    "CRLF in bootstrap": (
        edit("layer/bootstrap", lambda data: data.replace(b"\n", b"\r\n", 1)),
        "layer/bootstrap has CRLF line ends: save it with LF",
    ),
    "CRLF in runtime.py": (
        edit("layer/runtime.py", lambda data: data + b"# last\r\n"),
        "layer/runtime.py has CRLF line ends: save it with LF",
    ),
    "bootstrap is no script": (
        edit("layer/bootstrap", lambda data: b"\n" + data),
        "layer/bootstrap must begin with a #! line, as in #!/bin/sh",
    ),
    "another version": (
        edit("layer/runtime.py", lambda data: data.replace(b'VERSION = "0.1.0"', b'VERSION = "9.9.9"')),
        'layer/runtime.py says VERSION = "9.9.9", layer-manifest.json says "0.1.0": make them the same',
    ),
    "no version": (
        edit("layer/runtime.py", lambda _: b'text = """\nVERSION = "0.1.0"\n"""\n'),
        'layer/runtime.py must say VERSION = "0.1.0" in a line of its own',
    ),
    "no Python": (
        edit("layer/runtime.py", lambda _: b"x = 1\ndef\n"),
        "layer/runtime.py is not valid Python: invalid syntax (runtime.py, line 2)",
    ),
    "too large": (
        edit("layer/runtime.py", lambda data: data + b"#" * (50 * MEBIBYTE)),
        "layer-slim.zip has ",
    ),
}


@pytest.mark.parametrize("fault", LAYER_FAULTS)
def test_a_faulty_layer_is_refused_and_the_last_build_is_kept(checkout: Checkout, fault: str) -> None:
    break_it, message = LAYER_FAULTS[fault]
    checkout.build()
    break_it(checkout.root)
    assert checkout.refusal().startswith(message)


def test_a_first_build_that_is_refused_leaves_no_output_folder(checkout: Checkout) -> None:
    (checkout.root / "layer" / "notes.txt").touch()
    checkout.refusal()
    assert not checkout.dist.exists()


# Bytecode


@pytest.fixture
def opt(checkout: Checkout, pythons: Pythons, tmp_path: Path) -> Callable[..., Path]:
    """Unpacks a layer that is built with the given options: read-only, and with dates of their own."""

    def unpack(*options: str) -> Path:
        checkout.build(*options, PATH=pythons.path)
        folder = tmp_path / "opt"
        with zipfile.ZipFile(checkout.dist / "layer-slim.zip") as zipped:
            zipped.extractall(folder)
        (folder / "bootstrap").chmod(0o755)
        (folder / "runtime.py").write_text("raise SystemExit('the source was run')\n")
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (0, 1_000_000_000))
            path.chmod(path.stat().st_mode & ~0o222)
        return folder

    return unpack


IMPORT = (
    "import sys; sys.path.insert(0, {!r}); import runtime; print(runtime.VERSION, runtime.main.__code__.co_filename)"
)


def test_bytecode_is_used_instead_of_the_source_whatever_that_says(
    opt: Callable[..., Path], pythons: Pythons, version: str
) -> None:
    folder = opt()
    before = {path: path.stat().st_mtime for path in folder.rglob("*")}
    result = pythons.run(version, "-v", "-c", IMPORT.format(str(folder)))
    assert result.stdout == f"{MANIFEST['version']} {folder}/runtime.py\n"
    assert f"# code object from '{folder}/{pyc(version)}'\n" in result.stderr
    assert {path: path.stat().st_mtime for path in folder.rglob("*")} == before


def test_bytecode_for_another_version_is_not_used(opt: Callable[..., Path], pythons: Pythons, version: str) -> None:
    others = [other for other in pythons.versions if other != version]
    if not others:
        pytest.skip(f"there is no Python but {version} here")
    result = pythons.run(version, "-c", IMPORT.format(str(opt("--bytecode", ",".join(others)))))
    assert (result.stdout, result.stderr) == ("", "the source was run\n")


def test_bootstrap_starts_from_the_bytecode(
    opt: Callable[..., Path], pythons: Pythons, tmp_path: Path, version: str
) -> None:
    (tmp_path / "python3").symlink_to(pythons[version].resolve())
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    result = subprocess.run([opt() / "bootstrap"], env=environment, capture_output=True, text=True)
    assert result.stderr.startswith(f"python-streaming-runtime {MANIFEST['version']} (slim, CPython {version}.")
    assert "): AWS_LAMBDA_RUNTIME_API is " in result.stderr


# Every code object of a .pyc, and its header against what this Python would write there (PEP 552: 1 is a hash that is
# not checked).
INSPECT = """
import importlib.util, marshal, sys, types
data, source = (open(path, "rb").read() for path in sys.argv[1:])
assert data[:16] == importlib.util.MAGIC_NUMBER + b"\\1\\0\\0\\0" + importlib.util.source_hash(source)
def names(code):
    yield code.co_filename
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names(constant)
code = marshal.loads(data[16:])
assert code == compile(source, "runtime.py", "exec", dont_inherit=True, optimize=0)
print(set(names(code)))
"""


def test_bytecode_is_of_the_source_and_knows_where_aws_lambda_unpacks_it(
    opt: Callable[..., Path], pythons: Pythons, version: str
) -> None:
    result = pythons.run(version, "-c", INSPECT, opt() / pyc(version), ROOT / "layer/runtime.py")
    assert (result.stdout, result.stderr) == ("{'/opt/runtime.py'}\n", "")


def test_bytecode_folders_in_the_layer_are_left_out(checkout: Checkout) -> None:
    report = checkout.build()
    for path in (path for version in VERSIONS for path in pycs(version)):
        (checkout.root / "layer" / path).parent.mkdir(exist_ok=True)
        (checkout.root / "layer" / path).touch()
    assert checkout.build() == report


@pytest.mark.parametrize("choice", [THIS_VERSION, f"{THIS_VERSION},{THIS_VERSION}"])
def test_only_the_bytecode_asked_for_is_made(checkout: Checkout, pythons: Pythons, choice: str) -> None:
    report = checkout.build("--bytecode", choice, PATH=pythons.path)
    assert list(contents(checkout.dist / "layer-slim.zip")) == sorted([*pycs(THIS_VERSION), *FILES])
    assert report.count("bytecode for ") == 1


def test_the_order_of_the_versions_does_not_matter(checkout: Checkout, pythons: Pythons) -> None:
    first = checkout.build(PATH=pythons.path), checkout.files()
    report = checkout.build("--bytecode", ",".join(reversed(pythons.versions)), PATH=pythons.path)
    assert checkout.files() == first[1]
    assert set(report.splitlines()) <= set(first[0].splitlines())


def test_the_report_says_which_interpreters_were_found_and_which_not(checkout: Checkout, pythons: Pythons) -> None:
    report = checkout.build(PATH=pythons.path).splitlines()
    for version in VERSIONS:
        found = f"bytecode for {version}  by {pythons[version]}"
        missing = f"bytecode for {version}  left out, no final release of CPython {version} on PATH or in pyenv"
        assert (found in report, missing in report) == (version in pythons.versions, version not in pythons.versions)
    assert report[-2:] == ["dist/SHA256SUMS  2 zips", "dist/INTERPRETERS"]


def test_the_interpreters_are_recorded_without_paths(checkout: Checkout, pythons: Pythons) -> None:
    checkout.build(PATH=pythons.path)
    code = "import sys; print('layer-slim.zip ', sys.implementation.cache_tag, '', ' '.join(sys.version.split()))"
    expected = "".join(pythons.run(version, "-c", code).stdout for version in pythons.versions)
    assert checkout.dist.joinpath("INTERPRETERS").read_text() == expected


def test_a_layer_without_bytecode_has_no_record_of_interpreters(checkout: Checkout, folder: Path) -> None:
    checkout.build()
    assert checkout.dist.joinpath("INTERPRETERS").is_file()
    checkout.build("function", folder)
    assert checkout.dist.joinpath("INTERPRETERS").is_file()
    assert "bytecode" not in checkout.build("--bytecode", "none")
    assert not checkout.dist.joinpath("INTERPRETERS").exists()
    assert list(contents(checkout.dist / "layer-slim.zip")) == sorted(FILES)


MISSING = next(version for version in VERSIONS if version != THIS_VERSION)


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment where this Python is the only one, under the name python3."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name, program in {"python3": sys.executable, "dirname": shutil.which("dirname")}.items():
        (folder / name).symlink_to(Path(str(program)).resolve())
    return {"PATH": str(folder), "HOME": str(tmp_path)}


# Speaks for a Python in answer to the question which one it is.
FAKE_PYTHON = """#!/bin/sh
echo '{name} {version} {level} cpython-0'
echo '{version}.{patch} (main) [GCC]'
"""


def fake(path: Path, text: str = FAKE_PYTHON, **answers: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    answers = {"name": "cpython", "version": path.name.removeprefix("python"), "level": "final", "patch": 0} | answers
    path.write_text(text.format(**answers))
    path.chmod(0o755)
    return path


def test_a_python3_of_the_version_will_do(checkout: Checkout, bare: dict[str, str]) -> None:
    assert f"bytecode for {THIS_VERSION}  by {bare['PATH']}/python3\n" in checkout.build(**bare)


def test_an_interpreter_that_is_asked_for_and_missing_is_named(checkout: Checkout, bare: dict[str, str]) -> None:
    refusal = checkout.refusal("--bytecode", f"{THIS_VERSION},{MISSING}", **bare)
    assert refusal == (
        f"no final release of CPython {MISSING} on PATH or in pyenv: install it, or leave it out of --bytecode"
    )


NOT_INSTALLED = "#!/bin/sh\necho 'pyenv: not found\n\npyenv: see help' >&2\nexit 127\n"
UNFIT = {
    "shim without the version": (NOT_INSTALLED, {}, "fails: pyenv: see help"),
    "silent failure": ("#!/bin/sh\nexit 3\n", {}, "fails: status 3"),
    "killed": ("#!/bin/sh\nkill -9 $$\n", {}, "fails: status -9"),
    "no program": ("#!/nonexistent/sh\n", {}, "does not start: No such file or directory"),
    "talks": ("#!/bin/sh\necho Hello\n", {}, "is no Python"),
    "another version": (FAKE_PYTHON, {"version": "3.99"}, "is cpython 3.99.0"),
    "release candidate": (FAKE_PYTHON, {"level": "candidate", "patch": "0rc2"}, f"is cpython {MISSING}.0rc2"),
    "another implementation": (FAKE_PYTHON, {"name": "pypy"}, f"is pypy {MISSING}.0"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_an_interpreter_that_is_asked_for_and_unfit_is_named(
    checkout: Checkout, bare: dict[str, str], kind: str
) -> None:
    text, answers, fault = UNFIT[kind]
    python = fake(Path(bare["PATH"], f"python{MISSING}"), text, **answers)
    refusal = checkout.refusal("--bytecode", MISSING, **bare)
    assert refusal.startswith(f"no final release of CPython {MISSING} on PATH or in pyenv ({python} {fault}): install ")


def test_an_interpreter_that_cannot_compile_the_layer_is_an_error(checkout: Checkout, bare: dict[str, str]) -> None:
    text = FAKE_PYTHON.replace("echo", '[ "$2" = -c ] || {{ echo "SyntaxError: oh" >&2; exit 1; }}\necho', 1)
    python = fake(Path(bare["PATH"], f"python{MISSING}"), text)
    assert checkout.refusal(**bare) == f"the layer cannot be compiled: {python} fails: SyntaxError: oh"


def test_an_interpreter_that_hangs_is_given_up_with_all_it_started(
    tmp_path: Path,
) -> None:
    python = fake(tmp_path / "python3.14", f"#!/bin/sh\nsleep 60 >{tmp_path}/alive &\nwait\n")
    os.mkfifo(tmp_path / "alive")
    with open(os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)) as alive:
        before = time.monotonic()
        with pytest.raises(PackagingError) as refusal:
            interpreters.run([str(python)], limit=0.5)
        os.set_blocking(alive.fileno(), True)
        assert alive.read() == ""  # ends when sleep does
    assert time.monotonic() - before < 30
    assert str(refusal.value) == f"{python} does not answer within 0.5 s"


def test_interpreters_are_looked_for_on_path_before_pyenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


def test_pyenv_is_where_its_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = fake(tmp_path / "versions" / "3.99.1" / "bin" / "python3.99")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert interpreters.find("3.99").path == str(python)


# Manifests that are refused


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in MANIFEST.items() if name != key}


def with_files(*extra: Any) -> dict[str, Any]:
    return {**MANIFEST, "files": [*MANIFEST["files"], *extra]}


PATHS = ["/etc/passwd", "../up", "a/../b", "./a", "a//b", "a/", ".", "..", "", "a\\b", "a\nb"]

MANIFEST_FAULTS: list[tuple[Any, str]] = [
    ([], "must be an object"),
    *((without(key), f"{key} is missing") for key in MANIFEST if key != "published"),
    (
        {**MANIFEST, "licence": "MIT"},
        "unknown key 'licence', known are name, version, description, license, ",
    ),
    ({**MANIFEST, "name": 1}, "name must be a string"),
    ({**MANIFEST, "name": ""}, "name '' must be 1 to 140 of the characters a-z A-Z 0-9 - _"),
    ({**MANIFEST, "name": "a.b"}, "name 'a.b' must be "),
    ({**MANIFEST, "name": "name\n"}, "name 'name\\n' must be "),
    ({**MANIFEST, "name": "n" * 141}, "name 'nnn"),
    ({**MANIFEST, "version": "1.0"}, "version '1.0' must be a semantic version, such as 1.2.3"),
    ({**MANIFEST, "version": "01.0.0"}, "version '01.0.0' must be "),
    ({**MANIFEST, "version": "v1.0.0"}, "version 'v1.0.0' must be "),
    ({**MANIFEST, "description": "d" * 257}, "description has 257 characters, the limit is 256"),
    ({**MANIFEST, "license": "l" * 513}, "license has 513 characters, the limit is 512"),
    ({**MANIFEST, "compatibleRuntimes": "python3.13"}, "compatibleRuntimes must be a list"),
    ({**MANIFEST, "compatibleRuntimes": []}, "compatibleRuntimes has 0 entries, 1 to 15 are allowed"),
    (
        {**MANIFEST, "compatibleRuntimes": [f"python3.{minor}" for minor in range(16)]},
        "compatibleRuntimes has 16 entries, 1 to 15 are allowed",
    ),
    ({**MANIFEST, "compatibleRuntimes": ["a", "a"]}, "compatibleRuntimes contains a value twice"),
    ({**MANIFEST, "compatibleRuntimes": [3.13]}, "compatibleRuntimes must contain strings only"),
    ({**MANIFEST, "compatibleArchitectures": []}, "compatibleArchitectures is empty: list one or both of "),
    ({**MANIFEST, "compatibleArchitectures": ["mips"]}, "compatibleArchitectures: 'mips' must be one of "),
    ({**MANIFEST, "files": {}}, "files must be a list"),
    ({**MANIFEST, "files": []}, "files must contain bootstrap"),
    ({**MANIFEST, "files": MANIFEST["files"][:1]}, "files must contain runtime.py"),
    ({**MANIFEST, "files": [{"path": "bootstrap", "mode": "0644"}]}, "files: bootstrap must have mode 0755"),
    (with_files("x.py"), f"files[{len(FILES)}]: must be an object"),
    (with_files({"path": "x.py"}), f"files[{len(FILES)}]: mode is missing"),
    (with_files({"path": "x.py", "mode": 420}), f"files[{len(FILES)}]: mode must be a string"),
    (with_files({"path": "x.py", "mode": "0777"}), f"files[{len(FILES)}]: mode '0777' must be one of 0755, 0644"),
    (with_files({"path": "x.py", "mode": "0644", "size": 1}), f"files[{len(FILES)}]: unknown key 'size'"),
    (with_files({"path": "runtime.py", "mode": "0644"}), "files contains a path twice"),
    *((with_files({"path": path, "mode": "0644"}), f"files[{len(FILES)}]: path {path!r} must ") for path in PATHS),
]


@pytest.mark.parametrize(("content", "message"), MANIFEST_FAULTS, ids=lambda value: str(value)[:60])
def test_a_manifest_that_breaks_a_rule_is_refused(checkout: Checkout, content: Any, message: str) -> None:
    (checkout.root / "layer-manifest.json").write_text(json.dumps(content))
    assert checkout.refusal().startswith(f"layer-manifest.json: {message}")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\xfd", b"[" * 100_000])
def test_a_manifest_that_is_not_json_is_refused(checkout: Checkout, text: bytes) -> None:
    (checkout.root / "layer-manifest.json").write_bytes(text)
    assert checkout.refusal().startswith("layer-manifest.json: is not JSON: ")


def test_a_missing_manifest_is_refused(checkout: Checkout) -> None:
    (checkout.root / "layer-manifest.json").unlink()
    assert checkout.refusal() == "cannot read layer-manifest.json: No such file or directory"


# Function folders


def test_a_function_zip_is_named_after_its_folder_however_that_is_written(checkout: Checkout, folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)
    for word in ("hello", "hello/", "./hello/.", "link"):
        assert "/hello.zip  " in checkout.build("function", word, cwd=folder.parent)
    assert "/hello.zip  " in checkout.build("function", ".", cwd=folder)


def test_programs_get_run_bits_and_everything_else_does_not(checkout: Checkout, folder: Path) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / "tool").write_text("#!/bin/sh\n")
    (folder / "lib.so").write_bytes(b"\x7fELF\x02")
    (folder / "data").write_bytes(b"")
    (folder / "data").chmod(0o777)
    checkout.build("function", folder)
    assert modes(checkout.dist / "hello.zip") == {
        "app.py": "-rw-r--r--",
        "bin/tool": "-rwxr-xr-x",
        "data": "-rw-r--r--",
        "lib.so": "-rwxr-xr-x",
    }


def test_hidden_files_and_bytecode_stay_out_of_a_function_zip(checkout: Checkout, folder: Path) -> None:
    for name in (".env", ".git/config", "__pycache__/note.txt", "old.pyc", "pkg/.DS_Store"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    checkout.build("function", folder)
    assert list(contents(checkout.dist / "hello.zip")) == ["app.py"]


def test_a_text_with_crlf_line_ends_is_packed_as_it_is(checkout: Checkout, folder: Path) -> None:
    (folder / "table.csv").write_bytes(b"a,b\r\n")
    checkout.build("function", folder)
    assert contents(checkout.dist / "hello.zip")["table.csv"] == b"a,b\r\n"


def test_a_package_called_bootstrap_is_no_program(checkout: Checkout, folder: Path) -> None:
    (folder / "bootstrap").mkdir()
    (folder / "bootstrap" / "__init__.py").touch()
    checkout.build("function", folder)
    assert "bootstrap/__init__.py" in contents(checkout.dist / "hello.zip")


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


FUNCTION_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda folder: shutil.rmtree(folder),
        "hello is not a folder: name the one that holds the handler",
    ),
    "a file": (
        lambda folder: (shutil.rmtree(folder), folder.touch()),
        "hello is not a folder: name the one ",
    ),
    "empty": (lambda folder: (folder / "app.py").unlink(), "hello holds no .py file: name the folder that "),
    "no Python": (
        lambda folder: (folder / "app.py").rename(folder / "app.txt"),
        "hello holds no .py file: name the folder that holds the handler",
    ),
    "bootstrap": (
        lambda folder: (folder / "bootstrap").touch(),
        "hello/bootstrap would run in place of the layer's: rename it",
    ),
    "link to a file": (
        lambda folder: (folder / "link.py").symlink_to("app.py"),
        "hello/link.py is a symbolic link: replace it with a copy of its target",
    ),
    "link to a folder": (
        lambda folder: (folder / "link").symlink_to("/usr"),
        "hello/link is a symbolic link: replace it with a copy of its target",
    ),
    "dangling link": (
        lambda folder: (folder / "link").symlink_to("nowhere"),
        "hello/link is a symbolic link: replace it with a copy of its target",
    ),
    "pipe": (
        lambda folder: os.mkfifo(folder / "pipe"),
        "hello/pipe is neither a file nor a folder: remove it",
    ),
    "script with CRLF": (
        lambda folder: (folder / "run").write_bytes(b"#!/bin/sh\r\necho\r\n"),
        "hello/run is a script with CRLF line ends: save it with LF",
    ),
    "unprintable name": (
        lambda folder: (folder / "a\nb").touch(),
        "'{folder}/a\\nb' cannot be a name in a zip: use printable UTF-8",
    ),
    "name that is not UTF-8": (
        lambda folder: open(os.fsencode(folder) + b"/\xff.txt", "w").close(),
        "'{folder}/\\udcff.txt' cannot be a name in a zip: use printable UTF-8",
    ),
    "too large unpacked": (
        lambda folder: sparse(folder / "model", 262_144_000),
        "hello has 262,144,048 bytes unpacked, the limit is 262,144,000: remove files",
    ),
    "too large to upload": (
        lambda folder: sparse(folder / "model", 50 * MEBIBYTE),
        "hello.zip has 52,429,044 bytes, the limit of an upload is 52,428,800: remove files",
    ),
}


@pytest.mark.parametrize("fault", FUNCTION_FAULTS)
def test_a_faulty_function_folder_is_refused(checkout: Checkout, folder: Path, fault: str) -> None:
    break_it, message = FUNCTION_FAULTS[fault]
    break_it(folder)
    refusal = checkout.refusal("function", "hello", cwd=folder.parent)
    assert refusal.startswith(message.format(folder=folder))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["app.py", ""])
def test_what_cannot_be_read_is_refused(checkout: Checkout, folder: Path, name: str) -> None:
    (folder / name).chmod(0)
    refusal = checkout.refusal("function", "hello", cwd=folder.parent)
    (folder / name).chmod(0o700)
    assert refusal == f"cannot read {Path('hello', name)}: Permission denied"


@pytest.mark.parametrize("name", ["layer-slim", "Layer-Slim"])
def test_a_folder_named_like_the_layer_is_refused(checkout: Checkout, folder: Path, name: str) -> None:
    folder = folder.rename(folder.parent / name)
    refusal = checkout.refusal("function", name, cwd=folder.parent)
    assert refusal == f"{name} would overwrite the layer layer-slim.zip: rename it"


@pytest.mark.parametrize("name", ["back\\slash", "line\nend"])
def test_a_folder_whose_name_a_checksum_list_cannot_hold_is_refused(
    checkout: Checkout, folder: Path, name: str
) -> None:
    folder = folder.rename(folder.parent / name)
    assert checkout.refusal("function", folder).startswith("a zip cannot be named after the folder ")


def test_the_root_folder_is_refused(checkout: Checkout) -> None:
    assert "overlap" in checkout.refusal("function", "/")


@pytest.mark.parametrize("output", [".", "..", "dist", "a/b"])
def test_a_function_folder_and_an_output_folder_must_not_overlap(checkout: Checkout, folder: Path, output: str) -> None:
    assert " overlap: choose another -o" in checkout.refusal("function", ".", "-o", output, cwd=folder)


@pytest.mark.parametrize("output", ["layer", "layer/out", "function"])
def test_the_output_must_not_be_among_the_sources(checkout: Checkout, output: str) -> None:
    assert " overlap: choose another -o" in checkout.refusal("-o", output)


# Reading a zip back


def zipped(*entries: tuple[str, int], data: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            file.writestr(info, data)
    return buffer.getvalue()


def test_what_was_packed_is_read_back() -> None:
    entries = [archive.Entry("a", 0o755, b"1"), archive.Entry("b/c", 0o644, b"2")]
    assert archive.unpack("a.zip", archive.pack(reversed(entries))) == entries


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK", "a.zip is not a valid zip file: File is not a zip file; build it again"),
        (
            zipped(("a", 0o100644)).replace(b"x", b"y", 1),
            "a.zip is not a valid zip file: Bad CRC-32 for file 'a'; build it again",
        ),
        (zipped(("a/", 0o040755)), "a.zip: a/ is not marked as a regular file: build it again"),
        (zipped(("a", 0o120777)), "a.zip: a is not marked as a regular file: build it again"),
        (zipped(("a", 0o100600)), "a.zip: a has mode 0600, not 0755 or 0644: build it again"),
        (zipped(("a", 0o104755)), "a.zip: a has mode 4755, not 0755 or 0644: build it again"),
        (
            b"P" * (50 * MEBIBYTE + 1),
            "a.zip has 52,428,801 bytes, the limit of an upload is 52,428,800: remove files",
        ),
    ],
    ids=["no zip", "damaged", "folder", "link", "private", "setuid", "large"],
)
def test_a_zip_that_would_not_work_on_aws_lambda_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ToolError) as refusal:
        archive.unpack("a.zip", data)
    assert str(refusal.value) == message


def test_a_zip_with_a_path_in_it_twice_is_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = zipped(("a", 0o100644), ("a", 0o100644))
    with pytest.raises(PackagingError, match=r"a\.zip contains a path twice"):
        archive.unpack("a.zip", data)
