"""The AWS CLI with the fleet commands: it runs the fixes of `doctor`, and reads what `publish` has published."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.cloud import NAME, OURS, Cloud

AWS = Path(sys.executable).with_name("aws")
pytestmark = pytest.mark.skipif(not AWS.exists(), reason="the AWS CLI is not installed")


def aws(cloud: Cloud, *words: str) -> str:
    result = subprocess.run(
        [AWS, *words], env=cloud.environment, cwd=cloud.checkout.root, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.long
def test_the_fixes_of_doctor_fix_the_function(cloud: Cloud) -> None:
    cloud.done("publish")
    cloud.function("hello", [f"{OURS}:1"], Environment={"Variables": {}})
    cloud.client().create_function_url_config(FunctionName="hello", AuthType="NONE", InvokeMode="BUFFERED")
    findings = cloud.json("doctor", "hello", status=1)["findings"]
    assert len(findings) == 4
    for finding in findings:
        program, *words = shlex.split(finding["fix"])
        if program == "aws":
            aws(cloud, *words)
        else:
            cloud.done(*words, "--yes")
    assert "nothing found" in cloud.done("doctor", "hello")


@pytest.mark.long
def test_the_cli_reads_the_published_version_and_its_policy(cloud: Cloud) -> None:
    cloud.done("publish", "--public")
    (entry,) = cloud.manifest()["published"]
    version = json.loads(aws(cloud, "lambda", "get-layer-version", "--layer-name", NAME, "--version-number", "1"))
    assert version["LayerVersionArn"] == entry["arn"] and version["Content"]["CodeSize"] == entry["size"]
    policy = aws(cloud, "lambda", "get-layer-version-policy", "--layer-name", NAME, "--version-number", "1")
    assert json.loads(json.loads(policy)["Policy"])["Statement"][0]["Principal"] == "*"
