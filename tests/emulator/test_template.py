"""`--template`: the functions of a template, each with its own configuration."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.emulator import Program, Server, assert_usage_error, run, until

SOURCE = """
import json, os

def main(event, context):
    if "requestContext" not in event:
        settings = {
            "name": context.function_name,
            "memory": context.memory_limit_in_mb,
            "timeout": round(context.get_remaining_time_in_millis() / 1000),
            "variables": {name: value for name, value in os.environ.items() if name.startswith("X_")},
            "concurrency": os.environ.get("AWS_LAMBDA_MAX_CONCURRENCY"),
        }
        yield json.dumps(settings).encode()
        return
    yield {"headers": {"Content-Type": "text/plain"}}
    yield b"response"
"""
PID_SOURCE = """
import os

def main(event, context):
    yield str(os.getpid()).encode()
"""
SAM = """
AWSTemplateFormatVersion: 2010-09-09
Transform: AWS::Serverless-2016-10-31
Parameters:
  Stage: {Type: String, Default: test}
  Key: {Type: String}
Globals:
  Function:
    Runtime: python3.13
    Timeout: 7
    Environment:
      Variables: {X_COMMON: !Ref Stage, X_OWN: common}
Resources:
  Api:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: code/
      Handler: app.main
      MemorySize: 512
      Environment:
        Variables:
          X_OWN: !Sub "${Stage}-${AWS::Region}-${!kept}"
          X_TRUE: true
          X_TABLE: !Ref Table
          X_WORKER: !GetAtt Worker.Arn
          X_KEY: !Ref Key
          X_JOINED: !Join [":", [a, !Ref Worker, 1]]
      Layers: [!Ref Libraries, "arn:aws:lambda:us-east-1:123456789012:layer:python-streaming-runtime:3"]
      FunctionUrlConfig:
        AuthType: NONE
        InvokeMode: RESPONSE_STREAM
        Cors: {AllowOrigins: ["https://example.com"]}
  Libraries:
    Type: AWS::Serverless::LayerVersion
    Properties: {ContentUri: libraries}
  Worker:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: the-worker
      CodeUri: code
      Handler: app.main
      Timeout: 20
      CapacityProviderConfig: {Arn: !GetAtt Provider.Arn, PerExecutionEnvironmentMaxConcurrency: 3}
  Plain:
    Type: AWS::Lambda::Function
    Properties: {Runtime: python3.12, Code: code, Handler: app.main}
  PlainUrl:
    Type: AWS::Lambda::Url
    Properties: {AuthType: NONE, TargetFunctionArn: !Ref Plain}
  Node:
    Type: AWS::Serverless::Function
    Properties: {Runtime: nodejs24.x, CodeUri: code, Handler: index.handler}
  Table:
    Type: AWS::DynamoDB::Table
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "code").mkdir()
    (folder / "code" / "app.py").write_text(SOURCE)
    (folder / "code" / "pid.py").write_text(PID_SOURCE)
    (folder / "libraries" / "python").mkdir(parents=True)
    (folder / "template.yaml").write_text(SAM)
    return folder


@pytest.fixture(scope="module")
def server(project: Path) -> Iterator[Server]:
    with TemplateServer(project / "template.yaml", "--env", "X_FROM_COMMAND_LINE=1") as server:
        yield server


class TemplateServer(Server):
    """A running `main.py --serve --template`."""

    def __init__(self, template: Path, *arguments: str) -> None:
        Program.__init__(self, "--serve", "-p", "0", "--template", template, *arguments)
        self._read_first_lines()


def invoke(server: Server, name: str) -> dict[str, Any]:
    path = f"POST /2015-03-31/functions/{name}/invocations HTTP/1.1"
    response: dict[str, Any] = json.loads(server.request(path, body=b"{}").body)
    return response


def test_each_function_has_its_configuration(server: Server) -> None:
    api = invoke(server, "Api")
    assert (api["memory"], api["timeout"], api["concurrency"]) == ("512", 7, None)
    assert api["variables"] == {
        "X_COMMON": "test",
        "X_OWN": "test-us-east-1-${kept}",
        "X_TRUE": "true",
        "X_TABLE": "Table",
        "X_WORKER": "arn:aws:lambda:us-east-1:123456789012:function:the-worker",
        "X_JOINED": "a:the-worker:1",
        "X_FROM_COMMAND_LINE": "1",
    }
    plain = invoke(server, "Plain")
    assert (plain["memory"], plain["timeout"]) == ("128", 3)
    assert plain["variables"] == {"X_FROM_COMMAND_LINE": "1"}


def test_a_capacity_provider_makes_a_managed_instance(server: Server) -> None:
    worker = invoke(server, "the-worker")
    assert (worker["name"], worker["timeout"], worker["concurrency"]) == ("the-worker", 20, "3")
    assert worker["variables"] == {"X_COMMON": "test", "X_OWN": "common", "X_FROM_COMMAND_LINE": "1"}


def test_each_url_has_its_invoke_mode_and_cors(server: Server) -> None:
    streamed = server.get("/lambda-url/Api/")
    assert (streamed.body, streamed.headers.get("transfer-encoding")) == (b"response", "chunked")
    buffered = server.get("/lambda-url/Plain/")
    assert (buffered.body, buffered.headers.get("content-length")) == (b"response", "8")
    origin = "Origin: https://example.com"
    allowed = server.request("GET /lambda-url/Api/ HTTP/1.1", origin)
    assert allowed.headers["access-control-allow-origin"] == "https://example.com"
    assert "access-control-allow-origin" not in server.request("GET /lambda-url/Plain/ HTTP/1.1", origin).headers
    settings = json.loads(server.get("/2021-10-31/functions/Api/url").body)
    assert (settings["InvokeMode"], settings["Cors"]) == ("RESPONSE_STREAM", {"AllowOrigins": ["https://example.com"]})
    assert json.loads(server.get("/2021-10-31/functions/Plain/url").body)["InvokeMode"] == "BUFFERED"


def test_what_is_not_used_is_named(server: Server) -> None:
    errors = server.errors()
    for words in ("Node is not served: its Runtime is nodejs24.x", "python-streaming-runtime:3 is not in", "X_KEY"):
        assert words in errors


def test_a_template_in_json_needs_no_library(project: Path) -> None:
    properties = {"Runtime": "python3.13", "Handler": "app.main", "Code": {"Fn::Sub": "co${X}"}}
    resources = {"One": {"Type": "AWS::Lambda::Function", "Properties": properties}}
    template = {"Parameters": {"X": {"Default": "de"}}, "Resources": resources}
    (project / "template.json").write_text(json.dumps(template))
    code = (
        "import runpy, sys; sys.modules['yaml'] = None; sys.argv.pop(0); runpy.run_path(sys.argv[0], None, '__main__')"
    )
    without_yaml = ("-c", code)
    command = (sys.executable, *without_yaml, str(Path(__file__).parents[2] / "main.py"))
    result = run("--template", project / "template.json", "-e", "{}", command=command)
    assert (result.code, json.loads(result.out)["name"]) == (0, "One")
    assert_usage_error(run("--template", project / "template.yaml", "--serve", command=command), "PyYAML", "JSON")


CONDITIONAL = """
Parameters:
  Stage: {Type: String, Default: prod}
  Zones: {Type: CommaDelimitedList, Default: "a, b"}
  Secret: {Type: "AWS::SSM::Parameter::Value<String>", Default: /a/secret}
Mappings:
  Sizes:
    prod: {Memory: 1024}
    test: {Memory: 256}
  Accounts:
    123456789012: {Name: local}
Conditions:
  IsProd: !Equals [!Ref Stage, prod]
  IsTest: !Not [!Condition IsProd]
  IsLocal: !And [!Condition IsProd, !Or [!Condition IsTest, !Equals [!Ref "AWS::Region", us-east-1]]]
  IsCircular: !Not [!Condition IsCircular]
Globals:
  Function:
    Runtime: !If [IsTest, python3.14, python3.13]
    Environment: !If [IsLocal, {Variables: {X_GLOBAL: "1"}}, !Ref "AWS::NoValue"]
Resources:
  One:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: code
      Handler: app.main
      MemorySize: !FindInMap [Sizes, !Ref Stage, Memory]
      Timeout: !If [IsProd, 9, 5]
      CapacityProviderConfig: !If [IsTest, {Arn: x}, !Ref "AWS::NoValue"]
  Two:
    Type: AWS::Lambda::Function
    Properties:
      Runtime: python3.13
      Code: code
      Handler: app.main
      Environment:
        Variables:
          X_ZONE: !Select [1, !Ref Zones]
          X_PART: !Select [0, !Split ["-", "first-second"]]
          X_ACCOUNT: !FindInMap [Accounts, !Ref "AWS::AccountId", Name]
          X_DEFAULT: !FindInMap [Accounts, "0", Name, {DefaultValue: other}]
          X_GONE: !If [IsTest, 1, !Ref "AWS::NoValue"]
          X_SECRET: !Ref Secret
          X_OUTSIDE: !ImportValue Network
  OnlyInTest: {Type: AWS::Lambda::Function, Condition: IsTest, Properties: {}}
  Circular: {Type: AWS::Lambda::Function, Condition: IsCircular, Properties: {}}
  Fn::ForEach::Others: [Name, [a, b], {}]
"""


def test_conditions_and_mappings_apply(project: Path) -> None:
    (project / "conditional.yaml").write_text(CONDITIONAL)
    with TemplateServer(project / "conditional.yaml") as server:
        one, two = invoke(server, "One"), invoke(server, "Two")
        notes = server.errors()
    assert (one["memory"], one["timeout"], one["concurrency"]) == ("1024", 9, None)
    assert one["variables"] == {"X_GLOBAL": "1"}
    assert two["variables"] == {"X_ZONE": "b", "X_PART": "first", "X_ACCOUNT": "local", "X_DEFAULT": "other"}
    for words in (
        "OnlyInTest is not served: its condition IsTest is false",
        "Circular is not served: its condition IsCircular has no local value, it uses the condition IsCircular",
        "Fn::ForEach::Others is not expanded",
        "X_SECRET has no local value, it uses the parameter Secret, whose value is in Systems Manager",
        "X_OUTSIDE has no local value, it uses Fn::ImportValue, which is not evaluated here",
    ):
        assert words in notes


CHANGING = """
Resources:
  First: {{Type: AWS::Lambda::Function, Properties: {{Runtime: python3.13, Code: code, Handler: app.main, Timeout: 4}}}}
  {name}: {{Type: AWS::Lambda::Function, Properties: {{Runtime: python3.13, Code: code, Handler: {handler}}}}}
"""


def test_a_change_of_the_template_adds_changes_and_removes_functions(project: Path) -> None:
    template = project / "changing.yaml"
    template.write_text(CHANGING.format(name="Second", handler="app.main"))
    with TemplateServer(template) as server:
        assert invoke(server, "Second")["timeout"] == 3

        template.write_text(CHANGING.format(name="Second", handler="pid.main"))
        until(lambda: "Second: the template has changed it; the next request uses the change" in server.errors())
        process = invoke(server, "Second")
        assert isinstance(process, int)

        template.write_text("Resources: [")
        until(lambda: "changing.yaml is not YAML" in server.errors())
        assert invoke(server, "Second") == process

        template.write_text(CHANGING.format(name="Third", handler="app.main").replace("Timeout: 4", "Timeout: 5"))
        until(lambda: "Second: the template has removed it" in server.errors())
        assert invoke(server, "Third")["name"] == "Third"
        assert invoke(server, "First")["timeout"] == 5
        assert server.get("/lambda-url/Second/").status == 404
        names = [each["FunctionName"] for each in json.loads(server.get("/2015-03-31/functions/").body)["Functions"]]
        assert names == ["First", "Third"]
        until(lambda: not Path(f"/proc/{process}").exists())


def test_a_function_that_the_template_has_not_changed_keeps_its_environment(project: Path) -> None:
    template = project / "kept.yaml"
    (project / "code" / "pid.py").write_text(
        "import os\n\ndef main(event, context):\n    yield str(os.getpid()).encode()\n"
    )
    template.write_text(CHANGING.format(name="Kept", handler="pid.main"))
    with TemplateServer(template) as server:
        process = invoke(server, "Kept")
        template.write_text(template.read_text().replace("Timeout: 4", "Timeout: 5"))
        until(lambda: "First: the template has changed it" in server.errors())
        assert invoke(server, "Kept") == process


def with_function(properties: str) -> str:
    return textwrap.dedent(f"""
        Resources:
          One:
            Type: AWS::Serverless::Function
            Properties: {{Runtime: python3.13, Handler: app.main, CodeUri: code, {properties}}}
    """)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("a: [", ["not YAML"]),
        ("[]", ["no Resources"]),
        ("Resources: {}", ["no function"]),
        (with_function("Timeout: 0"), ["One: Timeout"]),
        (with_function("MemorySize: much"), ["One: MemorySize"]),
        (with_function("MemorySize: !If [a, 1, 2]"), ["MemorySize", "the condition a, which is missing"]),
        (with_function("Environment: !If [a, {}, {}]"), ["Environment", "the condition a"]),
        (with_function("Timeout: !ImportValue Other"), ["Timeout", "Fn::ImportValue, which is not evaluated here"]),
        (with_function("Timeout: !FindInMap [A, b, c]"), ["Timeout", "A.b.c of the Mappings"]),
        (with_function("Timeout: !Select [1, [2]]"), ["Timeout", "Fn::Select with arguments"]),
        (with_function("CodeUri: elsewhere"), ["One", "elsewhere"]),
        (with_function("CodeUri: s3://bucket/key"), ["local folder or zip"]),
        (with_function("Runtime: go1.x"), ["Runtime is go1.x"]),
        (with_function("PackageType: Image"), ["container image"]),
        (with_function("FunctionUrlConfig: {InvokeMode: FAST}"), ["InvokeMode", "FAST"]),
        (with_function("FunctionUrlConfig: {Cors: {AllowOrigin: []}}"), ["AllowOrigin"]),
        (with_function("Environment: {Variables: {_HANDLER: x}}"), ["_HANDLER", "reserved"]),
        (with_function("Environment: [1]"), ["Environment", "mapping"]),
        (SAM, ["--serve"]),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line_and_status_2(
    project: Path, template: str, words: list[str]
) -> None:
    file = project / "other.yaml"
    file.write_text(template)
    assert_usage_error(run("--template", file), *words)


@pytest.mark.parametrize("option", [["--handler", "a.b"], ["--timeout", "3"], ["--function", "code"], ["--cors"]])
def test_options_that_the_template_contains_are_refused(project: Path, option: list[str]) -> None:
    assert_usage_error(run("--template", "template.yaml", *option, cwd=project), option[0], "--template")
