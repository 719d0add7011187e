"""A real browser, headless Chromium: it shows a page, and receives server-sent events, while they are made.

The page reports what it shows by requests of its own, and the handler continues only after the report. So a browser
that waited for the end of the page would wait for ever. Without Chromium these tests are skipped.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.emulator import BARE_ENVIRONMENT, FunctionFolder, Serving

# `seen(text)` sends the text to the function when the browser has drawn everything before it.
PAGE = """
SEEN_SCRIPT = '''<script>
  const seen = text => new Promise(resolve => requestAnimationFrame(
    () => fetch("/seen", {method: "POST", body: text}).then(resolve)));
</script>'''

# It uses the page of --open like a person: it enters an event, presses Send, and reads the table and the state.
DRIVER = '''<iframe src="/lambda-page/"></iframe><script>
  const frame = document.querySelector("iframe");
  const changed = (page, test) => new Promise(resolve => {
    const check = () => test() && resolve();
    new MutationObserver(check).observe(page.body, {subtree: true, childList: true, attributes: true});
    check();
  });
  frame.onload = async () => {
    const page = frame.contentDocument, get = id => page.getElementById(id);
    const rows = () => [...get("chunks").rows].map(row => row.cells[4].textContent).join("|");
    await changed(page, () => get("function").options.length);
    for (const word of ["hello", "fail"]) {
      get("event").value = JSON.stringify({word});
      get("send").click();
      await changed(page, () => rows() === word);
      await seen(`${rows()} ${get("chunks").rows[0].cells[1].textContent > 0}`);
      await changed(page, () => !get("send").disabled);
      await seen(`${rows()} ${get("state").textContent} ${get("log").textContent.includes("REPORT")}`);
    }
    get("event").value = "{";
    get("send").click();
    seen(get("state").textContent);
  };
</script>'''

def html(text):
    return f"<p>{text}</p><script>seen(document.body.innerText.trim())</script>".encode()

def handler(event, context):
    path = event.get("rawPath")
    if path is None:  # the page of --open sends it
        yield event["word"].encode()
        wait()
        yield "gr\\u00fc\\u00df".encode()[:3]
        yield "gr\\u00fc\\u00df".encode()[3:]
        if event["word"] == "fail":
            raise ValueError("no more words")
    elif path == "/seen":
        notify(event["body"])
        yield {"statusCode": 204}
    elif path == "/page":
        yield {"headers": {"Content-Type": "text/html; charset=utf-8"}}
        yield b"<!doctype html><title>page</title><body>" + SEEN_SCRIPT.encode()
        for word in ("one", "two", "thr\\u00e9e"):
            yield html(word)
            wait()
    elif path == "/driver":
        yield {"headers": {"Content-Type": "text/html"}}
        yield SEEN_SCRIPT.encode() + DRIVER.encode()
    elif path == "/listener":
        yield {"headers": {"Content-Type": "text/html"}}
        yield SEEN_SCRIPT.encode() + b'''<script>
          const source = new EventSource("/events");
          source.onmessage = event => seen(`message ${event.data}`);
          source.addEventListener("end", event => { source.close(); seen(`end ${event.lastEventId}`); });
        </script>'''
    elif path == "/events":
        yield {"headers": {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}}
        for n in (1, 2):
            yield f"data: {n}\\n\\n".encode()
            wait()
        yield b"event: end\\nid: 7\\ndata:\\n\\n"
    else:
        yield {"statusCode": 404}
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium on PATH (Debian: apt install chromium)")
    return found


@pytest.fixture
def visit(chromium: str, serving: Serving, tmp_path: Path) -> Iterator[Callable[[str], FunctionFolder]]:
    """Opens a page of the function in a browser of its own."""
    environment = {**BARE_ENVIRONMENT, "BROWSER": "/bin/true"}
    server, function = serving(PAGE, "--open", env=environment)
    browsers: list[subprocess.Popen[bytes]] = []

    def visit(path: str) -> FunctionFolder:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        flags += ["--remote-debugging-port=0", f"--user-data-dir={tmp_path}/profile"]
        with (tmp_path / "browser.log").open("wb") as log:
            browsers.append(
                subprocess.Popen(
                    [chromium, *flags, f"{server.url}{path}"],
                    env={**os.environ, "HOME": str(tmp_path)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        return function

    yield visit
    for browser in browsers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(browser.pid, 9)
        browser.wait()


@pytest.mark.long
def test_a_page_is_drawn_while_it_is_sent(visit: Callable[[str], FunctionFolder]) -> None:
    function = visit("page")
    for text in ("one", "one\n\ntwo", "one\n\ntwo\n\nthr\u00e9e"):
        assert function.receive() == text
        function.release()


def test_server_sent_events_arrive_while_they_are_sent(visit: Callable[[str], FunctionFolder]) -> None:
    function = visit("listener")
    for text in ("message 1", "message 2"):
        assert function.receive() == text
        function.release()
    assert function.receive() == "end 7"


def test_the_page_shows_chunks_with_their_times_while_they_arrive(visit: Callable[[str], FunctionFolder]) -> None:
    function = visit("driver")
    assert function.receive() == "hello true"
    function.release()
    messages = receive_through(function, "fail true")
    assert re.fullmatch("hello\\|gr\\|\u00fc\u00df Complete: 3 chunks, 11 bytes, [0-9.]+ ms truefail true", messages)
    function.release()
    failed, state, error = receive_through(function, "is not JSON: ").partition("The event is not JSON: ")
    assert "Failed: " in failed and "no more words" in failed
    assert state and error


def receive_through(function: FunctionFolder, end: str) -> str:
    """Return messages, joined, until one contains a text: several can be in the pipe at a time."""
    messages = function.receive()
    while end not in messages:
        messages += function.receive()
    return messages
