"""The structure of the code: imports point one way, without cycles, and at the top of the file.

The rules are stated in the docstrings of the packages. Files are parsed, not imported, so that an import in a function
or for the type checker counts too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from support.checkout import ROOT

MAX_LINES = 450

# The packages that each one may import, besides itself and the standard library.
ALLOWED: dict[str, set[str]] = {
    "layer": set(),
    "tools/common": set(),
    "tools/packaging": {"tools/common"},
    "tools/emulator": {"tools/common", "tools/packaging"},
    "tools/fleet": {"tools/common", "tools/packaging"},
    "tools/bench": {"tools/common", "tools/packaging", "tools/emulator"},
    "tools/mutation": {"tools/common", "tools/bench"},
    "main.py": {"tools/emulator"},
}

# Imports in functions, each with the reason why it is not at the top of the file. Most are in the emulator, because
# people wait for the first byte of `python3 main.py`.
SLIM = "the slim layer and functions are built in half of the time without it"
NO_AWS = "help texts and the doctor of a zip work without boto3"
LATE_IMPORTS = {
    ("tools/emulator/cli.py", "tools.emulator.run"): "loaded while the supervisor process starts",
    ("tools/emulator/run.py", "tools.emulator.serving"): "one invocation does not need the endpoints",
    ("tools/emulator/run.py", "tools.common.output"): "few functions have files that a zip leaves out",
    ("tools/emulator/run.py", "tools.emulator.debugging"): "only --api-only and --debug need it",
    ("tools/emulator/serving.py", "tools.emulator.debugging"): "only --api-only needs it",
    ("tools/emulator/debugged_runtime.py", "debugpy"): "only a function's interpreter has it",
    ("tools/emulator/options.py", "tools.emulator.deployment.template"): "only --template needs it",
    ("tools/emulator/deployment/template_values.py", "yaml"): "only templates in YAML need it",
    ("tools/emulator/arguments.py", "tools.packaging.manifest"): "only --version needs it",
    ("tools/emulator/arguments.py", "tools.emulator.endpoints.cors"): "only --cors needs it",
    ("tools/emulator/arguments.py", "tools.emulator.profile"): "only --profile needs it",
    ("tools/emulator/profile.py", "botocore.session"): "not everyone has it",
    ("tools/emulator/profile.py", "botocore.exceptions"): "not everyone has it",
    ("tools/emulator/arguments.py", "tools.emulator.env_file"): "only --env-file needs it",
    ("tools/emulator/endpoints/page.py", "webbrowser"): "only --open needs it",
    ("tools/emulator/deployment/configuration.py", "subprocess"): "only layers with an interpreter need it",
    ("tools/emulator/deployment/sources.py", "shutil"): "a start with one layer does not need it",
    ("tools/emulator/deployment/sources.py", "tools.emulator.deployment.unpack"): "only zips need zipfile",
    ("tools/emulator/deployment/sources.py", "tools.emulator.deployment.zip_view"): "few functions have hidden files",
    (
        "tools/emulator/execution/pool.py",
        "tools.emulator.execution.managed_instance",
    ): "only --max-concurrency needs it",
    ("tools/emulator/execution/environment.py", "tools.emulator.execution.runtime_api"): (
        "loaded while the process of the environment starts"
    ),
    ("tools/emulator/execution/environment.py", "tools.emulator.execution.external_extensions"): (
        "only layers with extensions need it"
    ),
    ("tools/emulator/execution/runtime_api.py", "tools.emulator.execution.extensions_api"): (
        "only functions with extensions need it"
    ),
    ("tools/emulator/execution/pool.py", "tools.emulator.execution.attached"): "only --api-only needs it",
    ("tools/emulator/execution/pool.py", "tools.emulator.execution.snapstart"): "only --snapstart needs it",
    ("tools/emulator/sandbox/supervisor_client.py", "shutil"): "a start does not need it",
    ("tools/emulator/sandbox/supervisor_process.py", "shutil"): "it would take half of the start of the supervisor",
    ("tools/emulator/sandbox/keeper.py", "tools.emulator.sandbox.namespaces"): "only --isolate needs it",
    ("tools/common/operating_system.py", "ctypes"): "only Linux needs it",
    ("tools/common/operating_system.py", "_socket"): "a process without connections does not need it",
    ("tools/common/operating_system.py", "resource"): "only servers need it",
    ("tools/packaging/cli.py", "tools.packaging.self_contained"): SLIM,
    ("tools/packaging/cli.py", "tools.packaging.interpreter.pins"): SLIM,
    ("tools/packaging/interpreter/download.py", "http.client"): SLIM,
    ("tools/packaging/interpreter/download.py", "urllib.error"): SLIM,
    ("tools/packaging/interpreter/download.py", "urllib.request"): SLIM,
    ("tools/mutation/cli.py", "tools.mutation.session"): "the help text works without pytest",
    ("tools/fleet/aws/session.py", "boto3"): NO_AWS,
    ("tools/fleet/aws/session.py", "botocore.config"): NO_AWS,
    ("tools/fleet/aws/session.py", "botocore.credentials"): NO_AWS,
    ("tools/fleet/aws/session.py", "botocore.exceptions"): NO_AWS,
    ("tools/fleet/aws/session.py", "botocore.session"): NO_AWS,
    ("tools/fleet/aws/errors.py", "botocore"): NO_AWS,
    ("tools/fleet/aws/errors.py", "botocore.parsers"): NO_AWS,
}


@dataclass(frozen=True)
class Import:
    """One imported module, as `tools.common.paths`."""

    file: str
    module: str
    line: int
    is_late: bool  # in a function
    is_for_types: bool  # below `if TYPE_CHECKING`


FILES = [
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "main.py", *sorted(ROOT.glob("layer/**/*.py")), *sorted(ROOT.glob("tools/**/*.py")))
]


# Parsed by the first test, because each process of a run collects all tests.
@cache
def parsed() -> dict[str, ast.Module]:
    return {file: ast.parse((ROOT / file).read_bytes(), file) for file in FILES}


def module_of(file: str) -> str:
    return file.removeprefix("layer/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def files_of_modules() -> dict[str, str]:
    return {module_of(file): file for file in FILES}


def imports_of(file: str) -> Iterator[Import]:
    yield from _walk(file, parsed()[file].body, is_late=False, is_for_types=False)


def _walk(file: str, nodes: list[ast.AST] | list[ast.stmt], is_late: bool, is_for_types: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for module in _modules(file, node):
                yield Import(file, module, node.lineno, is_late, is_for_types)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        yield from _walk(file, list(ast.iter_child_nodes(node)), is_late or inside, is_for_types or for_types)


def _modules(file: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:  # relative: one dot is the package of the file
        package = module_of(file).split(".")
        package = package if file.endswith("/__init__.py") else package[:-1]
        base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
    for alias in node.names:  # of a package, a name can be a module
        name = f"{base}.{alias.name}"
        yield name if name in files_of_modules() else base


def part_of(file: str) -> str:
    """The package to which a file belongs, as in ALLOWED."""
    return "/".join(file.split("/")[:2]) if file.startswith("tools/") else file.split("/")[0]


@cache
def all_imports() -> list[Import]:
    return [each for file in FILES for each in imports_of(file)]


def own_imports() -> list[Import]:
    return [each for each in all_imports() if each.module in files_of_modules()]


def test_imports_point_one_way() -> None:
    wrong = [
        f"{each.file}:{each.line} imports {each.module}"
        for each in own_imports()
        if (target := part_of(files_of_modules()[each.module])) != part_of(each.file)
        and target not in ALLOWED[part_of(each.file)]
    ]
    assert wrong == []


def test_every_package_has_a_rule() -> None:
    assert {part_of(file) for file in FILES} <= set(ALLOWED)


def test_no_tool_imports_the_layer_or_the_tests() -> None:
    layer = {module.split(".")[0] for module, file in files_of_modules().items() if file.startswith("layer/")}
    others = {*layer, "tests", "support", "lambda_function"}
    wrong = [f"{each.file}: {each.module}" for each in all_imports() if each.module.split(".")[0] in others]
    assert [each for each in wrong if not each.startswith("layer/")] == []


def test_no_modules_import_each_other() -> None:
    """Imports for the type checker do not count: they are not executed."""
    executed = [each for each in own_imports() if not each.is_for_types]
    graph = {
        module: {each.module for each in executed if each.file == file} for module, file in files_of_modules().items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_imports_in_functions_are_listed_with_their_reason() -> None:
    late = {(each.file, each.module) for each in all_imports() if each.is_late}
    assert late == set(LATE_IMPORTS)


def test_the_layer_imports_only_what_its_first_response_needs_at_the_top() -> None:
    """Cold modules are loaded by name on first use, so no import statement in the layer is in a function."""
    assert [each for each in all_imports() if each.file.startswith("layer/") and each.is_late] == []


# Parts of the interpreter, and what it has loaded before it runs any code: no module of a function takes their place.
PARTS_OF_THE_INTERPRETER = {
    *("_collections", "_imp", "_io", "_thread", "builtins", "gc", "marshal", "os", "posix", "sys", "time"),
    "_json",  # not always; `invocation` loads it before the function
}
# Executed before the folder of the function is on `sys.path`.
BEFORE_THE_FUNCTION = {
    *("__init__", "api", "connection", "handler", "http1", "invocation", "log"),
    *("concurrent_log", "lost_invocations", "slot_kinds", "timeouts", "worker", "worker_state", "workers"),
    "wrapper_watch",
}


def test_what_the_layer_imports_by_name_is_never_a_module_of_the_function() -> None:
    """A function can have a `queue.py`. Other modules of the standard library are imported with `import_standard`."""
    wrong = [
        f"{each.file}:{each.line} imports {each.module}"
        for each in all_imports()
        if each.file.startswith("layer/streaming_runtime/")
        and Path(each.file).stem not in BEFORE_THE_FUNCTION
        and not each.is_for_types
        and each.module.partition(".")[0] not in {"streaming_runtime", *PARTS_OF_THE_INTERPRETER}
    ]
    assert wrong == []


@pytest.mark.parametrize("file", [file for file in FILES if file != "main.py"])
def test_no_file_is_too_long(file: str) -> None:
    assert len((ROOT / file).read_bytes().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("folder", sorted({str(Path(file).parent) for file in FILES if file.startswith("tools/")}))
def test_every_package_has_a_map(folder: str) -> None:
    if (ROOT / folder / "__init__.py").is_file():
        assert ast.get_docstring(parsed()[f"{folder}/__init__.py"]), f"{folder}/__init__.py has no docstring"
