"""Checks of the handler in a function's zip: its module, its syntax, and what the module defines.

The module is parsed, and never executed. Where that cannot decide, there is no finding: the module can be bytecode, it
can be written for a newer Python than the one that runs this check, and it can set its names at run time.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping

from tools.common.lambda_facts import MANAGED_PYTHON
from tools.common.output import count
from tools.fleet.checks.finding import Finding

DEFAULT_MODULE = "lambda_function.py"
_OF_FINDER = "__MACOSX/"  # the folder that macOS adds to zips

# Functions that make a handler of a web application, which the runtime calls itself: Mangum, and apig-wsgi.
_ADAPTERS = ("Mangum", "make_lambda_handler")


def check_handler(
    zip_name: str, files: Mapping[str, bytes], handler: str | None, runtime: str | None, importable: Collection[str]
) -> Iterator[Finding]:
    """Yield the findings of a handler.

    Args:
        zip_name: in messages.
        files: the content of the zip, by path.
        handler: its name; None if unknown.
        runtime: of the function; None if unknown.
        importable: the paths of the modules of its layers, relative to the folders from which Python imports.
    """
    if handler is None:
        yield from _any_module(zip_name, files)
        return
    module, dot, name = handler.rpartition(".")
    path = module.replace(".", "/")
    if not dot or not name or not all(path.split("/")):
        yield Finding(
            f"the handler is {handler!r}",
            "it must be MODULE.NAME; the function fails with Runtime.MalformedHandlerName",
            "aws lambda update-function-configuration --function-name … --handler lambda_function.handler",
        )
        return
    found = next((each for each in (f"{path}/__init__.py", f"{path}.py") if each in files), None)  # as Python imports
    if found is not None:
        yield from _definition(found, files[found], handler, name, runtime)
    elif not _has_compiled(files, path) and not _has_module(importable, path):
        yield Finding(
            f"{zip_name} has no {path}.py for the handler {handler}{_deeper(files, path)}",
            "every invocation fails with Runtime.ImportModuleError",
            "./build.sh function FOLDER, with the folder of the module, or correct the handler",
        )


def _any_module(zip_name: str, files: Mapping[str, bytes]) -> Iterator[Finding]:
    """Yield a finding if no handler can be imported, or the zip contains the function's folder instead of its files."""
    modules = [path for path in files if path.endswith((".py", ".pyc", ".so")) and not path.startswith(_OF_FINDER)]
    if not modules:
        yield Finding(
            f"{zip_name} contains no .py file",
            "the runtime has no handler to import",
            "./build.sh function FOLDER, with the folder of the handler",
        )
        return
    folder, _, rest = modules[0].partition("/")
    is_nested = bool(rest) and all(path.startswith(f"{folder}/") for path in modules)
    if is_nested and f"{folder}/{DEFAULT_MODULE}" in files and f"{folder}/__init__.py" not in files:
        yield Finding(
            f"{zip_name} contains the folder {folder}, and {DEFAULT_MODULE} in it",
            "the handler lambda_function.handler is not found: Runtime.ImportModuleError",
            f"./build.sh function {folder}, or --handler {folder}/lambda_function.handler if that is the handler",
        )


def _deeper(files: Collection[str], path: str) -> str:
    """Return where else the zip has the module."""
    below = [each for each in files if each.endswith((f"/{path}.py", f"/{path}/__init__.py"))]
    if not below:
        return ""
    nearest = min(below, key=lambda each: (each.count("/"), each))
    depth = nearest.removesuffix("/__init__.py").count("/") - path.count("/")
    return f"; the zip has {nearest}, {count(depth, 'folder')} too deep"


def _definition(path: str, source: bytes, handler: str, name: str, runtime: str | None) -> Iterator[Finding]:
    if error := syntax_error(source, runtime):
        yield Finding(
            f"{path} has a syntax error on {runtime}: {error}",
            "every invocation fails with Runtime.UserCodeSyntaxError",
            "correct the file, then ./build.sh function FOLDER",
        )
        return
    statements = _statements(source)
    if statements is None:
        return
    if not _defines(statements, name):
        yield Finding(
            f"{path} does not define {name} for the handler {handler}",
            "every invocation fails with Runtime.HandlerNotFound",
            "aws lambda update-function-configuration --function-name … --handler MODULE.FUNCTION",
        )
    elif adapted := _adapted_application(statements, name):
        adapter, application = adapted
        yield Finding(
            f"the handler {handler} is {adapter}({application})",
            "it returns the whole response, so every invocation fails with Runtime.InvalidHandler",
            "aws lambda update-function-configuration --function-name … --handler "
            f"{handler.removesuffix(name)}{application}",
        )


# --- Files ------------------------------------------------------------------------------------------------------------


def _has_module(paths: Collection[str], path: str) -> bool:
    return f"{path}.py" in paths or f"{path}/__init__.py" in paths or _has_compiled(paths, path)


def _has_compiled(paths: Collection[str], path: str) -> bool:
    """Whether the module is bytecode or an extension module: `a.pyc`, `a.so` or `a.cpython-313-x86_64-linux-gnu.so`."""
    name = re.escape(path)
    pattern = re.compile(rf"{name}(/__init__)?(\.pyc|(\.[^/]+)?\.so)")
    return any(pattern.fullmatch(each) for each in paths)


# --- Source -----------------------------------------------------------------------------------------------------------


def syntax_error(source: bytes, runtime: str | None) -> str:
    """Return why the Python of a runtime cannot compile a module; an empty string if it can, or in doubt.

    A Python knows the syntax of older ones, but not of newer ones.
    """
    minor = (runtime or "").removeprefix(MANAGED_PYTHON)
    if not (runtime or "").startswith(MANAGED_PYTHON) or not minor.isdecimal() or int(minor) > sys.version_info.minor:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(ast.parse(source, feature_version=(3, int(minor))), "<the module>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"{error.msg} (line {error.lineno})" if error.lineno else str(error.msg)
    except ValueError as error:  # a NUL, before Python 3.12
        return str(error)
    except (RecursionError, MemoryError):  # nested too deep
        return ""
    return ""


def _statements(source: bytes) -> list[ast.stmt] | None:
    """Parse a module of the function. Return None if this Python cannot."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the function's code, such as an invalid escape sequence
            return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep
        return None


def _adapted_application(statements: list[ast.stmt], name: str) -> tuple[str, str] | None:
    """Return adapter and application if the statement `name = adapter(application)` makes the handler."""
    for node in statements:
        match node:
            case ast.Assign(
                targets=[ast.Name(id=target)],
                value=ast.Call(
                    func=ast.Name(id=adapter) | ast.Attribute(attr=adapter), args=[ast.Name(id=application), *_]
                ),
            ) if target == name and adapter in _ADAPTERS:
                return adapter, application
    return None


def _defines(statements: list[ast.stmt], name: str) -> bool:
    """Whether a module may have `name`; True in doubt, as for `from x import *`."""
    for node in ast.walk(ast.Module(statements, [])):
        match node:
            case ast.FunctionDef(name=each) | ast.AsyncFunctionDef(name=each) | ast.ClassDef(name=each):
                found = each in (name, "__getattr__")
            case ast.Name(id=each, ctx=ast.Store()):
                found = each == name
            case ast.MatchAs(name=each) | ast.MatchStar(name=each) | ast.MatchMapping(rest=each):
                found = each == name
            case ast.alias(name=each, asname=renamed):
                found = each == "*" or name == (renamed or each.partition(".")[0])
            # What can give a module names that are not in its source:
            case ast.Call(func=ast.Name(id="exec" | "globals" | "locals")):
                found = True
            case ast.Call(func=ast.Name(id="vars"), args=[]) | ast.Attribute(value=ast.Name(id="sys"), attr="modules"):
                found = True
            case _:
                found = False
        if found:
            return True
    return False
