"""The values of options, checked and converted; for `type=` of argparse."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tools.common.errors import ToolError
from tools.common.lambda_facts import MAX_TIMEOUT
from tools.common.paths import ROOT
from tools.emulator.deployment.configuration import RESERVED, function_name

if TYPE_CHECKING:
    from tools.emulator.endpoints.cors import Cors

VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
STAGE = re.compile(r"[a-zA-Z0-9_-]{1,128}")  # API_CreateStage
MAX_CONCURRENCY = 1000
MAX_SLOTS = 1600  # PerExecutionEnvironmentMaxConcurrency (API_LambdaManagedInstancesCapacityProviderConfig)
MIN_MEMORY_MB, MAX_MEMORY_MB = 128, 10240  # API_CreateFunction: MemorySize


class PrintVersion(argparse.Action):
    """Print name and version of the layer, and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: object) -> None:
        from tools.packaging import manifest  # a run does not read the manifest

        try:
            print(manifest.load(ROOT / manifest.FILE_NAME).title)
        except ToolError as error:
            parser.exit(1, f"{parser.prog}: error: {error}\n")
        parser.exit()


def function_source(text: str) -> tuple[str, Path]:
    """NAME=PATH, or a path, whose last part becomes the name. A path that exists takes precedence."""
    name, equals, path = text.partition("=")
    if equals and FUNCTION_NAME.fullmatch(name) and not Path(text).exists():
        return name, source(path)
    found = source(text)
    return function_name(found.stem if found.is_file() else found.name), found


def source(text: str) -> Path:
    path = Path(text).resolve()
    if not text or not path.exists():
        raise argparse.ArgumentTypeError(f"there is no folder or zip {text!r}")
    if not path.is_dir() and not is_zip(path):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a folder nor a zip")
    return path


def is_zip(path: Path) -> bool:
    """Whether a file begins like a zip. Whether it is valid is checked when it is unpacked."""
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error.strerror}") from None


def variable_or_name(text: str) -> tuple[str, str]:
    """NAME=VALUE, or the name of a variable of the shell."""
    if not VARIABLE_NAME.fullmatch(text):
        return variable(text)
    value = os.environ.get(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"{text} is not set in the shell; set it, or use NAME=VALUE")
    return variable(f"{text}={value}")


def variable(text: str) -> tuple[str, str]:
    """The message does not repeat the text, which can contain a secret."""
    name, equals, value = text.partition("=")
    if not equals or not VARIABLE_NAME.fullmatch(name) or "\0" in value:
        raise argparse.ArgumentTypeError("expected NAME=VALUE, with a name of letters, digits and underscores")
    if name in RESERVED:
        raise argparse.ArgumentTypeError(f"{name} is reserved: the emulator sets it, as the service does")
    return name, value


def env_file(text: str) -> dict[str, str]:
    """The variables in a file, see `tools.emulator.env_file`. A byte order mark is ignored."""
    from tools.emulator.env_file import MalformedLine, parse  # only --env-file needs it

    try:
        content = Path(text).read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {text}: {getattr(error, 'strerror', None) or error}") from None
    variables = {}
    try:
        for number, name, value in parse(content, os.environ):
            try:
                variable(f"{name}={value}")
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentTypeError(f"line {number} of {text}: {error}") from None
            variables[name] = value
    except MalformedLine as error:
        message = f"line {error.line} of {text}: expected NAME=VALUE; a quote must end on the same line or a later one"
        raise argparse.ArgumentTypeError(message) from None
    return variables


def profile(text: str) -> dict[str, str]:
    from tools.emulator.profile import ProfileUnusable, profile_variables  # only --profile needs it

    try:
        return profile_variables(text)
    except ProfileUnusable as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def cors(text: str) -> Cors:
    from tools.emulator.endpoints.cors import Cors  # only --cors needs it

    try:
        return Cors.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def stage(text: str) -> str:
    if STAGE.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError("the name of a stage has 1 to 128 letters, digits, hyphens and underscores")


def host(text: str) -> str:
    if text:
        return text
    raise argparse.ArgumentTypeError("the address is empty; 0.0.0.0 stands for all addresses of this machine")


def debug_port(text: str) -> int:
    return whole_number(text, 1, 65535)


def port_number(text: str) -> int:
    return whole_number(text, 0, 65535)


def megabytes(text: str) -> int:
    return whole_number(text, MIN_MEMORY_MB, MAX_MEMORY_MB)


def max_concurrency(text: str) -> int:
    return whole_number(text, 1, MAX_SLOTS)


def concurrency(text: str) -> int:
    return whole_number(text, 1, MAX_CONCURRENCY)


def whole_number(text: str, low: int, high: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {low} to {high}")


def seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= MAX_TIMEOUT:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number of seconds above 0 and up to {MAX_TIMEOUT}")
