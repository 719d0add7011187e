"""One layer version under three functions, as the control plane of AWS Lambda stores it.

moto stands in for the service. It stores its input and responds in the format of the service, so these tests show
that the zips, the manifest's fields and the order of the calls fit the API. They do not show what moto does not do:
it enforces no limit of size, length or number, no layer permission and no revision, every update is complete at
once, the conditions of a policy are kept as given, and no function runs, so nothing here streams.
"""

import base64
import hashlib
import json
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from support.checkout import ROOT, Checkout

MANIFEST = json.loads((ROOT / "layer-manifest.json").read_bytes())
REGION = "eu-central-1"
ENVIRONMENT = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"}
OTHER_FUNCTIONS = {
    "greeting": """\
def handler(event, context):
    yield b"hello"
""",
    "countdown": """\
def handler(event, context):
    for n in (3, 2, 1):
        yield b"%d " % n
""",
}
FUNCTIONS = ("function", *OTHER_FUNCTIONS)
ASSUME_ROLE = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


@dataclass(frozen=True)
class Deployment:
    """The uploaded zips, the published layer version, and a client."""

    zips: dict[str, bytes]
    layer: dict[str, Any]
    client: Any

    def configuration(self, name: str) -> dict[str, Any]:
        return self.client.get_function_configuration(FunctionName=name)


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    checkout = Checkout.at(tmp_path_factory.mktemp("deployment") / "checkout")
    checkout.build()
    for name, source in OTHER_FUNCTIONS.items():
        (checkout.root / name).mkdir()
        (checkout.root / name / "lambda_function.py").write_text(source)
        checkout.build("function", name)
    return {path.stem: path.read_bytes() for path in checkout.dist.glob("*.zip")}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    post(f"{url}/moto-api/reset", {})
    post(f"{url}/moto-api/config", {"lambda": {"use_docker": False}})
    yield url
    post(f"{url}/moto-api/reset", {})
    server.stop()


def post(url: str, body: object) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    direct.open(urllib.request.Request(url, json.dumps(body).encode(), method="POST")).close()


@pytest.fixture(scope="module")
def session() -> Iterator[boto3.Session]:
    """A session without the machine's AWS settings and proxies."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, os.devnull)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield boto3.Session("testing", "testing", region_name=REGION)


@pytest.fixture(scope="module")
def deployment(zips: dict[str, bytes], session: boto3.Session, endpoint: str) -> Iterator[Deployment]:
    iam = session.client("iam", endpoint_url=endpoint)
    role = iam.create_role(RoleName="streaming", AssumeRolePolicyDocument=json.dumps(ASSUME_ROLE))["Role"]
    client = session.client("lambda", endpoint_url=endpoint)
    layer = publish(client, zips["layer-slim"])
    for name in FUNCTIONS:
        client.create_function(
            FunctionName=name,
            Runtime="python3.13",
            Handler="lambda_function.handler",
            Role=role["Arn"],
            Code={"ZipFile": zips[name]},
            Layers=[layer["LayerVersionArn"]],
            Environment={"Variables": ENVIRONMENT},
        )
    open_to_the_public(client, "function")
    yield Deployment(zips, layer, client)
    client.close()
    iam.close()


def publish(client: Any, zipped: bytes) -> dict[str, Any]:
    return client.publish_layer_version(
        LayerName=MANIFEST["name"],
        Description=MANIFEST["description"],
        LicenseInfo=MANIFEST["license"],
        CompatibleRuntimes=MANIFEST["compatibleRuntimes"],
        CompatibleArchitectures=MANIFEST["compatibleArchitectures"],
        Content={"ZipFile": zipped},
    )


def open_to_the_public(client: Any, name: str) -> None:
    # Permissions first: a URL that is created before them responds with 403 until they have propagated.
    # A URL needs both of them: AWS Lambda Developer Guide, urls-auth.
    client.add_permission(
        FunctionName=name,
        StatementId="UrlPolicyInvokeURL",
        Action="lambda:InvokeFunctionUrl",
        Principal="*",
        FunctionUrlAuthType="NONE",
    )
    client.add_permission(
        FunctionName=name,
        StatementId="UrlPolicyInvokeFunction",
        Action="lambda:InvokeFunction",
        Principal="*",
        InvokedViaFunctionUrl=True,
    )
    client.create_function_url_config(FunctionName=name, AuthType="NONE", InvokeMode="RESPONSE_STREAM")


def code_sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


@pytest.mark.long
def test_the_published_layer_has_the_same_bytes(deployment: Deployment) -> None:
    held = deployment.client.get_layer_version(LayerName=MANIFEST["name"], VersionNumber=1)
    zipped = deployment.zips["layer-slim"]
    assert held["Content"]["CodeSha256"] == code_sha256(zipped)
    assert held["Content"]["CodeSize"] == len(zipped)


def test_the_published_layer_has_the_values_of_the_manifest(deployment: Deployment) -> None:
    held = deployment.client.get_layer_version(LayerName=MANIFEST["name"], VersionNumber=1)
    assert held["LayerVersionArn"].endswith(f":layer:{MANIFEST['name']}:1")
    assert held["Description"] == MANIFEST["description"]
    assert held["LicenseInfo"] == MANIFEST["license"]
    assert held["CompatibleRuntimes"] == MANIFEST["compatibleRuntimes"]
    assert held["CompatibleArchitectures"] == MANIFEST["compatibleArchitectures"]


def test_a_rebuilt_layer_has_the_checksum_of_the_published_one(deployment: Deployment, tmp_path: Path) -> None:
    rebuilt = Checkout.at(tmp_path / "rebuilt")
    rebuilt.build(umask=0o077, TZ="Asia/Tokyo")
    published = deployment.layer["Content"]["CodeSha256"]
    assert code_sha256((rebuilt.dist / "layer-slim.zip").read_bytes()) == published


def test_one_layer_version_serves_every_function(deployment: Deployment) -> None:
    versions = deployment.client.list_layer_versions(LayerName=MANIFEST["name"])["LayerVersions"]
    assert [version["LayerVersionArn"] for version in versions] == [deployment.layer["LayerVersionArn"]]
    for name in FUNCTIONS:
        layers = [layer["Arn"] for layer in deployment.configuration(name)["Layers"]]
        assert layers == [deployment.layer["LayerVersionArn"]]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_consists_of_its_zip_and_two_settings(deployment: Deployment, name: str) -> None:
    held = deployment.configuration(name)
    assert held["CodeSha256"] == code_sha256(deployment.zips[name])
    assert held["CodeSize"] == len(deployment.zips[name])
    assert held["Runtime"] in MANIFEST["compatibleRuntimes"]
    assert held["Handler"] == "lambda_function.handler"
    assert held["Environment"] == {"Variables": ENVIRONMENT}


def test_each_function_has_its_own_code(deployment: Deployment) -> None:
    assert len({deployment.configuration(name)["CodeSha256"] for name in FUNCTIONS}) == 3


def test_the_function_url_streams(deployment: Deployment) -> None:
    url = deployment.client.get_function_url_config(FunctionName="function")
    assert (url["InvokeMode"], url["AuthType"]) == ("RESPONSE_STREAM", "NONE")


def test_the_function_url_is_public_with_both_permissions(deployment: Deployment) -> None:
    policy = json.loads(deployment.client.get_policy(FunctionName="function")["Policy"])
    statements = {statement["Sid"]: statement for statement in policy["Statement"]}
    assert {sid: statement["Action"] for sid, statement in statements.items()} == {
        "UrlPolicyInvokeURL": "lambda:InvokeFunctionUrl",
        "UrlPolicyInvokeFunction": "lambda:InvokeFunction",
    }
    assert {statement["Effect"] for statement in statements.values()} == {"Allow"}
    assert {str(statement["Principal"]) for statement in statements.values()} == {"*"}
    # moto keeps these as given, AWS as conditions of the same meaning.
    assert statements["UrlPolicyInvokeURL"]["FunctionUrlAuthType"] == "NONE"
    assert statements["UrlPolicyInvokeFunction"]["InvokedViaFunctionUrl"] is True


def test_the_other_functions_stay_private(deployment: Deployment) -> None:
    for name in OTHER_FUNCTIONS:
        with pytest.raises(deployment.client.exceptions.ResourceNotFoundException):
            deployment.client.get_policy(FunctionName=name)
        with pytest.raises(deployment.client.exceptions.ResourceNotFoundException):
            deployment.client.get_function_url_config(FunctionName=name)
