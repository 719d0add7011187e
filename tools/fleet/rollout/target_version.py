"""Which versions of our layers a roll-out leads to."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tools.fleet import FleetError, UsageError
from tools.fleet.aws.arns import Layer, LayerVersion, Place, own_layer_version
from tools.fleet.aws.layers import Layers
from tools.packaging.manifest import Manifest, Published, Variant


def own_layers(variants: tuple[Variant, ...], place: Place, account: str | None = None) -> dict[str, Layer]:
    """The layers of ours, by their names, in ``place``, or where another ``account`` shares them."""
    there = Place(place.partition, place.region, account or place.account)
    return {variant.layer_name: there.layer(variant.layer_name) for variant in variants}


def published(manifest: Manifest, layer: Layer) -> Published | None:
    """What the manifest says of a layer."""
    held = (entry for entry in manifest.published if entry.arn.startswith(f"{layer}:"))
    return next(held, None)


def targets(
    to: str | None, manifest: Manifest, layers: Mapping[str, Layer], main: Layer, place: Place, api: Layers
) -> dict[Layer, LayerVersion]:
    """The version that each layer is to have.

    Args:
        to: a number, an ARN, a version of the runtime as in 1.2.3; ``None`` for what the manifest says is published.
        layers: ours, by name.
        main: the layer that a number or version is of.

    Raises:
        FleetError: that is no version, or none that can be known without guessing.
    """
    if to is None:
        found = {layer: entry for layer in layers.values() if (entry := published(manifest, layer))}
        if not found:
            raise FleetError(
                f"{manifest.name} is not published in {place.region} by the account {main.account}: "
                "run ./build.sh publish, or give --to"
            )
        return {layer: LayerVersion.parse(entry.arn) for layer, entry in found.items()}
    if re.fullmatch(r"[1-9][0-9]*", to):
        return {main: main.version(int(to))}
    if to.startswith("arn:"):
        version = own_layer_version(to, dict(layers), place)
        return {version.layer: version}
    return {main: _of_release(to, manifest, main, api)}


def _of_release(release: str, manifest: Manifest, layer: Layer, api: Layers) -> LayerVersion:
    """The layer version that holds the ``release`` of the runtime: by the manifest, or by its description."""
    entry = published(manifest, layer)
    if entry and entry.version == release:
        return LayerVersion.parse(entry.arn)
    described = description(manifest.name, release)
    numbers = [number for number, text in api.numbers(layer) if text == described]
    if not numbers:
        raise UsageError(f"there is no version {release!r} of {layer.name} in {layer.region}: give a number or an ARN")
    if len(numbers) > 1:
        raise UsageError(
            f"{layer.name} {release} was published as {', '.join(map(str, numbers))}: give one of the numbers"
        )
    return layer.version(numbers[0])


def description(name: str, release: str) -> str:
    """How a layer version describes itself."""
    return f"{name} {release}"
