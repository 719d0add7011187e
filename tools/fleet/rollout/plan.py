"""What a roll-out does to each function, before anything is done. Nothing here calls AWS.

The rules: our layer is replaced where it is, all others stay as and where they are; nothing is added but where told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from tools.common.lambda_facts import MAX_LAYERS, MAX_UNPACKED_BYTES
from tools.fleet.aws.arns import Layer, LayerVersion, layer_of
from tools.fleet.aws.models import Function, LayerInfo, NotUsable


class Verdict(Enum):
    """What is to become of a function."""

    CHANGE = "change"
    RIGHT = "right"  # it is as it should be
    SKIP = "skip"  # it is left alone, as it should be
    BLOCKED = "blocked"  # it should be changed and cannot be: a failure that is known beforehand


@dataclass(frozen=True)
class Goal:
    """Where a roll-out leads to.

    Args:
        targets: the version that each layer of ours is to have.
        attach: a function without the layer gets it; else one is left alone.
        stacks_too: functions that CloudFormation owns are changed too.
    """

    targets: Mapping[Layer, LayerVersion]
    attach: bool = False
    stacks_too: bool = False


@dataclass(frozen=True)
class Step:
    """What is to be done to one function, and why not if not.

    Args:
        new: the list of layers that it is to have, complete and in order.
        hints: what somebody should know who decides.
    """

    function: Function
    verdict: Verdict
    new: tuple[str, ...]
    reason: str = ""
    hints: tuple[str, ...] = ()

    @property
    def old(self) -> tuple[str, ...]:
        """The list of layers that it has."""
        return self.function.layers


def plan(functions: Iterable[Function], goal: Goal) -> list[Step]:
    """Give a step for each function, in the order of their names."""
    return [step(each, goal) for each in sorted(functions, key=lambda each: (each.name, each.arn))]


def step(function: Function, goal: Goal) -> Step:
    """Decide on one function from what it says of itself."""
    new, blocked = _new_list(function.layers, goal)

    def verdict(kind: Verdict, reason: str) -> Step:
        return Step(function, kind, function.layers, reason)

    if function.is_image:
        return verdict(Verdict.BLOCKED, "it runs a container image, which cannot have layers")
    if blocked:
        return verdict(Verdict.BLOCKED, blocked)
    if new is None:
        return verdict(Verdict.SKIP, "it does not have the layer: ./build.sh attach adds it")
    if new == function.layers:
        return verdict(Verdict.RIGHT, "")
    if goal.attach and len(new) == len(function.layers):
        return verdict(Verdict.SKIP, "it has the layer already: ./build.sh rollout changes the version")
    if not function.tags_are_known and not goal.stacks_too:
        return verdict(
            Verdict.BLOCKED,
            "its tags, which name the stack it is of, cannot be read: "
            "allow lambda:ListTags, or give --include-cloudformation",
        )
    if function.stack and not goal.stacks_too:
        reason = f"CloudFormation owns it (stack {function.stack}): change the stack, or give --include-cloudformation"
        return verdict(Verdict.SKIP, reason)
    return Step(function, Verdict.CHANGE, new)


def _new_list(old: tuple[str, ...], goal: Goal) -> tuple[tuple[str, ...] | None, str]:
    """The list that ``old`` becomes, or why it cannot; ``None`` where the goal has nothing to do with it."""
    ours = [layer for layer in map(layer_of, old) if layer and layer in goal.targets]
    if len(set(ours)) < len(ours):
        return None, f"it has two versions of {max(ours, key=ours.count).name}: remove one of them"
    if ours:
        return tuple(_moved(arn, goal) for arn in old), ""
    if not goal.attach:
        return None, ""
    if len(old) >= MAX_LAYERS:
        return None, f"it has {len(old)} layers, and {MAX_LAYERS} are allowed: remove one"
    return (*old, *map(str, goal.targets.values())), ""


def _moved(arn: str, goal: Goal) -> str:
    layer = layer_of(arn)
    return str(goal.targets[layer]) if layer and layer in goal.targets else arn


def needed(steps: Iterable[Step]) -> list[str]:
    """The layer versions whose state decides on ``steps``, old ones too: without them there is no way back."""
    changing = (each for each in steps if each.verdict is Verdict.CHANGE)
    return sorted({arn for each in changing for arn in (*each.old, *each.new)})


def check(step: Step, versions: Mapping[str, LayerInfo | NotUsable]) -> Step:
    """Hold a step against the layer ``versions`` it names: block what AWS Lambda would refuse, or would not run."""
    if step.verdict is not Verdict.CHANGE:
        return step
    problem = _unusable(step, versions) or _misfit(step, versions) or _too_large(step, versions)
    if problem:
        return replace(step, verdict=Verdict.BLOCKED, new=step.old, reason=problem)
    return replace(step, hints=tuple(_hints(step, versions)))


def _unusable(step: Step, versions: Mapping[str, LayerInfo | NotUsable]) -> str:
    for arn in step.new:
        held = versions.get(arn)
        if isinstance(held, NotUsable) and held.deleted and _is_ours_to_know(arn, step.function):
            return (
                f"{arn} was deleted, so that AWS Lambda takes no list with it: give the function another version of it"
            )
        if isinstance(held, NotUsable) and not held.deleted:
            return f"{arn} is not shared with this account: ask its owner, or remove it from the function"
    return ""


def _is_ours_to_know(arn: str, function: Function) -> bool:
    """Of another account's layer, AWS Lambda only says that it may not be used. Not to find it means nothing."""
    return arn.split(":")[4:5] == function.arn.split(":")[4:5]


def _misfit(step: Step, versions: Mapping[str, LayerInfo | NotUsable]) -> str:
    function = step.function
    for arn in _added(step):
        held = versions.get(arn)
        if not isinstance(held, LayerInfo):
            continue
        if held.architectures and not set(function.architectures) <= set(held.architectures):
            return f"it runs on {_listed(function.architectures)}, the layer on {_listed(held.architectures)}"
        if not _fits(held, function) and any(_fits(other, function) for other in _replaced(step, versions)):
            return f"{function.runtime} is not among the runtimes of the new version, {_listed(held.runtimes)}"
        if not _fits(held, function) and len(step.new) > len(step.old):
            return f"{function.runtime} is not among the runtimes of the layer, {_listed(held.runtimes)}"
    return ""


def _too_large(step: Step, versions: Mapping[str, LayerInfo | NotUsable]) -> str:
    """A floor of the unpacked size, for AWS Lambda tells that of zips: what it exceeds is refused for certain."""
    infos = [versions.get(arn) for arn in step.new]
    size = step.function.code_size + sum(info.size for info in infos if isinstance(info, LayerInfo))
    if size > MAX_UNPACKED_BYTES:
        return (
            f"with its layers it would have more than {size:,} bytes unpacked, and {MAX_UNPACKED_BYTES:,} are allowed"
        )
    return ""


def _hints(step: Step, versions: Mapping[str, LayerInfo | NotUsable]) -> Iterable[str]:
    for arn in step.old:
        if isinstance(versions.get(arn), NotUsable):
            yield f"{arn} is deleted or not shared any more: the change cannot be undone"
    for arn in _added(step):
        held = versions.get(arn)
        if isinstance(held, LayerInfo) and not _fits(held, step.function):
            yield f"{step.function.runtime} is not among the layer's runtimes"
    wrapper = step.function.variables.get("AWS_LAMBDA_EXEC_WRAPPER")
    if step.function.runtime.startswith("python") and wrapper != "/opt/bootstrap":
        yield "AWS_LAMBDA_EXEC_WRAPPER is not /opt/bootstrap, without which the layer is not used"


def _added(step: Step) -> list[str]:
    return [arn for arn in step.new if arn not in step.old]


def _replaced(step: Step, versions: Mapping[str, LayerInfo | NotUsable]) -> list[LayerInfo]:
    held = (versions.get(arn) for arn in step.old if arn not in step.new)
    return [info for info in held if isinstance(info, LayerInfo)]


def _fits(info: LayerInfo, function: Function) -> bool:
    return not info.runtimes or function.runtime in info.runtimes


def _listed(names: Iterable[str]) -> str:
    return " and ".join(names)
