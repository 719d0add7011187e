"""The least that can stream: a lower bound for the cold start through the same `bootstrap`.

It serves `functions/streaming.py` with a fixed event, over one connection, and checks nothing. `VERSION`, `check` and
`main` are what `bootstrap` needs; the benchmark fills in the version of the layer.
"""

import _socket
import os
import sys

VERSION = "@VERSION@"


def check(version: str) -> None:
    """bootstrap calls this before `main`."""


PATH = "/2018-06-01/runtime/invocation"


def receive(connection: _socket.socket) -> bytes:
    data = connection.recv(65536)
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(None, 1)[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head


def main() -> None:
    host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
    sys.path.insert(0, os.environ["LAMBDA_TASK_ROOT"])
    handler = __import__("lambda_function").handler
    connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    connection.connect((host, int(port)))
    while True:
        connection.send(f"GET {PATH}/next HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        request_id = receive(connection).lower().partition(b"aws-request-id:")[2].split(None, 1)[0].decode()
        head = f"POST {PATH}/{request_id}/response HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
        start = head.encode()
        for chunk in handler({"chunks": 1, "size": 16}, None):
            connection.send(b"%s%x\r\n%s\r\n" % (start, len(chunk), chunk))
            start = b""
        connection.send(b"0\r\n\r\n")
        receive(connection)
