"""Cross-origin resource sharing as it is configured for a Function URL, which answers preflight requests itself.

https://docs.aws.amazon.com/lambda/latest/dg/urls-configuration.html#urls-cors; the protocol is that of the Fetch
standard (https://fetch.spec.whatwg.org/#http-cors-protocol).
"""

from __future__ import annotations

import json
from typing import Any

from tools.emulator.http1.server import Headers, Request

_LISTS = ("AllowOrigins", "AllowMethods", "AllowHeaders", "ExposeHeaders")
_LONGEST_AGE = 86400  # seconds


class Cors:
    """A configuration.

    Args:
        settings: those of `CreateFunctionUrlConfig`'s `Cors`, with the same names.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    @classmethod
    def parse(cls, text: str) -> Cors:
        """Of JSON as the AWS CLI takes it, or of origins with commas between. Raises ValueError with the reason."""
        if not text.lstrip().startswith("{"):
            origins = [origin.strip() for origin in text.split(",")]
            return cls.checked({"AllowOrigins": origins, "AllowMethods": ["*"], "AllowHeaders": ["*"]})
        try:
            settings = json.loads(text)
        except ValueError as error:
            raise ValueError(f"it is not JSON: {error}") from None
        return cls.checked(settings)

    @classmethod
    def checked(cls, settings: dict[str, Any]) -> Cors:
        for name, value in settings.items():
            if name in _LISTS:
                sound = isinstance(value, list) and all(
                    isinstance(item, str) and item and item.isprintable() and item.isascii() for item in value
                )
            elif name == "AllowCredentials":
                sound = isinstance(value, bool)
            elif name == "MaxAge":
                sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LONGEST_AGE
            else:
                raise ValueError(f"there is no {name!r}, only {', '.join(_LISTS)}, AllowCredentials and MaxAge")
            if not sound:
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
        """What a preflight request is answered with; nothing where the origin is not allowed."""
        common = self.headers(headers)
        if not common:
            return []
        asked_method = headers.get("Access-Control-Request-Method")
        asked_headers = headers.get("Access-Control-Request-Headers")
        told = [
            ("access-control-allow-methods", self._list("AllowMethods", asked_method)),
            ("access-control-allow-headers", self._list("AllowHeaders", asked_headers)),
            ("access-control-max-age", str(self._settings.get("MaxAge", ""))),
        ]
        return [*common, *((name, value) for name, value in told if value)]

    def headers(self, headers: Headers) -> list[tuple[str, str]]:
        """What every answer has for an origin that is allowed."""
        origin = headers.get("Origin")
        allowed = self._settings.get("AllowOrigins", [])
        credentials = self._settings.get("AllowCredentials", False)
        if not origin or not ({"*", origin} & set(allowed)):
            return []
        every = "*" in allowed and not credentials
        told = [("access-control-allow-origin", "*" if every else origin)]
        if not every:
            told.append(("vary", "Origin"))
        if credentials:
            told.append(("access-control-allow-credentials", "true"))
        if exposed := ",".join(self._settings.get("ExposeHeaders", [])):
            told.append(("access-control-expose-headers", exposed))
        return told

    def _list(self, name: str, asked: str) -> str:
        """The configured values; where all are allowed, what was asked for: a wildcard does not go with credentials."""
        values = self._settings.get(name, [])
        return asked if "*" in values else ",".join(values)
