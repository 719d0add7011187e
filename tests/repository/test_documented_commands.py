"""The commands of README and docs/ run as they are printed, in a fresh copy of the checkout and a bare environment.

Two things are replaced: the port 9000 by a free one, and the name of a journal by that of the journal just written.
Commands that use AWS run against the stand-in. Not run: what needs AWS itself (SAM) or the test suite (CONTRIBUTING).
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import documents, examples
from support.checkout import ENVIRONMENT, ROOT
from support.cloud import ACCOUNT, NAME, OURS, REGION, Cloud, zipped
from support.documents import Command

TIMEOUT = 60  # seconds
AWS = Path(sys.executable).with_name("aws")
needs_the_aws_cli = pytest.mark.skipif(not AWS.exists(), reason="the AWS CLI is not installed")

HANDLER = r"""
def handler(event, context):
    yield b"Hello\n"
"""


@dataclass
class Clone:
    """What `git clone` makes, with the files of a user that the documentation mentions as examples."""

    root: Path
    environment: dict[str, str]

    @classmethod
    def at(cls, root: Path, home: Path) -> Clone:
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in names.split("\0"):
            if name and (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        home.mkdir()
        (home / "bin").mkdir()
        if AWS.exists():
            (home / "bin" / "aws").symlink_to(AWS)
        return cls(root, {"PATH": f"{home}/bin:{ENVIRONMENT['PATH']}", "HOME": str(home)})

    def add_example_files(self) -> None:
        add_example_files(self.root)

    def run(self, command: str) -> tuple[int, str]:
        """Run a command on a terminal; return its exit status and what the terminal shows."""
        with Terminal(command, self) as terminal:
            shown = terminal.read_all()
            return terminal.process.wait(TIMEOUT), shown


def add_example_files(root: Path) -> None:
    for folder in ("api", "services/mail", "greeting"):
        (root / folder).mkdir(parents=True)
        (root / folder / "lambda_function.py").write_text(HANDLER)
    (root / "packages.zip").write_bytes(zipped({"python/example_package.py": ""}))
    (root / "greeting-before.zip").write_bytes(zipped({"lambda_function.py": HANDLER.replace("yield", "return")}))
    properties = {"FunctionName": "function", "Runtime": "python3.13", "Handler": "lambda_function.handler"}
    function = {"Type": "AWS::Serverless::Function", "Properties": {**properties, "CodeUri": "greeting"}}
    (root / "template.yaml").write_text(json.dumps({"Resources": {"Greeting": function}}))
    (root / "local.env").write_text("STAGE=test\n")
    (root / "event.json").write_text('{"sentence": "Hello"}')


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, command: str, clone: Clone) -> None:
        self._terminal, end = pty.openpty()
        self.process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=clone.root,
            env=clone.environment,
            stdin=subprocess.DEVNULL,
            stdout=end,
            stderr=end,
            start_new_session=True,
        )
        os.close(end)

    def read_until(self, pattern: str) -> str:
        """Return what the terminal shows once `pattern` is part of it."""
        shown = ""
        while not re.search(pattern, shown):
            piece = self._read()
            assert piece, shown
            shown += piece
        return shown

    def read_all(self) -> str:
        return "".join(iter(self._read, ""))

    def _read(self) -> str:
        try:
            return os.read(self._terminal, 65536).decode().replace("\r\n", "\n")
        except OSError:  # EIO: the last process has closed its side
            return ""

    def interrupt(self) -> int:
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(TIMEOUT)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._terminal)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone.at(tmp_path / "clone", tmp_path / "home")


# Local commands

PAGES = ["README.md", "docs/local-development.md", "CONTRIBUTING.md"]
FLEET = re.compile(r"\./build\.sh (publish|verify|report|rollout|attach|rollback|prune|doctor)\b")


def normalized(text: str) -> str:
    """Replace what differs from run to run, request IDs and numbers, and remove colors and spaces at line ends."""
    text = re.sub(r"\x1b\[[0-9;]*m| +$", "", text, flags=re.MULTILINE)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    return re.sub(r"\d+(\.\d+)?", "N", text)


@contextlib.contextmanager
def serving(command: str, clone: Clone) -> Iterator[int]:
    """Run a server of the documentation on a free port, which is yielded; end it with Ctrl-C."""
    with Terminal(f"exec {command} --port 0", clone) as terminal:
        shown = terminal.read_until(r"http://127\.0\.0\.1:\d+")
        yield int(re.findall(r"http://127\.0\.0\.1:(\d+)", shown)[0])
        assert terminal.interrupt() in (0, 130)


@pytest.mark.parametrize("page", examples.sample(PAGES, len(PAGES)))
def test_the_console_commands_of_a_page_work_one_after_the_other(clone: Clone, page: str) -> None:
    with contextlib.ExitStack() as servers:
        port = 0
        for command in documents.commands(page):
            if FLEET.match(command.text) or (command.text.startswith("aws ") and not AWS.exists()):
                continue
            if "--serve" in command.text:
                port = servers.enter_context(serving(command.text, clone))
                continue
            status, shown = clone.run(command.text.replace("127.0.0.1:9000", f"127.0.0.1:{port}"))
            assert status == 0, f"{command}\n{shown}"
            if command.output:
                assert normalized(shown) == normalized(command.output)
            if command.text.startswith("curl"):
                assert "Hello streaming world" in shown


def server_commands() -> list[str]:
    text = "\n".join(block.text for block in documents.blocks("sh", ["docs/local-development.md"]))
    return [line for line in text.splitlines() if line.startswith("python3 main.py --serve")]


@pytest.mark.parametrize("command", server_commands())
def test_the_server_examples_serve_each_function(clone: Clone, built: Path, command: str) -> None:
    clone.add_example_files()
    shutil.copytree(built, clone.root / "dist")
    if "--isolate" in command and clone.run("python3 main.py --isolate -e '{}'")[0] != 0:
        pytest.skip("namespaces are not available")
    if "--debug" in command and clone.run("python3 -c 'import debugpy'")[0] != 0:
        pytest.skip("debugpy is not installed for this python3; tests/emulator/test_debugging.py uses it")
    names = re.findall(r"--function (\S+)", command) or ["function"]
    with serving(command, clone) as port:
        for name in (Path(name.partition("=")[0]).stem for name in names):
            body = fetch(f"http://127.0.0.1:{port}/lambda-url/{name}/")
            assert body.startswith(b"Hello")


def test_the_debugging_example_prints_the_address_for_a_runtime(clone: Clone) -> None:
    with Terminal("exec python3 main.py --api-only --port 0", clone) as terminal:
        terminal.read_until(r"AWS_LAMBDA_RUNTIME_API=127\.0\.0\.1:\d+")
        assert terminal.interrupt() in (0, 130)
    assert any("--api-only" in block.text for block in documents.blocks("sh", ["docs/local-development.md"]))


def fetch(url: str) -> bytes:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=TIMEOUT) as response:
        return response.read()


# Scripts that use the AWS CLI

CURL = '#!/bin/sh\nprintf "%s\\n" "$*" >>"$CURL_CALLS"\n'


def script_of(page: str, *words: str) -> str:
    """Join the shell blocks of `page`, without those that contain one of `words`."""
    texts = [block.text for block in documents.blocks("sh", [page])]
    return "\n".join(text for text in texts if not any(word in text for word in words))


@dataclass
class Shell:
    """A shell in the checkout of `cloud`, with the AWS CLI and a curl that only records its arguments."""

    cloud: Cloud
    programs: Path

    def run(self, script: str, **variables: str) -> str:
        path = f"{self.programs}:{ENVIRONMENT['PATH']}"
        result = subprocess.run(
            ["sh", "-eux", "-c", script],
            cwd=self.cloud.checkout.root,
            env=self.cloud.environment | {"PATH": path, "CURL_CALLS": str(self.programs / "calls")} | variables,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def requested_urls(self) -> list[str]:
        return re.findall(r"https://\S+", (self.programs / "calls").read_text())


@pytest.fixture
def shell(cloud: Cloud, tmp_path: Path) -> Shell:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "aws").symlink_to(AWS)
    (programs / "curl").write_text(CURL)
    (programs / "curl").chmod(0o755)
    add_example_files(cloud.checkout.root)
    return Shell(cloud, programs)


def role_of(cloud: Cloud) -> str:
    policy = '{"Version": "2012-10-17", "Statement": []}'
    role = cloud.client("iam").create_role(RoleName="hello-stream", AssumeRolePolicyDocument=policy)
    return str(role["Role"]["Arn"])


def assert_streaming(cloud: Cloud, name: str) -> None:
    assert cloud.fleet()[name] == [f"{OURS}:1"]
    configuration = cloud.client().get_function_configuration(FunctionName=name)
    assert configuration["Environment"]["Variables"] == {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"}


@needs_the_aws_cli
def test_the_readme_deploys_a_function_with_a_streaming_url(shell: Shell) -> None:
    (block,) = documents.blocks("sh", ["README.md"])
    shell.run(block.text, ROLE=role_of(shell.cloud))
    assert_streaming(shell.cloud, "hello-stream")
    url = shell.cloud.client().get_function_url_config(FunctionName="hello-stream")
    assert url["InvokeMode"] == "RESPONSE_STREAM" and shell.requested_urls() == [url["FunctionUrl"]]
    shell.cloud.done("doctor", "hello-stream")


@needs_the_aws_cli
@pytest.mark.long
def test_the_aws_cli_page_deploys_moves_and_removes_functions(shell: Shell) -> None:
    page = "docs/deploy/aws-cli.md"
    assert role_of(shell.cloud) == f"arn:aws:iam::{ACCOUNT}:role/hello-stream"
    shell.cloud.client("logs").create_log_group(logGroupName="/aws/lambda/hello-stream")
    shell.run(script_of(page, "delete-function", "'[]'"))
    assert_streaming(shell.cloud, "hello-stream")
    assert_streaming(shell.cloud, "greeting")
    blocks = [block.text for block in documents.blocks("sh", [page])]
    (back,) = (text for text in blocks if "'[]'" in text)
    shell.run(back)
    assert shell.cloud.fleet()["greeting"] == []
    (api,) = shell.cloud.client("apigateway").get_rest_apis()["items"]
    shell.run(blocks[-1], LAYER=f"{OURS}:1", API=api["id"])
    assert shell.cloud.client("apigateway").get_rest_apis()["items"] == []
    assert shell.cloud.client().list_functions()["Functions"] == []
    assert shell.cloud.client().list_layer_versions(LayerName=NAME)["LayerVersions"] == []


@pytest.mark.long
@needs_the_aws_cli
def test_the_iam_page_creates_an_execution_role(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    shell.cloud.standin.reset()
    output = shell.run(script_of("docs/iam.md") + '\nprintf "%s" "$ROLE"')
    assert output.endswith(f"arn:aws:iam::{ACCOUNT}:role/hello-stream")


@pytest.mark.long
@needs_the_aws_cli
def test_a_self_contained_layer_is_deployed_as_its_page_shows(shell: Shell) -> None:
    dist = shell.cloud.checkout.dist
    shutil.copy(dist / "layer-slim.zip", dist / "layer-python3.13-arm64.zip")  # the build itself is tested elsewhere
    shell.run(script_of("docs/self-contained-layers.md", "./build.sh layer"), ROLE=role_of(shell.cloud))
    (arns,) = shell.cloud.fleet().values()
    assert arns == [f"{OURS}-python3-13-arm64:1"]


@pytest.mark.long
@needs_the_aws_cli
def test_the_page_of_published_layers_prints_the_hash_of_the_zip(shell: Shell) -> None:
    shell.cloud.done("publish", "--ssm", "layers/streaming")
    arn, latest, sha256 = shell.run(script_of("docs/layers.md")).split()
    [entry] = shell.cloud.manifest()["published"]
    assert (arn, latest, sha256) == (entry["arn"], entry["arn"], entry["sha256"])


@pytest.mark.long
@needs_the_aws_cli
def test_the_fixes_of_the_troubleshooting_page_work(shell: Shell) -> None:
    cloud = shell.cloud
    cloud.layer()
    cloud.function("hello-stream", [f"{OURS}:1"], Environment={"Variables": {}})
    cloud.client().create_function_url_config(FunctionName="hello-stream", AuthType="NONE", InvokeMode="BUFFERED")
    output = shell.run(script_of("docs/troubleshooting.md"))
    assert_streaming(cloud, "hello-stream")
    assert cloud.client().get_function_url_config(FunctionName="hello-stream")["InvokeMode"] == "RESPONSE_STREAM"
    assert f"{OURS}:1" in output


# Fleet commands


def fleet_commands(page: str) -> list[Command]:
    return [command for command in documents.commands(page) if FLEET.match(command.text)]


@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/fleet.md", marks=pytest.mark.long)])
def test_the_fleet_commands_of_a_page_work_one_after_the_other(cloud: Cloud, page: str) -> None:
    add_example_files(cloud.checkout.root)
    cloud.layer(count=2)
    cloud.function("hello-stream", [f"{OURS}:1"])
    location = {"LocationConstraint": REGION}
    cloud.client("s3").create_bucket(Bucket="team-journals", CreateBucketConfiguration=location)
    journals: list[Path] = []
    for command in fleet_commands(page):
        words = shlex.split(command.text)[1:]
        journals += {*cloud.checkout.root.glob("rollouts/*.jsonl")}.difference(journals)
        words = [str(journals[0]) if word.startswith("rollouts/") else word for word in words]  # the one with a change
        result = cloud.run(*words, stdin="y\n")
        allowed = (0, 1) if words[0] == "doctor" else (0,)  # the function of the test has no URL
        assert result.returncode in allowed, f"{command}\n{result.stdout}{result.stderr}"
        assert "Traceback" not in result.stderr
        if words[0] == "rollout":
            assert cloud.fleet() == {"hello-stream": [f"{OURS}:3"]}
            if page == "docs/fleet.md" and "--canary" in words:
                (shown,) = documents.blocks("text", [page])
                assert shown.text.rpartition("\nChange")[0] in result.stdout
        if words[0] == "rollback":
            assert cloud.fleet() == {"hello-stream": [f"{OURS}:1"]}


def test_contributing_names_tests_that_exist() -> None:
    named = {
        path for block in documents.blocks("sh", ["CONTRIBUTING.md"]) for path in block.text.split() if "/test_" in path
    }
    assert named and all((ROOT / path).is_file() for path in named)
