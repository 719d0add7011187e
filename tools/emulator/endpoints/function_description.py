"""A function as the Lambda API describes it, from what is served.

The documents have the keys of the service: https://docs.aws.amazon.com/lambda/latest/api/API_FunctionConfiguration.html.
Values that exist only on the service, such as the execution role, are placeholders.
"""

from __future__ import annotations

import json
import math
import platform
import time
import uuid
from typing import Any

from tools.common.function_folder import is_ignored
from tools.emulator.deployment.code_digest import Digest, digest_of
from tools.emulator.deployment.configuration import ACCOUNT, PYTHON, REGION, VERSION, function_name
from tools.emulator.endpoints.api_call import Addressed

ROLE = f"arn:aws:iam::{ACCOUNT}:role/local"
EPHEMERAL_STORAGE_MB = 512  # the default of the service
ARCHITECTURES = {"aarch64": "arm64"}  # the service's names of machines, where they differ


class FunctionDescription:
    """What the calls return about one function.

    Args:
        url_settings: `AuthType`, `InvokeMode` and `Cors` of its Function URL.
        url: its Function URL.
    """

    def __init__(self, addressed: Addressed, url_settings: dict[str, Any], url: str) -> None:
        self._addressed = addressed
        self._function = addressed.pool.configuration
        self._url_settings = url_settings
        self._url = url
        self._layers, self._code = addressed.pool.sources
        self._digest = digest_of(self._code, is_ignored)

    def of_call(self, call: str) -> dict[str, Any]:
        """The document that a call returns."""
        documents = {
            "GetFunction": self._get_function,
            "GetFunctionConfiguration": self._configuration,
            "GetFunctionUrlConfig": self._url_configuration,
            "GetPolicy": self._policy,
            "ListVersionsByFunction": self._versions,
        }
        return documents[call]()

    def _get_function(self) -> dict[str, Any]:
        return {"Configuration": self._configuration(), "Code": {"Location": self._code.as_uri()}, "Tags": {}}

    def _configuration(self) -> dict[str, Any]:
        function, digest = self._function, self._digest
        machine = platform.machine()
        snapstart = "PublishedVersions" if function.snapstart else "None"
        document: dict[str, Any] = {
            "FunctionName": function.name,
            "FunctionArn": self._addressed.arn,
            "Runtime": "provided.al2023" if function.os_only else PYTHON,
            "Role": ROLE,
            "Handler": function.handler,
            "CodeSize": digest.size,
            "Description": "",
            "Timeout": math.ceil(function.timeout),
            "MemorySize": function.memory,
            "LastModified": modification_time(digest),
            "CodeSha256": digest.sha256,
            "Version": VERSION,
            "TracingConfig": {"Mode": "PassThrough"},
            "RevisionId": self._revision,
            "State": "Active",
            "LastUpdateStatus": "Successful",
            "PackageType": "Zip",
            "Architectures": [ARCHITECTURES.get(machine, machine)],
            "EphemeralStorage": {"Size": EPHEMERAL_STORAGE_MB},
            "SnapStart": {"ApplyOn": snapstart, "OptimizationStatus": "Off"},
            "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{function.name}"},
            "Layers": self._layer_list(),
        }
        if function.variables:
            document["Environment"] = {"Variables": dict(function.variables)}
        return document

    def _layer_list(self) -> list[dict[str, Any]]:
        prefix = f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer"
        return [
            {"Arn": f"{prefix}:{function_name(layer.stem)}:1", "CodeSize": digest_of(layer).size}
            for layer in self._layers
        ]

    @property
    def _revision(self) -> str:
        """It changes with the code and the configuration."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self._function} {self._digest}"))

    def _url_configuration(self) -> dict[str, Any]:
        modified = modification_time(self._digest)
        return {
            "FunctionUrl": self._url,
            "FunctionArn": self._addressed.arn,
            **self._url_settings,
            "CreationTime": modified,
            "LastModifiedTime": modified,
        }

    def _policy(self) -> dict[str, Any]:
        """The two statements of a Function URL without authentication (urls-auth)."""
        by_url = {"StringEquals": {"lambda:FunctionUrlAuthType": "NONE"}}
        via_url = {"Bool": {"lambda:InvokedViaFunctionUrl": "true"}}
        statements = [
            self._statement("FunctionURLAllowPublicAccess", "lambda:InvokeFunctionUrl", by_url),
            self._statement("FunctionURLAllowInvokeAction", "lambda:InvokeFunction", via_url),
        ]
        policy = {"Version": "2012-10-17", "Id": "default", "Statement": statements}
        return {"Policy": json.dumps(policy), "RevisionId": self._revision}

    def _statement(self, name: str, action: str, condition: dict[str, Any]) -> dict[str, Any]:
        return {
            "Sid": name,
            "Effect": "Allow",
            "Principal": "*",
            "Action": action,
            "Resource": self._addressed.arn,
            "Condition": condition,
        }

    def _versions(self) -> dict[str, Any]:
        arn = f"{self._function.arn}:{VERSION}"
        return {"Versions": [{**self._configuration(), "FunctionArn": arn}]}


def modification_time(digest: Digest) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000+0000", time.gmtime(digest.modified))
