"""The client context of an invocation: what a mobile application sends, and the W3C trace context."""

from streaming_runtime.invocation import make_picklable, represent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "0.1.0"


class ClientContext:
    """The client context that a mobile application sends: `client`, `custom`, `env`."""

    __slots__ = ("client", "custom", "env")

    __reduce__ = make_picklable

    def __init__(self, fields: "dict[str, Any]") -> None:
        client = fields.get("client")
        self.custom = fields.get("custom")
        self.env = fields.get("env")
        self.client = Client(client) if isinstance(client, dict) else None

    def __repr__(self) -> str:
        return represent(self, "custom env client")


class Client:
    """The mobile application of a client context."""

    __slots__ = ("app_package_name", "app_title", "app_version_code", "app_version_name", "installation_id")

    __reduce__ = make_picklable

    def __init__(self, fields: "dict[str, Any]") -> None:
        for name in self.__slots__:
            setattr(self, name, fields.get(name))

    def __repr__(self) -> str:
        return represent(self, "installation_id app_title app_version_name app_version_code app_package_name")


def take_w3c_fields(client_context: "dict[str, Any]") -> "dict[str, str]":
    """Remove the W3C trace context from the client context, which the service uses to transport it."""
    fields = client_context.pop("w3c", None)
    if not isinstance(fields, dict):
        return {}
    names = ("traceparent", "tracestate", "baggage")
    return {name: fields[name] for name in names if isinstance(fields.get(name), str)}
