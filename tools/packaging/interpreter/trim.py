"""Decides which files of a CPython the layer contains: those that a function on AWS Lambda can use.

`docs/self-contained-layers.md` lists for users what the layer omits.
"""

import re

# Beside bin/ and lib/ only licences are kept: headers, manual pages and package descriptions are for development.
_KEPT_OUTSIDE_LIB = re.compile(r"LICENSE[^/]*|licenses/[^/]+")

# Below lib/; `python` stands for the folder of the standard library.
_LEFT_OUT = re.compile(
    r"""
      .*\.a | .*/__pycache__/.* | .*\.py[co]                # static libraries; bytecode, which the build writes itself
    | .*\.rst | (.*/)?(mypy\.ini|\.empty|EXTERNALLY-MANAGED)   # for developers and installers
    | pkgconfig/.* | cmake/.*
    | (lib)?(tcl|tk|itcl|tdbc|thread)\d.* | libtcl.* | libtk.*
    | python/ (
          (.*/)? (test|tests|idle_test)/ .*                 # tests, also in packages
        | idlelib/.* | tkinter/.* | turtledemo/.* | turtle\.py
        | lib-dynload/ (_tkinter|_test|_ctypes_test|xx|_xxtestfuzz) .*
        | lib2to3/.* | ensurepip/.* | venv/.* | site-packages/.*
        | pydoc_data/.* | msilib/.* | __phello__.* | config-\d.*
        | _(aix|android|apple|ios|osx)_support\.py | ctypes/macholib/.* | asyncio/windows_\w+\.py | nturl2path\.py
        | multiprocessing/popen_spawn_win32\.py
        | _py(datetime|decimal|io)\.py                        # fallbacks for C modules that are present
      )
    """,
    re.VERBOSE,
)
_LIBPYTHON = re.compile(r"lib/libpython3[^/]*\.so[^/]*")


def is_kept(path: str, library: str) -> bool:
    """Return whether the layer contains the file at `path`.

    `bin/` is left out: the interpreter is added apart.

    Args:
        path: relative to the prefix.
        library: the folder of the standard library.
    """
    if path.startswith(f"{library}/"):
        return _LEFT_OUT.fullmatch("python/" + path.removeprefix(f"{library}/")) is None
    if path.startswith("lib/"):
        return _LEFT_OUT.fullmatch(path.removeprefix("lib/")) is None
    return _KEPT_OUTSIDE_LIB.fullmatch(path) is not None


def is_library_of_python(path: str) -> bool:
    """Return whether `path` is libpython; a statically linked interpreter contains the same code itself."""
    return _LIBPYTHON.fullmatch(path) is not None
