"""The page of --open, which sends events to the functions and shows the chunks of their responses.

    /lambda-page/               the page, one static file
    /lambda-page/events/NAME    a sample event

Only --open serves these paths: otherwise they belong to the first function, like all others.
"""

from __future__ import annotations

import threading
from pathlib import Path

from tools.emulator.console import Console
from tools.emulator.http1.connection import Connection, ProtocolError, Request
from tools.emulator.http1.responses import send
from tools.emulator.sample_events import SAMPLE_EVENTS, sample_event

PATH = "/lambda-page/"
FILE = Path(__file__).with_name("page.html")
NO_CACHE = ("Cache-Control", "no-store")


def serve_page(connection: Connection, request: Request) -> bool:
    """Respond to a request below `PATH`. Returns whether the connection can serve another request.

    Raises ProtocolError if there is nothing at the path, or if the request has a body.
    """
    connection.read_body(request, 0)
    path = request.target.partition("?")[0]
    if request.method not in ("GET", "HEAD"):
        raise ProtocolError("the page of --open accepts GET and HEAD only", 405)
    if path == PATH:
        return send_file(connection, request, "text/html; charset=utf-8", FILE.read_bytes())
    name = path.removeprefix(f"{PATH}events/")
    if name in SAMPLE_EVENTS:
        return send_file(connection, request, "application/json", sample_event(name))
    raise ProtocolError(f"there is no page {path}; the page is {PATH}", 404)


def send_file(connection: Connection, request: Request, content_type: str, content: bytes) -> bool:
    return send(connection, request, 200, [("Content-Type", content_type), NO_CACHE], content)


def open_page(url: str, console: Console) -> None:
    """Open the page in a browser, on a thread: a browser for the terminal returns when it ends."""

    def work() -> None:
        import webbrowser  # only --open needs a browser

        if not webbrowser.open(url):
            console.note(f"no browser could be started; open {url}")

    console.note(f"page: {url}")
    threading.Thread(target=work, daemon=True).start()
