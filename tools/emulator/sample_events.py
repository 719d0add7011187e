"""Sample events of services that invoke functions, in `events/`.

The sources of their forms: AWS Lambda Developer Guide, urls-invocation (url), with-sqs, with-s3, with-eventbridge;
API Gateway Developer Guide, set-up-lambda-proxy-integrations (rest, payload 1.0) and
http-api-develop-integrations-lambda (apigw: an HTTP API, payload 2.0).
"""

from __future__ import annotations

import json
from pathlib import Path

from tools.common.event_argument import event_bytes

FOLDER = Path(__file__).with_name("events")
SAMPLE_EVENTS = ("url", "rest", "sqs", "s3", "eventbridge", "apigw")


def sample_event(name: str) -> bytes:
    return (FOLDER / f"{name}.json").read_bytes()


def event_argument(text: str) -> bytes:
    """Return the value of --event: a sample event, or what `event_bytes` accepts. A file can be named `./sqs`."""
    return sample_event(text) if text in SAMPLE_EVENTS else event_bytes(text)


def formatted(event: bytes) -> str:
    """The event for people: indented, with a line end. Escaped half surrogates stay escaped, to be valid UTF-8."""
    document = json.loads(event)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return (text if is_encodable(text) else json.dumps(document, indent=2)) + "\n"


def is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
