"""Alarms and metrics of Amazon CloudWatch in one region."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from tools.common.errors import ToolError
from tools.fleet.aws.errors import translated
from tools.fleet.aws.session import Aws

MAX_NAMES = 100  # of alarms in a call: Amazon CloudWatch API Reference, API_DescribeAlarms
MAX_QUERIES = 500  # of metrics in a call: API_GetMetricData
PERIOD = 60  # seconds; AWS Lambda has one data point a minute

_Item = TypeVar("_Item")
_ALARM_TYPES = ["MetricAlarm", "CompositeAlarm"]


@dataclass(frozen=True)
class Metric:
    """What is counted: all invocations of a function, or those of one version through an alias.

    Args:
        alias, version: both or none of them.
    """

    function: str
    alias: str = ""
    version: str = ""

    def dimensions(self) -> list[dict[str, str]]:
        """AWS Lambda Developer Guide, monitoring-metrics-types."""
        dimensions = {"FunctionName": self.function}
        if self.alias:
            dimensions |= {"Resource": f"{self.function}:{self.alias}", "ExecutedVersion": self.version}
        return [{"Name": name, "Value": value} for name, value in dimensions.items()]


@dataclass(frozen=True)
class Sums:
    """Invocations and errors in some time."""

    invocations: float
    errors: float

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.invocations + other.invocations, self.errors + other.errors)


class CloudWatch:
    """The alarms and metrics that the caller can read."""

    def __init__(self, aws: Aws, region: str) -> None:
        self._client = aws.client("cloudwatch", region)

    def alarm_states(self, names: Sequence[str]) -> dict[str, str]:
        """Return the state of each alarm: `OK`, `ALARM` or `INSUFFICIENT_DATA`.

        Raises:
            ToolError: an alarm does not exist.
        """
        states: dict[str, str] = {}
        for some in _chunks(names, MAX_NAMES):
            with translated():
                pages = self._client.get_paginator("describe_alarms").paginate(
                    AlarmNames=list(some), AlarmTypes=_ALARM_TYPES
                )
                for page in pages:
                    found = [*page.get("MetricAlarms", ()), *page.get("CompositeAlarms", ())]
                    states |= {alarm["AlarmName"]: alarm["StateValue"] for alarm in found}
        for name in names:
            if name not in states:
                raise ToolError(f"the alarm {name} does not exist: check the name and the region")
        return states

    def sums(self, metrics: Collection[Metric], start: datetime, end: datetime) -> Sums:
        """Return the sums over all `metrics` from `start`, which is rounded down to the minute, to `end`."""
        total = {"Invocations": 0.0, "Errors": 0.0}
        queries = [
            _query(f"{name.lower()}{number}", name, metric) for number, metric in enumerate(metrics) for name in total
        ]
        for some in _chunks(queries, MAX_QUERIES):
            with translated():
                pages = self._client.get_paginator("get_metric_data").paginate(
                    MetricDataQueries=list(some), StartTime=start.replace(second=0, microsecond=0), EndTime=end
                )
                for page in pages:
                    for result in page["MetricDataResults"]:
                        name = "Errors" if result["Id"].startswith("errors") else "Invocations"
                        total[name] += sum(result["Values"])
        return Sums(total["Invocations"], total["Errors"])


def _query(identifier: str, name: str, metric: Metric) -> dict[str, Any]:
    return {
        "Id": identifier,
        "MetricStat": {
            "Metric": {"Namespace": "AWS/Lambda", "MetricName": name, "Dimensions": metric.dimensions()},
            "Period": PERIOD,
            "Stat": "Sum",
        },
    }


def _chunks(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
