"""`doctor` and `report`: functions on capacity providers (Lambda Managed Instances)."""

from __future__ import annotations

import pytest
from support.cloud import OURS, Cloud

from tools.fleet.aws.models import Function
from tools.fleet.checks.capacity_provider import check_capacity_provider, is_offered

ARN = "arn:aws:lambda:eu-west-1:123456789012:capacity-provider:instances"


def function(runtime: str, variables: dict[str, str] | None = None, provider: str = ARN) -> Function:
    configuration = {
        "FunctionName": "f",
        "FunctionArn": "arn:aws:lambda:eu-west-1:123456789012:function:f",
        "Runtime": runtime,
        "Environment": {"Variables": variables or {}},
    }
    if provider:
        instances = {"CapacityProviderArn": provider, "PerExecutionEnvironmentMaxConcurrency": 64}
        configuration["CapacityProviderConfig"] = {"LambdaManagedInstancesCapacityProviderConfig": instances}
    return Function.of(configuration)


@pytest.mark.parametrize(
    ("runtime", "offered"),
    [
        ("python3.12", False),
        ("python3.13", True),
        ("python3.14", True),
        ("provided.al2", False),
        ("provided.al2023", True),
    ],
)
def test_the_runtimes_that_managed_instances_offer(runtime: str, offered: bool) -> None:
    assert is_offered(runtime) is offered
    findings = list(check_capacity_provider(function(runtime)))
    assert [runtime in finding.what for finding in findings] == [True] * (not offered)


def test_the_capacity_provider_is_read_from_the_configuration() -> None:
    assert function("python3.13").capacity_provider == ARN
    assert function("python3.13", provider="").capacity_provider == ""


def test_an_unknown_kind_of_concurrency_is_found() -> None:
    (finding,) = check_capacity_provider(function("python3.13", {"STREAMING_RUNTIME_CONCURRENCY": "threads"}))
    assert "'threads'" in finding.what and "Runtime.InvalidConcurrency" in finding.why
    assert not list(check_capacity_provider(function("python3.13", {"STREAMING_RUNTIME_CONCURRENCY": "async"})))


def test_variables_of_managed_instances_have_no_effect_on_demand() -> None:
    variables = {"STREAMING_RUNTIME_PRELOAD": "1"}
    (finding,) = check_capacity_provider(function("python3.13", variables, provider=""))
    assert "STREAMING_RUNTIME_PRELOAD" in finding.what and "no capacity provider" in finding.what


def test_doctor_and_report_read_the_capacity_provider_of_deployed_functions(cloud: Cloud) -> None:
    cloud.done("publish")
    instances = {"CapacityProviderArn": ARN, "PerExecutionEnvironmentMaxConcurrency": 64}
    on_instances = {"CapacityProviderConfig": {"LambdaManagedInstancesCapacityProviderConfig": instances}}
    wrapper = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"}
    threads = {"Environment": {"Variables": {**wrapper, "STREAMING_RUNTIME_CONCURRENCY": "threads"}}}
    preload = {"Environment": {"Variables": {**wrapper, "STREAMING_RUNTIME_PRELOAD": "1"}}}
    cloud.function("good", [f"{OURS}:1"], **on_instances)
    cloud.function("old", [f"{OURS}:1"], Runtime="python3.11", **on_instances, **threads)
    cloud.function("on-demand", [f"{OURS}:1"], **preload)

    found = {}
    for name in ("good", "old", "on-demand"):
        document = cloud.json("doctor", name, status=0 if name == "good" else 1)
        found[name] = [finding["what"] for finding in document["findings"]]
    assert found == {
        "good": [],
        "old": [
            "it has a capacity provider and the runtime python3.11",
            "STREAMING_RUNTIME_CONCURRENCY is 'threads'",
        ],
        "on-demand": ["STREAMING_RUNTIME_PRELOAD is set, but the function has no capacity provider"],
    }

    rows = {row["function"]: row for row in cloud.json("report")["functions"]}
    assert {name: row["capacityProvider"] for name, row in rows.items()} == {"good": ARN, "old": ARN, "on-demand": None}
    assert {name: row["problems"] for name, row in rows.items() if row["problems"]} == {
        "old": ["not on managed instances"]
    }
    (line,) = [line for line in cloud.done("report").splitlines() if " good " in line]
    assert "python3.13 on managed instances" in line
