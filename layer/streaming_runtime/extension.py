"""Registration as an internal extension, so that the service sends SIGTERM before it ends the environment.

AWS Lambda Developer Guide, runtimes-extensions-api and lambda-runtime-environment: without an extension, the service
sends SIGKILL. An extension without events must ask for its next event all the same, otherwise the service waits for it.
No response comes, so none is read.
"""

from streaming_runtime import NotDelivered
from streaming_runtime.connection import Connection
from streaming_runtime.http1 import request_head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from streaming_runtime.api import RuntimeApi
    from streaming_runtime.log import Log

VERSION = "0.1.0"

REGISTER_PATH = "/2020-01-01/extension/register"
NEXT_EVENT_PATH = "/2020-01-01/extension/event/next"
NAME_HEADER = "Lambda-Extension-Name"
ID_HEADER = "Lambda-Extension-Identifier"
NAME = "python-streaming-runtime"
NO_EVENTS = b'{"events":[]}'


class Extension:
    """The registration. Keep the object: the extension ends when its connection is closed."""

    def __init__(self, api: "RuntimeApi", log: "Log") -> None:
        self._api = api
        self._log = log
        self._connection = Connection(*api.address)
        self._identifier = ""

    def register(self) -> None:
        """Register, and ask for the next event. A failure is logged; the function works without the extension."""
        fields = f"{self._api.common_fields}{NAME_HEADER}: {NAME}\r\nContent-Type: application/json\r\n"
        length = f"Content-Length: {len(NO_EVENTS)}\r\n"
        try:
            self._connection.renew()
            self._connection.send(request_head("POST", self._api.prefix + REGISTER_PATH, fields + length) + NO_EVENTS)
            response = self._connection.read_response()
            if not response.is_success:
                raise NotDelivered(f"the response was {response}")
            self._identifier = response.headers.get(ID_HEADER.lower(), "")
            self._ask_for_event()
        except NotDelivered as reason:
            self._log_failure("registration as an extension failed", reason)

    def disown(self) -> None:
        """Close this end of the connection in a forked process."""
        self._connection.disown()

    def resume(self) -> None:
        """After a restore, ask again with the same identifier if the connection has not survived the snapshot."""
        if self._identifier and self._connection.is_stale():
            try:
                self._ask_for_event()
            except NotDelivered as reason:
                self._log_failure("extension could not continue after the restore", reason)

    def _ask_for_event(self) -> None:
        fields = f"{self._api.common_fields}{ID_HEADER}: {self._identifier}\r\n"
        self._connection.renew()
        self._connection.send(request_head("GET", self._api.prefix + NEXT_EVENT_PATH, fields))

    def _log_failure(self, what: str, reason: NotDelivered) -> None:
        self._log.line(f"the {what}, no SIGTERM will come before the environment ends: {reason}")
