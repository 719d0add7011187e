"""The command `doctor`: everything that keeps a zip or a function from streaming, with the command that mends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.common import output as terminal
from tools.common.archives import InvalidZip
from tools.common.errors import ToolError
from tools.common.lambda_facts import MANAGED_PYTHON, OS_ONLY, deprecated_since
from tools.common.paths import shown
from tools.fleet import FleetError
from tools.fleet.aws.account import Session
from tools.fleet.aws.arns import LayerVersion, function_name, layer_of, short
from tools.fleet.aws.functions import GoneError
from tools.fleet.aws.layers import download
from tools.fleet.aws.models import Function, LayerInfo, NotUsable
from tools.fleet.aws.session import Aws
from tools.fleet.checks import zip_file as findings
from tools.fleet.checks.zip_file import Finding
from tools.fleet.rollout.target_version import published
from tools.packaging.manifest import Manifest

_WRAPPER = "AWS_LAMBDA_EXEC_WRAPPER"
_BOOTSTRAP = "/opt/bootstrap"


@dataclass(frozen=True)
class Given:
    """What is known of the function that a zip is for."""

    architecture: str | None
    handler: str | None
    runtime: str | None


def is_zip(target: str) -> bool:
    """Tell whether ``target`` is a file, and not the name of a function."""
    return target.endswith(".zip") or "/" in target or Path(target).is_file()


def examine_zip(path: Path, given: Given, as_json: bool) -> int:
    """Tell what is wrong with the zip at ``path``. Returns the exit status."""
    found = list(_of_zip(shown(path), path, given))
    return _tell(shown(path), found, as_json)


def _of_zip(name: str, path: Path, given: Given) -> Iterator[Finding]:
    try:
        contents = findings.read_zip(name, path)
    except InvalidZip as error:
        yield Finding(str(error), "AWS Lambda rejects it", "./build.sh, or zip it again")
        return
    if contents.is_layer:
        yield from findings.of_layer(contents, given.architecture)
    else:
        yield from findings.of_function(contents, given.architecture, given.handler, given.runtime)


def examine_function(aws: Aws, manifest: Manifest, target: str, region: str | None, as_json: bool) -> int:
    """Tell what is wrong with a deployed function. Returns the exit status."""
    session = Session.open(aws, region)
    name = function_name(target, session.place)
    try:
        function = session.functions.get(name)
    except GoneError:
        raise FleetError(
            f"there is no function {name} in {session.place.region}: check the name and the region"
        ) from None
    examination = Examination(session, manifest, function)
    return _tell(name, list(examination.findings()), as_json)


class Examination:
    """One function, looked at from all sides."""

    def __init__(self, session: Session, manifest: Manifest, function: Function) -> None:
        self._session = session
        self._manifest = manifest
        self._function = function
        self._change = f"aws lambda update-function-configuration --function-name {function.name}"
        variants = {variant.layer_name: variant for variant in manifest.variants}
        held = [(arn, layer) for arn in function.layers if (layer := layer_of(arn)) and layer.name in variants]
        self._ours = [arn for arn, _ in held]
        self._variants = [variants[layer.name] for _, layer in held]

    def findings(self) -> Iterator[Finding]:
        """All of them, the gravest first."""
        function = self._function
        if function.is_image:
            yield Finding(
                "it runs a container image",
                "images have no layers, so that the runtime has to be copied into the image",
                "make it a zip function (./build.sh function FOLDER)",
            )
            return
        if function.status == "Failed":
            yield Finding("its last update failed", "invocations run what was there before", f"{self._change} …")
        yield from self._runtime()
        yield from self._layers()
        yield from self._zips()
        yield from self._urls()

    def _runtime(self) -> Iterator[Finding]:
        runtime, name = self._function.runtime, self._function.name
        if day := deprecated_since(runtime):
            newer = "provided.al2023" if runtime.startswith(OS_ONLY) else self._manifest.compatible_runtimes[-1]
            yield Finding(
                f"its runtime {runtime} is past its end, since {day}",
                "it gets no patches any more, and AWS Lambda will refuse changes",
                f"{self._change} --runtime {newer}",
            )
        supported = self._manifest.compatible_runtimes
        if runtime.startswith(MANAGED_PYTHON):
            if runtime not in supported:
                yield Finding(
                    f"its runtime is {runtime}",
                    f"the layer runs on {', '.join(supported)}",
                    f"{self._change} --runtime {supported[-1]}",
                )
            if self._function.variables.get(_WRAPPER) != _BOOTSTRAP:
                yield Finding(
                    f"{_WRAPPER} is not {_BOOTSTRAP}",
                    f"{runtime} then runs the handler itself, without the layer, and does not stream",
                    f"{self._change} --environment 'Variables={{{self._variables()}}}'",
                )
        elif not runtime.startswith(OS_ONLY):
            yield Finding(
                f"its runtime is {runtime or 'unknown'}",
                "the layer runs Python functions",
                f"{self._change} --runtime {supported[-1]}",
            )
        elif self._variants and all(variant.name == self._manifest.slim.name for variant in self._variants):
            yield Finding(
                f"{runtime} has no Python, and the slim layer brings none",
                "the function fails with Runtime.PythonNotFound",
                f"./build.sh attach {name} --variant NAME, with a self-contained one",
            )

    def _variables(self) -> str:
        """The environment that is to be set, which is always the whole: the values of the others are not shown."""
        others = sorted(name for name in self._function.variables if name != _WRAPPER)
        return ",".join([f"{_WRAPPER}={_BOOTSTRAP}", *(f"{name}=…" for name in others)])

    def _layers(self) -> Iterator[Finding]:
        name = self._function.name
        if not self._ours:
            yield Finding(
                f"it does not have the layer {self._manifest.name}",
                "nothing streams without it",
                f"./build.sh attach {name}",
            )
        if len(self._ours) > 1:
            yield Finding(
                f"it has several layers of ours: {', '.join(self._short(arn) for arn in self._ours)}",
                "they overwrite each other's files in /opt, the last one wins",
                f"{self._change} --layers …, with one of them and all others",
            )
        for arn, variant in zip(self._ours, self._variants, strict=True):
            if not set(self._function.architectures) <= set(variant.compatible_architectures):
                yield Finding(
                    f"{self._short(arn)} is made for {', '.join(variant.compatible_architectures)}, "
                    f"the function runs on {', '.join(self._function.architectures)}",
                    "the processor cannot run its Python",
                    f"./build.sh attach {name} --variant NAME, with one of the function's architecture",
                )
            yield from self._behind(arn)

    def _behind(self, arn: str) -> Iterator[Finding]:
        version = LayerVersion.parse(arn)
        entry = published(self._manifest, version.layer)
        if entry and LayerVersion.parse(entry.arn).number > version.number:
            yield Finding(
                f"{self._short(arn)} is behind, {self._short(entry.arn)} is published",
                "what was mended since is not in it",
                f"./build.sh rollout {self._function.name}",
            )

    def _zips(self) -> Iterator[Finding]:
        """The function's own zip, and those of all layers: what is in them, and their sum."""
        function, sizes = self._function, []
        given = Given(function.architectures[0], function.handler, function.runtime)
        try:
            location = self._session.functions.code_location(function.name)
            contents = findings.read_zip("its zip", download(location))
            sizes.append(("its zip", contents.unpacked))
            yield from findings.of_function(contents, given.architecture, given.handler, given.runtime)
        except ToolError as error:
            yield Finding("its zip cannot be looked into", str(error), f"./build.sh doctor {function.name}")
        held = self._session.lookup(function.layers)
        for arn in function.layers:
            yield from self._layer_zip(arn, held.get(arn), given, sizes)
        yield from findings.of_total(sizes)

    def _layer_zip(
        self, arn: str, info: LayerInfo | NotUsable | None, given: Given, sizes: list[tuple[str, int]]
    ) -> Iterator[Finding]:
        name = self._short(arn)
        if info is None or isinstance(info, NotUsable):
            state = "was deleted" if info is None or info.deleted else "is not shared with this account"
            ours = arn in self._ours
            yield Finding(
                f"{name} {state}",
                "it goes on running, but AWS Lambda takes no change of its layers any more",
                f"./build.sh rollout {self._function.name}" if ours else f"{self._change} --layers …, without it",
            )
            return
        try:
            contents = findings.read_zip(name, download(info.location))
        except ToolError as error:
            yield Finding(f"{name} cannot be looked into", str(error), f"./build.sh doctor {self._function.name}")
            return
        sizes.append((name, contents.unpacked))
        if arn in self._ours:
            yield from findings.of_layer(contents, given.architecture)
        elif "bootstrap" in contents.files:
            yield Finding(
                f"{name} has a bootstrap of its own",
                "layers are unpacked one over the other, and the last bootstrap is the one that runs",
                f"{self._change} --layers …, without it",
            )

    def _urls(self) -> Iterator[Finding]:
        functions, name = self._session.functions, self._function.name
        for url in functions.url_configurations(name):
            qualifier = _qualifier(url["FunctionArn"], self._function.arn)
            option = f" --qualifier {qualifier}" if qualifier else ""
            mode = url.get("InvokeMode", "BUFFERED")
            if mode.upper() != "RESPONSE_STREAM":
                yield Finding(
                    f"its Function URL {url.get('FunctionUrl', '')} has the InvokeMode {mode}",
                    "the caller gets the whole answer at its end",
                    f"aws lambda update-function-url-config --function-name {name}{option} "
                    "--invoke-mode RESPONSE_STREAM",
                )
            if url.get("AuthType") == "NONE":
                yield from _permissions(name, option, functions.policy(name, qualifier))

    def _short(self, arn: str) -> str:
        return short(arn, self._session.place)


def _qualifier(url_arn: str, arn: str) -> str | None:
    return url_arn.removeprefix(arn).lstrip(":") or None


# AWS Lambda Developer Guide, urls-auth: since October 2025 a public URL needs both.
_NEEDED = {
    "lambda:InvokeFunctionUrl": "--statement-id UrlPolicyInvokeURL --function-url-auth-type NONE",
    "lambda:InvokeFunction": "--statement-id UrlPolicyInvokeFunction --invoked-via-function-url",
}


def _permissions(name: str, option: str, statements: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    granted = {
        action
        for statement in statements
        if statement.get("Effect", "Allow") == "Allow" and _is_public(statement.get("Principal"))
        for action in _actions(statement)
    }
    for action, words in _NEEDED.items():
        if action not in granted:
            yield Finding(
                f"its public Function URL lacks the permission {action}",
                "the caller gets 403 Forbidden",
                f"aws lambda add-permission --function-name {name}{option} --principal '*' --action {action} {words}",
            )


def _is_public(principal: Any) -> bool:
    return principal == "*" or (isinstance(principal, dict) and principal.get("AWS") == "*")


def _actions(statement: dict[str, Any]) -> list[str]:
    actions = statement.get("Action", [])
    return [actions] if isinstance(actions, str) else list(actions)


def _tell(name: str, found: Sequence[Finding], as_json: bool) -> int:
    if as_json:
        content = [{"what": each.what, "why": each.why, "mend": each.mend} for each in found]
        print(terminal.document({"command": "doctor", "target": name, "findings": content}), flush=True)
    else:
        for each in found:
            print(f"{each.what}\n  why: {each.why}\n  mend: {each.mend}\n")
        print(f"{name}: {terminal.count(len(found), 'finding')}" if found else f"{name}: nothing found", flush=True)
    return 1 if found else 0
