"""The templates of docs/deploy/ and the policies of docs/iam.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from samtranslator.public.translator import ManagedPolicyLoader
from samtranslator.translator.transform import transform
from support import documents
from support.checkout import ROOT
from support.cloud import ACCOUNT, FOREIGN_ACCOUNT, FOREIGN_KEY, HANDLER, OURS, REGION, Cloud
from support.documents import Block
from support.lambda_standin import Call

from tools.packaging import manifest

MANIFEST = manifest.load(ROOT / manifest.FILE_NAME)
TEMPLATES = documents.blocks("yaml")
FUNCTION, LAYER = (block.text for block in documents.blocks("yaml", ["docs/deploy/sam.md"]))
PUBLISH_POLICY, ROLLOUT_POLICY = (json.loads(block.text) for block in documents.blocks("json", ["docs/iam.md"]))


class Loader(yaml.SafeLoader):
    """Reads the short forms of CloudFormation's functions."""


for tag, name in {"!Ref": "Ref", "!GetAtt": "Fn::GetAtt"}.items():
    Loader.add_constructor(tag, lambda loader, node, name=name: {name: loader.construct_scalar(node)})


def resources(template: str, kind: str) -> list[dict[str, Any]]:
    """Return the resources of a type in the CloudFormation template that SAM makes of `template`."""
    content = yaml.load(template, Loader)
    for resource in content["Resources"].values():
        for key in {"CodeUri", "ContentUri"} & set(resource["Properties"]):
            resource["Properties"][key] = "s3://bucket/key"  # as `sam package` does
    content = transform(content, {"RuntimeLayer": f"{OURS}:1"}, ManagedPolicyLoader(None))
    return [each for each in content["Resources"].values() if each["Type"] == kind]


@pytest.fixture(autouse=True)
def region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)  # the SAM translator reads it


# Templates


@pytest.mark.parametrize("block", TEMPLATES, ids=str)
def test_cfn_lint_finds_nothing_in_the_templates(tmp_path: Path, block: Block) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(block.text)
    result = subprocess.run([Path(sys.executable).with_name("cfn-lint"), path], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_sam_function_streams_through_a_url_with_both_permissions() -> None:
    (function,) = resources(FUNCTION, "AWS::Lambda::Function")
    assert function["Properties"]["Runtime"] in MANIFEST.compatible_runtimes
    assert function["Properties"]["Layers"] == [{"Ref": "RuntimeLayer"}]
    assert function["Properties"]["Environment"]["Variables"] == {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"}
    (url,) = resources(FUNCTION, "AWS::Lambda::Url")
    assert (url["Properties"]["AuthType"], url["Properties"]["InvokeMode"]) == ("NONE", "RESPONSE_STREAM")
    permissions = [each["Properties"] for each in resources(FUNCTION, "AWS::Lambda::Permission")]
    assert sorted(each["Action"] for each in permissions) == ["lambda:InvokeFunction", "lambda:InvokeFunctionUrl"]
    assert any(each.get("InvokedViaFunctionUrl") for each in permissions)


def test_the_sam_layer_matches_the_manifest_and_is_retained() -> None:
    (layer,) = resources(LAYER, "AWS::Lambda::LayerVersion")
    properties = layer["Properties"]
    assert (properties["LayerName"], properties["LicenseInfo"]) == (MANIFEST.name, MANIFEST.license)
    assert tuple(properties["CompatibleRuntimes"]) == MANIFEST.compatible_runtimes
    assert tuple(properties["CompatibleArchitectures"]) == MANIFEST.compatible_architectures
    (permission,) = resources(LAYER, "AWS::Lambda::LayerVersionPermission")
    assert layer["DeletionPolicy"] == permission["DeletionPolicy"] == permission["UpdateReplacePolicy"] == "Retain"


def test_the_cdk_stack_streams() -> None:
    (block,) = documents.blocks("python", ["docs/deploy/cdk.md"])
    assert "InvokeMode.RESPONSE_STREAM" in block.text and "from_layer_version_arn" in block.text
    assert '"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"' in block.text


def test_the_terraform_function_streams_through_a_url_with_both_permissions() -> None:
    function, lifecycle = (block.text for block in documents.blocks("hcl", ["docs/deploy/terraform.md"]))
    assert function.count("{") == function.count("}") and lifecycle.count("{") == lifecycle.count("}")
    assert re.findall(r'action +ions? *= *"([^"]+)"|action += "([^"]+)"', function) == [
        ("", "lambda:InvokeFunctionUrl"),
        ("", "lambda:InvokeFunction"),
    ]
    for setting in ("RESPONSE_STREAM", "invoked_via_function_url = true", 'AWS_LAMBDA_EXEC_WRAPPER = "/opt/bootstrap"'):
        assert setting in function
    assert "`skip_destroy = true`" in documents.source("docs/deploy/terraform.md")


# Policies


def actions(policy: dict[str, Any]) -> set[str]:
    listed = (statement["Action"] for statement in policy["Statement"])
    return {action for each in listed for action in ([each] if isinstance(each, str) else each)}


def used(calls: list[Call]) -> set[str]:
    renamed = {"Invoke": "InvokeFunction"}
    return {f"lambda:{renamed.get(call.operation, call.operation)}" for call in calls if call.service == "lambda"}


def lambda_actions(policy: dict[str, Any]) -> set[str]:
    return {action for action in actions(policy) if action.startswith("lambda:")}


def test_the_publish_policy_allows_exactly_the_lambda_actions_that_are_used(cloud: Cloud) -> None:
    cloud.layer(count=2)
    cloud.done("publish", "--public", "--ssm", "streaming-runtime")
    cloud.done("verify")
    cloud.done("prune", "--keep", "1", "--min-age", "0", "--yes")
    assert used(cloud.standin.calls) == lambda_actions(PUBLISH_POLICY)


def test_the_rollout_policy_allows_exactly_the_lambda_actions_that_are_used(cloud: Cloud) -> None:
    cloud.done("publish")
    cloud.layer(count=3)
    cloud.function("hello", [f"{OURS}:3"])
    client = cloud.client()
    client.publish_version(FunctionName="hello")
    client.create_alias(FunctionName="hello", Name="live", FunctionVersion="1")
    client.create_function_url_config(FunctionName="hello", AuthType="NONE", InvokeMode="RESPONSE_STREAM")
    cloud.standin.calls.clear()
    alarm = {"Namespace": "AWS/Lambda", "MetricName": "Errors", "Statistic": "Sum", "Period": 60, "Threshold": 1}
    alarm |= {"EvaluationPeriods": 1, "ComparisonOperator": "GreaterThanThreshold"}
    cloud.client("cloudwatch").put_metric_alarm(AlarmName="any", **alarm)
    cloud.standin.calls.clear()
    words = ["rollout", "--all-using", "--to", "4", "--yes", "--probe", "{}", "--publish-alias", "live"]
    gates = ["--shift", "10%", "--alarm", "any", "--max-error-rate", "5"]
    cloud.done(*words, *gates, "--journal", "journal")
    metrics = {call.operation for call in cloud.standin.calls if call.service == "monitoring"}
    assert {f"cloudwatch:{name}" for name in metrics} == {
        action for action in actions(ROLLOUT_POLICY) if action.startswith("cloudwatch:")
    }
    cloud.done("rollback", "journal", "--yes")
    cloud.done("report")
    cloud.run("doctor", "hello")
    cloud.client("s3").create_bucket(Bucket="team", CreateBucketConfiguration={"LocationConstraint": REGION})
    cloud.done("rollout", "--all-using", "--to", "3", "--yes", "--journal", "s3://team/journals/")
    cloud.run("rollout", "--resume", "s3://team/journals/")  # none is unfinished
    objects = {call.operation for call in cloud.standin.calls if call.service == "s3" and call.name}
    listed = {"ListObjectsV2": "ListBucket"}
    used_objects = {f"s3:{listed.get(name, name)}" for name in objects | {"ListObjectsV2"}}
    assert used_objects == {action for action in actions(ROLLOUT_POLICY) if action.startswith("s3:")}
    # The stand-in returns tags with GetFunction, has one URL for each function, and the version is given by number.
    unused = {"lambda:ListTags", "lambda:GetFunctionUrlConfig", "lambda:ListLayerVersions"}
    read_code_signing(cloud)
    assert used(cloud.standin.calls) | unused == lambda_actions(ROLLOUT_POLICY)


def read_code_signing(cloud: Cloud) -> None:
    """Find a function whose layers must be signed: by the lists, and without them by the function."""
    signing = {
        action.removeprefix("lambda:")
        for statement in ROLLOUT_POLICY["Statement"]
        if statement["Sid"] == "CodeSigning"
        for action in statement["Action"]
    }
    cloud.function("signed", [f"{OURS}:3"])
    cloud.standin.calls.pop()  # CreateFunction
    cloud.standin.faults.signing.add("signed")
    start = len(cloud.standin.calls)
    for denied in ("ListCodeSigningConfigs", "none"):
        cloud.standin.faults.on = lambda call, denied=denied: 403 if call.operation == denied else None
        plan = cloud.json("rollout", "hello", "signed", "--to", "4", "--dry-run")
        (step,) = (each for each in plan["functions"] if each["name"] == "signed")
        assert step["verdict"] == "skipped" and "code signing" in step["reason"]
    assert {call.operation for call in cloud.standin.calls[start:]} & signing == signing


def test_own_credentials_need_only_the_bucket_and_the_roles(cloud: Cloud) -> None:
    """With `--assume-role`, everything else is called with the credentials of the role."""
    role = f"arn:aws:iam::{FOREIGN_ACCOUNT}:role/ROLE"
    client = cloud.client(key=FOREIGN_KEY)
    runs = cloud.client("iam", key=FOREIGN_KEY).create_role(RoleName="runs", AssumeRolePolicyDocument="{}")
    arns = cloud.layer(count=2, key=FOREIGN_KEY)
    options = {"Runtime": "python3.13", "Handler": "lambda_function.handler", "Role": runs["Role"]["Arn"]}
    client.create_function(FunctionName="f", Layers=arns[:1], Code={"ZipFile": HANDLER}, **options)
    cloud.client("s3").create_bucket(Bucket="team", CreateBucketConfiguration={"LocationConstraint": REGION})
    cloud.standin.calls.clear()
    words = ["--to", "2", "--yes", "--max-error-rate", "5", "--canary", "1", "--assume-role", role]
    cloud.done("rollout", "f", *words, "--journal", "s3://team/journals/")
    cloud.done("report", "--assume-role", role)
    own = {(call.service, call.operation) for call in cloud.standin.calls if call.account == ACCOUNT}
    assert {service for service, _ in own} == {"sts", "s3"}
    assert {name for service, name in own if service == "sts"} == {"AssumeRole"}
    for policy in (PUBLISH_POLICY, ROLLOUT_POLICY):
        (statement,) = (each for each in policy["Statement"] if each["Sid"] == "AssumeRole")
        assert statement["Action"] == "sts:AssumeRole" and statement["Resource"].endswith(":role/ROLE")


def test_own_credentials_need_only_the_roles_to_publish_verify_and_prune(cloud: Cloud) -> None:
    role = f"arn:aws:iam::{FOREIGN_ACCOUNT}:role/ROLE"
    cloud.layer(count=2, key=FOREIGN_KEY)
    cloud.standin.calls.clear()
    cloud.done("publish", "--public", "--ssm", "streaming-runtime", "--assume-role", role)
    cloud.done("verify", "--assume-role", role)
    cloud.done("prune", "--keep", "1", "--min-age", "0", "--yes", "--assume-role", role)
    own = {(call.service, call.operation) for call in cloud.standin.calls if call.account == ACCOUNT}
    assert own == {("sts", "AssumeRole")}
    assert used([call for call in cloud.standin.calls if call.account != ACCOUNT]) == lambda_actions(PUBLISH_POLICY)
