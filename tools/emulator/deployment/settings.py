"""The settings of a function, from the command line or from a template."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple


class FunctionSettings(NamedTuple):
    """What is deployed as one function.

    Args:
        code: a folder or a zip.
        layers: folders or zips, in their order.
        timeout: seconds.
        memory: MB.
        max_concurrency: invocations that one environment serves at a time, as on managed instances; 0: on demand.
        invoke_mode: of its Function URL, as in `CreateFunctionUrlConfig`.
        cors: of its Function URL, as in `CreateFunctionUrlConfig`; None: it has no CORS configuration.
    """

    code: Path
    layers: tuple[Path, ...]
    handler: str
    timeout: float
    memory: int
    variables: tuple[tuple[str, str], ...]
    max_concurrency: int
    invoke_mode: str
    cors: dict[str, Any] | None
