"""Names and ARNs of layers and functions, parsed. No list of partitions: each comes with the responses of AWS."""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass

from tools.common.errors import UsageError
from tools.common.lambda_facts import LAYER_VERSION_ARN

_LAYER_VERSION = re.compile(LAYER_VERSION_ARN)
# AWS Lambda API Reference, API_GetFunction, FunctionName. Groups: partition, region, account, name, qualifier.
_FUNCTION = re.compile(
    r"(?:(?:arn:([a-z-]+):lambda:([a-z0-9-]+):)?([0-9]{12}):function:)?([a-zA-Z0-9-_]{1,64})(?::([a-zA-Z0-9-_$]+))?"
)
_ACCOUNT = re.compile(r"[0-9]{12}")
# AWS Identity and Access Management API Reference, API_AssumeRole. Groups: partition, account.
_ROLE = re.compile(r"arn:([a-z-]+):iam::([0-9]{12}):role/[!-~]+")

_NEXT_STEPS = {
    "partition": "use credentials for that partition",
    "region": "use --region",
    "account": "use credentials for that account",
}


@dataclass(frozen=True, order=True)
class Place:
    """A region of an account in a partition."""

    partition: str
    region: str
    account: str

    @classmethod
    def of_function(cls, arn: str) -> Place:
        """Return where the function with this ARN is."""
        _, partition, _, region, account, _ = arn.split(":", 5)
        return cls(partition, region, account)

    def __str__(self) -> str:
        return f"{self.region}, account {self.account}"

    def layer(self, name: str) -> Layer:
        """Return the layer with that name here."""
        return Layer(self.partition, self.region, self.account, name)


@dataclass(frozen=True, order=True)
class Layer:
    """A layer, with all its versions."""

    partition: str
    region: str
    account: str
    name: str

    def __str__(self) -> str:
        return f"arn:{self.partition}:lambda:{self.region}:{self.account}:layer:{self.name}"

    @property
    def place(self) -> Place:
        return Place(self.partition, self.region, self.account)

    def version(self, number: int) -> LayerVersion:
        return LayerVersion(self, number)


@dataclass(frozen=True, order=True)
class LayerVersion:
    """A version of a layer."""

    layer: Layer
    number: int

    def __str__(self) -> str:
        return f"{self.layer}:{self.number}"

    @classmethod
    def parse(cls, arn: str) -> LayerVersion:
        """Parse the ARN of a layer version; raises `UsageError` if it is not one."""
        match = _LAYER_VERSION.fullmatch(arn)
        if not match:
            raise UsageError(f"{arn!r} is not the ARN of a layer version, which ends in :layer:NAME:NUMBER")
        return cls(Layer(*match.group(1, 2, 3, 4)), int(match[5]))


def layer_of(arn: str) -> Layer | None:
    """Return the layer of a version's ARN, or None if AWS returned something else, which cannot be our layer."""
    try:
        return LayerVersion.parse(arn).layer
    except UsageError:
        return None


def short(arn: str, place: Place) -> str:
    """Return `NAME:NUMBER` for a layer version in `place`, with the account in front if it is another one."""
    try:
        version = LayerVersion.parse(arn)
    except UsageError:
        return arn
    name = f"{version.layer.name}:{version.number}"
    return name if version.layer.place == place else f"{version.layer.account}:{name}"


def is_account(text: str) -> bool:
    """Whether `text` is an account ID: 12 digits."""
    return _ACCOUNT.fullmatch(text) is not None


@dataclass(frozen=True)
class Role:
    """A role that is assumed, in one account."""

    arn: str
    partition: str
    account: str

    @classmethod
    def parse(cls, arn: str) -> Role:
        """Parse the ARN of a role; raises `UsageError` if it is not one."""
        match = _ROLE.fullmatch(arn)
        if not match:
            raise UsageError(f"{arn!r} is not the ARN of a role, such as arn:aws:iam::123456789012:role/NAME")
        return cls(arn, match[1], match[2])


def function_name(text: str, place: Place) -> str:
    """Return the name of the function that a user gave as a name or an ARN.

    Raises:
        UsageError: it is neither, contains a version or alias, or is not in `place`.
    """
    match = _FUNCTION.fullmatch(text)
    if not match:
        raise UsageError(f"{text!r} is neither the name nor the ARN of a function")
    partition, region, account, name, qualifier = match.groups()
    for what, given, here in (
        ("partition", partition, place.partition),
        ("region", region, place.region),
        ("account", account, place.account),
    ):
        if given not in (None, here):
            raise UsageError(f"{text} is in the {what} {given}, not in {here}: {_NEXT_STEPS[what]}")
    if qualifier:
        raise UsageError(f"{text} contains the qualifier {qualifier}: omit it, because only $LATEST can be changed")
    return name


def is_elsewhere(text: str, place: Place) -> bool:
    """Whether `text` is the ARN of a function in another region or account than `place`."""
    match = _FUNCTION.fullmatch(text)
    if not match:
        return False
    partition, region, account, *_ = match.groups()
    return (partition or place.partition, region or place.region, account or place.account) != astuple(place)


def target_layer_version(arn: str, layers: dict[str, Layer], place: Place) -> LayerVersion:
    """Parse the ARN of the target of a roll-out.

    Args:
        layers: the layers of this project, by name; the version must belong to one of them.

    Raises:
        UsageError: it does not, or is in another partition or region than the functions.
    """
    version = LayerVersion.parse(arn)
    layer = version.layer
    for what, given, here in (
        ("partition", layer.partition, place.partition),
        ("region", layer.region, place.region),
    ):
        if given != here:
            raise UsageError(
                f"{arn} is in the {what} {given}, so functions in {here} cannot use it: {_NEXT_STEPS[what]}"
            )
    if layer.name not in layers:
        raise UsageError(f"{layer.name} is not one of this project's layers: {', '.join(sorted(layers))}")
    if layer.account != layers[layer.name].account:
        raise UsageError(
            f"{arn} is in the account {layer.account}: if that account shares the layer with this one, "
            f"use --layer-account {layer.account}"
        )
    return version
