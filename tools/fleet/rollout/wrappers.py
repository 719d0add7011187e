"""The environment variables that `attach` sets and `detach` removes. Nothing here calls AWS.

A managed runtime uses the layer only if `AWS_LAMBDA_EXEC_WRAPPER` is `/opt/bootstrap`. A tracing agent has its own
program there; the layer runs it if `STREAMING_RUNTIME_EXEC_WRAPPER` names it. So `attach` moves the agent's program to
the second variable, and `detach` moves it to the first one again. An update replaces all variables at once, with the
lock that also covers the layers. Journals contain these two variables alone, because others can be secret.
"""

from __future__ import annotations

from tools.common.lambda_facts import MANAGED_PYTHON
from tools.fleet.aws.models import SECOND_WRAPPER, WRAPPER, Function, Wrappers
from tools.fleet.aws.settings import UNREADABLE

BOOTSTRAP = "/opt/bootstrap"


def attached(function: Function) -> Wrappers:
    """Return the variables with which the function uses the layer."""
    first, second = function.wrappers
    if not function.runtime.startswith(MANAGED_PYTHON) or first == BOOTSTRAP:
        return first, second
    return BOOTSTRAP, first or second


def detached(function: Function) -> Wrappers:
    """Return the variables without the layer."""
    first, second = function.wrappers
    return (second, None) if first == BOOTSTRAP else (first, second)


def problem(function: Function, wanted: Wrappers) -> str:
    """Return why the variables cannot be changed; an empty string if they can, or need no change."""
    first, second = function.wrappers
    if wanted == (first, second):
        return ""
    if UNREADABLE in function.settings:
        return f"its variables cannot be read, so {WRAPPER} cannot be changed: allow kms:Decrypt for its key"
    if wanted[0] == BOOTSTRAP and first and second and first != second:
        return f"{WRAPPER} and {SECOND_WRAPPER} name two programs, {first} and {second}: remove one of them"
    return ""


def hints(function: Function, wanted: Wrappers) -> tuple[str, ...]:
    """Return one line for each variable that changes."""
    pairs = zip((WRAPPER, SECOND_WRAPPER), function.wrappers, wanted, strict=True)
    return tuple(f"{name} {f'becomes {new}' if new else 'is removed'}" for name, old, new in pairs if old != new)


def with_wrappers(function: Function, wanted: Wrappers) -> dict[str, str]:
    """Return all variables of the function, with `wanted` among them."""
    values = dict(zip((WRAPPER, SECOND_WRAPPER), wanted, strict=True))
    others = {name: value for name, value in function.variables.items() if name not in values}
    return others | {name: value for name, value in values.items() if value is not None}
