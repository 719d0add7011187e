"""Errors of calls to AWS, as exceptions that name the condition.

All calls of boto3 run inside `translated()`, so the rest of the package knows these exceptions only. Each is one line:
what happened, then the next step.

Two conditions need care:

- `OutcomeUnknown`. No response, or a 5xx, does not mean that nothing was done. Who receives it must read the resource
  before the next attempt.
- `Interruption`. The network, AWS, the credentials or the disk of this machine fail, and the function at which this was
  noticed is as good as any other. A roll-out stops and can be resumed; it does not roll back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tools.common.errors import ToolError
from tools.common.urls import redact

_EXPIRED = {"ExpiredToken", "ExpiredTokenException"}
_SKEWED = {"RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"}
_SKEW_WORDS = ("Signature expired", "Signature not yet current")  # in the message of other codes
_INVALID = {
    "AuthFailure",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_THROTTLED = {
    "EC2ThrottledException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_NOT_SIGNED = {"CodeVerificationFailedException", "InvalidCodeSignatureException"}
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}


class AwsError(ToolError):
    """A call to AWS failed.

    Args:
        text: one line, with the next step.
        code: the error code of AWS; empty if there was no response.
        status: the HTTP status; 0 if there was no response.
    """

    def __init__(self, text: str, code: str = "", status: int = 0) -> None:
        super().__init__(redact(text))  # endpoints can contain a user and a password
        self.code = code
        self.status = status


class Interruption(ToolError):
    """This run cannot continue, and no function is the cause; it can be resumed."""


class CredentialsError(AwsError, Interruption):
    """There are no credentials, or AWS does not accept them: every further call of this process would fail."""


class CredentialsExpired(CredentialsError):
    """The session has expired."""


class Outage(AwsError, Interruption):
    """AWS could not be reached, failed or throttled for about a minute, whatever the function. Nothing was changed."""


class AccessDenied(AwsError):
    """The caller has no permission for the call."""


class NotFound(AwsError):
    """The resource does not exist."""


class Conflict(AwsError):
    """The resource is being updated, or has the name already (409)."""


class PreconditionFailed(AwsError):
    """The resource has changed since its revision was read (412)."""


class Throttled(AwsError):
    """AWS still rejected the call as one too many after about a minute (429). It was not carried out."""


class OutcomeUnknown(AwsError):
    """The call may have been carried out or not: the response was lost, or was a 5xx."""


class ProbeUnknown(AwsError, Interruption):
    """A function was, or may have been, invoked, and its response was lost. It must not be invoked again."""


class GatesUnreadable(Interruption):
    """Alarms or metrics cannot be read, so nobody knows whether the roll-out may go on."""


class CodeNotSigned(AwsError):
    """The code signing configuration of a function rejects its code or a layer."""


class UpdateFailed(AwsError):
    """An update that AWS had accepted failed, or did not complete in time."""


# --- Requests of one call ---------------------------------------------------------------------------------------------

_requests = threading.local()  # a call is repeated in the thread that made it


def mark_outage(seconds: float) -> None:
    """Note that the present call of this thread failed for so long because of an outage."""
    _requests.outage = seconds


@contextmanager
def translated() -> Iterator[None]:
    """Run calls of boto3; raise their errors as `AwsError`."""
    _requests.outage = None
    try:
        yield
    except ToolError:
        raise
    except Exception as error:
        translation = _translate(error)
        if translation is None:
            raise
        if _requests.outage is not None:
            raise outage(translation, _requests.outage) from error
        raise translation from error


def outage(error: AwsError, seconds: float) -> Outage:
    """Return `error`, which lasted for so many seconds, as an `Outage`."""
    return Outage(f"gave up after {seconds:.0f} s: {error}", error.code, error.status)


def is_throttling(code: str, status: int) -> bool:
    """Whether AWS rejected a call as one too many, and so did not carry it out."""
    return status == 429 or code in _THROTTLED


def failure(response: Any, exception: Exception | None) -> tuple[str, bool]:
    """Return why a request failed (empty if it did not), and whether AWS has certainly not carried it out.

    An error that another attempt cannot change is no failure here: botocore raises it.
    """
    from botocore import exceptions  # see `_translate`
    from botocore.parsers import ResponseParserError

    if exception is not None:
        not_connected = (
            exceptions.ConnectTimeoutError,
            exceptions.EndpointConnectionError,
            exceptions.ProxyConnectionError,
        )
        if isinstance(exception, exceptions.HTTPClientError | exceptions.ConnectionError | ResponseParserError):
            return type(exception).__name__, isinstance(exception, not_connected)
        return "", False
    parsed = response[1]
    status = parsed.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(parsed.get("Error", {}).get("Code", ""))
    if is_throttling(code, status):
        return code or str(status), True
    return (code or str(status), False) if status >= 500 else ("", False)


def _translate(error: Exception) -> AwsError | None:
    from botocore import exceptions  # here, because commands that do not call AWS must not need it
    from botocore.parsers import ResponseParserError

    text = " ".join(str(error).split()).rstrip(".")
    match error:
        case exceptions.ClientError():
            return _of_response(error.response, error.operation_name)
        case (
            exceptions.NoCredentialsError()
            | exceptions.PartialCredentialsError()
            | exceptions.CredentialRetrievalError()
            | exceptions.MetadataRetrievalError()
        ):
            return CredentialsError(f"no AWS credentials ({text}): set AWS_PROFILE, or run `aws configure`")
        case exceptions.TokenRetrievalError() | exceptions.SSOError():
            return CredentialsExpired(f"there is no AWS session ({text}): sign in with `aws sso login`")
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
    if code in _SKEWED or (code in _INVALID and message.startswith(_SKEW_WORDS)):
        return CredentialsError(
            f"the clock of this machine is wrong ({code}): set it, for example with NTP", code, status
        )
    if code in _EXPIRED:
        text = "the AWS session has expired: sign in again, for example with `aws sso login`, and repeat the command"
        return CredentialsExpired(text, code, status)
    if code in _INVALID:
        text = f"AWS rejects these credentials ({code}): check them, and whether the account has the region enabled"
        return CredentialsError(text, code, status)
    if code in _DENIED:
        text = f"{operation} is not allowed: {message or code} (see docs/iam.md for the permissions)"
        return AccessDenied(text, code, status)
    text = f"{operation} failed with {code}{': ' if message else ''}{message}"
    return _kind(code, status)(text, code, status)


def _kind(code: str, status: int) -> type[AwsError]:
    if is_throttling(code, status):
        return Throttled
    if status >= 500:
        return OutcomeUnknown
    if code == "ResourceNotFoundException":
        return NotFound
    if code in _NOT_SIGNED:
        return CodeNotSigned
    return {404: NotFound, 409: Conflict, 412: PreconditionFailed}.get(status, AwsError)
