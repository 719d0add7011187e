"""The names of layers and functions, taken apart. No partition is known here: each comes with what AWS answers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tools.fleet import FleetError, UsageError

# AWS Lambda API Reference: LayerVersionArn of API_GetLayerVersionByArn, FunctionName of API_GetFunction.
_LAYER_VERSION = re.compile(r"arn:([a-z-]+):lambda:([a-z0-9-]+):([0-9]{12}):layer:([a-zA-Z0-9-_]{1,140}):([1-9][0-9]*)")
_FUNCTION = re.compile(
    r"(?:(?:arn:([a-z-]+):lambda:([a-z0-9-]+):)?([0-9]{12}):function:)?([a-zA-Z0-9-_]{1,64})(?::([a-zA-Z0-9-_$]+))?"
)


@dataclass(frozen=True, order=True)
class Place:
    """Where things of one account are."""

    partition: str
    region: str
    account: str

    def layer(self, name: str) -> Layer:
        """The layer called ``name``."""
        return Layer(self.partition, self.region, self.account, name)


@dataclass(frozen=True, order=True)
class Layer:
    """A layer, all versions of it."""

    partition: str
    region: str
    account: str
    name: str

    def __str__(self) -> str:
        return f"arn:{self.partition}:lambda:{self.region}:{self.account}:layer:{self.name}"

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(self.partition, self.region, self.account)

    def version(self, number: int) -> LayerVersion:
        """The version that AWS Lambda counts as ``number``."""
        return LayerVersion(self, number)


@dataclass(frozen=True, order=True)
class LayerVersion:
    """One version of a layer, as functions name it."""

    layer: Layer
    number: int

    def __str__(self) -> str:
        return f"{self.layer}:{self.number}"

    @classmethod
    def parse(cls, arn: str) -> LayerVersion:
        """Take ``arn`` apart; raises ``UsageError`` where it is no layer version's."""
        match = _LAYER_VERSION.fullmatch(arn)
        if not match:
            raise UsageError(f"{arn!r} is not the ARN of a layer version, which ends in :layer:NAME:NUMBER")
        return cls(Layer(*match.group(1, 2, 3, 4)), int(match[5]))


def layer_of(arn: str) -> Layer | None:
    """The layer that the version ``arn`` is of; ``None`` where it reads like none, and so is not ours."""
    try:
        return LayerVersion.parse(arn).layer
    except UsageError:
        return None


def short(arn: str, place: Place) -> str:
    """Name the layer version ``arn`` as one does in ``place``: name and number, and the account of a foreign one."""
    try:
        version = LayerVersion.parse(arn)
    except UsageError:
        return arn
    name = f"{version.layer.name}:{version.number}"
    return name if version.layer.place == place else f"{version.layer.account}:{name}"


def function_name(text: str, place: Place) -> str:
    """The bare name of the function that a user called ``text``, a name or an ARN.

    Raises:
        UsageError: it is no name, names a version or alias, or something outside ``place``.
    """
    match = _FUNCTION.fullmatch(text)
    if not match:
        raise UsageError(f"{text!r} is neither the name nor the ARN of a function")
    partition, region, account, name, qualifier = match.groups()
    for what, told, held in (
        ("partition", partition, place.partition),
        ("region", region, place.region),
        ("account", account, place.account),
    ):
        if told not in (None, held):
            raise UsageError(f"{text} is of the {what} {told}, and this is {held}: {_TURN_TO[what]}")
    if qualifier:
        raise UsageError(f"{text} names the version or alias {qualifier}: name the function, its $LATEST is changed")
    return name


_TURN_TO = {
    "partition": "use credentials of that partition",
    "region": "give --region",
    "account": "use credentials of that account",
}


def own_layer_version(arn: str, layers: dict[str, Layer], place: Place) -> LayerVersion:
    """Read the ``arn`` a roll-out is to lead to, which must be a version of one of ``layers`` (by name), in ``place``.

    Raises:
        FleetError: it is not.
    """
    version = LayerVersion.parse(arn)
    layer = version.layer
    for what, told, held in (
        ("partition", layer.partition, place.partition),
        ("region", layer.region, place.region),
    ):
        if told != held:
            raise UsageError(f"{arn} is of the {what} {told}, functions of {held} cannot use it: {_TURN_TO[what]}")
    if layer.name not in layers:
        raise UsageError(f"{layer.name} is not a layer of ours, which are {', '.join(sorted(layers))}")
    if layer.account != layers[layer.name].account:
        raise UsageError(
            f"{arn} is of the account {layer.account}: where that account shares its layer with this one, "
            f"say so with --layer-account {layer.account}"
        )
    return version


def check_account(text: str) -> str:
    """Give ``text``, an account's number; raises ``FleetError`` where it is none."""
    if not re.fullmatch(r"[0-9]{12}", text):
        raise FleetError(f"{text!r} is not the number of an account, which has 12 digits")
    return text
