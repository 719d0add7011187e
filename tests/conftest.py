"""Fixtures of all tests: the built layer, functions that run on it, a stand-in for AWS, and local servers."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import function_process, interpreters
from support.checkout import Checkout
from support.cloud import Cloud
from support.concurrent_function import ConcurrentFunction
from support.emulator import FunctionFolder, Server, Serving
from support.function_process import FunctionProcess
from support.lambda_standin import StandIn, serve
from support.root_file_system import unpack

ROOT = Path(__file__).resolve().parents[1]

# Seconds that a test may take with its fixtures; without a limit, one that does not end keeps the run from ending.
TIMEOUT, LONG_TIMEOUT = 180, 1800

# Each process of a run imports all tests, and rewriting their assertions takes most of that. So bytecode is kept,
# out of the checkout. Packages that are imported before this line keep their bytecode beside them.
if ROOT.joinpath(".venv").is_dir():
    sys.pycache_prefix, sys.dont_write_bytecode = str(ROOT / ".venv" / "pycache"), False

# A shell starts background jobs with SIGINT ignored, nohup ignores SIGHUP, and all processes of the tests would inherit
# that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that `make` has filled, once for all processes of a test run, which must not change it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of the run, above that of the worker
    with folder.joinpath(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.joinpath(name).is_dir():
            new = folder / f"{name}.new"
            shutil.rmtree(new, ignore_errors=True)  # of a process that failed
            make(new)
            new.rename(folder / name)
    return folder / name


@pytest.fixture(scope="session")
def layer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slim layer, built by `./build.sh` and unpacked with its modes, like on Lambda; or that of --layer."""
    if given := request.config.getoption("layer"):
        return Path(given)

    def make(folder: Path) -> None:
        environment = {**os.environ, "PATH": interpreters.search_path()}
        build = [ROOT / "build.sh", "-o", folder / "dist"]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL, env=environment)
        unpack(folder / "dist" / "layer-slim.zip", folder / "opt")

    return made_once(tmp_path_factory, "layer", make) / "opt"


@pytest.fixture
def runtime(layer: Path, tmp_path: Path) -> Iterator[Callable[..., FunctionProcess]]:
    """Starts functions on the layer: `runtime(code, variables=...)`. They end with the test."""
    started: list[FunctionProcess] = []

    def start(code: str | dict[str, str], **options: Any) -> FunctionProcess:
        started.append(
            FunctionProcess(options.pop("layer", layer), tmp_path / f"function{len(started)}", code, **options)
        )
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def concurrent(layer: Path, tmp_path: Path) -> Iterator[Callable[..., ConcurrentFunction]]:
    """Starts environments with several slots: `concurrent(code, slots, variables=...)`. They end with the test."""
    started: list[ConcurrentFunction] = []

    def start(code: str | dict[str, str], slots: int | str = 1, **options: Any) -> ConcurrentFunction:
        started.append(ConcurrentFunction(layer, tmp_path / f"function{len(started)}", code, slots, **options))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture(scope="session")
def standin() -> Iterator[StandIn]:
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zips, built once, without bytecode, which takes longer than the rest."""

    def make(folder: Path) -> None:
        Checkout.at(folder).build("--bytecode", "none")

    return made_once(tmp_path_factory, "built", make) / "dist"


@pytest.fixture
def cloud(tmp_path: Path, standin: StandIn, built: Path) -> Iterator[Cloud]:
    """A fresh checkout with its zips built, and an empty account."""
    checkout = Checkout.for_fleet(tmp_path / "checkout")
    shutil.copytree(built, checkout.dist)
    standin.reset()
    yield Cloud.over(checkout, standin)
    standin.faults = type(standin.faults)()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    """Serves a function with the source that the test gives."""
    opened: list[Any] = []

    def serve(
        source: str, *arguments: str | Path, name: str = "a-function", **options: Any
    ) -> tuple[Server, FunctionFolder]:
        opened.append(FunctionFolder(tmp_path / name, source))
        opened.append(Server(opened[-1].path, *arguments, **options))
        return opened[-1], opened[-2]

    yield serve
    for context in reversed(opened):
        context.__exit__(None, None, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests with the marker `long` too")
    parser.addoption("--patience", type=float, metavar="SECONDS", help="until a test gives up an event (default: 30)")
    parser.addoption("--layer", metavar="FOLDER", help="test this unpacked layer instead of a newly built one")


left_out = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)  # before that of pytest-timeout
def pytest_configure(config: pytest.Config) -> None:
    from support import examples  # below the line above: pytest rewrites hypothesis, which takes a second

    config.stash[left_out] = 0
    examples.configure(config.getoption("long"))
    if patience := config.getoption("patience"):
        function_process.TIMEOUT = patience  # before the tests import it
    if config.getoption("timeout", 0) is None:
        config.option.timeout = TIMEOUT


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return one more than there are processors, because the tests often wait for processes that wait."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(trylast=True)  # after -k and -m, so that it counts only what they have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests. Begin with the slowest files: at the end, the others would wait for them.

    Of the first three files only one needs the layer: it is built once, and the others would wait.
    """
    slowest = [
        "test_soak.py",
        "test_rollout.py",
        "test_regions.py",
        "test_keep_alive.py",
        "test_command.py",
        "test_publish.py",
        "test_documented_commands.py",
        "test_managed_runtime.py",
        "test_self_contained.py",
        "test_release.py",
        "test_rollout_waves.py",
        "test_pool.py",
        "test_slots.py",
        "test_rollout_aliases.py",
        "test_shared_journals.py",
        "test_pins.py",
        "test_workers.py",
        "test_documented_handlers.py",
        "test_bootstrap_refusals.py",
        "test_one_shot.py",
        "test_extensions.py",
        "test_build_sh.py",
        "test_function_zip.py",
    ]
    items.sort(key=lambda item: slowest.index(item.path.name) if item.path.name in slowest else len(slowest))
    long = [item for item in items if item.get_closest_marker("long")]
    if config.getoption("long"):
        if config.getoption("timeout", 0) == TIMEOUT:
            for item in long:
                item.add_marker(pytest.mark.timeout(LONG_TIMEOUT))
        return
    items[:] = [item for item in items if item not in long]
    config.hook.pytest_deselected(items=long)
    config.stash[left_out] = len(long)


def pytest_collection_finish() -> None:
    sys.dont_write_bytecode = True  # what a test imports is in a temporary folder
    gc.collect()
    gc.freeze()  # otherwise each full collection goes through all modules and tests


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    # In a run on several processors, each worker collects all tests. It gives the number to the process that reports.
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash[left_out]


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[left_out] = max(node.config.stash[left_out], getattr(node, "workeroutput", {}).get("left_out", 0))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    skipped = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", [])]
    for reason, number in sorted(Counter(reason.removeprefix("Skipped: ") for reason in skipped).items()):
        terminalreporter.write_line(f"{number} skipped: {reason}")
    if count := config.stash[left_out]:
        tests = "test was" if count == 1 else "tests were"
        terminalreporter.write_line(f"{count} long {tests} left out: run them with ./build.sh test --long")
