"""What README.md says of publishing and rolling out: its templates, its policies and its commands."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from samtranslator.public.translator import ManagedPolicyLoader
from samtranslator.translator.transform import transform
from support.checkout import ROOT
from support.cloud import NAME, OURS, REGION, Cloud
from support.lambda_standin import Call

from tools.packaging import manifest

MANIFEST = manifest.load(ROOT / manifest.FILE_NAME)
SECTION = (ROOT / "README.md").read_text().partition("## Publish and roll out\n")[2].partition("\n## ")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


COMMANDS = ("publish", "verify", "report", "rollout", "attach", "rollback", "prune", "doctor")
TEMPLATES = blocks("yaml")
PUBLISHING, ROLLING = (json.loads(text) for text in blocks("json"))


class Loader(yaml.SafeLoader):
    """Reads the short forms of CloudFormation's functions."""


for tag, name in {"!Ref": "Ref", "!GetAtt": "Fn::GetAtt"}.items():
    Loader.add_constructor(tag, lambda loader, node, name=name: {name: loader.construct_scalar(node)})


def resources(template: str, kind: str, translated: bool = True) -> list[dict[str, Any]]:
    content = yaml.load(template, Loader)
    if translated:
        for resource in content["Resources"].values():
            for key in {"CodeUri", "ContentUri"} & set(resource["Properties"]):
                resource["Properties"][key] = "s3://bucket/key"  # as packaging makes it
        content = transform(content, {"RuntimeLayer": f"{OURS}:1"}, ManagedPolicyLoader(None))
    return [each for each in content["Resources"].values() if each["Type"] == kind]


# Infrastructure as code


@pytest.fixture(autouse=True)
def region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)  # for the translator of SAM


@pytest.mark.parametrize("number", range(len(TEMPLATES)))
def test_cfn_lint_finds_nothing_in_the_templates(tmp_path: Path, number: int) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATES[number])
    result = subprocess.run([Path(sys.executable).with_name("cfn-lint"), path], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_sam_function_streams_through_a_url_with_both_permissions() -> None:
    template = TEMPLATES[0]
    (function,) = resources(template, "AWS::Lambda::Function")
    assert function["Properties"]["Runtime"] in MANIFEST.compatible_runtimes
    assert function["Properties"]["Layers"] == [{"Ref": "RuntimeLayer"}]
    assert function["Properties"]["Environment"]["Variables"] == {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"}
    (url,) = resources(template, "AWS::Lambda::Url")
    assert (url["Properties"]["AuthType"], url["Properties"]["InvokeMode"]) == ("NONE", "RESPONSE_STREAM")
    permissions = [each["Properties"] for each in resources(template, "AWS::Lambda::Permission")]
    assert sorted(each["Action"] for each in permissions) == ["lambda:InvokeFunction", "lambda:InvokeFunctionUrl"]
    assert any(each.get("InvokedViaFunctionUrl") for each in permissions)


def test_the_sam_layer_is_that_of_the_manifest_and_is_kept() -> None:
    (layer,) = resources(TEMPLATES[1], "AWS::Lambda::LayerVersion")
    held = layer["Properties"]
    assert (held["LayerName"], held["LicenseInfo"]) == (MANIFEST.name, MANIFEST.license)
    assert tuple(held["CompatibleRuntimes"]) == MANIFEST.compatible_runtimes
    assert tuple(held["CompatibleArchitectures"]) == MANIFEST.compatible_architectures
    (permission,) = resources(TEMPLATES[1], "AWS::Lambda::LayerVersionPermission")
    assert layer["DeletionPolicy"] == permission["DeletionPolicy"] == permission["UpdateReplacePolicy"] == "Retain"


def test_the_cdk_stack_streams() -> None:
    (source,) = blocks("python")
    ast.parse(source)
    assert "InvokeMode.RESPONSE_STREAM" in source and "from_layer_version_arn" in source
    assert '"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"' in source


def test_the_terraform_function_streams_through_a_url_with_both_permissions() -> None:
    (source,) = blocks("hcl")
    assert source.count("{") == source.count("}")
    assert re.findall(r'action +ions? *= *"([^"]+)"|action += "([^"]+)"', source) == [
        ("", "lambda:InvokeFunctionUrl"),
        ("", "lambda:InvokeFunction"),
    ]
    for setting in ("RESPONSE_STREAM", "invoked_via_function_url = true", 'AWS_LAMBDA_EXEC_WRAPPER = "/opt/bootstrap"'):
        assert setting in source
    assert "skip_destroy = true" in SECTION


# Rights


def actions(policy: dict[str, Any]) -> set[str]:
    listed = (statement["Action"] for statement in policy["Statement"])
    return {action for each in listed for action in ([each] if isinstance(each, str) else each)}


def used(calls: list[Call]) -> set[str]:
    renamed = {"Invoke": "InvokeFunction"}
    return {f"lambda:{renamed.get(call.operation, call.operation)}" for call in calls if call.service == "lambda"}


def test_the_policies_allow_what_is_called_and_no_more_of_lambda(cloud: Cloud) -> None:
    cloud.layer(count=2)
    cloud.done("publish", "--public", "--ssm", "streaming-runtime")
    cloud.done("verify")
    cloud.done("prune", "--keep", "1", "--yes")
    assert used(cloud.standin.calls) == {each for each in actions(PUBLISHING) if each.startswith("lambda:")}
    cloud.function("hello", [f"{OURS}:3"])
    cloud.layer(count=1)
    client = cloud.client()
    client.publish_version(FunctionName="hello")
    client.create_alias(FunctionName="hello", Name="live", FunctionVersion="1")
    client.create_function_url_config(FunctionName="hello", AuthType="NONE", InvokeMode="RESPONSE_STREAM")
    cloud.standin.calls.clear()
    words = ["rollout", "--all-using", "--to", "4", "--yes", "--probe", "{}", "--publish-alias", "live"]
    cloud.done(*words, "--journal", "journal")
    cloud.done("rollback", "journal", "--yes")
    cloud.done("report")
    cloud.run("doctor", "hello")
    # That tags are read needs a right of its own, and a list of URLs may not be there.
    beyond = {"lambda:ListTags", "lambda:GetFunctionUrlConfig", "lambda:ListLayerVersions"}
    assert used(cloud.standin.calls) | beyond == {each for each in actions(ROLLING) if each.startswith("lambda:")}


# Commands


def commands() -> Iterator[list[str]]:
    for line in "\n".join(blocks("console")).splitlines():
        for part in line.removeprefix("$ ").split("&&"):
            yield shlex.split(part)


def test_the_page_has_five_commands_that_are_understood() -> None:
    lines = "\n".join(blocks("console")).splitlines()
    assert len(lines) == 5 and all(line.startswith("$ ./build.sh") for line in lines)
    for _, *words in commands():
        if words:
            assert set(re.findall(r"--[a-z-]+", " ".join(words))) <= flags(words[0])


def test_every_flag_that_is_told_of_is_there() -> None:
    prose = re.sub(r"^```(?:yaml|python|hcl|json)\n.*?^```$", "", SECTION, flags=re.MULTILINE | re.DOTALL)
    told = set(re.findall(r"(?<![\w-])--[a-z-]+", prose)) - {"--parameter-overrides"}
    known = set().union(*map(flags, COMMANDS))
    assert told <= known
    spelled = {
        "--region", "--all-regions", "--share", "--organization", "--public", "--variant", "--dry-run", "--ssm",
        "--all-using", "--match", "--tag", "--to", "--canary", "--probe", "--publish-alias", "--yes", "--journal",
        "--max-failures", "--resume", "--json", "--keep",
    }  # fmt: skip
    assert spelled <= told


def flags(command: str) -> set[str]:
    result = subprocess.run([sys.executable, "-m", "tools.fleet", command, "--help"], cwd=ROOT, capture_output=True)
    return set(re.findall(r"--[a-z-]+", result.stdout.decode()))


# The AWS CLI

AWS = Path(sys.executable).with_name("aws")
needs_the_cli = pytest.mark.skipif(not AWS.exists(), reason="there is no AWS CLI here")


def aws(cloud: Cloud, *words: str) -> str:
    result = subprocess.run(
        [AWS, *words], env=cloud.environment, cwd=cloud.checkout.root, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@needs_the_cli
def test_the_commands_that_mend_do_mend(cloud: Cloud) -> None:
    cloud.done("publish")
    cloud.function("hello", [f"{OURS}:1"], Environment={"Variables": {}})
    cloud.client().create_function_url_config(FunctionName="hello", AuthType="NONE", InvokeMode="BUFFERED")
    told = cloud.json("doctor", "hello", status=1)["findings"]
    assert len(told) == 4
    for finding in told:
        _, *words = shlex.split(finding["mend"])
        aws(cloud, *words)
    assert "nothing found" in cloud.done("doctor", "hello")


@needs_the_cli
def test_the_cli_sees_what_was_published(cloud: Cloud) -> None:
    cloud.done("publish", "--public")
    (entry,) = cloud.manifest()["published"]
    held = json.loads(aws(cloud, "lambda", "get-layer-version", "--layer-name", NAME, "--version-number", "1"))
    assert held["LayerVersionArn"] == entry["arn"] and held["Content"]["CodeSize"] == entry["size"]
    policy = aws(cloud, "lambda", "get-layer-version-policy", "--layer-name", NAME, "--version-number", "1")
    assert json.loads(json.loads(policy)["Policy"])["Statement"][0]["Principal"] == "*"
