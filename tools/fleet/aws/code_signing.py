"""Code signing of the functions in one region.

AWS Lambda checks the signatures of all layers at each update of a function whose code signing configuration has the
policy `Enforce` (AWS Lambda Developer Guide, configuration-codesigning). No property of the function shows that. The
lists of an account need a few calls, while `GetFunctionCodeSigningConfig` needs one for each function, so the lists are
read first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from tools.fleet.aws.errors import AccessDenied, AwsError, Interruption, NotFound, translated
from tools.fleet.aws.session import Aws

_ENFORCE = "Enforce"


class CodeSigning:
    """The code signing configurations that one account can read in one region."""

    def __init__(self, aws: Aws, region: str) -> None:
        self._client = aws.client("lambda", region)

    def enforced(self, names: Collection[str]) -> set[str]:
        """Return those of `names` whose layers must be signed; without the permissions, none are known."""
        try:
            return set(self._from_lists()).intersection(names)
        except AwsError as error:
            if isinstance(error, Interruption):
                raise
        return set(self._one_by_one(names))

    def _from_lists(self) -> Iterator[str]:
        """Yield the names of all functions with an enforced configuration."""
        with translated():
            for config in self._pages("list_code_signing_configs", "CodeSigningConfigs"):
                if _policy(config) == _ENFORCE:
                    arn = config["CodeSigningConfigArn"]
                    arns = self._pages("list_functions_by_code_signing_config", "FunctionArns", arn)
                    yield from (each.split(":")[6] for each in arns)

    def _pages(self, operation: str, key: str, arn: str = "") -> Iterator[Any]:
        options = {"CodeSigningConfigArn": arn} if arn else {}
        for page in self._client.get_paginator(operation).paginate(**options):
            yield from page.get(key, ())

    def _one_by_one(self, names: Collection[str]) -> Iterator[str]:
        policies: dict[str, str] = {}
        try:
            for name in names:
                arn = self.configuration(name)
                if arn and arn not in policies:
                    policies[arn] = self._read_policy(arn)
                if arn and policies[arn] == _ENFORCE:
                    yield name
        except AccessDenied:
            return

    def configuration(self, name: str) -> str:
        """Return the ARN of the configuration of a function; an empty string if it has none."""
        try:
            with translated():
                response = self._client.get_function_code_signing_config(FunctionName=name)
        except NotFound:
            return ""
        return response.get("CodeSigningConfigArn") or ""

    def is_enforced(self, name: str) -> bool:
        """Whether the layers of a function must be signed; False if the caller may not read that."""
        return name in set(self._one_by_one([name]))

    def _read_policy(self, arn: str) -> str:
        try:
            with translated():
                response = self._client.get_code_signing_config(CodeSigningConfigArn=arn)
        except NotFound:
            return _ENFORCE  # endpoints such as moto have the name alone
        return _policy(response["CodeSigningConfig"])


def _policy(config: dict[str, Any]) -> str:
    """Return `Enforce` or `Warn`, the default: AWS Lambda API Reference, CodeSigningPolicies."""
    policies: dict[str, str] = config.get("CodeSigningPolicies") or {}
    return policies.get("UntrustedArtifactOnDeployment", "Warn")
