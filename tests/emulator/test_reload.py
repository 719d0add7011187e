"""Changes of the code while the emulator serves."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from support.emulator import (
    PID,
    ROOT,
    MakeZip,
    Server,
    Serving,
    until,
)
from support.invocations import Caller

from tools.emulator.console import Console
from tools.emulator.deployment.configuration import FunctionConfiguration
from tools.emulator.deployment.sources import FunctionCode, files_of
from tools.emulator.execution.environment import ExecutionEnvironment
from tools.emulator.execution.pool import EnvironmentPool
from tools.emulator.sandbox.supervisor_client import Supervisor


def handler_that_yields(word: str) -> dict[str, str | bytes]:
    source = f"""
        def handler(event, context):
            yield b"{word}"
    """
    return {"lambda_function.py": source}


def test_a_changed_zip_is_unpacked_and_a_damaged_one_is_reported(make_zip: MakeZip) -> None:
    path = make_zip(handler_that_yields("one"))
    with Server(path) as server:
        assert server.get().body == b"one"
        make_zip(handler_that_yields("two!"))
        assert server.get().body == b"two!"
        path.write_bytes(b"PK half a zip")
        assert server.get().body == b"two!"
        make_zip(handler_that_yields("three"))
        assert server.get().body == b"three"
        errors = server.errors()
    assert f"{path} has changed" in errors
    assert "not a valid zip file" in errors and "the previous code stays in use" in errors


def test_a_request_uses_the_code_that_was_saved_before_it(serving: Serving) -> None:
    server, function = serving("""
        from other import WORD
        def handler(event, context):
            yield WORD
    """)
    for word in ("one", "two", "three"):
        (function.path / "other.py").write_text(f"WORD = b'{word}'")
        for _ in range(2):
            assert server.get()[::2] == (200, word.encode())
    lines = [line for line in server.errors().splitlines() if "has changed" in line]
    assert [f"{function.path}/other.py" in line for line in lines] in ([True] * 2, [True] * 3)


def test_a_change_is_reported_without_a_request(serving: Serving) -> None:
    server, function = serving(PID)
    (function.path / "new.py").write_text("")
    until(lambda: f"{function.path}/new.py has changed" in server.errors())


def test_an_invocation_keeps_the_code_that_it_started_with(serving: Serving) -> None:
    server, function = serving("""
        def handler(event, context):
            yield b'old'
            wait()
            yield b'end'
    """)
    with server.connect() as client:
        client.send_request("GET / HTTP/1.1")
        client.read_head()
        assert client.read(8) == b"3\r\nold\r\n"
        function.write("""
            def handler(event, context):
                yield b'new'
        """)
        assert server.get().body == b"new"
        function.release()
        assert client.read(13) == b"3\r\nend\r\n0\r\n\r\n"
    assert server.get().body == b"new"


def test_no_reload_keeps_the_code(serving: Serving) -> None:
    server, function = serving(
        """
        def handler(event, context):
            yield b'old'
    """,
        "--no-reload",
    )
    assert server.get().body == b"old"
    function.write("""
        def handler(event, context):
            yield b'new'
    """)
    assert server.get().body == b"old"
    assert "has changed" not in server.errors()


class ChangingPool(EnvironmentPool):
    """The code changes while an environment starts."""

    def _make_environment(self, *arguments: Any) -> ExecutionEnvironment:
        environment = super()._make_environment(*arguments)
        self.change_once()
        return environment

    def change_once(self) -> None:
        """Replaced by the test."""


def test_an_environment_that_starts_while_the_code_changes_serves_one_invocation(
    make_zip: MakeZip, console: Console, tmp_path: Path
) -> None:
    supervisor = Supervisor()
    numbers = itertools.count()
    path = make_zip(handler_that_yields("old"))
    code = FunctionCode(
        [ROOT / "layer"], path, ROOT / "layer", lambda: supervisor.make_folder(f"code-{next(numbers)}"), reload=True
    )
    configuration = FunctionConfiguration("a-function", code.layout.layer, code.layout.task_root)
    pool = ChangingPool(configuration, console, supervisor, code=code)
    changed: list[str] = []
    code.watch(lambda source: (changed.append(source), pool.retire_environments()), pytest.fail)

    def change_once() -> None:
        if not changed:
            make_zip(handler_that_yields("new and longer"))
            code.check_for_changes()

    pool.change_once = change_once
    responses = []
    for _ in range(3):
        with pool.invoke(b"{}") as invocation:
            responses.append(Caller(invocation).response())
    code.stop_watching()
    supervisor.close()
    assert responses == [b"old", b"new and longer", b"new and longer"]
    assert changed == [str(path)]


def test_a_change_in_a_linked_folder_is_found(serving: Serving, tmp_path: Path) -> None:
    """The package of a monorepo: a link in the function's folder, and a link in the folder that it leads to."""
    for name in ("shared", "deeper"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "deeper" / "words.py").write_text("WORD = b'one'")
    server, function = serving("""
        def handler(event, context):
            from shared.deeper.words import WORD
            yield WORD
    """)
    (tmp_path / "shared" / "deeper").symlink_to("../deeper")
    (function.path / "shared").symlink_to(tmp_path / "shared")
    for word in ("one", "two", "three"):
        (tmp_path / "deeper" / "words.py").write_text(f"WORD = b'{word}'")
        assert server.get().body == word.encode()


def test_a_link_that_leads_elsewhere_is_found(serving: Serving, tmp_path: Path) -> None:
    for word in ("one", "two"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "words.py").write_text(f"WORD = b'{word}'")
    server, function = serving("""
        def handler(event, context):
            from package.words import WORD
            yield WORD
    """)
    link = function.path / "package"
    for word in ("one", "two"):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / word)
        assert server.get().body == word.encode()


def test_links_in_a_circle_are_read_once(tmp_path: Path) -> None:
    source = tmp_path / "parent" / "source"
    (source / "package" / "deeper").mkdir(parents=True)
    (source / "package" / "module.py").write_text("")
    (tmp_path / "parent" / "beside.py").write_text("")
    (source / "package" / "deeper" / "up").symlink_to("../..")
    (source / "package" / "itself").symlink_to(".")
    (source / "a-link").symlink_to("package")
    (source / "around").symlink_to("../..")
    (source / "nothing").symlink_to("nowhere")
    folders: dict[str, Any] = {}
    assert [path for path, _ in files_of(source, folders)] == [str(source / "package" / "module.py")]
    assert sorted(folders) == [str(source), str(source / "package"), str(source / "package" / "deeper")]


def test_a_folder_that_is_linked_twice_is_watched_once(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "module.py").write_text("")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("one", "two"):
        (source / name).symlink_to("../shared")
    assert len(list(files_of(source, {}))) == 1
