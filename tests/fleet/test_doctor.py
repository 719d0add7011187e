"""`doctor`: zips with one fault each, and functions on the stand-in."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.cloud import ACCOUNT, HANDLER, NAME, OURS, REGION, Cloud, zipped

from tools.common.lambda_facts import MAX_UNPACKED_BYTES, MAX_ZIP_BYTES
from tools.fleet.checks.deployed_function import public_url_permissions
from tools.fleet.checks.zip_file import Contents, FunctionSettings, check_function, check_total_size

SOURCE = """\
def handler(event, context):
    yield b"hello"
"""
X86 = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00" + bytes(44)
ARM = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + bytes(44)
BOOTSTRAP, RUNTIME = "#!/bin/sh\nexec python3\n", 'VERSION = "0.1.0"\n'
PACKAGE = "streaming_runtime/__init__.py"

Entries = dict[str, tuple[int | None, str | bytes]]


def archive(entries: Entries) -> bytes:
    """Return a zip of `entries`, each with its mode; None is a file of a system without modes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, (mode, data) in entries.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 0 if mode is None else 3
            info.external_attr = 0 if mode is None else (mode | (0o40000 if name.endswith("/") else 0o100000)) << 16
            opened.writestr(info, data)
    return buffer.getvalue()


def layer(**changed: tuple[int | None, str | bytes] | None) -> Entries:
    """Return the entries of a valid layer with changes; an entry of None is omitted."""
    valid: Entries = {"bootstrap": (0o755, BOOTSTRAP), "runtime.py": (0o644, RUNTIME), PACKAGE: (0o644, RUNTIME)}
    entries = valid | {name.replace("__", "."): entry for name, entry in changed.items() if entry}
    return {name: entry for name, entry in entries.items() if changed.get(name.replace(".", "__"), entry)}


def below(entries: Entries) -> Entries:
    return {f"layer-0.1.0/{name}": entry for name, entry in entries.items()}


ZIPS: dict[str, tuple[Entries, list[str], str]] = {
    "no run bit": (layer(bootstrap=(0o644, BOOTSTRAP)), [], "bootstrap has mode 0644, so it cannot be run"),
    "made on Windows": (layer(bootstrap=(None, BOOTSTRAP)), [], "bootstrap has no mode, so it cannot be run"),
    "unreadable": (layer(runtime__py=(0o600, RUNTIME)), [], "runtime.py cannot be read by all"),
    "closed folder": (layer() | {"cpython/": (0o700, "")}, [], "the folder cpython/ cannot be entered by all"),
    "CRLF": (layer(bootstrap=(0o755, "#!/bin/sh\r\nexit\r\n")), [], "bootstrap has CRLF line ends"),
    "no shebang": (layer(bootstrap=(0o755, "exit\n")), [], "bootstrap does not begin with #! and the path"),
    "byte order mark": (layer(bootstrap=(0o755, "\ufeff#!/bin/sh\n")), [], "bootstrap does not begin with #!"),
    "a folder too many": (below(layer()), [], "bootstrap is in the folder layer-0.1.0"),
    "two architectures": (layer() | {"a.so": (0o644, X86), "b.so": (0o644, ARM)}, [], "programs for arm64 and x86_64"),
    "foreign architecture": (
        layer() | {"cpython/bin/python3": (0o755, X86)},
        ["--architecture", "arm64"],
        "cpython/bin/python3 is for x86_64, the function runs on arm64",
    ),
    "wheel of another architecture": (
        {"lambda_function.py": (0o644, SOURCE), "numpy/core.so": (0o755, ARM)},
        ["--architecture", "x86_64"],
        "numpy/core.so is for arm64, the function runs on x86_64",
    ),
    "conflicting bootstrap": (
        {"lambda_function.py": (0o644, SOURCE), "bootstrap": (0o755, BOOTSTRAP)},
        [],
        "has a bootstrap of its own",
    ),
    "no Python": ({"index.js": (0o644, "")}, [], "contains no .py file"),
    "no module": (
        {"app.py": (0o644, SOURCE)},
        ["--handler", "lambda_function.handler"],
        "has no lambda_function.py for the handler lambda_function.handler",
    ),
    "module in a folder": (
        {"hello/lambda_function.py": (0o644, SOURCE)},
        ["--handler", "lambda_function.handler"],
        "the zip has hello/lambda_function.py, 1 folder too deep",
    ),
    "module in a folder of a folder": (
        {"a/b/pkg/app.py": (0o644, SOURCE), "a/b/c/pkg/app.py": (0o644, SOURCE), "x.py": (0o644, "")},
        ["--handler", "pkg/app.handler"],
        "has no pkg/app.py for the handler pkg/app.handler; the zip has a/b/pkg/app.py, 2 folders too deep",
    ),
    "folder in place of its files": (
        {"hello/lambda_function.py": (0o644, SOURCE), "hello/pkg/__init__.py": (0o644, "")},
        [],
        "contains the folder hello, and lambda_function.py in it",
    ),
    "folder that the Finder has compressed": (
        {"hello/lambda_function.py": (0o644, SOURCE), "__MACOSX/hello/._lambda_function.py": (0o644, "")},
        [],
        "contains the folder hello, and lambda_function.py in it",
    ),
    "syntax error": (
        {"app.py": (0o644, SOURCE + "def second(:\n")},
        ["--handler", "app.handler", "--runtime", "python3.11"],
        "app.py has a syntax error on python3.11: invalid syntax (line 3)",
    ),
    "syntax error that only the compiler finds": (
        {"app.py": (0o644, SOURCE + "return\n")},
        ["--handler", "app.handler", "--runtime", "python3.11"],
        "app.py has a syntax error on python3.11: 'return' outside function (line 3)",
    ),
    "NUL": (
        {"app.py": (0o644, SOURCE + "\0")},
        ["--handler", "app.handler", "--runtime", "python3.11"],
        "app.py has a syntax error on python3.11: source code string cannot contain null bytes",
    ),
    "syntax of a newer Python than the function's": (
        {"app.py": (0o644, "type Name = int\n" + SOURCE)},
        ["--handler", "app.handler", "--runtime", "python3.11"],
        "app.py has a syntax error on python3.11: ",
    ),
    "no function": (
        {"lambda_function.py": (0o644, "def main(event, context): ...\n")},
        ["--handler", "lambda_function.handler"],
        "lambda_function.py does not define handler",
    ),
    "no package": (
        {"bootstrap": (0o755, BOOTSTRAP), "runtime.py": (0o644, RUNTIME)},
        [],
        "streaming_runtime/__init__.py is missing",
    ),
    "reserved name": (
        {"lambda_function.py": (0o644, SOURCE), "streaming_runtime.py": (0o644, "")},
        [],
        "streaming_runtime.py has the reserved name streaming_runtime",
    ),
    "module for another Python": (
        {"lambda_function.py": (0o644, SOURCE), "x.cpython-312-x86_64-linux-gnu.so": (0o755, X86)},
        ["--runtime", "python3.13"],
        "x.cpython-312-x86_64-linux-gnu.so is for Python 3.12",
    ),
    "module for another platform": (
        {"lambda_function.py": (0o644, SOURCE), "x.cpython-313-darwin.so": (0o755, "")},
        ["--runtime", "python3.13"],
        "x.cpython-313-darwin.so is for macOS",
    ),
    "module for another libc": (
        {"lambda_function.py": (0o644, SOURCE), "x.cpython-313-x86_64-linux-musl.so": (0o755, X86)},
        [],
        "x.cpython-313-x86_64-linux-musl.so is for Linux with musl",
    ),
    "backslash": (
        {"lambda_function.py": (0o644, SOURCE), "pkg\\x.py": (0o644, "")},
        [],
        "pkg\\x.py contains a backslash",
    ),
    "CRLF in a program": (
        {"lambda_function.py": (0o644, SOURCE), "bin/tool": (0o755, "#!/bin/sh\r\n")},
        [],
        "bin/tool has CRLF line ends",
    ),
    "no dot": ({"app.py": (0o644, SOURCE)}, ["--handler", "app"], "the handler is 'app'"),
    "two dots": ({"app.py": (0o644, SOURCE)}, ["--handler", "app..handler"], "the handler is 'app..handler'"),
    "package of the same name": (
        {"app.py": (0o644, SOURCE), "app/__init__.py": (0o644, "")},
        ["--handler", "app.handler"],
        "app/__init__.py does not define handler",
    ),
    "imported under another name": (
        {"app.py": (0o644, "from x import handler as other\n")},
        ["--handler", "app.handler"],
        "app.py does not define handler",
    ),
}


@pytest.mark.parametrize("fault", ZIPS)
def test_each_fault_of_a_zip_is_one_finding(cloud: Cloud, tmp_path: Path, fault: str) -> None:
    entries, options, what = ZIPS[fault]
    path = tmp_path / "some.zip"
    path.write_bytes(archive(entries))
    result = cloud.json("doctor", path, *options, status=1)["findings"]
    assert any(what in finding["what"] for finding in result)
    assert all(finding[key] for finding in result for key in ("what", "why", "fix"))
    if fault != "a folder too many":
        assert len(result) == 1
    assert what in cloud.run("doctor", path, *options).stdout


VALID: dict[str, tuple[Entries, list[str]]] = {
    "layer": (layer() | {"cpython/bin/python3": (0o755, ARM)}, ["--architecture", "arm64"]),
    "handler": ({"pkg/app.py": (0o644, SOURCE)}, ["--handler", "pkg/app.handler"]),
    "handler of a package": ({"app/__init__.py": (0o644, "from app.x import *\n")}, ["--handler", "app.handler"]),
    "assigned handler": ({"app.py": (0o644, "handler = make()\n")}, ["--handler", "app.handler"]),
    "imported handler": ({"app.py": (0o644, "from x import y as handler\n")}, ["--handler", "app.handler"]),
    "conditional handler": ({"app.py": (0o644, "if x:\n    import handler\n")}, ["--handler", "app.handler"]),
    "bootstrap that is not run": (
        {"app.py": (0o644, SOURCE), "bootstrap": (0o755, BOOTSTRAP)},
        ["--handler", "app.handler", "--runtime", "python3.13"],
    ),
    "function with the whole runtime": (
        layer() | {"app.py": (0o644, SOURCE)},
        ["--handler", "app.handler", "--runtime", "provided.al2023"],
    ),
    "names with ./": ({"./app.py": (0o644, SOURCE)}, ["--handler", "app.handler"]),
    "bytecode": ({"app.pyc": (0o644, b"\0")}, ["--handler", "app.handler"]),
    "extension module for the Python of a layer": (
        {"app.py": (0o644, SOURCE), "x.cpython-312-x86_64-linux-gnu.so": (0o755, X86)},
        ["--handler", "app.handler", "--runtime", "provided.al2023"],
    ),
    "extension module": ({"app.cpython-313-x86_64-linux-gnu.so": (0o755, X86)}, ["--handler", "app.handler"]),
    "modules for several Pythons": (
        {
            "app.py": (0o644, SOURCE),
            "x.cpython-312-x86_64-linux-gnu.so": (0o755, X86),
            "x.cpython-313-x86_64-linux-gnu.so": (0o755, X86),
        },
        ["--handler", "app.handler", "--runtime", "python3.13"],
    ),
    "imported package": ({"app.py": (0o644, "import handler.x\n")}, ["--handler", "app.handler"]),
    "captured handler": (
        {"app.py": (0o644, "match x:\n    case [handler]:\n        pass\n")},
        ["--handler", "app.handler"],
    ),
    "attributes made by a function": (
        {"app.py": (0o644, "def __getattr__(name): ...\n")},
        ["--handler", "app.handler"],
    ),
    "names set at run time": (
        {"app.py": (0o644, "globals().update(handler=1)\n")},
        ["--handler", "app.handler"],
    ),
    "module replaced by an object": (
        {"app.py": (0o644, "import sys\nsys.modules[__name__] = object()\n")},
        ["--handler", "app.handler"],
    ),
    "newer syntax": ({"app.py": (0o644, "type new syntax\n" + SOURCE)}, ["--handler", "app.handler"]),
    "newer syntax on a newer Python": (
        {"app.py": (0o644, "type new syntax\n" + SOURCE)},
        ["--handler", "app.handler", "--runtime", f"python3.{sys.version_info.minor + 1}"],
    ),
    "nested too deep to be parsed": (
        {"app.py": (0o644, f"x = {'1+' * 20_000}1\n{SOURCE}")},
        ["--handler", "app.handler", "--runtime", "python3.11"],
    ),
    "bytecode without a handler": ({"app.pyc": (0o644, b"\0")}, []),
    "package": ({"app/__init__.py": (0o644, ""), "app/lambda_function.py": (0o644, SOURCE)}, []),
    "folder without a package": ({"src/app.py": (0o644, SOURCE)}, []),
    "module beside a folder": ({"x.py": (0o644, ""), "hello/lambda_function.py": (0o644, SOURCE)}, []),
    "CRLF that is not executed": (
        {"app.py": (0o644, "#!/usr/bin/env python3\r\n" + SOURCE)},
        ["--handler", "app.handler"],
    ),
    "files of Windows": ({"app.py": (None, SOURCE), "package/": (None, "")}, ["--handler", "app.handler"]),
    "folders that all can enter": ({"app.py": (0o644, SOURCE), "package/": (0o755, "")}, ["--handler", "app.handler"]),
}


@pytest.mark.parametrize("kind", VALID)
def test_a_valid_zip_has_no_findings(cloud: Cloud, tmp_path: Path, kind: str) -> None:
    entries, options = VALID[kind]
    path = tmp_path / "some.zip"
    path.write_bytes(archive(entries))
    assert cloud.json("doctor", path, *options)["findings"] == []


def test_a_warning_about_the_syntax_of_a_function_is_not_printed(
    cloud: Cloud, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "some.zip"
    path.write_bytes(archive({"app.py": (0o644, f'pattern = "\\d"\n{SOURCE}')}))
    assert cloud.json("doctor", path, "--handler", "app.handler")["findings"] == []
    assert [str(each.message) for each in recwarn] == []


def test_built_zips_have_no_findings(cloud: Cloud) -> None:
    assert "nothing found" in cloud.done("doctor", "dist/layer-slim.zip")
    assert "nothing found" in cloud.done("doctor", "dist/function.zip", "--handler", "lambda_function.handler")
    assert not cloud.standin.calls  # a zip needs no AWS


def test_a_file_that_is_not_a_zip_is_a_finding(cloud: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "some.zip"
    path.write_bytes(HANDLER[:-30])
    assert "is not a valid zip file" in cloud.json("doctor", path, status=1)["findings"][0]["what"]
    assert cloud.refusal("doctor", tmp_path / "none.zip").startswith("cannot read ")


def damaged(data: bytes) -> bytes:
    """The zip with other compressed data in its first file, which zlib refuses."""
    start = 30 + data.index(b"lambda_function.py") - 30 + len(b"lambda_function.py")
    return data[:start] + b"\xff" * 10 + data[start + 10 :]


def test_a_damaged_zip_is_a_finding_and_no_traceback(cloud: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "some.zip"
    path.write_bytes(damaged(HANDLER))
    (finding,) = cloud.json("doctor", path, status=1)["findings"]
    assert f"{path} is not a valid zip file: Error -3 while decompressing data" in finding["what"]


def test_a_zip_bomb_is_a_finding_and_is_not_decompressed(cloud: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "some.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb,
        bomb.open("zeros.py", "w") as file,
    ):
        for _ in range(251):
            file.write(bytes(1_048_576))
    data = bytearray(path.read_bytes())
    data[50:60] = b"\xff" * 10  # which would be found if it were decompressed
    path.write_bytes(data)
    (finding,) = cloud.json("doctor", path, status=1)["findings"]
    assert finding["what"] == f"{path} has 263,192,576 bytes unpacked"


def test_sizes_above_the_limits_are_findings() -> None:
    limit = MAX_UNPACKED_BYTES
    assert not list(check_total_size([("it", limit - 1), ("a", 1)]))
    (finding,) = check_total_size([("it", limit), ("a", 1)])
    assert "262,144,001 bytes unpacked (it 262,144,000, a 1)" in finding.what
    settings = FunctionSettings(handler="a.b")
    (finding,) = check_function(Contents("it", 1, limit, {}, {}, {}), settings)
    assert finding.what == "it has no a.py for the handler a.b"
    large = Contents("it", MAX_ZIP_BYTES + 1, limit + 1, {}, {}, {"a.py": b"b = 1"})
    assert len(list(check_function(large, settings))) == 2


# Functions


@pytest.fixture
def streaming(cloud: Cloud) -> Cloud:
    """A function with everything that it needs, and a public Function URL."""
    cloud.done("publish")
    cloud.function("hello", [f"{OURS}:1"])
    open_url(cloud, "RESPONSE_STREAM")
    return cloud


def open_url(cloud: Cloud, mode: str, permissions: tuple[str, ...] = ("Url", "")) -> None:
    client = cloud.client()
    if "Url" in permissions:
        client.add_permission(
            FunctionName="hello",
            StatementId="url",
            Action="lambda:InvokeFunctionUrl",
            Principal="*",
            FunctionUrlAuthType="NONE",
        )
    if "" in permissions:
        client.add_permission(
            FunctionName="hello",
            StatementId="invoke",
            Action="lambda:InvokeFunction",
            Principal="*",
            InvokedViaFunctionUrl=True,
        )
    client.create_function_url_config(FunctionName="hello", AuthType="NONE", InvokeMode=mode)


def found(cloud: Cloud, name: str = "hello", status: int = 1) -> list[str]:
    return [finding["what"] for finding in cloud.json("doctor", name, status=status)["findings"]]


def test_a_function_that_streams_has_no_findings(streaming: Cloud) -> None:
    assert found(streaming, status=0) == []
    assert found(streaming, f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:hello", status=0) == []


def test_a_url_without_its_mode_or_permissions_is_found(cloud: Cloud) -> None:
    cloud.done("publish")
    cloud.function("hello", [f"{OURS}:1"])
    open_url(cloud, "BUFFERED", ())
    result = cloud.json("doctor", "hello", status=1)["findings"]
    assert [finding["what"].split()[-1] for finding in result] == [
        "BUFFERED",
        "lambda:InvokeFunctionUrl",
        "lambda:InvokeFunction",
    ]
    assert result[0]["fix"].endswith("--function-name hello --invoke-mode RESPONSE_STREAM")
    assert result[1]["fix"].endswith("--function-url-auth-type NONE")
    assert result[2]["fix"].endswith("--invoked-via-function-url")


BROKEN: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no wrapper": (
        {"Environment": {"Variables": {"KEY": "secret"}}},
        ["AWS_LAMBDA_EXEC_WRAPPER is not /opt/bootstrap"],
    ),
    "al2": (
        {"Runtime": "provided.al2"},
        ["its runtime provided.al2 has been deprecated since 2026-07-31", "provided.al2 has no Python, and the slim"],
    ),
    "old Python": ({"Runtime": "python3.9"}, ["its runtime python3.9 has been deprecated", "its runtime is python3.9"]),
    "python3.10": (
        {"Runtime": "python3.10"},
        ["its runtime python3.10 has been deprecated since 2026-10-31", "its runtime is python3.10"],
    ),
    "python3.15": ({"Runtime": "python3.15"}, ["its runtime is python3.15, a preview"]),
    "shadowed": (
        {
            "Runtime": "provided.al2023",
            "Code": {"ZipFile": zipped({"lambda_function.py": SOURCE, "bootstrap": BOOTSTRAP})},
        },
        ["provided.al2023 has no Python", "its zip has a bootstrap of its own"],
    ),
    "no handler": ({"Handler": "app.main"}, ["its zip has no app.py"]),
    "foreign program": (
        {"Code": {"ZipFile": archive({"lambda_function.py": (0o644, SOURCE), "x.so": (0o755, ARM)})}},
        ["its zip: x.so is for arm64, the function runs on x86_64"],
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_each_fault_of_a_function_is_found(cloud: Cloud, fault: str) -> None:
    options, expected = BROKEN[fault]
    cloud.done("publish")
    cloud.function("hello", [f"{OURS}:1"], **options)
    result = cloud.json("doctor", "hello", status=1)["findings"]
    assert len(result) == len(expected)
    for finding, what in zip(result, expected, strict=True):
        assert finding["what"].startswith(what)
    assert "secret" not in str(result)


WEB_APPLICATION = """
from fastapi import FastAPI
from mangum import Mangum

app = FastAPI()
handler = Mangum(app, lifespan="off")
"""


@pytest.mark.parametrize(("handler", "count"), [("main.app", 0), ("main.handler", 1)])
def test_a_web_application_behind_an_adapter_is_found(cloud: Cloud, handler: str, count: int) -> None:
    cloud.done("publish")
    cloud.function("hello", [f"{OURS}:1"], Handler=handler, Code={"ZipFile": zipped({"main.py": WEB_APPLICATION})})
    findings = cloud.json("doctor", "hello", status=count)["findings"]
    assert [finding["what"] for finding in findings] == ["the handler main.handler is Mangum(app)"][:count]
    assert all(finding["fix"].endswith("--handler main.app") for finding in findings)


@pytest.mark.parametrize("route", ["*/*/items", "$default/POST/items", "*/$default"])
def test_an_http_api_in_front_is_found(streaming: Cloud, route: str) -> None:
    apis = streaming.client("apigatewayv2")
    api_id = apis.create_api(Name="web", ProtocolType="HTTP")["ApiId"]
    allow_api(streaming, api_id, route)
    (finding,) = streaming.json("doctor", "hello", status=1)["findings"]
    assert finding["what"] == f"the API Gateway HTTP API {api_id} may invoke it"
    assert "create-function-url-config --function-name hello" in finding["fix"]


def test_a_rest_api_in_front_is_no_finding(streaming: Cloud) -> None:
    allow_api(streaming, "restapi123", "prod/GET/items")
    assert found(streaming, status=0) == []


def allow_api(cloud: Cloud, api_id: str, route: str) -> None:
    cloud.client().add_permission(
        FunctionName="hello",
        StatementId="api",
        Action="lambda:InvokeFunction",
        Principal="apigateway.amazonaws.com",
        SourceArn=f"arn:aws:execute-api:{REGION}:{ACCOUNT}:{api_id}/{route}",
    )


def test_the_fix_of_a_missing_wrapper_is_a_command_that_keeps_that_of_an_agent(cloud: Cloud) -> None:
    variables = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/otel-instrument", "KEY": "secret"}
    cloud.done("publish")
    cloud.function("hello", [f"{OURS}:1"], Environment={"Variables": variables})
    [finding] = cloud.json("doctor", "hello", status=1)["findings"]
    assert finding["fix"] == "./build.sh attach hello"
    cloud.done(*finding["fix"].split()[1:], "--yes")
    assert found(cloud, status=0) == []


def test_a_missing_outdated_or_deleted_layer_is_found(cloud: Cloud) -> None:
    cloud.layer(count=1)
    cloud.done("publish")
    cloud.function("hello", [])
    assert found(cloud) == [f"it does not have the layer {NAME}"]
    cloud.function("outdated", [f"{OURS}:1"])
    cloud.client().delete_layer_version(LayerName=NAME, VersionNumber=1)
    assert found(cloud, "outdated") == [f"{NAME}:1 is outdated, {NAME}:2 is published", f"{NAME}:1 was deleted"]
    assert cloud.refusal("doctor", "nobody").startswith("the function nobody does not exist in eu-central-1")


@pytest.mark.parametrize(
    ("action", "effect", "expected"),
    [
        ("lambda:*", "Allow", []),
        ("Lambda:Invoke*", "Allow", []),
        ("*", "Deny", ["its policy denies lambda:InvokeFunctionUrl", "its policy denies lambda:InvokeFunction"]),
        ("lambda:Get*", "Allow", ["its public Function URL lacks", "its public Function URL lacks"]),
    ],
)
def test_wildcards_and_denials_in_a_policy_are_understood(action: str, effect: str, expected: list[str]) -> None:
    statements = [{"Sid": "all", "Effect": effect, "Principal": {"AWS": "*"}, "Action": [action]}]
    findings = list(public_url_permissions("hello", "", statements))
    assert len(findings) == len(expected)
    assert all(finding.what.startswith(what) for finding, what in zip(findings, expected, strict=True))


def test_an_inactive_function_and_one_with_code_signing_are_found(streaming: Cloud) -> None:
    streaming.standin.faults.states = {"hello": "Inactive"}
    assert found(streaming) == ["it is inactive"]
    streaming.standin.faults.states = {}
    streaming.standin.faults.signing = {"hello"}
    assert found(streaming) == ["its code signing configuration accepts signed layers alone"]


def test_a_handler_in_a_layer_is_no_finding(cloud: Cloud) -> None:
    cloud.done("publish")
    (shared,) = cloud.layer("shared", files={"python/shared/app.py": SOURCE})
    cloud.function("hello", [f"{OURS}:1", shared], Handler="shared/app.handler")
    assert found(cloud, status=0) == []


def test_a_program_that_runs_the_bootstrap_is_no_finding(cloud: Cloud) -> None:
    cloud.done("publish")
    (agent,) = cloud.layer("agent", files={"agent/start": '#!/bin/sh\nexec /opt/bootstrap "$@"\n'})
    variables = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/agent/start"}
    cloud.function("hello", [f"{OURS}:1", agent], Environment={"Variables": variables})
    assert found(cloud, status=0) == []


def test_another_layer_with_a_bootstrap_is_found(streaming: Cloud) -> None:
    (other,) = streaming.layer("other", files={"bootstrap": BOOTSTRAP})
    streaming.standin.layers[(ACCOUNT, REGION, "hello", "$LATEST")].append(other)
    assert found(streaming) == ["other:1 has a bootstrap of its own"]


def test_several_layers_of_the_project_are_found(streaming: Cloud) -> None:
    (other,) = streaming.layer(f"{NAME}-python3-13-x86-64")
    streaming.standin.layers[(ACCOUNT, REGION, "hello", "$LATEST")].append(other)
    what = f"it has several layers of this project: {NAME}:1, {NAME}-python3-13-x86-64:1"
    (finding,) = (each for each in streaming.json("doctor", "hello", status=1)["findings"] if each["what"] == what)
    assert finding["fix"].endswith(
        "update-function-configuration --function-name hello --layers …, with one of them and all others"
    )


@pytest.mark.long
def test_the_total_size_with_all_layers_is_checked(streaming: Cloud) -> None:
    (large,) = streaming.layer("large", files={"zeros": bytes(MAX_UNPACKED_BYTES - 1000)})
    streaming.standin.layers[(ACCOUNT, REGION, "hello", "$LATEST")].append(large)
    (what,) = found(streaming)
    assert what.startswith("the function and its layers have 262,") and "(large:1 262,14" in what


def test_bad_input_is_one_line(cloud: Cloud) -> None:
    assert cloud.refusal("doctor", "a b", status=2).startswith("'a b' is neither the name nor the ARN of a function")
    assert cloud.refusal("doctor", status=2).startswith("the following arguments are required: ZIP|FUNCTION")
    function = cloud.refusal("doctor", "hello", "--handler", "app.handler", status=2)
    assert function.startswith("--handler is for a zip; hello is the name of a function")
    for runtime in ("nodejs22.x", "python3", "3.13", "python3.13 "):
        assert "is no runtime for Python" in cloud.refusal("doctor", "some.zip", "--runtime", runtime, status=2)


def test_a_folder_is_refused_with_the_command_that_builds_its_zip(cloud: Cloud, tmp_path: Path) -> None:
    folder = tmp_path / "greeting"
    folder.mkdir()
    refusal = cloud.refusal("doctor", f"{folder}/")
    assert refusal == f"{folder} is a folder: check its zip, which ./build.sh function {folder} builds"


def test_control_characters_of_names_in_a_zip_are_not_printed(cloud: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "some.zip"
    path.write_bytes(archive({"app.py": (0o644, SOURCE), "x\\\x1b[31m\ny.py": (0o644, "")}))
    lines = cloud.run("doctor", path).stdout.splitlines()
    assert lines[0] == f"{path}: x\\\\x1b[31m\\ny.py contains a backslash"
