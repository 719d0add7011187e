"""The settings of a function, in a form in which two versions of it can be compared.

What can go wrong: AWS Lambda returns more than it takes. A published version has values that nobody set, such as the
`OptimizationStatus` of SnapStart, and the unpublished version has others. A setting that was never set is missing in
one response and has its default in another. Compared as they are, two equal versions would differ, and every function
would need `--include-unreleased`; so computed values are left out here, and defaults count as not set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Everything that UpdateFunctionConfiguration takes (AWS Lambda API Reference), except `FunctionName`, `RevisionId` and
# `Layers`. A test compares this list with the model in botocore.
SETTINGS = (
    "AcceleratorConfig",
    "CapacityProviderConfig",
    "DeadLetterConfig",
    "Description",
    "DurableConfig",
    "Environment",
    "EphemeralStorage",
    "FileSystemConfigs",
    "Handler",
    "ImageConfig",
    "KMSKeyArn",
    "LoggingConfig",
    "MemorySize",
    "Role",
    "Runtime",
    "RuntimeConfig",
    "SnapStart",
    "Timeout",
    "TracingConfig",
    "VpcConfig",
)

# The caller may not decrypt the variables, so the response has this in place of them.
UNREADABLE = "Environment.Error"
UNREADABLE_VARIABLES = "Environment.Variables (not readable without kms:Decrypt)"

_COMPUTED = ("SnapStart.OptimizationStatus", "VpcConfig.VpcId")
_UNORDERED = ("VpcConfig.SecurityGroupIds", "VpcConfig.SubnetIds")
_DEFAULTS = {
    "EphemeralStorage.Size": 512,
    "LoggingConfig.LogFormat": "Text",
    "SnapStart.ApplyOn": "None",
    "TracingConfig.Mode": "PassThrough",
    "VpcConfig.Ipv6AllowedForDualStack": False,
}


def settings_of(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a `FunctionConfiguration`, by names such as `Environment.Variables.MODE`.

    The names begin with those of `SETTINGS`. `CodeSha256` and `Architectures`, which come with the code, are added.
    """
    image = (configuration.get("ImageConfigResponse") or {}).get("ImageConfig")
    named = {name: configuration.get(name) for name in SETTINGS} | {"ImageConfig": image}
    named["LoggingConfig"] = _without_default_group(named["LoggingConfig"], configuration["FunctionName"])
    flat = _flat(named) | {
        "CodeSha256": configuration.get("CodeSha256"),
        "Architectures": sorted(configuration.get("Architectures") or ["x86_64"]),
    }
    for name in _COMPUTED:
        flat.pop(name, None)
    for name in _UNORDERED:
        flat[name] = sorted(flat.get(name) or [])
    return {name: value for name, value in flat.items() if _is_set(name, value)}


def differing_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the settings that differ, or that cannot be compared."""
    names = {name for name in (*one, *other) if one.get(name) != other.get(name)}
    if UNREADABLE in (*one, *other):
        names = {name for name in names if not name.startswith("Environment.")} | {UNREADABLE_VARIABLES}
    return tuple(sorted(names))


def _without_default_group(logging: Mapping[str, Any] | None, function: str) -> dict[str, Any]:
    default = f"/aws/lambda/{function}"
    return {key: value for key, value in (logging or {}).items() if (key, value) != ("LogGroup", default)}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, each in value.items():
        name = f"{prefix}{key}"
        if isinstance(each, Mapping) and name != UNREADABLE:
            flat |= _flat(each, f"{name}.")
        else:
            flat[name] = each
    return flat


def _is_set(name: str, value: Any) -> bool:
    if name.startswith("Environment.Variables."):  # an empty variable is set
        return True
    return value not in (None, "", [], {}) and value != _DEFAULTS.get(name)
