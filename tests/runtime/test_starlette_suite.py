"""Starlette's own tests, with a client that reaches the application through the layer.

They run in a process of their own, with `support/starlette_conftest.py` as their conftest. A test that cannot pass is
listed here with the reason, and must fail: a list that is too long is a failure as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from support.emulator import ROOT
from support.web_applications import ENVIRONMENT, needs_frameworks

pytestmark = needs_frameworks

# Those in which most of what the layer does is observed run always, the others with --long.
SAMPLE = {"test_background.py", "test_requests.py", "test_responses.py", "middleware/test_base.py"}

NOT_APPLICABLE_FILES = {
    "test_testclient.py": "tests of the client, which is another one here",
    "test_websockets.py": "Lambda has no WebSockets",
}
_TRAILERS = "the scope does not offer http.response.trailers"
_PUSH = "the scope does not offer http.response.push"
_TEMPLATE = "the template of a response is visible to Starlette's own client only (http.response.debug)"
NOT_APPLICABLE = {
    "middleware/test_gzip.py::test_gzip_trailers[True-gzip]": _TRAILERS,
    "middleware/test_gzip.py::test_gzip_trailers[True-identity]": _TRAILERS,
    "middleware/test_gzip.py::test_gzip_trailers[False-gzip]": _TRAILERS,
    "middleware/test_gzip.py::test_gzip_trailers[False-identity]": _TRAILERS,
    "middleware/test_gzip.py::test_gzip_excluded_content_type_trailers": _TRAILERS,
    "test_applications.py::test_websocket_state": "Lambda has no WebSockets",
    "test_requests.py::test_request_send_push_promise": _PUSH,
    "test_requests.py::test_request_send_push_promise_without_setting_send": _PUSH,
    "test_templates.py::test_templates": _TEMPLATE,
    "test_templates.py::test_calls_context_processors": _TEMPLATE,
    "test_templates.py::test_template_with_middleware": _TEMPLATE,
    "test_templates.py::test_templates_with_directories": _TEMPLATE,
    "test_templates.py::test_templates_with_environment": _TEMPLATE,
}
if os.geteuid() == 0:
    name = "test_staticfiles.py::test_staticfiles_with_invalid_dir_permissions_returns_401"
    NOT_APPLICABLE[name] = "root may read every folder"


def suite_files() -> set[str]:
    folder = ENVIRONMENT.sources / "tests"
    names = {str(path.relative_to(folder)) for path in folder.rglob("test_*.py")}
    return names - NOT_APPLICABLE_FILES.keys()


def outcomes(files: set[str], folder: Path) -> dict[str, str]:
    """Run some files. Return the outcome of each test by its name."""
    shutil.copytree(ENVIRONMENT.sources / "tests", folder / "tests")
    shutil.copy(ROOT / "tests" / "support" / "starlette_conftest.py", folder / "tests" / "conftest.py")
    report = folder / "report.xml"
    command = [ENVIRONMENT.python, "-m", "pytest", "-q", f"--junitxml={report}", "-o", "addopts="]
    # The threads of a failed startup leave their loop to the end of the process.
    command += ["-W", "ignore::ResourceWarning", "-W", "ignore::pytest.PytestUnraisableExceptionWarning"]
    command += ["-c", ENVIRONMENT.sources / "pyproject.toml", f"--rootdir={folder}"]
    done = subprocess.run(
        [*command, *(f"tests/{file}" for file in sorted(files))],
        cwd=folder,
        env={"PATH": os.defpath, "PYTHONPATH": f"{ROOT / 'layer'}:{ROOT / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert report.exists(), done.stdout + done.stderr
    print(done.stdout)
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        results = [child for child in case if child.tag in ("failure", "error", "skipped")]
        is_passed = all(result.get("type") == "pytest.xfail" for result in results)
        file = str(case.get("classname")).removeprefix("tests.").replace(".", "/")
        found[f"{file}.py::{case.get('name')}"] = "passed" if is_passed else results[0].tag
    return found


@pytest.mark.parametrize(
    "files",
    [pytest.param(SAMPLE, id="sample"), pytest.param(suite_files() - SAMPLE, id="others", marks=pytest.mark.long)],
)
def test_all_tests_pass_that_can_apply(files, tmp_path):
    found = outcomes(files, tmp_path)
    assert {name.partition("::")[0] for name in found} == files, "each file has tests"
    expected = {name for name in NOT_APPLICABLE if name.partition("::")[0] in files}
    assert {name for name, outcome in found.items() if outcome != "passed"} == expected
