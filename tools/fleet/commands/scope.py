"""The variants that a command works on, and the regions and accounts of a journal."""

from __future__ import annotations

from collections.abc import Sequence

from tools.common.errors import UsageError
from tools.fleet.aws.account import Account, find_planned_accesses
from tools.fleet.aws.arns import LayerVersion, Place
from tools.fleet.commands.interface import Context
from tools.fleet.rollout.history import History
from tools.fleet.rollout.plan import Targets
from tools.packaging.manifest import Manifest, Variant


def variants(manifest: Manifest, names: Sequence[str], default: Sequence[Variant]) -> list[Variant]:
    """Return the variants with these names, in the order of the manifest; raises `UsageError` if one is unknown."""
    known = {variant.name: variant for variant in manifest.variants}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no variant {name!r}; the variants are {', '.join(known)}")
    return [variant for variant in manifest.variants if variant.name in names] or list(default)


def open_planned(context: Context, history: History, regions: Sequence[str]) -> list[Account]:
    """Open the regions and accounts of a journal, with the roles that it names.

    Args:
        regions: of the command line, if any; raises `UsageError` if they are others.
    """
    planned = [(each.place, each.role) for each in history.places]
    return [Account.open(access) for access in find_planned_accesses(context.aws, planned, regions)]


def planned_targets(history: History) -> dict[Place, Targets]:
    """Return the target versions in each region and account of a journal."""
    return {
        each.place: {version.layer: version for version in map(LayerVersion.parse, each.targets.values())}
        for each in history.places
    }
