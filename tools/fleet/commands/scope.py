"""The regions that a command works in."""

from __future__ import annotations

from collections.abc import Sequence

from tools.fleet import UsageError
from tools.fleet.aws.arns import Place
from tools.fleet.aws.session import Aws, Identity
from tools.packaging.manifest import Manifest, Variant


def identities(aws: Aws, regions: Sequence[str], all_regions: bool) -> list[Identity]:
    """Who calls, in each region that was asked for, or in boto3's; sorted, each once.

    Raises:
        UsageError: there is none, or they are of several partitions.
    """
    first = aws.region(regions[0] if regions else None)
    caller = aws.identity(first)
    for region in regions:
        if aws.region(region) and aws.partition(region) != caller.place.partition:
            raise UsageError(f"{region} is of the partition {aws.partition(region)}, the credentials are of another")
    names = aws.all_regions(first) if all_regions else regions or [first]
    place = caller.place
    return [Identity(Place(place.partition, name, place.account), caller.caller) for name in sorted(set(names))]


def variants(manifest: Manifest, names: Sequence[str], default: Sequence[Variant]) -> list[Variant]:
    """The variants called ``names``, in the order of the manifest; raises ``UsageError`` where one is unknown."""
    known = {variant.name: variant for variant in manifest.variants}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no variant {name!r}, there are {', '.join(known)}")
    return [variant for variant in manifest.variants if variant.name in names] or list(default)
