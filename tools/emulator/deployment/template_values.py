"""A template of AWS SAM or CloudFormation as values: it is parsed, and its intrinsic functions are evaluated.

https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference.html. `Ref`, `Fn::GetAtt`,
`Fn::Sub` and `Fn::Join` have a value here. The others depend on conditions, mappings or other stacks.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tools.common.errors import UsageError
from tools.emulator.deployment.configuration import ACCOUNT, REGION

PSEUDO_PARAMETERS = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackName": "local",
    "AWS::URLSuffix": "amazonaws.com",
}
FUNCTION_TYPES = ("AWS::Serverless::Function", "AWS::Lambda::Function")
_VARIABLE = re.compile(r"\$\{(!?)([^}]*)\}")  # of Fn::Sub


class NoValue(Exception):
    """A value exists only in a deployed stack; the message names it."""


class Values:
    """Evaluates the intrinsic functions of a template.

    A reference to a resource has the name or the ARN of a function, and the logical ID of any other resource, because
    the other resources do not exist locally.
    """

    def __init__(self, template: dict[str, Any]) -> None:
        self.resources = mapping(template.get("Resources"), "Resources")
        self._parameters = mapping(template.get("Parameters"), "Parameters")

    def evaluate(self, value: Any) -> Any:
        """Raises NoValue."""
        if isinstance(value, list):
            return [self.evaluate(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (name, argument) = next(iter(value.items()))
            if name == "Ref" or str(name).startswith("Fn::"):
                return self._call(name, argument)
        return {key: self.evaluate(item) for key, item in value.items()}

    def name_of(self, logical_id: str) -> str:
        """The name of a function: its `FunctionName`, or its logical ID."""
        name = mapping(self.resources[logical_id].get("Properties"), logical_id).get("FunctionName")
        try:
            return str(self.evaluate(name)) if name is not None else logical_id
        except NoValue:
            return logical_id

    def _call(self, name: str, argument: Any) -> Any:
        if name == "Ref" and isinstance(argument, str):
            return self._reference(argument)
        if name == "Fn::GetAtt":
            parts = argument.split(".", 1) if isinstance(argument, str) else self.evaluate(argument)
            if isinstance(parts, list) and len(parts) == 2:
                return self._attribute(str(parts[0]), str(parts[1]))
        if name == "Fn::Sub":
            return self._substitute(argument)
        if name == "Fn::Join" and isinstance(argument, list) and len(argument) == 2:
            separator, items = self.evaluate(argument)
            if isinstance(separator, str) and isinstance(items, list):
                return separator.join(map(text_of, items))
        raise NoValue(name)

    def _reference(self, name: str) -> Any:
        if name in PSEUDO_PARAMETERS:
            return PSEUDO_PARAMETERS[name]
        if name in self._parameters:
            parameter = mapping(self._parameters[name], name)
            if "Default" not in parameter:
                raise NoValue(f"the parameter {name}, which has no Default")
            return parameter["Default"]
        if name not in self.resources:
            raise NoValue(name)
        return self.name_of(name) if self._is_function(name) else name

    def _attribute(self, name: str, attribute: str) -> str:
        if name not in self.resources:
            raise NoValue(f"{name}.{attribute}")
        if attribute == "Arn" and self._is_function(name):
            return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.name_of(name)}"
        return name

    def _is_function(self, name: str) -> bool:
        return mapping(self.resources[name], name).get("Type") in FUNCTION_TYPES

    def _substitute(self, argument: Any) -> str:
        text, given = argument if isinstance(argument, list) and len(argument) == 2 else (argument, {})
        if not isinstance(text, str) or not isinstance(given, dict):
            raise NoValue("Fn::Sub")

        def value_of(match: re.Match[str]) -> str:
            name = match[2].strip()
            if match[1]:  # ${!Literal}
                return f"${{{match[2]}}}"
            if name in given:
                return text_of(self.evaluate(given[name]))
            logical_id, dot, attribute = name.partition(".")
            return text_of(self._attribute(logical_id, attribute) if dot else self._reference(name))

        return _VARIABLE.sub(value_of, text)


def text_of(value: Any) -> str:
    """The value as CloudFormation passes it on where a string is required."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def mapping(value: Any, name: str) -> dict[str, Any]:
    """The value, or an empty dictionary for none. Raises UsageError if it is something else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"--template: {name} is not a mapping")
    return value


def read_template(path: Path) -> dict[str, Any]:
    """Parse JSON, or YAML if PyYAML is installed. Raises UsageError."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        document = json.loads(text) if text.lstrip().startswith("{") else read_yaml(path, text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict) or "Resources" not in document:
        raise UsageError(f"{path} is not a template of AWS SAM or CloudFormation: it has no Resources")
    return document


def read_yaml(path: Path, text: str) -> Any:
    try:
        # Only templates in YAML need it: the emulator runs with the standard library.
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise UsageError(
            f"{path} is YAML, and PyYAML is not installed for this Python; install it with "
            "python3 -m pip install pyyaml, or convert the template to JSON"
        ) from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Reads the short forms of intrinsic functions, such as `!Sub`."""

    def intrinsic(loader: Any, suffix: str, node: Any) -> dict[str, Any]:
        name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
        if isinstance(node, yaml.ScalarNode):
            return {name: loader.construct_scalar(node)}
        deep = loader.construct_sequence if isinstance(node, yaml.SequenceNode) else loader.construct_mapping
        return {name: deep(node, deep=True)}

    Loader.add_multi_constructor("!", intrinsic)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
