"""The functions of a template of AWS SAM or CloudFormation.

https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-resource-function.html and
https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-function.html. The defaults
are those of the service, such as a timeout of 3 seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tools.common.errors import UsageError
from tools.common.lambda_facts import MAX_TIMEOUT
from tools.emulator.deployment.configuration import ACCOUNT, REGION, RESERVED, function_name
from tools.emulator.deployment.settings import FunctionSettings
from tools.emulator.deployment.template_values import FUNCTION_TYPES, NoValue, Values, mapping, read_template, text_of

SERVERLESS, _ = FUNCTION_TYPES
LAYER_SOURCES = {"AWS::Serverless::LayerVersion": "ContentUri", "AWS::Lambda::LayerVersion": "Content"}
DEFAULT_TIMEOUT, DEFAULT_MEMORY_MB = 3, 128
SLOTS_PER_VCPU = 16  # of Python on managed instances (lambda-managed-instances-python)
MAX_SLOTS = 1600
BUFFERED, RESPONSE_STREAM = "BUFFERED", "RESPONSE_STREAM"


class TemplateFunctions(NamedTuple):
    """The functions by name, in their order, and lines about what is not used."""

    functions: dict[str, FunctionSettings]
    notes: list[str]


def functions_in(path: Path, more_layers: tuple[Path, ...]) -> TemplateFunctions:
    """Read a template.

    Args:
        more_layers: folders or zips below the layers of each function.

    Raises UsageError.
    """
    template = read_template(path)
    return _Reader(path, template, more_layers).read()


class _Reader:
    def __init__(self, path: Path, template: dict[str, Any], more_layers: tuple[Path, ...]) -> None:
        self._path = path
        self._values = Values(template)
        self._globals = mapping(mapping(template.get("Globals"), "Globals").get("Function"), "Globals.Function")
        self._more_layers = more_layers
        self._notes = [f"{name} is not expanded: its resources are not served" for name in self._values.loops]

    def read(self) -> TemplateFunctions:
        functions: dict[str, FunctionSettings] = {}
        for logical_id, resource in self._values.resources.items():
            kind = mapping(resource, logical_id).get("Type")
            if kind not in FUNCTION_TYPES or not self._exists(logical_id, resource):
                continue
            properties = mapping(resource.get("Properties"), logical_id)
            if kind == SERVERLESS:
                properties = merged(self._globals, properties)
            properties = self._values.apply_conditions(properties)
            if self._is_usable(logical_id, properties):
                name = function_name(self._values.name_of(logical_id))
                if name in functions:
                    raise UsageError(f"{self._path}: two functions have the name {name!r}")
                functions[name] = self._settings(logical_id, kind, properties)
        if not functions:
            reasons = "".join(f"; {note}" for note in self._notes)
            raise UsageError(f"{self._path} has no function that can be run here{reasons}")
        return TemplateFunctions(functions, self._notes)

    def _exists(self, logical_id: str, resource: dict[str, Any]) -> bool:
        """Whether the condition of a resource is true."""
        name = resource.get("Condition")
        try:
            if name is None or self._values.condition(name):
                return True
            reason = f"its condition {name} is false"
        except NoValue as error:
            reason = f"its condition {name} has no local value, it uses {error}"
        self._notes.append(f"{logical_id} is not served: {reason}")
        return False

    def _is_usable(self, logical_id: str, properties: dict[str, Any]) -> bool:
        runtime = self._value(logical_id, properties, "Runtime", "")
        if properties.get("PackageType") == "Image":
            self._notes.append(f"{logical_id} is not served: it is a container image")
        elif not str(runtime).startswith(("python", "provided")):
            self._notes.append(f"{logical_id} is not served: its Runtime is {runtime or 'missing'}, not Python")
        else:
            return True
        return False

    def _settings(self, logical_id: str, kind: str, properties: dict[str, Any]) -> FunctionSettings:
        def number(name: str, default: int, low: int, high: int) -> int:
            return whole_number(self._value(logical_id, properties, name, default), f"{logical_id}: {name}", low, high)

        handler = self._value(logical_id, properties, "Handler")
        if not isinstance(handler, str):
            raise UsageError(f"{logical_id} in {self._path} has no Handler")
        url = self._url(logical_id, kind, properties)
        return FunctionSettings(
            code=self._code(logical_id, kind, properties),
            layers=self._layers(logical_id, properties),
            handler=handler,
            timeout=number("Timeout", DEFAULT_TIMEOUT, 1, MAX_TIMEOUT),
            memory=number("MemorySize", DEFAULT_MEMORY_MB, 128, 10240),
            variables=self._variables(logical_id, properties),
            max_concurrency=self._max_concurrency(logical_id, properties),
            invoke_mode=RESPONSE_STREAM if url is None else self._invoke_mode(logical_id, url),
            cors=None if url is None or not url.get("Cors") else mapping(url["Cors"], f"{logical_id}: Cors"),
        )

    def _value(self, logical_id: str, properties: dict[str, Any], name: str, default: Any = None) -> Any:
        """The evaluated property. Raises UsageError if it exists only in a deployed stack."""
        try:
            value = self._values.evaluate(properties.get(name))
        except NoValue as error:
            raise UsageError(f"{self._path}: {name} of {logical_id} has no local value: it uses {error}") from None
        return default if value is None else value

    def _mapping(self, logical_id: str, properties: dict[str, Any], name: str) -> dict[str, Any]:
        """The property, with values that are not evaluated. Raises UsageError, also for an unknown condition."""
        found = mapping(properties.get(name), f"{logical_id}: {name}")
        return mapping(self._value(logical_id, properties, name), name) if is_intrinsic(found) else found

    def _code(self, logical_id: str, kind: str, properties: dict[str, Any]) -> Path:
        name = "CodeUri" if kind == SERVERLESS else "Code"
        code = self._value(logical_id, properties, name)
        if code is None and kind == SERVERLESS and "InlineCode" not in properties:
            code = "."
        if not isinstance(code, str) or code.startswith("s3://"):
            raise UsageError(f"{self._path}: {name} of {logical_id} must be a local folder or zip")
        return self._path.parent / code

    def _layers(self, logical_id: str, properties: dict[str, Any]) -> tuple[Path, ...]:
        found = list(self._more_layers)
        given = properties.get("Layers") or []
        for raw in given if isinstance(given, list) else [given]:
            try:
                layer = self._values.evaluate(raw)
            except NoValue as error:
                layer = f"with {error}"
            resource = mapping(self._values.resources.get(layer), "Layers") if isinstance(layer, str) else {}
            source = LAYER_SOURCES.get(str(resource.get("Type")))
            if source is None:
                self._notes.append(
                    f"{logical_id}: the layer {layer} is not in the template; add its files with --layer"
                )
                continue
            content = self._value(layer, mapping(resource.get("Properties"), layer), source)
            if not isinstance(content, str) or content.startswith("s3://"):
                raise UsageError(f"{self._path}: {source} of {layer} must be a local folder or zip")
            found.append(self._path.parent / content)
        return tuple(found)

    def _variables(self, logical_id: str, properties: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        environment = self._mapping(logical_id, properties, "Environment")
        found: dict[str, str] = {}
        for name, raw in self._mapping(logical_id, environment, "Variables").items():
            if name in RESERVED:
                raise UsageError(f"{self._path}: {logical_id} sets {name}, which is reserved")
            try:
                found[name] = text_of(self._values.evaluate(raw))
            except NoValue as error:
                self._notes.append(f"{logical_id}: {name} has no local value, it uses {error}; set it with --env")
        return tuple(found.items())

    def _max_concurrency(self, logical_id: str, properties: dict[str, Any]) -> int:
        config = self._mapping(logical_id, properties, "CapacityProviderConfig")
        config = mapping(config.get("LambdaManagedInstancesCapacityProviderConfig", config), logical_id)
        if not config:
            return 0
        name = "PerExecutionEnvironmentMaxConcurrency"
        return whole_number(
            self._value(logical_id, config, name, SLOTS_PER_VCPU), f"{logical_id}: {name}", 1, MAX_SLOTS
        )

    def _url(self, logical_id: str, kind: str, properties: dict[str, Any]) -> dict[str, Any] | None:
        """The configuration of the Function URL: a property with SAM, or a resource; None: there is none."""
        if kind == SERVERLESS and properties.get("FunctionUrlConfig") is not None:
            url: dict[str, Any] = self._value(logical_id, properties, "FunctionUrlConfig")
            return mapping(url, f"{logical_id}: FunctionUrlConfig")
        name = self._values.name_of(logical_id)
        targets = (name, f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}", logical_id)
        for url_id, resource in self._values.resources.items():
            if mapping(resource, url_id).get("Type") != "AWS::Lambda::Url" or not self._exists(url_id, resource):
                continue
            url_properties = self._values.apply_conditions(mapping(resource.get("Properties"), url_id))
            if self._value(url_id, url_properties, "TargetFunctionArn") in targets:
                return {key: self._value(url_id, url_properties, key) for key in ("InvokeMode", "Cors")}
        return None

    def _invoke_mode(self, logical_id: str, url: dict[str, Any]) -> str:
        mode = url.get("InvokeMode") or BUFFERED
        if mode not in (BUFFERED, RESPONSE_STREAM):
            raise UsageError(
                f"{self._path}: InvokeMode of {logical_id} is {mode!r}, not {BUFFERED} or {RESPONSE_STREAM}"
            )
        return str(mode)


def merged(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`Globals` and the properties of a function, as SAM merges them: lists are joined, mappings are merged."""
    result = dict(common)
    for name, value in own.items():
        if isinstance(value, dict) and isinstance(result.get(name), dict) and not is_intrinsic(value):
            result[name] = merged(result[name], value)
        elif isinstance(value, list) and isinstance(result.get(name), list):
            result[name] = [*result[name], *value]
        else:
            result[name] = value
    return result


def is_intrinsic(value: dict[str, Any]) -> bool:
    return any(name == "Ref" or str(name).startswith("Fn::") for name in value)


def whole_number(value: Any, name: str, low: int, high: int) -> int:
    text = str(value)
    if text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high:
        return int(text)
    raise UsageError(f"--template: {name} is {value!r}, not a whole number from {low} to {high}")
