"""Functions, aliases and layer versions as values: the part of AWS's responses that the commands use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.fleet.aws.settings import settings_of

LATEST = "$LATEST"
WRAPPER = "AWS_LAMBDA_EXEC_WRAPPER"  # managed runtimes run this program in place of their own
SECOND_WRAPPER = "STREAMING_RUNTIME_EXEC_WRAPPER"  # the layer runs this one, such as that of a tracing agent
Wrappers = tuple[str | None, str | None]  # WRAPPER and SECOND_WRAPPER
_ARN_PARTS = 7  # of a function's ARN without a version or alias
STACK_TAG = "aws:cloudformation:stack-name"  # AWS CloudFormation sets it on every function of a stack


@dataclass(frozen=True)
class Function:
    """A function, or a published version of one. Layers and revision are from the same response.

    Args:
        arn: without a qualifier.
        revision: `RevisionId`, the optimistic lock; empty if the endpoint has none.
        code_size: of the zip, in bytes.
        status: `LastUpdateStatus`; empty in lists.
        state: `State`; empty in lists.
        failure: why the last update or the creation failed; empty if it did not.
        tags_are_known: False if the caller may not read tags.
        settings: everything else that can be released with a version; see `settings_of`.
        capacity_provider: the ARN of the capacity provider on whose instances it runs; empty for an on-demand function.
    """

    name: str
    arn: str
    version: str = LATEST
    runtime: str = ""
    architectures: tuple[str, ...] = ("x86_64",)
    layers: tuple[str, ...] = ()
    revision: str = ""
    code_size: int = 0
    status: str = ""
    state: str = ""
    failure: str = ""
    handler: str = ""
    is_image: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    tags_are_known: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    capacity_provider: str = ""

    @classmethod
    def of(
        cls, configuration: Mapping[str, Any], tags: Mapping[str, str] | None = None, tags_are_known: bool = True
    ) -> Function:
        """Read a `FunctionConfiguration` (AWS Lambda API Reference)."""
        version = configuration.get("Version", LATEST)
        return cls(
            name=configuration["FunctionName"],
            arn=":".join(configuration["FunctionArn"].split(":")[:_ARN_PARTS]),
            version=version,
            runtime=configuration.get("Runtime", ""),
            architectures=tuple(configuration.get("Architectures") or ("x86_64",)),
            layers=tuple(layer["Arn"] for layer in configuration.get("Layers") or ()),
            revision=configuration.get("RevisionId", ""),
            code_size=configuration.get("CodeSize", 0),
            status=configuration.get("LastUpdateStatus", ""),
            state=configuration.get("State", ""),
            failure=_failure(configuration),
            handler=configuration.get("Handler", ""),
            is_image=configuration.get("PackageType") == "Image",
            variables=(configuration.get("Environment") or {}).get("Variables") or {},
            tags=tags or {},
            tags_are_known=tags_are_known,
            settings=settings_of(configuration),
            capacity_provider=_capacity_provider(configuration),
        )

    @property
    def wrappers(self) -> Wrappers:
        """The values of the two variables; None where one is not set."""
        return self.variables.get(WRAPPER), self.variables.get(SECOND_WRAPPER)

    @property
    def stack(self) -> str:
        """The CloudFormation stack that owns the function; empty if there is none."""
        return self.tags.get(STACK_TAG, "")


def _capacity_provider(configuration: Mapping[str, Any]) -> str:
    instances = (configuration.get("CapacityProviderConfig") or {}).get("LambdaManagedInstancesCapacityProviderConfig")
    return str((instances or {}).get("CapacityProviderArn", ""))


def _failure(configuration: Mapping[str, Any]) -> str:
    for status, name in (("LastUpdateStatus", "the update"), ("State", "the function")):
        if configuration.get(status) == "Failed":
            keys = (f"{status}ReasonCode", f"{status}Reason")
            reasons = ": ".join(str(configuration[key]) for key in keys if configuration.get(key))
            return f"{name} failed: {reasons or 'no reason is given'}"
    return ""


@dataclass(frozen=True)
class Alias:
    """An alias of a function.

    Args:
        weights: the share of requests of other versions, by version, from 0 to 1.
    """

    name: str
    version: str
    weights: Mapping[str, float]
    revision: str

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> Alias:
        """Read an `AliasConfiguration` (AWS Lambda API Reference)."""
        weights = (configuration.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
        return cls(
            configuration["Name"], configuration["FunctionVersion"], dict(weights), configuration.get("RevisionId", "")
        )


@dataclass(frozen=True)
class LayerInfo:
    """A layer version, as `GetLayerVersion` returns it.

    Args:
        sha256: of the zip, in base64.
        size: of the zip, in bytes.
        location: the presigned URL of the zip, which is valid for ten minutes.
        signing_profile: the ARN of the version of the signing profile; empty if the version is not signed.
    """

    arn: str
    number: int
    sha256: str
    size: int
    runtimes: tuple[str, ...]
    architectures: tuple[str, ...]
    license: str
    description: str
    location: str
    signing_profile: str = ""

    @classmethod
    def of(cls, response: Mapping[str, Any]) -> LayerInfo:
        """Read the response of `GetLayerVersion` or `PublishLayerVersion`."""
        content = response.get("Content") or {}
        return cls(
            arn=response["LayerVersionArn"],
            number=response["Version"],
            sha256=content.get("CodeSha256", ""),
            size=content.get("CodeSize", 0),
            runtimes=tuple(response.get("CompatibleRuntimes") or ()),
            architectures=tuple(response.get("CompatibleArchitectures") or ()),
            license=response.get("LicenseInfo") or "",
            description=response.get("Description") or "",
            location=content.get("Location", ""),
            signing_profile=content.get("SigningProfileVersionArn") or "",
        )


@dataclass(frozen=True)
class Unavailable:
    """A layer version that cannot be read, so no function can be given it either.

    Args:
        is_deleted: it does not exist; otherwise its account does not share it.
    """

    arn: str
    is_deleted: bool
