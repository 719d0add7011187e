"""Parameters of AWS Systems Manager that name layer versions, as `publish --ssm` writes them."""

from __future__ import annotations

from tools.fleet.aws.errors import NotFound, translated
from tools.fleet.aws.session import Aws


def parameters_below(aws: Aws, region: str, prefix: str) -> dict[str, str]:
    """Return the values of all parameters below `/prefix`, by name; raises `AccessDenied`."""
    try:
        with translated():
            pages = aws.client("ssm", region).get_paginator("get_parameters_by_path")
            found = pages.paginate(Path=f"/{prefix}", Recursive=True)
            return {each["Name"]: each["Value"] for page in found for each in page.get("Parameters", ())}
    except NotFound:
        return {}
