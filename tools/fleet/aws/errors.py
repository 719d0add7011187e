"""Errors of calls to AWS, as exceptions that name the condition.

All calls of boto3 run inside `translated()`, so the rest of the package knows these exceptions only. Each is one line:
what happened, then the next step.

One condition needs care: `OutcomeUnknown`. No response, or a 5xx, does not mean that nothing was done. Who receives it
must read the resource before the next attempt. The same applies in a hidden form: botocore repeats a failed request by
itself. If the first request was carried out and its response was lost, the second one fails with 412 or 409, because of
the first. `is_retry` of `Conflict` and `PreconditionFailed` marks that case: the change in the way may be our own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tools.common.errors import ToolError
from tools.common.urls import redact

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_INVALID = {
    "AuthFailure",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}


class AwsError(ToolError):
    """A call to AWS failed.

    Args:
        text: one line, with the next step.
        code: the error code of AWS; empty if there was no response.
        status: the HTTP status; 0 if there was no response.
        is_retry: an earlier request of the same call may have been carried out.
    """

    def __init__(self, text: str, code: str = "", status: int = 0, is_retry: bool = False) -> None:
        super().__init__(redact(text))  # endpoints can contain a user and a password
        self.code = code
        self.status = status
        self.is_retry = is_retry


class CredentialsError(AwsError):
    """There are no credentials, or AWS does not accept them: every further call of this process would fail."""


class CredentialsExpired(CredentialsError):
    """The session has expired."""


class AccessDenied(AwsError):
    """The caller has no permission for the call."""


class NotFound(AwsError):
    """The resource does not exist."""


class Conflict(AwsError):
    """The resource is being updated, or has the name already (409)."""


class PreconditionFailed(AwsError):
    """The resource has changed since its revision was read (412)."""


class Throttled(AwsError):
    """AWS still rejected the call as one too many after all retries (429). It was not carried out."""


class OutcomeUnknown(AwsError):
    """The call may have been carried out or not: the response was lost, or was a 5xx."""


class UpdateFailed(AwsError):
    """An update that AWS had accepted failed, or did not complete in time."""


# --- Requests of one call ---------------------------------------------------------------------------------------------

_requests = threading.local()  # botocore repeats a request in the thread that made the call


def record_response(parsed_response: dict[str, Any] | None = None, exception: Any = None, **_: Any) -> None:
    """Note a request whose outcome is unknown; botocore calls this after each request, the repeated ones too."""
    status = (parsed_response or {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if exception is not None or status >= 500:
        _requests.has_unknown_outcome = True


@contextmanager
def translated() -> Iterator[None]:
    """Run calls of boto3; raise their errors as `AwsError`."""
    _requests.has_unknown_outcome = False
    try:
        yield
    except ToolError:
        raise
    except Exception as error:
        translation = _translate(error)
        if translation is None:
            raise
        raise translation from error


def _translate(error: Exception) -> AwsError | None:
    from botocore import exceptions  # here, because commands that do not call AWS must not need it
    from botocore.parsers import ResponseParserError

    text = " ".join(str(error).split()).rstrip(".")
    match error:
        case exceptions.WaiterError():
            return _of_waiter(error, text)
        case exceptions.ClientError():
            return _of_response(error.response, error.operation_name)
        case (
            exceptions.NoCredentialsError()
            | exceptions.PartialCredentialsError()
            | exceptions.CredentialRetrievalError()
            | exceptions.TokenRetrievalError()
            | exceptions.SSOError()
        ):
            return CredentialsError(f"no AWS credentials ({text}): set AWS_PROFILE, or run `aws configure`")
        case exceptions.ProfileNotFound():
            return CredentialsError(
                f"{text}: set AWS_PROFILE to a profile that `aws configure list-profiles` lists, or unset it"
            )
        # Of a repeated call, only the last error is known. So even a refused connection can follow a lost response.
        case exceptions.HTTPClientError() | exceptions.ConnectionError() | ResponseParserError():
            return OutcomeUnknown(f"AWS cannot be reached ({text}): check the network, AWS_ENDPOINT_URL and the region")
        case exceptions.BotoCoreError():
            return AwsError(text)
    return None


def _of_response(response: dict[str, Any], operation: str) -> AwsError:
    error = response.get("Error", {})
    code = str(error.get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    message = " ".join(str(error.get("Message", "")).split())
    if code in _EXPIRED:
        text = "the AWS session has expired: sign in again, for example with `aws sso login`, and repeat the command"
        return CredentialsExpired(text, code, status)
    if code in _INVALID:
        text = f"AWS rejects these credentials ({code}): check them, and whether the account has the region enabled"
        return CredentialsError(text, code, status)
    if code in _DENIED:
        text = f"{operation} is not allowed: {message or code} (see docs/iam.md for the permissions)"
        return AccessDenied(text, code, status, _is_retry())
    text = f"{operation} failed with {code}{': ' if message else ''}{message}"
    return _kind(code, status)(text, code, status, _is_retry())


def _is_retry() -> bool:
    return getattr(_requests, "has_unknown_outcome", False)


def _kind(code: str, status: int) -> type[AwsError]:
    if status >= 500:
        return OutcomeUnknown
    if code == "ResourceNotFoundException":
        return NotFound
    return {404: NotFound, 409: Conflict, 412: PreconditionFailed, 429: Throttled}.get(status, AwsError)


def _of_waiter(error: Any, text: str) -> AwsError:
    """Return why a waiter stopped. Its last response is the function as it is, or an error."""
    last = error.last_response or {}
    if "Error" in last and "Configuration" not in last:
        return _of_response(last, "GetFunction")
    configuration = last.get("Configuration", last)
    keys = ("LastUpdateStatusReasonCode", "LastUpdateStatusReason", "StateReason")
    reasons = [str(configuration[key]) for key in keys if configuration.get(key)]
    if reasons:
        return UpdateFailed(f"the update failed: {': '.join(reasons)}")
    return UpdateFailed(f"the update is not complete ({text})")
