"""The regions and variants that a command works on."""

from __future__ import annotations

from collections.abc import Sequence

from tools.common.errors import UsageError
from tools.fleet.aws.arns import Place
from tools.fleet.aws.session import Aws, Identity
from tools.packaging.manifest import Manifest, Variant


def identities(aws: Aws, regions: Sequence[str], all_regions: bool) -> list[Identity]:
    """Return the caller in each region, sorted by region, each once; without `regions`, in the region of boto3.

    Raises:
        UsageError: no region is set, or they are in several partitions.
    """
    first = aws.region(regions[0] if regions else None)
    caller = aws.identity(first)
    place = caller.place
    for region in regions:
        if aws.region(region) and aws.partition(region) != place.partition:
            raise UsageError(
                f"{region} is in the partition {aws.partition(region)}, the credentials are for {place.partition}"
            )
    names = aws.all_regions(first) if all_regions else regions or [first]
    return [Identity(Place(place.partition, name, place.account), caller.caller) for name in sorted(set(names))]


def variants(manifest: Manifest, names: Sequence[str], default: Sequence[Variant]) -> list[Variant]:
    """Return the variants with these names, in the order of the manifest; raises `UsageError` if one is unknown."""
    known = {variant.name: variant for variant in manifest.variants}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no variant {name!r}; the variants are {', '.join(known)}")
    return [variant for variant in manifest.variants if variant.name in names] or list(default)
