"""Packs the layer and function zips: the same sources give the same bytes on any machine."""

from tools.common.errors import ToolError


class PackagingError(ToolError):
    """Something cannot be packed; the text is one line that names the cause and the next step."""
