"""The way to AWS: boto3's session, one pace for all calls of the process, and errors in words."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import boto3
from botocore import exceptions
from botocore.config import Config
from botocore.parsers import ResponseParserError

from tools.fleet import FleetError, UsageError
from tools.fleet.aws.arns import Place

# The control plane takes 15 calls a second of an account and region, from all its users together, and the limit cannot
# be raised (AWS Lambda Developer Guide, gettingstarted-limits). 8 sent evenly are never more than 10 that arrive within
# a second, be the way as uneven as it may.
SECONDS_BETWEEN_CALLS = 1 / 8
SECONDS_AFTER_THROTTLING = 1.0
ATTEMPTS = 6  # of one call, with growing pauses; together some 15 seconds
WORKERS = 8  # a function that takes 3 calls, and a second or two to be updated, keeps 6 of them busy

AwsError = (exceptions.BotoCoreError, exceptions.ClientError, ResponseParserError)

_ON_THE_WAY = (exceptions.HTTPClientError, exceptions.ConnectionError, ResponseParserError)

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_INVALID = {
    "AuthFailure",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}


_attempts = threading.local()  # botocore sends again in the thread that calls


class Pacer:
    """Lets calls go one by one, ``interval`` seconds apart, whichever thread they are from."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._turn = threading.Lock()  # held while waiting, so that one that wakes up late does not meet the next
        self._next = 0.0

    def wait(self, **_: Any) -> None:
        """Sleep until the next call may go; boto3 calls it before each HTTP request, retries too."""
        with self._turn:
            while (pause := self._next - time.monotonic()) > 0:
                time.sleep(pause)
            self._next = time.monotonic() + self._interval

    def look_at(self, parsed_response: dict[str, Any] | None = None, exception: Any = None, **_: Any) -> None:
        """Hold everyone back once AWS has answered 429; boto3 calls it after each HTTP request."""
        status = (parsed_response or {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status == 429:
            self._next = max(self._next, time.monotonic() + SECONDS_AFTER_THROTTLING)
        if exception is not None or status >= 500:
            _attempts.one_was_unclear = True


@dataclass(frozen=True)
class Identity:
    """Who calls, by ``sts get-caller-identity``."""

    place: Place
    caller: str


class Aws:
    """What one set of credentials reaches, found as boto3 finds it."""

    def __init__(self) -> None:
        self._session = boto3.Session()
        self._pacer = Pacer(SECONDS_BETWEEN_CALLS)
        self._clients: dict[tuple[str, str, int, int], Any] = {}
        self._lock = threading.Lock()

    def region(self, asked: str | None) -> str:
        """The region to work in: the one ``asked`` for, or boto3's.

        Raises:
            UsageError: there is none, or no region is called so.
        """
        name: str | None = asked or self._session.region_name
        if not name:
            raise UsageError("no region is set: give --region, or set AWS_DEFAULT_REGION")
        self.partition(name)
        return name

    def partition(self, region: str) -> str:
        """The partition that ``region`` is of; raises ``UsageError`` where it is of none."""
        try:
            partition: str = self._session.get_partition_for_region(region)
        except exceptions.BotoCoreError:
            raise UsageError(f"{region!r} is not the name of a region, as {self._example()} is") from None
        return partition

    def identity(self, region: str) -> Identity:
        """Ask who calls: the first call of every command, so that bad credentials end it before anything is done."""
        caller = self.client("sts", region).get_caller_identity()
        partition = caller["Arn"].split(":")[1]
        if partition != self.partition(region):
            raise UsageError(
                f"{region} is of the partition {self.partition(region)}, the credentials are of {partition}: "
                "use others, or another --region"
            )
        return Identity(Place(partition, region, caller["Account"]), caller["Arn"])

    def all_regions(self, region: str) -> list[str]:
        """The regions that the account has switched on and that have AWS Lambda, sorted.

        Raises:
            FleetError: the account may not ask for them.
        """
        known = self._session.get_available_regions("lambda", partition_name=self.partition(region))
        try:
            answer = self.client("ec2", region).describe_regions()
        except exceptions.ClientError as error:
            if error_code(error) in _DENIED:
                raise FleetError(
                    "--all-regions needs ec2:DescribeRegions: allow it, or name them with --region"
                ) from None
            raise
        enabled = {each["RegionName"] for each in answer["Regions"]}
        return sorted(enabled.intersection(known))

    def client(self, service: str, region: str, attempts: int = ATTEMPTS, timeout: int = 60) -> Any:
        """A client of boto3, paced with all others and shared by all threads.

        Args:
            attempts: 1 for what must not be repeated without a look.
            timeout: of an answer, in seconds.
        """
        with self._lock:
            key = (service, region, attempts, timeout)
            if key not in self._clients:
                self._clients[key] = self._make(*key)
            return self._clients[key]

    def _make(self, service: str, region: str, attempts: int, timeout: int) -> Any:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            read_timeout=timeout,
            max_pool_connections=WORKERS + 1,
            user_agent_extra="python-streaming-runtime",
        )
        try:
            client = self._session.client(service, region_name=region, config=config)
        except ValueError as error:  # what botocore says of an endpoint that is no URL
            raise UsageError(f"{error}: set AWS_ENDPOINT_URL to a URL as https://example.com, or unset it") from None
        client.meta.events.register("before-send", self._pacer.wait)
        client.meta.events.register("response-received", self._pacer.look_at)
        return client

    def _example(self) -> str:
        return str(self._session.get_available_regions("lambda")[0])


def error_code(error: Exception) -> str:
    """The code that AWS gives the error; nothing where the call did not get that far."""
    if not isinstance(error, exceptions.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_lost_code(code: str) -> bool:
    """Tell whether an error's ``code`` means that the credentials are of no use any more."""
    return code in _EXPIRED or code in _INVALID


def status(error: Exception) -> int:
    """The HTTP status that AWS answered with; 0 where it did not answer."""
    if not isinstance(error, exceptions.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def may_have_been_done(error: Exception) -> bool:
    """Tell whether a call that failed so can have had its effect: no answer came, or one from a broken server."""
    if isinstance(error, exceptions.ClientError):
        return status(error) >= 500
    # Of a call that was repeated, only the last error is known: even one without a connection may follow another.
    return isinstance(error, _ON_THE_WAY)


def forget_attempts() -> None:
    """Begin to watch what becomes of each sending of the next call of this thread."""
    _attempts.one_was_unclear = False


def may_be_an_echo() -> bool:
    """Tell whether an earlier sending of the last call may have been carried out: no answer came, or a server's error.

    The answer to the last sending may then be to the effect of that one.
    """
    return bool(getattr(_attempts, "one_was_unclear", False))


def in_words(error: Exception) -> str:
    """Say in one line what went wrong on the way to AWS, and what to do."""
    if isinstance(error, exceptions.ClientError):
        return _refusal(error)
    text = " ".join(str(error).split())
    for kinds, words in _WORDS:
        if isinstance(error, kinds):
            return words(text)
    return text


def _refusal(error: exceptions.ClientError) -> str:
    code = error_code(error)
    text = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
    if code in _EXPIRED:
        return "the AWS session has expired: sign in again, as with `aws sso login`, and repeat the command"
    if code in _INVALID:
        return (
            f"AWS does not know these credentials ({code}): check them, and that the account has the region switched on"
        )
    if code in _DENIED:
        return f"{error.operation_name} is not allowed: {text or code} (README.md lists the rights that are needed)"
    return f"{error.operation_name} failed with {code}{': ' if text else ''}{text}"


def _no_credentials(text: str) -> str:
    return f"no AWS credentials ({text.rstrip('.')}): set AWS_PROFILE, or run `aws configure`"


def _no_profile(text: str) -> str:
    return f"{text.rstrip('.')}: set AWS_PROFILE to one that `aws configure list-profiles` tells, or unset it"


def _no_answer(text: str) -> str:
    return f"AWS cannot be reached ({text.rstrip('.')}): check the network, AWS_ENDPOINT_URL and the region"


_WORDS: list[tuple[tuple[type[Exception], ...], Callable[[str], str]]] = [
    (
        (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.TokenRetrievalError,
            exceptions.SSOError,
        ),
        _no_credentials,
    ),
    ((exceptions.ProfileNotFound,), _no_profile),
    (_ON_THE_WAY, _no_answer),
]
