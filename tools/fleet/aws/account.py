"""Regions and accounts, as a command uses them: which there are, and what can be called in each.

A region is called with the caller's own credentials, or with those of a role that is assumed in its account.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tools.common.errors import ToolError, UsageError
from tools.fleet.aws.apis import Apis
from tools.fleet.aws.arns import LayerVersion, Place, Role, layer_of
from tools.fleet.aws.code_signing import CodeSigning
from tools.fleet.aws.functions import Functions
from tools.fleet.aws.layers import Layers
from tools.fleet.aws.models import LayerInfo, Unavailable
from tools.fleet.aws.session import WORKERS, Aws, Identity


@dataclass(frozen=True)
class Access:
    """The credentials for one region of one account.

    Args:
        role: the ARN of the role that is assumed; empty for the caller's own credentials.
    """

    aws: Aws
    identity: Identity
    role: str = ""

    @property
    def place(self) -> Place:
        return self.identity.place


def find_accesses(aws: Aws, regions: Sequence[str], all_regions: bool, roles: Sequence[str] = ()) -> list[Access]:
    """Return the credentials for each region of each account, in the order given, each once.

    Args:
        regions: empty for the region of boto3.
        all_regions: all regions that an account has enabled, sorted, in place of `regions`.
        roles: ARNs, one for each account; empty for the caller's own credentials.

    Raises:
        UsageError: no region is set, or they are in several partitions.
        CredentialsError: a role cannot be assumed.
    """
    names = [aws.region(each) for each in dict.fromkeys(regions)] or [aws.region(None)]
    for parsed in map(Role.parse, roles):
        if parsed.partition != aws.partition(names[0]):
            raise UsageError(
                f"{parsed.arn} is in the partition {parsed.partition}, {names[0]} is in {aws.partition(names[0])}"
            )
    found = []
    for caller, role in [(aws.assume(role, names[0]), role) for role in roles] or [(aws, "")]:
        identity = caller.identity(names[0])
        partition = identity.place.partition
        for name in names:
            if aws.partition(name) != partition:
                raise UsageError(
                    f"{name} is in the partition {aws.partition(name)}, the credentials are for {partition}"
                )
        for name in caller.all_regions(names[0]) if all_regions else names:
            found.append(Access(caller, identity.within(name), role))
    return found


def find_planned_accesses(aws: Aws, planned: Sequence[tuple[Place, str]], regions: Sequence[str]) -> list[Access]:
    """Return the credentials for the regions and accounts of a journal, which has a role for some of them.

    Args:
        regions: of the command line, if any.

    Raises:
        UsageError: `regions` are others.
        ToolError: the credentials are for another account, or a role cannot be assumed.
    """
    listed = list(dict.fromkeys(place.region for place, _ in planned))
    if regions and set(regions) != set(listed):
        raise UsageError(f"the journal is for {' and '.join(listed)}: omit --region")
    callers: dict[str, tuple[Aws, Identity]] = {}
    found = []
    for place, role in planned:
        if role not in callers:
            caller = aws.assume(role, place.region) if role else aws
            callers[role] = caller, caller.identity(place.region)
        caller, identity = callers[role]
        if identity.place.account != place.account:
            raise ToolError(
                f"the journal is for the account {place.account}, these credentials are for {identity.place.account}: "
                "use other credentials"
            )
        found.append(Access(caller, identity.within(place.region), role))
    return found


@dataclass(frozen=True)
class Account:
    """The caller, and the functions, layers and APIs of one region.

    Args:
        role: as in `Access`.
    """

    aws: Aws
    role: str
    identity: Identity
    functions: Functions
    layers: Layers
    apis: Apis
    code_signing: CodeSigning

    @classmethod
    def open(cls, access: Access) -> Account:
        """Return what can be called with these credentials."""
        aws, name = access.aws, access.place.region
        clients = Functions(aws, name), Layers(aws, name), Apis(aws, name), CodeSigning(aws, name)
        return cls(aws, access.role, access.identity, *clients)

    @property
    def place(self) -> Place:
        return self.identity.place

    def read_versions(self, arns: Sequence[str]) -> dict[str, LayerInfo | Unavailable]:
        """Read layer versions; ARNs that are not of layer versions are omitted."""
        versions = [LayerVersion.parse(arn) for arn in arns if layer_of(arn)]
        with ThreadPoolExecutor(WORKERS) as pool:
            found = pool.map(lambda version: self.layers.get(version, self.place.account), versions)
            return {str(version): info for version, info in zip(versions, found, strict=True)}
