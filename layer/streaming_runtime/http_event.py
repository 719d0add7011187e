"""The HTTP request in an event, for web applications: one form for both payload formats.

    payload 2.0    a Function URL; also an API Gateway HTTP API, which cannot stream
    payload 1.0    an API Gateway REST API

Sources: AWS Lambda Developer Guide, urls-invocation; API Gateway Developer Guide,
set-up-lambda-proxy-integrations (1.0) and http-api-develop-integrations-lambda (2.0).

The two formats lose different parts of a request. What can go wrong:

- Payload 2.0 joins repeated headers with commas, which no reader can undo: a date contains a comma. They stay joined.
  Cookies are separated by semicolons, so they have a list of their own, `cookies`.
- Payload 1.0 contains the query decoded. It is encoded again, so it can differ from the caller's in its form.
- A REST API has its stage in the URL, but not in `path`. An application that does not know the stage makes links that
  lead nowhere. Behind a custom domain there is no stage in the URL, only perhaps a base path.
- Every value comes from outside, and anyone who may invoke the function can send any JSON. So each type is checked.
"""

from streaming_runtime import ContractError, describe_type, import_standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from streaming_runtime.log import Log

VERSION = "0.1.0"

a2b_base64: "Any" = import_standard("binascii").a2b_base64

COOKIE = b"cookie"
DEFAULT_STAGE = "$default"
HTTP_API_DOMAIN = ".execute-api."
HTTP_API_WARNING = (
    "an API Gateway HTTP API has invoked the function, but it cannot read a streamed response: its callers get the "
    "status 200, with the JSON of the status and headers in the body; use a Function URL with InvokeMode "
    "RESPONSE_STREAM, or a REST API with responseTransferMode STREAM"
)
MAX_PORT = 65535
DEFAULT_PORTS = {"http": 80, "https": 443}


class HttpRequest:
    """One HTTP request.

    Attributes:
        method: in upper case.
        path: percent-decoded; begins with `root_path`.
        raw_path: as in the request line, without the query.
        root_path: the stage of API Gateway, such as `/prod`; empty if the URL contains none.
        query_string: as in the request line, without the question mark.
        headers: names in lower case and values, in the order of the event; one `cookie` header at most.
        body: decoded, whether it is text or base64 in the event.
        scheme: `http` or `https`, as the caller used it.
        http_version: such as `1.1`.
        client: address and port of the caller; the port is 0, because events do not contain it. None if unknown.
        server: the domain name in the event, otherwise the header `host`, and a port. None if unknown.
    """

    __slots__ = (
        "body",
        "client",
        "headers",
        "http_version",
        "method",
        "path",
        "query_string",
        "raw_path",
        "root_path",
        "scheme",
        "server",
    )

    def __init__(self, event: "dict[str, Any]", method: str, headers: "list[tuple[bytes, bytes]]") -> None:
        self.method = method.upper()
        self.headers = headers
        self.body = body_of(event)
        proto = self.header(b"x-forwarded-proto").partition(",")[0].strip().lower()
        self.scheme = proto if proto in DEFAULT_PORTS else "https"
        self.root_path = self.path = ""
        self.raw_path = self.query_string = b""
        self.http_version = "1.1"
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int] | None = None

    def header(self, name: bytes) -> str:
        """Return the first value of a header; empty if there is none."""
        return next((value.decode("latin-1") for each, value in self.headers if each == name), "")

    def set_peers(self, protocol: object, source_ip: object, domain: object) -> None:
        if isinstance(protocol, str) and protocol.startswith("HTTP/"):
            version = protocol.removeprefix("HTTP/")
            self.http_version = "2" if version == "2.0" else version
        if isinstance(source_ip, str) and source_ip:
            self.client = source_ip, 0
        # The service sets the domain name; the caller can send any `host`, which is only better than nothing.
        host = (domain if isinstance(domain, str) else "") or self.header(b"host")
        if host:
            self.server = server_of(host, self.header(b"x-forwarded-port"), self.scheme)


class EventReader:
    """Reads the events of an environment.

    Args:
        log: gets one warning if the events come from an API Gateway HTTP API.
    """

    def __init__(self, log: "Log") -> None:
        self._log = log
        self._has_warned = False

    def read(self, event: object) -> HttpRequest:
        """Return the request in an event. Raises ContractError (`InvalidEvent`) if it contains none."""
        if isinstance(event, dict) and isinstance(context := event.get("requestContext"), dict):
            http = context.get("http")
            if event.get("version") == "2.0" and isinstance(http, dict):
                self._warn_about_http_api(context)
                return read_2_0(event, context, http)
            if event.get("version", "1.0") == "1.0" and "elb" not in context:  # a load balancer cannot stream either
                return read_1_0(event, context)
        raise not_http(describe_event(event))

    def _warn_about_http_api(self, context: "dict[str, Any]") -> None:
        if not self._has_warned and HTTP_API_DOMAIN in str(context.get("domainName")):
            self._has_warned = True
            self._log.line(HTTP_API_WARNING)


# --- The two formats --------------------------------------------------------------------------------------------------


def read_2_0(event: "dict[str, Any]", context: "dict[str, Any]", http: "dict[str, Any]") -> HttpRequest:
    method, raw_path = text(http, "method"), text(event, "rawPath")
    request = HttpRequest(event, method, with_one_cookie(encoded(mapping(event, "headers").items()), cookies_of(event)))
    request.raw_path = as_raw_path(raw_path)
    request.path = unquote(raw_path)
    stage = context.get("stage")
    if isinstance(stage, str) and stage != DEFAULT_STAGE and within(f"/{stage}", request.path):
        request.root_path = f"/{stage}"
    query = event.get("rawQueryString") or ""
    request.query_string = as_bytes(query) if isinstance(query, str) else b""
    request.set_peers(http.get("protocol"), http.get("sourceIp"), context.get("domainName"))
    return request


def read_1_0(event: "dict[str, Any]", context: "dict[str, Any]") -> HttpRequest:
    method, path = text(event, "httpMethod"), text(event, "path")
    headers = repeated(event, "multiValueHeaders", "headers", key=str.lower)
    request = HttpRequest(event, method, with_one_cookie(encoded(headers), []))
    request.root_path = root_path_1_0(context, path)
    request.raw_path = as_raw_path(request.root_path + path)
    request.path = unquote(request.root_path + path)
    query = list(repeated(event, "multiValueQueryStringParameters", "queryStringParameters"))
    if query:
        parse = import_standard("urllib.parse")
        request.query_string = parse.urlencode(query, quote_via=parse.quote, errors="surrogatepass").encode("ascii")
    identity = context.get("identity")
    source_ip = identity.get("sourceIp") if isinstance(identity, dict) else None
    request.set_peers(context.get("protocol"), source_ip, context.get("domainName"))
    return request


def root_path_1_0(context: "dict[str, Any]", path: str) -> str:
    """Return what the URL contains before `path`: the stage, or nothing behind a custom domain.

    `requestContext.path` is the path in the URL, with the stage. API Gateway may have decoded one of the two.
    """
    stage, full = context.get("stage"), context.get("path")
    if isinstance(full, str):
        for whole, end in ((full, path), (unquote(full), unquote(path))):
            if whole.endswith(end) and whole != end:
                return whole.removesuffix(end)
        if HTTP_API_DOMAIN not in str(context.get("domainName")):
            return ""
    return f"/{stage}" if isinstance(stage, str) and stage not in ("", DEFAULT_STAGE) else ""


# --- The parts of an event --------------------------------------------------------------------------------------------


def not_http(found: str) -> ContractError:
    return ContractError(
        "InvalidEvent",
        f"the handler is a web application, and the event is not an HTTP request: {found}; invoke the function "
        "through a Function URL or an API Gateway REST API, or with an event in the form of theirs",
    )


def describe_event(event: object) -> str:
    if not isinstance(event, dict):
        return f"it is {describe_type(event)}"
    names = ", ".join(sorted(str(name)[:40] for name in event)[:10])
    return f"it has the keys {names}" if names else "it is empty"


def text(fields: "dict[str, Any]", name: str) -> str:
    value = fields.get(name)
    if isinstance(value, str) and value:
        return value
    raise not_http(f"{name} is {'empty' if value == '' else describe_type(value)}")


def mapping(event: "dict[str, Any]", name: str) -> "dict[str, Any]":
    value = event.get(name)
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise not_http(f"{name} is {describe_type(value)}")


def repeated(
    event: "dict[str, Any]", multiple: str, single: str, key: "Callable[[str], str]" = str
) -> "list[tuple[str, Any]]":
    """Return names and values. In payload 1.0, one field has the lists of all values, and one the last value of each.

    The console and hand-written events often contain the second one only. A test event can contain both, with names of
    headers in different cases.

    Args:
        key: gives names that are the same the same value.
    """
    lists, singles = mapping(event, multiple), mapping(event, single)
    listed = {key(name) for name in lists}
    found: list[tuple[str, Any]] = []
    for name, values in {**{each: [singles[each]] for each in singles if key(each) not in listed}, **lists}.items():
        if not isinstance(values, list):
            raise not_http(f"{multiple} contains {describe_type(values)}")
        found += [(name, value) for value in values]
    return found


def encoded(fields: "Any") -> "list[tuple[bytes, bytes]]":
    """Return the headers as bytes, names in lower case."""
    headers = []
    for name, value in fields:
        if not isinstance(value, str):
            raise not_http(f"the header {str(name)[:40]} is {describe_type(value)}")
        headers.append((as_bytes(name.lower()), as_bytes(value)))
    return headers


def cookies_of(event: "dict[str, Any]") -> "list[bytes]":
    cookies = event.get("cookies") or []
    if not isinstance(cookies, list) or not all(isinstance(cookie, str) for cookie in cookies):
        raise not_http("cookies is not a list of strings")
    return [as_bytes(cookie) for cookie in cookies]


def with_one_cookie(headers: "list[tuple[bytes, bytes]]", cookies: "list[bytes]") -> "list[tuple[bytes, bytes]]":
    """Return the headers with all cookies in one header (RFC 6265, 5.4), those of the list if there is one."""
    cookies = cookies or [value for name, value in headers if name == COOKIE]
    others = [header for header in headers if header[0] != COOKIE]
    return [*others, (COOKIE, b"; ".join(cookies))] if cookies else others


def body_of(event: "dict[str, Any]") -> bytes:
    body = event.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        raise not_http(f"body is {describe_type(body)}")
    try:
        # Strict: characters that are not base64 would be skipped otherwise, and the application would get other bytes.
        decoded: bytes = a2b_base64(body, strict_mode=True) if event.get("isBase64Encoded") else body.encode()
        return decoded
    except ValueError as error:
        raise not_http(f"body cannot be decoded: {error}") from None


def server_of(host: str, forwarded_port: str, scheme: str) -> "tuple[str, int]":
    """Return name and port. The port is in the host, or the one of `x-forwarded-port`, or the one of the scheme."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal() or (":" in name and not name.endswith("]")):
        name, port = host, forwarded_port
    name = name.removeprefix("[").removesuffix("]")
    is_port = port.isascii() and port.isdecimal() and len(port.lstrip("0")) < 6 and int(port) <= MAX_PORT
    return name, int(port) if is_port else DEFAULT_PORTS[scheme]


# --- Text and bytes ---------------------------------------------------------------------------------------------------


def as_bytes(value: str) -> bytes:
    """Return the bytes that the service has decoded: latin-1 in HTTP, or UTF-8 if the text has other characters."""
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def as_raw_path(path: str) -> bytes:
    """Return a path in ASCII; what the service has decoded is encoded again."""
    if path.isascii() and path.isprintable() and " " not in path:
        return path.encode("ascii")
    raw: str = import_standard("urllib.parse").quote(path, safe="/%:@!$&'()*+,;=~", errors="surrogatepass")
    return raw.encode("ascii")


def unquote(path: str) -> str:
    """Return the path, percent-decoded as UTF-8."""
    decoded: str = import_standard("urllib.parse").unquote(path) if "%" in path else path
    return decoded


def within(root: str, path: str) -> bool:
    return path == root or path.startswith(f"{root}/")
