"""The self-contained layer in a root file system without Python, with glibc 2.17, a loopback network alone, and the
environment of the service.

The interpreter is the stand-in that `debian_stand_ins.py` makes of Debian's CPython. Users get python-build-standalone,
which comes from a host that tests must not depend on. Both have the same layout, and the same code fetches, trims and
packs them. Libraries and sizes are those of Debian's build.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import select
import shutil
import socket
import ssl
import struct
import subprocess
import tarfile
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from support import debian_stand_ins, root_file_system, web_server
from support.debian_stand_ins import ARM64, X86_64, Architecture
from support.emulator import ROOT, WAIT
from support.function_process import FunctionProcess
from support.root_file_system import ENVIRONMENT, EmulatedFunction, IsolatedFunctionProcess, Root

MEBIBYTE = 1 << 20
ZIPPED, UNPACKED = 16 * MEBIBYTE, 41 * MEBIBYTE
ELF_MACHINES = {X86_64: 62, ARM64: 183}  # EM_X86_64 and EM_AARCH64 of elf.h
PACKAGES = (*debian_stand_ins.PYTHON_PACKAGES, *debian_stand_ins.LIBRARIES)

pytestmark = pytest.mark.skipif(
    not debian_stand_ins.is_prepared(),
    reason="there are no stand-ins in .venv; ./build.sh test makes them, or prints why it cannot",
)


# The zips


def build(architecture: Architecture, interpreter: str, output: Path, compilers: Path | None = None) -> Path:
    """Return the zip that `./build.sh layer` makes of the interpreter at a URL, with the compilers first on PATH."""
    options = ["--python", "3.13", "--arch", architecture.name, "--interpreter", interpreter, "-o", output]
    environment = {**os.environ, "PATH": f"{compilers}:{os.environ['PATH']}"} if compilers else None
    command = [ROOT / "build.sh", "layer", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20 * WAIT)
    assert done.returncode == 0, done.stderr
    return output / f"layer-python3.13-{architecture.name}.zip"


class Zips:
    """The zip of each architecture, built and unpacked on first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @functools.cache  # noqa: B019 - there is one for the session
    def zipped(self, architecture: Architecture) -> Path:
        compilers = None if architecture is X86_64 else self._compilers()
        return build(
            architecture, debian_stand_ins.interpreter(architecture).as_uri(), self._folder / "dist", compilers
        )

    @functools.cache  # noqa: B019
    def unpacked(self, architecture: Architecture) -> Path:
        return root_file_system.unpack(self.zipped(architecture), self._folder / architecture.name)

    def _compilers(self) -> Path:
        """Return a folder with a python3.13: the interpreter of the other zip, as this machine may have none."""
        library, program = (self.unpacked(X86_64) / "cpython" / name for name in ("lib", "bin/python3"))
        folder = self._folder / "compilers"
        folder.mkdir()
        starter = folder / "python3.13"
        starter.write_text(f'#!/bin/sh\nexec {library}/{X86_64.loader} --library-path {library} {program} "$@"\n')
        starter.chmod(0o755)
        return folder

    def entries(self, architecture: Architecture) -> dict[str, tuple[int, bytes]]:
        """Return the mode (with the file type) and the content of every entry."""
        with zipfile.ZipFile(self.zipped(architecture)) as archive:
            return {each.filename: (each.external_attr >> 16, archive.read(each)) for each in archive.infolist()}


@pytest.fixture(scope="session")
def zips(tmp_path_factory: pytest.TempPathFactory) -> Zips:
    return Zips(tmp_path_factory.mktemp("self-contained"))


@pytest.fixture(
    params=[X86_64, pytest.param(ARM64, marks=pytest.mark.long)],  # emulated, and its layer takes ten seconds to build
    ids=lambda architecture: architecture.name,
)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return request.param


@pytest.mark.long
def test_the_layer_is_smaller_than_the_limits_in_the_documentation(zips: Zips, architecture: Architecture) -> None:
    assert zips.zipped(architecture).stat().st_size <= ZIPPED
    assert sum(len(data) for _, data in zips.entries(architecture).values()) <= UNPACKED


def test_every_entry_is_a_readable_file_and_only_programs_are_executable(
    zips: Zips, architecture: Architecture
) -> None:
    modes = {path: oct(mode) for path, (mode, _) in zips.entries(architecture).items()}
    programs = {"bootstrap", "cpython/bin/python3", f"cpython/lib/{architecture.loader}"}
    assert {path for path, mode in modes.items() if mode != "0o100644"} >= programs
    assert set(modes.values()) == {"0o100644", "0o100755"}
    assert {path for path in modes if path.startswith("cpython/bin/")} == {"cpython/bin/python3"}


def test_every_program_and_library_is_for_the_architecture(zips: Zips, architecture: Architecture) -> None:
    machines = {
        path: struct.unpack_from("<H", data, 18)[0]
        for path, (_, data) in zips.entries(architecture).items()
        if data.startswith(b"\x7fELF")
    }
    assert machines["cpython/bin/python3"] == ELF_MACHINES[architecture]
    assert len(machines) > 40
    assert set(machines.values()) == {ELF_MACHINES[architecture]}


@pytest.mark.long
def test_only_compiled_code_differs_between_the_architectures(zips: Zips) -> None:
    def neutral(architecture: Architecture) -> set[str]:
        return {
            path.replace(architecture.triplet, "TRIPLET").replace(architecture.loader, "LOADER")
            for path in zips.entries(architecture)
        }

    assert neutral(X86_64) == neutral(ARM64)


def test_files_that_a_function_does_not_need_are_left_out(zips: Zips, architecture: Architecture) -> None:
    paths = set(zips.entries(architecture))
    placeholders = {
        "cpython/" + path.format(triplet=architecture.triplet)
        for path in (
            *debian_stand_ins.PLACEHOLDER_FILES,
            *debian_stand_ins.PLACEHOLDER_LIBRARIES,
            *debian_stand_ins.LINKS,
        )
    }
    assert paths & placeholders == {
        "cpython/bin/python3",
        "cpython/lib/libpython3.13.so.1.0",  # an empty one, for extension modules that are linked to it
        "cpython/lib/python3.13/__pycache__/os.cpython-313.pyc",
    }
    unwanted = r"cpython/(include|share)/|/(test|idlelib|tkinter|turtledemo|ensurepip|pydoc_data)/|/_test|\.a$"
    assert [path for path in paths if re.search(unwanted, path)] == []
    assert any(path.startswith("cpython/lib/python3.13/unittest/") for path in paths)


def test_the_layer_contains_the_licences_of_all_bundled_packages(zips: Zips, architecture: Architecture) -> None:
    with tarfile.open(debian_stand_ins.interpreter(architecture)) as archive:
        licences = {
            each.name: archive.extractfile(each) for each in archive if each.name.startswith("python/licenses/")
        }
        texts = {path: file.read() for path, file in licences.items() if file}
    assert {f"python/licenses/{package}.txt" for package in PACKAGES} == set(texts)
    assert set(texts.values()) <= {data for _, data in zips.entries(architecture).values()}


@pytest.mark.long
def test_a_downloaded_interpreter_gives_the_same_bytes(zips: Zips, tmp_path: Path) -> None:
    archive = debian_stand_ins.interpreter(X86_64)
    with web_server.running() as server:
        url = server.serve(f"/{archive.name}", archive.read_bytes())
        assert build(X86_64, url, tmp_path).read_bytes() == zips.zipped(X86_64).read_bytes()


# In the root file system


def root_of(architecture: Architecture) -> Root:
    return Root(debian_stand_ins.root(architecture), debian_stand_ins.emulator() if architecture is ARM64 else None)


@functools.cache
def unavailable_reason(architecture: Architecture) -> str | None:
    return root_file_system.unavailable_reason(root_of(architecture))


Start = Callable[..., IsolatedFunctionProcess]


@pytest.fixture
def start(zips: Zips, tmp_path: Path) -> Iterator[Start]:
    """Starts functions in the root file system: `start(code)`, with the options of `IsolatedFunctionProcess`."""
    started: list[FunctionProcess] = []

    def start(
        code: str | dict[str, str], architecture: Architecture = X86_64, layer: Path | None = None, **options: Any
    ) -> IsolatedFunctionProcess:
        if (reason := unavailable_reason(architecture)) is not None:
            pytest.skip(reason)
        folder = tmp_path / f"function{len(started)}"
        layer = layer or zips.unpacked(architecture)
        started.append(IsolatedFunctionProcess(root_of(architecture), layer, folder, code, **options))
        return started[-1]

    yield start
    for each in started:
        each.end()


def result_of(runtime: FunctionProcess, event: object = None) -> Any:
    """Return the value that the handler yields as JSON."""
    return json.loads(runtime.respond(event).body)


def handler(statements: str) -> str:
    """Return a function whose handler yields its variable `result` as JSON."""
    return f"""
import json, os, sys

def handler(event, context):
{textwrap.indent(statements.strip(), "    ")}
    yield json.dumps(result).encode()
"""


STEPWISE = """
import socket

def handler(event, context):
    with socket.create_connection(("127.0.0.1", event["port"])) as test:
        yield b"first"
        assert test.recv(1) == b"!"
        yield b"second"
"""


def test_a_chunk_arrives_before_the_handler_makes_the_next_one(start: Start, architecture: Architecture) -> None:
    runtime = start(STEPWISE, architecture)
    with runtime.namespaces.listen(0) as listener:
        request_id = runtime.invoke({"port": listener.getsockname()[1]})
        runtime.expect_response(request_id)
        assert runtime.peer is not None
        assert runtime.peer.read_chunk() == b"first"
        with listener.accept()[0] as function:
            function.sendall(b"!")
            assert runtime.peer.read_chunk() == b"second"
    assert (runtime.peer.read_chunk(), runtime.peer.read_trailers()) == (b"", {})
    runtime.accept()
    runtime.expect_next()
    assert (runtime.stdout, runtime.stderr) == ("", "")


WORDS = """
served = 0

def handler(event, context):
    global served
    served += 1
    if "fail" in event:
        raise ValueError(event["fail"])
    for word in event["words"]:
        yield f"{word} ".encode()
    yield str(served).encode()
"""


@pytest.fixture
def emulated(zips: Zips, tmp_path: Path) -> Iterator[Callable[[str], EmulatedFunction]]:
    """Starts a function under the Runtime Interface Emulator."""
    program = root_file_system.find_emulator()
    if (reason := unavailable_reason(X86_64)) is not None:
        pytest.skip(reason)
    started: list[EmulatedFunction] = []

    def start(code: str) -> EmulatedFunction:
        (tmp_path / "task").mkdir()
        (tmp_path / "task" / "lambda_function.py").write_text(code)
        mounts = {"/opt": zips.unpacked(X86_64), "/var/task": tmp_path / "task"}
        started.append(EmulatedFunction(program, root_of(X86_64), tmp_path, mounts, ENVIRONMENT))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_the_runtime_interface_emulator_gets_every_response(emulated: Callable[[str], EmulatedFunction]) -> None:
    function = emulated(WORDS)
    for n in range(1, 21):
        assert function.invoke({"words": [f"w{n}", "ü" * n]}) == (200, f"w{n} {'ü' * n} {n}".encode())
    status, body = function.invoke({"fail": "the 21st"})
    error = json.loads(body)
    assert (status, error["errorType"], error["errorMessage"]) == (200, "ValueError", "the 21st")
    assert error["stackTrace"][0].startswith('  File "/var/task/lambda_function.py"')
    assert function.invoke({"words": ["again"]}) == (200, b"again 22")


def test_an_init_error_is_returned_to_the_caller(emulated: Callable[[str], EmulatedFunction]) -> None:
    status, body = emulated("import nothing_of_this_name").invoke({})
    assert (status, json.loads(body)["errorType"]) == (502, "Runtime.ImportModuleError")


def test_the_environment_is_like_that_of_lambda(start: Start) -> None:
    place = result_of(
        start(
            handler("""
import shutil
def refusal(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return error.strerror
names = ["/opt/x", "/opt/cpython/x", "/var/task/x", "/x", "/tmp/x"]
result = {
    "user": [os.getuid(), os.getgid(), os.getgroups()],
    "tmp": os.listdir("/tmp"),
    "refusals": [refusal(name) for name in names],
    "environment": dict(os.environ),
    "folder": os.getcwd(),
    "python": [sys.executable, sys.version_info[:2], os.confstr("CS_GNU_LIBC_VERSION")],
    "other": [shutil.which(name) for name in ("python", "python3", "python3.13")],
    "glibc": sorted(name for name in os.listdir("/lib64") if name.startswith("libc-")),
}
""")
        )
    )
    environment = place.pop("environment")
    for name in ("PWD", "SHLVL", "_"):  # which shells add
        environment.pop(name, None)
    assert environment == {
        **ENVIRONMENT,
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{root_file_system.API_PORT}",
        "PATH": f"/opt/cpython/bin:{ENVIRONMENT['PATH']}",
    }
    read_only = "Read-only file system"
    assert place == {
        "user": [993, 990, []],
        "tmp": [],
        "refusals": [read_only, read_only, read_only, read_only, None],
        "folder": "/var/task",
        "python": ["/opt/cpython/bin/python3", [3, 13], "glibc 2.41"],
        "other": [None, "/opt/cpython/bin/python3", None],
        "glibc": ["libc-2.17.so"],
    }


WORKOUT = handler("""
import asyncio, bz2, ctypes, datetime, decimal, hashlib, io, lzma, socket, sqlite3, ssl, struct, subprocess, unittest
import unittest.mock, urllib.request, uuid, zlib, zoneinfo

async def double(number):
    await asyncio.sleep(0)
    return 2 * number

@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
def compare(one, other):
    return one[0] - other[0]

async def many():
    return await asyncio.gather(*map(double, range(4)))

numbers = (ctypes.c_int * 4)(3, 1, 4, 1)
ctypes.CDLL(None).qsort(numbers, 4, ctypes.sizeof(ctypes.c_int), compare)
with sqlite3.connect("/tmp/database") as database:
    database.execute("create table words (word)")
    database.execute("insert into words values ('ü')")
berlin = struct.pack(">4s16x6L", b"TZif", 0, 0, 0, 0, 1, 4) + struct.pack(">lBB4s", 3600, 0, 0, b"CET")
zone = zoneinfo.ZoneInfo.from_file(io.BytesIO(berlin), "Berlin")
print("printed ü")
result = {
    "asyncio": asyncio.run(many()),
    "bz2": bz2.decompress(bz2.compress(b"a" * 9)).decode(),
    "ctypes": [list(numbers), ctypes.CDLL(None).getpid() == os.getpid()],
    "decimal": [str(decimal.Decimal(1) / 7), decimal.__file__ and bool(sys.modules["_decimal"])],
    "hashlib": [hashlib.new(name, b"").hexdigest()[:8] for name in ("sha256", "sha3_256", "md5", "blake2b")],
    "json": json.loads('[1, "ü", null]'),
    "lzma": lzma.decompress(lzma.compress(b"a" * 9)).decode(),
    "scrypt": len(hashlib.scrypt(b"a", salt=b"b", n=2, r=1, p=1)),
    "socket": sorted({each[4][0] for each in socket.getaddrinfo("localhost", 80, socket.AF_INET)}),
    "sqlite3": database.execute("select word, sqlite_version() >= '3.40' from words").fetchall(),
    "ssl": [ssl.create_default_context().check_hostname, ssl.OPENSSL_VERSION_INFO >= (3,)],
    "subprocess": subprocess.run(["cat"], input="piped", capture_output=True, text=True, check=True).stdout,
    "unittest": unittest.mock.Mock(return_value=7)(),
    "uuid": [uuid.uuid4().version, uuid.uuid1().version, uuid.uuid5(uuid.NAMESPACE_DNS, "a").hex[:8]],
    "zlib": zlib.decompress(zlib.compress(b"a" * 9)).decode(),
    "zoneinfo": datetime.datetime(2026, 1, 1, tzinfo=zone).isoformat(),
}
""")


def test_the_standard_library_works(start: Start, architecture: Architecture) -> None:
    runtime = start(WORKOUT, architecture)
    assert result_of(runtime) == {
        "asyncio": [0, 2, 4, 6],
        "bz2": "a" * 9,
        "ctypes": [[1, 1, 3, 4], True],
        "decimal": ["0.1428571428571428571428571429", True],
        "hashlib": ["e3b0c442", "a7ffc6f8", "d41d8cd9", "786a02f7"],
        "json": [1, "ü", None],
        "lzma": "a" * 9,
        "scrypt": 64,
        "socket": ["127.0.0.1"],
        "sqlite3": [["ü", 1]],
        "ssl": [True, True],
        "subprocess": "piped",
        "unittest": 7,
        "uuid": [4, 1, "4f3f2898"],
        "zlib": "a" * 9,
        "zoneinfo": "2026-01-01T00:00:00+01:00",
    }
    assert (runtime.stdout, runtime.stderr) == ("printed ü\n", "")


def test_every_extension_module_finds_its_libraries(start: Start, architecture: Architecture) -> None:
    extensions, failures = result_of(
        start(
            handler("""
import glob, importlib
paths = glob.glob("/opt/cpython/lib/python3.13/lib-dynload/*.so")
failures = []
for path in paths:
    try:
        importlib.import_module(os.path.basename(path).split(".")[0])
    except Exception as error:
        failures.append(str(error))
result = [len(paths), failures]
"""),
            architecture,
        )
    )
    assert extensions > 20
    assert failures == []


def test_dependency_layers_come_after_the_function_and_before_the_standard_library(
    start: Start, zips: Zips, tmp_path: Path
) -> None:
    merged = tmp_path / "opt"  # the service puts all layers into one folder
    shutil.copytree(zips.unpacked(X86_64), merged, copy_function=os.link)
    packages = merged / "python" / "lib" / "python3.13" / "site-packages"
    packages.mkdir(parents=True)
    for folder in (packages, merged / "python"):
        for name in ("both", folder.name.replace("-", "_"), "mine", "colorsys"):
            (folder / f"{name}.py").write_text("")
    imports = "import both, colorsys, mine, python, site_packages\n"
    files = "result = [sys.path, [m.__file__ for m in (both, colorsys, mine, python, site_packages)]]"
    path, origins = result_of(start({"lambda_function.py": imports + handler(files), "mine.py": ""}, layer=merged))
    site = "/opt/python/lib/python3.13/site-packages"
    assert path[:3] == ["/var/task", site, "/opt/python"]
    assert all(each.startswith("/opt/cpython/lib/python3") for each in path[3:])
    assert origins == [
        f"{site}/both.py",
        f"{site}/colorsys.py",
        "/var/task/mine.py",
        "/opt/python/python.py",
        f"{site}/site_packages.py",
    ]


# Bytecode


def test_no_module_of_the_layer_is_compiled_at_a_cold_start(start: Start, architecture: Architecture) -> None:
    imports = "import asyncio, ctypes, http.client, logging, sqlite3, ssl, unittest.mock, urllib.request, zoneinfo\n"
    runtime = start(imports + handler("result = None"), architecture, variables={"PYTHONVERBOSE": "1"})
    assert result_of(runtime) is None
    sources = re.findall(r"^# code object from '?([^'\n]*)", runtime.stderr, re.MULTILINE)
    assert len(sources) > 100
    assert [path for path in sources if not path.endswith(".pyc")] == ["/var/task/lambda_function.py"]
    assert all(path.startswith("/opt/") for path in sources if path.endswith(".pyc"))
    assert "stale" not in runtime.stderr


def test_all_bytecode_is_for_the_bundled_interpreter_and_unchecked(start: Start) -> None:
    sources, faults, without_source = result_of(
        start(
            handler("""
import importlib.util, marshal, pathlib
sources, compiled, faults = 0, set(), []
for path in pathlib.Path("/opt").rglob("*.py"):
    sources += 1
    cached = pathlib.Path(importlib.util.cache_from_source(path))
    compiled.add(cached)
    data = cached.read_bytes() if cached.exists() else bytes(16)
    head = importlib.util.MAGIC_NUMBER + b"\\1\\0\\0\\0" + importlib.util.source_hash(path.read_bytes())
    if data[:16] != head or marshal.loads(data[16:]).co_filename != str(path):
        faults.append(str(path))
result = [sources, faults, [str(path) for path in pathlib.Path("/opt").rglob("*.pyc") if path not in compiled]]
""")
        )
    )
    assert sources > 400
    assert (faults, without_source) == ([], [])


def test_everything_loaded_at_the_start_belongs_to_the_layer(start: Start) -> None:
    maps, modules = result_of(
        start(
            handler("""
maps = sorted({line.split()[5] for line in open("/proc/self/maps") if len(line.split()) > 5})
result = [maps, [m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)]]
""")
        )
    )
    assert all(path.startswith(("/opt/cpython/", "[")) for path in maps), maps
    assert {"/".join(Path(path).parts[:3]) for path in modules} == {
        "//opt/cpython",
        "//opt/streaming_runtime",
        "//var/task",
    }


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that no system trusts."""
    return trustme.CA()


@pytest.fixture
def tls_server(start: Start, authority: trustme.CA) -> Callable[..., Any]:
    """Lets a function send a request to a server with a certificate of the authority. Returns its result."""

    def ask(**options: Any) -> Any:
        runtime = start(ASK, **options)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(context)
        with runtime.namespaces.listen(0) as listener:
            request_id = runtime.invoke({"port": listener.getsockname()[1]})
            assert runtime.peer is not None
            if listener in select.select([listener, runtime.peer.socket], [], [], WAIT)[0]:
                serve(listener.accept()[0], context)
        response = runtime.read_response(request_id)
        runtime.accept()
        return json.loads(response.body)

    return ask


def serve(connection: socket.socket, context: ssl.SSLContext) -> None:
    """Respond to one HTTPS request. A client that does not trust the certificate sends none."""
    with contextlib.suppress(ssl.SSLError), context.wrap_socket(connection, server_side=True) as server:
        server.recv(1 << 16)
        server.sendall(b"HTTP/1.0 200 OK\r\n\r\ntrusted")


ASK = handler("""
import urllib.error, urllib.request
try:
    result = urllib.request.urlopen(f"https://localhost:{event['port']}").read().decode()
except urllib.error.URLError as error:
    result = error.reason.verify_message
""")

AMAZON_LINUX = ("certs/ca-bundle.crt", "cert.pem")  # places below /etc/pki/tls


def trust_store(folder: Path, place: str, authority: trustme.CA) -> Path:
    """Make a folder for /etc/pki/tls that contains only this authority."""
    (folder / "certs").mkdir(parents=True)
    authority.cert_pem.write_to_path(folder / place)
    return folder


@pytest.mark.parametrize("place", AMAZON_LINUX)
def test_tls_trusts_the_authorities_of_the_operating_system(
    tls_server: Callable[..., Any], authority: trustme.CA, tmp_path: Path, place: str
) -> None:
    assert tls_server(mounts={"/etc/pki/tls": trust_store(tmp_path / "tls", place, authority)}) == "trusted"


@pytest.mark.parametrize("place", AMAZON_LINUX)
def test_tls_trusts_no_other_authority(tls_server: Callable[..., Any], tmp_path: Path, place: str) -> None:
    others = trust_store(tmp_path / "tls", place, trustme.CA())
    assert tls_server(mounts={"/etc/pki/tls": others}).startswith("unable to get local issuer")


@pytest.mark.parametrize("place", AMAZON_LINUX)
def test_the_certificates_of_the_function_replace_those_of_the_operating_system(
    tls_server: Callable[..., Any], authority: trustme.CA, tmp_path: Path, place: str
) -> None:
    system = trust_store(tmp_path / "tls", place, trustme.CA())
    own = trust_store(tmp_path / "own", "own.pem", authority)
    mounts = {"/etc/pki/tls": system, "/mnt": own}
    assert tls_server(mounts=mounts, variables={"SSL_CERT_FILE": "/mnt/own.pem"}) == "trusted"


# Layers that cannot run here


@pytest.mark.long
def test_the_refusal_of_a_layer_for_another_architecture_names_the_right_one(start: Start, zips: Zips) -> None:
    runtime = start(handler("result = None"), X86_64, layer=zips.unpacked(ARM64))
    assert runtime.wait() == 1
    assert runtime.stderr.count("\n") == 1
    assert "attach layer-python3.13-x86_64.zip instead of this layer" in runtime.stderr


def test_the_refusal_of_the_slim_layer_names_the_one_to_attach(start: Start, layer: Path) -> None:
    runtime = start(handler("result = None"), layer=layer)
    assert runtime.wait() == 1
    assert runtime.stderr.count("\n") == 1
    assert "no Python found" in runtime.stderr and "layer-python3." in runtime.stderr
