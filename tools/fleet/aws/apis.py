"""HTTP APIs of API Gateway in one region."""

from __future__ import annotations

from tools.fleet.aws.errors import AccessDenied, NotFound, translated
from tools.fleet.aws.session import Aws


class Apis:
    """The APIs that one account can read in one region."""

    def __init__(self, aws: Aws, region: str) -> None:
        self._aws = aws
        self._region = region

    def is_http(self, api_id: str) -> bool:
        """Return whether an API is an HTTP API; False if it is a REST API, was deleted, or may not be read."""
        try:
            with translated():
                api = self._aws.client("apigatewayv2", self._region).get_api(ApiId=api_id)
        except (NotFound, AccessDenied):
            return False
        return bool(api.get("ProtocolType") == "HTTP")
