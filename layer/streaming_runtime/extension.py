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


def register(api: "RuntimeApi", log: "Log") -> Connection:
    """Register, and return the connection that waits for events. Keep it: the extension ends when it is closed."""
    connection = Connection(*api.address)
    try:
        fields = f"{api.common_fields}{NAME_HEADER}: {NAME}\r\nContent-Type: application/json\r\n"
        length = f"Content-Length: {len(NO_EVENTS)}\r\n"
        connection.renew()
        connection.send(request_head("POST", api.prefix + REGISTER_PATH, fields + length) + NO_EVENTS)
        response = connection.read_response()
        if not response.is_success:
            raise NotDelivered(f"the response was {response}")
        fields = f"{api.common_fields}{ID_HEADER}: {response.headers.get(ID_HEADER.lower(), '')}\r\n"
        connection.renew()
        connection.send(request_head("GET", api.prefix + NEXT_EVENT_PATH, fields))
    except NotDelivered as reason:
        log.line(f"the registration as an extension failed, no SIGTERM will come before the environment ends: {reason}")
    return connection
