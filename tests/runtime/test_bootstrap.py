"""How bootstrap finds an interpreter, honours a wrapper, and starts the runtime."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.emulator import until
from support.function_process import Gate
from support.processes import is_running

HANDLER = """
import sys

def handler(event, context):
    yield sys.executable.encode()
"""


def stub_interpreter(path):
    """Write a program that takes the place of an interpreter, and sets a variable if it is started."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nPICKED="$0" exec {sys.executable} "$@"\n')
    path.chmod(0o755)


PICKED = """
import os

def handler(event, context):
    yield os.environ.get("PICKED", "other").encode()
"""


def copy_of(layer, folder):
    return Path(shutil.copytree(layer, folder / "opt"))


def test_the_interpreter_of_a_managed_runtime_is_used_first(runtime, layer, tmp_path):
    opt = copy_of(layer, tmp_path)
    stub_interpreter(opt / "cpython/bin/python3")
    stub_interpreter(tmp_path / "lang/bin/python3.13")
    arguments = [str(tmp_path / "lang/bin/python3.13"), "/var/runtime/bootstrap.py"]
    function = runtime(PICKED, layer=opt, arguments=arguments)
    assert function.respond().body.decode() == arguments[0]


def test_the_interpreter_of_the_layer_is_used_before_one_on_path(runtime, layer, tmp_path):
    opt = copy_of(layer, tmp_path)
    stub_interpreter(opt / "cpython/bin/python3")
    stub_interpreter(tmp_path / "bin/python3")
    function = runtime(PICKED, layer=opt, arguments=[""], variables={"PATH": f"{tmp_path}/bin"})
    assert function.respond().body.decode() == str(opt / "cpython/bin/python3")


def test_path_is_searched_last_and_a_handler_as_the_argument_is_ignored(runtime, tmp_path):
    stub_interpreter(tmp_path / "bin/python3")
    function = runtime(PICKED, arguments=["lambda_function.handler"], variables={"PATH": f"{tmp_path}/bin"})
    assert function.respond().body.decode() == str(tmp_path / "bin/python3")


def wrapper(path, text, mode=0o755):
    path.write_text(text)
    path.chmod(mode)
    return str(path)


# As in "Modifying the runtime environment" of the Lambda Developer Guide: options go before the last argument.
EXTRA_OPTION = """#!/bin/bash
args=("$@")
args=("${args[@]:0:$#-1}" -X utf8=0 "${args[@]: -1}")
WRAPPED=yes exec "${args[@]}"
"""

WRAPPED = """
import json, os, sys
import __main__

def handler(event, context):
    yield json.dumps([os.environ.get("WRAPPED"), sys.path[0]]).encode()
"""


@pytest.fixture
def python_on_path(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(sys.executable)
    return f"{tmp_path}/bin:/usr/bin:/bin"


# As one that starts Python with an environment of its own
WITHOUT_WATCH = '#!/bin/sh\nunset _STREAMING_RUNTIME_WATCH\nWRAPPED=yes exec "$@"\n'
SAFE_PATH = '#!/bin/sh\nPYTHONSAFEPATH=1 WRAPPED=yes exec "$@"\n'


@pytest.mark.parametrize("text", ['#!/bin/sh\nWRAPPED=yes exec "$@"\n', SAFE_PATH, WITHOUT_WATCH, EXTRA_OPTION])
def test_bootstrap_starts_the_wrapper_where_the_service_does_not(runtime, tmp_path, python_on_path, text):
    if "bash" in text and not Path("/bin/bash").exists():
        pytest.skip("bash is not installed")
    path = wrapper(tmp_path / "wrapper", text)
    function = runtime(WRAPPED, arguments=[""], variables={"PATH": python_on_path, "AWS_LAMBDA_EXEC_WRAPPER": path})
    assert json.loads(function.respond().body) == ["yes", str(function.task)]
    assert function.respond({}).chunks


@pytest.mark.parametrize("option", ["", "-S"])
def test_a_wrapper_may_start_python_in_another_folder(runtime, tmp_path, python_on_path, option):
    (tmp_path / "elsewhere").mkdir()
    text = f'#!/bin/sh\ncd {tmp_path}/elsewhere\npython=$1\nshift\nPYTHONPATH=:/x exec "$python" {option} "$@"\n'
    path = wrapper(tmp_path / "wrapper", text)
    code = """
        import json, sys

        def handler(event, context):
            yield json.dumps(sys.path).encode()
        """
    function = runtime(code, arguments=[""], variables={"PATH": python_on_path, "AWS_LAMBDA_EXEC_WRAPPER": path})
    import_path = json.loads(function.respond().body)
    assert (import_path[0], import_path.count("/x"), import_path.count("")) == (str(function.task), 1, 0)


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_an_error_is_in_the_log_if_a_wrapper_closes_an_output(runtime, tmp_path, python_on_path, closed):
    path = wrapper(tmp_path / "wrapper", f'#!/bin/sh\nexec "$@" {dict(stdout=1, stderr=2)[closed]}>&-\n')
    code = """
        def handler(event, context):
            raise ValueError("in the log")
        """
    function = runtime(code, arguments=[""], variables={"PATH": python_on_path, "AWS_LAMBDA_EXEC_WRAPPER": path})
    function.fail()
    function.expect_next()
    assert "ValueError: in the log" in function.stdout + function.stderr


def test_bootstrap_never_wraps_itself(runtime, layer, python_on_path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(layer / "bootstrap")
    for path in (layer / "bootstrap", link):
        variables = {"PATH": python_on_path, "AWS_LAMBDA_EXEC_WRAPPER": str(path)}
        function = runtime(WRAPPED, arguments=[""], variables=variables)
        assert json.loads(function.respond().body)[0] is None


def test_a_wrapper_that_starts_bootstrap_again_is_not_started_twice(runtime, layer, tmp_path, python_on_path):
    path = wrapper(tmp_path / "wrapper", f"#!/bin/sh\nWRAPPED=yes exec {layer}/bootstrap\n")
    function = runtime(WRAPPED, arguments=[""], variables={"PATH": python_on_path, "AWS_LAMBDA_EXEC_WRAPPER": path})
    assert json.loads(function.respond().body)[0] == "yes"


def test_bootstrap_does_not_start_the_wrapper_on_a_managed_runtime(runtime, tmp_path):
    path = wrapper(tmp_path / "wrapper", "#!/bin/sh\nexit 9\n")
    assert runtime(WRAPPED, variables={"AWS_LAMBDA_EXEC_WRAPPER": path}).respond().chunks


MANAGED = [sys.executable, "/var/runtime/bootstrap.py"]
FAULTS = {"missing": "does not exist", "folder": "is a folder", "plain": "is not executable"}


def faulty_wrapper(folder, fault):
    path = folder / fault
    if fault == "folder":
        path.mkdir()
    elif fault == "plain":
        wrapper(path, "#!/bin/sh\n", 0o644)
    return str(path)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["AWS_LAMBDA_EXEC_WRAPPER", "STREAMING_RUNTIME_EXEC_WRAPPER", "argument"])
def test_a_wrapper_that_cannot_be_started_is_an_init_error(runtime, tmp_path, python_on_path, place, fault):
    path = faulty_wrapper(tmp_path, fault)
    arguments = [path, *MANAGED] if place == "argument" else [""]
    variables = {"PATH": python_on_path} | ({} if place == "argument" else {place: path})
    function = runtime(HANDLER, arguments=arguments, variables=variables)
    _, document = function.read_init_error()
    assert function.wait() == 1
    assert document["errorType"] == "Runtime.InvalidWrapper"
    name = "the first argument of bootstrap" if place == "argument" else place
    assert f"{name} names a file that {FAULTS[fault]}, {path};" in document["errorMessage"]
    assert function.stderr == document["errorMessage"] + "\n"


def test_print_is_in_the_log_at_once_also_through_a_wrapper(runtime, tmp_path, python_on_path):
    path = wrapper(tmp_path / "wrapper", '#!/bin/sh\nexec "$@"\n')
    function = runtime(
        """
        import sys

        def handler(event, context):
            print("out", end="")
            print("err", end="", file=sys.stderr)
            yield b"x"
            with open(event) as gate:
                gate.read()
        """,
        arguments=[""],
        variables={"PATH": python_on_path, "AWS_LAMBDA_EXEC_WRAPPER": path},
    )
    gate = Gate(tmp_path)
    function.expect_response(function.invoke(gate.path))
    function.peer.read_chunk()
    assert (function.stdout, function.stderr) == ("out", "err")
    gate.open()


# An agent's wrapper beside ours

AGENT = """#!/bin/sh
export WRAPPED="${WRAPPED-}$0 "
exec "$@"
"""

WRAPPERS = """
import json
import os
import sys

def handler(event, context):
    left = [name for name in os.environ if "STREAMING_RUNTIME_" in name or name.endswith("EXEC_WRAPPER")]
    yield json.dumps([os.environ.get("WRAPPED", "").split(), left, sys.argv, "site" in sys.modules]).encode()
"""


def wrapped_by(function):
    wrappers, left, _, has_site = json.loads(function.respond().body)
    assert (left, has_site) == ([], True)
    return wrappers


def test_a_managed_runtime_starts_the_second_wrapper_with_its_interpreter(runtime, layer, tmp_path):
    agent = wrapper(tmp_path / "agent", AGENT)
    variables = {"AWS_LAMBDA_EXEC_WRAPPER": f"{layer}/bootstrap", "STREAMING_RUNTIME_EXEC_WRAPPER": agent}
    assert wrapped_by(runtime(WRAPPERS, arguments=MANAGED, variables=variables)) == [agent]


def test_the_second_wrapper_has_precedence_where_the_service_calls_none(runtime, tmp_path, python_on_path):
    agent, other = (wrapper(tmp_path / name, AGENT) for name in ("agent", "other"))
    variables = {"AWS_LAMBDA_EXEC_WRAPPER": other, "STREAMING_RUNTIME_EXEC_WRAPPER": agent, "PATH": python_on_path}
    assert wrapped_by(runtime(WRAPPERS, arguments=[""], variables=variables)) == [agent]


@pytest.mark.parametrize("name", ["agent", "python-agent", "python/agent"])
def test_a_wrapper_as_the_first_argument_is_started(runtime, tmp_path, name):
    (tmp_path / "python").mkdir()
    agent = wrapper(tmp_path / name, AGENT)
    assert wrapped_by(runtime(WRAPPERS, arguments=[agent, *MANAGED])) == [agent]


def test_both_wrappers_are_started_the_one_of_the_variable_first(runtime, tmp_path):
    agent, other = (wrapper(tmp_path / name, AGENT) for name in ("agent", "other"))
    variables = {"STREAMING_RUNTIME_EXEC_WRAPPER": agent}
    assert wrapped_by(runtime(WRAPPERS, arguments=[other, *MANAGED], variables=variables)) == [agent, other]


@pytest.mark.parametrize("again", ["", '"$@"', '"$0" "$@"'], ids=["bare", "with its command", "with itself"])
def test_a_wrapper_that_calls_bootstrap_again_is_started_once(runtime, layer, tmp_path, python_on_path, again):
    agent = wrapper(tmp_path / "agent", f'#!/bin/sh\nexport WRAPPED="$WRAPPED$0 "\nexec {layer}/bootstrap {again}\n')
    for arguments in ([agent, *MANAGED], MANAGED):
        variables = {"STREAMING_RUNTIME_EXEC_WRAPPER": agent, "PATH": python_on_path, "WRAPPED": ""}
        function = runtime(WRAPPERS, arguments=arguments, variables=variables)
        wrappers, left, *_ = json.loads(function.respond().body)
        assert (set(wrappers), left) == ({agent}, [])


def test_the_watch_over_a_wrapper_ends_when_the_runtime_starts(runtime, tmp_path, python_on_path):
    agent = wrapper(
        tmp_path / "agent", f'#!/bin/sh\nprintf %s "$_STREAMING_RUNTIME_WATCH" >{tmp_path}/watch\nexec "$@"\n'
    )
    variables = {"PATH": python_on_path, "AWS_LAMBDA_EXEC_WRAPPER": agent}
    runtime(HANDLER, arguments=[""], variables=variables).expect_next()
    watch = int((tmp_path / "watch").read_text())
    until(lambda: not is_running(watch))


@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.parametrize("place", ["AWS_LAMBDA_EXEC_WRAPPER", "STREAMING_RUNTIME_EXEC_WRAPPER", "argument"])
def test_a_wrapper_that_ends_without_starting_python_is_reported(runtime, tmp_path, python_on_path, place, status):
    agent = wrapper(tmp_path / "agent", f"#!/bin/sh\nexit {status}\n")
    arguments = [agent, *MANAGED] if place == "argument" else [""]
    variables = {"PATH": python_on_path} | ({} if place == "argument" else {place: agent})
    function = runtime(HANDLER, arguments=arguments, variables=variables)
    _, document = function.read_init_error()
    assert function.wait() == status
    assert document["errorType"] == "Runtime.InvalidWrapper"
    assert f"the wrapper {agent} ended without starting Python" in document["errorMessage"]
    assert "?" not in document["errorMessage"]
    assert function.stderr == document["errorMessage"] + "\n"


@pytest.mark.parametrize("name", ["lambda_function.handler", "pkg/module.handler"])
def test_the_name_of_a_handler_as_the_first_argument_is_ignored(runtime, python_on_path, name):
    path = name.rpartition(".")[0] + ".py"
    function = runtime({path: HANDLER}, arguments=[name], variables={"PATH": python_on_path, "_HANDLER": name})
    assert function.respond().chunks


def test_programs_of_the_function_find_the_python_of_a_self_contained_layer(runtime, layer, tmp_path):
    opt = copy_of(layer, tmp_path)
    stub_interpreter(opt / "cpython/bin/python3")
    function = runtime(
        """
        import subprocess

        def handler(event, context):
            yield subprocess.run(["python3", "-c", PROGRAM], capture_output=True, check=True).stdout

        PROGRAM = "import os; print(os.environ['PICKED'], end='')"
        """,
        layer=opt,
        arguments=[""],
        variables={"PATH": "/usr/bin:/bin"},
    )
    assert function.respond().body.decode() == str(opt / "cpython/bin/python3")


@pytest.mark.parametrize("arguments", [[], [sys.executable, "/var/runtime/bootstrap.py"]], ids=["bundled", "managed"])
def test_bootstrap_overwrites_no_variable_of_the_function(runtime, layer, tmp_path, arguments):
    opt = copy_of(layer, tmp_path)
    stub_interpreter(opt / "cpython/bin/python3")
    assigned = re.findall(r"\b([A-Za-z]\w+)=|(?:for|read -r) ([A-Za-z]\w+)", (opt / "bootstrap").read_text())
    own = ("LC_ALL", "PATH")
    variables = {name: "the function's" for pair in assigned for name in pair if name and name not in own}
    variables = {"AWS_LAMBDA_EXEC_WRAPPER": str(opt / "bootstrap"), "SSL_CERT_FILE": "/mine"} | {
        name: value
        for name, value in variables.items()
        if not name.startswith(("AWS_", "PYTHON", "SSL_", "STREAMING_"))
    }
    code = """
        import json, os

        def handler(event, context):
            yield json.dumps(dict(os.environ)).encode()
        """
    environment = json.loads(runtime(code, layer=opt, arguments=arguments or [""], variables=variables).respond().body)
    assert {name: environment.get(name) for name in variables} == variables


@pytest.mark.parametrize("start", ["relative", "through PATH", "by sh"])
def test_bootstrap_finds_runtime_py_for_each_way_to_call_it(layer, tmp_path, start):
    command = {
        "relative": ["./opt/bootstrap"],
        "through PATH": ["bootstrap"],
        "by sh": ["sh", "opt/bootstrap"],
    }[start]
    copy_of(layer, tmp_path)
    environment = {"PATH": f"{tmp_path}/opt:{os.path.dirname(sys.executable)}:/usr/bin:/bin"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert "AWS_LAMBDA_RUNTIME_API is ''" in result.stderr and result.stderr.count("\n") == 1


# bootstrap starts Python without `site`. The runtime does the part that functions need.

SITE = """
import json, sys

def handler(event, context):
    yield json.dumps([sys.path, callable(exit), callable(quit), "site" in sys.modules]).encode()
"""


def plain_interpreter():
    """Return the interpreter that the virtual environment of the tests is based on."""
    path = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    if not path.exists():
        pytest.skip(f"there is no {path}")
    return str(path)


def test_the_packages_of_the_interpreter_are_last_on_the_import_path(runtime):
    function = runtime(SITE, arguments=[plain_interpreter(), "/var/runtime/bootstrap.py"])
    path, *builtins, _ = json.loads(function.respond().body)
    probe = [plain_interpreter(), "-c", "import json, site; print(json.dumps(site.getsitepackages()))"]
    packages = json.loads(subprocess.run(probe, capture_output=True, text=True, check=True).stdout)
    existing = [folder for folder in packages if Path(folder).is_dir()]
    assert path[len(path) - len(existing) :] == existing
    assert builtins == [True, True]


def test_the_packages_of_a_virtual_environment_can_be_imported(runtime):
    function = runtime(
        """
        import pytest

        def handler(event, context):
            yield pytest.__name__.encode()
        """
    )
    assert function.respond().body == b"pytest"


@pytest.mark.parametrize("start", ['shift; exec "$python" "$@"', 'exec "$python" "${@: -1}"'], ids=["all", "script"])
def test_path_files_of_a_virtual_environment_run_as_usual_if_a_wrapper_starts_it(
    runtime, tmp_path, python_on_path, start
):
    environment = tmp_path / "environment"
    packages = environment / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    packages.mkdir(parents=True)
    (packages / "agent.pth").write_text("import sys; print('agent started', flush=True)\n")
    (environment / "bin").mkdir()
    (environment / "bin/python3").symlink_to(plain_interpreter())
    (environment / "pyvenv.cfg").write_text(f"home = {Path(plain_interpreter()).parent}\n")
    path = wrapper(tmp_path / "wrapper", f"#!/bin/bash\npython={environment}/bin/python3\n{start}\n")
    variables = {"PATH": python_on_path, "AWS_LAMBDA_EXEC_WRAPPER": path}
    function = runtime(SITE, arguments=[""], variables=variables)
    assert str(packages) in json.loads(function.respond().body)[0]
    usual = subprocess.run([environment / "bin/python3", "-c", ""], capture_output=True, text=True, check=True).stdout
    assert function.stdout == usual


def test_a_sitecustomize_on_pythonpath_runs_once_before_the_function(runtime, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('agent started')\n")
    function = runtime(
        """
        import sys

        print("function")

        def handler(event, context):
            yield b""
        """,
        variables={"PYTHONPATH": f"/nonesuch:{tmp_path}"},
        arguments=[plain_interpreter(), "/var/runtime/bootstrap.py"],
    )
    function.expect_next()
    assert function.stdout == "agent started\nfunction\n"
