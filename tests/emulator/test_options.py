"""The command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.emulator import NEW_INTERPRETER, ROOT, FunctionFolder, assert_usage_error, run


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["extra"], "extra"),
        (["--fun", "function"], "--fun"),
        (["--unknown"], "--unknown"),
        (["-e"], "--event"),
        (["--function", "nowhere"], "nowhere"),
        (["--function", "main.py"], "main.py"),
        (["--timeout", "0"], "--timeout"),
        (["--timeout", "-1"], "--timeout"),
        (["--timeout", "1801"], "--timeout"),
        (["--timeout", "nan"], "--timeout"),
        (["--timeout", "soon"], "--timeout"),
        (["--memory", "127"], "--memory"),
        (["--memory", "10241"], "--memory"),
        (["--memory", "128.5"], "--memory"),
        (["--memory", "1" * 5000], "--memory"),
        (["--serve", "--port", "65536"], "--port"),
        (["--serve", "--port", "-1"], "--port"),
        (["--serve", "--port", "http"], "--port"),
        (["--serve", "-p", "\N{ARABIC-INDIC DIGIT THREE}"], "--port"),
        (["--serve", "-e", "{}"], "--event"),
        (["--port", "0"], "--serve"),
        (["--host", "127.0.0.1"], "--serve"),
        (["--serve", "--host", ""], "the address is empty"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], word: str) -> None:
    assert_usage_error(run(*arguments, cwd=ROOT), word)


def test_help_lists_the_options_and_the_exit_codes() -> None:
    result = run("--help", command=NEW_INTERPRETER)
    assert (result.code, result.err) == (0, "")
    for word in ("--event", "--serve", "--port", "--host", "--function", "--handler", "--timeout", "--memory", "130"):
        assert word.encode() in result.out
    assert max(map(len, result.out.decode().splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--layer", "nowhere"], "--layer"),
        (["--layer", "main.py"], "neither a folder nor a zip"),
        (["--function", "main.py"], "neither a folder nor a zip"),
        (["--function", "name=nowhere"], "nowhere"),
        (["--function", ""], "--function"),
        (["--function", "function", "--function", "layer"], "--serve"),
        (["--serve", "--function", "function", "--function", "function"], "NAME=PATH"),
        (["--concurrency", "0"], "--concurrency"),
        (["--concurrency", "many"], "--concurrency"),
        (["--invoke-mode", "STREAM"], "--invoke-mode"),
        (["--env", "words"], "NAME=VALUE"),
        (["--env", "1A=x"], "NAME=VALUE"),
        (["--env", "AWS_LAMBDA_RUNTIME_API=x"], "AWS_LAMBDA_RUNTIME_API"),
        (["--env-file", "nowhere"], "nowhere"),
        (["--cors", "{"], "--cors"),
        (["--cors", '{"AllowOrigin": []}'], "AllowOrigin"),
        (["--cors", '{"MaxAge": -1}'], "MaxAge"),
        (["--cors", '{"AllowOrigins": "*"}'], "AllowOrigins"),
        (["--api-only", "--isolate"], "--isolate"),
        (["--api-only", "--function", "function", "--function", "other=layer"], "--api-only"),
    ],
)
def test_wrong_code_and_serving_options_are_one_line_and_status_2(arguments: list[str], word: str) -> None:
    result = run(*arguments, cwd=ROOT)
    assert (result.code, result.out) == (2, b"")
    assert result.err.count("\n") == 1 and result.err.startswith("main.py: error: ") and word in result.err, result.err


def test_variables_can_be_options_and_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "variables").write_text(
        "# a comment\n\nPLAIN=a b=c\nexport EXPORTED=1\nQUOTED=\"a 'b'\"\nSINGLE='x'\nEMPTY=\nBOTH=file\n  INDENTED=ä\n"
    )
    names = ["PLAIN", "EXPORTED", "QUOTED", "SINGLE", "EMPTY", "BOTH", "INDENTED", "AWS_REGION"]
    source = f"""
        def handler(event, context):
            yield json.dumps([os.environ.get(name) for name in {names}]).encode()
    """
    with FunctionFolder(tmp_path / "a-function", source) as root:
        result = run(
            *("--function", root.path, "--env-file", tmp_path / "variables"),
            *("--env", "BOTH=flag=1", "--env", "AWS_REGION=eu-west-1"),
        )
    assert json.loads(result.out) == ["a b=c", "1", "a 'b'", "x", "", "flag=1", "ä", "eu-west-1"]


@pytest.mark.parametrize(
    ("lines", "word"),
    [(b"A=1\nwords\n", "line 2"), (b"\xff=1", "cannot read"), (b"_HANDLER=x", "line 1"), (b"A=\0", "line 1")],
)
def test_a_malformed_file_of_variables_is_refused(tmp_path: Path, lines: bytes, word: str) -> None:
    (tmp_path / "variables").write_bytes(lines)
    result = run("--env-file", tmp_path / "variables")
    assert (result.code, result.out) == (2, b"")
    assert result.err.count("\n") == 1 and word in result.err and "--env-file" in result.err


def test_a_malformed_variable_is_not_repeated_in_the_message(tmp_path: Path) -> None:
    line = "PASSWORD s3cret"
    (tmp_path / "variables").write_text(f"{line}\n")
    for arguments in (["--env", line], ["--env-file", tmp_path / "variables"]):
        result = run(*arguments)
        assert_usage_error(result, "expected NAME=VALUE")
        assert "s3cret" not in result.err
