"""Functions of AWS Lambda in one region: reading, updating, probing and publishing."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tools.common.errors import ToolError
from tools.common.lambda_facts import MAX_TIMEOUT
from tools.fleet.aws.errors import (
    AwsError,
    Interruption,
    NotFound,
    OutcomeUnknown,
    ProbeUnknown,
    UpdateFailed,
    translated,
)
from tools.fleet.aws.models import Alias, Function
from tools.fleet.aws.retries import Patience
from tools.fleet.aws.session import Aws

MAX_POLLS = 300  # of one update

Waiting = Generator[float, None, None]  # yields pauses in seconds; the caller sleeps, or does something else
INVOCATION_TIMEOUT = MAX_TIMEOUT + 5  # seconds; AWS Lambda ends an invocation before


class Functions:
    """The functions of one region."""

    def __init__(self, aws: Aws, region: str) -> None:
        self.pace = aws.pace
        self._retries = aws.retries(region)
        self._client = aws.client("lambda", region)
        self._aws = aws
        self._region = region

    # --- Reading

    def all(self, published: bool = False) -> list[Function]:
        """Return all functions.

        Args:
            published: return their published versions too.
        """
        options = {"FunctionVersion": "ALL"} if published else {}
        with translated():
            pages = self._client.get_paginator("list_functions").paginate(**options)
            found = [Function.of(each) for page in pages for each in page.get("Functions", ())]
        # A function that is created meanwhile moves others to the next page, so some are listed twice.
        return list({(each.arn, each.version): each for each in found}.values())

    def get(self, name: str, qualifier: str | None = None) -> Function:
        """Return a function with its tags, or the version that `qualifier` names; raises `NotFound`."""
        options = {"Qualifier": qualifier} if qualifier else {}
        with translated():
            response = self._client.get_function(FunctionName=name, **options)
        # Without the permission lambda:ListTags the response has no tags: AWS Lambda API Reference, API_GetFunction.
        return Function.of(response["Configuration"], response.get("Tags"), tags_are_known="TagsError" not in response)

    def code_location(self, name: str) -> str:
        """Return the presigned URL of a function's zip, which is valid for ten minutes."""
        with translated():
            response = self._client.get_function(FunctionName=name)
        return str(response.get("Code", {}).get("Location", ""))

    # --- Updating

    def set_layers(
        self, name: str, layers: Sequence[str], revision: str, variables: Mapping[str, str] | None = None
    ) -> str:
        """Replace the list of layers if the function still has `revision`; return the new revision.

        Args:
            variables: all environment variables, which an update replaces together; None to keep them.

        `RevisionId` is the optimistic lock of AWS Lambda: AWS Lambda API Reference, API_UpdateFunctionConfiguration.

        Raises:
            PreconditionFailed: the function has changed.
            Conflict: another update is in progress.
            OutcomeUnknown: no response; read the function to find out.
            NotFound, AwsError: AWS rejected the update.
        """
        options: dict[str, Any] = {} if variables is None else {"Environment": {"Variables": dict(variables)}}
        response = self._change(
            "update_function_configuration", FunctionName=name, Layers=list(layers), **options, **_lock(revision)
        )
        return str(response.get("RevisionId", ""))

    def wait(self, name: str, qualifier: str | None = None) -> Waiting:
        """Poll until no update is in progress, and a version can be invoked.

        Like the waiters `function_updated_v2` and `published_version_active` of botocore, but with `GetFunction` alone,
        which has a quota of its own, and without a sleeping thread.

        Raises:
            UpdateFailed: the last update failed, or does not end.
            NotFound: the function was deleted.
        """
        for _ in range(MAX_POLLS):
            function = self.get(name, qualifier)
            if function.failure:
                raise UpdateFailed(function.failure)
            if function.status != "InProgress" and function.state != "Pending":
                return
            yield self.pace.between_polls
        raise UpdateFailed(f"the update is not complete after {MAX_POLLS} polls")

    def wait_while_busy(self, name: str, attempt: int) -> Waiting:
        """Wait for the end of somebody else's update, however it ends.

        AWS also reports a conflict for a function that was just created or was idle, and its state does not show that;
        so the pause grows with each `attempt`.
        """
        with suppress(UpdateFailed, NotFound):
            yield from self.wait(name)
        yield attempt * self.pace.between_polls

    def patience(self, operation: str) -> Patience:
        """Return the pauses between attempts at one write whose outcome is unknown."""
        return Patience(self._retries, operation)

    def probe(self, name: str, event: bytes) -> None:
        """Invoke the function with `event`, once.

        Raises:
            ProbeUnknown: the response was lost.
            Interruption: the function was not invoked.
            ToolError: the invocation failed.
        """
        try:
            with translated():
                client = self._aws.client("lambda", self._region, timeout=INVOCATION_TIMEOUT)
                response = client.invoke(FunctionName=name, Payload=event)
                payload = response["Payload"].read() if "Payload" in response else b""
        except OutcomeUnknown as error:
            raise ProbeUnknown(
                f"the response to the probe of {name} was lost ({error}): it is not invoked again, so look at its log"
            ) from error
        except AwsError as error:
            if isinstance(error, Interruption):
                raise
            raise ToolError(f"the probe failed: {error}") from error
        if response.get("FunctionError") or not 200 <= response.get("StatusCode", 200) < 300:
            raise ToolError(f"the probe failed: {_error_message(payload)}")

    # --- Versions and aliases

    def publish_version(self, name: str, revision: str) -> str:
        """Publish a version if the function still has `revision`; return its number, which `wait` takes.

        If nothing has changed since the last version, AWS returns that one, so a second attempt publishes nothing.
        """
        return str(self._change("publish_version", FunctionName=name, **_lock(revision))["Version"])

    def alias(self, name: str, alias: str) -> Alias:
        """Return an alias; raises `NotFound`."""
        with translated():
            return Alias.of(self._client.get_alias(FunctionName=name, Name=alias))

    def aliases(self, name: str) -> list[Alias]:
        """Return all aliases of a function; none if it was deleted meanwhile."""
        try:
            with translated():
                pages = self._client.get_paginator("list_aliases").paginate(FunctionName=name)
                return [Alias.of(each) for page in pages for each in page.get("Aliases", ())]
        except NotFound:
            return []

    def move_alias(self, name: str, alias: Alias, version: str, weights: Mapping[str, float]) -> Alias:
        """Point `alias` to `version` with `weights` for other versions, if it still has its revision; return it then.

        The weights are always sent: without them AWS would keep the old ones, and go on sending a part of the requests
        to the old version.
        """
        response = self._change(
            "update_alias",
            FunctionName=name,
            Name=alias.name,
            FunctionVersion=version,
            RoutingConfig={"AdditionalVersionWeights": dict(weights)},
            **_lock(alias.revision),
        )
        return Alias(alias.name, version, dict(weights), str(response.get("RevisionId", "")))

    # --- Function URLs

    def url_configurations(self, name: str) -> list[dict[str, Any]]:
        """Return the Function URLs of a function and of its aliases."""
        try:
            with translated():
                pages = self._client.get_paginator("list_function_url_configs").paginate(FunctionName=name)
                return [each for page in pages for each in page.get("FunctionUrlConfigs", ())]
        except NotFound:
            pass
        try:  # endpoints without the list, such as moto, may have the function's own URL
            with translated():
                return [self._client.get_function_url_config(FunctionName=name)]
        except NotFound:
            return []

    def policy(self, name: str, qualifier: str | None) -> list[dict[str, Any]]:
        """Return the statements of the resource-based policy of a function, or of an alias; an empty list if none."""
        options = {"Qualifier": qualifier} if qualifier else {}
        try:
            with translated():
                response = self._client.get_policy(FunctionName=name, **options)
        except NotFound:
            return []
        statements: list[dict[str, Any]] = json.loads(response["Policy"])["Statement"]
        return statements

    def _change(self, operation: str, **parameters: Any) -> Any:
        with translated():
            return getattr(self._client, operation)(**parameters)


def _lock(revision: str) -> dict[str, str]:
    return {"RevisionId": revision} if revision else {}  # some endpoints have no revisions


def _error_message(payload: bytes) -> str:
    try:
        error = json.loads(payload)
    except ValueError:
        return payload[:200].decode("utf-8", "backslashreplace")
    if isinstance(error, dict) and "errorMessage" in error:
        return f"{error.get('errorType', 'error')}: {error['errorMessage']}"
    return json.dumps(error)[:200]
