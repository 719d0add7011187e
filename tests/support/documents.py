"""The documentation as the tests read it: pages, code blocks, links, headings and tables."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.checkout import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"))
)

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_CODE_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A code block.

    Args:
        page: the path of its page, relative to the checkout.
        line: the line of its opening fence, from 1.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a console block, with the output that the block shows below it."""

    block: Block
    text: str
    output: str

    def __str__(self) -> str:
        return f"{self.block}: {self.text}"


def source(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(language: str | None = None, pages: list[str] = PAGES) -> list[Block]:
    """Return the code blocks of `pages` in `language`, or all of them."""
    return [block for page in pages for block in _blocks_of(page) if language in (None, block.language)]


def _blocks_of(page: str) -> Iterator[Block]:
    text = source(page)
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, match["language"], textwrap.dedent(match["text"]))


def commands(page: str) -> list[Command]:
    """Return the commands of the console blocks of `page`."""
    found = []
    for block in blocks("console", [page]):
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            text, _, output = part.partition("\n")
            found.append(Command(block, text, output))
    return found


def prose(page: str) -> str:
    """Return the page without its code blocks."""
    return _FENCE.sub("", source(page))


def code_spans(page: str) -> list[str]:
    return _CODE_SPAN.findall(prose(page))


def links(page: str) -> list[str]:
    return _LINK.findall(_CODE_SPAN.sub("", prose(page)))


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings of `page`."""
    titles = (re.sub(r"[`*]", "", title) for title in _HEADING.findall(prose(page)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def tables(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the tables below `heading` (up to the next heading), without their first two lines."""
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", prose(page), re.MULTILINE | re.DOTALL)
    assert section is not None, f"{page} has no heading {heading!r}"
    rows = [line for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows if not row.startswith("|---")][1:]


def path_of(page: str, link: str) -> Path:
    """Return the file that a relative `link` on `page` leads to."""
    return (ROOT / page).parent / link.partition("#")[0] if not link.startswith("#") else ROOT / page
