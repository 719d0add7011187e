"""Stack traces are those of `traceback`, which is not imported for them."""

from __future__ import annotations

import json
import zipfile

import pytest
from support.function_process import FunctionProcess

# Prints what `traceback` makes of an error, and raises that error. The event names a module and calls its `work`.
COMPARED = """
    import importlib
    import json
    import linecache
    import sys
    import traceback

    def handler(event, context):
        yield from ()
        try:
            importlib.import_module(event).work()
        except ValueError as error:
            known = dict(linecache.cache)
            frames = traceback.extract_tb(error.__traceback__)
            print(json.dumps(traceback.format_list([tuple(frame) for frame in frames])))
            linecache.cache.clear()  # the report must not find what `traceback` has read
            linecache.cache.update(known)
            raise
    """
FAIL = "def work():\n    raise ValueError('é')\n"
MODULES = {
    "plain.py": FAIL,
    "blank_lines.py": f"\n\n{FAIL}",
    "form_feed.py": f"x = 1\f\n\f\n{FAIL}",
    "separators.py": f"x = '\x1c\x85\u2028'\n{FAIL}",
    "several_lines.py": "def work():\n    raise ValueError(\n        'a',\n        'b',\n    )\n",
    "recursion.py": "def work(n=6):\n    if n == 0:\n        raise ValueError(n)\n    return work(n - 1)\n",
    "one_repetition.py": "def work(n=4):\n    if n == 0:\n        raise ValueError(n)\n    return work(n - 1)\n",
    "no_repetition.py": "def work(n=3):\n    if n == 0:\n        raise ValueError(n)\n    return work(n - 1)\n",
    "methods.py": "class A:\n    def f(self):\n        (lambda: int('x'))()\ndef work():\n    A().f()\n",
    "text.py": "def work():\n    exec(compile('raise ValueError(1)', '<text>', 'exec'))\n",
    "removed.py": f"import os\nos.unlink(__file__)\n{FAIL}",
    "in_a_zip.py": """
import os, sys
sys.path.append(os.path.join(os.path.dirname(__file__), "packed.zip"))
from packed import work
""",
    "generated.py": """
import linecache

def work():
    text = "def inner():\\n    raise ValueError(2)\\n"
    linecache.cache["<generated>"] = (len(text), None, text.splitlines(True), "<generated>")
    variables = {}
    exec(compile(text, "<generated>", "exec"), variables)
    variables["inner"]()
""",
    "relative.py": """
def work():
    variables = {}
    exec(compile("def inner():\\n    raise ValueError(3)\\n", "relative_source.txt", "exec"), variables)
    variables["inner"]()
""",
    "relative_source.txt": "first\nsecond\n",
    "in_the_library.py": "def work():\n    exec(compile('raise ValueError(4)', 'this.py', 'exec'), {})\n",
    "other_loader.py": """
class Loader:
    def get_source(self, name):
        return f"the source of {name}"

def work():
    variables = {"__file__": "made", "__name__": "made", "__loader__": Loader()}
    exec(compile("raise ValueError(5)", "made", "exec"), variables)
""",
    "a_folder.py": "def work():\n    exec(compile('raise ValueError(1)', '/tmp', 'exec'))\n",
    "no_name.py": "def work():\n    exec(compile('raise ValueError(1)', '', 'exec'))\n",
    "limit.py": f"import sys\nsys.tracebacklimit = 1\n{FAIL}",
}
ENCODED = {
    "latin_1": f"# -*- coding: latin-1 -*-\n{FAIL}".encode("latin-1"),
    "second_line": f"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\n{FAIL}".encode("cp1252"),
    "not_a_declaration": f"x = 1\n# coding: latin-1\n{FAIL}".encode(),
    "byte_order_mark": b"\xef\xbb\xbf" + FAIL.encode(),
    "mark_in_the_line": b"\xef\xbb\xbfdef work(): raise ValueError('\xc3\xa9')\n",
    "mark_and_declaration": f"\ufeff# coding: utf-8\n{FAIL}".encode(),
    "crlf": FAIL.replace("\n", "\r\n").encode(),
    "cr": FAIL.replace("\n", "\r").encode(),
}
NAMES = [name.removesuffix(".py") for name in [*MODULES, *ENCODED] if not name.endswith(".txt")]


@pytest.fixture(scope="module")
def traces(layer, tmp_path_factory):
    """What `traceback` makes of each module's error, and the stack trace in the report."""
    folder = tmp_path_factory.mktemp("traces")
    function = FunctionProcess(layer, folder, {"lambda_function.py": COMPARED, "empty.txt": ""})
    try:
        for name, text in MODULES.items():
            (function.task / name).write_bytes(text.encode())
        for name, data in ENCODED.items():
            (function.task / f"{name}.py").write_bytes(data)
        with zipfile.ZipFile(function.task / "packed.zip", "w") as file:
            file.writestr("packed.py", FAIL)
        found = {}
        for name in sorted(NAMES, key="limit".__eq__):  # the limit stays
            _, document = function.fail(name)
            found[name] = (json.loads(function.stdout.split("\n")[2 * len(found)]), document["stackTrace"])
        return found
    finally:
        function.end()


@pytest.mark.parametrize("name", NAMES)
def test_a_stack_trace_is_that_of_traceback(traces, name):
    expected, reported = traces[name]
    assert reported == expected


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_the_first_error_imports_neither_traceback_nor_what_it_needs(runtime, keyword):
    function = runtime(
        f"""
        import sys

        {keyword} handler(event, context):
            if event == "modules":
                yield " ".join(sys.modules).encode()
            raise ValueError("boom")
        """
    )
    _, document = function.fail()
    assert "raise ValueError" in document["stackTrace"][0]
    if keyword == "def":
        loaded = function.respond("modules").body.decode().split()
        assert {"traceback", "tokenize", "re", "dataclasses", "inspect", "ast"}.intersection(loaded) == set()


@pytest.mark.parametrize("name", ["/dev/zero", "a pipe", "\\udcff\\ud800"])
def test_a_file_name_that_cannot_be_read_leaves_the_source_line_out(runtime, name):
    function = runtime(
        f"""
        import os

        os.mkfifo("a pipe")

        def handler(event, context):
            yield from ()
            exec(compile("raise ValueError(1)", "{name}", "exec"))
        """
    )
    _, document = function.fail()
    assert len(document["stackTrace"]) == 2
    assert document["stackTrace"][1].endswith(", line 1, in <module>\n")
