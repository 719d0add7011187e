"""`.pth` files in the folder of the function and in those of dependency layers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.function_process import source

SYS_PATH = """
import json
import sys

def handler(event, context):
    extra = [name for name in ("site", "streaming_runtime.path_files") if name in sys.modules]
    yield json.dumps([sys.path, extra]).encode()
"""
# Without the folder of a virtual environment, for which `site` would run.
PLAIN = [str(Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")), "/x/main.py"]


@pytest.fixture
def start(runtime):
    if not Path(PLAIN[0]).exists():
        pytest.skip(f"there is no {PLAIN[0]}")
    return lambda code, **options: runtime(code, arguments=PLAIN, **options)


def import_path(function):
    path, modules = json.loads(function.respond().body)
    return [entry.replace(str(function.task), "TASK") for entry in path], modules


def test_lines_are_appended_to_the_import_path_after_all_other_folders(start):
    code = {
        "lambda_function.py": SYS_PATH,
        "b.pth": "sub\n# a comment\n\nmissing\nsub\n../task/other  \n",
        "a.pth": "\ufefffirst",
        ".hidden.pth": "hidden",
        "note.pth.txt": "sub/deep",
        **{f"{name}/module.py": "" for name in ("sub", "first", "other", "hidden", "sub/deep")},
    }
    before, modules = import_path(start(SYS_PATH))
    assert modules == []
    after, modules = import_path(start(code))
    assert after == [*before, "TASK/first", "TASK/sub", "TASK/other"]
    assert modules == ["streaming_runtime.path_files"]


def test_a_package_of_a_path_line_can_be_the_handler(start):
    code = {
        "editable.pth": "src",
        "src/app/main.py": """
            def handler(event, context):
                yield b"found"
            """,
    }
    assert start(code, variables={"_HANDLER": "app.main.handler"}).respond().body == b"found"


NAMESPACE = (
    "import sys, types, os;p = os.path.join(sys._getframe(1).f_locals['sitedir'], *('ns',));"
    "m = sys.modules.setdefault('ns', types.ModuleType('ns'));"
    "mp = m.__dict__.setdefault('__path__', []);(p not in mp) and mp.append(p)"
)


def test_a_namespace_package_of_setuptools_is_found(start):
    code = {
        "ns-nspkg.pth": NAMESPACE,
        "ns/part.py": "NAME = b'part'",
        "lambda_function.py": """
            import ns.part

            def handler(event, context):
                yield ns.part.NAME
            """,
    }
    assert start(code).respond().body == b"part"


def test_an_encoding_that_a_file_registers_can_be_the_one_of_the_handler(start):
    code = {
        "shout.pth": "import shout",
        "shout.py": """
            import codecs

            utf8 = codecs.lookup("utf-8")
            codecs.register(lambda name: utf8 if name == "shout" else None)
            """,
        "lambda_function.py": """
            # coding: shout
            def handler(event, context):
                yield "ä".encode()
            """,
    }
    assert start(code).respond().body == "ä".encode()


def test_distutils_of_setuptools_is_found_where_python_has_none(start, tmp_path):
    packages = next((Path(entry) for entry in sys.path if Path(entry, "_distutils_hack").is_dir()), None)
    if packages is None:
        pytest.skip("setuptools is not installed")
    task = tmp_path / "task"
    task.mkdir()
    for name in ("_distutils_hack", "distutils-precedence.pth", "setuptools"):
        (task / name).symlink_to(packages / name)
    code = """
        import distutils

        def handler(event, context):
            yield distutils.__file__.encode()
        """
    (task / "lambda_function.py").write_text(source(code))
    function = start("", variables={"LAMBDA_TASK_ROOT": str(task)})
    assert "setuptools/_distutils" in function.respond().body.decode()


FAULTS = {
    "raises": ("import sys; raise ValueError('no licence')", "ValueError: no licence"),
    "imports": ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    "no Python": ("import", "SyntaxError"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_raises_is_one_event_and_the_function_works(start, fault):
    line, message = FAULTS[fault]
    code = {
        "a.pth": f"first\n{line} \nskipped\n",
        "b.pth": "last",
        "lambda_function.py": SYS_PATH,
        **{f"{name}/module.py": "" for name in ("first", "skipped", "last")},
    }
    function = start(code)
    path, _ = import_path(function)
    assert [entry for entry in path if entry.startswith("TASK/")] == ["TASK/first", "TASK/last"]
    [event] = function.stdout.splitlines(keepends=False) if "\r" not in function.stdout else [function.stdout]
    assert message in event and "a.pth" in event
    assert fault == "no Python" or 'a.pth", line 2, in <module>' in event


def test_a_file_that_exits_is_an_init_error(start):
    function = start({"exit.pth": "import sys; sys.exit(3)", "lambda_function.py": SYS_PATH})
    _, document = function.read_init_error()
    assert (document["errorType"], function.wait()) == ("Runtime.ExitError", 3)


FINDERS = {
    "modern": """
        import importlib.machinery
        import sys

        class Finder:
            def find_spec(name, path=None, target=None):
                return importlib.machinery.PathFinder.find_spec(name, path, target)

        sys.meta_path.insert(0, Finder)
        """,
    "legacy": """
        import sys

        class Finder:
            def find_module(self, name, path=None):
                return None

        sys.meta_path.insert(0, Finder())
        """,
    "logging": "import logging",
}


@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_prepends_a_finder_does_not_change_the_log_format(start, finder):
    code = {
        "finder.pth": "import finder",
        "finder.py": source(FINDERS[finder]),
        "lambda_function.py": """
            import logging

            def handler(event, context):
                logging.getLogger().warning("formatted")
                yield b"x"
            """,
    }
    function = start(code)
    request_id = function.invoke()
    function.read_response(request_id)
    function.accept()
    function.expect_next()
    assert function.stdout.startswith("[WARNING]\t") and function.stdout.endswith(f"Z\t{request_id}\tformatted\n")
