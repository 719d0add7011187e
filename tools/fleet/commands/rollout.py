"""The commands `rollout`, `attach` and `detach`: plan, show, ask, then roll out; or resume."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from tools.common.cli import Parser
from tools.common.errors import ToolError, UsageError
from tools.common.output import count
from tools.fleet.aws.account import Account
from tools.fleet.aws.arns import Layer, LayerVersion
from tools.fleet.aws.cloudwatch import CloudWatch
from tools.fleet.aws.errors import Interruption, NotFound
from tools.fleet.aws.functions import Functions
from tools.fleet.aws.models import Function, Unavailable
from tools.fleet.aws.objects import Address
from tools.fleet.commands import arguments
from tools.fleet.commands.direction import Direction, ask_for_direction, check_direction, has_two_directions
from tools.fleet.commands.interface import Command, Context
from tools.fleet.commands.journals import Where, existing, new
from tools.fleet.commands.rollout_arguments import add_arguments, options_of
from tools.fleet.commands.summary import append_results
from tools.fleet.commands.undo import roll_back
from tools.fleet.rollout import options as names
from tools.fleet.rollout import rendering
from tools.fleet.rollout.aliases import plan_alias
from tools.fleet.rollout.engine import RollOut
from tools.fleet.rollout.events import Event
from tools.fleet.rollout.gates import Gates
from tools.fleet.rollout.history import DONE, HAS_NEW_VERSION, ROLLED_BACK, History, planned_fields
from tools.fleet.rollout.journal import Journal, read_from, torn_note
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.plan import Step, Targets, Verdict, check, needed_versions, plan
from tools.fleet.rollout.progress import Progress, Reading
from tools.fleet.rollout.selection import select
from tools.fleet.rollout.storage import Location
from tools.fleet.rollout.target_version import project_layers, refuse_downgrade, targets
from tools.fleet.rollout.traffic import OldAliases, find_old_aliases

# --- The command ------------------------------------------------------------------------------------------------------


def _run(namespace: argparse.Namespace, context: Context) -> int:
    context.take_over = namespace.take_over
    arguments.set_speed(context, namespace)
    context.is_verbose = namespace.verbose
    context.summary = namespace.summary
    journal: Where | None = namespace.journal
    if namespace.resume and journal:  # `--resume NAME --journal FILE`: NAME is a function
        namespace.functions.insert(0, [str(namespace.resume)])
    elif namespace.resume:
        journal = namespace.resume
    if namespace.take_over and not isinstance(journal, Address):
        namespace.parser.error("--take-over is for a journal in a bucket: add --journal s3://BUCKET/PREFIX/")
    options = options_of(namespace)
    parser: Parser = namespace.parser
    variants = [variant.name for variant in context.manifest.variants]
    if options.variant not in (None, *variants):
        parser.error(f"there is no variant {options.variant!r}; the variants are {', '.join(variants)}")
    if namespace.resume is not None:
        direction = Direction.FORWARD if namespace.forward else Direction.BACK if namespace.back else None
        return resume(context, options, journal, namespace.dry_run, direction)
    if namespace.forward or namespace.back:
        parser.error("--forward and --back are directions of --resume: name the journal with --resume FILE")
    if not options.selects_functions:
        all_using = "" if options.is_attach else "--all-using, "
        parser.error(f"no functions are selected: use FUNCTION …, {all_using}--match or --tag")
    return roll_out(context, options, journal, namespace.dry_run)


ROLL_OUT = Command(
    names.ROLL_OUT,
    "Replace the layer of functions that have it with another version. Other layers and their order stay. "
    "At the first failure beyond --max-failures, and if a gate fails, all changes are rolled back, newest first.",
    lambda parser: add_arguments(parser, has_all_using=True),
    _run,
)
ATTACH = Command(
    names.ATTACH,
    "Add the layer to functions that do not have it, as their last layer, and set AWS_LAMBDA_EXEC_WRAPPER on managed "
    "runtimes. Otherwise like `rollout`.",
    lambda parser: add_arguments(parser, has_all_using=False),
    _run,
)
DETACH = Command(
    names.DETACH,
    "Remove the layer and its AWS_LAMBDA_EXEC_WRAPPER from functions. Otherwise like `rollout`.",
    lambda parser: add_arguments(parser, has_all_using=True),
    _run,
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
        location = torn or new(context, place, options.region)
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
    location = existing(context, place, options.region)
    is_empty = location.is_empty()
    if is_empty and options.selects_functions:  # the process died before the first line, so nothing was changed
        return roll_out(context, options, place, dry_run, torn=location)
    if is_empty:
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
        return roll_back(context, location, options.region, options.yes, dry_run)
    if dry_run:
        return _show_resume(context, stored, history, options.region)
    journal = Journal.resume(location)
    if journal.history.torn:
        context.output.note(torn_note(journal.history, journal.name))
    try:
        return CommandRun(context, stored, journal).resume(options.region)
    finally:
        journal.close()


def _show_resume(context: Context, options: Options, history: History, region: str | None) -> int:
    if not history.is_accepted:
        return CommandRun(context, options, None).begin()
    _open(context, history, region)
    records = history.changed if history.stopped else history.pending
    verb = "rolled back" if history.stopped else "rolled out"
    context.output.result(
        lambda: {"command": options.command, "dryRun": True, "functions": [record.arn for record in records]},
        lambda: [f"{record.name}  would be {verb}" for record in records] or ["nothing to do"],
    )
    return 0


def _open(context: Context, history: History, region: str | None) -> Account:
    """Open the account of a journal; raises as `Account.open_same`."""
    assert history.place is not None  # the table of events requires `account` before `accepted`
    return Account.open_same(context.aws, history.place, region)


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
        account = Account.open(self._context.aws, self._options.region)
        targets = self._targets(account)
        if self._journal:
            self._journal.lock(_locked(account, targets))
        steps = self._plan(account, targets)
        self._gates(account, self._output.note).check_access()
        self._show_plan(account, targets, steps)
        self._check_plan(steps)
        if self._journal is None:
            return 0
        self._write_plan(self._journal, account, targets, steps)
        changes = [step for step in steps if step.verdict is Verdict.CHANGE]
        if changes and not self._options.yes and not self._output.confirm(f"Change {count(len(changes), 'function')}?"):
            raise ToolError("nothing was changed")
        self._journal.write(Event.ACCEPTED)
        return self._carry_out(self._journal, account, targets, {step.function.arn: step.function for step in steps})

    def resume(self, region: str | None) -> int:
        """Continue where the journal ends. Returns the exit status."""
        journal = self._journal
        assert journal is not None
        history = journal.history
        if not history.is_accepted:
            return self.begin()
        if history.outcome:
            self._output.note(f"{journal.name} is complete: {history.outcome}")
            return self._report(journal)
        account = _open(self._context, history, region)
        versions = [LayerVersion.parse(arn) for arn in history.targets.values()]
        targets = {version.layer: version for version in versions}
        journal.lock(_locked(account, targets))
        if not history.stopped:
            self._plan_again(journal, account, targets)
        return self._carry_out(journal, account, targets, {})

    # --- The plan

    def _targets(self, account: Account) -> Targets:
        if self._options.is_detach:
            return self._detached(account)
        found = self._versions(account, self._options.to)
        for arn, version in account.read_versions([str(version) for version in found.values()]).items():
            if isinstance(version, Unavailable):
                problem = "does not exist" if version.is_deleted else "is not shared with this account"
                raise ToolError(f"{arn} {problem}: ./build.sh verify checks what is published")
        return found

    def _detached(self, account: Account) -> Targets:
        """Return the layers that are removed. A journal needs a version of each, which is of no importance here."""
        names, owner = self._options.variant, self._options.layer_account
        chosen = tuple(each for each in self._context.manifest.variants if names in (None, each.name))
        layers = project_layers(chosen, account.place, owner).values()
        return {layer: layer.version(1) for layer in layers}

    def _origin(self, account: Account) -> LayerVersion | None:
        """Return the version of `--from`."""
        if self._options.origin is None:
            return None
        return next(iter(self._versions(account, self._options.origin).values()))

    def _versions(self, account: Account, text: str | None) -> Mapping[Layer, LayerVersion]:
        """Return the layer versions that `--to` or `--from` names."""
        options, manifest = self._options, self._context.manifest
        chosen = tuple(each for each in manifest.variants if options.variant in (None, each.name))
        layers = project_layers(chosen, account.place, options.layer_account)
        main = next(each for each in manifest.variants if each.name == (options.variant or manifest.slim.name))
        if options.is_attach:  # adds one layer
            layers = {main.layer_name: layers[main.layer_name]}
        return targets(text, manifest, layers, layers[main.layer_name], account.place, account.layers)

    def _plan(self, account: Account, targets: Targets) -> list[Step]:
        functions = select(
            self._options,
            account.functions,
            targets.keys(),
            account.place,
            self._output.note,
            self._context.workers,
            self._origin(account),
        )
        if self._options.to is None and not self._options.is_detach:
            refuse_downgrade(targets, functions, account.place, account.layers)
        return self._plan_functions(account, targets, functions)

    def _plan_functions(self, account: Account, targets: Targets, functions: Sequence[Function]) -> list[Step]:
        steps = plan(functions, targets, self._options)
        versions = account.read_versions(needed_versions(steps))
        changes = [step.function.name for step in steps if step.verdict is Verdict.CHANGE]
        must_be_signed = account.code_signing.enforced(changes)
        steps = [check(step, versions, must_be_signed) for step in steps]
        if self._options.alias is None:
            return steps
        reading = Reading(len(steps), "alias", self._output.note, self._context.environment.pace.clock)

        def read(step: Step) -> Step:
            with_alias = self._with_alias(step, account.functions, targets)
            reading()
            return with_alias

        with ThreadPoolExecutor(self._context.workers) as pool:
            return list(pool.map(read, steps))

    def _with_alias(self, step: Step, functions: Functions, targets: Targets) -> Step:
        """Add the alias, with the differences of its version from `$LATEST`."""
        if step.verdict not in (Verdict.CHANGE, Verdict.UP_TO_DATE):
            return step
        try:
            alias = functions.alias(step.function.name, self._options.alias or "")
            released = functions.get(step.function.name, alias.version)
        except NotFound:
            return plan_alias(step, None, None, targets, self._options)
        return plan_alias(step, alias, released, targets, self._options)

    def _plan_again(self, journal: Journal, account: Account, targets: Targets) -> None:
        """Plan the functions again that were skipped because their alias was not as in the plan."""
        for record in journal.history.postponed:
            try:
                function = account.functions.get(record.name)
            except NotFound:
                continue  # the reason of the skip remains
            (step,) = self._plan_functions(account, targets, [function])
            journal.write(Event.PLANNED_AGAIN, function=record.arn, **planned_fields(step))
            if step.verdict is Verdict.UP_TO_DATE:
                journal.write(Event.UNCHANGED, function=record.arn, reason="somebody else has done it")
            elif step.verdict is not Verdict.CHANGE:
                journal.write(Event.POSTPONED, function=record.arn, reason=step.reason)

    def _show_plan(self, account: Account, targets: Targets, steps: Sequence[Step]) -> None:
        def document() -> object:
            return rendering.plan_document(self._options, account.place, targets, steps)

        width = 0 if self._context.is_verbose else shutil.get_terminal_size().columns
        lines = list(rendering.plan_lines(self._options, account.place, targets, steps, width))
        if self._journal is None:
            self._output.result(document, lambda: lines)
        elif not self._output.as_json or not self._options.yes:  # the plan must be visible before the question
            self._output.show(lines)

    def _check_plan(self, steps: Sequence[Step]) -> None:
        blocked = [step for step in steps if step.verdict is Verdict.BLOCKED]
        if len(blocked) > self._options.max_failures:
            more = f" (and {len(blocked) - 1} more)" if len(blocked) > 1 else ""
            reason = f"{blocked[0].function.name}: {blocked[0].reason}{more}"
            raise ToolError(f"nothing was changed, because this would fail: {reason}")
        if not any(step.verdict in (Verdict.CHANGE, Verdict.UP_TO_DATE) for step in steps):
            first = next((f"; {step.function.name}: {step.reason}" for step in steps if step.reason), "")
            raise ToolError(f"nothing to do: {rendering.summary(steps)}{first}")

    def _write_plan(self, journal: Journal, account: Account, targets: Targets, steps: Sequence[Step]) -> None:
        journal.write(
            Event.ACCOUNT,
            **asdict(account.place),
            caller=account.identity.caller,
            targets={layer.name: str(version) for layer, version in targets.items()},
        )
        journal.write_all(
            (
                Event.PLANNED,
                {
                    "function": step.function.arn,
                    "name": step.function.name,
                    "verdict": step.verdict.value,
                    **planned_fields(step),
                },
            )
            for step in steps
        )

    # --- The roll-out

    def _carry_out(self, journal: Journal, account: Account, targets: Targets, planned: Mapping[str, Function]) -> int:
        history = journal.history
        total = len(history.changed if history.stopped else history.pending)
        progress = Progress(total, self._output, clock=self._context.environment.pace.clock)
        workers = self._context.workers
        gates = self._gates(account, progress.note)
        ending = self._context.environment.ending
        roll_out = RollOut(account.functions, journal, targets, self._options, gates, progress, workers, ending)
        self._output.note(f"journal: {journal.name}")
        try:
            with ending.orderly(self._command(journal)):
                roll_out.run(planned)
        except Interruption as error:
            raise ToolError(f"{error}; {self._state(journal)}") from None
        except KeyboardInterrupt:
            self._output.note(f"interrupted; {self._state(journal)}")
            raise
        return self._report(journal, self._old_aliases(journal, account, targets))

    def _gates(self, account: Account, note: Callable[[str], None]) -> Gates:
        environment = self._context.environment

        def cloudwatch() -> CloudWatch:
            return CloudWatch(self._context.aws, account.place.region)

        return Gates(self._options, cloudwatch, environment.pace, environment.now, note)

    def _old_aliases(self, journal: Journal, account: Account, targets: Targets) -> OldAliases | None:
        """Return which aliases still run the old version; None if that is not a question."""
        if self._options.alias or self._options.is_detach or journal.history.outcome != DONE:
            return None
        changed = [each.name for each in journal.history.records.values() if each.state in HAS_NEW_VERSION]
        return find_old_aliases(account.functions, changed, targets, self._context.workers)

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


def _locked(account: Account, targets: Targets) -> list[Layer]:
    """Return what a roll-out locks: its layers, in the account and region of the functions."""
    return [account.place.layer(layer.name) for layer in targets]
