"""The release notes: the section of the changelog, and how to use and check the zips."""

import os
import re
from collections.abc import Mapping

from tools.packaging.manifest import Manifest
from tools.packaging.release.changelog import Section

FILE_NAME = "RELEASE_NOTES.md"

_VERIFY = """\
## Verify

```sh
sha256sum --check --ignore-missing SHA256SUMS
./build.sh verify-build layer-slim.zip
```

`verify-build` runs in a clone of the repository. It builds the zip again from the commit and the interpreters that
`provenance.json` names, and compares every file. Each zip has an SBOM in SPDX 2.3 (`.spdx.json`) and in CycloneDX 1.6
(`.cdx.json`).
"""
_RELATIVE_LINK = re.compile(r"\]\((?![a-z]+:|#)")


def notes(manifest: Manifest, section: Section, sizes: Mapping[str, int], sha256: Mapping[str, str]) -> bytes:
    """Return the release notes, in Markdown.

    Args:
        sizes: of the zips, in bytes, by name.
        sha256: of the zips, by name.
    """
    rows = [f"| `{name}` | {_use(manifest, name)} | {sizes[name]:,} | `{sha256[name]}` |" for name in sorted(sizes)]
    table = ["| zip | for | bytes | SHA-256 |", "|---|---|--:|---|", *rows]
    parts = [f"# {manifest.name} {manifest.version}", _linked(section), "## Zips", "\n".join(table), _VERIFY]
    return "\n\n".join(parts).encode()


def _linked(section: Section) -> str:
    """Return the changes with links that lead from the page of the release to the files of its tag.

    In a workflow, that is: GitHub Actions, "Variables reference".
    """
    server, repository = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    if not (server and repository):
        return section.text
    return _RELATIVE_LINK.sub(f"]({server}/{repository}/blob/v{section.version}/", section.text)


def _use(manifest: Manifest, zip_name: str) -> str:
    for variant in manifest.variants:
        if variant.zip_name == zip_name:
            return f"{', '.join(variant.compatible_runtimes)} on {', '.join(variant.compatible_architectures)}"
    return "the sample function"
