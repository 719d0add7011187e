"""Checks of a function on AWS Lambda: its configuration, its layers, all zips, and its Function URLs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from tools.common.errors import ToolError
from tools.common.lambda_facts import MANAGED_PYTHON, OS_ONLY, PREVIEW_RUNTIMES, deprecated_since
from tools.fleet.aws.account import Account
from tools.fleet.aws.arns import LayerVersion, layer_of, short
from tools.fleet.aws.layers import download
from tools.fleet.aws.models import WRAPPER, Function, LayerInfo, Unavailable
from tools.fleet.checks.capacity_provider import check_capacity_provider
from tools.fleet.checks.finding import Finding
from tools.fleet.checks.http_apis import check_http_apis
from tools.fleet.checks.zip_file import (
    Contents,
    FunctionSettings,
    check_function,
    check_layer,
    check_total_size,
    importable_paths,
    read_zip,
)
from tools.fleet.rollout.target_version import published
from tools.fleet.rollout.wrappers import BOOTSTRAP
from tools.packaging.manifest import Manifest


class DeployedFunction:
    """The checks of one function."""

    def __init__(self, account: Account, manifest: Manifest, function: Function) -> None:
        self._account = account
        self._manifest = manifest
        self._function = function
        self._update = f"aws lambda update-function-configuration --function-name {function.name}"
        self._again = f"./build.sh doctor {function.name}"
        variants = {variant.layer_name: variant for variant in manifest.variants}
        ours = [
            (arn, variants[layer.name])
            for arn in function.layers
            if (layer := layer_of(arn)) and layer.name in variants
        ]
        self._arns = [arn for arn, _ in ours]
        self._variants = [variant for _, variant in ours]
        architecture = function.architectures[0]
        self._settings = FunctionSettings(architecture, function.handler, function.runtime)

    def findings(self) -> Iterator[Finding]:
        """Yield all findings, the most severe first."""
        function = self._function
        if function.is_image:
            yield Finding(
                "it runs a container image",
                "images have no layers, so the runtime must be in the image",
                "make it a zip function (./build.sh function FOLDER)",
            )
            return
        if function.status == "Failed":
            yield Finding(
                f"its last update failed: {function.failure}",
                "invocations use the version before it",
                f"{self._update} --description '', once the reason is removed: it repeats the update",
            )
        yield from self._state()
        yield from self._runtime()
        yield from check_capacity_provider(function)
        yield from self._layers()
        yield from self._zips()
        yield from self._urls()
        statements = self._account.functions.policy(function.name, None)
        yield from check_http_apis(function.name, statements, self._account.apis.is_http)

    # --- Configuration

    def _state(self) -> Iterator[Finding]:
        """AWS Lambda Developer Guide, functions-states."""
        function = self._function
        if function.state == "Inactive":
            yield Finding(
                "it is inactive",
                "it was not invoked for weeks; the first invocation fails while AWS Lambda creates its resources again",
                f"aws lambda invoke --function-name {function.name} /dev/null",
            )
        if function.state == "Failed":
            yield Finding(
                f"it cannot be invoked: {function.failure}",
                "its resources could not be created",
                f"aws lambda get-function-configuration --function-name {function.name}, which names the reason",
            )
        if self._account.code_signing.is_enforced(function.name):
            yield Finding(
                "its code signing configuration accepts signed layers alone",
                "AWS Lambda rejects every update with a layer that is not signed",
                f"aws lambda delete-function-code-signing-config --function-name {function.name}, or a signed layer",
            )

    def _runtime(self) -> Iterator[Finding]:
        runtime = self._function.runtime
        newest = self._manifest.compatible_runtimes[-1]
        if day := deprecated_since(runtime):
            yield Finding(
                f"its runtime {runtime} has been deprecated since {day}",
                "it gets no security patches, and AWS Lambda will reject updates",
                f"{self._update} --runtime {'provided.al2023' if runtime.startswith(OS_ONLY) else newest}",
            )
        if runtime.startswith(MANAGED_PYTHON):
            yield from self._managed_python()
        elif not runtime.startswith(OS_ONLY):
            yield Finding(
                f"its runtime is {runtime or 'unknown'}",
                "the layer runs Python functions",
                f"{self._update} --runtime {newest}",
            )
        elif self._variants and all(variant.name == self._manifest.slim.name for variant in self._variants):
            yield Finding(
                f"{runtime} has no Python, and the slim layer contains none",
                "the function fails with Runtime.PythonNotFound",
                f"./build.sh attach {self._function.name} --variant NAME, with a self-contained variant",
            )

    def _managed_python(self) -> Iterator[Finding]:
        runtime, supported = self._function.runtime, self._manifest.compatible_runtimes
        if runtime not in supported:
            yield Finding(
                f"its runtime is {runtime}{', a preview' if runtime in PREVIEW_RUNTIMES else ''}",
                f"the layer runs on {', '.join(supported)}",
                f"{self._update} --runtime {supported[-1]}",
            )
        if self._function.variables.get(WRAPPER) != BOOTSTRAP and not self._is_chain():
            yield Finding(
                f"{WRAPPER} is not {BOOTSTRAP}",
                f"{runtime} runs the handler itself, without the layer, and does not stream",
                f"./build.sh attach {self._function.name}",
            )

    def _is_chain(self) -> bool:
        """Whether the program of another layer, such as an agent's, runs the layer's `bootstrap` itself."""
        path = self._function.variables.get(WRAPPER, "").removeprefix("/opt/")
        layers, _ = self._layer_contents
        return any(BOOTSTRAP.encode() in contents.files.get(path, b"") for contents in layers.values())

    def _layers(self) -> Iterator[Finding]:
        function = self._function
        if not self._arns:
            yield Finding(
                f"it does not have the layer {self._manifest.name}",
                "nothing streams without it",
                f"./build.sh attach {function.name}",
            )
        if len(self._arns) > 1:
            yield Finding(
                f"it has several layers of this project: {', '.join(map(self._short, self._arns))}",
                "they overwrite each other's files in /opt; the last one wins",
                f"{self._update} --layers …, with one of them and all others",
            )
        for arn, variant in zip(self._arns, self._variants, strict=True):
            if not set(function.architectures) <= set(variant.compatible_architectures):
                yield Finding(
                    f"{self._short(arn)} is for {', '.join(variant.compatible_architectures)}, "
                    f"the function runs on {', '.join(function.architectures)}",
                    "the processor cannot run its Python",
                    f"./build.sh attach {function.name} --variant NAME, with a variant for this architecture",
                )
            yield from self._outdated(arn)

    def _outdated(self, arn: str) -> Iterator[Finding]:
        version = LayerVersion.parse(arn)
        entry = published(self._manifest, version.layer)
        if entry and LayerVersion.parse(entry.arn).number > version.number:
            yield Finding(
                f"{self._short(arn)} is outdated, {self._short(entry.arn)} is published",
                "it lacks the fixes since then",
                f"./build.sh rollout {self._function.name}",
            )

    # --- Zips

    def _zips(self) -> Iterator[Finding]:
        """Check the function's zip and those of all layers, and the sum of their sizes."""
        function, sizes = self._function, []
        layers, findings = self._layer_contents
        importable = frozenset(path for contents in layers.values() for path in importable_paths(contents))
        settings = replace(self._settings, importable=importable)
        try:
            contents = read_zip("its zip", download(self._account.functions.code_location(function.name)))
            sizes.append(("its zip", contents.unpacked))
            yield from check_function(contents, settings)
        except ToolError as error:
            yield Finding("its zip cannot be checked", str(error), self._again)
        yield from findings
        for arn, contents in layers.items():
            sizes.append((self._short(arn), contents.unpacked))
            yield from self._layer_zip(arn, contents)
        yield from check_total_size(sizes)

    @cached_property
    def _layer_contents(self) -> tuple[dict[str, Contents], list[Finding]]:
        """The zips of all layers by ARN, and findings about those that cannot be read."""
        contents: dict[str, Contents] = {}
        findings: list[Finding] = []
        versions = self._account.read_versions(self._function.layers)
        for arn in self._function.layers:
            read = self._read_layer(arn, versions.get(arn))
            if isinstance(read, Finding):
                findings.append(read)
            else:
                contents[arn] = read
        return contents, findings

    def _read_layer(self, arn: str, info: LayerInfo | Unavailable | None) -> Contents | Finding:
        name, is_ours = self._short(arn), arn in self._arns
        without_it = f"{self._update} --layers …, without it"
        if info is None or isinstance(info, Unavailable):
            state = "was deleted" if info is None or info.is_deleted else "is not shared with this account"
            return Finding(
                f"{name} {state}",
                "the function keeps running, but AWS Lambda rejects updates that contain the layer version",
                f"./build.sh rollout {self._function.name}" if is_ours else without_it,
            )
        try:
            return read_zip(name, download(info.location))
        except ToolError as error:
            return Finding(f"{name} cannot be checked", str(error), self._again)

    def _layer_zip(self, arn: str, contents: Contents) -> Iterator[Finding]:
        if arn in self._arns:
            yield from check_layer(contents, self._settings.architecture)
        elif "bootstrap" in contents.modes:
            yield Finding(
                f"{self._short(arn)} has a bootstrap of its own",
                "layers are unpacked one over the other, so the last bootstrap runs",
                f"{self._update} --layers …, without it",
            )

    # --- Function URLs

    def _urls(self) -> Iterator[Finding]:
        functions, name = self._account.functions, self._function.name
        for url in functions.url_configurations(name):
            qualifier = url["FunctionArn"].removeprefix(self._function.arn).lstrip(":") or None
            option = f" --qualifier {qualifier}" if qualifier else ""
            mode = url.get("InvokeMode", "BUFFERED")
            if mode.upper() != "RESPONSE_STREAM":
                yield Finding(
                    f"its Function URL {url.get('FunctionUrl', '')} has the InvokeMode {mode}",
                    "the client receives the whole response at its end",
                    f"aws lambda update-function-url-config --function-name {name}{option} "
                    "--invoke-mode RESPONSE_STREAM",
                )
            if url.get("AuthType") == "NONE":
                yield from public_url_permissions(name, option, functions.policy(name, qualifier))

    def _short(self, arn: str) -> str:
        return short(arn, self._account.place)


# AWS Lambda Developer Guide, urls-auth: since October 2025 a public URL needs both.
_PUBLIC_URL_PERMISSIONS = {
    "lambda:InvokeFunctionUrl": "--statement-id UrlPolicyInvokeURL --function-url-auth-type NONE",
    "lambda:InvokeFunction": "--statement-id UrlPolicyInvokeFunction --invoked-via-function-url",
}


def public_url_permissions(name: str, option: str, statements: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """Yield a finding for each permission of a public Function URL that everybody lacks."""
    public = [statement for statement in statements if _is_public(statement.get("Principal"))]
    for action, options in _PUBLIC_URL_PERMISSIONS.items():
        about = [statement for statement in public if _is_about(statement, action)]
        denials = [statement.get("Sid", "") for statement in about if statement.get("Effect") == "Deny"]
        if denials:
            yield Finding(
                f"its policy denies {action} to everybody",
                "the client of its public Function URL gets 403 Forbidden",
                f"aws lambda remove-permission --function-name {name}{option} --statement-id {denials[0]}",
            )
        elif not about:
            yield Finding(
                f"its public Function URL lacks the permission {action}",
                "the client gets 403 Forbidden",
                f"aws lambda add-permission --function-name {name}{option} --principal '*' --action {action} {options}",
            )


def _is_public(principal: Any) -> bool:
    return principal == "*" or (isinstance(principal, dict) and principal.get("AWS") == "*")


def _is_about(statement: dict[str, Any], action: str) -> bool:
    """Whether one of the actions of a statement matches; they may contain wildcards, and ignore case (IAM User Guide,
    reference_policies_elements_action).
    """
    actions = statement.get("Action", [])
    patterns = [actions] if isinstance(actions, str) else actions
    return any(fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns)
