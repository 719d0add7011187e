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
from support.function_process import Gate

HANDLER = """
import sys

def handler(event, context):
    yield sys.executable.encode()
"""


def stub_interpreter(path):
    """A program that stands where an interpreter is looked for, and says that it was taken."""
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


def test_the_interpreter_of_a_managed_runtime_is_taken_first(runtime, layer, tmp_path):
    opt = copy_of(layer, tmp_path)
    stub_interpreter(opt / "cpython/bin/python3")
    stub_interpreter(tmp_path / "lang/bin/python3.13")
    arguments = [str(tmp_path / "lang/bin/python3.13"), "/var/runtime/bootstrap.py"]
    function = runtime(PICKED, layer=opt, arguments=arguments)
    assert function.respond().body.decode() == arguments[0]


def test_the_interpreter_of_the_layer_is_taken_before_one_on_the_path(runtime, layer, tmp_path):
    opt = copy_of(layer, tmp_path)
    stub_interpreter(opt / "cpython/bin/python3")
    stub_interpreter(tmp_path / "bin/python3")
    function = runtime(PICKED, layer=opt, arguments=[""], variables={"PATH": f"{tmp_path}/bin"})
    assert function.respond().body.decode() == str(opt / "cpython/bin/python3")


def test_the_path_is_searched_last_and_the_handler_as_an_argument_is_no_interpreter(runtime, tmp_path):
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

def handler(event, context):
    yield json.dumps([os.environ.get("WRAPPED"), sys.path[0]]).encode()
"""


@pytest.fixture
def python_on_path(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(sys.executable)
    return f"{tmp_path}/bin:/usr/bin:/bin"


@pytest.mark.parametrize("text", ['#!/bin/sh\nWRAPPED=yes exec "$@"\n', EXTRA_OPTION])
def test_a_wrapper_is_honoured_where_the_service_does_not_call_it(runtime, tmp_path, python_on_path, text):
    if "bash" in text and not Path("/bin/bash").exists():
        pytest.skip("bash is not installed")
    path = wrapper(tmp_path / "wrapper", text)
    function = runtime(WRAPPED, arguments=[""], variables={"PATH": python_on_path, "AWS_LAMBDA_EXEC_WRAPPER": path})
    assert json.loads(function.respond().body) == ["yes", str(function.task)]
    assert function.respond({}).chunks


def test_bootstrap_never_wraps_itself(runtime, layer, python_on_path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(layer / "bootstrap")
    for path in (layer / "bootstrap", link):
        variables = {"PATH": python_on_path, "AWS_LAMBDA_EXEC_WRAPPER": str(path)}
        function = runtime(WRAPPED, arguments=[""], variables=variables)
        assert json.loads(function.respond().body)[0] is None


def test_a_wrapper_that_starts_bootstrap_again_does_not_go_round_in_circles(runtime, layer, tmp_path, python_on_path):
    path = wrapper(tmp_path / "wrapper", f"#!/bin/sh\nWRAPPED=yes exec {layer}/bootstrap\n")
    function = runtime(WRAPPED, arguments=[""], variables={"PATH": python_on_path, "AWS_LAMBDA_EXEC_WRAPPER": path})
    assert json.loads(function.respond().body)[0] == "yes"


def test_a_wrapper_on_a_managed_runtime_was_called_by_the_service_already(runtime, tmp_path):
    path = wrapper(tmp_path / "wrapper", "#!/bin/sh\nexit 9\n")
    assert runtime(WRAPPED, variables={"AWS_LAMBDA_EXEC_WRAPPER": path}).respond().chunks


@pytest.mark.parametrize(("mode", "said"), [(None, "does not exist"), (0o644, "not executable")])
def test_a_wrapper_that_cannot_be_started_is_an_init_error(runtime, tmp_path, python_on_path, mode, said):
    path = tmp_path / "wrapper"
    if mode is not None:
        wrapper(path, "#!/bin/sh\n", mode)
    variables = {"PATH": python_on_path, "AWS_LAMBDA_EXEC_WRAPPER": str(path)}
    function = runtime(HANDLER, arguments=[""], variables=variables)
    _, document = function.read_init_error()
    assert function.wait() == 1
    assert document["errorType"] == "Runtime.InvalidWrapper"
    assert said in document["errorMessage"] and function.stderr == document["errorMessage"] + "\n"


def test_print_is_in_the_log_at_once_through_a_wrapper_too(runtime, tmp_path, python_on_path):
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


@pytest.mark.parametrize("arguments", [[], [sys.executable, "/var/runtime/bootstrap.py"]], ids=["bundled", "managed"])
def test_no_variable_of_the_function_is_overwritten_by_one_of_bootstrap(runtime, layer, tmp_path, arguments):
    opt = copy_of(layer, tmp_path)
    stub_interpreter(opt / "cpython/bin/python3")
    assigned = re.findall(r"\b([A-Za-z]\w+)=|(?:for|read -r) ([A-Za-z]\w+)", (opt / "bootstrap").read_text())
    variables = {name: "the function's" for pair in assigned for name in pair if name and name != "LC_ALL"}
    variables = {"AWS_LAMBDA_EXEC_WRAPPER": str(opt / "bootstrap"), "SSL_CERT_FILE": "/mine"} | {
        name: value for name, value in variables.items() if not name.startswith(("AWS_", "PYTHON", "SSL_"))
    }
    code = """
        import json, os

        def handler(event, context):
            yield json.dumps(dict(os.environ)).encode()
        """
    environment = json.loads(runtime(code, layer=opt, arguments=arguments or [""], variables=variables).respond().body)
    assert {name: environment.get(name) for name in variables} == variables


@pytest.mark.parametrize("start", ["relative", "through PATH", "by sh"])
def test_bootstrap_finds_runtime_py_beside_itself_however_it_is_called(layer, tmp_path, start):
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


# Python is started without `site`; what a function may need of it is there all the same.

SITE = """
import json, sys

def handler(event, context):
    yield json.dumps([sys.path, callable(exit), callable(quit), "site" in sys.modules]).encode()
"""


def plain_interpreter():
    """The interpreter that the tests' virtual environment was made from."""
    path = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    if not path.exists():
        pytest.skip(f"there is no {path}")
    return str(path)


def test_the_interpreters_own_packages_are_on_the_path_last(runtime):
    function = runtime(SITE, arguments=[plain_interpreter(), "/var/runtime/bootstrap.py"])
    path, *builtins, _ = json.loads(function.respond().body)
    probe = [plain_interpreter(), "-c", "import json, site; print(json.dumps(site.getsitepackages()))"]
    packages = json.loads(subprocess.run(probe, capture_output=True, text=True, check=True).stdout)
    existing = [folder for folder in packages if Path(folder).is_dir()]
    assert path[len(path) - len(existing) :] == existing
    assert builtins == [True, True]


def test_the_packages_of_a_virtual_environment_are_found(runtime):
    function = runtime(
        """
        import pytest

        def handler(event, context):
            yield pytest.__name__.encode()
        """
    )
    assert function.respond().body == b"pytest"


def test_a_sitecustomize_on_pythonpath_is_run_once_and_before_the_function(runtime, tmp_path):
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
