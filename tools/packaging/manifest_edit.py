"""Where the layer is published: the ``published`` list of the manifest, which ``./build.sh publish`` writes."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

KEYS: dict[str, type] = {
    "variant": str,
    "version": str,
    "partition": str,
    "account": str,
    "region": str,
    "arn": str,
    "sha256": str,
    "size": int,
    "sharedWith": list,
}

PUBLIC = "public"

_VARIANT = re.compile(r"slim|python3\.[0-9]+-(x86_64|arm64)")  # also those that are not built any more
_ARN = re.compile(r"arn:([a-z-]+):lambda:([a-z0-9-]+):([0-9]{12}):layer:([a-zA-Z0-9-_]{1,140}):([1-9][0-9]*)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
GRANTEE = re.compile(rf"{PUBLIC}|[0-9]{{12}}|o-[a-z0-9]{{10,32}}")  # an organization's id: API_Organization


@dataclass(frozen=True)
class Published:
    """One variant in one account and region.

    Args:
        version: the layer's own, as in 1.2.3; the one AWS Lambda counts is the last part of the ARN.
        sha256: of the zip, in hexadecimal.
        size: of the zip, in bytes.
        sharedWith: who may use it besides the account: ``public``, or accounts and organizations.
    """

    variant: str
    version: str
    partition: str
    account: str
    region: str
    arn: str
    sha256: str
    size: int
    sharedWith: tuple[str, ...]

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What no two entries have in common, and what they are sorted by."""
        return (self.variant, self.partition, self.account, self.region)

    @property
    def layer_name(self) -> str:
        """The name of the layer that the ARN is of."""
        return self.arn.split(":")[6]


def breach(entry: Published) -> str | None:
    """Say which rule ``entry`` breaks."""
    if not _VARIANT.fullmatch(entry.variant):
        return f"variant {entry.variant!r} must be slim, or one as python3.13-arm64"
    arn = _ARN.fullmatch(entry.arn)
    if not arn:
        return f"arn {entry.arn!r} must be that of a layer version"
    for name, held, told in zip(("partition", "region", "account"), arn.groups(), _place(entry), strict=False):
        if held != told:
            return f"{name} {told!r} must be the one in its arn, {held}"
    if not _SHA256.fullmatch(entry.sha256):
        return f"sha256 {entry.sha256!r} must be 64 of the characters 0-9 a-f"
    if entry.size < 1:
        return f"size {entry.size} must be above 0"
    for grantee in entry.sharedWith:
        if not GRANTEE.fullmatch(grantee):
            return f"sharedWith: {grantee!r} must be {PUBLIC}, an account or an organization"
    return None


def _place(entry: Published) -> tuple[str, str, str]:
    return (entry.partition, entry.region, entry.account)


def with_published(text: str, entries: Iterable[Published]) -> str:
    """Give the manifest ``text`` with ``entries`` as its ``published`` list, and else as it was written.

    One entry a line, in the order of their places, so that a change of one is a change of one line.
    """
    lines = [f"    {json.dumps(asdict(entry))}" for entry in sorted(entries, key=lambda entry: entry.place)]
    value = "[\n" + ",\n".join(lines) + "\n  ]" if lines else "[]"
    spans = {key: (start, end) for key, start, end in _top_level(text)}
    if "published" in spans:
        start, end = spans["published"]
        return text[:start] + value + text[end:]
    end = max(end for _, end in spans.values())
    return f'{text[:end]},\n  "published": {value}{text[end:]}'


def _top_level(text: str) -> Iterator[tuple[str, int, int]]:
    """Each key of the JSON object ``text``, with where its value begins and ends."""
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
