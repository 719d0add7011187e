"""Credentials, regions and clients, as boto3 finds them; every request has the pace of `pace` and `retries`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.common.errors import ToolError, UsageError
from tools.fleet.aws.arns import Place
from tools.fleet.aws.errors import AccessDenied, translated
from tools.fleet.aws.pace import Pace, Pacer
from tools.fleet.aws.retries import Retries

WORKERS = 8  # threads; each call takes a part of a second, and waiting for an update occupies none
MAX_WORKERS = 64
CONNECT_TIMEOUT = 5  # seconds
CALL_TIMEOUT = 30  # seconds, for a response


@dataclass(frozen=True)
class Identity:
    """The caller, as `sts get-caller-identity` reports it."""

    place: Place
    caller: str


class Aws:
    """Clients for one set of credentials.

    Args:
        make_session: returns a session of boto3, which finds credentials and region as boto3 documents it.

    Raises:
        ToolError: boto3 is not installed.
    """

    def __init__(self, pace: Pace, make_session: Callable[[], Any] | None = None) -> None:
        self.pace = pace
        self.retries = Retries(pace)
        self._pacers: dict[str, Pacer] = {}  # by region, because the quotas are
        with translated():
            self._session = (make_session or _new_session)()
        self._clients: dict[tuple[str, str, int], Any] = {}
        self._lock = threading.Lock()

    def region(self, requested: str | None) -> str:
        """Return `requested`, or the region that boto3 finds.

        Raises:
            UsageError: there is none, or it is not the name of a region.
        """
        name: str | None = requested or self._session.region_name
        if not name:
            raise UsageError("no region is set: use --region, or set AWS_DEFAULT_REGION")
        self.partition(name)
        return name

    def partition(self, region: str) -> str:
        """Return the partition of `region`; raises `UsageError` if there is no such region."""
        from botocore.exceptions import BotoCoreError  # see `_new_session`

        try:
            partition: str = self._session.get_partition_for_region(region)
        except BotoCoreError:
            example = self._session.get_available_regions("lambda")[0]
            raise UsageError(f"{region!r} is not the name of a region, such as {example}") from None
        return partition

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
        client.meta.events.register("needs-retry", self.retries.decide)
        return client


def _new_session() -> Any:
    try:
        import boto3  # here, because commands that do not call AWS must not need it
    except ImportError:
        raise ToolError("boto3 is not installed: run the command through ./build.sh, which installs it") from None
    return boto3.Session()
