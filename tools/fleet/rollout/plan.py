"""What a roll-out will do to each function. Nothing here calls AWS.

The rules: our layer is replaced at its position; other layers and their order stay; only `attach` adds a layer, as the
last one, and only `detach` removes it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from tools.common.lambda_facts import MANAGED_PYTHON, MAX_LAYERS, MAX_UNPACKED_BYTES, OS_ONLY
from tools.fleet.aws.arns import Layer, LayerVersion, Place, layer_of
from tools.fleet.aws.models import Function, LayerInfo, Unavailable, Wrappers
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.wrappers import BOOTSTRAP, attached, detached
from tools.fleet.rollout.wrappers import hints as wrapper_hints
from tools.fleet.rollout.wrappers import problem as wrapper_problem

Targets = Mapping[Layer, LayerVersion]
Versions = Mapping[str, LayerInfo | Unavailable]  # by ARN


class Verdict(Enum):
    """What will happen to a function."""

    CHANGE = "change"
    UP_TO_DATE = "up-to-date"
    SKIPPED = "skipped"  # deliberately not changed
    BLOCKED = "blocked"  # AWS Lambda would reject the change: a failure that is known before it starts


@dataclass(frozen=True)
class AliasPlan:
    """An alias that will be moved to a new version, as it was when the plan was made.

    Args:
        version, revision, weights: of the alias. It is moved only if they are still the same.
        differences: the names of the settings in which `$LATEST` differs from that version; they would be released.
    """

    name: str
    version: str
    revision: str
    weights: Mapping[str, float]
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """The plan for one function.

    Args:
        new: the complete list of layers after the change.
        reason: why the function is not changed, or is changed although its layers are up to date.
        hints: what the user should know before the confirmation.
        alias: None if no alias is moved.
        wrappers: the two variables after the change; None if they stay.
    """

    function: Function
    verdict: Verdict
    new: tuple[str, ...]
    reason: str = ""
    hints: tuple[str, ...] = ()
    alias: AliasPlan | None = None
    wrappers: Wrappers | None = None

    @property
    def old(self) -> tuple[str, ...]:
        """The present list of layers."""
        return self.function.layers


@dataclass(frozen=True)
class PlacePlan:
    """The plan for the functions of one region of one account.

    Args:
        role: the ARN of the role that is assumed; empty for the caller's own credentials.
        targets: the version that each layer of this project will have there.
    """

    place: Place
    role: str
    targets: Targets
    steps: Sequence[Step]

    @property
    def changes(self) -> list[Step]:
        """The steps that change something."""
        return [step for step in self.steps if step.verdict is Verdict.CHANGE]


def plan(functions: Iterable[Function], targets: Targets, options: Options) -> list[Step]:
    """Return the step of each function, sorted by name."""
    return [plan_step(each, targets, options) for each in sorted(functions, key=lambda each: (each.name, each.arn))]


def plan_step(function: Function, targets: Targets, options: Options) -> Step:
    """Decide from a function's own configuration.

    Args:
        targets: the version that each layer of this project will have.
    """
    new, problem = _new_layers(function.layers, targets, options)
    wrappers = _new_wrappers(function, options)

    def unchanged(verdict: Verdict, reason: str = "") -> Step:
        return Step(function, verdict, function.layers, reason)

    if function.is_image:
        return unchanged(Verdict.SKIPPED, "it runs a container image, which cannot have layers")
    if problem:
        return unchanged(Verdict.BLOCKED, problem)
    if new is None:
        return unchanged(Verdict.SKIPPED, "it does not have the layer: ./build.sh attach adds it")
    if new == function.layers and wrappers in (None, function.wrappers):
        return unchanged(Verdict.UP_TO_DATE)
    if options.is_attach and new != function.layers and len(new) == len(function.layers):
        return unchanged(Verdict.SKIPPED, "it has the layer already: ./build.sh rollout changes the version")
    if wrappers and (problem := wrapper_problem(function, wrappers)):
        return unchanged(Verdict.BLOCKED, problem)
    reason = "its layers are up to date, its variables are not" if new == function.layers else ""
    change = Step(function, Verdict.CHANGE, new, reason, wrappers=None if wrappers == function.wrappers else wrappers)
    if options.include_cloudformation:
        return change
    if not function.tags_are_known:
        return unchanged(
            Verdict.BLOCKED,
            "its tags, which contain the name of its stack, cannot be read: "
            "allow lambda:ListTags, or use --include-cloudformation",
        )
    if function.stack:
        reason = f"CloudFormation owns it (stack {function.stack}): change the stack, or use --include-cloudformation"
        return unchanged(Verdict.SKIPPED, reason)
    return change


def _new_wrappers(function: Function, options: Options) -> Wrappers | None:
    """Return the two variables after the change; None for `rollout`, which keeps them."""
    if options.is_attach:
        return attached(function)
    return detached(function) if options.is_detach else None


def _new_layers(old: tuple[str, ...], targets: Targets, options: Options) -> tuple[tuple[str, ...] | None, str]:
    """Return the new list and an empty string, or why there cannot be one; None if the function lacks the layer."""
    if options.is_detach:
        return tuple(arn for arn in old if layer_of(arn) not in targets), ""
    ours = [layer for layer in map(layer_of, old) if layer and layer in targets]
    if len(set(ours)) < len(ours):
        return None, f"it has two versions of {max(ours, key=ours.count).name}: remove one of them"
    if ours:
        return tuple(_replaced(arn, targets) for arn in old), ""
    if not options.is_attach:
        return None, ""
    if len(old) >= MAX_LAYERS:
        return None, f"it has {len(old)} layers, and {MAX_LAYERS} are allowed: remove one"
    return (*old, *map(str, targets.values())), ""


def _replaced(arn: str, targets: Targets) -> str:
    layer = layer_of(arn)
    return str(targets[layer]) if layer and layer in targets else arn


# --- Checks against the layer versions --------------------------------------------------------------------------------


def needed_versions(steps: Iterable[Step]) -> list[str]:
    """Return the layer versions that `check` needs; old ones too, because a rollback would need them."""
    changes = (each for each in steps if each.verdict is Verdict.CHANGE)
    return sorted({arn for each in changes for arn in (*each.old, *each.new)})


def check(step: Step, versions: Versions, must_be_signed: Collection[str] = ()) -> Step:
    """Skip a function that is not fit for the change, block a step that AWS Lambda would reject; otherwise add hints.

    One unusual function among hundreds is no reason to change none of them, so it is skipped. What somebody must decide
    or repair first, such as a deleted layer of another project, is blocked.

    Args:
        must_be_signed: the names of functions whose layers must be signed.
    """
    if step.verdict is not Verdict.CHANGE:
        return step
    step = replace(step, hints=wrapper_hints(step.function, step.wrappers) if step.wrappers else ())
    if unfit := _unfit(step, versions, must_be_signed):
        return replace(step, verdict=Verdict.SKIPPED, new=step.old, reason=unfit)
    if problem := _unavailable(step, versions) or _too_large(step, versions):
        return replace(step, verdict=Verdict.BLOCKED, new=step.old, reason=problem)
    return replace(step, hints=(*step.hints, *_hints(step, versions)))


_STATES = {
    "Inactive": "it is inactive, because it was not invoked for weeks: invoke it once, and try again",
    "Pending": "it is being created: wait until it is active, and try again",
}


def _unfit(step: Step, versions: Versions, must_be_signed: Collection[str]) -> str:
    """Return why a function cannot have the change now, or at all; an empty string if it can."""
    function = step.function
    if function.state in _STATES:
        return _STATES[function.state]
    if function.state == "Failed":
        return f"{function.failure}: repair or delete it"
    if len(step.new) < len(step.old):  # nothing is added
        return ""
    if not function.runtime.startswith((MANAGED_PYTHON, OS_ONLY)):
        return f"its runtime is {function.runtime or 'unknown'}, which runs no Python"
    if function.name in must_be_signed:
        return "its code signing configuration accepts signed layers alone, and the layer is not signed"
    return _incompatible(step, versions)


def _unavailable(step: Step, versions: Versions) -> str:
    for arn in step.new:
        version = versions.get(arn)
        if not isinstance(version, Unavailable):
            continue
        if not version.is_deleted:
            return f"{arn} is not shared with this account: ask its owner, or remove it from the function"
        # For a layer of another account, "not found" proves nothing: AWS Lambda hides what is not shared.
        if arn.split(":")[4:5] == step.function.arn.split(":")[4:5]:
            return f"{arn} was deleted, so AWS Lambda rejects updates that contain it: use another version of it"
    return ""


def _incompatible(step: Step, versions: Versions) -> str:
    function = step.function
    for arn in _added(step):
        version = versions.get(arn)
        if not isinstance(version, LayerInfo):
            continue
        if version.architectures and not set(function.architectures) <= set(version.architectures):
            return f"it runs on {_listed(function.architectures)}, the layer on {_listed(version.architectures)}"
        if not _is_compatible(version, function) and any(
            _is_compatible(each, function) for each in _removed(step, versions)
        ):
            return f"{function.runtime} is not a runtime of the new version, {_listed(version.runtimes)}"
        if not _is_compatible(version, function) and len(step.new) > len(step.old):
            return f"{function.runtime} is not a runtime of the layer, {_listed(version.runtimes)}"
    return ""


def _too_large(step: Step, versions: Versions) -> str:
    """AWS Lambda reports the sizes of zips, not of their content: the sum is a lower bound of the unpacked size."""
    layers = [versions.get(arn) for arn in step.new]
    size = step.function.code_size + sum(version.size for version in layers if isinstance(version, LayerInfo))
    if size > MAX_UNPACKED_BYTES:
        return f"it would have more than {size:,} bytes unpacked with its layers; {MAX_UNPACKED_BYTES:,} are allowed"
    return ""


def _hints(step: Step, versions: Versions) -> Iterable[str]:
    for arn in step.old:
        if isinstance(versions.get(arn), Unavailable):
            yield f"{arn} is deleted or no longer shared: the change cannot be rolled back"
    for arn in _added(step):
        version = versions.get(arn)
        if isinstance(version, LayerInfo) and not _is_compatible(version, step.function):
            yield f"{step.function.runtime} is not a runtime of the layer"
    first, _ = step.wrappers or step.function.wrappers
    if step.function.runtime.startswith(MANAGED_PYTHON) and first != BOOTSTRAP and len(step.new) >= len(step.old):
        yield "AWS_LAMBDA_EXEC_WRAPPER is not /opt/bootstrap, so the layer is not used"


def _added(step: Step) -> list[str]:
    return [arn for arn in step.new if arn not in step.old]


def _removed(step: Step, versions: Versions) -> list[LayerInfo]:
    removed = (versions.get(arn) for arn in step.old if arn not in step.new)
    return [version for version in removed if isinstance(version, LayerInfo)]


def _is_compatible(version: LayerInfo, function: Function) -> bool:
    return not version.runtimes or function.runtime in version.runtimes


def _listed(names: Iterable[str]) -> str:
    return " and ".join(names)
