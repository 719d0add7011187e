"""`AWS_LAMBDA_EXEC_WRAPPER` in the configuration of a function behaves like on a managed runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.emulator import ECHO, MakeFunction, Result, error_of, run

Invoke = Callable[..., Result]


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A layer beside the one of this project."""
    folder = tmp_path / "layer"
    folder.mkdir()
    return folder


@pytest.fixture
def invoke(make_function: MakeFunction, layer: Path) -> Invoke:
    function = make_function(ECHO)

    def invoke(*options: str) -> Result:
        return run("-e", "{}", "--function", function.path, "--layer", layer, *options)

    return invoke


def write(path: Path, source: str, mode: int = 0o755) -> None:
    path.write_text(f"#!/bin/sh\n{source}")
    path.chmod(mode)


def wrapper(path: str) -> tuple[str, str]:
    return "--env", f"AWS_LAMBDA_EXEC_WRAPPER={path}"


def test_bootstrap_of_the_layer_is_the_usual_wrapper(invoke: Invoke) -> None:
    result = invoke(*wrapper("/opt/bootstrap"))
    assert result[:2] == (0, b"{}")
    assert "instead of the layer's bootstrap" not in result.err


def test_another_wrapper_receives_the_interpreter_and_the_script_of_the_service(invoke: Invoke, layer: Path) -> None:
    write(layer / "wrap", 'echo "arguments: $*"\nexec "${0%/*}/bootstrap" "$@"\n')
    result = invoke(*wrapper("/opt/wrap"))
    assert result[:2] == (0, b"{}")
    assert " /var/runtime/bootstrap.py\n" in result.err.partition("arguments: ")[2]
    assert "it is started instead of the layer's bootstrap" in result.err


def test_a_wrapper_can_be_a_file_of_the_function(invoke: Invoke, make_function: MakeFunction) -> None:
    function = make_function(ECHO, "wrapped")
    write(function.path / "wrap", 'echo from the function\nexec "$LAYER/bootstrap" "$@"\n')
    layer = Path(__file__).parents[2] / "layer"
    result = run("-e", "{}", "--function", function.path, *wrapper("/var/task/wrap"), "--env", f"LAYER={layer}")
    assert result[:2] == (0, b"{}")
    assert "from the function" in result.err


@pytest.mark.parametrize(("mode", "status"), [(None, 127), (0o644, 126)], ids=["missing", "not executable"])
def test_a_wrapper_that_cannot_be_started_ends_with_the_status_of_the_service(
    invoke: Invoke, layer: Path, mode: int | None, status: int
) -> None:
    if mode is not None:
        write(layer / "wrap", "exit 0\n", mode)
    result = invoke(*wrapper("/opt/wrap"))
    assert result.code == 1
    error = error_of(result)
    assert error["errorType"] == "Runtime.ExitError"
    assert error["errorMessage"].endswith(f"Runtime exited with error: exit status {status}")


def test_the_other_variable_runs_a_wrapper_with_the_layer(invoke: Invoke, layer: Path) -> None:
    write(layer / "wrap", 'echo wrapped\nexec "$@"\n')
    result = invoke("--env", "STREAMING_RUNTIME_EXEC_WRAPPER=/opt/wrap")
    assert result[:2] == (0, b"{}")
    assert "wrapped" in result.err
