"""What `--publish-alias` will do to the alias of a function. Nothing here calls AWS.

An alias carries the traffic, and publishing a version releases everything that is in `$LATEST`. So the plan compares
`$LATEST` with the version that the alias points to. Whatever differs besides this project's layers was not released by
its owners, and must not be released by a change of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tools.common.output import shortened
from tools.fleet.aws.arns import layer_of
from tools.fleet.aws.models import LATEST, SECOND_WRAPPER, WRAPPER, Alias, Function
from tools.fleet.aws.settings import differing_settings
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.plan import AliasPlan, Step, Targets, Verdict

MAX_NAMES = 6  # of settings in a message


def plan_alias(step: Step, alias: Alias | None, released: Function | None, targets: Targets, options: Options) -> Step:
    """Add the alias to a step whose verdict is `CHANGE` or `UP_TO_DATE`.

    Args:
        alias: None if the function does not have it.
        released: the version that the alias points to; None if there is no alias.
    """
    name = options.alias or ""
    if alias is None or released is None:
        return step if options.where_present else _unchanged(step, Verdict.BLOCKED, _missing(name))
    if alias.version == LATEST:  # it has every change of $LATEST at once
        return step
    if _is_released(released.layers, targets, options) and not alias.weights:
        return step
    differences = unreleased(released, step.function, targets, options)
    step = replace(step, alias=AliasPlan(name, alias.version, alias.revision, dict(alias.weights), differences))
    if alias.weights and not options.include_weighted:
        return _unchanged(step, Verdict.SKIPPED, _weighted(alias))
    if differences and not options.include_unreleased:
        return _unchanged(step, Verdict.BLOCKED, unreleased_reason(alias.name, alias.version, differences))
    if options.shift and (reason := _indivisible(differences)):
        return _unchanged(step, Verdict.BLOCKED, reason)
    if step.verdict is Verdict.UP_TO_DATE:
        step = replace(step, verdict=Verdict.CHANGE, reason=f"its alias {name} points to a version with other layers")
    return replace(step, hints=(*step.hints, *_hints(step.alias)))


def unreleased(released: Function, latest: Function, targets: Targets, options: Options) -> tuple[str, ...]:
    """Return the names of the settings in which `latest` differs from the `released` version.

    The variables that `attach` and `detach` set are a part of their change, before and after the update.
    """
    layers = () if _foreign(released.layers, targets) == _foreign(latest.layers, targets) else ("Layers",)
    settings = set(differing_settings(released.settings, latest.settings))
    if options.is_attach or options.is_detach:
        settings -= {f"Environment.Variables.{name}" for name in (WRAPPER, SECOND_WRAPPER)}
    return tuple(sorted((*settings, *layers)))


def unreleased_reason(name: str, version: str, differences: Sequence[str]) -> str:
    """Return why a function with unreleased changes is not changed."""
    return (
        f"$LATEST differs from version {version}, which its alias {name} points to, in "
        f"{shortened(differences, MAX_NAMES)}: release that first, or use --include-unreleased"
    )


def _indivisible(differences: Sequence[str]) -> str:
    """Return why requests cannot be divided between two versions.

    AWS Lambda Developer Guide, configuring-alias-routing.
    """
    names = [name for name in differences if name == "Role" or name.startswith("DeadLetterConfig.")]
    return f"--shift needs two versions with the same {' and '.join(names)}: roll out without --shift" if names else ""


def weights_text(weights: Mapping[str, float]) -> str:
    """Return weights as text, such as `20 % to version 3`."""
    return ", ".join(f"{weight:.3g} % to version {version}" for version, weight in _percentages(weights).items())


def _percentages(weights: Mapping[str, float]) -> dict[str, float]:
    return {version: weight * 100 for version, weight in weights.items()}


def _foreign(layers: Sequence[str], targets: Targets) -> list[str]:
    return [arn for arn in layers if layer_of(arn) not in targets]


def _is_released(layers: Sequence[str], targets: Targets, options: Options) -> bool:
    """Whether a version with these layers needs no other one: it has the target, or after `detach` no layer of ours."""
    if options.is_detach:
        return not any(layer_of(arn) in targets for arn in layers)
    return has_targets(layers, targets)


def has_targets(layers: Sequence[str], targets: Targets) -> bool:
    """Whether the version has this project's layer, and only in the target version."""
    ours = [arn for arn in layers if layer_of(arn) in targets]
    wanted = {str(version) for version in targets.values()}
    return bool(ours) and set(ours) <= wanted


def _missing(name: str) -> str:
    return f"it has no alias {name}: create it, use --where-present, or roll out without --publish-alias"


def _weighted(alias: Alias) -> str:
    return (
        f"its alias {alias.name} sends {weights_text(alias.weights)}: wait until that deployment is complete, or use "
        "--include-weighted"
    )


def _unchanged(step: Step, verdict: Verdict, reason: str) -> Step:
    return replace(step, verdict=verdict, new=step.old, reason=reason)


def _hints(alias: AliasPlan | None) -> tuple[str, ...]:
    if alias is None:
        return ()
    hints = []
    if alias.differences:
        names = shortened(alias.differences, MAX_NAMES)
        hints.append(f"unreleased changes in $LATEST go to the alias {alias.name}: {names}")
    if alias.weights:
        hints.append(f"the weights of the alias {alias.name} are removed: {weights_text(alias.weights)}")
    return tuple(hints)
