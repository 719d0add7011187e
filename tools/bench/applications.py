"""Web applications, and the programs that serve them: the layer, a web server, and Mangum on awslambdaric."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tools.bench.function_process import Program
from tools.bench.interpreters import REQUIREMENT, Interpreter
from tools.bench.measurement import LAYER, MANGUM
from tools.bench.statistics import quantile
from tools.bench.web_server import ServerProgram
from tools.common.paths import ROOT

_FUNCTIONS = Path(__file__).resolve().parent / "functions"
_PACKAGES = ("fastapi", "flask", "gunicorn", "mangum", "starlette", "uvicorn")
_IMPORTS = 5  # in each round
_UVICORN = ("uvicorn", "application:app", "--fd", "{descriptor}", "--no-access-log")
_GUNICORN = ("gunicorn", "application:app", "--bind", "fd://{descriptor}", "--no-control-socket")


@dataclass(frozen=True)
class Kind:
    """A framework, and the web server that its documentation recommends."""

    name: str
    title: str
    server: tuple[str, ...]
    has_mangum: bool


KINDS = (
    Kind("fastapi", "FastAPI", _UVICORN, True),
    Kind("starlette", "Starlette", _UVICORN, True),
    Kind("flask", "Flask", _GUNICORN, False),
)


@dataclass(frozen=True)
class Application:
    """One application and the programs that serve it.

    Args:
        importing: a command that imports the application, and nothing else.
        nothing: the same without the import.
    """

    kind: Kind
    layer: Program
    server: ServerProgram
    mangum: Program | None
    importing: tuple[str | Path, ...]
    nothing: tuple[str | Path, ...]

    def import_ms(self) -> float:
        """Return the milliseconds that the import of the application takes, the median of several.

        It is subtracted from a start that takes little longer, so its noise counts many times.
        """
        return quantile([self._run_ms(self.importing) - self._run_ms(self.nothing) for _ in range(_IMPORTS)], 0.5)

    def _run_ms(self, command: tuple[str | Path, ...]) -> float:
        started = time.monotonic_ns()
        subprocess.run(command, cwd=self.layer.task_root, env=dict(self.server.variables), check=True)
        return (time.monotonic_ns() - started) / 1e6


def make_applications(folder: Path, layer: tuple[str | Path, ...], interpreter: Interpreter) -> list[Application]:
    """Write the functions into a folder, beside the packages that they import.

    Args:
        layer: the command that starts the layer.

    Raises:
        ToolError: the packages cannot be installed.
    """
    packages = interpreter.packages("applications", *_requirements())
    return [_make(kind, folder / f"{kind.name}-{interpreter.version}", layer, interpreter, packages) for kind in KINDS]


def _requirements() -> list[str]:
    """Return the requirements of the tests that the applications need, so that both use the same versions."""
    lines = (ROOT / "tests" / "requirements-frameworks.txt").read_text().splitlines()
    return [REQUIREMENT, *(line for line in lines if line.partition("==")[0] in _PACKAGES)]


def _make(
    kind: Kind, folder: Path, layer: tuple[str | Path, ...], interpreter: Interpreter, packages: Path
) -> Application:
    if not folder.exists():
        folder.mkdir()
        # The packages are in the function's zip on Lambda, so they are in its folder.
        for entry in packages.iterdir():
            (folder / entry.name).symlink_to(entry)
        (folder / "application.py").write_bytes((_FUNCTIONS / f"{kind.name}_app.py").read_bytes())
        (folder / "mangum_handler.py").write_bytes((_FUNCTIONS / "mangum_handler.py").read_bytes())
    # bootstrap starts the layer's Python with -S, so the others are started with it as well.
    python, path = (interpreter.path, "-S"), {"PYTHONPATH": str(folder)}
    mangum = (*python, "-m", "awslambdaric", "mangum_handler.handler")
    return Application(
        kind,
        Program(LAYER, layer, folder, {"_HANDLER": "application.app"}),
        ServerProgram(kind.server[0], (*python, "-m", *kind.server), folder, path),
        Program(MANGUM, mangum, folder, {**path, "_HANDLER": "mangum_handler.handler"}) if kind.has_mangum else None,
        # Without the end of the interpreter, which takes a third of the time of an import and is not a part of it.
        (*python, "-B", "-c", "import os, application; os._exit(0)"),
        (*python, "-B", "-c", "import os; os._exit(0)"),
    )


def http_event(target: str) -> dict[str, object]:
    """Return the event of a Function URL (payload format 2.0) for a GET request."""
    path, _, query = target.partition("?")
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": "localhost", "x-forwarded-proto": "https", "x-forwarded-port": "443"},
        "requestContext": {
            "domainName": "localhost",
            "http": {"method": "GET", "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": ""},
        },
        "isBase64Encoded": False,
    }
