"""The parts of the runtime that `runtime.py` puts together. The only module name that the layer reserves.

    start modules, in reading order    log, invocation, http1, connection, api, handler
    loaded on first use                prelude, errors, source_lines, log_records, json_text, standard_imports, aio,
                                       client_context, pickling, extension, agents, snapstart, stream_log, path_files,
                                       wrapper_watch, interface, http_event, http_response, wsgi, after_response,
                                       aio_connection, asgi, lifespan
    on managed instances               workers, worker, worker_state, slot_kinds, timeouts, concurrent_log,
                                       invocation_threads, log_writer, slots, loop_watch, trace_variable,
                                       lost_invocations

A start module is read at every cold start, so it imports nothing that the first response does not need. The others are
reached through `load` alone. Imports point one way: handler -> api -> connection -> http1 and log, and everything may
import this file. `/opt` is not on `sys.path`; the modules are found through the folder of this package.
"""

import _imp
import gc
import marshal
import posix
import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without the import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from streaming_runtime.errors import ErrorReport

VERSION = "0.1.0"


def absolute(path: str) -> str:
    """Return `os.path.abspath(path)`. Most paths are absolute already, and `os` is slow to import."""
    if path.startswith("/") and not any(part in f"{path}/" for part in ("//", "/./", "/../")):
        return path
    absolute_path: str = __import__("posixpath").abspath(path)
    return absolute_path


FOLDER = absolute(__file__).rpartition("/")[0]
LAYER_FOLDER = FOLDER.rpartition("/")[0]

# --- Exceptions that cross modules ------------------------------------------------------------------------------------


class ContractError(Exception):
    """The function, its event or its response breaks the contract of the runtime.

    Args:
        reason: the error type on the wire, without its category, such as `Runtime.`.
        message: the cause and the next step.
        stack_trace: lines of the error report that replace Python's traceback, if that does not show the place.
    """

    category = "Runtime"

    def __init__(self, reason: str, message: str, stack_trace: "list[str] | None" = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.stack_trace = stack_trace

    @property
    def error_type(self) -> str:
        return f"{self.category}.{self.reason}"


class Terminated(SystemExit):
    """The environment is shutting down after a signal; `code` is 128 plus its number, like a shell's exit status."""


class RuntimeApiError(Exception):
    """The Runtime API is unusable; the environment has to end."""


class NotDelivered(Exception):
    """One request failed: the Runtime API closed the connection or refused it. The next request may succeed."""


# --- Waits ------------------------------------------------------------------------------------------------------------

# The longest wait in one system call. A signal that arrives just before the call does not interrupt it, and the signal
# handler would not run before the wait is over. The service kills the process half a second after SIGTERM.
WAIT_MILLISECONDS = 200

# --- The environment variables ----------------------------------------------------------------------------------------

# The module `os` is Python code, and what it needs takes a tenth of a cold start. A function that does not import it
# need not wait for it, so the start modules use `posix`, which is compiled into the interpreter. `os.environ` keeps its
# values in the dictionary `posix.environ`, so both show the same.
_variables, _putenv, _unsetenv = posix.environ, posix.putenv, posix.unsetenv
_ENCODING = sys.getfilesystemencoding()


def variable(name: str) -> "str | None":
    """Return the value of an environment variable; None if it is not set."""
    value = _variables.get(name.encode())
    return None if value is None else value.decode(_ENCODING, "surrogateescape")


def set_variable(name: str, value: "str | None") -> None:
    """Set an environment variable, for child processes too; None removes it."""
    key = name.encode()
    if value is not None:
        _variables[key] = data = value.encode(_ENCODING, "surrogateescape")
        _putenv(key, data)
    elif _variables.pop(key, None) is not None:
        _unsetenv(key)


# --- The modules of this package --------------------------------------------------------------------------------------

START_MODULES = ("log", "http1", "connection", "invocation", "api", "handler")  # each after those that it imports

# A function can clear or replace `sys.modules`, `sys.path`, `sys.meta_path` and the names in `posix`. These references
# stay valid.
_modules = sys.modules
_READ_ONLY = posix.O_RDONLY | posix.O_CLOEXEC
_open, _read, _close = posix.open, posix.read, posix.close
_SourceLoader: "Any" = type(__spec__.loader)
_BYTECODE_START = _modules["_frozen_importlib_external"].MAGIC_NUMBER + b"\1\0\0\0"  # an unchecked hash (PEP 552)
_BYTECODE_SUFFIX = f".{sys.implementation.cache_tag}.pyc"
_loaded: "dict[str, Any]" = {}


def load(name: str) -> "Any":
    """Return the module `streaming_runtime.<name>`, which is executed on first use.

    Raises:
        ContractError: `LayerConflict`, the file belongs to another version of the layer.
        Exception: the file cannot be read or executed.
    """
    module = _loaded.get(name)
    if module is None:
        for known in (posix, sys, _this, *_loaded.values()):
            _modules.setdefault(known.__name__, known)
        module = _execute(name)
        found = getattr(module, "VERSION", None)
        if found != VERSION:
            raise ContractError("LayerConflict", conflict(f"streaming_runtime/{name}.py", f"VERSION is {found!r}"))
        _loaded[name] = module
    return module


def _execute(name: str) -> "Any":
    """Execute a module by its path, past the import system.

    That has two reasons. The import system searches, stats and lists folders for each module, which for six modules
    costs as much as everything that is left out at start saves. And it fails after `sys.meta_path.clear()`.
    """
    full_name = f"{__name__}.{name}"
    module: Any = type(sys)(full_name)
    module.__file__ = path = f"{FOLDER}/{name}.py"
    module.__package__ = __name__
    code = _bytecode(name, path) or _SourceLoader(full_name, path).get_code(full_name)
    _modules[full_name] = module
    exec(code, vars(module))
    setattr(_this, name, module)
    return module


def _bytecode(name: str, path: str) -> "Any":
    """Return the code that the layer contains for this Python; None if there is none, as in a checkout."""
    try:
        descriptor = _open(f"{FOLDER}/__pycache__/{name}{_BYTECODE_SUFFIX}", _READ_ONLY)
    except OSError:
        return None
    data = b""
    while part := _read(descriptor, 64 * 1024):
        data += part
    _close(descriptor)
    if not data.startswith(_BYTECODE_START):
        return None
    code = marshal.loads(memoryview(data)[16:])
    _imp._fix_co_filename(code, path)  # type: ignore[attr-defined]  # compiled for /opt; the layer can be elsewhere
    return code


def conflict(file: str, found: str) -> str:
    """Return the message about a file of the layer that another layer has overwritten."""
    return (
        f"{file} does not belong to version {VERSION} of the layer ({found}): another layer has overwritten it; "
        "attach one version of this layer only, as the last layer"
    )


def import_standard(name: str) -> "Any":
    """Import a module of the standard library, even if the function contains or has imported one of the same name."""
    known = sys.modules.get(name)
    if known is not None and is_standard(known, standard_library()):
        return known
    return load("standard_imports").import_standard(name)


def is_standard(module: "Any", library: str) -> bool:
    file = getattr(module, "__file__", None)
    return not isinstance(file, str) or (file.startswith(f"{library}/") and "site-packages" not in file)


def standard_library() -> str:
    """Return the folder of Python's standard library."""
    folder: str | None = getattr(sys, "_stdlib_dir", None)
    if folder is None:  # an interpreter that is built differently
        folder = absolute(str(__import__("os").__file__)).rpartition("/")[0]
    return folder


# --- Values that misbehave when they are inspected --------------------------------------------------------------------


def type_name(value: object) -> str:
    """Return the name of a value's class, also if a metaclass defines `__name__` differently."""
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name


def is_a(error: object, kind: type) -> bool:
    """Return `isinstance(error, kind)`, without `__class__`, which the function's class may define as a property."""
    return issubclass(type(error), kind)


def describe_type(value: object) -> str:
    """Return `None` or `a value of type <name>`, for messages."""
    return "None" if value is None else f"a value of type {type_name(value)}"


# --- A minimal error report -------------------------------------------------------------------------------------------

MAX_TYPE_CHARACTERS = 128  # of an error type
MAX_MESSAGE_CHARACTERS = 64 * 1024
MAX_TRAILER_BYTES = 3500  # Go servers, among them the service's own, read trailers into a buffer of 4096 bytes


def text_of(value: object, convert: "Callable[[object], str]" = str) -> str:
    """Return `str(value)` or `repr(value)` as a plain `str`, even if the conversion fails or returns a subclass."""
    try:
        return str.__str__(convert(value))
    except Terminated:
        raise
    except BaseException:
        return f"<{convert.__name__}() of a {type_name(value)} failed>"


def summary(error: BaseException) -> str:
    return f"{type_name(error)}: {text_of(error)}"


def summary_of_report(report: "ErrorReport | MinimalReport") -> str:
    return f"{report.error_type}: {report.message}" if report.message else report.error_type


def header_type(error_type: str) -> str:
    """Return the error type in the form that the service keeps: `Function.<Class>` or `Runtime.<Reason>`, in ASCII."""
    reason = error_type.removeprefix("Runtime.")
    if (reason != error_type and reason.isalpha() and _is_kept(reason)) or error_type == "Function.Timeout":
        return error_type
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in error_type)
    return f"Function.{name}" if _is_kept(name) else f"Function.Exception_{name}"


def _is_kept(name: str) -> bool:
    """Return whether the service keeps the name. It searches for `(Runtime|Function)\\.[A-Z][a-zA-Z]+`."""
    return name.isascii() and name[:1].isupper() and name[1:2].isalpha()


class MinimalReport:
    """Type and message of an error, encoded without an import. It has the interface of `errors.ErrorReport`."""

    frames = stack_trace = related = ()

    def __init__(self, error_type: str, message: str, error: "BaseException | None") -> None:
        self.error_type = error_type[:MAX_TYPE_CHARACTERS]
        self.message = message[:MAX_MESSAGE_CHARACTERS]
        self.exit_status = exit_status(error)

    @property
    def header(self) -> str:
        return header_type(self.error_type)

    def body(self, request_id: str, limit: int = 4 * MAX_MESSAGE_CHARACTERS) -> bytes:
        message = self.message
        while True:
            fields = {"errorMessage": message, "errorType": self.error_type, "requestId": request_id}
            text = "".join(f"{_json_string(name)}: {_json_string(value)}, " for name, value in fields.items())
            body = f'{{{text}"stackTrace": []}}'.encode("ascii")
            if len(body) <= limit or not message:
                return body
            message = message[: len(message) // 2]

    def trailer_body(self, request_id: str, limit: int) -> bytes:
        return _base64(self.body(request_id, limit // 4 * 3))

    def xray_cause(self) -> bytes:
        return b""


def exit_status(error: "BaseException | None") -> "int | None":
    """Return the exit status if the process has to end after the report, otherwise None."""
    if is_a(error, SystemExit):
        code = error.code  # type: ignore[union-attr]
        return code if isinstance(code, int) else int(code is not None)
    return 130 if is_a(error, KeyboardInterrupt) else None


def _json_string(text: str) -> str:
    return '"' + "".join(map(_json_character, text)) + '"'


def _json_character(character: str) -> str:
    """Return the character, or its escape; without a codec, whose first use would be an import."""
    code = ord(character)
    if 31 < code < 127 and character not in '"\\':
        return character
    if code > 0xFFFF:  # two UTF-16 code units (RFC 8259, 7)
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"


def _base64(data: bytes) -> bytes:
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    encoded = bytearray()
    for start in range(0, len(data), 3):
        group = data[start : start + 3]
        number = int.from_bytes(group.ljust(3, b"\0"), "big")
        encoded += bytes(alphabet[number >> shift & 63] for shift in (18, 12, 6, 0)[: len(group) + 1])
        encoded += b"=" * (3 - len(group))
    return bytes(encoded)


_this = sys.modules[__name__]

# Executing the start modules allocates thousands of objects and frees none. The collections that this triggers would
# take a tenth of a cold start. Afterwards the objects are frozen, so that no later collection traverses them.
gc.disable()
for _name in START_MODULES:
    _loaded[_name] = _execute(_name)  # bootstrap compares the versions, and can still refuse to start
gc.freeze()
gc.enable()
