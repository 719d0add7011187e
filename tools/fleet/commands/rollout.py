"""The commands `rollout`, `attach` and `detach`: plan, show, ask, then roll out; or resume."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from tools.common.cli import Parser
from tools.common.errors import ToolError, UsageError
from tools.common.output import count
from tools.fleet.aws.account import Account, find_accesses
from tools.fleet.aws.arns import Layer, Place
from tools.fleet.aws.cloudwatch import CloudWatch
from tools.fleet.aws.errors import Interruption, NotFound
from tools.fleet.aws.models import Function
from tools.fleet.aws.objects import Address
from tools.fleet.commands import arguments
from tools.fleet.commands.direction import Direction, ask_for_direction, check_direction, has_two_directions
from tools.fleet.commands.interface import Command, Context
from tools.fleet.commands.journals import Where, check_exists, existing, new
from tools.fleet.commands.planning import Planner, check_names
from tools.fleet.commands.rollout_arguments import add_arguments, options_of
from tools.fleet.commands.scope import open_planned, planned_targets
from tools.fleet.commands.summary import append_results, checked_summary
from tools.fleet.commands.undo import roll_back
from tools.fleet.rollout import options as names
from tools.fleet.rollout import rendering
from tools.fleet.rollout.engine import RollOut
from tools.fleet.rollout.events import Event
from tools.fleet.rollout.gates import Gates
from tools.fleet.rollout.history import DONE, HAS_NEW_VERSION, ROLLED_BACK, History, planned_fields
from tools.fleet.rollout.journal import Journal, read_from, torn_note
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.places import Places
from tools.fleet.rollout.plan import PlacePlan, Step, Targets, Verdict
from tools.fleet.rollout.progress import Progress
from tools.fleet.rollout.selection import NothingSelected
from tools.fleet.rollout.storage import Location
from tools.fleet.rollout.target_version import LayerMissing, refuse_different_versions
from tools.fleet.rollout.traffic import OldAliases, find_old_aliases

# --- The command ------------------------------------------------------------------------------------------------------


def _check(namespace: argparse.Namespace, context: Context) -> None:
    """Check the arguments, and make `journal` the one that is resumed."""
    if namespace.resume and namespace.journal:  # `--resume NAME --journal FILE`: NAME is a function
        namespace.functions.insert(0, [str(namespace.resume)])
    elif namespace.resume:
        namespace.journal = namespace.resume
    if namespace.take_over and not isinstance(namespace.journal, Address):
        namespace.parser.error("--take-over is for a journal in a bucket: add --journal s3://BUCKET/PREFIX/")
    options = options_of(namespace)
    parser: Parser = namespace.parser
    variants = [variant.name for variant in context.manifest.variants]
    if options.variant not in (None, *variants):
        parser.error(f"there is no variant {options.variant!r}; the variants are {', '.join(variants)}")
    if namespace.resume is not None:
        check_exists(context, namespace.journal)
        return
    if namespace.forward or namespace.back:
        parser.error("--forward and --back are directions of --resume: name the journal with --resume FILE")
    if not options.selects_functions:
        all_using = "" if options.is_attach else "--all-using, "
        parser.error(f"no functions are selected: use FUNCTION …, {all_using}--match or --tag")


def _run(namespace: argparse.Namespace, context: Context) -> int:
    context.take_over = namespace.take_over
    arguments.set_speed(context, namespace)
    context.is_verbose = namespace.verbose
    context.summary = checked_summary(namespace.summary)
    options = options_of(namespace)
    if namespace.resume is None:
        return roll_out(context, options, namespace.journal, namespace.dry_run)
    direction = Direction.FORWARD if namespace.forward else Direction.BACK if namespace.back else None
    return resume(context, options, namespace.journal, namespace.dry_run, direction)


ROLL_OUT = Command(
    names.ROLL_OUT,
    "Replace the layer of functions that have it with another version. Other layers and their order stay. "
    "At the first failure beyond --max-failures, and if a gate fails, all changes are rolled back, newest first.",
    lambda parser: add_arguments(parser, has_all_using=True),
    _run,
    check=_check,
)
ATTACH = Command(
    names.ATTACH,
    "Add the layer to functions that do not have it, as their last layer, and set AWS_LAMBDA_EXEC_WRAPPER on managed "
    "runtimes. Otherwise like `rollout`.",
    lambda parser: add_arguments(parser, has_all_using=False),
    _run,
    check=_check,
)
DETACH = Command(
    names.DETACH,
    "Remove the layer and its AWS_LAMBDA_EXEC_WRAPPER from functions. Otherwise like `rollout`.",
    lambda parser: add_arguments(parser, has_all_using=True, has_target=False),
    _run,
    check=_check,
)

# --- The work ---------------------------------------------------------------------------------------------------------


def roll_out(
    context: Context, options: Options, place: Where | None, dry_run: bool = False, torn: Location | None = None
) -> int:
    """Begin a roll-out. Returns the exit status.

    Args:
        torn: a journal without a single complete line, which is overwritten.
    """
    if dry_run:
        return CommandRun(context, options, None).begin()
    try:
        location = torn or new(context, place, options.regions)
        journal = Journal.create(location, options, replace_torn=torn is not None)
        context.environment.ending.before_end(lambda: None if journal.history.is_accepted else journal.discard())
        try:
            return CommandRun(context, options, journal).begin()
        finally:
            if journal.history.is_accepted:
                journal.close()
            else:
                journal.discard()
    except Interruption as error:  # one after the first change has become another error, with the state
        raise ToolError(f"{error}; nothing was changed") from None


def resume(
    context: Context, options: Options, place: Where | None, dry_run: bool = False, direction: Direction | None = None
) -> int:
    """Continue the roll-out of a journal. Returns the exit status.

    Args:
        options: of this command line; see `Options.changed_by`.
        direction: None for the one in which the roll-out was interrupted.
    """
    location = existing(context, place, options.regions)
    is_empty = location.is_empty()
    if is_empty and options.selects_functions:  # the process died before the first line, so nothing was changed
        return roll_out(context, options, place, dry_run, torn=location)
    if is_empty:
        location.read()  # raises ToolError if there is no such file
        raise ToolError(f"{location.name} contains no roll-out, so none was begun: run the command without --resume")
    history = read_from(location)
    stored = Options.of(history.options)
    if options.command != stored.command:
        raise UsageError(f"{location.name} is of ./build.sh {stored.command}: resume it with that command")
    stored = stored.changed_by(options)
    if direction is not Direction.BACK:
        check_direction(history, location.name, direction)
    if direction is None and not dry_run and not stored.yes and has_two_directions(history):
        direction = ask_for_direction(context.output, history)
    if direction is Direction.BACK:
        return roll_back(context, location, options.regions, options.yes, dry_run)
    if dry_run:
        return _show_resume(context, stored, history, options.regions)
    journal = Journal.resume(location)
    if journal.history.torn:
        context.output.note(torn_note(journal.history, journal.name))
    try:
        return CommandRun(context, stored, journal).resume(options.regions)
    finally:
        journal.close()


def _show_resume(context: Context, options: Options, history: History, regions: Sequence[str]) -> int:
    if not history.is_accepted:
        return CommandRun(context, options, None).begin()
    open_planned(context, history, regions)
    records = history.changed if history.stopped else history.pending
    verb = "rolled back" if history.stopped else "rolled out"
    context.output.result(
        lambda: {"command": options.command, "dryRun": True, "functions": [record.arn for record in records]},
        lambda: [f"{history.label(record)}  would be {verb}" for record in records] or ["nothing to do"],
    )
    return 0


class CommandRun:
    """One run of the command: from the plan to the outcome.

    Args:
        journal: None for a dry run, which writes nothing.
    """

    def __init__(self, context: Context, options: Options, journal: Journal | None) -> None:
        self._context = context
        self._output = context.output
        self._output.outlives_reader = True
        self._options = options
        self._journal = journal

    def begin(self) -> int:
        """Make the plan, show it, ask, and carry it out. Returns the exit status."""
        options = self._options
        accesses = find_accesses(self._context.aws, options.regions, options.all_regions, options.roles)
        accounts = [Account.open(access) for access in accesses]
        planners = [Planner(self._context, options, each, is_only=len(accounts) == 1) for each in accounts]
        targets = self._targets(planners)
        if self._journal:
            self._journal.lock(_locked(targets))
        plans = self._plans(planners, targets)
        chosen = [each for each in accounts if any(plan.place == each.place for plan in plans)]
        self._gates(chosen, self._output.note).check_access()
        self._show_plan(plans)
        self._check_plan(plans)
        changed = {plan.place for plan in plans if plan.changes}
        infos = {each.account.place: each.target_infos for each in planners if each.account.place in changed}
        refuse_different_versions(options.to, infos)
        if self._journal is None:
            return 0
        self._write_plan(self._journal, chosen, plans)
        changes = sum(len(plan.changes) for plan in plans)
        if changes and not options.yes and not self._output.confirm(_question(changes, plans)):
            raise ToolError("nothing was changed")
        self._journal.write(Event.ACCEPTED)
        functions = {step.function.arn: step.function for plan in plans for step in plan.steps}
        return self._carry_out(self._journal, chosen, targets, functions)

    def resume(self, regions: Sequence[str]) -> int:
        """Continue where the journal ends. Returns the exit status."""
        journal = self._journal
        assert journal is not None
        history = journal.history
        if not history.is_accepted:
            return self.begin()
        if history.outcome:
            self._output.note(f"{journal.name} is complete: {history.outcome}")
            return self._report(journal)
        accounts = open_planned(self._context, history, regions)
        targets = planned_targets(history)
        journal.lock(_locked(targets))
        if not history.stopped:
            self._plan_again(journal, accounts, targets)
        return self._carry_out(journal, accounts, targets, {})

    # --- The plan

    def _targets(self, planners: Sequence[Planner]) -> dict[Place, Targets]:
        """Return the target versions in each region and account; with `--all-regions`, in those with the layer.

        Raises:
            LayerMissing: a region that was named, or that has functions with the layer, has no target version.
        """
        missing: list[tuple[Place, LayerMissing]] = []

        def read(planner: Planner) -> Targets | None:
            try:
                return planner.targets()
            except LayerMissing as error:
                if not self._options.all_regions or planner.uses_layer():
                    raise
                missing.append((planner.account.place, error))
                return None

        with self._pool() as pool:
            found = list(pool.map(read, planners))
        if missing:
            if len(missing) == len(planners):
                raise missing[0][1]
            self._output.note(f"without the layer, so left out: {rendering.listed([place for place, _ in missing])}")
        return {each.account.place: targets for each, targets in zip(planners, found, strict=True) if targets}

    def _plans(self, planners: Sequence[Planner], targets: Mapping[Place, Targets]) -> list[PlacePlan]:
        """Return the plans of all regions and accounts in which a function is selected."""
        nothing: list[tuple[Place, NothingSelected]] = []

        def read(planner: Planner) -> PlacePlan | None:
            try:
                return planner.plan(targets[planner.account.place])
            except NothingSelected as error:
                nothing.append((planner.account.place, error))
                return None

        chosen = [each for each in planners if each.account.place in targets]
        with self._pool() as pool:
            plans = [plan for plan in pool.map(read, chosen) if plan]
        if len(planners) > 1:
            check_names(self._options, chosen, plans)
        if not plans:
            raise nothing[0][1]
        if nothing:
            self._output.note(f"no function is selected in {rendering.listed([place for place, _ in nothing])}")
        return plans

    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._options.parallel_regions)

    def _plan_again(self, journal: Journal, accounts: Sequence[Account], targets: Mapping[Place, Targets]) -> None:
        """Plan the functions again that were skipped because their alias was not as in the plan."""
        planners = {
            each.place: Planner(self._context, self._options, each, is_only=len(accounts) == 1) for each in accounts
        }
        for record in journal.history.postponed:
            planner = planners[record.place]
            try:
                function = planner.account.functions.get(record.name)
            except NotFound:
                continue  # the reason of the skip remains
            step = planner.plan_again(function, targets[record.place])
            journal.write(Event.PLANNED_AGAIN, function=record.arn, **planned_fields(step))
            if step.verdict is Verdict.UP_TO_DATE:
                journal.write(Event.UNCHANGED, function=record.arn, reason="somebody else has done it")
            elif step.verdict is not Verdict.CHANGE:
                journal.write(Event.POSTPONED, function=record.arn, reason=step.reason)

    def _show_plan(self, plans: Sequence[PlacePlan]) -> None:
        width = 0 if self._context.is_verbose else shutil.get_terminal_size().columns
        lines = list(rendering.plan_lines(self._options, plans, width))
        if self._journal is None:
            self._output.result(lambda: rendering.plan_document(self._options, plans), lambda: lines)
        elif not self._output.as_json or not self._options.yes:  # the plan must be visible before the question
            self._output.show(lines)

    def _check_plan(self, plans: Sequence[PlacePlan]) -> None:
        steps = [(plan, step) for plan in plans for step in plan.steps]
        blocked = [(plan, step) for plan, step in steps if step.verdict is Verdict.BLOCKED]
        if len(blocked) > self._options.max_failures:
            plan, step = blocked[0]
            more = f" (and {len(blocked) - 1} more)" if len(blocked) > 1 else ""
            where = f" in {plan.place}" if len(plans) > 1 else ""
            raise ToolError(
                f"nothing was changed, because this would fail: {step.function.name}{where}: {step.reason}{more}"
            )
        if not any(step.verdict in (Verdict.CHANGE, Verdict.UP_TO_DATE) for _, step in steps):
            first = next((f"; {step.function.name}: {step.reason}" for _, step in steps if step.reason), "")
            raise ToolError(f"nothing to do: {rendering.summary([step for _, step in steps])}{first}")

    def _write_plan(self, journal: Journal, accounts: Sequence[Account], plans: Sequence[PlacePlan]) -> None:
        for number, (account, plan) in enumerate(zip(accounts, plans, strict=True), start=1):
            journal.write(
                Event.ACCOUNT,
                **asdict(plan.place),
                number=number,
                role=plan.role,
                caller=account.identity.caller,
                targets={layer.name: str(version) for layer, version in plan.targets.items()},
            )
            journal.write_all((Event.PLANNED, _planned(step)) for step in plan.steps)

    # --- The roll-out

    def _carry_out(
        self,
        journal: Journal,
        accounts: Sequence[Account],
        targets: Mapping[Place, Targets],
        planned: Mapping[str, Function],
    ) -> int:
        history = journal.history
        total = len(history.changed if history.stopped else history.pending)
        progress = Progress(total, self._output, clock=self._context.environment.pace.clock)
        places = Places({each.place: each.functions for each in accounts}, targets)
        gates = self._gates(accounts, progress.note)
        ending = self._context.environment.ending
        roll_out = RollOut(places, journal, self._options, gates, progress, self._context.workers, ending)
        self._output.note(f"journal: {journal.name}")
        try:
            with ending.orderly(self._command(journal)):
                roll_out.run(planned)
        except Interruption as error:
            raise ToolError(f"{error}; {self._state(journal)}") from None
        except KeyboardInterrupt:
            self._output.note(f"interrupted; {self._state(journal)}")
            raise
        return self._report(journal, self._old_aliases(journal, places))

    def _gates(self, accounts: Sequence[Account], note: Callable[[str], None]) -> Gates:
        environment = self._context.environment
        aws_of = {each.place: each.aws for each in accounts}

        def cloudwatch(place: Place) -> CloudWatch:
            return CloudWatch(aws_of[place], place.region)

        return Gates(self._options, list(aws_of), cloudwatch, environment.pace, environment.now, note)

    def _old_aliases(self, journal: Journal, places: Places) -> OldAliases | None:
        """Return which aliases still run the old version; None if that is not a question."""
        history = journal.history
        if self._options.alias or self._options.is_detach or history.outcome != DONE:
            return None
        changed = [each for each in history.records.values() if each.state in HAS_NEW_VERSION]
        return find_old_aliases(places, changed, history.label, self._context.workers)

    def _state(self, journal: Journal) -> str:
        """Return how far the roll-out came, and the command that continues it."""
        history = journal.history
        total = count(len(history.records), "function")
        verb = "has" if history.with_new_version == 1 else "have"
        undo = "" if history.stopped else ", or undo the changes with --back instead"
        done = f"{history.with_new_version:,} of {total} {verb} the new version"
        return f"{done}; continue with {self._command(journal)}{undo}"

    def _command(self, journal: Journal) -> str:
        """Return the command that continues."""
        direction = "" if journal.history.stopped else " --forward"
        return f"./build.sh {self._options.command} --resume {journal.name}{direction}"

    def _report(self, journal: Journal, old_aliases: OldAliases | None = None) -> int:
        history = journal.history
        self._output.result(
            lambda: {"command": self._options.command, **rendering.results(history, journal.name, old_aliases)},
            lambda: rendering.result_lines(history, old_aliases),
        )
        if self._context.summary:
            append_results(self._context.summary, history)
        is_skipped = any(record.is_postponed for record in history.records.values())
        if history.outcome == DONE and not history.failed and not is_skipped:
            return 0
        if history.postponed and not history.stopped:
            number = count(len(history.postponed), "skipped function")
            command = f"./build.sh {self._options.command} --resume {journal.name}"
            self._output.note(f"plan {number} again with {command}")
        if history.outcome != ROLLED_BACK and history.changed:
            self._output.note(f"undo the changes with ./build.sh rollback {journal.name}")
        return 1


def _planned(step: Step) -> dict[str, Any]:
    """Return the fields of the event `planned`."""
    return {
        "function": step.function.arn,
        "name": step.function.name,
        "verdict": step.verdict.value,
        **planned_fields(step),
    }


def _question(changes: int, plans: Sequence[PlacePlan]) -> str:
    where = f" in {rendering.scope_text([plan.place for plan in plans])}" if len(plans) > 1 else ""
    return f"Change {count(changes, 'function')}{where}?"


def _locked(targets: Mapping[Place, Targets]) -> list[Layer]:
    """Return what a roll-out locks: its layers, in the accounts and regions of the functions."""
    return [place.layer(layer.name) for place, chosen in targets.items() for layer in chosen]
