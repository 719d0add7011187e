"""Reads `CHANGELOG.md`, in the format of Keep a Changelog: `## 1.2.3 - 2026-11-28` begins the section of a version."""

import re
from dataclasses import dataclass
from datetime import date

from tools.packaging import PackagingError

FILE_NAME = "CHANGELOG.md"

_HEADING = re.compile(r"^## +\[?(?P<version>[^\s\]]+)\]? *(?:- *(?P<date>.*?))? *$", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """The changes of one version, in Markdown."""

    version: str
    date: date
    text: str


def section(text: str, version: str) -> Section:
    """Return the section of `version` in the changelog `text`.

    Raises:
        PackagingError: there is none, it has no date, or it is empty.
    """
    headings = list(_HEADING.finditer(text))
    for number, heading in enumerate(headings):
        if heading["version"] == version:
            end = headings[number + 1].start() if number + 1 < len(headings) else len(text)
            content = text[heading.end() : end].strip()
            if not content:
                raise PackagingError(f"{FILE_NAME} lists no change for {version}: describe what users get")
            return Section(version, _date(heading), content)
    raise PackagingError(f"{FILE_NAME} has no section {version}: add the heading '## {version} - YYYY-MM-DD'")


def _date(heading: re.Match[str]) -> date:
    try:
        return date.fromisoformat(heading["date"] or "")
    except ValueError:
        raise PackagingError(
            f"{FILE_NAME}: the section {heading['version']} has no date: write '## {heading['version']} - YYYY-MM-DD'"
        ) from None
