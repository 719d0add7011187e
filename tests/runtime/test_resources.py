"""Errors while the interpreter itself is in trouble: the caller gets type and message all the same."""

from __future__ import annotations

import pytest

# Each breaks the process, keeps it broken, and then raises an error.
TROUBLE = {
    "no descriptors": """
        import os
        import resource

        files = []

        def fail():
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            while True:
                files.append(os.open("/dev/null", os.O_RDONLY))
        """,
    "all descriptors up to the limit": """
        import os
        import resource

        files = []

        def fail():
            resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
            while True:
                files.append(os.open("/dev/null", os.O_RDONLY))
        """,
    "no memory": """
        import resource

        kept = []

        def fail():
            with open("/proc/self/statm") as statm:
                pages = int(statm.read().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (32 << 20), resource.RLIM_INFINITY))
            size = 16 << 20
            while True:
                try:
                    kept.append(bytearray(size))
                except MemoryError:
                    size //= 2
                    if size < 16:
                        raise MemoryError("nothing is left") from None
        """,
    "a recursion": """
        def fail():
            fail()
        """,
    "the lowest recursion limit": """
        import sys

        def fail():
            for limit in range(1, 100):
                try:
                    sys.setrecursionlimit(limit)
                except RecursionError:  # the stack is deeper already
                    continue
                raise ValueError("a message")
        """,
    "broken standard modules": """
        import json
        import os
        import traceback

        def fail():
            for module in (json, traceback, os.path, os):
                for name in list(vars(module)):
                    if not name.startswith("__"):
                        setattr(module, name, None)
            raise ValueError("a message")
        """,
    "standard modules that exit": """
        import json
        import linecache
        import time
        import traceback

        class Exit:
            def __call__(self, *arguments, **options):
                raise SystemExit(9)

        def fail():
            for module in (json, linecache, traceback):
                for name in list(vars(module)):
                    if not name.startswith("__"):
                        setattr(module, name, Exit())
            time.strftime = time.gmtime = Exit()
            raise ValueError("a message")
        """,
    "emptied import state": """
        import sys

        def fail():
            sys.modules.clear()
            sys.meta_path.clear()
            sys.path.clear()
            raise ValueError("a message")
        """,
    "imports that raise": """
        import builtins

        def fail():
            def refuse(*arguments):
                raise RuntimeError("no import")

            builtins.__import__ = refuse
            raise ValueError("a message")
        """,
}
EXPECTED = {
    "no descriptors": "OSError",
    "all descriptors up to the limit": "OSError",
    "no memory": "MemoryError",
    "a recursion": "RecursionError",
}
LOG_FORMATS = {"standard modules that exit": "JSON"}  # its records contain a time

pytestmark = pytest.mark.parametrize("trouble", TROUBLE)


def start(runtime, trouble, handler):
    code = {"trouble.py": TROUBLE[trouble], "lambda_function.py": handler}
    return runtime(code, variables={"AWS_LAMBDA_LOG_FORMAT": LOG_FORMATS.get(trouble, "Text")})


def assert_error(document, trouble):
    assert document["errorType"] == EXPECTED.get(trouble, "ValueError")
    assert document["errorMessage"]


def assert_continues_or_ends(function):
    """The next invocation works, or the process has ended: it never hangs."""
    try:
        request = function.peer.read_request()
    except ConnectionResetError:  # it has ended without reading the last response
        request = None
    if request is None:
        assert function.wait() != 0
    else:
        assert request.path.endswith("/next")


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_an_error_before_the_first_byte_is_reported(runtime, trouble, definition):
    handler = f"""
        from trouble import fail

        {definition} handler(event, context):
            fail()
            yield b"never"
        """
    function = start(runtime, trouble, handler)
    request, document = function.fail()
    assert_error(document, trouble)
    assert request.headers["lambda-runtime-function-error-type"] == f"Function.{EXPECTED.get(trouble, 'ValueError')}"
    assert_continues_or_ends(function)


def test_a_second_error_is_reported(runtime, trouble):
    """The modules that make reports are loaded by then."""
    handler = """
        from trouble import fail

        def handler(event, context):
            if event == "first":
                raise KeyError("first")
            fail()
            yield b"never"
        """
    function = start(runtime, trouble, handler)
    assert function.fail("first")[1]["errorType"] == "KeyError"
    assert_error(function.fail()[1], trouble)
    assert_continues_or_ends(function)


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_an_error_within_a_stream_is_in_the_trailers(runtime, trouble, definition):
    handler = f"""
        from trouble import fail

        {definition} handler(event, context):
            yield b"a"
            fail()
            yield b"never"
        """
    function = start(runtime, trouble, handler)
    response = function.respond()
    assert response.chunks == [b"a"]
    assert_error(response.error, trouble)
    assert_continues_or_ends(function)


def test_an_error_in_the_clean_up_does_not_hide_the_end_of_the_stream(runtime, trouble):
    handler = """
        from trouble import fail

        class Chunks:
            def __iter__(self):
                return self

            def __next__(self):
                self.count = getattr(self, "count", 0) + 1
                if self.count > 2:
                    raise StopIteration
                return b"a"

            def close(self):
                fail()

        def handler(event, context):
            return Chunks()
        """
    function = start(runtime, trouble, handler)
    assert function.respond().chunks == [b"a", b"a"]
    assert_continues_or_ends(function)


def test_an_error_in_an_async_clean_up_does_not_hide_the_end_of_the_stream(runtime, trouble):
    handler = """
        from trouble import fail

        class Chunks:
            count = 0

            def __aiter__(self):
                return self

            async def __anext__(self):
                self.count += 1
                if self.count > 2:
                    raise StopAsyncIteration
                return b"a"

            async def aclose(self):
                fail()

        def handler(event, context):
            return Chunks()
        """
    function = start(runtime, trouble, handler)
    assert function.respond().chunks == [b"a", b"a"]
    assert_continues_or_ends(function)


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_an_error_in_the_clean_up_after_a_wrong_chunk_does_not_hide_that(runtime, trouble, definition):
    handler = f"""
        from trouble import fail

        {definition} handler(event, context):
            try:
                yield b"a"
                yield "text"
            finally:
                fail()
        """
    function = start(runtime, trouble, handler)
    response = function.respond()
    assert response.chunks == [b"a"]
    assert response.error["errorType"] == "Runtime.InvalidChunk"
    assert_continues_or_ends(function)


def test_an_error_of_the_module_is_an_init_error(runtime, trouble):
    handler = """
        from trouble import fail

        fail()
        """
    function = start(runtime, trouble, handler)
    assert_error(function.read_init_error()[1], trouble)
    assert function.wait() != 0
