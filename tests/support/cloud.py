"""A checkout and an AWS account for it: the stand-in of `lambda_standin`, with functions and layers."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.loaders import create_loader
from moto.awslambda.utils import get_backend
from moto.core import DEFAULT_ACCOUNT_ID

from support.checkout import ENVIRONMENT, ROOT, Checkout
from support.clock import Clock
from support.lambda_standin import FOREIGN_ACCOUNT, FOREIGN_KEY, Call, StandIn
from tools.fleet import cli
from tools.fleet.aws.pace import Pace
from tools.fleet.aws.session import Aws
from tools.fleet.commands.interface import Environment
from tools.packaging import manifest

REGION = "eu-central-1"
ACCOUNT = DEFAULT_ACCOUNT_ID
NAME = "python-streaming-runtime"
VERSION = manifest.load(ROOT / manifest.FILE_NAME).version
OURS = f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:{NAME}"


def no_pauses() -> Pace:
    """Return a pace whose clock stands still except in pauses, which take no time."""
    clock = Clock()
    return Pace(between_requests=0, between_reads=0, after_throttling=0, sleep=clock.sleep, clock=clock)


# Starts the command line as `python3 -m tools.fleet` does, without the pauses that AWS needs.
WITHOUT_PAUSES = """\
import sys

from support.clock import Clock
from tools.fleet.aws.pace import Pace
from tools.fleet.cli import run
from tools.fleet.commands.interface import Environment

clock = Clock()
pace = Pace(between_requests=0, between_reads=0, after_throttling=0, sleep=clock.sleep, clock=clock)
sys.exit(run(sys.argv[1:], Environment(pace=pace)))
"""

_ASSUME = json.dumps({"Version": "2012-10-17", "Statement": []})


def zipped(files: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, (0o755 if name == "bootstrap" else 0o644) << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


HANDLER_SOURCE = """\
def handler(event, context):
    yield b"hello"
"""
HANDLER = zipped({"lambda_function.py": HANDLER_SOURCE})


@cache  # a client takes about 50 ms to make
def _client(url: str, service: str, region: str, key: str) -> Any:
    return boto3.Session(key, "testing", region_name=region).client(service, endpoint_url=url)


_LOADER = create_loader()  # keeps the models of the services, which take 40 ms each to read


@cache  # one for each environment of boto3
def _session(*environment: tuple[str, str | None]) -> Any:
    return boto3.Session()


@dataclass
class Cloud:
    checkout: Checkout
    standin: StandIn
    environment: dict[str, str]
    _role: str = ""

    @classmethod
    def over(cls, checkout: Checkout, standin: StandIn) -> Cloud:
        kept = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("AWS_")}
        return cls(
            checkout,
            standin,
            kept
            | {
                "AWS_ENDPOINT_URL": standin.url,
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",
                "AWS_DEFAULT_REGION": REGION,
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                "AWS_EC2_METADATA_DISABLED": "true",
                "NO_PROXY": "127.0.0.1",
                "PYTHONPATH": f"{checkout.root}{os.pathsep}{ROOT / 'tests'}",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )

    def client(self, service: str = "lambda", region: str = REGION, key: str = "testing") -> Any:
        return _client(self.standin.url, service, region, key)

    # Running commands

    def command(self, *words: str | Path) -> list[str | Path]:
        return [sys.executable, "-P", "-X", "utf8", "-c", WITHOUT_PAUSES, *words]

    def run(
        self,
        *words: str | Path,
        stdin: str = "",
        cwd: Path | None = None,
        pace: Pace | None = None,
        **environment: str | None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in this process, because starting one takes longer than most commands.

        Args:
            environment: variables besides the usual ones; None removes one.
        """
        merged = {**self.environment, **environment}
        variables = {name: value for name, value in merged.items() if value is not None}
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(os, "environ", variables)
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            patch.setattr(botocore.session, "create_loader", lambda *_: _LOADER)
            patch.chdir(cwd or self.checkout.root)
            try:
                status = cli.main(list(map(str, words)), self.settings(pace or no_pauses(), sorted(merged.items())))
            except SystemExit as end:  # argparse
                status = int(end.code or 0)
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    def settings(self, pace: Pace, variables: list[tuple[str, str | None]]) -> Environment:
        """Return what the commands work with: this checkout, a pace, and a session for these variables."""

        relevant = [(name, value) for name, value in variables if not name.startswith("PYTHON")]

        def connect(pace: Pace) -> Aws:
            return Aws(pace, lambda: _session(*relevant))

        return Environment(root=self.checkout.root, pace=pace, connect=connect)

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
            cwd=self.checkout.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill_when(self, is_due: Callable[[Call], bool], moment: str, *words: str | Path) -> int:
        """Start a command, kill its process at a call, and return its exit status: it may end before by itself.

        Args:
            is_due: whether to kill it now; it gets each call in turn.
            moment: `before` or `after` the call has its effect; the response is lost.
        """

        def kill(call: Call) -> str | None:
            if not is_due(call):
                return None
            os.kill(process.pid, signal.SIGKILL)
            return moment

        self.standin.faults.on = kill
        process = self.start(*words)
        process.communicate(timeout=120)
        self.standin.faults.on = lambda call: None
        return process.returncode

    def kill_at(self, operation: str, count: int, moment: str, *words: str | Path) -> None:
        """Do the same at call number `count` of `operation`, before which the command must not end."""
        seen: list[Call] = []

        def is_due(call: Call) -> bool:
            seen.extend([call] if call.operation == operation else [])
            return len(seen) >= count and call.operation == operation

        assert self.kill_when(is_due, moment, *words) == -signal.SIGKILL

    def done(self, *words: str | Path, **options: Any) -> str:
        """Run a command that must succeed, and return its stdout."""
        result = self.run(*words, **options)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def json(self, *words: str | Path, status: int = 0, **options: Any) -> Any:
        """Run a command with `--json`, and return its object."""
        result = self.run(*words, "--json", **options)
        assert result.returncode == status, result.stdout + result.stderr
        assert result.stdout.count("\n") == 1
        return json.loads(result.stdout)

    def refusal(self, *words: str | Path, status: int = 1, **options: Any) -> str:
        """Run a command that must fail with one line and change neither files nor functions; return that line."""
        files, functions = self.checkout.state(), self.fleet()
        result = self.run(*words, **options)
        lines = [line for line in result.stderr.splitlines() if line.startswith("build.sh: error: ")]
        assert (result.returncode, len(lines)) == (status, 1), result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        assert (self.checkout.state(), self.fleet()) == (files, functions)
        return lines[0].removeprefix("build.sh: error: ")

    # The account

    def layer(
        self,
        name: str = NAME,
        count: int = 1,
        key: str = "testing",
        files: dict[str, str | bytes] | None = None,
        **more: Any,
    ) -> list[str]:
        """Publish versions of a layer, each with its own bytes in addition to `files`, and return their ARNs."""
        arns = []
        for _ in range(count):
            content = {"ZipFile": zipped({f"{name}.txt": f"{len(self.standin.calls)}", **(files or {})})}
            request = {"Content": content, **more}
            response = self.standin.create(f"/2018-10-31/layers/{name}/versions", request, REGION, key)
            arns.append(response["LayerVersionArn"])
        return arns

    def foreign_layer(self, shared: bool = True) -> str:
        (arn,) = self.layer("tracing", key=FOREIGN_KEY)
        if shared:
            self.client(key=FOREIGN_KEY).add_layer_version_permission(
                LayerName="tracing",
                VersionNumber=int(arn.split(":")[-1]),
                StatementId="all",
                Action="lambda:GetLayerVersion",
                Principal="*",
            )
        return arn

    def function(self, name: str, layers: list[str], region: str = REGION, **more: Any) -> None:
        options: dict[str, Any] = {
            "Runtime": "python3.13",
            "Handler": "lambda_function.handler",
            "Role": self.role(region),
            "Code": {"ZipFile": HANDLER},
            "Environment": {"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"}},
        }
        request = {"FunctionName": name, "Layers": layers, **options, **more}
        self.standin.create("/2015-03-31/functions", request, region, "testing")

    def with_functions(self, names: list[str]) -> Cloud:
        """Publish two versions of our layer, and create functions with the first one."""
        self.layer(count=2)
        for name in names:
            self.function(name, [f"{OURS}:1"])
        self.standin.calls.clear()
        return self

    def delete(self, name: str) -> None:
        get_backend(ACCOUNT, REGION).delete_function(name, None)
        for key in [key for key in self.standin.layers if key[:3] == (ACCOUNT, REGION, name)]:
            del self.standin.layers[key]

    def role(self, region: str) -> str:
        if not self._role:
            client = self.client("iam", region)
            self._role = client.create_role(RoleName="runs", AssumeRolePolicyDocument=_ASSUME)["Role"]["Arn"]
        return self._role

    def fleet(self) -> dict[str, list[str]]:
        """Return the layers of every function, read from the stand-in directly."""
        return {
            name: list(arns)
            for (account, region, name, version), arns in sorted(self.standin.layers.items())
            if (account, region, version) == (ACCOUNT, REGION, "$LATEST")
        }

    def manifest(self) -> Any:
        """Return the manifest of the checkout, which must be valid."""
        path = self.checkout.root / manifest.FILE_NAME
        manifest.load(path)
        return json.loads(path.read_text())


__all__ = ["ACCOUNT", "FOREIGN_ACCOUNT", "FOREIGN_KEY", "HANDLER", "NAME", "OURS", "REGION", "Cloud", "zipped"]
