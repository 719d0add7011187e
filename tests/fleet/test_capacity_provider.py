"""`doctor` and `report`: functions on capacity providers (Lambda Managed Instances)."""

from __future__ import annotations

import pytest

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
