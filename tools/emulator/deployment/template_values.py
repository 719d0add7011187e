"""A template of AWS SAM or CloudFormation as values: it is parsed, and its intrinsic functions are evaluated.

https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference.html. Functions that need
other stacks or macros, such as `Fn::ImportValue` and `Fn::Transform`, have no value here.
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
NO_VALUE = {"Ref": "AWS::NoValue"}  # it removes a property
_VARIABLE = re.compile(r"\$\{(!?)([^}]*)\}")  # of Fn::Sub


class NoValue(Exception):
    """A value exists only in a deployed stack; the message names it."""


class Values:
    """Evaluates the intrinsic functions of a template.

    A reference to a resource has the name or the ARN of a function, and the logical ID of any other resource, because
    the other resources do not exist locally.
    """

    def __init__(self, template: dict[str, Any]) -> None:
        resources = mapping(template.get("Resources"), "Resources")
        self.loops = [name for name in resources if name.startswith("Fn::")]  # Fn::ForEach, which is a macro
        self.resources = {name: resource for name, resource in resources.items() if name not in self.loops}
        self._parameters = mapping(template.get("Parameters"), "Parameters")
        self._mappings = mapping(template.get("Mappings"), "Mappings")
        self._conditions = mapping(template.get("Conditions"), "Conditions")
        self._pending: list[str] = []  # the conditions that are being evaluated

    # Conditions

    def apply_conditions(self, value: Any) -> Any:
        """Replace each `Fn::If` by its branch, and remove properties without a value; keep what cannot be evaluated."""
        if isinstance(value, list):
            branches = map(self.apply_conditions, value)
            return [item for item in branches if item != NO_VALUE]
        if not isinstance(value, dict):
            return value
        if list(value) == ["Fn::If"]:
            try:
                return self.apply_conditions(self._branch(value["Fn::If"]))
            except NoValue:
                return value
        applied = {name: self.apply_conditions(item) for name, item in value.items()}
        return {name: item for name, item in applied.items() if item != NO_VALUE}

    def condition(self, name: Any) -> bool:
        """Evaluate a condition of the template. Raises NoValue."""
        if name not in self._conditions:
            raise NoValue(f"the condition {name}, which is missing")
        if name in self._pending:
            raise NoValue(f"the condition {name}, which refers to itself")
        self._pending.append(name)
        try:
            return self._is_true(self._conditions[name])
        finally:
            self._pending.pop()

    def _is_true(self, expression: Any) -> bool:
        name, argument = next(iter(expression.items())) if isinstance(expression, dict) and expression else ("", None)
        operands = argument if isinstance(argument, list) else []
        if name == "Condition":
            return self.condition(argument)
        if name == "Fn::Equals" and len(operands) == 2:
            one, other = (text_of(self.evaluate(operand)) for operand in operands)
            return one == other
        if name == "Fn::Not" and len(operands) == 1:
            return not self._is_true(operands[0])
        if name in ("Fn::And", "Fn::Or") and operands:
            return (all if name == "Fn::And" else any)(self._is_true(operand) for operand in operands)
        raise NoValue(f"the condition {expression!r}")

    def _branch(self, argument: Any) -> Any:
        if not isinstance(argument, list) or len(argument) != 3:
            raise NoValue("Fn::If without three arguments")
        name, if_true, if_false = argument
        return if_true if self.condition(name) else if_false

    # Values

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
        evaluate = {
            "Ref": self._reference,
            "Fn::GetAtt": self._get_attribute,
            "Fn::Sub": self._substitute,
            "Fn::Join": self._join,
            "Fn::If": lambda argument: self.evaluate(self._branch(argument)),
            "Fn::FindInMap": self._find_in_map,
            "Fn::Select": self._select,
            "Fn::Split": self._split,
        }.get(name)
        if evaluate is None:
            raise NoValue(f"{name}, which is not evaluated here")
        try:
            return evaluate(argument)
        except (TypeError, ValueError, LookupError):
            raise NoValue(f"{name} with arguments that it does not take") from None

    def _get_attribute(self, argument: Any) -> str:
        name, attribute = argument.split(".", 1) if isinstance(argument, str) else self.evaluate(argument)
        return self._attribute(str(name), str(attribute))

    def _join(self, argument: Any) -> str:
        separator, items = self.evaluate(argument)
        return str(separator).join(map(text_of, items))

    def _select(self, argument: Any) -> Any:
        index, items = self.evaluate(argument)
        return items[int(index)]

    def _split(self, argument: Any) -> list[str]:
        separator, text = self.evaluate(argument)
        return text_of(text).split(separator)

    def _find_in_map(self, argument: Any) -> Any:
        *keys, options = argument if len(argument) == 4 else (*argument, {})
        names = [text_of(self.evaluate(key)) for key in keys]
        found: Any = self._mappings
        for name in names:
            found = {text_of(key): value for key, value in found.items()}.get(name, {})
        if not found and "DefaultValue" in options:
            return self.evaluate(options["DefaultValue"])
        if not found or len(names) != 3:
            raise NoValue(f"{'.'.join(names)} of the Mappings, which does not exist")
        return found

    def _reference(self, name: str) -> Any:
        if name in PSEUDO_PARAMETERS:
            return PSEUDO_PARAMETERS[name]
        if name in self._parameters:
            return default_of(name, mapping(self._parameters[name], name))
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


def default_of(name: str, parameter: dict[str, Any]) -> Any:
    """The default of a parameter. Raises NoValue."""
    kind = str(parameter.get("Type"))
    if "Default" not in parameter:
        raise NoValue(f"the parameter {name}, which has no Default")
    if kind.startswith("AWS::SSM::"):
        raise NoValue(f"the parameter {name}, whose value is in Systems Manager")
    default = parameter["Default"]
    is_list = kind == "CommaDelimitedList" or kind.startswith("List<")
    return [item.strip() for item in text_of(default).split(",")] if is_list else default


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
