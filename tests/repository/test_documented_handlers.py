"""The Python snippets of README and docs/: handlers run on the real layer, the others as far as possible."""

from __future__ import annotations

import asyncio
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import documents
from support.checkout import ROOT
from support.documents import Block
from support.emulator import BARE_ENVIRONMENT, Result, Server, run

EVENT = '{"sentence": "Hello", "rawPath": "/", "divisor": 4}'
SNIPPETS = documents.blocks("python")
HANDLERS = [block for block in SNIPPETS if re.search(r"^(async )?def handler\(", block.text, re.MULTILINE)]


def streamed(folder: Path, source: str, event: str = EVENT) -> Result:
    (folder / "lambda_function.py").write_text(source)
    return run("--function", folder, "--event", event)


@pytest.mark.parametrize("block", HANDLERS, ids=str)
def test_handlers_stream(tmp_path: Path, block: Block) -> None:
    result = streamed(tmp_path, block.text)
    assert result.code == 0, result.err
    assert result.out and "[ERROR]" not in result.err


def only(page: str, word: str) -> str:
    (block,) = (block for block in documents.blocks("python", [page]) if word in block.text)
    return block.text


def body(out: bytes) -> bytes:
    """Return what follows the prelude."""
    return out.partition(b"\0" * 8)[2]


def test_the_first_handler_of_the_readme_says_hello(tmp_path: Path) -> None:
    assert streamed(tmp_path, documents.blocks("python", ["README.md"])[0].text).out == b"Hello world\n"


def test_the_error_recipe_sends_the_error_within_the_body_and_reports_it(tmp_path: Path) -> None:
    result = streamed(tmp_path, only("docs/handler.md", "event: error"), '{"divisor": 0}')
    assert result.code == 1 and "ZeroDivisionError" in result.err
    assert result.out.endswith(b'data: working\n\nevent: error\ndata: "division by zero"\n\n')


def test_the_redirect_has_no_body(tmp_path: Path) -> None:
    result = streamed(tmp_path, only("docs/handler.md", '"statusCode": 302'), '{"rawPath": "/old"}')
    assert b'"statusCode"' in result.out.replace(b" ", b"") and body(result.out) == b""


def test_the_upstream_of_the_async_recipe_is_closed(tmp_path: Path) -> None:
    assert "upstream closed" in streamed(tmp_path, only("docs/handler.md", "upstream closed")).err


def test_the_work_after_the_response_is_done_before_the_end_of_the_invocation(tmp_path: Path) -> None:
    result = streamed(tmp_path, only("docs/handler.md", "def save("))
    assert result.out == b"one token at a time"
    saved = '{"prompt": "Hello", "answer": ["one ", "token ", "at a time"]}'
    assert saved in result.err and result.err.index(saved) < result.err.index("END RequestId")


@pytest.mark.long
def test_the_stub_of_the_context_tests_a_handler(tmp_path: Path) -> None:
    source = only("docs/handler.md", "StubContext")
    path = tmp_path / "test_recipe.py"
    path.write_text(source)
    passed = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path], capture_output=True)
    assert passed.returncode == 0, passed.stdout
    typed = "context: Context = StubContext()\n"  # the stub has the type that the handler expects
    path.write_text(source + typed)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", path], capture_output=True, cwd=tmp_path
    )
    assert checked.returncode == 0, checked.stdout
    with_real_context = streamed(tmp_path, source)
    assert with_real_context.out == b"Hello\n" and "saved" in with_real_context.err


def test_the_timeout_recipe_ends_its_stream_in_time(tmp_path: Path) -> None:
    result = streamed(tmp_path, only("docs/handler.md", "get_remaining_time_in_millis"))
    assert result.out.startswith(b"0\n1\n") and result.out.endswith(b"to be continued\n")


def test_the_heartbeat_recipe_sends_comments_while_it_waits(tmp_path: Path) -> None:
    source = only("docs/troubleshooting.md", "with_heartbeat(items)").replace(
        "HEARTBEAT_SECONDS = 15", "HEARTBEAT_SECONDS = 0.1"
    )
    events = body(streamed(tmp_path, source).out).split(b"\n\n")
    assert [event for event in events if event.startswith(b"data")] == [b"data: a", b"data: slow", b"data: model"]
    assert events.count(b": keep-alive") >= 3


def test_the_thread_recipe_passes_items_and_errors_on(tmp_path: Path) -> None:
    path = tmp_path / "recipe.py"
    path.write_text(only("docs/troubleshooting.md", "to_thread"))
    in_thread = runpy.run_path(str(path))["in_thread"]

    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("upstream failed")

    async def collect(seen: list[int]) -> None:
        async for item in in_thread(items()):
            seen.append(item)

    seen: list[int] = []
    with pytest.raises(ValueError, match="upstream failed"):
        asyncio.run(collect(seen))
    assert seen == [1, 2]


def test_the_boto3_snippet_prints_each_chunk() -> None:
    source = only("docs/local-development.md", "boto3.client")
    with Server(ROOT / "function") as server:
        script = source.replace("http://127.0.0.1:9000", server.url.rstrip("/"))
        result = subprocess.run(
            [sys.executable, "-c", script], env=BARE_ENVIRONMENT, capture_output=True, text=True, timeout=60
        )
    assert result.returncode == 0, result.stderr
    events = result.stdout.splitlines()
    assert events[0] == "{'PayloadChunk': {'Payload': b'Hello '}}" and "InvokeComplete" in events[-1]


def test_no_snippet_is_left_out() -> None:
    others = [block for block in SNIPPETS if block not in HANDLERS]
    assert {block.page for block in others} == {
        "docs/deploy/cdk.md",
        "docs/local-development.md",
        "docs/migrating.md",  # in test_documented_applications.py
        "docs/tracing.md",  # with the packages of the agents, in tests/runtime/test_agent_packages.py
        "docs/troubleshooting.md",
        "docs/web-applications.md",  # in tests/runtime/test_lifespan.py
        "docs/web-frameworks.md",  # in test_documented_applications.py
    }
