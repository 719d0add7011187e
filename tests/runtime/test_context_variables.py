"""Each invocation has a `contextvars` context of its own."""

from __future__ import annotations

import pytest

HANDLER = """
    import contextvars

    of_module = contextvars.ContextVar("of_module")
    of_module.set("import")
    of_handler = contextvars.ContextVar("of_handler", default="unset")

    {definition} handler(event, context):
        before = of_handler.get()
        of_handler.set(event)
        yield before.encode()
        try:
            yield of_handler.get().encode()
        finally:
            print(of_module.get(), of_handler.get(), flush=True)
"""


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_a_variable_that_a_handler_sets_lasts_for_the_invocation_only(runtime, definition):
    function = runtime(HANDLER.format(definition=definition))
    assert function.respond("one").chunks == [b"unset", b"one"]
    assert function.respond("two").chunks == [b"unset", b"two"]
    function.expect_next()
    assert function.stdout == "import one\nimport two\n"


def test_a_generator_is_closed_in_the_context_of_its_invocation(runtime):
    function = runtime(
        """
        import contextvars

        variable = contextvars.ContextVar("variable")

        def handler(event, context):
            token = variable.set("mine")
            try:
                while True:
                    yield b"x" * 100_000
            finally:
                variable.reset(token)
                print("reset", flush=True)
        """
    )
    function.expect_response(function.invoke())
    function.peer.read_chunk()
    function.peer.reset()
    function.connect()
    function.expect_next()
    assert function.stdout == "reset\n"


def test_variables_that_appear_during_an_invocation_do_not_reach_the_next_one(runtime):
    function = runtime(
        """
        def handler(event, context):
            import decimal
            yield str(decimal.getcontext().prec).encode()
            decimal.getcontext().prec = 5
        """
    )
    assert [function.respond().body for _ in range(3)] == [b"28"] * 3


def test_a_function_without_context_variables_does_not_load_them(runtime):
    function = runtime(
        """
        import sys

        def handler(event, context):
            yield str("_contextvars" in sys.modules or "contextvars" in sys.modules).encode()
        """
    )
    assert [function.respond().body for _ in range(2)] == [b"False"] * 2
