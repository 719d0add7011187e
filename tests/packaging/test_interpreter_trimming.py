"""Which files of a CPython go into the layer: trimming, links and licenses."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkout import ROOT
from support.examples import examples
from support.fake_cpython import (
    HERE,
    LIBRARY,
    NAMES,
    PROGRAM,
    VERSION,
    HardLink,
    Link,
    archive,
    cpython,
    member,
    module,
    unpack,
)

from tools.packaging import PackagingError
from tools.packaging.interpreter import bundle as self_contained
from tools.packaging.interpreter import source_tree as distribution

LIB = LIBRARY  # short, for the tables
PLACEHOLDER = f"{LIB}/lib-dynload/README"


def bundled(source: distribution.Source) -> dict[str, bytes]:
    """Return the files of `source` that the layer contains, by path relative to the prefix."""
    found = distribution.find(source, VERSION)
    return self_contained.bundle(found, NAMES[HERE], "provided.al2023").files


def added(files: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of the layer that `files` add or change."""
    plain = bundled(distribution.from_archive("a.tar", archive(cpython())))
    more = bundled(distribution.from_archive("a.tar", archive(cpython(files))))
    return {path: content for path, content in more.items() if plain.get(path) != content}


# By rule: files that are left out, and similar files that are kept.
RULES = {
    "other programs": (["bin/pip3", "bin/idle3", "bin/2to3", "bin/python3-config"], []),
    "headers, manuals and descriptions": (
        [
            "include/python3/Python.h",
            "share/man/man1/python.1",
            "share/terminfo/x/xterm",
            "PYTHON.json",
            "licenses/a/b",
        ],
        ["LICENSE", "LICENSE.txt", "licenses/LICENSE.openssl.txt", "licenses/zlib"],
    ),
    "static libraries": (["lib/libpython3.a", f"{LIB}/lib.a"], ["lib/a", f"{LIB}/a.py", f"{LIB}/data.ab"]),
    "foreign bytecode": (
        [f"{LIB}/__pycache__/os.cpython-313.pyc", f"{LIB}/json/__pycache__/x", f"{LIB}/old.pyc", f"{LIB}/old.pyo"],
        [f"{LIB}/pycache.py", f"{LIB}/pyc"],
    ),
    "pkg-config and cmake": (["lib/pkgconfig/python.pc", "lib/cmake/x.cmake"], [f"{LIB}/pkgconfig/x.py"]),
    "Tcl and Tk": (
        [
            *("lib/tcl8.6/init.tcl", "lib/tk8.6/tk.tcl", "lib/itcl4.2.4/itcl.tcl", "lib/tdbc1.1/x", "lib/thread2.8/x"),
            *("lib/libtcl8.6.so", "lib/libtk8.6.so", "lib/libtcl9.0.so", "lib/libtcl9tk9.0.so"),
        ],
        ["lib/threads/x"],
    ),
    "tests": (
        [f"{LIB}/test/test_os.py", f"{LIB}/ctypes/test/a.py", f"{LIB}/a/b/tests/c/d.py", f"{LIB}/x/idle_test/y.py"],
        [
            f"{LIB}/unittest/mock.py",
            f"{LIB}/unittest/test.py",
            f"{LIB}/doctest.py",
            f"{LIB}/tests.py",
            f"{LIB}/x/testing.py",
        ],
    ),
    "IDLE, Tk and turtle": (
        [f"{LIB}/idlelib/run.py", f"{LIB}/tkinter/ttk.py", f"{LIB}/turtledemo/x.py", f"{LIB}/turtle.py"],
        [f"{LIB}/idle.py", f"{LIB}/x/turtle.py", f"{LIB}/x/tkinter/y.py"],
    ),
    "extension modules for these": (
        [
            f"{LIB}/lib-dynload/{name}.so"
            for name in ("_tkinter.x", "_testcapi.x", "_test", "_ctypes_test", "xxlimited", "_xxtestfuzz.x")
        ],
        [f"{LIB}/lib-dynload/{name}.so" for name in ("_ctypes", "_struct.x", "select", "_xxinterp", "pyexpat", "zlib")],
    ),
    "files for developers": (
        [f"{LIB}/{name}" for name in ("email/architecture.rst", "_pyrepl/mypy.ini", "mypy.ini", "lib-dynload/.empty")],
        [f"{LIB}/email/architecture.py", f"{LIB}/LICENSE.txt", f"{LIB}/not-mypy.ini"],
    ),
    "installers": (
        [
            *(f"{LIB}/{name}/x.py" for name in ("lib2to3", "ensurepip", "venv", "site-packages", "msilib")),
            f"{LIB}/EXTERNALLY-MANAGED",
        ],
        [f"{LIB}/{name}" for name in ("site.py", "venv.py", "zipapp.py", "importlib/metadata/x.py")],
    ),
    "documentation": ([f"{LIB}/pydoc_data/topics.py"], [f"{LIB}/pydoc.py"]),
    "build files of Python": (
        [f"{LIB}/config-{VERSION}-x86_64-linux-gnu/Makefile", f"{LIB}/__phello__/spam.py", f"{LIB}/__phello__.foo.py"],
        [f"{LIB}/config.py", f"{LIB}/configparser.py", f"{LIB}/_sysconfigdata__linux_.py", f"{LIB}/__hello__.py"],
    ),
    "other systems": (
        [
            *(f"{LIB}/_{name}_support.py" for name in ("aix", "android", "apple", "ios", "osx")),
            *(f"{LIB}/{name}.py" for name in ("ctypes/macholib/dyld", "asyncio/windows_events", "nturl2path")),
            f"{LIB}/multiprocessing/popen_spawn_win32.py",
        ],
        [
            *(f"{LIB}/{name}.py" for name in ("ctypes/util", "asyncio/unix_events", "_bsd_support", "ntpath")),
            f"{LIB}/multiprocessing/popen_spawn_posix.py",
        ],
    ),
    "stand-ins for C modules": (
        [f"{LIB}/_py{name}.py" for name in ("datetime", "decimal", "io")],
        [f"{LIB}/{name}.py" for name in ("datetime", "decimal", "io", "_py_abc", "_pylong", "_pyrepl/x")],
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_only_files_that_no_function_runs_are_left_out(rule: str) -> None:
    left_out, kept = RULES[rule]
    contents = {path: module() if path.endswith(".so") else path.encode() for path in (*left_out, *kept)}
    assert set(added(contents)) == set(kept)


def test_the_interpreter_has_one_name() -> None:
    files = bundled(distribution.from_archive("a.tar", archive(cpython())))
    assert files["bin/python3"] == cpython()[PROGRAM]
    assert [path for path in files if path.startswith("bin/")] == ["bin/python3"]


def test_there_is_always_a_folder_for_extension_modules() -> None:
    assert PLACEHOLDER in bundled(distribution.from_archive("a.tar", archive(cpython())))
    own = f"{LIB}/lib-dynload/_struct.so"
    assert PLACEHOLDER not in bundled(distribution.from_archive("a.tar", archive(cpython({own: module()}))))


# Libraries and links


def test_a_link_to_a_file_becomes_a_copy() -> None:
    links = {f"{LIB}/a.py": Link("os.py"), f"{LIB}/b.py": Link("./a.py"), f"{LIB}/c.py": HardLink(f"{LIB}/os.py")}
    source = cpython()[f"{LIB}/os.py"]
    assert added(links) == dict.fromkeys(links, source)


def test_a_library_is_kept_under_the_name_that_the_loader_needs() -> None:
    library = module(data=b"library")
    files = {
        "lib/libz.so": Link("libz.so.1"),
        "lib/libz.so.1": Link("libz.so.1.3.1"),
        "lib/libz.so.1.3.1": library,
        f"{LIB}/lib-dynload/zlib.so": module(needed="libz.so.1"),
    }
    kept = added(files)
    assert sorted(kept) == ["lib/libz.so.1", f"{LIB}/lib-dynload/zlib.so"]
    assert kept["lib/libz.so.1"] == library


def test_a_library_that_is_needed_under_two_names_is_kept_under_both() -> None:
    files = {
        "lib/libz.so.1": Link("libz.so.1.3.1"),
        "lib/libz.so.1.3.1": module(data=b"library"),
        f"{LIB}/lib-dynload/a.so": module(needed="libz.so.1"),
        f"{LIB}/lib-dynload/b.so": module(needed="libz.so.1.3.1"),
    }
    assert set(added(files)) == set(files)


def test_a_library_that_nothing_needs_is_kept_under_its_own_name() -> None:
    files = {"lib/libz.so.1": Link("libz.so.1.3.1"), "lib/libz.so.1.3.1": module(data=b"library")}
    assert list(added(files)) == ["lib/libz.so.1.3.1"]


LIBPYTHON = f"libpython{VERSION}.so.1.0"


def test_a_second_copy_of_the_interpreter_is_left_out() -> None:
    files = {f"lib/{LIBPYTHON}": module(), f"lib/libpython{VERSION}.so": Link(LIBPYTHON), "lib/libpython3.so": module()}
    assert added(files) == {}


def test_an_interpreter_in_a_library_is_kept() -> None:
    library = module(data=b"the interpreter")
    tree = cpython({f"lib/{LIBPYTHON}": library, f"lib/libpython{VERSION}.so": Link(LIBPYTHON)}, needed=[LIBPYTHON])
    files = bundled(distribution.from_archive("a.tar", archive(tree)))
    assert {path: data for path, data in files.items() if "libpython" in path} == {f"lib/{LIBPYTHON}": library}


needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

# Opens the extension module that is its argument, as Python does.
OPENER = """
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **arguments) {
    if (dlopen(arguments[1], RTLD_NOW) == NULL) puts(dlerror());
    return 0;
}
"""


@needs_compiler
@pytest.mark.parametrize(
    ("tags", "variables"),
    [("--disable-new-dtags", {}), ("--enable-new-dtags", {"LD_LIBRARY_PATH": "/opt/lib"})],
    ids=["DT_RPATH", "DT_RUNPATH"],
)
def test_extension_modules_that_are_linked_to_libpython_can_be_loaded(
    tmp_path: Path, tags: str, variables: dict[str, str]
) -> None:
    own = distribution.find(distribution.from_archive("a.tar", archive(cpython())), VERSION)
    entries = {each.path: each.data for each in self_contained.bundle(own, NAMES[HERE], "provided.al2023").entries()}
    name = f"libpython{VERSION}.so.1.0"
    layer = tmp_path / "opt"
    for path in (f"cpython/lib/{name}", f"lib/{name}"):
        (layer / path).parent.mkdir(parents=True)
        (layer / path).write_bytes(entries[path])
    (tmp_path / "module.c").write_text("int x;\n")
    (tmp_path / "opener.c").write_text(OPENER)
    linked = ["-shared", "-fPIC", "-Wl,--no-as-needed", f"-L{layer / 'lib'}", f"-l:{name}"]
    rpath = f"-Wl,{tags},-rpath,{layer / 'cpython' / 'lib'}"
    for command in (
        ["cc", "module.c", "-o", "module.so", *linked],
        ["cc", "opener.c", "-o", "opener", rpath, "-ldl"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    places = {key: value.replace("/opt", str(layer)) for key, value in variables.items()}
    result = subprocess.run([tmp_path / "opener", tmp_path / "module.so"], env=places, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


# ld.so(8), "Dynamic string tokens"; older builds of python-build-standalone contain the first one.
ORIGINS = ["$ORIGIN/../lib/", "${ORIGIN}/../lib/", "/opt/cpython/lib/"]


@pytest.mark.parametrize("folder", ORIGINS)
def test_an_interpreter_in_a_library_that_is_needed_by_its_path_is_kept(folder: str) -> None:
    library = module(data=b"the interpreter")
    tree = cpython({f"lib/{LIBPYTHON}": library}, needed=[f"{folder}{LIBPYTHON}", "libc.so.6"])
    files = bundled(distribution.from_archive("a.tar", archive(tree)))
    assert files[f"lib/{LIBPYTHON}"] == library


@pytest.mark.parametrize("folder", ["$ORIGIN/", "$ORIGIN/../../lib/", "/usr/lib/"])
def test_a_library_that_is_needed_by_another_path_is_missing(folder: str) -> None:
    tree = cpython({f"lib/{LIBPYTHON}": module()}, needed=[f"{folder}{LIBPYTHON}"])
    with pytest.raises(PackagingError, match=rf"bin/python3 needs .*{LIBPYTHON}, which is neither in it"):
        bundled(distribution.from_archive("a.tar", archive(tree)))


LEFT_OUT = {
    "dangling": {f"{LIB}/a.py": Link("nowhere.py")},
    "to itself": {f"{LIB}/a.py": Link("a.py")},
    "in a circle": {f"{LIB}/a.py": Link("b.py"), f"{LIB}/b.py": Link("a.py")},
    "to a path below itself": {f"{LIB}/a": Link("a/a")},
    "to a folder": {f"{LIB}/a": Link("encodings"), "lib64": Link("lib")},
    "to a file that is left out": {f"{LIB}/test/a.py": b"", f"{LIB}/a.py": Link("test/a.py")},
    "out of the archive": {f"{LIB}/a.py": Link("../../../../etc/passwd"), f"{LIB}/b.py": Link("/etc/passwd")},
    "to the parent of the archive": {f"{LIB}/a.py": Link("../../../..")},
    "out of the prefix": {f"{LIB}/a.py": Link("../../../other/a.py"), "../other/a.py": b""},
    "to a program": {f"{LIB}/a.py": Link(f"../../{PROGRAM}")},
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_a_link_that_leads_to_no_file_of_the_layer_is_left_out(kind: str) -> None:
    assert added(LEFT_OUT[kind]) == {}


PROGRAMS = {
    "a chain of links": {PROGRAM: Link("a"), "bin/a": Link("b"), "bin/b": Link("../libexec/c"), "libexec/c": "PROGRAM"},
    "a linked folder": {"bin": Link("usr/bin"), "usr/bin/python3": "PROGRAM", PROGRAM: None, "bin/python": None},
    "no full name": {PROGRAM: None, "bin/python3": "PROGRAM", "bin/python": None},
    "a hard link": {"bin/python3": HardLink(PROGRAM), "bin/python": HardLink(PROGRAM)},
    "another python3": {"bin/python3": b"#!/bin/sh\n"},
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_interpreter_is_found_through_links(kind: str) -> None:
    own = cpython()
    links = {path: own[PROGRAM] if content == "PROGRAM" else content for path, content in PROGRAMS[kind].items()}
    tree = cpython(links)
    if "bin" in links:
        tree = {path: content for path, content in tree.items() if not path.startswith("bin/")}
    files = bundled(distribution.from_archive("a.tar", archive(tree)))
    assert files["bin/python3"] == own[PROGRAM]


# Licenses


def licenses(files: Mapping[str, Any]) -> dict[str, bytes]:
    kept = bundled(distribution.from_archive("a.tar", archive(cpython(files))))
    return {path: data for path, data in kept.items() if path.startswith("licenses/")}


def test_licenses_in_the_archive_are_kept_without_copies() -> None:
    own = {"licenses/a.txt": b"one", "licenses/b.txt": b"two", "licenses/c.txt": b"one"}
    assert licenses(own) == {"licenses/a.txt": b"one", "licenses/b.txt": b"two"}


def test_an_archive_without_licenses_gets_those_of_python_build_standalone() -> None:
    ours = (ROOT / "tools/packaging/interpreter/licenses/python-build-standalone.txt", ROOT / "LICENSE")
    expected = {"licenses/python-build-standalone.txt": ours[0], "licenses/Apache-2.0.txt": ours[1]}
    assert licenses({"LICENSE.txt": b"of Python"}) == {path: file.read_bytes() for path, file in expected.items()}


# Archives and folders


RICH = cpython(
    {
        "LICENSE.txt": b"free",
        "lib/libz.so.1": Link("libz.so.1.3.1"),
        "lib/libz.so.1.3.1": module(data=b"library"),
        "lib64": Link("lib"),
        f"{LIB}/a.py": Link("os.py"),
        f"{LIB}/lib-dynload/zlib.so": module(needed="libz.so.1"),
        f"{LIB}/test/x.py": b"1",
    }
)
KINDS = ("", "gz", "bz2", "xz")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top", ["python", "python/install", ".", "./a", ""])
def test_an_archive_of_any_depth_and_compression_is_read_like_a_folder(tmp_path: Path, kind: str, top: str) -> None:
    folder = distribution.from_folder(unpack(RICH, tmp_path / "a"))
    assert bundled(distribution.from_archive("a.tar", archive(RICH, top, kind))) == bundled(folder)


def test_links_of_a_folder_may_be_absolute(tmp_path: Path) -> None:
    links = {PROGRAM: Link(f"{tmp_path}/a/libexec/python"), f"{LIB}/out.py": Link("/etc/hosts")}
    tree = cpython({**links, "libexec/python": cpython()[PROGRAM]})
    files = bundled(distribution.from_folder(unpack(tree, tmp_path / "a")))
    assert files["bin/python3"] == cpython()[PROGRAM]
    assert f"{LIB}/out.py" not in files


def test_the_outermost_interpreter_is_used() -> None:
    inner = {f"share/copy/{path}": content for path, content in cpython({f"{LIB}/os.py": b"another"}).items()}
    both = archive({**inner, **cpython()})
    assert bundled(distribution.from_archive("a.tar", both)) == bundled(
        distribution.from_archive("a.tar", archive(cpython()))
    )


def test_the_last_member_of_a_name_counts() -> None:
    again = [
        member(f"python/{LIB}/os.py"),
        member(f"python/{LIB}/encodings/__init__.py", tarfile.SYMTYPE, linkname="/x"),
    ]
    files = bundled(distribution.from_archive("a.tar", archive(cpython(), "python", "gz", *again)))
    assert files[f"{LIB}/os.py"] == b""
    assert f"{LIB}/encodings/__init__.py" not in files


SAMPLES = {
    kind: archive(cpython({"lib/random": os.urandom(3000), f"lib/{'x' * 120}": b"long"}), kind=kind) for kind in KINDS
}


@pytest.mark.long
@examples(500)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 255)), max_size=8),
    st.none() | st.integers(0, 2**31),
)
def test_a_damaged_archive_is_refused_or_read_but_never_breaks_the_build(
    kind: str, damage: list[tuple[int, int]], end: int | None
) -> None:
    data = bytearray(SAMPLES[kind])
    for place, value in damage:
        data[place % len(data)] = value
    try:
        source = distribution.from_archive("a.tar", bytes(data[: end and end % len(data)]))
        for read in source.files.values():
            read()
    except PackagingError as refusal:
        assert str(refusal).startswith("a.tar")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_content_damaged_at_any_byte_is_refused(kind: str) -> None:
    for place in range(0, len(SAMPLES[kind]), 29):
        data = bytearray(SAMPLES[kind])
        data[place] ^= 0x55
        try:
            source = distribution.from_archive("a.tar", bytes(data))
            undamaged = distribution.from_archive("a.tar", SAMPLES[kind])
            contents = ({path: read() for path, read in each.files.items()} for each in (source, undamaged))
            assert next(contents) == next(contents), place
        except PackagingError:
            pass
