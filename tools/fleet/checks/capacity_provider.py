"""Functions on a capacity provider, which are Lambda Managed Instances, and settings that matter to them only.

AWS Lambda Developer Guide, lambda-managed-instances-runtimes: which runtimes it offers. docs/concurrency.md: how the
layer serves several invocations at once.
"""

from __future__ import annotations

from collections.abc import Iterator

from tools.common.lambda_facts import MANAGED_PYTHON
from tools.fleet.aws.models import Function
from tools.fleet.checks.finding import Finding

OLDEST_MINOR_VERSION = 13  # of Python 3
CONCURRENCY, PRELOAD = "STREAMING_RUNTIME_CONCURRENCY", "STREAMING_RUNTIME_PRELOAD"
KINDS = ("process", "async")


def check_capacity_provider(function: Function) -> Iterator[Finding]:
    """Yield what does not work on managed instances, or only there."""
    update = f"aws lambda update-function-configuration --function-name {function.name}"
    if not function.capacity_provider:
        for name in {CONCURRENCY, PRELOAD} & function.variables.keys():
            yield Finding(
                f"{name} is set, but the function has no capacity provider",
                "the variable has an effect on Lambda Managed Instances only",
                f"{update} --environment …, without it",
            )
        return
    if not is_offered(function.runtime):
        yield Finding(
            f"it has a capacity provider and the runtime {function.runtime or 'unknown'}",
            "Lambda Managed Instances offer python3.13 and newer, and provided.al2023",
            f"{update} --runtime python3.13",
        )
    kind = function.variables.get(CONCURRENCY, KINDS[0])
    if kind not in KINDS:
        yield Finding(
            f"{CONCURRENCY} is {kind!r}",
            "the function fails with Runtime.InvalidConcurrency",
            f"{update} --environment …, with process or async, or without the variable",
        )


def is_offered(runtime: str) -> bool:
    """Return whether Lambda Managed Instances offer a runtime that the layer supports."""
    if runtime.startswith(MANAGED_PYTHON):
        minor = runtime.removeprefix(MANAGED_PYTHON)
        return minor.isdecimal() and int(minor) >= OLDEST_MINOR_VERSION
    return runtime == "provided.al2023"
