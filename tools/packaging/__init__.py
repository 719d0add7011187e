"""Builds the zips of the layer and of functions: the same sources give the same bytes on any machine.

Reading order:
    cli            the command line behind `./build.sh`, `function`, `layer` and `pin`
    release/       all zips of a version with their documents, and what is published; has its own command line
    self_contained the build of a layer with a CPython; loaded for `layer` alone
    builds         the other builds, from their parts
    manifest       reads and checks `layer-manifest.json`; `manifest_edit` changes its text
    zips/          function and layer zips, bytecode, the output folder
    interpreter/   the CPython that a self-contained layer contains

Imports point downwards: cli, release, self_contained, builds, interpreter, zips, manifest_edit, manifest, and
`tools.common`.
"""

from tools.common.errors import ToolError


class PackagingError(ToolError):
    """Something cannot be packed; the text is one line that names the cause and the next step."""
