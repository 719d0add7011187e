"""Functions of AWS Lambda in one region: reading, changing and waiting."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from botocore import exceptions

from tools.fleet import FleetError
from tools.fleet.aws.models import Alias, Function
from tools.fleet.aws.session import (
    Aws,
    AwsError,
    error_code,
    forget_attempts,
    in_words,
    is_lost_code,
    may_be_an_echo,
    may_have_been_done,
    status,
)

_SECONDS_BETWEEN_LOOKS, _LOOKS = 1, 300
_SECONDS_OF_AN_INVOCATION = 905  # at most 900, and the way


class NoAccessError(FleetError):
    """The credentials are not valid any more, so that no call of this process will succeed."""


class GoneError(FleetError):
    """There is no such function, alias or permission."""


class NotNowError(FleetError):
    """The function is not as it was read.

    Args:
        maybe_ours: the call was sent more than once, and the change which is in its way may be its own.
    """

    def __init__(self, text: str, maybe_ours: bool) -> None:
        super().__init__(text)
        self.maybe_ours = maybe_ours


class RevisionError(NotNowError):
    """It was changed since."""


class BusyError(NotNowError):
    """It is being updated."""


class UnclearError(FleetError):
    """No answer came to a change: it may have been made or not."""


class Functions:
    """The functions of one region."""

    def __init__(self, aws: Aws, region: str) -> None:
        self._client = aws.client("lambda", region)
        self._patient = aws.client("lambda", region, timeout=_SECONDS_OF_AN_INVOCATION)

    def all(self, published: bool = False) -> list[Function]:
        """All functions, all pages; with their ``published`` versions too, if told so."""
        options = {"FunctionVersion": "ALL"} if published else {}
        pages = self._client.get_paginator("list_functions").paginate(**options)
        found = (Function.of(each) for page in pages for each in page.get("Functions", ()))
        # A function that is made meanwhile moves others to the next page.
        return list({(each.arn, each.version): each for each in found}.values())

    def get(self, name: str, qualifier: str | None = None) -> Function:
        """Read one function with its tags, or what the ``qualifier`` of it leads to; raises ``GoneError``."""
        options = {"Qualifier": qualifier} if qualifier else {}
        answer = self._asked("get_function", FunctionName=name, **options)
        # Without the right to lambda:ListTags, the answer has no tags: AWS Lambda API Reference, API_GetFunction.
        return Function.of(answer["Configuration"], answer.get("Tags"), known="TagsError" not in answer)

    def code_location(self, name: str) -> str:
        """Where the zip of a function can be got for ten minutes."""
        return str(self._asked("get_function", FunctionName=name).get("Code", {}).get("Location", ""))

    def set_layers(self, name: str, layers: Sequence[str], revision: str) -> str:
        """Give the function exactly ``layers``, if it still is at ``revision``, and give its new revision.

        Raises:
            RevisionError, BusyError, GoneError, UnclearError, FleetError: it was not done, or that is unclear.
        """
        answer = self._changed(
            "update_function_configuration", FunctionName=name, Layers=list(layers), **_lock(revision)
        )
        return str(answer.get("RevisionId", ""))

    def wait(self, name: str) -> None:
        """Wait until the last update has come to its end; raises ``FleetError`` where it failed, ``GoneError``."""
        self._wait("function_updated_v2", FunctionName=name)

    def come_to_rest(self, name: str, tried: int) -> None:
        """Let somebody's change of the function end, however it does: the longer, the more often it was ``tried``.

        One that was just made or is idle is busy too, and no waiter knows.
        """
        with suppress(FleetError):
            self.wait(name)
        time.sleep(tried * _SECONDS_BETWEEN_LOOKS)

    def _wait(self, waiter: str, **parameters: str) -> None:
        pace = {"Delay": _SECONDS_BETWEEN_LOOKS, "MaxAttempts": _LOOKS}
        try:
            self._client.get_waiter(waiter).wait(WaiterConfig=pace, **parameters)
        except exceptions.WaiterError as error:
            code = ((error.last_response or {}).get("Error") or {}).get("Code", "")
            if code == "ResourceNotFoundException":
                raise GoneError(_why(error)) from None
            raise (NoAccessError if is_lost_code(code) else FleetError)(_why(error)) from None
        except AwsError as error:
            raise FleetError(in_words(error)) from None

    def probe(self, name: str, event: bytes) -> None:
        """Invoke the function with ``event``; raises ``FleetError`` where it does not succeed."""
        try:
            answer = self._patient.invoke(FunctionName=name, Payload=event)
        except AwsError as error:
            raise FleetError(f"the probe failed: {in_words(error)}") from None
        payload = answer["Payload"].read() if "Payload" in answer else b""
        if answer.get("FunctionError") or not 200 <= answer.get("StatusCode", 200) < 300:
            raise FleetError(f"the probe failed: {_message(payload)}")

    def publish_version(self, name: str, revision: str) -> str:
        """Publish a version of the function as it is at ``revision``, wait until it can be invoked, give its number."""
        version = str(self._changed("publish_version", FunctionName=name, **_lock(revision))["Version"])
        self._wait("published_version_active", FunctionName=name, Qualifier=version)
        return version

    def alias(self, name: str, alias: str) -> Alias:
        """Read an alias; raises ``GoneError``."""
        return _alias(self._asked("get_alias", FunctionName=name, Name=alias))

    def aliases(self, name: str) -> list[Alias]:
        """All aliases of a function, all pages; none where it was deleted meanwhile."""
        pages = self._client.get_paginator("list_aliases").paginate(FunctionName=name)
        try:
            return [_alias(each) for page in pages for each in page.get("Aliases", ())]
        except exceptions.ClientError as error:
            if status(error) == 404:
                return []
            raise

    def move_alias(self, name: str, alias: Alias, version: str, weights: Mapping[str, float]) -> None:
        """Point ``alias`` to ``version``, if it still is as it was read."""
        self._changed(
            "update_alias",
            FunctionName=name,
            Name=alias.name,
            FunctionVersion=version,
            RoutingConfig={"AdditionalVersionWeights": dict(weights)},
            **_lock(alias.revision),
        )

    def url_configurations(self, name: str) -> list[dict[str, Any]]:
        """The Function URLs of a function and of its aliases."""
        pages = self._client.get_paginator("list_function_url_configs").paginate(FunctionName=name)
        try:
            return [each for page in pages for each in page.get("FunctionUrlConfigs", ())]
        except exceptions.ClientError as error:
            if status(error) != 404:
                raise
        try:  # where the list is not to be had, the function's own URL may be
            return [self._asked("get_function_url_config", FunctionName=name)]
        except GoneError:
            return []

    def policy(self, name: str, qualifier: str | None) -> list[dict[str, Any]]:
        """The statements of a function's policy, or of its alias'."""
        options = {"Qualifier": qualifier} if qualifier else {}
        try:
            answer = self._asked("get_policy", FunctionName=name, **options)
        except GoneError:
            return []
        statements: list[dict[str, Any]] = json.loads(answer["Policy"])["Statement"]
        return statements

    def _asked(self, operation: str, **parameters: Any) -> Any:
        try:
            return getattr(self._client, operation)(**parameters)
        except exceptions.ClientError as error:
            if status(error) == 404 or error_code(error) == "ResourceNotFoundException":
                raise GoneError(in_words(error)) from None
            raise (NoAccessError if is_lost_code(error_code(error)) else FleetError)(in_words(error)) from None
        except AwsError as error:
            raise FleetError(in_words(error)) from None

    def _changed(self, operation: str, **parameters: Any) -> Any:
        forget_attempts()
        try:
            return getattr(self._client, operation)(**parameters)
        except exceptions.ClientError as error:
            raise _refused(error) from None
        except AwsError as error:
            raise (UnclearError if may_have_been_done(error) else FleetError)(in_words(error)) from None


def _lock(revision: str) -> dict[str, str]:
    return {"RevisionId": revision} if revision else {}


def _refused(error: exceptions.ClientError) -> FleetError:
    text = in_words(error)
    match status(error), error_code(error):
        case 412, _:
            return RevisionError(text, may_be_an_echo())
        case 409, "ResourceConflictException":
            return BusyError(text, may_be_an_echo())
        case 404, _:
            return GoneError(text)
    if is_lost_code(error_code(error)):
        return NoAccessError(text)
    return UnclearError(text) if may_have_been_done(error) or may_be_an_echo() else FleetError(text)


def _why(error: exceptions.WaiterError) -> str:
    """Say why a waiter gave up. Its last answer is the function as it is, or what AWS said instead."""
    last = error.last_response or {}
    configuration = last.get("Configuration", last)
    reasons = [
        configuration.get(key) for key in ("LastUpdateStatusReasonCode", "LastUpdateStatusReason", "StateReason")
    ]
    reasons.append((last.get("Error") or {}).get("Message"))
    told = ": ".join(str(reason) for reason in reasons if reason)
    return f"the update failed: {told}" if told else f"the update has not ended ({error})"


def _alias(answer: Mapping[str, Any]) -> Alias:
    weights = (answer.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
    return Alias(answer["Name"], answer["FunctionVersion"], dict(weights), answer.get("RevisionId", ""))


def _message(payload: bytes) -> str:
    try:
        error = json.loads(payload)
    except ValueError:
        return payload[:200].decode("utf-8", "backslashreplace")
    if isinstance(error, dict) and "errorMessage" in error:
        return f"{error.get('errorType', 'error')}: {error['errorMessage']}"
    return json.dumps(error)[:200]
