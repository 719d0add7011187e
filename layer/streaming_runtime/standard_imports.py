"""Importing a module of the standard library, together with what it imports, past the function's modules.

A function can contain a module that has the name of one of the standard library: `queue.py`, `token.py`, `inspect.py`.
Its folder comes first on `sys.path`, so the name means the function's module, for the standard library too. On 3.14
`asyncio` imports more than a hundred others, among them `ast`, `dataclasses` and `inspect`. With a function's `ast.py`
in their place it fails, and with it an async handler that imports nothing itself.

So both stay apart. While a module is imported, the function's modules of such names are hidden, and so are the folders
that come before the standard library: `subprocess` takes any `msvcrt` for a sign of Windows. Afterwards each name means
for the function what it would mean without that import. The standard modules whose names the function uses are kept
here: a second copy of `threading` would have other threads.
"""

import sys

from streaming_runtime import is_standard, standard_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "0.1.0"

_modules = sys.modules
_covered: "dict[str, Any]" = {}  # standard modules, by names that mean modules of the function


def import_standard(name: str) -> "Any":
    """Return the module `name` of the standard library. Raises ImportError."""
    if name in _covered:
        return _covered[name]
    library = standard_library()
    hidden = {each: _modules.pop(each) for each in list(_modules) if _is_of_function(each, library)}
    before = set(_modules)
    _modules.update(_covered)
    function_folders, others = _divided_path(library)
    sys.path[:] = [library, f"{library}/lib-dynload", *(others or function_folders)]
    try:
        __import__(name)
        if "asyncio.events" in _modules:
            _complete(_modules["asyncio.events"])
        return _modules[name]
    finally:
        sys.path[:] = [*function_folders, *others]
        added = [each for each in list(_modules) if each not in before]
        names = {each.partition(".")[0] for each in (*hidden, *_covered)}
        names |= {each for each in added if "." not in each and _is_in_function(each, library)}
        for each in added:
            if each.partition(".")[0] in names:
                _covered[each] = _modules.pop(each)
        _modules.update(hidden)


def _complete(events: "Any") -> None:
    """Make the policy of the event loops, for which `asyncio` imports a part of itself by name on first use."""
    make_policy = getattr(events, "_init_event_loop_policy", None)
    if make_policy is not None:
        make_policy()


def _is_of_function(name: str, library: str) -> bool:
    """Return whether a loaded module has the place of a standard one, or of a part of it."""
    module = _modules[name]  # None: the function has forbidden its import
    return name.partition(".")[0] in sys.stdlib_module_names and (module is None or not is_standard(module, library))


def _is_in_function(name: str, library: str) -> bool:
    """Return whether an import by the function would find a module of its own, or of its packages, under the name."""
    try:
        spec = _modules["_frozen_importlib_external"].PathFinder.find_spec(name, _divided_path(library)[0])
    except Exception:  # of an importer that the function has installed
        return False
    return spec is not None and spec.loader is not None and bool(spec.has_location)


def _divided_path(library: str) -> "tuple[list[str], list[str]]":
    """Return the folders of `sys.path` before the standard library, and the others. Without it, there are no others."""
    path = list(sys.path)
    index = path.index(library) if library in path else len(path)
    return path[:index], path[index:]
