"""Facts about AWS Lambda that several tools use, each with its source."""

from typing import NamedTuple

# --- Limits -----------------------------------------------------------------------------------------------------------

# AWS Lambda Developer Guide, gettingstarted-limits, "Function configuration, deployment, and execution", in bytes.
MAX_ZIP_BYTES = 50 * 1024 * 1024  # one direct upload; larger zips go through Amazon S3
MAX_UNPACKED_BYTES = 262_144_000  # a function with all its layers, unpacked
MAX_LAYERS = 5  # of one function

# Seconds; the maximum Timeout of API_CreateFunction since November 2026. Exceptions: 900 for the streams of an API
# Gateway REST API (response-transfer-mode-lambda), and 5,400 for asynchronous and event-source invocations on managed
# instances.
MAX_TIMEOUT = 1800


class Limits(NamedTuple):
    """The limits of a zip in bytes; the defaults are those of AWS Lambda."""

    zip_bytes: int = MAX_ZIP_BYTES
    unpacked_bytes: int = MAX_UNPACKED_BYTES


LIMITS = Limits()

# --- Architectures ----------------------------------------------------------------------------------------------------

# AWS Lambda API Reference, API_CreateFunction, Architectures.
ARCHITECTURES = ("x86_64", "arm64")
ARCHITECTURE_OF_MACHINE = {"x86_64": "x86_64", "aarch64": "arm64"}  # by the name that uname(1) prints on Linux

# --- Runtimes ---------------------------------------------------------------------------------------------------------

OS_ONLY = "provided"  # OS-only runtimes begin with it; they contain no Python
MANAGED_PYTHON = "python3."  # managed Python runtimes begin with it

# AWS Lambda Developer Guide, lambda-runtimes: the day on which a runtime was deprecated, after which it gets no
# security patches. Only dates that have passed are listed, because AWS moves future ones.
DEPRECATED_SINCE = {
    "provided": "2024-01-08",
    "provided.al2": "2026-07-31",
    "python3.6": "2022-07-18",
    "python3.7": "2023-12-04",
    "python3.8": "2024-10-14",
    "python3.9": "2025-12-15",
    "python3.10": "2026-10-31",
}

PREVIEW_RUNTIMES = ("python3.15",)  # lambda-runtimes: not for production, and may change

# The glibc of each OS-only runtime: lambda-runtimes names the Amazon Linux, whose package list names the glibc.
GLIBC = {"provided.al2023": (2, 34), "provided.al2": (2, 26)}


def deprecated_since(runtime: str) -> str:
    """Return the day on which `runtime` was deprecated, such as 2026-07-31; an empty string if it is supported."""
    return DEPRECATED_SINCE.get(runtime, "")


# --- Names and ARNs ---------------------------------------------------------------------------------------------------

# AWS Lambda API Reference: LayerName of API_PublishLayerVersion, LayerVersionArn of API_GetLayerVersionByArn. The
# partition is not checked against a list, so that new ones work.
LAYER_NAME = r"[a-zA-Z0-9-_]{1,140}"
# Groups: partition, region, account, layer name, version number.
LAYER_VERSION_ARN = rf"arn:([a-z-]+):lambda:([a-z0-9-]+):([0-9]{{12}}):layer:({LAYER_NAME}):([1-9][0-9]*)"
FUNCTION_NAME = r"[a-zA-Z0-9-_]{1,64}"  # FunctionName of API_GetFunction
