"""Layer versions in one region: reading, publishing, sharing and deleting."""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from tools.common.errors import ToolError
from tools.common.urls import redact, without_secrets
from tools.fleet.aws.arns import Layer, LayerVersion
from tools.fleet.aws.errors import AccessDenied, Conflict, NotFound, translated
from tools.fleet.aws.models import LayerInfo, Unavailable
from tools.fleet.aws.session import Aws
from tools.packaging.manifest import PUBLIC, Variant

ACTION = "lambda:GetLayerVersion"  # the only one that a layer version's policy can grant
DOWNLOAD_TIMEOUT = 60  # seconds
MAX_DOWNLOAD_ATTEMPTS = 3


def code_sha256(data: bytes) -> str:
    """Return the `CodeSha256` of a zip, as AWS Lambda reports it: SHA-256 in base64."""
    return b64encode(hashlib.sha256(data).digest()).decode()


class Layers:
    """The layers that one account can read in one region."""

    def __init__(self, aws: Aws, region: str) -> None:
        self._client = aws.client("lambda", region)

    def numbers(self, layer: Layer) -> list[tuple[int, str]]:
        """Return number and description of each version of `layer` that is not deleted, newest first."""
        try:
            with translated():
                pages = self._client.get_paginator("list_layer_versions").paginate(LayerName=layer.name)
                versions = [each for page in pages for each in page.get("LayerVersions", ())]
        except NotFound:
            return []
        return sorted({each["Version"]: each.get("Description") or "" for each in versions}.items(), reverse=True)

    def created(self, layer: Layer) -> dict[int, datetime]:
        """Return when each version of `layer` was published, for those that state it."""
        try:
            with translated():
                pages = self._client.get_paginator("list_layer_versions").paginate(LayerName=layer.name)
                versions = [each for page in pages for each in page.get("LayerVersions", ())]
        except NotFound:
            return {}
        found = {each["Version"]: _time(each.get("CreatedDate", "")) for each in versions}
        return {number: time for number, time in found.items() if time}

    def get(self, version: LayerVersion, account: str) -> LayerInfo | Unavailable:
        """Read a layer version.

        Args:
            account: of the caller, who reads its own layers by name and shared ones by ARN.
        """
        layer = version.layer
        name = layer.name if layer.account == account else str(layer)
        try:
            with translated():
                response = self._client.get_layer_version(LayerName=name, VersionNumber=version.number)
        except NotFound:
            return Unavailable(str(version), is_deleted=True)
        except AccessDenied:
            if layer.account == account:
                raise
            return Unavailable(str(version), is_deleted=False)
        return LayerInfo.of(response)

    def publish(self, variant: Variant, description: str, license_info: str, content: dict[str, Any]) -> LayerInfo:
        """Publish a new version. Each request that AWS carries out creates one, so none is repeated blindly.

        Raises:
            OutcomeUnknown: no response; look for the version before the next attempt.
            Throttled: not carried out.
        """
        with translated():
            response = self._client.publish_layer_version(
                LayerName=variant.layer_name,
                Description=description,
                LicenseInfo=license_info,
                CompatibleRuntimes=list(variant.compatible_runtimes),
                CompatibleArchitectures=list(variant.compatible_architectures),
                Content=content,
            )
        return LayerInfo.of(response)

    def grantees(self, version: LayerVersion) -> set[str]:
        """Return who may use a version besides its account: `public`, accounts and organizations."""
        return {grantee for statement in self._statements(version) for grantee in _grantees(statement)}

    def share(self, version: LayerVersion, grantee: str) -> None:
        """Allow `grantee` (see `grantees`) to use a version; does nothing if it may already."""
        options = {"Principal": grantee}
        if grantee == PUBLIC:
            options = {"Principal": "*"}
        elif grantee.startswith("o-"):
            options = {"Principal": "*", "OrganizationId": grantee}
        try:
            with translated():
                self._client.add_layer_version_permission(
                    LayerName=version.layer.name,
                    VersionNumber=version.number,
                    StatementId=grantee,
                    Action=ACTION,
                    **options,
                )
        except Conflict:  # the statement exists: of an earlier request of this call, or with another content
            if grantee not in self.grantees(version):
                raise

    def delete(self, version: LayerVersion) -> None:
        """Delete a version. Functions keep it, but no update may contain it again."""
        with translated():
            self._client.delete_layer_version(LayerName=version.layer.name, VersionNumber=version.number)

    def _statements(self, version: LayerVersion) -> list[dict[str, Any]]:
        try:
            with translated():
                response = self._client.get_layer_version_policy(
                    LayerName=version.layer.name, VersionNumber=version.number
                )
        except NotFound:
            return []
        statements: list[dict[str, Any]] = json.loads(response["Policy"])["Statement"]
        return statements


def _time(text: str) -> datetime | None:
    """Return a time such as `2026-11-27T15:10:45.123+0000`."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _grantees(statement: dict[str, Any]) -> Iterator[str]:
    if statement.get("Effect", "Allow") != "Allow" or statement.get("Action") not in (ACTION, [ACTION]):
        return
    principal = statement.get("Principal")
    principals = principal.get("AWS") if isinstance(principal, dict) else principal
    condition = statement.get("Condition") or {}
    organization = statement.get("OrganizationId") or condition.get("StringEquals", {}).get("aws:PrincipalOrgID")
    for each in principals if isinstance(principals, list) else [principals]:
        if organization:
            yield str(organization)
        elif not condition:  # any other condition grants less than the principal suggests
            yield PUBLIC if each == "*" else str(each).removesuffix(":root").split(":")[-1]


def download(location: str, renew: Callable[[], str] | None = None) -> bytes:
    """Return the zip behind the `Location` of a response; raises `ToolError` if it cannot be downloaded.

    Args:
        renew: returns another location after the first one has expired, which is the case after ten minutes.

    The URL contains a signature, so messages must not contain it.
    """
    if not location.startswith(("https://", "http://")):  # moto returns another kind
        address = without_secrets(location)
        raise ToolError(f"the zip cannot be downloaded: {address} is not an HTTP address; everything else was checked")
    for _ in range(MAX_DOWNLOAD_ATTEMPTS):
        try:
            with urllib.request.urlopen(location, timeout=DOWNLOAD_TIMEOUT) as response:
                data: bytes = response.read()
                return data
        except urllib.error.HTTPError as error:
            reason = f"status {error.code}"
            if error.code == 403 and renew:  # of Amazon S3, for a URL that has expired
                location = renew() or location
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = redact(" ".join(str(getattr(error, "reason", error)).split()))
    raise ToolError(f"the zip cannot be downloaded ({reason}): check the network and repeat the command")
