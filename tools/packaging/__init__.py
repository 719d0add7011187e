"""Packs the layer and function zips: the same sources give the same bytes on any machine."""


class PackagingError(Exception):
    """Something cannot be packed; the text is one line that names the cause and the next step."""
