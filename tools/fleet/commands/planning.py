"""The plan of a roll-out in one region of one account: reads what the plan needs, and decides with `rollout.plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tools.common.errors import ToolError, located
from tools.fleet.aws.account import Account
from tools.fleet.aws.arns import Layer, LayerVersion, is_elsewhere, layer_of
from tools.fleet.aws.errors import NotFound
from tools.fleet.aws.models import Alias, Function, LayerInfo, Unavailable
from tools.fleet.commands.interface import Context
from tools.fleet.rollout.aliases import plan_alias
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.plan import PlacePlan, Step, Targets, Verdict, check, needed_versions, plan, plan_step
from tools.fleet.rollout.selection import NothingSelected, select
from tools.fleet.rollout.target_version import LayerMissing, project_layers, refuse_downgrade, targets

_CAN_MOVE_ALIAS = (Verdict.CHANGE, Verdict.UP_TO_DATE)


class Planner:
    """Plans the functions of one region of one account.

    Args:
        is_only: whether the roll-out has no other region and account. Otherwise messages name this one, and functions
            that are named can be elsewhere.
    """

    def __init__(self, context: Context, options: Options, account: Account, is_only: bool) -> None:
        self._context = context
        self._account = account
        self._is_only = is_only
        self._where = "" if is_only else str(account.place)
        self._options = options
        if not is_only:
            functions = tuple(text for text in options.functions if not is_elsewhere(text, account.place))
            exclude = tuple(text for text in options.exclude if not is_elsewhere(text, account.place))
            self._options = replace(options, functions=functions, exclude=exclude)
        self._selects_here = bool(self._options.functions) or not options.functions
        self.target_infos: list[LayerInfo] = []  # of `targets`
        self._aliases: dict[str, tuple[Alias, Function]] = {}  # with the versions that they point to, by function

    @property
    def account(self) -> Account:
        return self._account

    def targets(self) -> Targets:
        """Return the target version of each layer.

        Raises:
            LayerMissing: there is none, or it is not shared with this account.
            UsageError: `--to` is not a version.
        """
        if self._options.is_detach:
            return self._detached()
        with located(self._where):
            found = self._versions(self._options.to)
            for arn, version in self._account.read_versions([str(version) for version in found.values()]).items():
                if isinstance(version, Unavailable):
                    problem = "does not exist" if version.is_deleted else "is not shared with this account"
                    raise LayerMissing(f"{arn} {problem}: ./build.sh verify checks what is published")
                self.target_infos.append(version)
            return found

    def uses_layer(self) -> bool:
        """Whether a function here has a layer of this project."""
        layers = self._layers().values()
        return any(layer_of(arn) in layers for each in self._account.functions.all() for arn in each.layers)

    def plan(self, targets: Targets) -> PlacePlan:
        """Select functions and plan them.

        Raises:
            NothingSelected: no function is selected.
        """
        with located(self._where):
            if not self._selects_here:
                raise NothingSelected("no function is selected")
            functions = select(
                self._options,
                self._account.functions,
                targets.keys(),
                self._account.place,
                self._note,
                self._context.workers,
                self._origin(),
                may_be_missing=not self._is_only,
                also_read=lambda function: self._read_alias(function, targets),
            )
            if self._options.to is None and not self._options.is_detach:
                refuse_downgrade(targets, functions, self._account.place, self._account.layers)
            steps = self._plan(functions, targets)
        return PlacePlan(self._account.place, self._account.role, targets, steps)

    def plan_again(self, function: Function, targets: Targets) -> Step:
        """Plan one function with its present alias."""
        self._read_alias(function, targets)
        (step,) = self._plan([function], targets)
        return step

    # --- Layer versions

    def _layers(self) -> dict[str, Layer]:
        options = self._options
        chosen = tuple(each for each in self._context.manifest.variants if options.variant in (None, each.name))
        return project_layers(chosen, self._account.place, options.layer_account)

    def _detached(self) -> Targets:
        """Return the layers that are removed. A journal needs a version of each, which is of no importance here."""
        return {layer: layer.version(1) for layer in self._layers().values()}

    def _origin(self) -> LayerVersion | None:
        """Return the version of `--from`."""
        if self._options.origin is None:
            return None
        return next(iter(self._versions(self._options.origin).values()))

    def _versions(self, text: str | None) -> Mapping[Layer, LayerVersion]:
        """Return the layer versions that `--to` or `--from` names."""
        manifest, layers = self._context.manifest, self._layers()
        main = next(each for each in manifest.variants if each.name == (self._options.variant or manifest.slim.name))
        if self._options.is_attach:  # adds one layer
            layers = {main.layer_name: layers[main.layer_name]}
        account = self._account
        return targets(text, manifest, layers, layers[main.layer_name], account.place, account.layers)

    # --- Functions

    def _plan(self, functions: Sequence[Function], targets: Targets) -> list[Step]:
        steps = plan(functions, targets, self._options)
        versions = self._account.read_versions(needed_versions(steps))
        changes = [step.function.name for step in steps if step.verdict is Verdict.CHANGE]
        must_be_signed = self._account.code_signing.enforced(changes)
        steps = [check(step, versions, must_be_signed) for step in steps]
        return [self._with_alias(step, targets) for step in steps]

    def _read_alias(self, function: Function, targets: Targets) -> None:
        """Read the alias of a function, and the version that it points to.

        Together with the functions themselves: GetAlias has the slower pace, and GetFunction fills its pauses.
        """
        name = self._options.alias
        if name is None or plan_step(function, targets, self._options).verdict not in _CAN_MOVE_ALIAS:
            return
        self._aliases.pop(function.name, None)
        try:
            alias = self._account.functions.alias(function.name, name)
            self._aliases[function.name] = alias, self._account.functions.get(function.name, alias.version)
        except NotFound:
            pass  # a function without the alias, or without that version

    def _with_alias(self, step: Step, targets: Targets) -> Step:
        """Add the alias, with the differences of its version from `$LATEST`."""
        if self._options.alias is None or step.verdict not in _CAN_MOVE_ALIAS:
            return step
        alias, released = self._aliases.get(step.function.name, (None, None))
        return plan_alias(step, alias, released, targets, self._options)

    def _note(self, text: str) -> None:
        self._context.output.note(f"{self._where}: {text}" if self._where else text)


def check_names(options: Options, planners: Sequence[Planner], plans: Sequence[PlacePlan]) -> None:
    """Check that each function that is named exists somewhere; raises `ToolError`."""
    found = {(step.function.name, each.place) for each in plans for step in each.steps}
    for text in options.functions:
        name = text.rpartition(":")[2]
        places = [each.account.place for each in planners if not is_elsewhere(text, each.account.place)]
        if not any((name, place) in found for place in places):
            raise ToolError(
                f"the function {text} exists in none of these regions and accounts: check the name and --region"
            )
