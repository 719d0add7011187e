"""The page of --open: its paths, and the browser that is started. `test_browser` uses it in Chromium."""

from __future__ import annotations

import json
import os
from pathlib import Path

from support.emulator import BARE_ENVIRONMENT, ECHO, MakeFunction, Program, Server, event_of, until


def browser(tmp_path: Path) -> str:
    """A browser that writes the URL to a pipe."""
    os.mkfifo(tmp_path / "opened")
    program = tmp_path / "browser"
    program.write_text(f"""#!/bin/sh\nprintf %s "$1" > {tmp_path}/opened\n""")
    program.chmod(0o755)
    return str(program)


def test_the_page_is_opened_and_served(make_function: MakeFunction, tmp_path: Path) -> None:
    function = make_function(ECHO)
    environment = {**BARE_ENVIRONMENT, "BROWSER": browser(tmp_path)}
    with Server(function.path, "--open", env=environment) as server:
        assert (tmp_path / "opened").read_text() == f"{server.url}lambda-page/"
        assert f"page: {server.url}lambda-page/" in server.errors()
        page = server.get("/lambda-page/")
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert b"<title>" in page.body
        for name in ("url", "rest", "sqs", "s3", "eventbridge", "apigw"):
            assert f"<option>{name}</option>".encode() in page.body
            assert json.loads(server.get(f"/lambda-page/events/{name}").body)
        assert server.get("/lambda-page/events/../page.py").status == 404
        assert server.request("DELETE /lambda-page/ HTTP/1.1").status == 405
        assert event_of(server.get("/lambda-page"))["rawPath"] == "/lambda-page"


def test_without_a_browser_the_line_says_which_address_to_open(make_function: MakeFunction) -> None:
    function = make_function(ECHO)
    with Program(
        "--open", "-p", "0", "--function", function.path, env={**BARE_ENVIRONMENT, "BROWSER": "/bin/false"}
    ) as program:
        url = program.read_through(b"\n").decode().split()[2]
        until(lambda: "no browser could be started" in program.errors())
        assert f"open {url}lambda-page/" in program.errors()


def test_the_path_belongs_to_the_function_without_open(echo: Server) -> None:
    assert event_of(echo.get("/lambda-page/"))["rawPath"] == "/lambda-page/"
