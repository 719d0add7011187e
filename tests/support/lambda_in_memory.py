"""Functions and layers of one region in memory, in place of boto3's clients, for tests with thousands of runs.

It has the optimistic lock of AWS Lambda. Together with `MortalProcess` it can simulate the death of the process at any
step: from then on every call and every write to the journal fails.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

from support.clock import Clock
from tools.fleet.aws.arns import Place
from tools.fleet.aws.pace import Pace
from tools.fleet.aws.retries import Retries
from tools.fleet.aws.session import Identity
from tools.fleet.rollout.storage import Disk

PLACE = Place("aws", "eu-central-1", "123456789012")
OURS = str(PLACE.layer("python-streaming-runtime"))
BEFORE, OTHER = str(PLACE.layer("before")) + ":4", str(PLACE.layer("other")) + ":9"


def function_arn(name: str) -> str:
    return f"arn:aws:lambda:{PLACE.region}:{PLACE.account}:function:{name}"


def refusal(status: int, code: str) -> ClientError:
    answer = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status, "RetryAttempts": 0},
    }
    return ClientError(answer, "AnOperation")


class Crash(BaseException):
    """The process is dead."""


class Region:
    """In place of `Aws` and of the clients that it makes.

    Args:
        functions: the layers of each, by name.

    `on_call` receives the operation and the name of the function before each call, `after_call` after it; both may
    raise.
    """

    def __init__(self, functions: dict[str, list[str]], versions: int = 3) -> None:
        self.clock = Clock()
        self.pace = Pace(sleep=self.clock.sleep, clock=self.clock)
        self.all_retries = Retries(self.pace)
        self.functions = functions
        self.versions = {f"{OURS}:{number}" for number in range(1, versions + 1)} | {BEFORE, OTHER}
        self.revisions = dict.fromkeys(functions, 0)
        self.updates: list[tuple[str, list[str]]] = []
        self.published: dict[tuple[str, str], list[str]] = {}
        self.settings: dict[str, dict[str, Any]] = {}  # of $LATEST, besides the layers
        self.published_settings: dict[tuple[str, str], dict[str, Any]] = {}
        self.aliases: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.failing: set[str] = set()  # updates to another version than the first fail
        self.busy: dict[str, int] = {}
        self.on_call: Callable[[str, str], None] = lambda operation, name: None
        self.after_call: Callable[[str, str], None] = lambda operation, name: None
        self._lock = threading.RLock()

    # In place of `Aws`

    def region(self, asked: str | None) -> str:
        return asked or PLACE.region

    def partition(self, region: str) -> str:
        return PLACE.partition

    def retries(self, region: str) -> Retries:
        return self.all_retries

    def identity(self, region: str) -> Identity:
        return Identity(PLACE, "arn:aws:sts::123456789012:user/test")

    def client(self, *_: Any, **__: Any) -> Region:
        return self

    # In place of a client of boto3

    @contextmanager
    def _call(self, operation: str, name: str) -> Iterator[None]:
        self.on_call(operation, name)
        with self._lock:
            yield
        self.after_call(operation, name)
        self.all_retries.responded("".join(word.title() for word in operation.split("_")))

    def get_paginator(self, operation: str) -> Any:
        pages = {
            "list_functions": self._list_functions,
            "list_aliases": self._list_aliases,
            "list_code_signing_configs": lambda: [{"CodeSigningConfigs": []}],
        }
        return SimpleNamespace(paginate=pages[operation])

    def _list_functions(self, **_: Any) -> Iterator[dict[str, Any]]:
        with self._call("list_functions", ""):
            found = [self._configuration(name) for name in self.functions]
        for start in range(0, len(found), 50):
            yield {"Functions": found[start : start + 50]}

    def _list_aliases(self, FunctionName: str) -> Iterator[dict[str, Any]]:
        with self._call("list_aliases", FunctionName):
            alias = self.aliases.get(FunctionName)
        yield {"Aliases": [alias] if alias else []}

    def get_function(self, FunctionName: str, Qualifier: str = "") -> dict[str, Any]:
        with self._call("get_function", FunctionName):
            if FunctionName not in self.functions:
                raise refusal(404, "ResourceNotFoundException")
            configuration = self._configuration(FunctionName)
            if Qualifier:
                version = Qualifier if Qualifier.isdecimal() else self.aliases[FunctionName]["FunctionVersion"]
                layers = self.published[FunctionName, version]
                settings = self.published_settings.get((FunctionName, version), {})
                configuration |= {"Version": version, "Layers": [{"Arn": arn} for arn in layers], **settings}
            return {"Configuration": configuration, "Tags": self.tags.get(FunctionName, {})}

    def _configuration(self, name: str) -> dict[str, Any]:
        is_failed = name in self.failing and f"{OURS}:1" not in self.functions[name]
        return {
            "FunctionName": name,
            "FunctionArn": function_arn(name),
            "Version": "$LATEST",
            "Runtime": "python3.13",
            "Layers": [{"Arn": arn} for arn in self.functions[name]],
            "RevisionId": str(self.revisions[name]),
            **self.settings.get(name, {}),
            "LastUpdateStatus": "Failed" if is_failed else "Successful",
        }

    def get_layer_version(self, LayerName: str, VersionNumber: int) -> dict[str, Any]:
        layer = LayerName if LayerName.startswith("arn:") else PLACE.layer(LayerName)
        arn = f"{layer}:{VersionNumber}"
        with self._call("get_layer_version", LayerName):
            if arn not in self.versions:
                raise refusal(404, "ResourceNotFoundException")
            return {"LayerVersionArn": arn, "Version": VersionNumber, "Content": {"CodeSize": 1000}}

    def update_function_configuration(
        self,
        FunctionName: str,
        Layers: list[str],
        RevisionId: str,
        **_: Any,
    ) -> dict[str, Any]:
        with self._call("update_function_configuration", FunctionName):
            if self.busy.get(FunctionName):
                self.busy[FunctionName] -= 1
                raise refusal(409, "ResourceConflictException")
            if RevisionId != str(self.revisions[FunctionName]):
                raise refusal(412, "PreconditionFailedException")
            if not set(Layers) <= self.versions:
                raise refusal(400, "InvalidParameterValueException")
            self.change(FunctionName, list(Layers))
            self.updates.append((FunctionName, list(Layers)))
            return self._configuration(FunctionName)

    def change(self, name: str, layers: list[str] | None = None) -> None:
        """Change a function, as somebody else may do at any time."""
        with self._lock:
            self.revisions[name] += 1
            if layers is not None:
                self.functions[name] = layers

    def invoke(self, FunctionName: str, Payload: bytes) -> dict[str, Any]:
        with self._call("invoke", FunctionName):
            return {"StatusCode": 200}

    def publish_version(self, FunctionName: str, RevisionId: str) -> dict[str, Any]:
        with self._call("publish_version", FunctionName):
            if RevisionId != str(self.revisions[FunctionName]):
                raise refusal(412, "PreconditionFailedException")
            versions = [(version, layers) for (name, version), layers in self.published.items() if name == FunctionName]
            if versions and versions[-1][1] == self.functions[FunctionName]:
                return {"Version": versions[-1][0]}
            version = str(len(versions) + 1)
            self.published[FunctionName, version] = list(self.functions[FunctionName])
            self.published_settings[FunctionName, version] = dict(self.settings.get(FunctionName, {}))
            return {"Version": version}

    def get_alias(self, FunctionName: str, Name: str) -> dict[str, Any]:
        with self._call("get_alias", FunctionName):
            return dict(self.aliases[FunctionName])

    def update_alias(
        self,
        FunctionName: str,
        Name: str,
        FunctionVersion: str,
        RevisionId: str,
        RoutingConfig: dict[str, Any],
    ) -> dict[str, Any]:
        with self._call("update_alias", FunctionName):
            alias = self.aliases[FunctionName]
            if RevisionId != alias["RevisionId"]:
                raise refusal(412, "PreconditionFailedException")
            changed = {"FunctionVersion": FunctionVersion, "RevisionId": str(int(RevisionId) + 1)}
            self.aliases[FunctionName] = alias | changed | {"RoutingConfig": RoutingConfig}
            return self.aliases[FunctionName]


class MemoryDisk(Disk):
    """Writes without `fsync`, which would take most of the time of the tests."""

    def flush(self, file: int) -> None:
        pass


class MortalProcess(MemoryDisk):
    """A process that dies at its step number `fatal`: after a call, or after half a line of the journal."""

    def __init__(self, region: Region, fatal: int | None) -> None:
        self.steps, self._fatal, self._is_dead = 0, fatal, False
        self._lock = threading.Lock()
        region.on_call = self._check
        region.after_call = self._step

    def write(self, file: int, data: bytes) -> int:
        self._check()
        try:
            self._step()
        except Crash:
            os.write(file, data[: len(data) // 2])
            raise
        return os.write(file, data)

    def remove(self, path: Path) -> None:
        if not self._is_dead:
            super().remove(path)

    def _check(self, *_: str) -> None:
        if self._is_dead:
            raise Crash

    def _step(self, *_: str) -> None:
        with self._lock:
            self.steps += 1
            self._is_dead = self._is_dead or self.steps == self._fatal
        self._check()
