"""What `CreateFunction` would be told of a function, and the environment variables that come of it.

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
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"

# Set by the emulator; the service calls most of them reserved, and refuses to change them too.
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
    "AWS_LAMBDA_RUNTIME_API",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
)


class FunctionConfiguration(NamedTuple):
    """A function as it is configured.

    Args:
        layer: the folder that stands for /opt; its `bootstrap` is started.
        task_root: the folder that stands for /var/task.
        handler: `module.function`.
        timeout: seconds for an invocation.
        memory: in MB. The function is told of it; it is not enforced.
        given_name: empty: that of the task root.
        variables: the function's own.
        isolated: its processes see the two folders in their places on the service, and nothing can be written there.
    """

    layer: Path
    task_root: Path
    handler: str
    timeout: float
    memory: int
    given_name: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    isolated: bool = False

    @property
    def name(self) -> str:
        return self.given_name or function_name(self.task_root.name)

    @property
    def arn(self) -> str:
        return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.name}"

    @property
    def bundled_python(self) -> Path | None:
        """The interpreter that the layer brings, if it does."""
        path = self.layer / "cpython" / "bin" / "python3"
        return path if path.exists() else None

    @property
    def os_only(self) -> bool:
        """Whether the layer brings an interpreter that works here, so that the runtime is an OS-only one, `provided.*`.

        It may be of another architecture, or made for /opt alone.
        """
        bundled = self.bundled_python
        return bundled is not None and (self.isolated or starts(str(bundled)))

    @property
    def places(self) -> tuple[str, str]:
        """Where a process of the function sees the layer and the function."""
        return ("/opt", "/var/task") if self.isolated else (str(self.layer), str(self.task_root))

    @property
    def command(self) -> list[str]:
        """What is started: `bootstrap`, on a managed runtime as the wrapper that it is there.

        The wrapper's call names the interpreter, so the function has the one that runs the emulator, and not whichever
        `python3` is found first.
        """
        bootstrap = f"{self.places[0]}/bootstrap"
        return [bootstrap] if self.os_only else [bootstrap, self._interpreter, "/var/runtime/bootstrap.py"]

    @property
    def _interpreter(self) -> str:
        return f"/var/lang/bin/{PYTHON}" if self.isolated else sys.executable

    def environment(self, runtime_api: str, temporary: str) -> dict[str, str]:
        """The variables of a process as the service makes them, from nothing.

        There are no credentials unless they were given: nothing here reaches AWS by itself.

        Args:
            runtime_api: `host:port`.
            temporary: the folder that stands for /tmp where the real one is the machine's.
        """
        opt, task = self.places
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
            "LAMBDA_RUNTIME_DIR": "/var/runtime",
            "LAMBDA_TASK_ROOT": task,
            "LANG": "en_US.UTF-8",
            # Without the service's folders of system libraries: they could take the place of the interpreter's own.
            "LD_LIBRARY_PATH": f"{task}:{task}/lib:/opt/lib",
            "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
            "TZ": ":UTC",
        }
        if not self.os_only:
            variables["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{PYTHON}"
            variables["AWS_LAMBDA_EXEC_WRAPPER"] = f"{opt}/bootstrap"
        if self.isolated:
            variables["LD_LIBRARY_PATH"] = f"/var/lang/lib:{variables['LD_LIBRARY_PATH']}"
        else:
            variables |= {"TMPDIR": temporary, **self._paths_into_layer(variables)}
        return variables | dict(self.variables)

    def _paths_into_layer(self, variables: dict[str, str]) -> dict[str, str]:
        """The search paths that lead to /opt on the service, which is somewhere else here."""
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
        """The arguments of `isolation.enter`; None where it is not isolated."""
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
    """Whether an interpreter can be started from where it is."""
    import subprocess

    command = [python, "-S", "-E", "-c", ""]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


def function_name(text: str) -> str:
    """A name that a function can have, of what a folder or a zip is called (API_CreateFunction: FunctionName)."""
    return re.sub(r"[^a-zA-Z0-9_-]", "-", text)[:64] or "function"
