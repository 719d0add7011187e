"""The event of a request to an API Gateway REST API.

https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html, "Input format":
payload 1.0. The API has one resource, `/{proxy+}`, besides its root, and any method.
"""

from __future__ import annotations

import base64
import time
import urllib.parse
from typing import Any

from tools.emulator.deployment.configuration import ACCOUNT
from tools.emulator.endpoints.function_url_event import HOP_HEADERS, host_name
from tools.emulator.http1.connection import Headers, Request

Lists = dict[str, list[str]]
# Keys of `requestContext.identity` that have a value only with an authorizer or an API key.
WITHOUT_VALUE = (
    *("accessKey", "accountId", "caller", "cognitoAuthenticationProvider", "cognitoAuthenticationType"),
    *("cognitoIdentityId", "cognitoIdentityPoolId", "principalOrgId", "user", "userArn"),
)


def rest_api_event(
    request: Request, body: bytes, source_ip: str, port: int, request_id: str, trace_id: str, stage: str
) -> dict[str, Any]:
    """The payload 1.0 event of a request.

    A path that begins with the stage is one of the default domain: `/prod/orders` is `/orders` of the stage `prod`. Any
    other path is one of a custom domain, whose URLs have no stage.

    Args:
        body: as received. The event contains it in base64 unless it is UTF-8, so no binary media types are configured.
        source_ip: address of the client.
        port: the port that the client connected to.
        trace_id: for the `X-Amzn-Trace-Id` header that the service adds.
    """
    full, _, query = request.target.partition("?")
    path = path_in_stage(full, stage)
    has_stage = path is not None
    path = full if path is None else path
    headers = event_headers(request.headers, source_ip, port, trace_id)
    parameters = lists_of(urllib.parse.parse_qsl(query, keep_blank_values=True))
    resource = "/" if path == "/" else "/{proxy+}"
    return {
        "resource": resource,
        "path": path,
        "httpMethod": request.method,
        "headers": last_values(headers),
        "multiValueHeaders": headers,
        "queryStringParameters": last_values(parameters) or None,
        "multiValueQueryStringParameters": parameters or None,
        "pathParameters": None if path == "/" else {"proxy": path.removeprefix("/")},
        "stageVariables": None,
        "requestContext": {
            **request_context(request, source_ip, request_id),
            "path": f"/{stage}{path}" if has_stage else path,
            "resourceId": "local",
            "resourcePath": resource,
            "stage": stage,
        },
        **encoded_body(body),
    }


def path_in_stage(path: str, stage: str) -> str | None:
    """The path without the stage; None if it does not begin with it."""
    if path == f"/{stage}":
        return "/"
    return path.removeprefix(f"/{stage}") if path.startswith(f"/{stage}/") else None


def event_headers(headers: Headers, source_ip: str, port: int, trace_id: str) -> Lists:
    """All values by name. Names keep their case; a name in two cases is one header."""
    added = [
        ("X-Amzn-Trace-Id", trace_id),
        ("X-Forwarded-For", source_ip),
        ("X-Forwarded-Port", str(port)),
        ("X-Forwarded-Proto", "http"),
    ]
    replaced = {*HOP_HEADERS, *(name.lower() for name, _ in added)}
    own = [(name, value) for name, value in headers.fields if name.lower() not in replaced]
    first_forms: dict[str, str] = {}
    return lists_of([(first_forms.setdefault(name.lower(), name), value) for name, value in (*own, *added)])


def lists_of(pairs: list[tuple[str, str]]) -> Lists:
    lists: Lists = {}
    for name, value in pairs:
        lists.setdefault(name, []).append(value)
    return lists


def last_values(lists: Lists) -> dict[str, str]:
    return {name: values[-1] for name, values in lists.items()}


def request_context(request: Request, source_ip: str, request_id: str) -> dict[str, Any]:
    now = time.time()
    domain = host_name(request.headers.get("Host", "localhost"))
    identity: dict[str, Any] = dict.fromkeys(WITHOUT_VALUE)
    user_agent = request.headers.get("User-Agent") or None
    return {
        "accountId": ACCOUNT,
        "apiId": "local",
        "deploymentId": "local",
        "domainName": domain,
        "domainPrefix": domain.partition(".")[0],
        "extendedRequestId": base64.b64encode(request_id.encode()[:11]).decode("ascii"),
        "httpMethod": request.method,
        "identity": identity | {"sourceIp": source_ip, "userAgent": user_agent},
        "protocol": request.version,
        "requestId": request_id,
        "requestTime": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
        "requestTimeEpoch": int(now * 1000),
    }


def encoded_body(body: bytes) -> dict[str, Any]:
    if not body:
        return {"body": None, "isBase64Encoded": False}
    try:
        return {"body": body.decode("utf-8"), "isBase64Encoded": False}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(body).decode("ascii"), "isBase64Encoded": True}
