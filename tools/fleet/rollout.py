"""The commands `rollout`, `attach` and `rollback`: choose, show, ask, and only then do."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.fleet import ROOT, FleetError, UsageError, plan, terminal
from tools.fleet.arns import LayerVersion, Place, layer_of, short
from tools.fleet.aws import WORKERS, Aws, Identity
from tools.fleet.carry_out import RollOut, Settings
from tools.fleet.functions import Functions, GoneError, NoAccessError
from tools.fleet.journal import DONE, PUT_BACK, History, Journal, Record, files_in, read
from tools.fleet.layers import Layers
from tools.fleet.model import LayerInfo, NotUsable
from tools.fleet.plan import Goal, Step, Verdict
from tools.fleet.put_back import put_back
from tools.fleet.selection import Selection, select
from tools.fleet.target import own_layers, targets
from tools.packaging.manifest import SLIM, Manifest
from tools.packaging.sources import shown

JOURNALS = ROOT / "rollouts"

_NAMES_IN_A_HINT = 5


@dataclass(frozen=True)
class Request:
    """What was asked for, as the journal keeps it: all that a roll-out that died can be begun anew with.

    Args:
        probe: the event, as text.
        yes: the plan needs no consent.
    """

    command: str
    functions: tuple[str, ...] = ()
    all_using: bool = False
    match: str = ""
    tags: tuple[str, ...] = ()
    region: str | None = None
    variant: str | None = None
    layer_account: str | None = None
    to: str | None = None
    canary: int = 0
    probe: str | None = None
    alias: str | None = None
    max_failures: int = 0
    include_cloudformation: bool = False
    yes: bool = False

    @classmethod
    def of(cls, kept: dict[str, Any]) -> Request:
        """Read it back; raises ``FleetError`` where it was not kept so."""
        try:
            fields: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()
            }
            return cls(**fields)
        except TypeError:
            raise FleetError("the journal is of another version of this tool: use that one") from None

    @property
    def selects(self) -> bool:
        """Whether it says which functions."""
        return bool(self.functions or self.all_using or self.match or self.tags)

    def differs(self, other: Request) -> bool:
        """Tell whether it is about other functions, or another goal."""
        return replace(self, yes=False, region=None) != replace(other, yes=False, region=None)

    def settings(self) -> Settings:
        """How to go about it."""
        probe = None if self.probe is None else self.probe.encode()
        return Settings(self.canary, probe, self.alias, self.max_failures)


@dataclass(frozen=True)
class Session:
    """One command at work in one region of one account."""

    identity: Identity
    functions: Functions
    layers: Layers

    @classmethod
    def open(cls, aws: Aws, region: str | None) -> Session:
        """Find out who calls, and where."""
        name = aws.region(region)
        identity = aws.identity(name)
        return cls(identity, Functions(aws, name), Layers(aws, name))

    @property
    def place(self) -> Place:
        """Where it works."""
        return self.identity.place

    def lookup(self, arns: Sequence[str]) -> dict[str, LayerInfo | NotUsable]:
        """Read the layer versions; what does not read like one is left out."""
        versions = [LayerVersion.parse(arn) for arn in arns if layer_of(arn)]
        with ThreadPoolExecutor(WORKERS) as pool:
            found = pool.map(lambda version: self.layers.get(version, self.place.account), versions)
            return {str(version): held for version, held in zip(versions, found, strict=True)}


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
            raise FleetError(f"nothing is left to do: {_summary([step.verdict.value for step in steps])}")
        if self._journal is None:
            if self._as_json:
                print(terminal.document(self._document(session.place, goal, steps)), flush=True)
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
        session = self.session_of(region)
        goal = self._goal_of(history)
        return self._carry_out(journal, session, goal, [])

    def session_of(self, region: str | None) -> Session:
        """Open the place that the journal is of; raises ``FleetError`` where these credentials are of another."""
        return session_of(self._aws, self._journal.history if self._journal else History(), region)

    def _goal(self, session: Session) -> Goal:
        request, variants = self._request, self._manifest.variants
        chosen = tuple(each for each in variants if request.variant in (None, each.name))
        layers = own_layers(chosen, session.place, request.layer_account)
        main = next(each for each in variants if each.name == (request.variant or SLIM))
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
        selection = Selection(request.functions, request.all_using, request.match, request.tags)
        found = select(selection, session.functions, list(goal.targets), session.place, goal.attach)
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
            print(terminal.document({"command": self._request.command, **results(journal)}), flush=True)
        else:
            print("\n".join(_told(history)), flush=True)
        if history.outcome == DONE and not history.failed:
            return 0
        if history.outcome != PUT_BACK and history.touched:
            terminal.remark(f"to put back what was changed: ./build.sh rollback {shown(journal.path)}")
        return 1

    def _show(self, place: Place, goal: Goal, steps: Sequence[Step]) -> None:
        if not self._as_json:
            print("\n".join(_listing(place, goal, steps)), flush=True)
        elif not self._request.yes and self._journal is not None:  # the answer to a question needs to be seen
            terminal.remark("\n".join(_listing(place, goal, steps)))

    def _document(self, place: Place, goal: Goal, steps: Sequence[Step]) -> dict[str, Any]:
        return {
            "command": self._request.command,
            "dryRun": True,
            **asdict(place),
            "targets": [str(version) for version in goal.targets.values()],
            "functions": [
                {
                    "function": step.function.arn,
                    "name": step.function.name,
                    "verdict": step.verdict.value,
                    "old": step.old,
                    "new": step.new,
                    "reason": step.reason,
                    "hints": step.hints,
                }
                for step in steps
            ],
        }


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


def session_of(aws: Aws, history: History, region: str | None) -> Session:
    """Open the place that a journal is of; raises ``FleetError`` where these credentials are of another."""
    place = history.place
    assert place is not None
    if region not in (None, place.region):
        raise UsageError(f"the journal is of {place.region}: leave --region out")
    session = Session.open(aws, place.region)
    if session.place != place:
        raise FleetError(
            f"the journal is of the account {place.account}, these credentials are of {session.place.account}: "
            "use others"
        )
    return session


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
    session_of(aws, history, region)
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
            session_of(aws, history, region)
        print("\n".join(_back_listing(history)) if not as_json else terminal.document(_back_document(history)))
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
            print(terminal.document({"command": "rollback", **results(journal)}), flush=True)
        return 0
    session = session_of(aws, history, region)
    (terminal.remark if as_json else print)("\n".join(_back_listing(history)))
    if not yes and not terminal.confirm(f"Put back {terminal.count(len(history.touched), 'function')}?"):
        raise FleetError("nothing was changed")
    if not history.stopped:
        journal.write("stop", reason="rollback")
    progress = terminal.Progress(len(history.touched), as_json)
    if put_back(session.functions, journal, progress):
        journal.write("end", outcome=PUT_BACK)
    if as_json:
        print(terminal.document({"command": "rollback", **results(journal)}), flush=True)
    else:
        print("\n".join(_told(history)), flush=True)
    left = any(record.state == "left" for record in history.records.values())
    return 1 if history.touched or left else 0


def results(journal: Journal) -> dict[str, Any]:
    """What became of each function, for programs."""
    history = journal.history
    return {
        **(asdict(history.place) if history.place else {}),
        "journal": str(journal.path),
        "outcome": history.outcome or "unfinished",
        "reason": history.stopped,
        "functions": [
            {
                "function": record.arn,
                "name": record.name,
                "old": record.old,
                "new": record.new,
                "outcome": _outcome(record),
                "reason": record.reason,
            }
            for record in history.records.values()
        ],
    }


def _outcome(record: Record) -> str:
    if record.verdict != "change":
        return record.verdict
    if record.state == "restored" and record.has_failed:
        return "failed, put back"
    names = {"restored": "put back", "left": "left alone", "same": "done by others", "planned": "untouched"}
    return names.get(record.state, record.state)


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


def _listing(place: Place, goal: Goal, steps: Sequence[Step]) -> Iterator[str]:
    versions = ", ".join(short(str(version), place) for version in goal.targets.values())
    yield f"{'Attach' if goal.attach else 'Roll out'} {versions} in {place.region}, account {place.account}"
    yield ""
    changing = [step for step in steps if step.verdict is Verdict.CHANGE]
    if changing:
        rows = [(step.function.name, _list(step.old, place), "→", _then(step, place)) for step in changing]
        yield terminal.table(("function", "layers now", "", "layers then"), rows)
        yield ""
    for step in steps:
        if step.verdict in (Verdict.SKIP, Verdict.BLOCKED):
            verb = "skipped" if step.verdict is Verdict.SKIP else "cannot be changed"
            yield f"{verb}: {step.function.name}, {step.reason}"
    yield from _hints(changing)
    yield _summary([step.verdict.value for step in steps])


def _then(step: Step, place: Place) -> str:
    return step.reason if step.new == step.old else _list(step.new, place)


def _list(arns: Sequence[str], place: Place) -> str:
    return ", ".join(short(arn, place) for arn in arns) or "none"


def _hints(steps: Sequence[Step]) -> Iterator[str]:
    concerned = defaultdict(list)
    for step in steps:
        for hint in step.hints:
            concerned[hint].append(step.function.name)
    for hint, names in concerned.items():
        more = f" and {len(names) - _NAMES_IN_A_HINT} more" if len(names) > _NAMES_IN_A_HINT else ""
        yield f"hint: {', '.join(names[:_NAMES_IN_A_HINT])}{more}: {hint}"


_VERDICTS = {"change": "to change", "right": "right already", "skip": "skipped", "blocked": "that cannot be changed"}


def _summary(verdicts: Sequence[str]) -> str:
    counts = {words: verdicts.count(verdict) for verdict, words in _VERDICTS.items()}
    told = ", ".join(f"{number} {words}" for words, number in counts.items() if number)
    return f"{terminal.count(len(verdicts), 'function')}: {told}"


def _told(history: History) -> Iterator[str]:
    """What became of a roll-out, for people."""
    outcomes = [_outcome(record) for record in history.records.values()]
    for record in history.records.values():
        if record.has_failed or record.state == "left":
            yield f"{_outcome(record)}: {record.name}, {record.reason}"
    if history.stopped:
        yield f"stopped: {history.stopped}"
    words = {"done": "changed", "right": "right already", "skip": "skipped", "blocked": "not changeable"}
    counted = (f"{outcomes.count(each)} {words.get(each, each)}" for each in dict.fromkeys(outcomes))
    yield f"{terminal.count(len(outcomes), 'function')}: {', '.join(counted)}"


def _back_listing(history: History) -> Iterator[str]:
    if not history.place or not history.touched:
        yield "nothing is to be put back"
        return
    place = history.place
    rows = [(each.name, _list(each.new, place), "→", _list(each.old, place)) for each in history.touched]
    yield f"Put back in {place.region}, account {place.account}, the newest change first"
    yield ""
    yield terminal.table(("function", "layers now", "", "layers then"), rows)


def _back_document(history: History) -> dict[str, Any]:
    functions = [{"function": each.arn, "old": each.new, "new": each.old} for each in history.touched]
    return {"command": "rollback", "dryRun": True, "functions": functions}
