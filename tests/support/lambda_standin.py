"""A stand-in for the control plane of AWS Lambda, in front of moto: it adds what moto lacks.

It is not the service. Its additions follow the API Reference and the Developer Guide: the optimistic lock
(`RevisionId`, 412), updates that take time (`LastUpdateStatus`, 409), pages of 50, limits, invalid zips, shared layers
of other accounts, capacity providers, signing jobs, and a `Location` that can be downloaded. It can produce faults:
429, 5xx, and connections that break before or after the request was carried out. Its error messages are its own, so
tests compare codes.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import socket
import threading
import time
import urllib.parse
import uuid
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from moto.awslambda.utils import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server
from werkzeug.test import run_wsgi_app

from support.signing_jobs import SigningJobs

PAGE = 50
FOREIGN_ACCOUNT = "999999999999"
FOREIGN_KEY = "AKIAFOREIGN000000000"  # the access key of that account

RUNTIMES = {"python3.9", "python3.11", "python3.12", "python3.13", "python3.14", "provided.al2", "provided.al2023"}

FUNCTION = re.compile(r"/2015-03-31/functions/(?P<name>[^/]+)(?:/(?P<rest>.*))?")
LAYER = re.compile(r"/2018-10-31/layers/(?P<name>[^/]+)/versions(?:/(?P<number>\d+))?(?P<policy>/policy)?")

Environ = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One request."""

    at: float
    account: str
    region: str
    service: str
    operation: str
    name: str
    part: str  # what follows the name in the path: a layer's version, an alias
    body: dict[str, Any]


class Refusal(Exception):
    """An error response of AWS."""

    def __init__(self, status: int, code: str, **more: str) -> None:
        super().__init__(code)
        self.status, self.code, self.more = status, code, more


@dataclass
class Faults:
    """The faults to produce.

    Args:
        on: receives each call and returns its fault: 401 (the region is not enabled), 403, 429, 500, "before" or
            "after" (the connection breaks before or after the call is carried out), or None.
        updates_fail: functions whose updates fail.
        invocations_fail: functions whose invocations fail.
        tags_denied: functions whose tags the caller may not read.
        states: the `State` of functions that are not active.
        signing: functions whose layers must be signed.
        expired: every call is rejected, as with an expired session.
        corrupt_layers: published layers get other bytes than were sent.
        enabled_regions: those that `DescribeRegions` lists; empty for all.
        session_seconds: the time after which credentials of roles expire; 0 for an hour.
    """

    on: Callable[[Call], int | str | None] = lambda call: None
    updates_fail: set[str] = field(default_factory=set)
    invocations_fail: set[str] = field(default_factory=set)
    tags_denied: set[str] = field(default_factory=set)
    states: dict[str, str] = field(default_factory=dict)
    signing: set[str] = field(default_factory=set)
    expired: bool = False
    corrupt_layers: bool = False
    session_seconds: int = 0
    enabled_regions: set[str] = field(default_factory=set)


class StandIn:
    """The WSGI application. Its own state is kept by account, region and name."""

    def __init__(self) -> None:
        self._moto = _Dispatcher(create_backend_app)
        self._lock = threading.RLock()
        self.url = ""
        self.reset()

    def reset(self) -> None:
        self.faults = Faults()
        self.calls: list[Call] = []
        self.has_revisions = True
        self.looks_until_done = 1  # the number of reads that see an update in progress
        self.invoked: list[tuple[str, bytes]] = []
        self.layers: dict[tuple[str, str, str, str], list[str]] = {}  # by function and version
        self.capacity_providers: dict[tuple[str, str, str], Any] = {}  # the CapacityProviderConfig of functions
        self.revisions: dict[tuple[str, str, str], str] = defaultdict(lambda: str(uuid.uuid4()))
        self.pending: dict[tuple[str, str, str], int] = {}
        self.failed: set[tuple[str, str, str]] = set()
        self.signing = SigningJobs()
        self._post("/moto-api/reset")
        self._post("/moto-api/config", {"lambda": {"use_docker": False}})
        # moto finds the account of a request by its access key.
        iam_backends[FOREIGN_ACCOUNT]["aws"].access_keys[FOREIGN_KEY] = SimpleNamespace(role_arn=None)

    def counted(self) -> Counter[str]:
        return Counter(call.operation for call in self.calls)

    def changes(self) -> list[Call]:
        """Return the calls that update functions."""
        return [call for call in self.calls if call.operation == "UpdateFunctionConfiguration"]

    def create(self, path: str, body: dict[str, Any], region: str, key: str) -> Any:
        """Carry out a POST request for AWS Lambda without client and connection, which take longer than the request.

        Args:
            body: zips are bytes in it, as for boto3.
            key: the access key of the caller.
        """
        data = json.dumps(body, default=lambda content: base64.b64encode(content).decode()).encode()
        scope = f"Credential={key}/20260101/{region}/lambda/aws4_request"
        environ = _environ(path, data) | {"HTTP_AUTHORIZATION": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host"}
        call = self._call(environ, path, data)
        with self._lock:
            self.calls.append(call)
            _, response = self._lambda(environ, call)
        return response

    # --- Requests

    def __call__(self, environ: Environ, start_response: Any) -> Any:
        path = urllib.parse.unquote(environ["PATH_INFO"])
        if path.startswith("/zip/"):
            return self._download(path, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        call = self._call(environ, path, body)
        with self._lock:
            self.calls.append(call)
            fault = self.faults.on(call)
        if fault == "before":
            self._break(environ)
        status, response, headers = self._respond(environ, path, call, fault)
        if fault == "after":
            self._break(environ)
        data = json.dumps(response).encode() if not isinstance(response, bytes) else response
        if environ["REQUEST_METHOD"] != "HEAD":  # whose length is that of the object
            headers = [*headers, ("Content-Length", str(len(data)))]
        start_response(f"{status} {'OK' if status < 400 else 'Refused'}", headers)
        return [data]

    def _respond(self, environ: Environ, path: str, call: Call, fault: int | str | None) -> tuple[int, Any, Any]:
        json_headers = [("Content-Type", "application/json")]
        try:
            if self.faults.expired:
                raise Refusal(403, "ExpiredTokenException")
            if fault in (403, 409, 412) and call.service == "s3":
                raise Refusal(int(fault), _S3_CODES[int(fault)])
            if fault == 503:
                raise Refusal(503, "SlowDown")
            if fault == 429:
                raise Refusal(429, "TooManyRequestsException", Reason="CallerRateLimitExceeded")
            if fault == 500:
                raise Refusal(500, "ServiceException")
            if fault == 401:
                raise Refusal(403, "UnrecognizedClientException")
            if fault == 403:
                raise Refusal(403, "AccessDeniedException")
            if call.service == "s3":
                with self._lock:  # S3 decides about conditions for one request after the other
                    self._check_conditions(environ)
                    return self._inner(environ)
            if call.service == "signer" and path.startswith("/signing-jobs"):
                return self._signing(call, path)
            if call.operation == "DescribeRegions" and self.faults.enabled_regions:
                status, response, headers = self._inner(environ)
                return status, _only(self.faults.enabled_regions, response.decode()), headers
            if call.operation == "AssumeRole" and self.faults.session_seconds:
                status, response, headers = self._inner(environ)
                end = datetime.now(UTC) + timedelta(seconds=self.faults.session_seconds)
                expiration = f"<Expiration>{end:%Y-%m-%dT%H:%M:%SZ}</Expiration>"
                return status, re.sub("<Expiration>.*?</Expiration>", expiration, response.decode()).encode(), headers
            if call.service != "lambda":
                return self._inner(environ)
            with self._lock:
                status, response, *more = self._lambda(environ, call)
            if not self.has_revisions:
                response = _without_revisions(response)
            return status, response, [*json_headers, *(more[0] if more else ())]
        except Refusal as refusal:
            if call.service == "s3":
                text = f"<Error><Code>{refusal.code}</Code><Message>no</Message></Error>"
                return refusal.status, text.encode(), [("Content-Type", "application/xml")]
            if call.service == "sts":
                text = f"<ErrorResponse><Error><Code>{refusal.code}</Code><Message>no</Message></Error></ErrorResponse>"
                return refusal.status, text.encode(), [("Content-Type", "text/xml")]
            if call.service == "monitoring":
                content = {"__type": refusal.code, "message": f"{refusal.code} from the stand-in"}
                return refusal.status, content, [("Content-Type", "application/x-amz-json-1.0")]
            content = {"Type": "User", "message": f"{refusal.code} from the stand-in", **refusal.more}
            return refusal.status, content, [*json_headers, ("x-amzn-ErrorType", refusal.code)]

    def _signing(self, call: Call, path: str) -> tuple[int, Any, Any]:
        if call.operation == "StartSigningJob":
            status, response = self.signing.start(call.account, call.region, call.body)
        else:
            status, response = self.signing.describe(path.rpartition("/")[2])
        if status >= 400:
            raise Refusal(status, response["code"])
        return status, response, [("Content-Type", "application/json")]

    def _check_conditions(self, environ: Environ) -> None:
        """Check `If-Match`, which moto ignores, against the present object."""
        expected = environ.get("HTTP_IF_MATCH")
        if not expected or environ["REQUEST_METHOD"] not in ("PUT", "DELETE"):
            return
        _, bucket, key = urllib.parse.unquote(environ["PATH_INFO"]).split("/", 2)
        stored = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].head_object(bucket, key)
        if stored is None:
            raise Refusal(404, "NoSuchKey")
        if stored.etag.strip('"') != expected.strip('"'):
            raise Refusal(412, "PreconditionFailed")

    def _inner(self, environ: Environ) -> tuple[int, bytes, list[tuple[str, str]]]:
        body, status, headers = run_wsgi_app(self._moto, environ)
        changed = ["connection", *(["content-length"] if environ["REQUEST_METHOD"] != "HEAD" else [])]
        kept = [(name, value) for name, value in headers if name.lower() not in changed]
        return int(status.split()[0]), b"".join(body), kept

    def _moto_json(self, environ: Environ, body: Any = None) -> tuple[int, Any]:
        if body is not None:
            data = json.dumps(body).encode()
            environ = dict(environ, CONTENT_LENGTH=str(len(data)), **{"wsgi.input": io.BytesIO(data)})
        status, response, headers = self._inner(environ)
        if status >= 400:
            code = dict(headers).get("x-amzn-errortype") or dict(headers).get("X-Amzn-ErrorType") or "ServiceException"
            raise Refusal(status, code)
        return status, json.loads(response) if response else {}

    @staticmethod
    def _break(environ: Environ) -> None:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError

    @staticmethod
    def _call(environ: Environ, path: str, body: bytes) -> Call:
        key, region, service = _scope(environ.get("HTTP_AUTHORIZATION", ""))
        account = _account_of(key)
        try:
            content = json.loads(body) if body else {}
        except ValueError:
            content = {}
        operation, name, part = _operation(environ["REQUEST_METHOD"], path)
        operation = operation or environ.get("HTTP_X_AMZ_TARGET", "").partition(".")[2]  # CloudWatch
        if service == "signer" and path.startswith("/signing-jobs"):
            operation = "StartSigningJob" if environ["REQUEST_METHOD"] == "POST" else "DescribeSigningJob"
        if not operation and body.startswith(b"Action="):  # AWS STS
            operation = dict(urllib.parse.parse_qsl(body.decode()))["Action"]
        if service == "s3":
            operation, name = _s3_operation(environ, path)
        return Call(time.monotonic(), account, region, service, operation or service, name, part, content)

    # --- Functions

    def _lambda(self, environ: Environ, call: Call) -> Any:
        query = dict(urllib.parse.parse_qsl(environ.get("QUERY_STRING", "")))
        handle = getattr(self, f"on_{call.operation}", None)
        if handle:
            return handle(environ, call, query)
        status, response = self._moto_json(environ)
        return status, self._complete(call, response)

    def _key(self, call: Call, name: str | None = None) -> tuple[str, str, str]:
        return (call.account, call.region, name or call.name)

    def _complete(self, call: Call, configuration: Any, in_list: bool = False) -> Any:
        """Add layers, revision, and the state of the last update to a FunctionConfiguration of moto."""
        if not isinstance(configuration, dict) or "FunctionArn" not in configuration or "Runtime" not in configuration:
            return configuration
        name, version = configuration["FunctionName"], configuration.get("Version", "$LATEST")
        key = self._key(call, name)
        stored = self.layers.get((*key, version), [])
        configuration["Layers"] = [{"Arn": arn, "CodeSize": 1000} for arn in stored]
        configuration["RevisionId"] = self.revisions[key] if version == "$LATEST" else f"revision-of-{version}"
        if key in self.capacity_providers:
            configuration["CapacityProviderConfig"] = self.capacity_providers[key]
        configuration["State"] = self.faults.states.get(name, "Active")
        configuration["LastUpdateStatus"] = "Successful"
        if version == "$LATEST" and key in self.pending:
            configuration["LastUpdateStatus"] = "InProgress"
        elif version == "$LATEST" and key in self.failed:
            configuration["LastUpdateStatus"] = "Failed"
            configuration["LastUpdateStatusReasonCode"] = "InvalidRuntime"
        if in_list:
            del configuration["State"], configuration["LastUpdateStatus"]
        return configuration

    def _look(self, key: tuple[str, str, str]) -> None:
        """Count a read. After enough of them the update is complete, and the revision changes once more."""
        if key in self.pending:
            self.pending[key] -= 1
            if self.pending[key] < 0:
                del self.pending[key]
                self.revisions.pop(key)

    def _check_lock(self, key: tuple[str, str, str], revision: str | None) -> None:
        if key in self.pending:
            raise Refusal(409, "ResourceConflictException")
        if revision and revision != self.revisions[key]:
            raise Refusal(412, "PreconditionFailedException")

    def _begin_update(self, call: Call) -> None:
        key = self._key(call)
        self.revisions.pop(key, None)
        self.failed.discard(key)
        if call.name in self.faults.updates_fail:
            self.failed.add(key)
        if self.looks_until_done:
            self.pending[key] = self.looks_until_done

    def on_CreateFunction(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        body = dict(call.body)
        layers = body.pop("Layers", [])
        capacity_provider = body.pop("CapacityProviderConfig", None)
        self._check_layers(call, layers)
        if "ZipFile" in body.get("Code", {}):
            _check_zip(body["Code"]["ZipFile"])
        status, response = self._moto_json(environ, body)
        self.layers[(*self._key(call, body["FunctionName"]), "$LATEST")] = layers
        if capacity_provider is not None:
            self.capacity_providers[self._key(call, body["FunctionName"])] = capacity_provider
        return status, self._complete(call, response)

    def on_ListFunctions(self, environ: Environ, call: Call, query: dict[str, str]) -> tuple[int, Any]:
        status, response = self._moto_json(environ)
        found = [self._complete(call, each, in_list=True) for each in response["Functions"]]
        return status, _page(found, "Functions", query)

    def on_GetFunction(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        self._look(self._key(call))
        status, response = self._moto_json(environ)
        self._complete(call, response["Configuration"])
        location = f"{self.url}/zip/function/{call.account}/{call.region}/{call.name}"
        response["Code"] = {"RepositoryType": "S3", "Location": location}
        if call.name in self.faults.tags_denied:
            response.pop("Tags", None)
            response["TagsError"] = {"ErrorCode": "AccessDeniedException", "Message": "lambda:ListTags is not allowed"}
        return status, response

    def on_GetFunctionConfiguration(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        self._look(self._key(call))
        status, response = self._moto_json(environ)
        return status, self._complete(call, response)

    def on_UpdateFunctionConfiguration(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        body, key = dict(call.body), self._key(call)
        if query.get("Qualifier"):
            raise Refusal(400, "InvalidParameterValueException")
        revision, layers = body.pop("RevisionId", None), body.pop("Layers", None)
        self._exists(call)
        self._check_lock(key, revision)
        if layers is not None:
            self._check_layers(call, layers)
        if layers and call.name in self.faults.signing:
            raise Refusal(400, "CodeVerificationFailedException")
        status, response = self._moto_json(environ, body)
        if layers is not None:
            self.layers[(*key, "$LATEST")] = list(layers)
        self._begin_update(call)
        return status, self._complete(call, response)

    def on_UpdateFunctionCode(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        body = dict(call.body)
        self._exists(call)
        self._check_lock(self._key(call), body.pop("RevisionId", None))
        if "ZipFile" in body:
            _check_zip(body["ZipFile"])
        status, response = self._moto_json(environ, body)
        self._begin_update(call)
        return status, self._complete(call, response)

    def on_PublishVersion(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        key = self._key(call)
        self._exists(call)
        self._check_lock(key, call.body.get("RevisionId"))
        latest = self.layers.get((*key, "$LATEST"), [])
        versions = [version for (*stored, version) in self.layers if tuple(stored) == key and version != "$LATEST"]
        newest = max(versions, key=int, default=None)
        # AWS returns the last version if nothing has changed since; moto cannot know, because it has no layers.
        backend = get_backend(call.account, call.region)
        is_same = newest and _content(backend, call.name, newest) == _content(backend, call.name, "$LATEST")
        if newest and is_same and self.layers[(*key, newest)] == latest:
            response = json.loads(json.dumps(backend.get_function(call.name, newest).get_configuration(), default=str))
            return 201, self._complete(call, response)
        backend.get_function(call.name).code_or_config_updated = True
        status, response = self._moto_json(environ)
        self.layers[(*key, response["Version"])] = list(latest)
        return status, self._complete(call, response)

    def on_UpdateAlias(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        alias = get_backend(call.account, call.region).get_alias(call.part, call.name)
        if call.body.get("RevisionId", alias.revision_id) != alias.revision_id:
            raise Refusal(412, "PreconditionFailedException")
        status, response = self._moto_json(environ)
        alias.revision_id = response["RevisionId"] = str(uuid.uuid4())
        return status, response

    def on_Invoke(self, environ: Environ, call: Call, query: Any) -> Any:
        self._exists(call)
        self.invoked.append((call.name, environ["wsgi.input"].getvalue()))
        if call.name in self.faults.invocations_fail:
            return 200, {"errorMessage": "boom", "errorType": "ValueError"}, [("X-Amz-Function-Error", "Unhandled")]
        return 200, {"response": 42}

    def on_ListFunctionUrlConfigs(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        function = self._exists(call)
        configuration = function.url_config
        found = [configuration.to_dict()] if configuration else []
        for each in found:
            each["InvokeMode"] = each["InvokeMode"] if each["InvokeMode"] != "Buffered" else "BUFFERED"
        return 200, {"FunctionUrlConfigs": found}

    def on_UpdateFunctionUrlConfig(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        status, response = self._moto_json(environ)
        if mode := call.body.get("InvokeMode"):
            self._exists(call).url_config.config["InvokeMode"] = response["InvokeMode"] = mode
        return status, response

    def on_ListCodeSigningConfigs(self, environ: Environ, call: Call, query: dict[str, str]) -> tuple[int, Any]:
        policies = {"enforced": "Enforce", "watched": "Warn"}
        found = [
            {
                "CodeSigningConfigArn": f"arn:aws:lambda:{call.region}:{call.account}:code-signing-config:{name}",
                "CodeSigningPolicies": {"UntrustedArtifactOnDeployment": policy},
            }
            for name, policy in policies.items()
            if self.faults.signing
        ]
        return 200, _page(found, "CodeSigningConfigs", query)

    def on_ListFunctionsByCodeSigningConfig(
        self, environ: Environ, call: Call, query: dict[str, str]
    ) -> tuple[int, Any]:
        prefix = f"arn:aws:lambda:{call.region}:{call.account}:function:"
        found = sorted(self.faults.signing) if call.name.endswith("enforced") else ["another"]
        return 200, _page([prefix + name for name in found], "FunctionArns", query)

    def on_GetFunctionCodeSigningConfig(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        arn = f"arn:aws:lambda:{call.region}:{call.account}:code-signing-config:enforced"
        content = {"CodeSigningConfigArn": arn} if call.name in self.faults.signing else {}
        return 200, {"FunctionName": call.name, **content}

    def on_GetCodeSigningConfig(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        config = {
            "CodeSigningConfigArn": call.name,
            "CodeSigningPolicies": {"UntrustedArtifactOnDeployment": "Enforce"},
        }
        return 200, {"CodeSigningConfig": config}

    def _exists(self, call: Call) -> Any:
        try:
            return get_backend(call.account, call.region).get_function(call.name)
        except Exception:
            raise Refusal(404, "ResourceNotFoundException") from None

    # --- Layers

    def _layer(self, call: Call, name: str, number: int) -> Any:
        """Return a layer version of any account that the caller may use."""
        account, region, short = call.account, call.region, name
        if name.startswith("arn:"):
            _, _, _, region, account, _, short = name.split(":")[:7]
        if region != call.region:
            raise Refusal(403, "AccessDeniedException")
        try:
            version = get_backend(account, region).get_layer_version(short, str(number))
        except Exception:
            if account != call.account:
                raise Refusal(403, "AccessDeniedException") from None
            raise Refusal(404, "ResourceNotFoundException") from None
        if account != call.account and not _may_use(version, call.account):
            raise Refusal(403, "AccessDeniedException")
        return version

    def _check_layers(self, call: Call, arns: list[str]) -> None:
        if len(arns) > 5:
            raise Refusal(400, "InvalidParameterValueException")
        layers, size = [], 0
        for arn in arns:
            match = re.fullmatch(r"(arn:[a-z-]+:lambda:[a-z0-9-]+:\d{12}:layer:[a-zA-Z0-9-_]+):(\d+)", arn)
            if not match:
                raise Refusal(400, "ValidationException")
            try:
                version = self._layer(call, match[1], int(match[2]))
            except Refusal as refusal:
                if refusal.status == 404:
                    raise Refusal(400, "InvalidParameterValueException") from None
                raise
            layers.append(match[1])
            size += _unpacked(version.code_bytes)
        if len(set(layers)) < len(layers) or size > 262_144_000:
            raise Refusal(400, "InvalidParameterValueException")

    def on_ListLayerVersions(self, environ: Environ, call: Call, query: dict[str, str]) -> tuple[int, Any]:
        status, response = self._moto_json(environ)
        return status, _page(response["LayerVersions"], "LayerVersions", query)

    def on_PublishLayerVersion(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        body = call.body
        if not re.fullmatch(r"[a-zA-Z0-9-_]{1,140}", call.name) or len(body.get("Description", "")) > 256:
            raise Refusal(400, "ValidationException")
        if len(body.get("LicenseInfo", "")) > 512 or len(body.get("CompatibleRuntimes", [])) > 15:
            raise Refusal(400, "ValidationException")
        if not set(body.get("CompatibleRuntimes", [])) <= RUNTIMES:
            raise Refusal(400, "InvalidParameterValueException")
        if "ZipFile" in body["Content"]:
            _check_zip(body["Content"]["ZipFile"])
        if self.faults.corrupt_layers:
            body["Content"]["ZipFile"] = base64.b64encode(base64.b64decode(body["Content"]["ZipFile"]) + b"!").decode()
        status, response = self._moto_json(environ, body)
        return status, self._located(call, call.name, response)

    def on_GetLayerVersion(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        name, number = call.name, int(call.part)
        version = self._layer(call, name, number)
        return 200, self._located(call, name, version.get_layer_version())

    def _located(self, call: Call, name: str, response: Any) -> Any:
        _, _, _, region, account, _, short = response["LayerVersionArn"].split(":")[:7]
        if profile := self.signing.profiles.get(response["Content"]["CodeSha256"]):
            response["Content"]["SigningProfileVersionArn"] = profile
        response["Content"]["Location"] = f"{self.url}/zip/layer/{account}/{region}/{short}/{response['Version']}"
        return response

    def on_AddLayerVersionPermission(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        version = self._layer(call, call.name, int(call.part))
        if call.body["Action"] != "lambda:GetLayerVersion" or len(call.body["StatementId"]) > 100:
            raise Refusal(400, "ValidationException")
        if any(statement["Sid"] == call.body["StatementId"] for statement in _statements(version)):
            raise Refusal(409, "ResourceConflictException")
        return self._moto_json(environ)

    def on_GetLayerVersionPolicy(self, environ: Environ, call: Call, query: Any) -> tuple[int, Any]:
        self._layer(call, call.name, int(call.part))
        status, response = self._moto_json(environ)
        policy = json.loads(response["Policy"])
        for statement in policy["Statement"]:
            if organization := statement.pop("OrganizationId", None):
                statement["Condition"] = {"StringEquals": {"aws:PrincipalOrgID": organization}}
        return status, {**response, "Policy": json.dumps(policy)}

    def _download(self, path: str, start_response: Any) -> list[bytes]:
        _, _, kind, account, region, name, *rest = path.split("/")
        if kind == "expired":
            start_response("403 Forbidden", [("Content-Length", "0")])
            return []
        backend = get_backend(account, region)
        stored = backend.get_layer_version(name, rest[0]) if kind == "layer" else backend.get_function(name)
        data = stored.code_bytes
        start_response("200 OK", [("Content-Type", "application/zip"), ("Content-Length", str(len(data)))])
        return [data]

    def _post(self, path: str, body: Any = None) -> None:
        run_wsgi_app(self._moto, _environ(path, json.dumps(body or {}).encode()))


def _content(backend: Any, name: str, version: str) -> dict[str, Any]:
    """Return the code and the settings of a version, without what differs between any two of them."""
    volatile = {"FunctionArn", "LastModified", "MasterArn", "RevisionId", "SnapStart", "Version"}
    configuration = backend.get_function(name, version).get_configuration()
    return {key: value for key, value in configuration.items() if key not in volatile}


def _environ(path: str, data: bytes) -> Environ:
    """Return a POST request as WSGI passes it."""
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "SERVER_NAME": "standin",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(data),
        "CONTENT_LENGTH": str(len(data)),
        "CONTENT_TYPE": "application/json",
    }


def _scope(authorization: str) -> tuple[str, str, str]:
    match = re.search(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/", authorization)
    return match.groups() if match else ("", "", "")  # type: ignore[return-value]


def _without_revisions(response: Any) -> Any:
    if isinstance(response, list):
        return [_without_revisions(each) for each in response]
    if isinstance(response, dict):
        return {name: _without_revisions(value) for name, value in response.items() if name != "RevisionId"}
    return response


def _only(regions: set[str], response: str) -> bytes:
    """Return the response of `DescribeRegions` with these regions alone."""

    def kept(item: re.Match[str]) -> str:
        return item[0] if any(f"<regionName>{name}</regionName>" in item[0] for name in regions) else ""

    return re.sub("<item>.*?</item>", kept, response, flags=re.DOTALL).encode()


def _account_of(key: str) -> str:
    """Return the account of an access key; moto makes one for each role that is assumed."""
    for account, backends in list(iam_backends.items()):
        if key in backends["aws"].access_keys:
            return str(account)
    return DEFAULT_ACCOUNT_ID


_OF_FUNCTION = {
    ("GET", ""): "GetFunction",
    ("GET", "configuration"): "GetFunctionConfiguration",
    ("PUT", "configuration"): "UpdateFunctionConfiguration",
    ("PUT", "code"): "UpdateFunctionCode",
    ("POST", "versions"): "PublishVersion",
    ("POST", "invocations"): "Invoke",
    ("GET", "aliases"): "ListAliases",
    ("GET", "policy"): "GetPolicy",
    ("POST", "policy"): "AddPermission",
    ("POST", "aliases"): "CreateAlias",
}
_OF_LAYER = {
    ("GET", False, False): "ListLayerVersions",
    ("POST", False, False): "PublishLayerVersion",
    ("GET", True, False): "GetLayerVersion",
    ("DELETE", True, False): "DeleteLayerVersion",
    ("GET", True, True): "GetLayerVersionPolicy",
    ("POST", True, True): "AddLayerVersionPermission",
}


def _operation(method: str, path: str) -> tuple[str, str, str]:
    path = path.rstrip("/")
    if path == "/2015-03-31/functions":
        return "ListFunctions" if method == "GET" else "CreateFunction", "", ""
    if match := re.fullmatch(r"/2021-10-31/functions/([^/]+)/urls", path):
        return "ListFunctionUrlConfigs", match[1], ""
    if (match := re.fullmatch(r"/2021-10-31/functions/([^/]+)/url", path)) and method == "PUT":
        return "UpdateFunctionUrlConfig", match[1], ""
    if match := re.fullmatch(r"/2020-04-22/code-signing-configs(?:/([^/]+))?(/functions)?", path):
        whole = "GetCodeSigningConfig" if match[1] else "ListCodeSigningConfigs"
        return "ListFunctionsByCodeSigningConfig" if match[2] else whole, match[1] or "", ""
    if match := re.fullmatch(r"/2020-06-30/functions/([^/]+)/code-signing-config", path):
        return "GetFunctionCodeSigningConfig", match[1], ""
    if match := LAYER.fullmatch(path):
        operation = _OF_LAYER.get((method, bool(match["number"]), bool(match["policy"])), "")
        return operation, match["name"], match["number"] or ""
    if match := FUNCTION.fullmatch(path):
        name = match["name"].split(":function:")[-1].split(":")[0]
        rest = match["rest"] or ""
        if rest.startswith("aliases/"):
            return {"GET": "GetAlias", "PUT": "UpdateAlias"}.get(method, ""), name, rest.removeprefix("aliases/")
        return _OF_FUNCTION.get((method, rest), ""), name, ""
    return "", "", ""


_S3_CODES = {403: "AccessDenied", 409: "ConditionalRequestConflict", 412: "PreconditionFailed"}


def _s3_operation(environ: Environ, path: str) -> tuple[str, str]:
    """Return the operation and the key."""
    key = path.lstrip("/").partition("/")[2]
    if not key and environ["REQUEST_METHOD"] == "GET":
        return "ListObjectsV2", ""
    operations = {"PUT": "PutObject", "GET": "GetObject", "DELETE": "DeleteObject", "POST": "DeleteObjects"}
    return operations.get(environ["REQUEST_METHOD"], "s3"), key


def _page(items: list[Any], key: str, query: dict[str, str]) -> dict[str, Any]:
    start, size = int(query.get("Marker", 0)), min(int(query.get("MaxItems", PAGE)), PAGE)
    response: dict[str, Any] = {key: items[start : start + size]}
    if start + size < len(items):
        response["NextMarker"] = str(start + size)
    return response


def _check_zip(encoded: str) -> None:
    data = base64.b64decode(encoded)
    if len(data) > 50 * 1024 * 1024:
        raise Refusal(413, "RequestEntityTooLargeException")
    try:
        size = _unpacked(data)
    except zipfile.BadZipFile:
        raise Refusal(400, "InvalidParameterValueException") from None
    if size > 262_144_000:
        raise Refusal(400, "InvalidParameterValueException")


def _unpacked(data: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return sum(info.file_size for info in archive.infolist())


def _statements(version: Any) -> list[dict[str, Any]]:
    return list(version.policy.statements)


def _may_use(version: Any, account: str) -> bool:
    """Whether the policy names the account or everybody; members of organizations are not known."""
    return any(
        account in json.dumps(statement["Principal"])
        or (statement["Principal"] == "*" and not statement.get("OrganizationId"))
        for statement in _statements(version)
    )


@contextmanager
def serve() -> Iterator[StandIn]:
    """Run a stand-in on a free port. The state of moto belongs to the process, so run one at a time."""
    application = StandIn()
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Handler)
    application.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield application
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        application.reset()


class _Dispatcher(DomainDispatcherApplication):  # type: ignore[misc]
    """moto's applications, one for each service. moto looks for the one of a host in its folder at each request."""

    get_backend_for_host = functools.cache(DomainDispatcherApplication.get_backend_for_host)


class _Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        """Respond to one request and keep the connection, as AWS does. Werkzeug closes it and drains the request."""
        status, headers = "", []

        def start_response(*begun: Any) -> None:
            nonlocal status, headers
            status, headers = begun

        try:
            body = b"".join(self.server.app(self.make_environ(), start_response))
        except ConnectionError:
            self.close_connection = True  # a fault that the test has requested
            return
        lines = [f"{self.protocol_version} {status}", *(f"{name}: {value}" for name, value in headers), "", ""]
        self.wfile.write("\r\n".join(lines).encode("latin-1") + body)

    def log(self, *args: Any) -> None:
        """Print nothing; the stand-in has its own list of calls."""
