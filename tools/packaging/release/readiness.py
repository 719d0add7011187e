"""Finds everything that a release lacks, before anything is built, and reports it together."""

import platform
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.common.errors import ToolError
from tools.common.lambda_facts import ARCHITECTURE_OF_MACHINE
from tools.common.output import shortened
from tools.common.paths import read, shown
from tools.packaging import PackagingError, builds
from tools.packaging.builds import Sources
from tools.packaging.interpreter import download
from tools.packaging.manifest import FILE_NAME, Manifest, Pin
from tools.packaging.release import changelog, git, published
from tools.packaging.release.changelog import Section
from tools.packaging.release.git import Commit
from tools.packaging.zips import pythons
from tools.packaging.zips.pythons import InterpreterNotFound

_MAX_CHANGED = 5  # files in the message


class NotReady(PackagingError):
    """A version cannot be released; `problems` lists everything that is missing, each in one line."""

    def __init__(self, version: str, problems: Sequence[str]) -> None:
        reason = problems[0] if len(problems) == 1 else f"{len(problems)} things are missing, which are listed above"
        super().__init__(f"{version} cannot be released: {reason}")
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Release:
    """The commit of a release, and its section of the changelog."""

    commit: Commit
    section: Section


def check(sources: Sources, version: str) -> Release:
    """Return the release of `version`, for which nothing is missing.

    Raises:
        NotReady: something is missing.
    """
    problems: list[str] = []

    def collected(step: Callable[[], object]) -> None:
        try:
            step()
        except ToolError as error:
            problems.append(str(error))

    problems += _version_problems(sources.manifest, version)
    collected(sources.layer_entries)  # each file of the layer has the version of the manifest
    collected(lambda: builds.function_zip(sources.root / "function", sources.output, sources.limits))
    found: list[Section] = []
    collected(lambda: found.append(changelog.section(_changelog(sources.root), version)))
    commits: list[Commit] = []
    collected(lambda: commits.append(_commit(sources.root, version)))
    problems += _stale_pages(sources.root, sources.manifest)
    problems += missing(sources.manifest)
    if problems:
        raise NotReady(version, problems)
    return Release(commits[0], found[0])


def _version_problems(manifest: Manifest, version: str) -> Iterator[str]:
    if manifest.version != version:
        yield f"{FILE_NAME} has the version {manifest.version}: set the version of the release there and in layer/"


def _stale_pages(root: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the pages of the documentation that name another version, or lack a published version."""
    named = re.compile(rf"\b{re.escape(manifest.name)} ([0-9]+\.[0-9]+\.[0-9]+(?:-[0-9A-Za-z.-]*[0-9A-Za-z])?)")
    for path in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        text = read(path).decode("utf-8", "replace") if path.is_file() else ""
        for version in sorted(set(named.findall(text)) - {manifest.version}):
            yield f"{shown(path)} names {manifest.name} {version}: replace it by {manifest.version}"
    page = root / published.PAGE
    if page.is_file() and read(page) != published.page(manifest):
        yield f"{shown(page)} differs from {FILE_NAME}: run ./build.sh layers-page"


def _changelog(root: Path) -> str:
    return read(root / changelog.FILE_NAME).decode("utf-8", "replace")


def _commit(root: Path, version: str) -> Commit:
    commit = git.head(root)
    if changed := git.changes(root):
        raise PackagingError(f"uncommitted changes of {shortened(changed, _MAX_CHANGED)}: commit or remove them")
    tagged = git.commit_of_tag(root, f"v{version}")
    if tagged not in (None, commit.hash):
        raise PackagingError(f"the tag v{version} is at another commit, {tagged}: increase the version")
    return commit


# --- Interpreters -----------------------------------------------------------------------------------------------------


def missing(manifest: Manifest) -> Iterator[str]:
    """Yield the Pythons and the archives that are missing on this machine, each with the zip that needs it."""
    for version in manifest.python_versions:
        try:
            pythons.find(version)
        except InterpreterNotFound as error:
            yield f"{manifest.slim.zip_name} needs bytecode for Python {version}: {error}"
    for pin in manifest.pins:
        zip_name = manifest.self_contained(pin.python, pin.architecture).zip_name
        try:
            download.pinned(pin)
        except ToolError as error:
            reason = str(error).removesuffix(f"; {download.NEXT_STEP}")
            yield f"{zip_name} needs CPython {pin.version} for {pin.architecture}: {reason}"
        else:
            yield from _missing_compiler(manifest, pin, zip_name)


def _missing_compiler(manifest: Manifest, pin: Pin, zip_name: str) -> Iterator[str]:
    """An interpreter for another architecture does not run here; its twin compiles its bytecode, or another build."""
    machine = ARCHITECTURE_OF_MACHINE.get(platform.machine(), "")
    if any((twin.python, twin.architecture) == (pin.python, machine) for twin in manifest.pins):
        return
    try:
        pythons.find(pin.python)
    except InterpreterNotFound as error:
        yield f"{zip_name} needs bytecode for Python {pin.python}: {error}"
