"""URLs in messages and logs.

A URL can carry credentials in two places: user and password before the host (RFC 3986, section 3.2.1), and a signature
in the query, as in the presigned URLs of Amazon S3 that `GetLayerVersion` and `GetFunction` return. Logs of CI systems
are often public, so neither may reach a message.
"""

import re
from urllib.parse import urlsplit

# RFC 3986, section 3.1: a scheme; then everything up to white space or a quote, neither of which a URL contains.
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]+")


def without_secrets(url: str) -> str:
    """Return `url` without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:  # an address that no client could open, such as http://[
        return re.sub(r"//.*", "//…", url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def redact(text: str) -> str:
    """Return `text` with each URL in it replaced by the same URL without secrets."""
    return _URL.sub(lambda match: without_secrets(match[0]), text)
