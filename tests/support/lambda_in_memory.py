"""The functions and layers of one region as a dict: stands in for boto3's clients where thousands of runs are needed.

It keeps the optimistic lock of AWS Lambda, and it can die at any step, as the process that uses it would: from then on
every call, and every word to the journal, ends the same way.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.exceptions import ClientError, WaiterError

from tools.fleet.aws.arns import Place
from tools.fleet.aws.session import Identity
from tools.fleet.rollout import journal

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
    """The process is gone."""


class Region:
    """Stands in for ``aws.Aws`` and for the clients it makes.

    Args:
        functions: the layers of each, by name.

    ``on_call`` is told the operation and the function before each call, ``after_call`` after it; both may raise.
    """

    def __init__(self, functions: dict[str, list[str]], versions: int = 3) -> None:
        self.functions = functions
        self.versions = {f"{OURS}:{number}" for number in range(1, versions + 1)} | {BEFORE, OTHER}
        self.revisions = dict.fromkeys(functions, 0)
        self.updates: list[tuple[str, list[str]]] = []
        self.published: dict[tuple[str, str], list[str]] = {}
        self.aliases: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.failing: set[str] = set()  # the update to another version than the first fails
        self.busy: dict[str, int] = {}
        self.on_call: Callable[[str, str], None] = lambda operation, name: None
        self.after_call: Callable[[str, str], None] = lambda operation, name: None
        self._lock = threading.RLock()

    # What `aws.Aws` has

    def region(self, asked: str | None) -> str:
        return asked or PLACE.region

    def identity(self, region: str) -> Identity:
        return Identity(PLACE, "arn:aws:sts::123456789012:user/test")

    def client(self, *_: Any, **__: Any) -> Region:
        return self

    # What a client of boto3 has

    @contextmanager
    def _call(self, operation: str, name: str) -> Iterator[None]:
        self.on_call(operation, name)
        with self._lock:
            yield
        self.after_call(operation, name)

    def get_paginator(self, operation: str) -> Any:
        assert operation == "list_functions"
        return self

    def paginate(self, **_: Any) -> Iterator[dict[str, Any]]:
        with self._call("list_functions", ""):
            found = [self._configuration(name) for name in self.functions]
        for start in range(0, len(found), 50):
            yield {"Functions": found[start : start + 50]}

    def get_function(self, FunctionName: str, Qualifier: str = "") -> dict[str, Any]:
        with self._call("get_function", FunctionName):
            if FunctionName not in self.functions:
                raise refusal(404, "ResourceNotFoundException")
            configuration = self._configuration(FunctionName)
            if Qualifier:
                version = self.aliases[FunctionName]["FunctionVersion"]
                layers = self.published[FunctionName, version]
                configuration |= {"Version": version, "Layers": [{"Arn": arn} for arn in layers]}
            return {"Configuration": configuration, "Tags": self.tags.get(FunctionName, {})}

    def _configuration(self, name: str) -> dict[str, Any]:
        return {
            "FunctionName": name,
            "FunctionArn": function_arn(name),
            "Version": "$LATEST",
            "Runtime": "python3.13",
            "Layers": [{"Arn": arn} for arn in self.functions[name]],
            "RevisionId": str(self.revisions[name]),
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
        """What anybody may do."""
        with self._lock:
            self.revisions[name] += 1
            if layers is not None:
                self.functions[name] = layers

    def get_waiter(self, name: str) -> Any:
        return self

    def wait(self, FunctionName: str, **_: Any) -> None:
        with self._call("wait", FunctionName):
            if FunctionName in self.failing and f"{OURS}:1" not in self.functions[FunctionName]:
                raise WaiterError("FunctionUpdatedV2", "failed", {"Configuration": {"LastUpdateStatusReason": "no"}})

    def invoke(self, FunctionName: str, Payload: bytes) -> dict[str, Any]:
        with self._call("invoke", FunctionName):
            return {"StatusCode": 200}

    def publish_version(self, FunctionName: str, RevisionId: str) -> dict[str, Any]:
        with self._call("publish_version", FunctionName):
            if RevisionId != str(self.revisions[FunctionName]):
                raise refusal(412, "PreconditionFailedException")
            held = [(version, layers) for (name, version), layers in self.published.items() if name == FunctionName]
            if held and held[-1][1] == self.functions[FunctionName]:
                return {"Version": held[-1][0]}
            version = str(len(held) + 1)
            self.published[FunctionName, version] = list(self.functions[FunctionName])
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


class Mortal:
    """A process that dies at its step number ``fatal``: a call, which is carried out, or half a line of the journal."""

    def __init__(self, region: Region, monkeypatch: pytest.MonkeyPatch, fatal: int | None) -> None:
        self.steps, self._fatal, self._is_dead = 0, fatal, False
        self._lock = threading.Lock()
        region.on_call = self._check
        region.after_call = self._step
        monkeypatch.setattr(journal.os, "fsync", lambda file: None)
        monkeypatch.setattr(journal.os, "write", self._write)

    def _check(self, *_: str) -> None:
        if self._is_dead:
            raise Crash

    def _step(self, *_: str) -> None:
        with self._lock:
            self.steps += 1
            self._is_dead = self._is_dead or self.steps == self._fatal
        self._check()

    def _write(self, file: int, data: bytes) -> int:
        self._check()
        try:
            self._step()
        except Crash:
            _write(file, data[: len(data) // 2])
            raise
        return _write(file, data)


_write = os.write
