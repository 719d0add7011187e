"""What the runtime takes a handler for: a plain handler, an ASGI application or a WSGI application."""

from __future__ import annotations

import pytest
from support.function_process import source
from support.http_events import function_url
from support.http_responses import parse

# All callables of the tests. Each responds with the name of the interface by which it is called.
CALLABLES = """
import functools


async def call_asgi(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"asgi"})


def call_wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b"wsgi"]


async def coroutine_function(scope, receive, send):
    await call_asgi(scope, receive, send)


async def with_optional_parameter(scope, receive, send, extra=None, *, other=None):
    await call_asgi(scope, receive, send)


class CallableObject:
    async def __call__(self, scope, receive, send):
        await call_asgi(scope, receive, send)


class ObjectWithSlots:
    __slots__ = ("inner",)

    async def __call__(self, scope, receive, send):
        await call_asgi(scope, receive, send)


class ObjectWithHostileAttributes(CallableObject):
    def __getattr__(self, name):
        raise RuntimeError(name)


class Middleware:
    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, scope, receive, send):
        await self.inner(scope, receive, send)


class CallIsObject:
    __call__ = CallableObject()


async def with_settings(settings, scope, receive, send, *, debug):
    await call_asgi(scope, receive, send)


def decorated(function):
    @functools.wraps(function)
    async def wrapper(scope, receive, send):
        await function(scope, receive, send)

    return wrapper


@decorated
async def wrapped(scope, receive, send):
    await call_asgi(scope, receive, send)


callable_object = CallableObject()
object_with_slots = ObjectWithSlots()
object_with_hostile_attributes = ObjectWithHostileAttributes()
middleware = Middleware(CallableObject())
bound_method = CallableObject().__call__
call_is_object = CallIsObject()
partial_of_object = functools.partial(CallableObject())
partial_with_arguments = functools.partial(functools.partial(with_settings, {}), debug=True)


def wsgi_function(environ, start_response):
    return call_wsgi(environ, start_response)


class WsgiObject:
    def __call__(self, env, start_response):
        return call_wsgi(env, start_response)


class WsgiClass:
    def __init__(self, environ, start_response):
        self.items = call_wsgi(environ, start_response)

    def __iter__(self):
        return iter(self.items)


def wsgi_with_optional_parameter(environ, start_response, extra=None):
    return call_wsgi(environ, start_response)


wsgi_object = WsgiObject()
wsgi_partial = functools.partial(call_wsgi)


def plain(event, context):
    yield b"handler"


async def async_generator(event, context):
    yield b"handler"


def variable_arguments(*args, **kwargs):
    yield b"handler"


def one_more_with_default(event, context, extra=None):
    yield b"handler"


class HandlerObject:
    def __call__(self, event, context):
        yield b"handler"


class IteratorClass:
    def __init__(self, event, context):
        self.items = iter([b"handler"])

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.items)


handler_object = HandlerObject()
partial_handler = functools.partial(lambda settings, event, context: iter([b"handler"]), {})


def synchronous_of_three(scope, receive, send):
    return call_asgi(scope, receive, send)


def generator_of_three(scope, receive, send):
    yield b"handler"


async def coroutine_of_two(event, context):
    return b"handler"


async def coroutine_of_four(scope, receive, send, more):
    pass


async def coroutine_of_variable(*args):
    await call_asgi(*args)


async def coroutine_with_required_keyword(scope, receive, send, *, more):
    pass


async def coroutine_of_event(event, receive, send):
    pass


@functools.wraps(coroutine_function)
async def wrapper_of_two(event, context):
    pass


def response_dict(event, context):
    return {"statusCode": 200, "body": "x"}


number = 5
"""

ASGI = [
    "coroutine_function",
    "with_optional_parameter",
    "callable_object",
    "object_with_slots",
    "object_with_hostile_attributes",
    "middleware",
    "wrapped",
    "bound_method",
    "call_is_object",
    "partial_of_object",
    "partial_with_arguments",
]
WSGI = ["wsgi_function", "wsgi_object", "WsgiClass", "wsgi_with_optional_parameter", "wsgi_partial"]
HANDLERS = [
    "plain",
    "async_generator",
    "variable_arguments",
    "one_more_with_default",
    "handler_object",
    "IteratorClass",
    "partial_handler",
]
UNCLEAR = [
    "synchronous_of_three",
    "generator_of_three",
    "coroutine_of_two",
    "coroutine_of_four",
    "coroutine_of_variable",
    "coroutine_with_required_keyword",
    "wrapper_of_two",
]


@pytest.fixture
def start(runtime):
    def start(name, interface=None):
        variables = {"_HANDLER": f"main.{name}", "STREAMING_RUNTIME_INTERFACE": interface}
        return runtime({"main.py": source(CALLABLES)}, variables=variables)

    return start


@pytest.mark.parametrize(("name", "body"), [(name, b"asgi") for name in ASGI] + [(name, b"wsgi") for name in WSGI])
def test_an_application_is_recognized(start, name, body):
    assert parse(start(name).respond(function_url())).body == body


@pytest.mark.parametrize("name", HANDLERS)
def test_a_handler_is_recognized(start, name):
    assert start(name).respond({}).body == b"handler"


@pytest.mark.parametrize("name", UNCLEAR)
def test_an_unclear_callable_is_an_error_that_names_the_variable(start, name):
    _, document = start(name).fail(function_url())
    assert document["errorType"] == "Runtime.InvalidHandler"
    assert "STREAMING_RUNTIME_INTERFACE" in document["errorMessage"]


def test_a_callable_whose_first_parameter_is_event_is_a_handler(start):
    _, document = start("coroutine_of_event").fail(function_url())
    assert document["errorType"] == "TypeError"


def test_the_error_about_a_response_dict_names_web_applications(start):
    _, document = start("response_dict").fail(function_url())
    assert "ASGI or WSGI application" in document["errorMessage"]


@pytest.mark.parametrize(
    ("name", "interface", "body"),
    [
        ("synchronous_of_three", "asgi", b"asgi"),
        ("coroutine_of_variable", "asgi", b"asgi"),
        ("variable_arguments", "handler", b"handler"),
        ("plain", "handler", b"handler"),
        ("wsgi_function", "wsgi", b"wsgi"),
        ("plain", "", b"handler"),
    ],
)
def test_the_variable_overrides_detection(start, name, interface, body):
    response = start(name, interface).respond(function_url())
    assert (response.body if body == b"handler" else parse(response).body) == body


def test_the_variable_makes_an_application_a_handler(start):
    _, document = start("coroutine_function", "handler").fail(function_url())
    assert document["errorType"] == "TypeError"


@pytest.mark.parametrize("value", ["ASGI", "http", "asgi,wsgi"])
def test_another_value_of_the_variable_is_an_init_error_that_lists_the_three(start, value):
    _, document = start("plain", value).read_init_error()
    assert document["errorType"] == "Runtime.InvalidInterface"
    assert document["errorMessage"] == f"STREAMING_RUNTIME_INTERFACE is {value!r}; it must be asgi, wsgi or handler"


@pytest.mark.parametrize(
    ("name", "is_imported"), [("plain", False), ("async_generator", False), ("callable_object", True)]
)
def test_a_plain_handler_loads_nothing_of_web_applications(runtime, name, is_imported):
    code = source(CALLABLES) + source(
        """
        import sys


        def loaded():
            names = [module.removeprefix("streaming_runtime.") for module in sys.modules]
            return b" ".join(name.encode() for name in ("asgi", "interface", "http_event", "lifespan") if name in names)


        def plain(event, context):
            yield loaded()


        async def async_generator(event, context):
            yield loaded()


        async def call_asgi(scope, receive, send):
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": loaded()})
        """
    )
    response = runtime({"main.py": code}, variables={"_HANDLER": f"main.{name}"}).respond(function_url())
    assert response.chunks[-1:] == ([b"asgi interface http_event lifespan"] if is_imported else [])
