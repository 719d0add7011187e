"""The target of a roll-out: the version that each layer of this project will have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from tools.common.errors import ToolError, UsageError
from tools.fleet.aws.arns import Layer, LayerVersion, Place, layer_of, target_layer_version
from tools.fleet.aws.layers import Layers
from tools.fleet.aws.models import Function, LayerInfo
from tools.packaging.manifest import Manifest, Published, Variant


class LayerMissing(ToolError):
    """The layer, or the version that is wanted, does not exist in a region."""


class VersionMissing(LayerMissing, UsageError):
    """`--to` or `--from` names a version that does not exist in a region."""


def project_layers(variants: tuple[Variant, ...], place: Place, account: str | None = None) -> dict[str, Layer]:
    """Return the layers of `variants` by name, in `place`, or in the `account` that shares them."""
    owner = Place(place.partition, place.region, account or place.account)
    return {variant.layer_name: owner.layer(variant.layer_name) for variant in variants}


def published(manifest: Manifest, layer: Layer) -> Published | None:
    """Return the manifest's entry for a layer, if any."""
    entries = (entry for entry in manifest.published if entry.arn.startswith(f"{layer}:"))
    return next(entries, None)


def is_number(to: str) -> bool:
    """Return whether `--to` is the number of a layer version."""
    return re.fullmatch(r"[1-9][0-9]*", to) is not None


def targets(
    to: str | None, manifest: Manifest, layers: Mapping[str, Layer], main: Layer, place: Place, api: Layers
) -> dict[Layer, LayerVersion]:
    """Return the target version of each layer.

    Args:
        to: a version number, an ARN, a version of the project such as 1.2.3, or None for the manifest's.
        layers: of this project, by name.
        main: the layer to which a number or a version belongs.

    Raises:
        UsageError: `to` is not a version, or does not name exactly one.
        LayerMissing: the version does not exist in this region, or the manifest has no entry for it.
    """
    if to is None:
        entries = {layer: entry for layer in layers.values() if (entry := published(manifest, layer))}
        if not entries:
            raise LayerMissing(
                f"the manifest has no version of {manifest.name} in {place.region}, account {main.account}: "
                "run ./build.sh publish, or use --to"
            )
        return {layer: LayerVersion.parse(entry.arn) for layer, entry in entries.items()}
    if is_number(to):
        return {main: main.version(int(to))}
    if to.startswith("arn:"):
        version = target_layer_version(to, dict(layers), place)
        return {version.layer: version}
    return {main: _of_project_version(to, manifest, main, api)}


def refuse_downgrade(
    targets: Mapping[Layer, LayerVersion], functions: Sequence[Function], place: Place, api: Layers
) -> None:
    """Refuse targets of the manifest that are older than what is in use or published.

    The manifest belongs to a checkout, which can be old; a roll-out of its version would undo that of somebody else.

    Args:
        functions: that will be changed.

    Raises:
        ToolError: a function has a newer version, or the account has one.
    """
    for layer, target in targets.items():
        owners = {version.number: each.name for each in functions for version in _versions_of(layer, each)}
        newest = max(owners, default=0)
        if not owners and len(targets) > 1:  # another variant, which none of them has
            continue
        if newest > target.number:
            _refuse(target, newest, f"{owners[newest]} has version {newest}")
        if layer.place == place and (numbers := api.numbers(layer)) and numbers[0][0] > target.number:
            _refuse(target, numbers[0][0], f"version {numbers[0][0]} is published")


def refuse_different_versions(to: str | None, found: Mapping[Place, Sequence[LayerInfo]]) -> None:
    """Refuse a number that belongs to different versions of the layer in two regions or accounts.

    Lambda numbers the versions of a layer in each region of each account.

    Signed zips differ in each region, so their descriptions are compared, which contain the version of the project.

    Args:
        to: the option; anything but a number names the same version everywhere.
        found: the target versions in each region and account with changes.

    Raises:
        ToolError: two of them have other bytes or another description.
    """
    if to is None or not is_number(to):
        return
    versions = [(place, info) for place, infos in found.items() for info in infos]
    first = next(iter(versions), None)  # None: nothing will be changed
    different = [each for each in versions if first and _release(each[1]) != _release(first[1])]
    if first is None or not different:
        return
    more = f", and {len(different) - 1} more" if len(different) > 1 else ""
    raise ToolError(
        f"--to {to} is not the same version everywhere, so nothing was changed: it is {_described(*first)}, but "
        f"{_described(*different[0])}{more}; use a version of the layer, such as --to 1.2.3, or roll out each region "
        "by itself"
    )


def _release(info: LayerInfo) -> tuple[str, str]:
    return info.description, "" if info.signing_profile and info.description else info.sha256


def _described(place: Place, info: LayerInfo) -> str:
    return f"{info.description or 'a version without a description'} (CodeSha256 {info.sha256[:12]}) in {place}"


def _versions_of(layer: Layer, function: Function) -> Iterator[LayerVersion]:
    return (LayerVersion.parse(arn) for arn in function.layers if layer_of(arn) == layer)


def _refuse(target: LayerVersion, newest: int, fact: str) -> NoReturn:
    raise ToolError(
        f"the manifest has version {target.number} of {target.layer.name} in {target.layer.region}, but {fact}: use a "
        f"newer manifest, --to {newest}, or --to {target.number} for the older version"
    )


def _of_project_version(text: str, manifest: Manifest, layer: Layer, api: Layers) -> LayerVersion:
    """Return the layer version of a version of the project: from the manifest, or by its description."""
    entry = published(manifest, layer)
    if entry and entry.version == text:
        return LayerVersion.parse(entry.arn)
    expected = description(manifest.name, text)
    numbers = [number for number, each in api.numbers(layer) if each.partition(" (")[0] == expected]
    if not numbers:
        raise VersionMissing(f"{layer.name} has no version {text!r} in {layer.region}: use a version number or an ARN")
    if len(numbers) > 1:
        listed = ", ".join(map(str, numbers))
        raise UsageError(f"{layer.name} {text} was published as {listed}: use one of these numbers")
    return layer.version(numbers[0])


def description(name: str, version: str, bundle: str = "") -> str:
    """Return the description of a layer version: the version of the project, and what a self-contained layer bundles.

    Args:
        bundle: such as `CPython 3.13.5 of 20261021`.
    """
    return f"{name} {version}" + (f" ({bundle})" if bundle else "")


def bundle(text: str) -> str:
    """Return what the description `text` states about the bundle; empty if it states nothing."""
    return text.partition(" (")[2].removesuffix(")")
