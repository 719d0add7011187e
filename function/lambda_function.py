"""Stream a sentence word by word, to a direct invocation or through a Function URL."""

import base64
import json
import time

DEFAULT_SENTENCE = "Hello from a Lambda function that streams its response"
SECONDS_PER_WORD = 0.5


def handler(event, context):
    for word in sentence_of(event).split():
        yield f"{word} ".encode()
        time.sleep(SECONDS_PER_WORD)


def sentence_of(event):
    """Return the sentence of {"sentence": "..."}: the event itself, or the JSON body of a Function URL's event."""
    request = body_of(event) if is_http(event) else event
    if not isinstance(request, dict):
        raise ValueError('expected a JSON object like {"sentence": "Hello world"}')
    sentence = request.get("sentence", DEFAULT_SENTENCE)
    if not isinstance(sentence, str):
        raise ValueError('expected "sentence" to be a string, as in {"sentence": "Hello world"}')
    return sentence


def is_http(event):
    return isinstance(event, dict) and "requestContext" in event


def body_of(event):
    body = event.get("body") or "{}"
    try:
        return json.loads(base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body)
    except ValueError as error:
        raise ValueError('expected a JSON body like {"sentence": "Hello world"}') from error
