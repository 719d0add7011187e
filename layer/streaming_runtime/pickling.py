"""Pickling of the context object, for `multiprocessing`.

A context is often an argument of a `Process`. From Python 3.14 on, the default start method pickles the arguments, and
the child process that loads them has no `/opt` on its `sys.path`. So a pickle does not name the class: it contains an
expression that imports this package from its folder.
"""

from streaming_runtime import LAYER_FOLDER, invocation, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "0.1.0"

OMITTED = ("_invocation", "_log")  # parts of this process

RESTORE = (
    "(lambda sys, load: (sys.path.insert(0, {folder!r}), load('streaming_runtime'), sys.path.remove({folder!r})) and "
    "sys.modules['streaming_runtime'].load('pickling').Restore({name!r}))(__import__('sys'), __import__)"
)


def reduce(owner: object) -> "tuple[Restore, tuple[dict[str, Any]]]":
    """Return what `__reduce__` of an object of the module `invocation` returns."""
    names = getattr(owner, "__slots__", ()) or vars(owner)
    return Restore(type(owner).__name__), ({name: getattr(owner, name) for name in names if name not in OMITTED},)


class Restore:
    """Makes an object of the named class from its attributes. Pickled as an expression."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, attributes: "dict[str, Any]") -> "Any":
        kind = getattr(invocation, self._name, None) or getattr(load("client_context"), self._name)
        owner = kind.__new__(kind)
        for name, value in attributes.items():
            setattr(owner, name, value)
        return owner

    def __reduce__(self) -> "Any":
        return eval, (RESTORE.format(folder=LAYER_FOLDER, name=self._name),)
