"""Refusals of bootstrap: if nothing can start, one line in the log, and the same sentence in an init error, at once.

Each runs in every shell that can be `/bin/sh`: bash on Amazon Linux, dash on Debian, and with `--long` busybox in small
containers.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import debian_stand_ins, fake_cpython, root_file_system
from support.examples import sample
from support.fake_cpython import ELSEWHERE, HERE, LOADERS, NAMES
from support.function_process import PYTHON_VERSION, TIMEOUT, VERSION, FunctionProcess
from support.root_file_system import ENVIRONMENT, Namespaces, Root

HANDLER = """
def handler(event, context):
    yield b"answered"
"""
START = f'exec {sys.executable} "$@"'
INTRODUCTION = f"python-streaming-runtime {VERSION} (slim, no Python): "
BUSYBOX = debian_stand_ins.root(debian_stand_ins.X86_64) / "bin" / "busybox"
SHELLS = {"bash": ["bash", "--posix"], "dash": ["dash"], "busybox": ["busybox", "ash"]}

pytestmark = pytest.mark.skipif(HERE == 0, reason="Lambda has no function for the architecture of this machine")


@functools.cache
def find_shell(name: str) -> list[str]:
    program, *options = SHELLS[name]
    path = shutil.which(program) or (str(BUSYBOX) if name == "busybox" and BUSYBOX.exists() else None)
    if path is None or subprocess.run([path, *options, "-c", ":"], capture_output=True).returncode:
        pytest.skip(f"{program} is not installed")
    return [path, *options]


@pytest.fixture(params=["bash", "dash", pytest.param("busybox", marks=pytest.mark.long)])
def shell(request: pytest.FixtureRequest) -> list[str]:
    """Return the command that runs a script."""
    return find_shell(request.param)


@pytest.fixture
def opt(layer: Path, tmp_path: Path) -> Path:
    """Return a copy of the layer, which the test changes."""
    return Path(shutil.copytree(layer, tmp_path / "opt"))


def tools(folder: Path, *names: str) -> str:
    """Make a folder for PATH that contains only these programs."""
    folder.mkdir()
    for name in names:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is not installed")
        (folder / name).symlink_to(path)
    return str(folder)


def wrapper(folder: Path, mode: int = 0o755) -> str:
    path = folder / "wrapper"
    path.write_text('#!/bin/sh\nexec "$@"\n')
    path.chmod(mode)
    return str(path)


def bundle(opt: Path, interpreter: bytes | str, machine: int = HERE, mode: int = 0o755) -> Path:
    """Add an interpreter to the layer, like in a self-contained one."""
    path = opt / "cpython" / "bin" / "python3"
    path.parent.mkdir(parents=True)
    path.write_bytes(interpreter.encode() if isinstance(interpreter, str) else interpreter)
    path.chmod(mode)
    (opt / "cpython" / "VARIANT").write_text(f"python3.13-{NAMES[machine]}\n")
    return path


def refusal(function: FunctionProcess, error_type: str, introduction: str, prefix: str = "") -> str:
    """Check that the line is in the log and in the init error. Return it without its introduction.

    Args:
        prefix: of the Runtime API's paths.
    """
    request, document = function.read_init_error()
    assert function.wait() == 1
    assert request.line == f"POST {prefix}/2018-06-01/runtime/init/error HTTP/1.1"
    assert request.headers["lambda-runtime-function-error-type"] == error_type
    assert request.headers["content-type"] == "application/json"
    message = document.pop("errorMessage")
    assert document == {"errorType": error_type, "requestId": "", "stackTrace": []}
    lines = [line for line in function.stderr.splitlines() if not re.search("Killed|Segmentation fault", line)]
    assert (function.stdout, lines) == ("", [message])  # shells print those lines when a process is killed
    assert message.startswith(introduction)
    return message.removeprefix(introduction)


# Faults of the interpreter in a self-contained layer. Each returns a pattern of the cause in the refusal.


def is_not_executable(opt: Path) -> str:
    bundle(opt, "", mode=0o644)
    return "Permission denied"


def is_empty(opt: Path) -> str:
    bundle(opt, "")
    return "does not start;|Success"


def is_plain_text(opt: Path) -> str:
    bundle(opt, "version https://git-lfs.github.com/spec/v1\n")
    return "version: (command )?not found"


def ends_with_an_error(opt: Path) -> str:
    bundle(opt, "#!/bin/sh\nexit 7\n")
    return r"\(status 7\)"


def prints_too_much(opt: Path) -> str:
    bundle(opt, f"#!/bin/sh\necho '\"{'word ' * 100}\"'\necho more\nexit 7\n")
    return rf"\(\?{'word ' * 59}word\)"


def is_killed(opt: Path) -> str:
    bundle(opt, "#!/bin/sh\nkill -KILL $$\n")
    return r"\(status 137\)"


def needs_a_library(opt: Path) -> str:
    bundle(opt, fake_cpython.elf(HERE, LOADERS[HERE], ["libnonesuch.so.1"]))
    return "libnonesuch.so.1: cannot open shared object file"


def needs_a_newer_glibc(opt: Path) -> str:
    bundle(opt, fake_cpython.program(versions={"libc.so.6": ["GLIBC_2.99"]}))
    return "version `GLIBC_2.99' not found"


def needs_another_loader(opt: Path) -> str:
    bundle(opt, fake_cpython.program(loader="/nonesuch/ld.so"))
    return "not found"


def is_a_folder(opt: Path) -> str:
    bundle(opt, "").unlink()
    (opt / "cpython/bin/python3").mkdir()
    return "Is a directory|Permission denied"


def is_a_dangling_link(opt: Path) -> str:
    bundle(opt, "").unlink()
    (opt / "cpython/bin/python3").symlink_to("python3.13")
    return "not found|No such file or directory"


FAULTS = [
    *(is_not_executable, is_empty, is_plain_text, ends_with_an_error, prints_too_much, is_killed, needs_a_library),
    *(needs_a_newer_glibc, needs_another_loader, is_a_folder, is_a_dangling_link),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_refusal_of_a_bundled_interpreter_that_does_not_start_contains_the_cause(
    runtime: Callable[..., FunctionProcess], opt: Path, shell: list[str], fault: Callable[[Path], str]
) -> None:
    cause = fault(opt)
    function = runtime(HANDLER, command=[*shell, str(opt / "bootstrap")])
    name = f"python3.13-{NAMES[HERE]}"
    introduction = f"python-streaming-runtime {VERSION} ({name}, {opt}/cpython/bin/python3): "
    message = refusal(function, "Runtime.PythonNotStarted", introduction)
    assert message.startswith("the Python in this layer does not start")
    assert re.search(cause, message), message
    assert message.endswith(f"attach layer-{name}.zip to provided.al2023, as the last layer")


def test_the_refusal_of_a_bundled_interpreter_for_another_architecture_names_both(
    runtime: Callable[..., FunctionProcess], opt: Path, shell: list[str]
) -> None:
    bundle(opt, fake_cpython.program(ELSEWHERE), ELSEWHERE)
    if subprocess.run(["sh", "-c", f"'{opt}/cpython/bin/python3'"], capture_output=True).returncode == 255:
        pytest.skip("this machine runs programs of other architectures")
    function = runtime(HANDLER, command=[*shell, str(opt / "bootstrap")])
    name, own = NAMES[ELSEWHERE], NAMES[HERE]
    introduction = f"python-streaming-runtime {VERSION} (python3.13-{name}, {opt}/cpython/bin/python3): "
    assert refusal(function, "Runtime.PythonNotStarted", introduction) == (
        f"the Python in this layer is for {name} and this function is {own}: "
        f"attach layer-python3.13-{own}.zip instead of this layer"
    )


def test_a_python_on_path_that_does_not_start_is_refused(
    runtime: Callable[..., FunctionProcess], opt: Path, tmp_path: Path, shell: list[str]
) -> None:
    if Path("/var/lang/bin/python3").exists():
        pytest.skip("there is a /var/lang/bin/python3 here")
    path = tools(tmp_path / "bin", "curl", "uname")
    program = tmp_path / "bin" / "python3"
    program.write_text("#!/bin/sh\necho python3: not configured >&2\nexit 127\n")
    program.chmod(0o755)
    function = runtime(HANDLER, command=[*shell, str(opt / "bootstrap")], variables={"PATH": path})
    introduction = f"python-streaming-runtime {VERSION} (slim, {program}): "
    assert refusal(function, "Runtime.PythonNotStarted", introduction) == (
        "this Python does not start (python3: not configured): "
        f"attach layer-python3.13-{NAMES[HERE]}.zip, which contains one, instead of this layer"
    )


def test_warnings_of_the_dynamic_loader_do_not_prevent_the_start(
    runtime: Callable[..., FunctionProcess], opt: Path
) -> None:
    bundle(opt, f'#!/bin/sh\n[ "$1" != -V ] || echo "ld.so: object cannot be preloaded: ignored." >&2\n{START}\n')
    assert runtime(HANDLER, layer=opt, arguments=[""]).respond().body == b"answered"


# No Python


@pytest.mark.parametrize("wrapper", [None, "/opt/bootstrap", "itself"])
def test_the_refusal_without_any_python_names_the_layer_to_attach(
    runtime: Callable[..., FunctionProcess], opt: Path, tmp_path: Path, shell: list[str], wrapper: str | None
) -> None:
    if Path("/var/lang/bin/python3").exists():
        pytest.skip("there is a /var/lang/bin/python3 here")
    variables = {"PATH": tools(tmp_path / "bin", "curl", "uname")}
    if wrapper is not None:
        variables["AWS_LAMBDA_EXEC_WRAPPER"] = wrapper.replace("itself", str(opt / "bootstrap"))
    function = runtime(HANDLER, command=[*shell, str(opt / "bootstrap")], variables=variables)
    introduction = f"python-streaming-runtime {VERSION} (slim, no Python): "
    message = refusal(function, "Runtime.PythonNotFound", introduction)
    assert message.startswith(
        "no Python found (looked for cpython/bin/python3 beside bootstrap, /var/lang/bin/python3,"
    )
    assert f"attach layer-python3.13-{NAMES[HERE]}.zip, which contains Python, instead of this layer" in message
    assert (", and AWS_LAMBDA_EXEC_WRAPPER does not change that:" in message) == (wrapper is not None)


@pytest.mark.parametrize("poster", ["curl", "bash"])
@pytest.mark.parametrize(
    ("host", "address", "prefix"),
    [
        ("127.0.0.1", "{host}:{port}", ""),
        ("127.0.0.1", "http://{host}:{port}/.rt/", "/.rt"),
        ("::1", "[{host}]:{port}", ""),
    ],
)
def test_the_refusal_is_posted_for_each_form_of_the_address(
    runtime: Callable[..., FunctionProcess],
    opt: Path,
    tmp_path: Path,
    poster: str,
    host: str,
    address: str,
    prefix: str,
) -> None:
    bundle(opt, "")
    variables = {"PATH": tools(tmp_path / "bin", poster)}
    function = runtime(HANDLER, layer=opt, arguments=[""], variables=variables, host=host, address=address)
    refusal(function, "Runtime.PythonNotStarted", f"python-streaming-runtime {VERSION} (python3.13-", prefix)


@pytest.mark.parametrize(
    ("argument", "fault"), [("/nonesuch/python3.13", "does not exist"), ("python3", "is a folder")]
)
def test_a_first_argument_that_is_a_path_but_not_a_program_is_refused(
    runtime: Callable[..., FunctionProcess], opt: Path, tmp_path: Path, argument: str, fault: str
) -> None:
    (tmp_path / "python3").mkdir()
    path = str(tmp_path / argument)
    variables = {"PATH": tools(tmp_path / "bin", "curl")}
    command = [str(opt / "bootstrap"), path, "/var/runtime/bootstrap.py"]
    message = refusal(runtime(HANDLER, command=command, variables=variables), "Runtime.InvalidWrapper", INTRODUCTION)
    assert message.startswith(f"the first argument of bootstrap names a file that {fault}, {path};")


def test_without_arguments_and_without_python_nothing_is_started(
    runtime: Callable[..., FunctionProcess], opt: Path, tmp_path: Path
) -> None:
    if Path("/var/lang/bin/python3").exists():
        pytest.skip("there is a /var/lang/bin/python3 here")
    variables = {"PATH": tools(tmp_path / "bin", "curl")}
    refusal(
        runtime(HANDLER, command=[str(opt / "bootstrap")], variables=variables), "Runtime.PythonNotFound", INTRODUCTION
    )


# A function that breaks the programs of bootstrap


@pytest.mark.parametrize("start", ["managed", "bundled"])
def test_a_python_that_does_not_start_with_pythonhome_is_reported(
    runtime: Callable[..., FunctionProcess], opt: Path, start: str
) -> None:
    arguments = [sys.executable, "/var/runtime/bootstrap.py"]
    if start == "bundled":
        bundle(opt, f"#!/bin/sh\n{START}\n")
        arguments = [""]
    function = runtime(HANDLER, layer=opt, arguments=arguments, variables={"PYTHONHOME": "/nonesuch"})
    message = refusal(function, "Runtime.PythonNotStarted", f"python-streaming-runtime {VERSION} (")
    assert "): this Python does not start with PYTHONHOME=/nonesuch (init_fs_encoding: " in message
    assert message.endswith("): remove the variable")


def test_a_pythonhome_with_which_python_starts_is_kept(runtime: Callable[..., FunctionProcess], opt: Path) -> None:
    variables = {"PYTHONHOME": sys.base_prefix}
    assert runtime(HANDLER, layer=opt, variables=variables).respond().body == b"answered"


@pytest.mark.parametrize("broken", ["exit 7", "exit 126", "exit 127", "kill -SEGV $$"])
def test_bash_reports_where_curl_does_not_start_or_connect(
    runtime: Callable[..., FunctionProcess], opt: Path, tmp_path: Path, shell: list[str], broken: str
) -> None:
    bundle(opt, "")
    path = tools(tmp_path / "bin", "bash")
    (tmp_path / "bin" / "curl").write_text(f"#!/bin/sh\necho curl: libcurl.so.4: file too short >&2\n{broken}\n")
    (tmp_path / "bin" / "curl").chmod(0o755)
    function = runtime(HANDLER, command=[*shell, str(opt / "bootstrap")], variables={"PATH": path})
    refusal(function, "Runtime.PythonNotStarted", f"python-streaming-runtime {VERSION} (python3.13-")


# A Python that is too old


def version_of(python: Path) -> str:
    probe = [python, "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"]
    return subprocess.run(probe, capture_output=True, text=True, check=True).stdout.strip()


# Found by their names: each process of a test run collects the tests, and starting all of them takes a second.
ON_PATH = [Path(path) for name in ("2", "3.8", "3.9", "3.10") if (path := shutil.which(f"python{name}"))]
OLD_PYTHONS = [
    *sorted(Path.home().glob(".pyenv/versions/2.*/bin/python")),
    *sorted(Path.home().glob(".pyenv/versions/3.[0-9].*/bin/python")),
    *sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python")),
    *(path for path in ON_PATH if path.parent.name != "shims"),  # those of pyenv can lack their version
]


@pytest.mark.parametrize("way", ["managed", "bundled", "wrapped"])
@pytest.mark.parametrize("old", sample(OLD_PYTHONS or [None], 5), ids=str)
def test_a_python_older_than_3_11_is_refused_with_its_version(
    runtime: Callable[..., FunctionProcess], opt: Path, tmp_path: Path, old: Path | None, way: str
) -> None:
    if old is None:
        pytest.skip("there is no Python older than 3.11 here")
    variables, arguments = {}, [str(old), "/var/runtime/bootstrap.py"]
    if way != "managed":
        bundle(opt, f'#!/bin/sh\nexec {old} "$@"\n')
        arguments = [""]
    if way == "wrapped":
        variables["AWS_LAMBDA_EXEC_WRAPPER"] = wrapper(tmp_path)
    function = runtime(HANDLER, layer=opt, arguments=arguments, variables=variables)
    message = refusal(function, "Runtime.PythonTooOld", f"python-streaming-runtime {VERSION} (")
    assert (
        f"needs Python 3.11 or newer, found {version_of(old)}: use a managed python3.11 or newer runtime, or" in message
    )
    assert message.endswith(f"with layer-python3.13-{NAMES[HERE]}.zip instead of this layer")


# Files that another layer has overwritten


REPLACEMENTS = {
    "missing": (None, "ModuleNotFoundError: No module named 'runtime'"),
    "older": ("VERSION = '0.0.9'\n", "runtime.py has VERSION '0.0.9'"),
    "foreign": ("import json\n", "runtime.py has VERSION None"),
    "nameless": ("from streaming_runtime import no_such_name\n", "ImportError: cannot import name 'no_such_name'"),
}
# They show no other version: a Python that the layer does not support can raise them too.
FAILURES = {
    "broken": ("def main(:\n", "SyntaxError: "),
    "failing": ("raise ValueError('\\ud800\\0\\n\"')\n", "ValueError: ?ud800?x00?n?"),
    "talkative": ("raise ValueError('word ' * 100_000)\n", "ValueError: word word "),
    "ending": ("raise SystemExit(0)\n", "SystemExit: 0"),
}


def replace_runtime(opt: Path, kind: str) -> str:
    """Replace runtime.py. Return the cause in the refusal."""
    text, message = {**REPLACEMENTS, **FAILURES}[kind]
    (opt / "runtime.py").unlink()
    if text is not None:
        (opt / "runtime.py").write_text(text)
    return message


@pytest.mark.parametrize("kind", [*REPLACEMENTS, *FAILURES])
@pytest.mark.parametrize("wrapped", [False, True], ids=["", "wrapped"])
def test_a_runtime_of_another_version_never_runs(
    runtime: Callable[..., FunctionProcess], opt: Path, tmp_path: Path, kind: str, wrapped: bool
) -> None:
    cause = replace_runtime(opt, kind)
    variables = {"PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"}
    if wrapped:
        variables["AWS_LAMBDA_EXEC_WRAPPER"] = wrapper(tmp_path)
    else:
        shutil.rmtree(opt / "__pycache__")  # it would be run in the place of its source, which is as good
    function = runtime(HANDLER, layer=opt, arguments=[""], variables=variables)
    error_type = "Runtime.LayerNotStarted" if kind in FAILURES else "Runtime.LayerConflict"
    message = refusal(function, error_type, f"python-streaming-runtime {VERSION} (slim, ")
    if kind in FAILURES:
        assert f"): the layer does not start on Python {PYTHON_VERSION} ({cause}" in message
        assert message.endswith(
            "use python3.11 to python3.14 with an unchanged copy of this version as the last layer, "
            "or a newer version of the layer"
        )
        return
    assert f"): the files beside bootstrap do not all belong to this version ({cause}" in message
    assert message.endswith(
        "another layer has overwritten or hidden some of them; attach one version of this layer only, as the last layer"
    )


# Unusual characters in a path


ODD = "a \"b\" \\n $(exit) `exit` %s 'ü' \n\t\udcff"


@pytest.mark.parametrize("poster", ["curl", "bash"])
def test_the_refusal_is_json_and_one_line_for_any_characters_in_a_path(
    runtime: Callable[..., FunctionProcess], layer: Path, tmp_path: Path, shell: list[str], poster: str
) -> None:
    opt = Path(shutil.copytree(layer, tmp_path / ODD / "opt"))
    bundle(opt, f"#!/bin/sh\nprintf '%s\\n' \"$0\" >&2\nexit {signal.SIGTERM}\n")
    variables = {"PATH": tools(tmp_path / "bin", poster, "uname")}
    function = runtime(HANDLER, command=[*shell, str(opt / "bootstrap")], variables=variables)
    plain = f"{tmp_path}/a ?b? ?n $(exit) `exit` %s '??' ???/opt/cpython/bin/python3"
    introduction = f"python-streaming-runtime {VERSION} (python3.13-{NAMES[HERE]}, {plain}): "
    message = refusal(function, "Runtime.PythonNotStarted", introduction)
    assert message.startswith(f"the Python in this layer does not start ({str(tmp_path)[:20]}")


def test_the_layer_works_with_any_characters_in_its_path(
    runtime: Callable[..., FunctionProcess], layer: Path, tmp_path: Path
) -> None:
    opt = Path(shutil.copytree(layer, tmp_path / ODD / "opt"))
    bundle(opt, f"#!/bin/sh\n{START}\n")
    assert runtime(HANDLER, layer=opt, arguments=[""]).respond().body == b"answered"
    variables = {"AWS_LAMBDA_EXEC_WRAPPER": wrapper(tmp_path / ODD)}
    assert runtime(HANDLER, layer=opt, arguments=[""], variables=variables).respond().body == b"answered"
    wrapper(tmp_path / ODD, 0o644)
    function = runtime(HANDLER, layer=opt, arguments=[""], variables=variables)
    message = refusal(function, "Runtime.InvalidWrapper", f"python-streaming-runtime {VERSION} (python3.13-")
    assert "names a file that is not executable, " in message


# A Runtime API that does not work


def test_bootstrap_ends_if_the_runtime_api_is_silent_or_gone(
    runtime: Callable[..., FunctionProcess], opt: Path, tmp_path: Path
) -> None:
    bundle(opt, "")
    with socket.socket() as unused:  # bound, but not listening
        unused.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{unused.getsockname()[1]}"
        addresses = ["{host}:{port}", gone, "", "127.0.0.1", "http://"]
        functions = [
            runtime(HANDLER, layer=opt, arguments=[""], address=address, variables={"PATH": path})
            for path in (tools(tmp_path / "1", "curl"), tools(tmp_path / "2", "bash"), tools(tmp_path / "3"))
            for address in addresses
        ]
        assert [function.wait() for function in functions] == [1] * len(functions)
    assert {function.stderr.count("\n") for function in functions} == {1}


# The cost of the start


@pytest.mark.parametrize("start", ["managed", "self-contained"])
def test_bootstrap_needs_no_tools_and_tries_only_a_bundled_interpreter_first(
    runtime: Callable[..., FunctionProcess], opt: Path, tmp_path: Path, shell: list[str], start: str
) -> None:
    calls = tmp_path / "calls"
    stub = f"#!/bin/sh\nprintf '%s\\n' \"$*\" >>{calls}\n{START}\n"
    arguments = []
    if start == "managed":
        program = tmp_path / "python3.13"
        program.write_text(stub)
        program.chmod(0o755)
        arguments = [str(program), "/var/runtime/bootstrap.py"]
    else:
        bundle(opt, stub)
    command = [*shell, str(opt / "bootstrap"), *arguments]
    assert runtime(HANDLER, command=command, variables={"PATH": "/nonesuch"}).respond().body == b"answered"
    started = [line for line in calls.read_text().split("\n") if line.startswith("-")]
    assert [line[:18] for line in started] == [*(["-V"] if start != "managed" else []), "-u -B -S -c import"]


# Certificates


@pytest.fixture(scope="module")
def bare_root() -> Root:
    """Return the root file system without Python. A test can mount its own /etc/pki/tls."""
    if not debian_stand_ins.is_prepared():
        pytest.skip("there are no stand-ins in .venv; ./build.sh test makes them, or prints why it cannot")
    root = Root(debian_stand_ins.root(debian_stand_ins.X86_64))
    if (reason := root_file_system.unavailable_reason(root)) is not None:
        pytest.skip(reason)
    return root


BUNDLE, SINGLE = "/etc/pki/tls/certs/ca-bundle.crt", "/etc/pki/tls/cert.pem"


@pytest.mark.parametrize(
    ("present", "variables", "expected"),
    [
        ([], {}, []),
        ([SINGLE], {}, [f"SSL_CERT_FILE={SINGLE}"]),
        ([BUNDLE], {}, [f"SSL_CERT_FILE={BUNDLE}"]),
        ([SINGLE, BUNDLE], {}, [f"SSL_CERT_FILE={BUNDLE}"]),
        ([SINGLE], {"SSL_CERT_FILE": ""}, [f"SSL_CERT_FILE={SINGLE}"]),
        ([SINGLE], {"SSL_CERT_FILE": "/mine"}, ["SSL_CERT_FILE=/mine"]),
        ([SINGLE, BUNDLE], {"SSL_CERT_DIR": "/mine"}, ["SSL_CERT_DIR=/mine"]),
    ],
)
def test_only_the_bundled_interpreter_gets_the_certificates_of_the_system_unless_the_function_sets_others(
    bare_root: Root, opt: Path, tmp_path: Path, present: list[str], variables: dict[str, str], expected: list[str]
) -> None:
    bundle(opt, '#!/bin/sh\n[ "$1" != -V ] || exec echo Python 3.13.0\nenv | grep ^SSL_ || :\n')
    (opt / "python3.13").symlink_to("cpython/bin/python3")  # stands for that of a managed runtime
    tls = tmp_path / "tls"
    (tls / "certs").mkdir(parents=True)
    for path in present:
        (tls / path.removeprefix("/etc/pki/tls/")).touch()
    managed = ["/opt/python3.13", "/var/runtime/bootstrap.py"]
    given = [f"{name}={value}" for name, value in variables.items()]
    for arguments, found in (([], expected), (managed, given)):
        assert output_in(bare_root, tmp_path, ["/opt/bootstrap", *arguments], variables, opt, tls) == found


def output_in(
    root: Root, folder: Path, command: list[str], variables: dict[str, str], opt: Path, tls: Path
) -> list[str]:
    namespaces = Namespaces(root)
    log = folder / "log"
    with log.open("wb") as output:
        mounts = {"/opt": opt, "/etc/pki/tls": tls}
        namespaces.run(command, {**ENVIRONMENT, **variables}, mounts, output, output)
    status = namespaces.process.wait(TIMEOUT)
    namespaces.close()
    assert status == 0, log.read_text()
    return log.read_text().splitlines()
