"""The programs that are measured, and what they need: layers, functions, compiled C."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.bench.applications import Application, make_applications
from tools.bench.function_process import Launcher, Program
from tools.bench.interpreters import REQUIREMENT, Interpreter, run_command
from tools.bench.layers import build_layer, find_layer
from tools.bench.measurement import AWSLAMBDARIC, BASELINE, C_CLIENT, LAYER, MINIMAL_RUNTIME
from tools.common.errors import ToolError
from tools.common.paths import ROOT

_HERE = Path(__file__).resolve().parent
# As on a managed runtime, which passes its own script; bootstrap replaces it, and starts no other process.
_MANAGED_SCRIPT = "/var/runtime/bootstrap.py"
_FUNCTIONS = ("streaming", "buffered", "url")


@dataclass(frozen=True)
class Workshop:
    """What all interpreters share, in a folder that is removed at the end.

    Args:
        layer: the layer of this checkout, unpacked.
        baseline: the layer that it is compared with; None without `--baseline`.
        c_client: the compiled `client.c`; None where there is no compiler.
        left_out: collects what cannot be measured, and why.
    """

    folder: Path
    layer: Path
    baseline: Path | None
    launcher: Launcher
    server_language: str
    c_client: Path | None
    left_out: list[str]

    @classmethod
    def set_up(cls, folder: Path, baseline: str | None) -> Workshop:
        """Build everything.

        Raises:
            ToolError: a layer cannot be built.
        """
        left_out: list[str] = []
        other = None
        if baseline is not None:
            other = find_layer(baseline, _subfolder(folder, "baseline"))
        server: tuple[str | Path, ...] = (sys.executable, "-S", _HERE / "server.py")
        c_client: Path | None = None
        try:
            server, c_client = (_compile_c("server", folder),), _compile_c("client", folder)
        except ToolError as error:
            left_out.append(f"the C client; the Runtime API is the slower one in Python: {error}")
        for name in _FUNCTIONS:
            shutil.copyfile(_HERE / "functions" / f"{name}.py", _subfolder(folder, name) / "lambda_function.py")
        layer = build_layer(ROOT, _subfolder(folder, "layer"))
        language = "Python" if c_client is None else "C"
        return cls(folder, layer, other, Launcher(server, folder / "log"), language, c_client, left_out)

    def programs(self, interpreter: Interpreter) -> dict[str, Program]:
        """Return the programs that can be measured beside the layer, by their names."""
        makers: dict[str, Callable[[Interpreter], Program]] = {
            LAYER: lambda python: self._layer(LAYER, self.layer, python),
            AWSLAMBDARIC: self._awslambdaric,
            MINIMAL_RUNTIME: self._minimal_runtime,
        }
        programs = {C_CLIENT: Program(C_CLIENT, (self.c_client,), self.folder / "streaming")} if self.c_client else {}
        for name, make in makers.items():
            try:
                programs[name] = make(interpreter)
            except ToolError as error:
                self.left_out.append(f"{name} on Python {interpreter.version}: {error}")
        return programs

    def layers(self, interpreter: Interpreter) -> dict[str, Program]:
        """Return the layer and the baseline."""
        assert self.baseline is not None
        folders = {LAYER: self.layer, BASELINE: self.baseline}
        return {name: self._layer(name, folder, interpreter) for name, folder in folders.items()}

    def applications(self, interpreter: Interpreter) -> list[Application]:
        """Return the web applications. Raises ToolError if their packages cannot be installed."""
        return make_applications(self.folder, _command(self.layer, interpreter), interpreter)

    def _layer(self, name: str, folder: Path, interpreter: Interpreter) -> Program:
        return Program(name, _command(folder, interpreter), self.folder / "streaming")

    def _awslambdaric(self, interpreter: Interpreter) -> Program:
        packages = interpreter.packages("awslambdaric", REQUIREMENT)
        # bootstrap starts the layer's Python with -S, so awslambdaric is started with it as well.
        command = (interpreter.path, "-S", "-m", "awslambdaric", "lambda_function.handler")
        variables = {"PYTHONPATH": str(packages)}
        return Program(AWSLAMBDARIC, command, self.folder / "buffered", variables)

    def _minimal_runtime(self, interpreter: Interpreter) -> Program:
        folder = self.folder / f"minimal-{interpreter.version}"
        if not folder.exists():
            folder.mkdir()
            shutil.copy(self.layer / "bootstrap", folder)
            source = (_HERE / "minimal_runtime.py").read_text().replace("@VERSION@", _version(self.layer))
            (folder / "runtime.py").write_text(source)
            run_command(interpreter.path, "-c", _COMPILE, folder / "runtime.py")
        return self._layer(MINIMAL_RUNTIME, folder, interpreter)


def _command(layer: Path, interpreter: Interpreter) -> tuple[str | Path, ...]:
    return (layer / "bootstrap", interpreter.path, _MANAGED_SCRIPT)


# Bytecode like that of the layer: never compared with the modification time of the source.
_COMPILE = (
    "import py_compile, sys; "
    "py_compile.compile(sys.argv[1], doraise=True, "
    "invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
)


def without_s(program: Program) -> Program:
    """Return the program without the option -S of its Python, which then runs `site`."""
    command = tuple(word for word in program.command if word != "-S")
    return Program(program.name, command, program.task_root, program.variables)


def _subfolder(folder: Path, name: str) -> Path:
    subfolder = folder / name
    subfolder.mkdir()
    return subfolder


def _version(layer: Path) -> str:
    """Return the version that `bootstrap` expects."""
    for line in (layer / "bootstrap").read_text().splitlines():
        name, _, version = line.partition("=")
        if name == "_version":
            return version
    raise ToolError("the layer's bootstrap contains no _version")


def _compile_c(name: str, folder: Path) -> Path:
    """Compile a C file of this folder.

    Raises:
        ToolError: there is no compiler, or it fails.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        raise ToolError(f"no C compiler ({compiler[0]} is not on PATH)")
    program = folder / name
    run_command(*compiler, "-O2", "-o", program, _HERE / f"{name}.c")
    return program
