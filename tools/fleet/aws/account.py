"""One command at work in one region of one account."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tools.fleet import FleetError, UsageError
from tools.fleet.aws.arns import LayerVersion, Place, layer_of
from tools.fleet.aws.functions import Functions
from tools.fleet.aws.layers import Layers
from tools.fleet.aws.models import LayerInfo, NotUsable
from tools.fleet.aws.session import WORKERS, Aws, Identity


@dataclass(frozen=True)
class Session:
    """Who calls, where, and what can be called there."""

    identity: Identity
    functions: Functions
    layers: Layers

    @classmethod
    def open(cls, aws: Aws, region: str | None) -> Session:
        """Find out who calls, and where."""
        name = aws.region(region)
        identity = aws.identity(name)
        return cls(identity, Functions(aws, name), Layers(aws, name))

    @property
    def place(self) -> Place:
        """Where it works."""
        return self.identity.place

    def lookup(self, arns: Sequence[str]) -> dict[str, LayerInfo | NotUsable]:
        """Read the layer versions; what does not read like one is left out."""
        versions = [LayerVersion.parse(arn) for arn in arns if layer_of(arn)]
        with ThreadPoolExecutor(WORKERS) as pool:
            found = pool.map(lambda version: self.layers.get(version, self.place.account), versions)
            return {str(version): held for version, held in zip(versions, found, strict=True)}

    @classmethod
    def at(cls, aws: Aws, place: Place, region: str | None) -> Session:
        """Open the place that a journal is of.

        Args:
            region: what the command line says of it, if anything.

        Raises:
            FleetError: these credentials, or that region, are of another.
        """
        if region not in (None, place.region):
            raise UsageError(f"the journal is of {place.region}: leave --region out")
        session = cls.open(aws, place.region)
        if session.place != place:
            raise FleetError(
                f"the journal is of the account {place.account}, these credentials are of {session.place.account}: "
                "use others"
            )
        return session
