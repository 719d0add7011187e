"""The commands `rollout`, `attach` and `rollback`: choose, show, ask, and only then do."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from tools.common import output as terminal
from tools.common.paths import ROOT, shown
from tools.fleet import FleetError, UsageError
from tools.fleet.aws.account import Session
from tools.fleet.aws.arns import LayerVersion, Place
from tools.fleet.aws.functions import Functions, GoneError, NoAccessError
from tools.fleet.aws.models import NotUsable
from tools.fleet.aws.session import WORKERS, Aws
from tools.fleet.rollout import plan
from tools.fleet.rollout import rendering as telling
from tools.fleet.rollout.engine import RollOut
from tools.fleet.rollout.journal import DONE, PUT_BACK, ROLLBACK, History, Journal, files_in, read
from tools.fleet.rollout.options import Request
from tools.fleet.rollout.plan import Goal, Step, Verdict
from tools.fleet.rollout.rollback import put_back
from tools.fleet.rollout.selection import select
from tools.fleet.rollout.target_version import own_layers, targets
from tools.packaging.manifest import Manifest

JOURNALS = ROOT / "rollouts"


class Job:
    """A roll-out from its plan to its end.

    Args:
        journal: ``None`` for a dry run, which writes nothing.
    """

    def __init__(self, aws: Aws, manifest: Manifest, request: Request, journal: Journal | None, as_json: bool) -> None:
        self._aws = aws
        self._manifest = manifest
        self._request = request
        self._journal = journal
        self._as_json = as_json

    def begin(self) -> int:
        """Make the plan, show it, ask, and carry it out. Returns the exit status."""
        session = Session.open(self._aws, self._request.region)
        goal = self._goal(session)
        steps = self._plan(session, goal)
        self._show(session.place, goal, steps)
        blocked = [step for step in steps if step.verdict is Verdict.BLOCKED]
        if len(blocked) > self._request.max_failures:
            first = f"{blocked[0].function.name}: {blocked[0].reason}"
            more = f" (and {len(blocked) - 1} more)" if len(blocked) > 1 else ""
            raise FleetError(f"nothing was changed, as this would fail: {first}{more}")
        changing = [step for step in steps if step.verdict is Verdict.CHANGE]
        if not changing and not any(step.verdict is Verdict.RIGHT for step in steps):
            raise FleetError(f"nothing is left to do: {telling.summary([step.verdict.value for step in steps])}")
        if self._journal is None:
            if self._as_json:
                print(
                    terminal.document(telling.plan_document(self._request.command, session.place, goal, steps)),
                    flush=True,
                )
            return 0
        self._write_plan(self._journal, session, goal, steps)
        if changing and not self._request.yes and not terminal.confirm(f"Change {len(changing)} of them?"):
            raise FleetError("nothing was changed")
        self._journal.write("accepted")
        return self._carry_out(self._journal, session, goal, steps)

    def resume(self, region: str | None) -> int:
        """Go on where the journal ends. Returns the exit status."""
        journal = self._journal
        assert journal is not None
        history = journal.history
        if not history.is_accepted:
            return self.begin()
        if history.outcome:
            terminal.remark(f"{shown(journal.path)} has come to its end: {history.outcome}")
            return self._report(journal, [])
        session = _session_of(self._aws, history, region)
        goal = self._goal_of(history)
        return self._carry_out(journal, session, goal, [])

    def _goal(self, session: Session) -> Goal:
        request, variants = self._request, self._manifest.variants
        chosen = tuple(each for each in variants if request.variant in (None, each.name))
        layers = own_layers(chosen, session.place, request.layer_account)
        main = next(each for each in variants if each.name == (request.variant or self._manifest.slim.name))
        if request.command == "attach":  # one layer is added, and it must be known which
            layers = {main.layer_name: layers[main.layer_name]}
        found = targets(request.to, self._manifest, layers, layers[main.layer_name], session.place, session.layers)
        for arn, held in session.lookup([str(version) for version in found.values()]).items():
            if isinstance(held, NotUsable):
                why = "does not exist" if held.deleted else "is not shared with this account"
                raise FleetError(f"{arn} {why}: ./build.sh verify tells what is published")
        return Goal(found, request.command == "attach", request.include_cloudformation)

    def _goal_of(self, history: History) -> Goal:
        versions = [LayerVersion.parse(arn) for arn in history.targets.values()]
        goal = {version.layer: version for version in versions}
        return Goal(goal, self._request.command == "attach", self._request.include_cloudformation)

    def _plan(self, session: Session, goal: Goal) -> list[Step]:
        request = self._request
        found = select(request.selection(), session.functions, list(goal.targets), session.place, goal.attach)
        steps = plan.plan(found, goal)
        versions = session.lookup(plan.needed(steps))
        steps = [plan.check(step, versions) for step in steps]
        if request.alias is None:
            return steps
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(lambda step: _with_alias(step, session.functions, str(request.alias)), steps))

    def _write_plan(self, journal: Journal, session: Session, goal: Goal, steps: Sequence[Step]) -> None:
        journal.write(
            "identity",
            **asdict(session.place),
            caller=session.identity.caller,
            targets={layer.name: str(version) for layer, version in goal.targets.items()},
        )
        for step in steps:
            function = step.function
            journal.write(
                "planned",
                function=function.arn,
                name=function.name,
                verdict=step.verdict.value,
                reason=step.reason,
                old=step.old,
                new=step.new,
                revision=function.revision,
            )

    def _carry_out(self, journal: Journal, session: Session, goal: Goal, steps: Sequence[Step]) -> int:
        history = journal.history
        total = len(history.touched if history.stopped else history.remaining)
        progress = terminal.Progress(total, self._as_json)
        roll_out = RollOut(session.functions, journal, goal, self._request.settings(), progress)
        terminal.remark(f"journal: {shown(journal.path)}")
        try:
            roll_out.run({step.function.arn: step.function for step in steps})
        except NoAccessError as error:
            raise FleetError(f"{error}; then: {self._go_on(journal)}") from None
        except KeyboardInterrupt:
            terminal.remark(f"interrupted; to go on: {self._go_on(journal)}")
            raise
        return self._report(journal, steps)

    def _go_on(self, journal: Journal) -> str:
        return f"./build.sh {self._request.command} --resume {shown(journal.path)}"

    def _report(self, journal: Journal, steps: Sequence[Step]) -> int:
        history = journal.history
        if self._as_json:
            print(terminal.document({"command": self._request.command, **telling.results(journal)}), flush=True)
        else:
            print("\n".join(telling.outcomes(history)), flush=True)
        if history.outcome == DONE and not history.failed:
            return 0
        if history.outcome != PUT_BACK and history.touched:
            terminal.remark(f"to put back what was changed: ./build.sh rollback {shown(journal.path)}")
        return 1

    def _show(self, place: Place, goal: Goal, steps: Sequence[Step]) -> None:
        if not self._as_json:
            print("\n".join(telling.plan_listing(place, goal, steps)), flush=True)
        elif not self._request.yes and self._journal is not None:  # the answer to a question needs to be seen
            terminal.remark("\n".join(telling.plan_listing(place, goal, steps)))


def _with_alias(step: Step, functions: Functions, alias: str) -> Step:
    """Take the alias into a step: one that leads to other layers is moved, even where the function is right."""
    if step.verdict not in (Verdict.CHANGE, Verdict.RIGHT):
        return step
    try:
        held = functions.get(step.function.name, alias)
    except GoneError:
        reason = f"it has no alias {alias}: create it, or roll out without --publish-alias"
        return replace(step, verdict=Verdict.BLOCKED, new=step.old, reason=reason)
    if step.verdict is Verdict.RIGHT and held.layers != step.old:
        return replace(step, verdict=Verdict.CHANGE, reason=f"its alias {alias} leads to other layers")
    return step


def _session_of(aws: Aws, history: History, region: str | None) -> Session:
    assert history.place is not None  # where something was accepted, or touched, there is an identity
    return Session.at(aws, history.place, region)


def roll_out(
    aws: Aws,
    manifest: Manifest,
    request: Request,
    path: Path | None,
    dry_run: bool,
    as_json: bool,
    over_torn: bool = False,
) -> int:
    """Begin a roll-out. Returns the exit status."""
    if dry_run:
        return Job(aws, manifest, request, None, as_json).begin()
    journal = Journal.create(path or new_path(), request.command, asdict(request), over_torn)
    try:
        return Job(aws, manifest, request, journal, as_json).begin()
    finally:
        if journal.history.is_accepted:
            journal.close()
        else:
            journal.discard()


def resume(aws: Aws, manifest: Manifest, asked: Request, path: Path | None, dry_run: bool, as_json: bool) -> int:
    """Go on with the roll-out of a journal. Returns the exit status."""
    path = path or _unfinished()
    is_new = not path.exists() or b"\n" not in path.read_bytes()
    if is_new and asked.selects:  # it died before the journal had a line, so nothing was begun
        return roll_out(aws, manifest, asked, path, dry_run, as_json, over_torn=True)
    if is_new:
        raise FleetError(f"{shown(path)} holds no roll-out, so none was begun: run it without --resume")
    history = read(path)
    kept = Request.of(history.request)
    if asked.command != kept.command:
        raise UsageError(f"{shown(path)} is of ./build.sh {kept.command}: resume it with that")
    if asked.selects and asked.differs(kept):
        raise UsageError(f"{shown(path)} holds another roll-out: leave out everything but --resume and the journal")
    kept = replace(kept, yes=kept.yes or asked.yes, region=asked.region or kept.region)
    if dry_run:
        return _show_resume(aws, manifest, kept, history, asked.region, as_json)
    journal = Journal.resume(path)
    try:
        return Job(aws, manifest, kept, journal, as_json).resume(asked.region)
    finally:
        journal.close()


def _show_resume(
    aws: Aws, manifest: Manifest, request: Request, history: History, region: str | None, as_json: bool
) -> int:
    if not history.is_accepted:
        return Job(aws, manifest, request, None, as_json).begin()
    _session_of(aws, history, region)
    records = history.touched if history.stopped else history.remaining
    if as_json:
        print(terminal.document({"dryRun": True, "functions": [record.arn for record in records]}))
    else:
        verb = "put back" if history.stopped else "brought to its end"
        print("\n".join(f"{record.name}  would be {verb}" for record in records) or "nothing is left to do")
    return 0


def roll_back(aws: Aws, path: Path, region: str | None, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Put back what the roll-out of the journal at ``path`` changed. Returns the exit status."""
    if dry_run:
        history = read(path)
        if history.touched:
            _session_of(aws, history, region)
        print(
            "\n".join(telling.way_back_listing(history))
            if not as_json
            else terminal.document(telling.way_back_document(history))
        )
        return 0
    journal = Journal.resume(path)
    try:
        return _roll_back(aws, journal, region, yes, as_json)
    finally:
        journal.close()


def _roll_back(aws: Aws, journal: Journal, region: str | None, yes: bool, as_json: bool) -> int:
    history = journal.history
    if history.place is None or not history.touched:
        terminal.remark(f"{shown(journal.path)}: nothing is to be put back")
        if as_json:
            print(terminal.document({"command": "rollback", **telling.results(journal)}), flush=True)
        return 0
    session = _session_of(aws, history, region)
    (terminal.remark if as_json else print)("\n".join(telling.way_back_listing(history)))
    if not yes and not terminal.confirm(f"Put back {terminal.count(len(history.touched), 'function')}?"):
        raise FleetError("nothing was changed")
    if not history.stopped:
        journal.write("stop", reason=ROLLBACK)
    progress = terminal.Progress(len(history.touched), as_json)
    if put_back(session.functions, journal, progress):
        journal.write("end", outcome=PUT_BACK)
    if as_json:
        print(terminal.document({"command": "rollback", **telling.results(journal)}), flush=True)
    else:
        print("\n".join(telling.outcomes(history)), flush=True)
    left = any(record.state == "left" for record in history.records.values())
    return 1 if history.touched or left else 0


def new_path() -> Path:
    """A journal of its own for each roll-out."""
    return JOURNALS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.jsonl"


def _unfinished() -> Path:
    found = [path for path in files_in(JOURNALS) if not read(path).outcome]
    if len(found) != 1:
        listed = f" ({', '.join(shown(path) for path in found)})" if found else ""
        raise FleetError(
            f"{terminal.count(len(found), 'roll-out')} in {shown(JOURNALS)} can be resumed{listed}: name the journal"
        )
    return found[0]
