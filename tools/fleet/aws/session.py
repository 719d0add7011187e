"""Credentials, regions and clients, as boto3 finds them; and one pace for all calls of the process.

Why a pacer: AWS Lambda accepts 15 calls per second of its control plane, counted for an account and region over all
callers, deployments of other teams among them; the quota cannot be raised (AWS Lambda Developer Guide,
gettingstarted-limits). A roll-out to hundreds of functions by 8 threads would use all of it, and botocore's own retries
would make it worse: each thread backs off alone while the others continue. So all threads share one `Pacer`:

- Requests start at least 1/8 s apart. Delays in the network can push several together; 8 sent in a second are then
  never more than 10 that arrive within one, which leaves a third of the quota to others.
- The lock is held while a thread sleeps. A thread that wakes late delays the next one, and never meets it.
- After a 429, no thread sends for a second: the quota is exhausted, whoever used it.

Retries pass through the pacer too, because it is called before each HTTP request and not before each call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.common.errors import ToolError, UsageError
from tools.fleet.aws.arns import Place
from tools.fleet.aws.errors import AccessDenied, record_response, translated

WORKERS = 8  # a function takes 3 calls and one or two seconds of waiting, so the pace keeps 6 threads busy
MAX_ATTEMPTS = 6  # of one call; with botocore's growing pauses, about 15 seconds in total
CALL_TIMEOUT = 60  # seconds


@dataclass(frozen=True)
class Pace:
    """Pauses in seconds, and the clock.

    Args:
        between_requests: of all threads together.
        after_throttling: without any request, after a 429.
        between_polls: of a function whose update is in progress; times the number of attempts if it is busy.
        between_publish_attempts: times the number of attempts.
    """

    between_requests: float = 1 / 8
    after_throttling: float = 1.0
    between_polls: float = 1.0
    between_publish_attempts: float = 1.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


class Pacer:
    """Delays requests of all threads; the theory is at the top of this file."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._lock = threading.Lock()  # held while a thread sleeps
        self._next = 0.0

    def wait(self, **_: Any) -> None:
        """Sleep until the next request may start; botocore calls this before each request."""
        with self._lock:
            while (pause := self._next - self._pace.clock()) > 0:
                self._pace.sleep(pause)
            self._next = self._pace.clock() + self._pace.between_requests

    def record(self, parsed_response: dict[str, Any] | None = None, **_: Any) -> None:
        """Delay all threads after a 429; botocore calls this after each request."""
        if (parsed_response or {}).get("ResponseMetadata", {}).get("HTTPStatusCode") == 429:
            self._next = max(self._next, self._pace.clock() + self._pace.after_throttling)


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
        self._pacer = Pacer(pace)
        with translated():
            self._session = (make_session or _new_session)()
        self._clients: dict[tuple[str, str, int, int], Any] = {}
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

    def client(self, service: str, region: str, attempts: int = MAX_ATTEMPTS, timeout: int = CALL_TIMEOUT) -> Any:
        """Return a client of boto3, shared by all threads, with the pace of this process.

        Args:
            attempts: 1 for calls that must not be repeated before the result of the first is known.
            timeout: for a response, in seconds.
        """
        with self._lock:
            key = (service, region, attempts, timeout)
            if key not in self._clients:
                self._clients[key] = self._make(*key)
            return self._clients[key]

    def _make(self, service: str, region: str, attempts: int, timeout: int) -> Any:
        from botocore.config import Config  # see `_new_session`

        config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            read_timeout=timeout,
            max_pool_connections=WORKERS + 1,
            user_agent_extra="python-streaming-runtime",
        )
        try:
            client = self._session.client(service, region_name=region, config=config)
        except ValueError as error:  # of botocore, for an endpoint that is not a URL
            raise UsageError(
                f"{error}: set AWS_ENDPOINT_URL to a URL such as https://example.com, or unset it"
            ) from None
        client.meta.events.register("before-send", self._pacer.wait)
        client.meta.events.register("response-received", self._pacer.record)
        client.meta.events.register("response-received", record_response)
        return client


def _new_session() -> Any:
    try:
        import boto3  # here, because commands that do not call AWS must not need it
    except ImportError:
        raise ToolError("boto3 is not installed: run the command through ./build.sh, which installs it") from None
    return boto3.Session()
