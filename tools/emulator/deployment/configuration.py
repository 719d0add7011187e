"""The configuration of a function, as `CreateFunction` takes it, and the environment variables that follow from it.

https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
"""

from __future__ import annotations

import functools
import os
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

REGION = "us-east-1"
ACCOUNT = "123456789012"
VERSION = "$LATEST"
# The home folder of the service's user, which does not exist. There it is in the user database, and the variable is not
# set; here it is set, because SDKs would find the developer's ~/.aws otherwise.
HOME = "/home/sbx_user1051"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"

# The emulator sets these. Most of them are reserved on the service, which refuses them in a configuration too.
RESERVED = (
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "AWS_LAMBDA_RUNTIME_API",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
)


WRAPPER = "AWS_LAMBDA_EXEC_WRAPPER"
WRAPPERS = (WRAPPER, "STREAMING_RUNTIME_EXEC_WRAPPER")  # their values are paths on the service
SERVICE_SCRIPT = "/var/runtime/bootstrap.py"
DEBUGGED_RUNTIME = Path(__file__).parents[1] / "debugged_runtime.py"
# What /var/runtime/bootstrap of a managed runtime does: it becomes the wrapper, or the interpreter without one. So a
# missing wrapper ends the process with status 127, and one that cannot be executed with 126 (runtimes-modify).
MANAGED_START = ["/bin/sh", "-c", 'exec ${AWS_LAMBDA_EXEC_WRAPPER:+"$AWS_LAMBDA_EXEC_WRAPPER"} "$@"', "bootstrap"]


class FunctionConfiguration(NamedTuple):
    """A function.

    Args:
        layer: the folder used as /opt; its `bootstrap` is started.
        task_root: the folder used as /var/task.
        handler: `module.callable`.
        timeout: seconds for an invocation.
        memory: in MB; reported to the function, not enforced.
        variables: the environment variables in the function's configuration.
        credentials: environment variables with credentials. Callers cannot read them as part of the configuration.
        isolated: whether its processes see the two folders as /opt and /var/task, read-only.
        snapstart: whether its environments are held between their init phase and their first invocation.
        max_concurrency: the invocations that its one environment serves at a time, as on managed instances; 0: it is an
            on-demand function.
        source_root: the function's folder if `task_root` is a view of it, whose paths mean nothing to a developer.
        debug_port: where a debugger connects to its process, which waits for it; None: it has none.
    """

    name: str
    layer: Path
    task_root: Path
    handler: str = "lambda_function.handler"
    timeout: float = 30.0
    memory: int = 128
    variables: tuple[tuple[str, str], ...] = ()
    credentials: tuple[tuple[str, str], ...] = ()
    isolated: bool = False
    snapstart: bool = False
    max_concurrency: int = 0
    debug_port: int | None = None
    source_root: Path | None = None

    @property
    def has_long_init_phase(self) -> bool:
        return self.snapstart or self.max_concurrency > 0

    @property
    def arn(self) -> str:
        return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.name}"

    @property
    def bundled_python(self) -> Path | None:
        """The interpreter in the layer; None: the layer is a slim one."""
        path = self.layer / "cpython" / "bin" / "python3"
        return path if path.exists() else None

    @property
    def os_only(self) -> bool:
        """Whether the runtime is an OS-only one, `provided.*`: the layer has an interpreter that starts here.

        It does not start if it is for another architecture, or if it works in /opt only.
        """
        bundled = self.bundled_python
        return bundled is not None and (self.isolated or starts(str(bundled)))

    @property
    def visible_folders(self) -> tuple[str, str]:
        """The paths of the layer and of the function's code, as the process sees them."""
        return ("/opt", "/var/task") if self.isolated else (str(self.layer), str(self.task_root))

    def with_source_paths(self, data: bytes) -> bytes:
        """Return what the function printed or reported, with paths of its source in place of those of the view."""
        source = str(self.source_root or "")
        # The paths can be in JSON, so one that JSON would escape is not inserted.
        if not source or not source.isprintable() or '"' in source or "\\" in source:
            return data
        return data.replace(os.fsencode(self.task_root), source.encode())

    @property
    def command(self) -> list[str]:
        """The command line of the process: `bootstrap`; on a managed runtime with the arguments of a wrapper.

        The arguments of a wrapper name the interpreter. So the function runs on the interpreter that runs the emulator,
        not on the first `python3` on PATH. On an OS-only runtime the service ignores AWS_LAMBDA_EXEC_WRAPPER;
        `bootstrap` reads it.
        """
        if self.debug_port is not None:
            return self._debug_command
        if self.os_only:
            return [self._bootstrap]
        start = [self._bootstrap] if self.wrapper is None else MANAGED_START
        return [*start, self._interpreter, SERVICE_SCRIPT]

    @property
    def _debug_command(self) -> list[str]:
        """The runtime under debugpy, without `bootstrap`: a debugger cannot follow the shell."""
        # debugpy warns about frozen modules, in which it cannot stop.
        interpreter = [self.python, "-u", "-Xfrozen_modules=off"]
        return [*interpreter, str(DEBUGGED_RUNTIME), self.name, str(self.debug_port), f"{self.layer}/runtime.py"]

    @property
    def python(self) -> str:
        """The interpreter of the function, if it is not isolated."""
        return str(self.bundled_python) if self.os_only else sys.executable

    @property
    def wrapper(self) -> str | None:
        """The wrapper in the function's configuration, as its process sees the path; None: `bootstrap` of the layer."""
        path = dict(self.variables).get(WRAPPER)
        return None if path is None else self._visible(path)

    @property
    def replaces_bootstrap(self) -> bool:
        """Whether the wrapper is started in place of the layer's `bootstrap`."""
        return not self.os_only and self.wrapper not in (None, self._bootstrap)

    @property
    def _bootstrap(self) -> str:
        return f"{self.visible_folders[0]}/bootstrap"

    def _visible(self, path: str) -> str:
        """A path on the service, as the process sees it."""
        for folder, visible in zip(("/opt/", "/var/task/"), self.visible_folders, strict=True):
            if path.startswith(folder):
                return f"{visible}/{path.removeprefix(folder)}"
        return path

    @property
    def _interpreter(self) -> str:
        return f"/var/lang/bin/{PYTHON}" if self.isolated else sys.executable

    def environment(self, runtime_api: str, temporary: str) -> dict[str, str]:
        """The environment variables of a process. None of the emulator's own are inherited.

        There are no credentials unless --profile or --env provides them, so a function cannot reach AWS by accident.

        Args:
            runtime_api: `host:port`.
            temporary: the folder for TMPDIR, unless /tmp itself is isolated.
        """
        _, task = self.visible_folders
        variables = {
            "_HANDLER": self.handler,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory),
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_VERSION": VERSION,
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_FORMAT": "Text",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": time.strftime("%Y/%m/%d/[$LATEST]") + os.urandom(16).hex(),
            "AWS_LAMBDA_RUNTIME_API": runtime_api,
            "AWS_REGION": REGION,
            "HOME": HOME,
            "LAMBDA_RUNTIME_DIR": "/var/runtime",
            "LAMBDA_TASK_ROOT": task,
            "LANG": "en_US.UTF-8",
            # The service adds the folders of its system libraries; the machine's could replace the interpreter's own.
            "LD_LIBRARY_PATH": f"{task}:{task}/lib:/opt/lib",
            "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
            "TZ": ":UTC",
        }
        if not self.os_only:
            variables["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{PYTHON}"
            variables[WRAPPER] = self._bootstrap
        if self.isolated:
            variables["LD_LIBRARY_PATH"] = f"/var/lang/lib:{variables['LD_LIBRARY_PATH']}"
        else:
            variables |= {"TMPDIR": temporary, **self._layer_search_paths(variables)}
        given = {name: self._visible(value) if name in WRAPPERS else value for name, value in self.variables}
        return variables | dict(self.credentials) | given

    def _layer_search_paths(self, variables: dict[str, str]) -> dict[str, str]:
        """The search paths that contain /opt on the service, extended with the layer's own folder."""
        libraries = [f"{self.layer}/python/lib/{PYTHON}/site-packages", f"{self.layer}/python"]
        folders = {
            "LD_LIBRARY_PATH": [f"{self.layer}/lib"],
            "PATH": [f"{self.layer}/bin"],
            "PYTHONPATH": libraries,
        }
        found = {name: [path for path in paths if os.path.isdir(path)] for name, paths in folders.items()}
        return {
            name: ":".join([*filter(None, [variables.get(name)]), *paths]) for name, paths in found.items() if paths
        }

    def isolation(self, root: Path, temporary: Path) -> dict[str, str | None] | None:
        """The arguments of `namespaces.enter`; None if the function is not isolated."""
        if not self.isolated:
            return None
        return {
            "root": str(root),
            "layer": str(self.layer),
            "task": str(self.task_root),
            "lang": None if self.os_only else sys.base_prefix,
            "temporary": str(temporary),
        }


@functools.cache
def starts(python: str) -> bool:
    """Whether an interpreter can be started."""
    import subprocess  # only layers with an interpreter need it

    command = [python, "-S", "-E", "-c", ""]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


def function_name(text: str) -> str:
    """Return the name of a folder or zip as a valid function name (API_CreateFunction: FunctionName)."""
    return re.sub(r"[^a-zA-Z0-9_-]", "-", text)[:64] or "function"
