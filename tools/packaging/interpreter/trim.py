"""What a bundled CPython is shipped without: what no function on AWS Lambda runs. The README lists it for users."""

import re

# Of what lies beside bin/ and lib/: headers, manual pages and package descriptions are for building on it.
_KEPT_OUTSIDE_LIB = re.compile(r"LICENSE[^/]*|licenses/[^/]+")

# Below lib/, `python` being the folder of the standard library.
_LEFT_OUT = re.compile(
    r"""
      .*\.a | .*/__pycache__/.* | .*\.py[co]                # static libraries; bytecode, which is made anew
    | pkgconfig/.* | cmake/.*
    | (lib)?(tcl|tk|itcl|tdbc|thread)\d.* | libtcl.* | libtk.*
    | python/ (
          (.*/)? (test|tests|idle_test)/ .*                 # their own tests, also below packages
        | idlelib/.* | tkinter/.* | turtledemo/.* | turtle\.py
        | lib-dynload/ (_tkinter|_test|_ctypes_test|xx) .*
        | lib2to3/.* | ensurepip/.* | venv/.* | site-packages/.*
        | pydoc_data/.* | msilib/.* | __phello__.* | config-\d.*
        | _(aix|android|apple|ios|osx)_support\.py | ctypes/macholib/.* | asyncio/windows_\w+\.py | nturl2path\.py
        | _py(datetime|decimal|io)\.py                        # each stands in for a C module that is there
      )
    """,
    re.VERBOSE,
)
_LIBPYTHON = re.compile(r"lib/libpython3[^/]*\.so[^/]*")


def is_kept(path: str, library: str) -> bool:
    """Tell whether the file at ``path`` (from the prefix on) is shipped; ``library`` is the standard library's folder.

    Of ``bin/`` nothing is: the interpreter itself has a place of its own.
    """
    if path.startswith(f"{library}/"):
        return _LEFT_OUT.fullmatch("python/" + path.removeprefix(f"{library}/")) is None
    if path.startswith("lib/"):
        return _LEFT_OUT.fullmatch(path.removeprefix("lib/")) is None
    return _KEPT_OUTSIDE_LIB.fullmatch(path) is not None


def is_library_of_python(path: str) -> bool:
    """Tell whether it is libpython, of which an interpreter that is linked statically has a second copy."""
    return _LIBPYTHON.fullmatch(path) is not None
