"""What the tools know of functions and layer versions: AWS's answers, less what is of no use here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LATEST = "$LATEST"
STACK_TAG = "aws:cloudformation:stack-name"


@dataclass(frozen=True)
class Function:
    """A function, or a published version of one. The layers and the revision are from one answer.

    Args:
        revision: the optimistic lock, ``RevisionId``; empty where the endpoint gives none.
        code_size: of its zip, in bytes.
        status: ``LastUpdateStatus``, empty in lists.
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
    handler: str = ""
    is_image: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    tags_are_known: bool = True

    @classmethod
    def of(cls, answer: Mapping[str, Any], tags: Mapping[str, str] | None = None, known: bool = True) -> Function:
        """Read the ``FunctionConfiguration`` of an answer; ``known`` tells whether the tags could be read."""
        version = answer.get("Version", LATEST)
        arn = answer["FunctionArn"]
        return cls(
            name=answer["FunctionName"],
            arn=arn.removesuffix(f":{version}"),
            version=version,
            runtime=answer.get("Runtime", ""),
            architectures=tuple(answer.get("Architectures") or ("x86_64",)),
            layers=tuple(layer["Arn"] for layer in answer.get("Layers") or ()),
            revision=answer.get("RevisionId", ""),
            code_size=answer.get("CodeSize", 0),
            status=answer.get("LastUpdateStatus", ""),
            handler=answer.get("Handler", ""),
            is_image=answer.get("PackageType") == "Image",
            variables=(answer.get("Environment") or {}).get("Variables") or {},
            tags=tags or {},
            tags_are_known=known,
        )

    @property
    def stack(self) -> str:
        """The CloudFormation stack that owns it; empty where none does."""
        return self.tags.get(STACK_TAG, "")


@dataclass(frozen=True)
class Alias:
    """An alias of a function. ``weights`` are those of further versions, by number."""

    name: str
    version: str
    weights: Mapping[str, float]
    revision: str


@dataclass(frozen=True)
class LayerInfo:
    """A layer version as ``GetLayerVersion`` has it.

    Args:
        sha256: of the zip, in base64.
        size: of the zip, in bytes.
        location: where the zip can be got for ten minutes.
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

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> LayerInfo:
        """Read the answer of ``GetLayerVersion`` or ``PublishLayerVersion``."""
        content = answer.get("Content") or {}
        return cls(
            arn=answer["LayerVersionArn"],
            number=answer["Version"],
            sha256=content.get("CodeSha256", ""),
            size=content.get("CodeSize", 0),
            runtimes=tuple(answer.get("CompatibleRuntimes") or ()),
            architectures=tuple(answer.get("CompatibleArchitectures") or ()),
            license=answer.get("LicenseInfo") or "",
            description=answer.get("Description") or "",
            location=content.get("Location", ""),
        )


@dataclass(frozen=True)
class NotUsable:
    """A layer version that cannot be read, and so cannot be given to a function either.

    Args:
        deleted: it is not there; else it is there, or may be, and its account does not share it.
    """

    arn: str
    deleted: bool
