"""Tracing agents: the stream inside the call that an agent observes.

An agent wraps the handler. It opens a span, calls the handler, closes the span when the call returns, and exports it.
The handler is a generator function, so its call returns before the first line of it has run: the span is empty, an
error in the stream is not in it, and spans of the stream have no parent.

So the innermost handler, which the agent calls, is replaced by a plain function that drives the stream to its end
within the call, raises its error there, and returns what an agent expects: `{"statusCode": 200}`. These points matter:

- Some agents wrap the handler from `sitecustomize`. The import hook that replaces it is in place before `site` runs.
- The caller must not wait for the agent's export. The last chunk, or the trailers, leave within the call.
- Before the first byte, `/error` ends the invocation, so it is sent after the agent has returned.
- Work after the response runs within the call too, so the agent records it. The response, or `/error`, leaves before.
- Agents swallow or replace exceptions. The first one is remembered and reported.
- A caller that has left is not an error of the function. It is remembered, and not raised to the agent.
- Only the first call in the thread of the invocation may send chunks. Any other call of the replaced function (from a
  thread, at import, recursive) gets the result of the original.
- The innermost handler can be a web application, which is not called with an event. Its replacement is.
- Agents look at the handler: at `__wrapped__`, or whether it is a coroutine function. The replacement is neither.
"""

import sys
from _thread import get_ident

from streaming_runtime import ContractError, NotDelivered, RuntimeApiError
from streaming_runtime.api import FRESH, OPEN
from streaming_runtime.handler import Handler, load_handler, make_handler, split_handler_name
from streaming_runtime.log import ImportHook, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType, TracebackType
    from typing import Any

    from streaming_runtime.api import ResponseStream
    from streaming_runtime.invocation import Invocation
    from streaming_runtime.log import Log

VERSION = "0.1.0"

COPIED_ATTRIBUTES = ("__module__", "__name__", "__qualname__", "__doc__")  # agents name spans after them


# --- One call of the handler ------------------------------------------------------------------------------------------


class ObservedCall:
    """One call of the handler by the runtime, with what happened to the stream within it.

    Attributes:
        is_driven: the innermost handler was called.
        problem: what ended the stream early.
    """

    def __init__(self, handler: Handler, invocation: "Invocation", response: "ResponseStream", log: "Log") -> None:
        self._handler = handler
        self._invocation = invocation
        self._response = response
        self._log = log
        self._thread = get_ident()
        self.is_driven = False
        self.problem: BaseException | None = None
        self._traceback: TracebackType | None = None

    def may_drive(self) -> bool:
        """Return whether this is the call of the agent. An event loop cannot run within another one."""
        return not self.is_driven and get_ident() == self._thread and not is_loop_running()

    def drive(self, result: object) -> "dict[str, object]":
        """Send what the innermost handler gives, to the end of the response. Raises what the handler raises."""
        return self._complete(lambda: self._handler.send(result, self._response))

    def drive_application(self, application: Handler) -> "dict[str, object]":
        """Do the same with the response of a web application, which makes its own request of the event."""
        return self._complete(lambda: application.stream(self._invocation, self._response))

    def _complete(self, stream: "Callable[[], None]") -> "dict[str, object]":
        try:
            stream()
            self._response.finish()
        except (NotDelivered, RuntimeApiError) as problem:
            self._remember(problem)
        return {"statusCode": self._response.status}

    def fail(self, error: BaseException) -> None:
        """Remember an error, and send the trailers.

        Before the first byte the report waits for the agent, unless there is work after the response: that has to run
        within the call, and the caller does not wait for it.
        """
        self._remember(error)
        phase = self._response.phase
        is_due = phase is OPEN or (phase is FRESH and self._invocation.callbacks is not None)
        if is_due and not self._response.is_disowned:
            report = describe(error, "the handler")
            self._log.error(report)
            self._response.fail(report)

    def run_callbacks(self) -> None:
        """Do the work after the response, so that the agent records it and does not flush before it."""
        self._invocation.has_ended = True
        if self._invocation.callbacks is not None:
            self._invocation.callbacks.call_all(self._handler, self._log)

    def _remember(self, problem: BaseException) -> None:
        self.problem, self._traceback = problem, problem.__traceback__

    def raise_problem(self) -> None:
        """Raise what ended the stream early, without the frames of the agent. Nothing refers to it afterwards.

        Its traceback refers to this object. With a cycle, what the handler holds would not be freed at once.
        """
        problem, self.problem = self.problem, None
        traceback, self._traceback = self._traceback, None
        try:
            if problem is not None:
                raise problem.with_traceback(traceback)
        finally:
            del problem, traceback


def is_loop_running() -> bool:
    asyncio: Any = sys.modules.get("_asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


# --- The innermost handler --------------------------------------------------------------------------------------------


class InnerHandler:
    """The handler that an agent calls, and its replacement in its module.

    Args:
        variable: the environment variable that names the handler.
        name: in the form of `_HANDLER`. Raises ContractError if it is malformed.
    """

    def __init__(self, variable: str, name: str) -> None:
        self.variable = variable
        self.name = name
        self.call: ObservedCall | None = None
        self.application: Handler | None = None  # of the innermost handler, if that is a web application
        self.original: Callable[..., Any] | None = None  # the innermost handler
        self._replacements: list[Callable[..., Any]] = []
        self._module_name, self._attribute = split_handler_name(name, variable)
        self._hook = ImportHook(self._module_name, self._replace_in)

    def install(self) -> None:
        """Install the import hook as the first finder, also if an agent has installed others since."""
        if self._hook in sys.meta_path:
            sys.meta_path.remove(self._hook)
        sys.meta_path.insert(0, self._hook)

    def check(self) -> None:
        """Import the module, which some agents do only at the first invocation.

        Raises:
            ContractError: the module or the handler in it does not exist.
        """
        try:
            load_handler(self.name)
        except ContractError as error:
            raise ContractError(error.reason, f"{self.variable}: {error}", error.stack_trace) from error

    @property
    def is_replaced(self) -> bool:
        return bool(self._replacements)

    def _replace_in(self, module: "ModuleType") -> None:
        """Replace the handler in a module that has been executed, and in what it or an agent has put in its place."""
        for place in (module, sys.modules.get(self._module_name)):
            original = getattr(place, self._attribute, None)
            if callable(original) and all(original is not known for known in self._replacements):
                setattr(place, self._attribute, self.replacement_of(original))

    def replacement_of(self, original: "Callable[..., Any]") -> "Callable[..., Any]":
        def handler(*arguments: "Any", **options: "Any") -> "Any":
            call = self.call
            if call is None or not call.may_drive():
                return original(*arguments, **options)
            call.is_driven = True
            try:
                if self.application is not None:
                    return call.drive_application(self.application)
                return call.drive(original(*arguments, **options))
            except BaseException as error:
                call.fail(error)
                raise
            finally:
                call.run_callbacks()

        for attribute in COPIED_ATTRIBUTES:
            if hasattr(original, attribute):
                setattr(handler, attribute, getattr(original, attribute))
        self._replacements.append(handler)
        self.original = self.original or original
        return handler


# --- Sentry -----------------------------------------------------------------------------------------------------------


class ManagedBootstrap:
    """The names that Sentry's integration patches in the script of the managed runtime.

    It replaces `handle_event_request`, to wrap the handler, and three methods of the client, before which it sends its
    events. It finds the script as the attribute `bootstrap` of `__main__`; `sys.modules["bootstrap"]` would be in the
    way of a function's module of that name. Until Sentry patches them, they do nothing.
    https://github.com/getsentry/sentry-python/blob/master/sentry_sdk/integrations/aws_lambda.py
    """

    def __init__(self) -> None:
        def post(*_: object) -> None:
            pass

        def handle_event_request(_: object, handler: "Callable[..., Any]", *arguments: "Any") -> "Any":
            return handler(*arguments)

        methods = ("post_init_error", "post_invocation_result", "post_invocation_error")
        self.handle_event_request = handle_event_request
        self.LambdaRuntimeClient: Any = type("LambdaRuntimeClient", (), dict.fromkeys(methods, post))


# --- All agents -------------------------------------------------------------------------------------------------------


class Agents:
    """The agents of a function."""

    def __init__(self, log: "Log") -> None:
        self._log = log
        self.inner: InnerHandler | None = None
        self._bootstrap: ManagedBootstrap | None = None

    def replace_inner_handler(self, variable: str, name: str) -> None:
        self.inner = InnerHandler(variable, name)
        self.inner.install()

    def prepare_for_sentry(self) -> None:
        self._bootstrap = ManagedBootstrap()
        sys.modules["__main__"].bootstrap = self._bootstrap  # type: ignore[attr-defined]

    def handler(self, function: "Callable[..., Any]", log: "Log") -> Handler:
        """Return the handler that calls the function through the agents.

        With Sentry alone, a web application is called as without it: Sentry observes requests within the framework.

        Raises:
            ContractError: the innermost handler does not exist.
        """
        inner = self.inner
        if inner is not None:
            inner.check()
            found = make_handler(inner.original, log) if inner.original is not None else None
            inner.application = found if type(found) is not Handler else None
        else:  # only Sentry, which wraps the handler itself
            handler = make_handler(function, log)
            if type(handler) is not Handler:
                return handler
            inner = InnerHandler("_HANDLER", "handler.handler")
            function = inner.replacement_of(function)
        return ObservedHandler(function, log, inner, self._bootstrap)

    def report_init_error(self) -> None:
        """Let Sentry record the exception that is being handled."""
        if self._bootstrap is not None:
            client = self._bootstrap.LambdaRuntimeClient()
            try:
                client.post_init_error("{}")
            except Exception as error:  # it must not replace the report to the Runtime API
                self._log.error(describe(error, "Sentry"))


class ObservedHandler(Handler):
    """A handler that agents wrap, and that streams within their call."""

    is_observed = True

    def __init__(
        self, handler: "Callable[..., Any]", log: "Log", inner: InnerHandler, bootstrap: "ManagedBootstrap | None"
    ) -> None:
        super().__init__(handler, log)
        if inner.application is not None:
            self.loop, self.is_asgi = inner.application.loop, inner.application.is_asgi
        self._inner = inner
        self._bootstrap = bootstrap
        self._is_reported = False

    def stream(self, invocation: "Invocation", response: "ResponseStream") -> None:
        call = self._inner.call = ObservedCall(self, invocation, response, self._log)
        result = None
        try:
            result = self._call(*self.arguments(invocation))
        except BaseException:
            if call.problem is None:
                raise
        finally:
            self._inner.call = None
        call.raise_problem()
        if not call.is_driven:
            self._report_unused()
            self.send(result, response)

    def start(self) -> None:
        """Start the ASGI application, which was imported before a fork."""
        application: Any = self._inner.application
        application.start()
        self.loop = application.loop

    def settle(self) -> None:
        super().settle()
        if self._inner.application is not None:
            self._inner.application.settle()

    def close(self) -> None:
        if self._inner.application is not None:
            self._inner.application.close()
        super().close()

    def _call(self, *arguments: "Any") -> "Any":
        if self._bootstrap is None:
            return self._handler(*arguments)
        client = self._bootstrap.LambdaRuntimeClient()
        try:
            result = self._bootstrap.handle_event_request(client, self._handler, *arguments)
        except Exception:
            client.post_invocation_error()
            raise
        client.post_invocation_result()
        return result

    def _report_unused(self) -> None:
        """Log, once, that no agent has called the innermost handler: the agent observes an empty call."""
        if not self._is_reported:
            self._is_reported = True
            when = "was not called" if self._inner.is_replaced else "was imported before the runtime could replace it"
            self._log.line(
                f"{self._inner.variable} names {self._inner.name}, which {when} within the call of the handler: "
                "the response is streamed, but an agent records the call without its stream"
            )
