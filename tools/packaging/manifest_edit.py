"""Edits the text of `layer-manifest.json`.

The file is written by hand and read in reviews. Only the changed values are therefore replaced in the text; order,
line breaks and indentation stay as they are.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from tools.packaging import PackagingError
from tools.packaging.manifest import FILE_NAME, Pin, Published, parse


def with_pins(text: str, pins: Sequence[Pin]) -> str:
    """Return the manifest `text` with the values of `pins` in place of those of the present pins, in their order.

    Raises:
        PackagingError: the pins are not written as one object each.
    """
    new = iter(pins)

    def replace(match: re.Match[str]) -> str:
        old, pin = json.loads(match[0]), match[0]
        for key, value in asdict(next(new)).items():
            pin = pin.replace(json.dumps(old[key]), json.dumps(value))
        return pin

    changed = re.sub(r'\{[^{}]*"url"[^{}]*\}', replace, text)
    if parse(changed.encode()).pins != tuple(pins):
        raise PackagingError(f"{FILE_NAME}: the pins cannot be changed: write each as one object with plain strings")
    return changed


def with_published(text: str, entries: Iterable[Published]) -> str:
    """Return the manifest `text` with `entries` as its `published` list.

    One entry a line, sorted by place: a change of one entry is a change of one line.
    """
    lines = [f"    {json.dumps(entry.fields)}" for entry in sorted(entries, key=lambda entry: entry.place)]
    value = "[\n" + ",\n".join(lines) + "\n  ]" if lines else "[]"
    spans = {key: (start, end) for key, start, end in _top_level(text)}
    if "published" in spans:
        start, end = spans["published"]
        return text[:start] + value + text[end:]
    end = max(end for _, end in spans.values())
    return f'{text[:end]},\n  "published": {value}{text[end:]}'


def _top_level(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield each key of the JSON object `text`, with the positions at which its value begins and ends."""
    decode = json.JSONDecoder().raw_decode
    position = text.index("{") + 1
    while (position := _skip_space(text, position)) < len(text) and text[position] != "}":
        key, position = decode(text, position)
        start = _skip_space(text, _skip_space(text, position) + 1)
        _, position = decode(text, start)
        yield key, start, position
        position = _skip_space(text, position)
        if text[position] == ",":
            position += 1


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
