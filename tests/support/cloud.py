"""A checkout, and an account of AWS for it to work on: the stand-in of ``lambda_standin``, functions and layers."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.retries.standard import ExponentialBackoff
from moto.awslambda.utils import get_backend
from moto.core import DEFAULT_ACCOUNT_ID

from support.checkout import ENVIRONMENT, Checkout
from support.lambda_standin import FOREIGN_ACCOUNT, FOREIGN_KEY, StandIn
from tools.fleet import cli
from tools.fleet.aws import functions
from tools.fleet.aws import session as aws
from tools.fleet.commands import built_layer as zips
from tools.fleet.commands import prune, publish, rollout, verify
from tools.packaging import manifest

REGION = "eu-central-1"
ACCOUNT = DEFAULT_ACCOUNT_ID
NAME = "python-streaming-runtime"
OURS = f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:{NAME}"

# As `build.sh` starts it, but without the pace that AWS asks for.
UNPACED = """\
import sys
from tools.fleet.aws import functions, session
session.SECONDS_BETWEEN_CALLS = functions._SECONDS_BETWEEN_LOOKS = session.SECONDS_AFTER_THROTTLING = 0
from tools.fleet.cli import main
sys.exit(main(sys.argv[1:]))
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


HANDLER = zipped({"lambda_function.py": 'def handler(event, context):\n    yield b"hello"\n'})


@cache  # each takes its time to be made
def _client(url: str, service: str, region: str, key: str) -> Any:
    return boto3.Session(key, "testing", region_name=region).client(service, endpoint_url=url)


@cache  # one for each environment: what it has loaded of the services' models is used again
def _session(make: Any, *environment: tuple[str, str | None]) -> Any:
    return make()


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
                "PYTHONPATH": str(checkout.root),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )

    def client(self, service: str = "lambda", region: str = REGION, key: str = "testing") -> Any:
        return _client(self.standin.url, service, region, key)

    # The tool

    def command(self, *words: str | Path) -> list[str | Path]:
        return [sys.executable, "-P", "-X", "utf8", "-c", UNPACED, *words]

    def run(
        self, *words: str | Path, answer: str = "", cwd: Path | None = None, **environment: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command within this process, as starting one takes longer than most commands.

        Args:
            answer: what it reads from its standard input.
            environment: variables besides the usual ones; one that is ``None`` is not there.
        """
        merged = {**self.environment, **environment}
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(os, "environ", {name: value for name, value in merged.items() if value is not None})
            patch.setattr(sys, "stdin", io.StringIO(answer))
            patch.setattr(aws.boto3, "Session", lambda make=boto3.Session: _session(make, *sorted(merged.items())))
            patch.chdir(cwd or self.checkout.root)
            patch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0)
            for module, name, value in (
                *((module, "ROOT", self.checkout.root) for module in (cli, publish, verify, zips)),
                *((module, "JOURNALS", self.checkout.root / "rollouts") for module in (prune, rollout)),
                (aws, "SECONDS_BETWEEN_CALLS", 0),
                (aws, "SECONDS_AFTER_THROTTLING", 0),
                (functions, "_SECONDS_BETWEEN_LOOKS", 0),
                (publish, "SECONDS_BETWEEN_TRIES", 0),
            ):
                patch.setattr(module, name, value)
            try:
                status = cli.main(list(map(str, words)))
            except SystemExit as end:  # argparse
                status = int(end.code or 0)
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

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

    def done(self, *words: str | Path, **options: Any) -> str:
        """Run a command that must succeed, and give what it says."""
        result = self.run(*words, **options)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def json(self, *words: str | Path, status: int = 0, **options: Any) -> Any:
        """Run a command with ``--json``, and give its one object."""
        result = self.run(*words, "--json", **options)
        assert result.returncode == status, result.stdout + result.stderr
        assert result.stdout.count("\n") == 1
        return json.loads(result.stdout)

    def refusal(self, *words: str | Path, status: int = 1, **options: Any) -> str:
        """Run a command that must refuse in one line and change nothing, here and there; give that line."""
        files, functions = self.checkout.files(), self.fleet()
        result = self.run(*words, **options)
        lines = [line for line in result.stderr.splitlines() if line.startswith("build.sh: error: ")]
        assert (result.returncode, len(lines)) == (status, 1), result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        assert (self.checkout.files(), self.fleet()) == (files, functions)
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
        """Publish versions of a layer, each with bytes of its own besides the ``files``, and give their ARNs."""
        client, arns = self.client(key=key), []
        for _ in range(count):
            content = {"ZipFile": zipped({f"{name}.txt": f"{len(self.standin.calls)}", **(files or {})})}
            arns.append(client.publish_layer_version(LayerName=name, Content=content, **more)["LayerVersionArn"])
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
        self.client(region=region).create_function(FunctionName=name, Layers=layers, **(options | more))

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
        """The layers of every function, straight from the stand-in."""
        return {
            name: list(arns)
            for (account, region, name, version), arns in sorted(self.standin.layers.items())
            if (account, region, version) == (ACCOUNT, REGION, "$LATEST")
        }

    def manifest(self) -> Any:
        """The manifest of the checkout, which must be sound."""
        path = self.checkout.root / manifest.FILE_NAME
        manifest.load(path)
        return json.loads(path.read_text())


__all__ = ["ACCOUNT", "FOREIGN_ACCOUNT", "FOREIGN_KEY", "HANDLER", "NAME", "OURS", "REGION", "Cloud", "zipped"]
