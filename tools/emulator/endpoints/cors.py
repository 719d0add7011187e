"""Cross-origin resource sharing (CORS), as configured for a Function URL, which responds to preflight requests itself.

https://docs.aws.amazon.com/lambda/latest/dg/urls-configuration.html#urls-cors; the protocol is defined by the Fetch
standard (https://fetch.spec.whatwg.org/#http-cors-protocol).
"""

from __future__ import annotations

import json
from typing import Any

from tools.emulator.http1.connection import Headers, Request

_LISTS = ("AllowOrigins", "AllowMethods", "AllowHeaders", "ExposeHeaders")
MAX_AGE_SECONDS = 86400


class Cors:
    """A CORS configuration.

    Args:
        settings: those of `Cors` in `CreateFunctionUrlConfig`, with the same names.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    @classmethod
    def parse(cls, text: str) -> Cors:
        """Parse JSON as the AWS CLI takes it, or origins separated by commas. Raises ValueError with the cause."""
        if not text.lstrip().startswith("{"):
            origins = [origin.strip() for origin in text.split(",")]
            return cls.validated({"AllowOrigins": origins, "AllowMethods": ["*"], "AllowHeaders": ["*"]})
        try:
            settings = json.loads(text)
        except ValueError as error:
            raise ValueError(f"it is not JSON: {error}") from None
        return cls.validated(settings)

    @classmethod
    def validated(cls, settings: dict[str, Any]) -> Cors:
        for name, value in settings.items():
            if name in _LISTS:
                valid = isinstance(value, list) and all(
                    isinstance(item, str) and item and item.isprintable() and item.isascii() for item in value
                )
            elif name == "AllowCredentials":
                valid = isinstance(value, bool)
            elif name == "MaxAge":
                valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_AGE_SECONDS
            else:
                raise ValueError(f"unknown setting {name!r}; use {', '.join(_LISTS)}, AllowCredentials or MaxAge")
            if not valid:
                raise ValueError(f"{name} cannot be {value!r}")
        return cls(settings)

    @staticmethod
    def is_preflight(request: Request) -> bool:
        return (
            request.method == "OPTIONS"
            and "Origin" in request.headers
            and "Access-Control-Request-Method" in request.headers
        )

    def preflight_headers(self, headers: Headers) -> list[tuple[str, str]]:
        """The headers of the response to a preflight request; none if the origin is not allowed."""
        common = self.headers(headers)
        if not common:
            return []
        requested_method = headers.get("Access-Control-Request-Method")
        requested_headers = headers.get("Access-Control-Request-Headers")
        more = [
            ("access-control-allow-methods", self._allowed("AllowMethods", requested_method)),
            ("access-control-allow-headers", self._allowed("AllowHeaders", requested_headers)),
            ("access-control-max-age", str(self.settings.get("MaxAge", ""))),
        ]
        return [*common, *((name, value) for name, value in more if value)]

    def headers(self, headers: Headers) -> list[tuple[str, str]]:
        """The headers of every response to an allowed origin."""
        origin = headers.get("Origin")
        allowed = self.settings.get("AllowOrigins", [])
        credentials = self.settings.get("AllowCredentials", False)
        if not origin or not ({"*", origin} & set(allowed)):
            return []
        any_origin = "*" in allowed and not credentials
        result = [("access-control-allow-origin", "*" if any_origin else origin)]
        if not any_origin:
            result.append(("vary", "Origin"))
        if credentials:
            result.append(("access-control-allow-credentials", "true"))
        if exposed := ",".join(self.settings.get("ExposeHeaders", [])):
            result.append(("access-control-expose-headers", exposed))
        return result

    def _allowed(self, name: str, requested: str) -> str:
        """The configured values; for a wildcard the requested ones, because "*" is literal with credentials (Fetch)."""
        values = self.settings.get(name, [])
        return requested if "*" in values else ",".join(values)
