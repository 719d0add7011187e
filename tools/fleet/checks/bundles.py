"""The CPython in a self-contained layer, and whether it is outdated.

A layer version states in its description what it contains. So the functions that use a version are judged by that
version, also after the manifest lists another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tools.packaging.manifest import Manifest, Pin, Published

Version = tuple[int, ...]

_RECORD = re.compile(r"CPython (?P<python>3\.\d+\.\d+), (python-build-standalone (?P<release>\d{8}) )?.*")
_TEXT = re.compile(
    r"CPython (?P<python>3\.\d+\.\d+)( of (?P<release>\d{8}))?(, OpenSSL (?P<openssl>\d+(\.\d+)+))?", re.ASCII
)


@dataclass(frozen=True)
class Bundle:
    """A bundled CPython.

    Args:
        release: of python-build-standalone; empty for another build.
        openssl: the version of its OpenSSL; empty if it is not known.
    """

    python: Version
    release: str
    openssl: Version

    def __str__(self) -> str:
        built = f" of {self.release}" if self.release else ""
        return f"CPython {_text(self.python)}{built}" + (f", OpenSSL {_text(self.openssl)}" if self.openssl else "")

    @classmethod
    def parse(cls, text: str) -> Bundle | None:
        """Return the bundle that `str` has described; None for another text."""
        match = _TEXT.fullmatch(text)
        return cls(_version(match["python"]), match["release"] or "", _version(match["openssl"])) if match else None

    @classmethod
    def recorded(cls, bundled: str, libraries: Mapping[str, str]) -> Bundle | None:
        """Return the bundle of which a build has recorded `bundled`, as in `INTERPRETERS`; None for another text."""
        match = _RECORD.fullmatch(bundled)
        openssl = _version(libraries.get("openssl"))
        return cls(_version(match["python"]), match["release"] or "", openssl) if match else None


def outdated(manifest: Manifest, descriptions: Mapping[str, str]) -> dict[str, str]:
    """Return what is outdated in the bundles of layer versions, by ARN.

    A bundle is outdated if its CPython is older than the pinned one; if it is an older build of it, because
    python-build-standalone links OpenSSL and the other libraries into its CPython; or if another layer contains a newer
    OpenSSL of the same series, such as 3.5.

    Args:
        descriptions: what layer versions state in parentheses, by ARN. The manifest adds those that it lists.
    """
    bundles = {entry.arn: _of(entry) for entry in manifest.published}
    bundles |= {arn: bundle for arn, text in descriptions.items() if (bundle := Bundle.parse(text))}
    known = {arn: bundle for arn, bundle in bundles.items() if bundle}
    pins = {manifest.self_contained(pin.python, pin.architecture).layer_name: pin for pin in manifest.pins}
    newest = _newest(bundle.openssl for bundle in known.values())
    problems = {arn: _problem(bundle, pins.get(arn.split(":")[6]), newest) for arn, bundle in known.items()}
    return {arn: problem for arn, problem in problems.items() if problem}


def _of(entry: Published) -> Bundle | None:
    return Bundle.recorded(entry.bundled, entry.library_versions)


def _newest(versions: Iterable[Version]) -> dict[Version, Version]:
    """Return the newest version of each series, by its first two numbers."""
    newest: dict[Version, Version] = {}
    for version in versions:
        newest[version[:2]] = max(version, newest.get(version[:2], version))
    return newest


def _problem(bundle: Bundle, pin: Pin | None, newest: Mapping[Version, Version]) -> str:
    if pin and _is_older(bundle, pin):
        return f"{bundle}; pinned: {pin.version} of {pin.release}"
    if bundle.openssl < newest[bundle.openssl[:2]]:
        return f"{bundle}; in another layer: {_text(newest[bundle.openssl[:2]])}"
    return ""


def _is_older(bundle: Bundle, pin: Pin) -> bool:
    pinned = _version(pin.version)
    return bundle.python < pinned or (bundle.python == pinned and "" < bundle.release < pin.release)


def _version(text: str | None) -> Version:
    return tuple(map(int, text.split("."))) if text and re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) else ()


def _text(version: Version) -> str:
    return ".".join(map(str, version))
