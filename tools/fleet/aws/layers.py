"""Layer versions in one region: reading, publishing, sharing and deleting."""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from botocore import exceptions

from tools.common.urls import redact, without_secrets
from tools.fleet import FleetError
from tools.fleet.aws.arns import Layer, LayerVersion
from tools.fleet.aws.functions import UnclearError
from tools.fleet.aws.models import LayerInfo, NotUsable
from tools.fleet.aws.session import Aws, AwsError, error_code, in_words, may_have_been_done, status
from tools.packaging.manifest import PUBLIC, Variant

ACTION = "lambda:GetLayerVersion"
_SECONDS_OF_A_DOWNLOAD = 60
_DOWNLOADS = 3


def code_sha256(data: bytes) -> str:
    """The hash of a zip as AWS Lambda writes it."""
    return b64encode(hashlib.sha256(data).digest()).decode()


class Layers:
    """The layers that can be seen in one region by one account."""

    def __init__(self, aws: Aws, region: str) -> None:
        self._client = aws.client("lambda", region)
        self._once = aws.client("lambda", region, attempts=1)

    def numbers(self, layer: Layer) -> list[tuple[int, str]]:
        """The number and description of each version of ``layer`` that is not deleted, newest first, all pages."""
        pages = self._client.get_paginator("list_layer_versions").paginate(LayerName=layer.name)
        try:
            found = {
                each["Version"]: each.get("Description") or ""
                for page in pages
                for each in page.get("LayerVersions", ())
            }
        except exceptions.ClientError as error:
            if status(error) == 404:
                return []
            raise
        return sorted(found.items(), reverse=True)

    def get(self, version: LayerVersion, account: str) -> LayerInfo | NotUsable:
        """Read a layer version, as ``account`` may: its own by name, another's by ARN if that one shares it."""
        layer = version.layer
        name = layer.name if layer.account == account else str(layer)
        try:
            return LayerInfo.of(self._client.get_layer_version(LayerName=name, VersionNumber=version.number))
        except exceptions.ClientError as error:
            if status(error) == 404:
                return NotUsable(str(version), deleted=True)
            if status(error) == 403 and layer.account != account:
                return NotUsable(str(version), deleted=False)
            raise

    def publish(self, variant: Variant, description: str, license_info: str, content: dict[str, Any]) -> LayerInfo:
        """Make a new version.

        Raises:
            UnclearError: no answer came. The call is not repeated without a look, as each makes a version.
        """
        try:
            answer = self._once.publish_layer_version(
                LayerName=variant.layer_name,
                Description=description,
                LicenseInfo=license_info,
                CompatibleRuntimes=list(variant.compatible_runtimes),
                CompatibleArchitectures=list(variant.compatible_architectures),
                Content=content,
            )
        except AwsError as error:
            if may_have_been_done(error) or status(error) == 429:
                raise UnclearError(in_words(error)) from None
            raise
        return LayerInfo.of(answer)

    def grantees(self, version: LayerVersion) -> set[str]:
        """Who may use a version besides its account: ``public``, accounts and organizations."""
        return {grantee for statement in self._statements(version) for grantee in _grantees(statement)}

    def share(self, version: LayerVersion, grantee: str) -> None:
        """Let ``grantee`` (see ``grantees``) use a version; one that may already is left alone."""
        options = {"Principal": grantee}
        if grantee == PUBLIC:
            options = {"Principal": "*"}
        elif grantee.startswith("o-"):
            options = {"Principal": "*", "OrganizationId": grantee}
        try:
            self._client.add_layer_version_permission(
                LayerName=version.layer.name,
                VersionNumber=version.number,
                StatementId=grantee,
                Action=ACTION,
                **options,
            )
        except exceptions.ClientError as error:
            # The name of the statement is taken: by an earlier sending of this very call, or by something else.
            if error_code(error) != "ResourceConflictException" or grantee not in self.grantees(version):
                raise

    def delete(self, version: LayerVersion) -> None:
        """Delete a version. Functions that have it keep it, and cannot be given it again."""
        self._client.delete_layer_version(LayerName=version.layer.name, VersionNumber=version.number)

    def _statements(self, version: LayerVersion) -> list[dict[str, Any]]:
        try:
            answer = self._client.get_layer_version_policy(LayerName=version.layer.name, VersionNumber=version.number)
        except exceptions.ClientError as error:
            if status(error) == 404:
                return []
            raise
        statements: list[dict[str, Any]] = json.loads(answer["Policy"])["Statement"]
        return statements


def _grantees(statement: dict[str, Any]) -> Iterator[str]:
    if statement.get("Effect", "Allow") != "Allow" or statement.get("Action") not in (ACTION, [ACTION]):
        return
    principal = statement.get("Principal")
    principals = principal.get("AWS") if isinstance(principal, dict) else principal
    condition = json.dumps(statement.get("Condition") or {})
    organization = statement.get("OrganizationId") or statement.get("Condition", {}).get("StringEquals", {}).get(
        "aws:PrincipalOrgID"
    )
    for each in principals if isinstance(principals, list) else [principals]:
        if organization:
            yield str(organization)
        elif condition == "{}":  # any other condition grants less than the principal says
            yield PUBLIC if each == "*" else str(each).removesuffix(":root").split(":")[-1]


def download(location: str) -> bytes:
    """Get the zip behind the ``Location`` of an answer; raises ``FleetError`` where that cannot be done."""
    if not location.startswith(("https://", "http://")):  # as those of moto are not
        address = without_secrets(location)
        raise FleetError(f"the zip cannot be downloaded: {address} is not an HTTP address; everything else was checked")
    for _ in range(_DOWNLOADS):
        try:
            with urllib.request.urlopen(location, timeout=_SECONDS_OF_A_DOWNLOAD) as response:
                data: bytes = response.read()
                return data
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = redact(" ".join(str(getattr(error, "reason", error)).split()))
    raise FleetError(f"the zip cannot be downloaded ({reason}): check the network and repeat")
