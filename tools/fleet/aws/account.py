"""One region of one account, as a command uses it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tools.common.errors import ToolError, UsageError
from tools.fleet.aws.apis import Apis
from tools.fleet.aws.arns import LayerVersion, Place, layer_of
from tools.fleet.aws.code_signing import CodeSigning
from tools.fleet.aws.functions import Functions
from tools.fleet.aws.layers import Layers
from tools.fleet.aws.models import LayerInfo, Unavailable
from tools.fleet.aws.session import WORKERS, Aws, Identity


@dataclass(frozen=True)
class Account:
    """The caller, and the functions, layers and APIs of one region."""

    identity: Identity
    functions: Functions
    layers: Layers
    apis: Apis
    code_signing: CodeSigning

    @classmethod
    def open(cls, aws: Aws, region: str | None) -> Account:
        """Find the region and the caller; raises as `Aws.region` and `Aws.identity`."""
        name = aws.region(region)
        identity = aws.identity(name)
        return cls(identity, Functions(aws, name), Layers(aws, name), Apis(aws, name), CodeSigning(aws, name))

    @classmethod
    def open_same(cls, aws: Aws, place: Place, region: str | None) -> Account:
        """Open the account and region of a journal.

        Args:
            region: the one of the command line, if any.

        Raises:
            UsageError: `region` is another one.
            ToolError: the credentials are for another account.
        """
        if region not in (None, place.region):
            raise UsageError(f"the journal is for {place.region}: omit --region")
        account = cls.open(aws, place.region)
        if account.place != place:
            raise ToolError(
                f"the journal is for the account {place.account}, these credentials are for {account.place.account}: "
                "use other credentials"
            )
        return account

    @property
    def place(self) -> Place:
        return self.identity.place

    def read_versions(self, arns: Sequence[str]) -> dict[str, LayerInfo | Unavailable]:
        """Read layer versions; ARNs that are not of layer versions are omitted."""
        versions = [LayerVersion.parse(arn) for arn in arns if layer_of(arn)]
        with ThreadPoolExecutor(WORKERS) as pool:
            found = pool.map(lambda version: self.layers.get(version, self.place.account), versions)
            return {str(version): info for version, info in zip(versions, found, strict=True)}
