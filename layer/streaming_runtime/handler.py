"""From `_HANDLER` to a stream: the import path, loading the handler, and sending what it yields."""

import builtins
import posix
import sys

from streaming_runtime import (
    LAYER_FOLDER,
    ContractError,
    absolute,
    import_standard,
    load,
    standard_library,
    variable,
)
from streaming_runtime.invocation import LambdaContext, function_configuration
from streaming_runtime.log import ImportHook, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from typing import Any

    from streaming_runtime.agents import Agents
    from streaming_runtime.aio import EventLoop
    from streaming_runtime.api import ResponseStream
    from streaming_runtime.invocation import Invocation
    from streaming_runtime.log import Log

VERSION = "0.1.0"

# --- The import path --------------------------------------------------------------------------------------------------


def set_up_site(is_wrapped: bool) -> None:
    """Do the part of `site` that a function may need, in a fraction of its time: bootstrap starts Python with `-S`.

    `site` looks into every folder of packages for `.pth` files. It runs only where it is needed: in a virtual
    environment, on Debian's Python, which keeps packages in another folder, and for tracing agents, which start with a
    `sitecustomize` on PYTHONPATH, or with a wrapper that expects an ordinary Python.
    """
    if not sys.flags.no_site:
        return
    library = standard_library()
    environment = sys.executable.rpartition("/")[0].rpartition("/")[0]
    signs = [f"{environment}/pyvenv.cfg", f"{library.rpartition('/')[0]}/python3/dist-packages"]
    signs += [f"{path}/sitecustomize.py" for path in (variable("PYTHONPATH") or "").split(":") if path]
    if is_wrapped or any(map(exists, signs)):
        import_standard("site").main()
    else:
        sys.path.append(f"{library}/site-packages")
        builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]


def set_import_path() -> None:
    """Order `sys.path` like the managed runtime: the function, dependency layers, then the interpreter's own folders.

    The folder of the layer itself is removed. A folder that occurs twice, because of PYTHONPATH, keeps its first place.
    """
    interpreter = [path for path in sys.path if absolute(path) != LAYER_FOLDER]
    sys.path[:] = dict.fromkeys([task_root(), *dependency_folders(), *interpreter])


def exists(path: str) -> bool:
    try:
        posix.stat(path)
    except (OSError, ValueError):
        return False
    return True


def process_path_files(log: "Log") -> None:
    """Process the `.pth` files that the managed runtime processes. Where there are none, this lists the folders only.

    With PYTHONPATH, the managed runtime leaves those of dependency layers out.
    """
    for folder in [task_root(), *([] if variable("PYTHONPATH") is not None else dependency_folders())]:
        try:
            found = [name for name in posix.listdir(folder) if name.endswith(".pth")]
        except OSError:
            continue
        if found:
            load("path_files").process(folder, found, log)


def task_root() -> str:
    return variable("LAMBDA_TASK_ROOT") or posix.getcwd()


def dependency_folders() -> "list[str]":
    return [f"/opt/python/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages", "/opt/python"]


# --- Loading the handler ----------------------------------------------------------------------------------------------


def load_handler(name: str) -> "Callable[[Any, LambdaContext], Any]":
    """Import the callable that `_HANDLER` names: `module.function`, with `/` or `.` between packages.

    Raises ContractError with the error types of the managed runtime. Exceptions of the module itself pass through.
    """
    module_name, attribute = split_handler_name(name)
    path = name.rpartition(".")[0]
    if module_name.split(".")[0] in sys.builtin_module_names:
        raise ContractError("BuiltInModuleConflict", f"Cannot use built-in module {path} as a handler module")
    try:
        __import__(module_name)
        module = sys.modules[module_name]
    except ImportError as error:
        cause = import_error_cause(error, module_name)
        raise ContractError("ImportModuleError", f"Unable to import module '{path}': {cause}") from error
    except SyntaxError as error:
        trace = [f'  File "{error.filename}" Line {error.lineno}\n    {error.text}']
        raise ContractError("UserCodeSyntaxError", f"Syntax error in module '{path}': {error}", trace) from error
    handler: Callable[[Any, LambdaContext], Any] | None = getattr(module, attribute, None)
    if not callable(handler):
        found = "missing" if handler is None else f"a {type(handler).__name__}, not a function,"
        raise ContractError("HandlerNotFound", f"Handler '{attribute}' {found} on module '{path}'")
    return handler


def split_handler_name(name: str, variable: str = "_HANDLER") -> "tuple[str, str]":
    """Return the names of the module and of the callable in it. Raises ContractError (`MalformedHandlerName`)."""
    path, _, attribute = name.rpartition(".")
    module_name = path.replace("/", ".")
    if not attribute or not all(module_name.split(".")):
        raise ContractError("MalformedHandlerName", f"Bad handler '{name}': {variable} must be module.function")
    return module_name, attribute


def import_error_cause(error: ImportError, module_name: str) -> str:
    """Distinguish a missing handler module from a missing import inside it."""
    missing = error.name or ""
    if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{missing}."):
        return f"{error} (the function's zip must contain {module_name.replace('.', '/')}.py)"
    if isinstance(error, ModuleNotFoundError):
        return f"{error} (add it to the function's zip, or to a layer under python/)"
    return str(error)


# --- Tracing agents ---------------------------------------------------------------------------------------------------

INNER_HANDLER = "STREAMING_RUNTIME_INNER_HANDLER"

# By the start of `_HANDLER`, which then names a handler of the agent: the agent's variable that names the function's.
INNER_HANDLERS_OF_AGENTS = {
    "datadog_lambda.": "DD_LAMBDA_HANDLER",
    "elasticapm": "ELASTICAPM_ORIGINAL_HANDLER",
    "newrelic_lambda_wrapper.": "NEW_RELIC_LAMBDA_HANDLER",
    "otel_wrapper.": "ORIG_HANDLER",
}


def find_inner_handler() -> "tuple[str, str] | None":
    """Return the variable that names the handler within an agent's, and its value; None if there is no such agent."""
    name, source = variable(INNER_HANDLER), INNER_HANDLER
    if name is None:
        outer = (variable("_HANDLER") or "").replace("/", ".")
        source = next((own for start, own in INNER_HANDLERS_OF_AGENTS.items() if outer.startswith(start)), source)
        name = variable(source)
    return (source, name) if name else None


class AgentWatch:
    """Finds the agents that observe the handler. Only then is the module `agents` loaded, into the attribute `agents`.

    It exists before `site` runs, with which some agents start.
    """

    def __init__(self, log: "Log") -> None:
        self._log = log
        self.agents: Agents | None = None
        inner = find_inner_handler()
        if inner is not None:
            self._load().replace_inner_handler(*inner)
        sys.meta_path.insert(0, ImportHook("sentry_sdk", self._prepare_for_sentry))

    def _prepare_for_sentry(self, _: object) -> None:
        self._load().prepare_for_sentry()

    def _load(self) -> "Agents":
        if self.agents is None:
            self.agents = load("agents").Agents(self._log)
        return self.agents

    def handler(self) -> "Handler":
        """Import the function's handler. Raises what `load_handler` raises."""
        if self.agents is not None and self.agents.inner is not None:
            self.agents.inner.install()
        function = load_handler(variable("_HANDLER") or "")
        return make_handler(function, self._log) if self.agents is None else self.agents.handler(function, self._log)

    def report_init_error(self) -> None:
        if self.agents is not None:
            self.agents.report_init_error()


# --- Web applications -------------------------------------------------------------------------------------------------

INTERFACE = "STREAMING_RUNTIME_INTERFACE"  # asgi, wsgi or handler
START_RESPONSE = "start_response"  # the second parameter of a WSGI application (PEP 3333)
COROUTINE = 0x80  # of a code object: a coroutine function


def make_handler(function: "Callable[..., Any]", log: "Log") -> "Handler":
    """Return the handler for what `_HANDLER` names. Only the module `interface` knows web applications."""
    if is_plain(function) and variable(INTERFACE) is None:
        return Handler(function, log)
    handler: Handler = load("interface").make_handler(function, log)
    return handler


def is_plain(function: "Any") -> bool:
    """Return whether it can only be a handler: a function with at most two parameters, and none of those of WSGI."""
    if type(function) is not type(is_plain):
        return False
    code = function.__code__
    is_short = code.co_argcount <= 2 and not code.co_flags & COROUTINE
    return is_short and START_RESPONSE not in code.co_varnames[: code.co_argcount]


# --- Streaming --------------------------------------------------------------------------------------------------------


def has_context_variables() -> bool:
    """Return whether a module is loaded that can make context variables; `_decimal` makes one in C."""
    return "_contextvars" in sys.modules or "_decimal" in sys.modules


class Handler:
    """The function's handler. It has an event loop from its first async generator on."""

    is_observed = False  # tracing agents wrap it
    is_asgi = False

    def __init__(self, handler: "Callable[[Any, LambdaContext], Any]", log: "Log") -> None:
        self._handler = handler
        self._log = log
        self.loop: EventLoop | None = None
        self.capture()

    @property
    def function(self) -> "Callable[[Any, LambdaContext], Any]":
        return self._handler

    def capture(self) -> None:
        """Take over the environment variables and the context variables that init, or a restore, has left."""
        self._configuration = function_configuration()
        has_variables = has_context_variables()
        self._base_context = import_standard("_contextvars").copy_context() if has_variables else None

    def stream(self, invocation: "Invocation", response: "ResponseStream") -> None:
        """Call the handler and send what it yields, each chunk before the handler resumes."""
        self.send(self._handler(*self.arguments(invocation)), response)

    def arguments(self, invocation: "Invocation") -> "tuple[Any, LambdaContext]":
        return invocation.event(), LambdaContext(invocation, self._configuration, self._log)

    def send(self, result: object, response: "ResponseStream") -> None:
        """Send what the handler's result yields. Raises ContractError (`InvalidHandler`) if it is not an iterator."""
        # The returned object decides, not the definition of the handler: a decorated generator is a plain function.
        kind = type(result)
        if hasattr(kind, "__next__") and hasattr(kind, "__iter__"):
            self._stream_iterator(result, response)  # type: ignore[arg-type]
        elif hasattr(kind, "__anext__") and hasattr(kind, "__aiter__"):
            self._stream_async_iterator(result, response)  # type: ignore[arg-type]
        else:
            if hasattr(kind, "__await__") and hasattr(kind, "close"):
                result.close()  # type: ignore[attr-defined]  # otherwise Python warns about a coroutine that was never awaited
            error: ContractError = load("prelude").not_a_stream(result)
            raise error

    def in_context(self, function: "Callable[..., None]", *arguments: "Any") -> None:
        """Call a function in a `contextvars` context of its own: a copy of the one that the import of the module left.

        A generator keeps no context: it uses that of the code that resumes it. So one context covers the whole
        invocation, and a variable that the handler sets does not reach the next invocation.

        The context costs an import that most functions do not need. While nothing has imported `contextvars`, there are
        no variables that could be set, and the base is an empty context.
        """
        context = self.new_context()
        if context is None:
            function(*arguments)
        else:
            context.run(function, *arguments)

    def new_context(self) -> "Any":
        """Return the `contextvars` context for an invocation; None if there can be no variables."""
        if self._base_context is None:
            if not has_context_variables():
                return None
            self._base_context = import_standard("_contextvars").Context()
        return self._base_context.copy()

    def settle(self) -> None:
        """Let the event loop, if there is one, finish what a stream has left, before the environment is frozen."""
        if self.loop is not None:
            self.loop.settle()

    def close(self) -> None:
        """End what handlers have left running in the event loop."""
        if self.loop is not None:
            self.loop.close()

    def _stream_iterator(self, items: "Iterator[object]", response: "ResponseStream") -> None:
        try:
            write, write_next = response.write_first, response.write
            for item in items:
                write(item)
                write = write_next
                del item  # or two large chunks would exist at a time
        finally:
            if hasattr(items, "close"):
                try:
                    items.close()
                except Exception as error:
                    self._log_clean_up(error)

    def _stream_async_iterator(self, items: "AsyncIterator[object]", response: "ResponseStream") -> None:
        self.event_loop().stream(items, response)

    def await_result(self, awaitable: "Awaitable[object]") -> None:
        """Await the result of a SnapStart hook. Raises what it raises."""
        loop = self.event_loop()
        loop.run(awaitable)
        loop.settle()

    def event_loop(self) -> "EventLoop":
        if self.loop is None:
            self.loop = load("aio").EventLoop(self._log_clean_up)
        return self.loop

    def _log_clean_up(self, error: Exception) -> None:
        """Log an error of a generator's `finally`: it must not replace the reason why the generator was closed."""
        self._log.error(describe(error, "the handler's clean-up"))
