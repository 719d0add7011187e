"""Calls to AWS: their pace, their errors, and commands that make none."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    NoCredentialsError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from support.clock import Clock
from support.cloud import HANDLER, OURS, Cloud
from support.lambda_standin import Call

from tools.fleet.aws import errors
from tools.fleet.aws.errors import translated
from tools.fleet.aws.layers import download
from tools.fleet.aws.pace import Pace, Pacer

THROTTLED = {"ResponseMetadata": {"HTTPStatusCode": 429}}


# --- The pacer


def test_requests_are_an_interval_apart_and_a_429_delays_all_threads() -> None:
    clock = Clock()
    pacer = Pacer(Pace(sleep=clock.sleep, clock=clock))
    starts = []
    for _ in range(3):
        pacer.wait("before-send.lambda.UpdateAlias")
        starts.append(clock.now)
    assert starts == [100.0, 100.125, 100.25]
    pacer.record("response-received.lambda.UpdateAlias", parsed_response=THROTTLED)
    other = threading.Thread(target=pacer.wait, args=["before-send.lambda.UpdateAlias"])
    other.start()
    other.join()
    assert clock.now == 101.25


def test_a_429_does_not_shorten_the_interval() -> None:
    clock = Clock()
    pacer = Pacer(Pace(sleep=clock.sleep, clock=clock, between_requests=5))
    pacer.wait("before-send.lambda.UpdateAlias")
    pacer.record("response-received.lambda.UpdateAlias", parsed_response=THROTTLED)
    pacer.wait("before-send.lambda.UpdateAlias")
    assert clock.now == 105


def test_a_thread_waits_while_another_one_sleeps() -> None:
    clock = Clock()
    waited = []

    def sleep(seconds: float) -> None:
        if not waited:  # the first thread sleeps
            second = threading.Thread(target=pacer.wait, args=["before-send.lambda.UpdateAlias"])
            waited.append(second)
            second.start()
            second.join(0.3)
            assert second.is_alive()
        clock.sleep(seconds)

    pacer = Pacer(Pace(sleep=sleep, clock=clock))
    for _ in range(2):
        pacer.wait("before-send.lambda.UpdateAlias")
    waited[0].join()
    assert clock.now == 100.25


def test_a_late_thread_does_not_shorten_the_interval_of_the_next() -> None:
    clock = Clock()
    late = iter([0.5])
    pacer = Pacer(Pace(sleep=lambda seconds: clock.sleep(seconds + next(late, 0)), clock=clock))
    starts = []
    for _ in range(3):
        pacer.wait("before-send.lambda.UpdateAlias")
        starts.append(clock.now)
    assert starts == [100.0, 100.625, 100.75]


@pytest.mark.parametrize(("rate", "alias_rate"), [(8, 14), (2, 3.5), (15, 15)], ids=["default", "slower", "the quota"])
def test_aliases_are_read_faster_than_functions_are_changed(rate: float, alias_rate: float) -> None:
    clock = Clock()
    pacer = Pacer(Pace(between_requests=1 / rate, sleep=clock.sleep, clock=clock))
    starts = []
    for operation in ("GetAlias", "GetAlias", "UpdateAlias", "GetAlias"):
        pacer.wait(f"before-send.lambda.{operation}")
        starts.append(clock.now - 100)
    expected = [0, 1 / alias_rate, 2 / alias_rate, 2 / alias_rate + 1 / rate]
    assert starts == pytest.approx(expected)


def test_a_throttled_roll_out_pauses_before_its_next_request(cloud: Cloud) -> None:
    cloud.layer(count=2)
    cloud.function("f", [f"{OURS}:1"])
    cloud.standin.calls.clear()
    pauses: list[float] = []
    clock = Clock()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.sleep(seconds)

    first: list[Call] = []

    def throttle(call: Call) -> int | None:
        if call.operation == "UpdateFunctionConfiguration" and not first:
            first.append(call)
            return 429
        return None

    cloud.standin.faults.on = throttle
    pace = Pace(between_requests=0, after_throttling=7, sleep=sleep, clock=clock)
    assert cloud.run("rollout", "f", "--to", "2", "--yes", pace=pace).returncode == 0
    assert sum(pauses) >= 7


# --- Errors


def response(status: int, code: str, message: str = "") -> ClientError:
    error = {"Code": code, "Message": message}
    return ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, "AnOperation")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (response(404, "ResourceNotFoundException"), errors.NotFound),
        (response(409, "ResourceConflictException"), errors.Conflict),
        (response(412, "PreconditionFailedException"), errors.PreconditionFailed),
        (response(429, "TooManyRequestsException"), errors.Throttled),
        (response(403, "AccessDeniedException"), errors.AccessDenied),
        (response(403, "ExpiredTokenException"), errors.CredentialsExpired),
        (response(403, "UnrecognizedClientException"), errors.CredentialsError),
        (response(500, "ServiceException"), errors.OutcomeUnknown),
        (response(400, "InvalidParameterValueException"), errors.AwsError),
        (response(403, "InvalidAccessKeyId"), errors.CredentialsError),  # of Amazon S3
        (response(400, "InvalidToken"), errors.CredentialsError),
        (NoCredentialsError(), errors.CredentialsError),
        (UnauthorizedSSOTokenError(), errors.CredentialsExpired),
        (TokenRetrievalError(provider="sso", error_msg="Token has expired"), errors.CredentialsExpired),
        (ConnectionClosedError(endpoint_url="http://127.0.0.1"), errors.OutcomeUnknown),
    ],
)
def test_each_error_of_boto3_has_its_exception(error: Exception, kind: type[errors.AwsError]) -> None:
    with pytest.raises(errors.AwsError) as caught, translated():
        raise error
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (429, "TooManyRequestsException", ("TooManyRequestsException", True)),
        (429, "", ("429", True)),
        (400, "ThrottlingException", ("ThrottlingException", True)),
        (500, "ServiceException", ("ServiceException", False)),
        (502, "", ("502", False)),
        (499, "Other", ("", False)),
    ],
)
def test_a_failed_response_has_a_reason_and_no_effect_if_it_was_throttled(
    status: int, code: str, expected: tuple[str, bool]
) -> None:
    assert errors.failure((None, response(status, code).response), None) == expected


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
        ("InvalidSignatureException", "Signature expired: 20261129T000000Z is now earlier than 20261129T001000Z"),
        ("SignatureDoesNotMatch", "Signature not yet current: 20261129T003000Z is still later than 20261129T001500Z"),
    ],
)
def test_a_wrong_clock_is_named_and_is_the_fault_of_no_function(code: str, message: str) -> None:
    with pytest.raises(errors.Interruption) as caught, translated():
        raise response(403, code, message)
    assert str(caught.value) == f"the clock of this machine is wrong ({code}): set it, for example with NTP"


def test_other_exceptions_are_not_translated() -> None:
    with pytest.raises(ZeroDivisionError), translated():
        raise ZeroDivisionError


# --- Secrets


def test_messages_contain_neither_the_signature_nor_the_password_of_a_url(cloud: Cloud) -> None:
    with pytest.raises(Exception, match="cannot be downloaded") as caught:
        download("s3://user:password@bucket/key?X-Amz-Signature=secret")
    assert "password" not in str(caught.value) and "secret" not in str(caught.value)
    message = cloud.refusal("report", AWS_ENDPOINT_URL="http://user:password@127.0.0.1:1/?key=secret")
    assert "127.0.0.1:1" in message
    assert "password" not in message and "secret" not in message


def test_a_region_that_fails_is_reported_without_secrets(cloud: Cloud) -> None:
    cloud.standin.faults.on = lambda call: "before" if call.service == "lambda" else None
    url = cloud.standin.url.replace("http://", "http://user:password@")
    result = cloud.run("publish", AWS_ENDPOINT_URL=url)
    assert result.returncode == 1
    assert "password" not in result.stdout + result.stderr


# --- Aliases


def test_the_weights_of_an_alias_are_cleared_and_restored(cloud: Cloud, tmp_path: Path) -> None:
    """A weighted alias would otherwise keep sending a part of the requests to an old version."""
    cloud.layer(count=2)
    cloud.function("f", [f"{OURS}:1"])
    client = cloud.client()
    first = client.publish_version(FunctionName="f")["Version"]
    client.update_function_configuration(FunctionName="f", Layers=[])
    client.get_function(FunctionName="f")
    client.get_function(FunctionName="f")
    second = client.publish_version(FunctionName="f")["Version"]
    client.update_function_configuration(FunctionName="f", Layers=[f"{OURS}:1"])
    client.create_alias(
        FunctionName="f",
        Name="live",
        FunctionVersion=first,
        RoutingConfig={"AdditionalVersionWeights": {second: 0.25}},
    )

    def weights() -> dict[str, float]:
        routing = client.get_alias(FunctionName="f", Name="live").get("RoutingConfig") or {}
        return routing.get("AdditionalVersionWeights", {})

    assert weights() == {second: 0.25}
    journal = tmp_path / "journal"
    words = ["rollout", "f", "--to", "2", "--yes", "--publish-alias", "live", "--include-weighted"]
    cloud.done(*words, "--journal", journal)
    assert weights() == {}
    cloud.done("rollback", journal, "--yes")
    assert client.get_alias(FunctionName="f", Name="live")["FunctionVersion"] == first
    assert weights() == {second: 0.25}


# --- Without boto3


@pytest.mark.parametrize("words", [["rollout", "--help"], ["publish", "--help"], ["doctor", "function.zip"]])
def test_commands_that_do_not_call_aws_work_without_boto3(cloud: Cloud, words: list[str]) -> None:
    (cloud.checkout.root / "function.zip").write_bytes(HANDLER)
    result = without_boto3(cloud, *words)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_command_that_needs_boto3_names_the_fix(cloud: Cloud) -> None:
    result = without_boto3(cloud, "report")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "build.sh: error: boto3 is not installed: run the command through ./build.sh, which installs it\n"
    )


def without_boto3(cloud: Cloud, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command with an interpreter that has no installed packages."""
    return subprocess.run(
        [sys.executable, "-P", "-S", "-m", "tools.fleet", *words],
        cwd=cloud.checkout.root,
        env=cloud.environment,
        capture_output=True,
        text=True,
    )


def test_a_download_whose_url_has_expired_gets_another(cloud: Cloud) -> None:
    cloud.function("f", [])
    location = cloud.client().get_function(FunctionName="f")["Code"]["Location"]
    expired = f"{cloud.standin.url}/zip/expired/1/2/3"
    assert download(expired, lambda: location) == HANDLER
    with pytest.raises(Exception, match=r"cannot be downloaded \(status 403\)"):
        download(expired)
