"""`--profile`: the credentials of a profile; the home folder and the time zone of a function."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.emulator import BARE_ENVIRONMENT, ROOT, FunctionFolder, Server, assert_usage_error, run

SOURCE = """
def handler(event, context):
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")
    values = [os.environ.get(name) for name in names]
    yield json.dumps([*values, os.path.expanduser("~"), os.environ["TZ"]]).encode()
"""
CREDENTIALS = """
[default]
aws_access_key_id = key-default
aws_secret_access_key = secret-default
[work]
aws_access_key_id = key-work
aws_secret_access_key = secret%work
aws_session_token = token-work
"""
CONFIG = """
[profile work]
region = eu-west-1
[profile empty]
region = eu-west-1
"""
WITHOUT_BOTO3 = (
    "import runpy, sys; sys.modules['botocore'] = None; sys.argv.pop(0); runpy.run_path(sys.argv[0], None, '__main__')"
)
COMMANDS = {
    "with boto3": (sys.executable, ROOT / "main.py"),
    "without boto3": (sys.executable, "-c", WITHOUT_BOTO3, ROOT / "main.py"),
}


@pytest.fixture
def function(tmp_path: Path) -> FunctionFolder:
    with FunctionFolder(tmp_path / "function", SOURCE) as folder:
        return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "home" / ".aws"
    folder.mkdir(parents=True)
    (folder / "credentials").write_text(CREDENTIALS)
    (folder / "config").write_text(CONFIG)
    return {**BARE_ENVIRONMENT, "HOME": str(folder.parent), "AWS_ACCESS_KEY_ID": "key-of-the-shell"}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_function_has_the_credentials_of_the_profile(
    function: FunctionFolder, environment: dict[str, str], command: tuple[str | Path, ...]
) -> None:
    arguments = ("--function", function.path, "--profile", "work")
    result = run(*arguments, env=environment, command=command)
    values = ["key-work", "secret%work", "token-work", "eu-west-1", "eu-west-1", "/home/sbx_user1051", ":UTC"]
    assert (result.code, json.loads(result.out)) == (0, values)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_profile_without_credentials_is_refused(
    environment: dict[str, str], command: tuple[str | Path, ...], name: str
) -> None:
    assert_usage_error(run("--profile", name, env=environment, command=command), "--profile", name)


def test_without_a_profile_a_function_has_no_credentials_and_variables_override_those_of_a_profile(
    function: FunctionFolder, environment: dict[str, str]
) -> None:
    result = run("--function", function.path, env=environment)
    assert json.loads(result.out)[:3] == [None, None, None]
    overridden = ("--profile", "default", "--env", "AWS_ACCESS_KEY_ID")
    result = run("--function", function.path, *overridden, env=environment)
    assert json.loads(result.out)[:3] == ["key-of-the-shell", "secret-default", None]


def test_callers_cannot_read_the_credentials(function: FunctionFolder, environment: dict[str, str]) -> None:
    with Server(function.path, "--profile", "work", "--env", "A=1", env=environment) as server:
        configuration = json.loads(server.get("/2015-03-31/functions/function/configuration").body)
        assert configuration["Environment"] == {"Variables": {"A": "1"}}
