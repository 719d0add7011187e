"""API Gateway HTTP APIs that may invoke a function.

An HTTP API sends events in the form of Function URLs, but it cannot read a streamed response. The resource-based policy
of a function names the APIs that may invoke it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tools.fleet.checks.finding import Finding

# arn:aws:execute-api:REGION:ACCOUNT:API/STAGE/METHOD/PATH (API Gateway Developer Guide,
# arn-format-reference). Only HTTP APIs have the stage and the route $default.
_API = re.compile(r"arn:[^:]+:execute-api:[^:]*:[^:]*:(?P<id>[a-z0-9]+)/(?P<rest>.*)")


def check_http_apis(
    name: str, statements: Sequence[dict[str, Any]], is_http: Callable[[str], bool]
) -> Iterator[Finding]:
    """Yield a finding for each HTTP API that may invoke a function.

    Args:
        name: of the function.
        statements: of its resource-based policy.
        is_http: returns whether the API with an id is an HTTP API.
    """
    routes: dict[str, list[str]] = {}
    for arn in _source_arns(statements):
        if match := _API.fullmatch(arn):
            routes.setdefault(match["id"], []).append(match["rest"])
    for api_id, rests in routes.items():
        if any("$default" in rest for rest in rests) or is_http(api_id):
            yield Finding(
                f"the API Gateway HTTP API {api_id} may invoke it",
                "an HTTP API cannot read a streamed response; its callers get JSON in front of the body",
                f"aws lambda create-function-url-config --function-name {name} --auth-type NONE "
                "--invoke-mode RESPONSE_STREAM, or a REST API with responseTransferMode STREAM",
            )


def _source_arns(statements: Sequence[dict[str, Any]]) -> Iterator[str]:
    for statement in statements:
        for operands in statement.get("Condition", {}).values():
            for key, value in operands.items():
                if key.lower() == "aws:sourcearn":
                    yield from [value] if isinstance(value, str) else value
