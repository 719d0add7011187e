"""The calls of the Lambda API that describe what is served, and those that are not emulated."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from support.emulator import ECHO, WAIT, FunctionFolder, MakeZip, Server, Serving

PREFIX = "arn:aws:lambda:us-east-1:123456789012:function"
MODEL = botocore.session.get_session().get_service_model("lambda")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
EMULATED = {
    "GetFunction",
    "GetFunctionConfiguration",
    "GetFunctionUrlConfig",
    "GetPolicy",
    "Invoke",
    "InvokeWithResponseStream",
    "ListFunctions",
    "ListVersionsByFunction",
}
CORS = {"AllowOrigins": ["https://here.example"], "AllowMethods": ["GET"], "MaxAge": 5}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("functions")
    options = ("--timeout", "12", "--memory", "256", "--env", "STAGE=local", "--cors", json.dumps(CORS))
    with (
        FunctionFolder(folder / "one", ECHO) as one,
        FunctionFolder(folder / "two", ECHO) as two,
        Server(one.path, "--function", two.path, *options) as server,
    ):
        yield server
        assert "START" not in server.errors()  # no call of these tests may invoke a function


def client_of(server: Server) -> Any:
    return boto3.client(
        "lambda",
        endpoint_url=server.url.rstrip("/"),
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=WAIT, parameter_validation=False),
    )


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with contextlib.closing(client_of(server)) as client:
        yield client


def test_get_function_describes_what_is_served(client: Any) -> None:
    response = client.get_function(FunctionName="two")
    configuration = response["Configuration"]
    assert configuration.items() <= client.get_function_configuration(FunctionName="two").items()
    expected = {
        "FunctionName": "two",
        "FunctionArn": f"{PREFIX}:two",
        "Runtime": f"python3.{sys.version_info.minor}",
        "Handler": "lambda_function.handler",
        "Timeout": 12,
        "MemorySize": 256,
        "Version": "$LATEST",
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
        "Environment": {"Variables": {"STAGE": "local"}},
    }
    assert expected.items() <= configuration.items()
    assert configuration["CodeSize"] > 0 and len(base64.b64decode(configuration["CodeSha256"])) == 32
    assert [layer["Arn"].split(":layer:")[1] for layer in configuration["Layers"]] == ["layer:1"]
    assert response["Code"]["Location"].endswith("/two")


def test_a_function_can_be_named_by_arn_and_with_a_qualifier(client: Any) -> None:
    for arguments in ({"FunctionName": f"{PREFIX}:one:live"}, {"FunctionName": "one", "Qualifier": "live"}):
        assert client.get_function_configuration(**arguments)["FunctionArn"] == f"{PREFIX}:one:live"


def test_list_functions_has_pages(client: Any) -> None:
    assert [each["FunctionName"] for each in client.list_functions()["Functions"]] == ["one", "two"]
    pages = client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 1})
    assert [[each["FunctionName"] for each in page["Functions"]] for page in pages] == [["one"], ["two"]]
    with pytest.raises(ClientError, match="MaxItems"):
        client.list_functions(MaxItems=0)


def test_the_only_version_is_latest(client: Any) -> None:
    [version] = client.list_versions_by_function(FunctionName="one")["Versions"]
    assert (version["Version"], version["FunctionArn"]) == ("$LATEST", f"{PREFIX}:one:$LATEST")


def test_the_configuration_of_a_function_url_is_that_of_the_options(server: Server, client: Any) -> None:
    for name, url in (("one", server.url), ("two", f"{server.url}lambda-url/two/")):
        configuration = client.get_function_url_config(FunctionName=name)
        assert (configuration["FunctionUrl"], configuration["FunctionArn"]) == (url, f"{PREFIX}:{name}")
        assert (configuration["AuthType"], configuration["InvokeMode"]) == ("NONE", "RESPONSE_STREAM")
        assert configuration["Cors"] == CORS


def test_the_policy_allows_everyone_to_use_the_function_url(client: Any) -> None:
    policy = json.loads(client.get_policy(FunctionName="one")["Policy"])
    assert {statement["Action"] for statement in policy["Statement"]} == {
        "lambda:InvokeFunctionUrl",
        "lambda:InvokeFunction",
    }
    assert {(each["Principal"], each["Resource"]) for each in policy["Statement"]} == {("*", f"{PREFIX}:one")}


@pytest.mark.parametrize(
    "call",
    [
        "get_function",
        "get_function_configuration",
        "get_function_url_config",
        "get_policy",
        "list_versions_by_function",
    ],
)
def test_an_unknown_function_is_not_found(client: Any, call: str) -> None:
    with pytest.raises(client.exceptions.ResourceNotFoundException) as caught:
        getattr(client, call)(FunctionName="nobody")
    assert caught.value.response["Error"]["Message"] == f"Function not found: {PREFIX}:nobody"


@pytest.mark.parametrize("operation", sorted(set(MODEL.operation_names) - EMULATED))
def test_every_other_call_is_a_well_formed_error(client: Any, operation: str) -> None:
    shape = MODEL.operation_model(operation).input_shape
    values = {"string": "one", "integer": 1, "long": 1, "blob": b"{}", "list": ["x"], "boolean": False}
    arguments = {name: values.get(shape.members[name].type_name, {}) for name in shape.required_members}
    with pytest.raises(ClientError) as caught:
        getattr(client, botocore.xform_name(operation))(**arguments)
    error = caught.value.response
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert error["Error"]["Code"] == "NotImplementedException"
    assert "is not emulated" in error["Error"]["Message"]


def test_code_above_the_limit_of_an_event_is_refused_with_the_same_error(client: Any) -> None:
    with pytest.raises(ClientError, match="is not emulated"):
        client.update_function_code(FunctionName="one", ZipFile=b"x" * 12_000_000)


def test_the_code_of_a_zip_has_the_hash_of_the_zip(make_zip: MakeZip, tmp_path: Path) -> None:
    package = make_zip({"lambda_function.py": ECHO}, name="packed.zip")
    with (
        FunctionFolder(tmp_path / "folder", ECHO) as folder,
        Server(folder.path, "--function", package) as server,
        contextlib.closing(client_of(server)) as client,
    ):
        configuration = client.get_function_configuration(FunctionName="packed")
    data = package.read_bytes()
    assert configuration["CodeSha256"] == base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert configuration["CodeSize"] == len(data)


def test_a_change_of_the_code_changes_its_hash(serving: Serving) -> None:
    server, function = serving(ECHO)
    with contextlib.closing(client_of(server)) as client:
        before = client.get_function_configuration(FunctionName="a-function")
        function.write("# changed\n" + ECHO)
        after = client.get_function_configuration(FunctionName="a-function")
    for key in ("CodeSha256", "RevisionId"):
        assert before[key] != after[key]


def test_paths_of_an_application_stay_requests_to_the_function_url(echo: Server) -> None:
    for path in ("/2024-05-01/news", "/functions/", "/lambda-url/echo/2015-03-31/functions/x", "/2015-03-31"):
        assert echo.get(path).status == 200


@pytest.fixture(scope="module")
def aws() -> Path:
    program = Path(sys.executable).with_name("aws")
    found = program if program.exists() else shutil.which("aws")
    if found is None:
        pytest.skip("the AWS CLI is not installed")
    return Path(found)


@pytest.mark.long
def test_the_aws_cli_waits_lists_and_cannot_delete(aws: Path, server: Server, tmp_path: Path) -> None:
    environment = {
        **CREDENTIALS,
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_EC2_METADATA_DISABLED": "true",
    }

    def call(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [aws, "lambda", *words, "--endpoint-url", server.url.rstrip("/")]
        return subprocess.run(command, capture_output=True, env=environment, timeout=WAIT)

    for waiter in ("function-active-v2", "function-updated"):
        assert call("wait", waiter, "--function-name", "two").returncode == 0
    listed = json.loads(call("list-functions").stdout)
    assert [function["FunctionName"] for function in listed["Functions"]] == ["one", "two"]
    deleted = call("delete-function", "--function-name", "two")
    assert deleted.returncode != 0 and b"is not emulated" in deleted.stderr
