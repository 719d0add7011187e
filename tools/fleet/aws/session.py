"""Credentials, regions and clients, as boto3 finds them; every request has the pace of `pace` and `retries`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from tools.common.errors import ToolError, UsageError
from tools.fleet.aws.arns import Place
from tools.fleet.aws.errors import AccessDenied, AwsError, CredentialsError, translated
from tools.fleet.aws.pace import Pace, Pacer
from tools.fleet.aws.retries import Retries, Retry

WORKERS = 8  # threads; each call takes a part of a second, and waiting for an update occupies none
MAX_WORKERS = 64
CONNECT_TIMEOUT = 5  # seconds
CALL_TIMEOUT = 30  # seconds, for a response
ROLE_SESSION_NAME = "python-streaming-runtime"  # CloudTrail shows it with each call of an assumed role


@dataclass(frozen=True)
class Identity:
    """The caller, as `sts get-caller-identity` reports it."""

    place: Place
    caller: str

    def within(self, region: str) -> Identity:
        """Return the same caller in another region."""
        return replace(self, place=replace(self.place, region=region))


class Aws:
    """Clients for one set of credentials. Quotas and outages belong to a region, so pacers and retries do too.

    Args:
        make_session: returns a session of boto3, which finds credentials and region as boto3 documents it.

    Attributes:
        listener: receives each pause before a retry.
    """

    def __init__(self, pace: Pace, make_session: Callable[[], Any] | None = None) -> None:
        self.pace = pace
        self.listener: Callable[[Retry], None] = lambda retry: None
        self._retries: dict[str, Retries] = {}
        self._pacers: dict[str, Pacer] = {}
        with translated():
            self._session = (make_session or _new_session)()
        self._clients: dict[tuple[str, str, int], Any] = {}
        self._lock = threading.Lock()

    def assume(self, role: str, region: str) -> Aws:
        """Return the clients for a role. Its credentials are renewed before they expire, however long a roll-out takes.

        Args:
            region: whose endpoint of AWS STS is called.

        Raises:
            CredentialsError: the role cannot be assumed.
        """
        assumed = Aws(self.pace, lambda: _role_session(self, role, region))
        assumed.listener = self.listener
        return assumed

    def retries(self, region: str) -> Retries:
        """Return the retries of all threads in one region."""
        return self._retries.setdefault(region, Retries(self.pace, lambda retry: self.listener(retry)))

    def region(self, requested: str | None) -> str:
        """Return `requested`, or the region that boto3 finds.

        Raises:
            UsageError: there is none, or it is not the name of a region.
        """
        name: str | None = requested or self._session.region_name
        if not name:
            raise UsageError("no region is set: use --region, or set AWS_DEFAULT_REGION")
        if name not in self._session.get_available_regions("lambda", partition_name=self.partition(name)):
            raise self._unknown(name)
        return name

    def partition(self, region: str) -> str:
        """Return the partition of `region`; raises `UsageError` if there is no such region."""
        from botocore.exceptions import BotoCoreError  # see `_new_session`

        try:
            partition: str = self._session.get_partition_for_region(region)
        except BotoCoreError:
            raise self._unknown(region) from None
        return partition

    def _unknown(self, region: str) -> UsageError:
        example = self._session.get_available_regions("lambda")[0]
        return UsageError(f"{region!r} is not the name of a region, such as {example}")

    def identity(self, region: str) -> Identity:
        """Return the caller. The first call of every command, so that bad credentials end it before any change.

        Raises:
            UsageError: the region is in another partition than the credentials.
            AwsError: AWS rejects the credentials, or cannot be reached.
        """
        with translated():
            caller = self.client("sts", region).get_caller_identity()
        partition = caller["Arn"].split(":")[1]
        if partition != self.partition(region):
            raise UsageError(
                f"{region} is in the partition {self.partition(region)}, the credentials are for {partition}: "
                "use other credentials, or another --region"
            )
        return Identity(Place(partition, region, caller["Account"]), caller["Arn"])

    def all_regions(self, region: str) -> list[str]:
        """Return the regions that the account has enabled and that have AWS Lambda, sorted.

        Raises:
            ToolError: the caller may not list regions.
        """
        known = self._session.get_available_regions("lambda", partition_name=self.partition(region))
        try:
            with translated():
                response = self.client("ec2", region).describe_regions()
        except AccessDenied:
            raise ToolError("--all-regions needs ec2:DescribeRegions: allow it, or use --region") from None
        return sorted({each["RegionName"] for each in response["Regions"]}.intersection(known))

    def client(self, service: str, region: str, timeout: int = CALL_TIMEOUT) -> Any:
        """Return a client of boto3, shared by all threads, with the pace and the retries of this process.

        Args:
            timeout: for a response, in seconds.
        """
        with self._lock:
            key = (service, region, timeout)
            if key not in self._clients:
                self._clients[key] = self._make(*key)
            return self._clients[key]

    def _make(self, service: str, region: str, timeout: int) -> Any:
        from botocore.config import Config  # see `_new_session`

        config = Config(
            retries={"mode": "standard", "total_max_attempts": 1},  # `Retries` repeats requests
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=timeout,
            max_pool_connections=MAX_WORKERS,
            user_agent_extra="python-streaming-runtime",
        )
        try:
            client = self._session.client(service, region_name=region, config=config)
        except ValueError as error:  # of botocore, for an endpoint that is not a URL
            raise UsageError(
                f"{error}: set AWS_ENDPOINT_URL to a URL such as https://example.com, or unset it"
            ) from None
        pacer = self._pacers.setdefault(region, Pacer(self.pace))
        client.meta.events.register("before-send", pacer.wait)
        client.meta.events.register("response-received", pacer.record)
        client.meta.events.register("needs-retry", self.retries(region).decide)
        return client


def _new_session() -> Any:
    import boto3  # here, because commands that do not call AWS must not need it

    return boto3.Session()


def _role_session(aws: Aws, role: str, region: str) -> Any:
    """Return a session of boto3 with the credentials of a role.

    boto3 assumes roles only where a profile of its configuration names them. So its search for credentials is replaced
    by one provider, whose credentials call `renew` when fewer than 15 minutes of their time are left.
    """
    import boto3  # see `_new_session`
    from botocore.credentials import CredentialResolver, RefreshableCredentials
    from botocore.session import get_session

    def renew() -> dict[str, str]:
        return _assume(aws, role, region)

    credentials = RefreshableCredentials.create_from_metadata(renew(), renew, "assume-role")
    provider = SimpleNamespace(METHOD="assume-role", load=lambda: credentials)
    session = get_session()
    session.register_component("credential_provider", CredentialResolver([provider]))
    return boto3.Session(botocore_session=session)


def _assume(aws: Aws, role: str, region: str) -> dict[str, str]:
    """Return new credentials of a role, as botocore takes them."""
    try:
        with translated():
            response = aws.client("sts", region).assume_role(RoleArn=role, RoleSessionName=ROLE_SESSION_NAME)
    except AwsError as error:
        raise CredentialsError(f"the role {role} cannot be assumed: {error}", error.code, error.status) from error
    found = response["Credentials"]
    return {
        "access_key": found["AccessKeyId"],
        "secret_key": found["SecretAccessKey"],
        "token": found["SessionToken"],
        "expiry_time": found["Expiration"].isoformat(),
    }
