"""Publishes a version of a function and moves an alias to it, at once or in steps.

What can go wrong, and what happens then:

- Somebody else moves the alias, or deploys to `$LATEST`, between the plan and the change. The update of the alias
  carries the revision of the plan (`RevisionId`), so AWS rejects it with 412; and before a version is published,
  `$LATEST` is compared once more with the version that the alias points to. In both cases `AliasChanged` is raised: the
  function is skipped, and restored if it was changed.
- A moved alias would be noticed only after the layers were changed. So it is looked at before that, too, with
  `GetFunction`, which has a quota of its own. That response has no weights and no revision of the alias; the lock
  covers them later.
- No response arrives. The alias is read: in the state that was sent, the update was ours. The journal has the
  intention, so a resumed roll-out does the same.
- AWS returns the last version from PublishVersion if nothing has changed since, so a second call publishes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import replace

from tools.common.errors import ToolError
from tools.fleet.aws.errors import Conflict, NotFound, OutcomeUnknown
from tools.fleet.aws.functions import Waiting
from tools.fleet.aws.models import Alias, Function
from tools.fleet.rollout.aliases import unreleased, unreleased_reason, weights_text
from tools.fleet.rollout.events import Event, FunctionState
from tools.fleet.rollout.history import Record, alias_state
from tools.fleet.rollout.options import Options
from tools.fleet.rollout.plan import AliasPlan, Verdict, plan_step
from tools.fleet.rollout.steps import RETRYABLE, Steps, pause_before_retry
from tools.fleet.rollout.waves import COMPLETE


class AliasChanged(ToolError):
    """The alias, or what a new version would release, is not as in the plan."""


class Release:
    """Publishes versions and moves aliases for one roll-out."""

    def __init__(self, steps: Steps, options: Options) -> None:
        self._steps = steps
        self._places = steps.places
        self._options = options

    def check(self, record: Record) -> None:
        """Look at the alias before the layers are changed; raises `AliasChanged` if it has another version."""
        plan = record.alias
        if plan is None or record.move:
            return
        try:
            released = self._places.functions(record).get(record.name, plan.name)
        except NotFound as error:
            self._check_exists(record, plan.name, error)
            raise
        if released.version != plan.version:
            raise AliasChanged(
                f"its alias {plan.name} points to version {released.version}, not to {plan.version} as in the plan"
            )

    def move(self, record: Record, percent: float) -> Waiting:
        """Let the alias send `percent` of the requests to the new version; publish that version first.

        Raises:
            AliasChanged: somebody else has changed the alias or `$LATEST`.
        """
        plan = self._plan(record)
        new = record.move.new if record.move else (yield from self._publish(record, plan))
        was_open = record.state is FunctionState.MOVING_ALIAS  # the process died: AWS may have carried it out
        if not was_open:
            fields = {"alias": plan.name, "old": plan.version, "weights": dict(plan.weights), "new": new}
            self._steps.record(record, Event.ALIAS_MOVE_STARTED, **fields, percent=percent)
        try:
            alias = yield from self._update(record, self._expected(record, plan, new), new, percent, was_open)
        except _Rejected as rejected:
            self._steps.record(record, Event.ALIAS_MOVE_REJECTED)
            self._check_exists(record, plan.name, rejected.reason)
            raise rejected.reason from None
        except NotFound as error:
            self._check_exists(record, plan.name, error)
            raise
        event = Event.ALIAS_MOVED if percent >= COMPLETE else Event.ALIAS_SHIFTED
        self._steps.record(record, event, percent=percent, revision=alias.revision)

    def _check_exists(self, record: Record, alias: str, problem: ToolError) -> None:
        """Raise `AliasChanged` if the `problem` is that somebody deleted the alias, but not the function."""
        if isinstance(problem, NotFound):
            self._places.functions(record).get(record.name)
            raise AliasChanged(f"its alias {alias} no longer exists")

    def _plan(self, record: Record) -> AliasPlan:
        """Return the plan of the alias; in a journal of version 0.1.0 there is none, so the alias is read now."""
        if record.alias:
            return record.alias
        if record.move:
            return AliasPlan(record.move.alias, record.move.old, "", record.move.weights)
        alias = self._places.functions(record).alias(record.name, record.alias_name)
        return AliasPlan(alias.name, alias.version, alias.revision, alias.weights)

    def _expected(self, record: Record, plan: AliasPlan, new: str) -> Alias:
        """Return the alias as the plan, or the last step of a shift, left it."""
        if record.percent:
            return Alias(plan.name, *alias_state(plan.version, new, record.percent), record.alias_revision)
        return Alias(plan.name, plan.version, plan.weights, plan.revision)

    def _update(
        self, record: Record, expected: Alias, new: str, percent: float, was_open: bool
    ) -> Generator[float, None, Alias]:
        """Update the alias, locked by its revision; return it as it is then."""
        target = alias_state(expected.version, new, percent)
        is_sent = was_open  # perhaps
        alias = expected
        if was_open or not expected.revision:
            alias = self._places.functions(record).alias(record.name, expected.name)
        patience = self._places.functions(record).patience("UpdateAlias")
        for attempt in itertools.count():
            if (alias.version, alias.weights) == target:
                return alias
            if not _is_same(alias, expected):
                changed = AliasChanged(_changed_reason(alias, expected))
                raise changed if is_sent else _Rejected(changed)
            try:
                return self._places.functions(record).move_alias(record.name, alias, *target)
            except RETRYABLE as error:
                problem = error
            except ToolError as error:
                raise error if is_sent else _Rejected(error) from None
            is_sent = is_sent or isinstance(problem, OutcomeUnknown)
            if isinstance(problem, Conflict):
                yield from self._places.functions(record).wait_while_busy(record.name, attempt)
            pause_before_retry(problem, attempt, patience)
            alias = self._places.functions(record).alias(record.name, expected.name)
        raise AssertionError("unreachable")

    def _publish(self, record: Record, plan: AliasPlan) -> Generator[float, None, str]:
        """Publish a version with the new layers and return its number, once it can be invoked."""
        patience = self._places.functions(record).patience("PublishVersion")
        for attempt in itertools.count():
            function = self._places.functions(record).get(record.name)
            self._check_latest(record, plan, function)
            self._steps.record(record, Event.PUBLISH_STARTED, revision=function.revision)
            try:
                version = self._places.functions(record).publish_version(record.name, function.revision)
            except RETRYABLE as error:
                problem = error
            else:
                yield from self._places.functions(record).wait(record.name, version)
                return version
            if isinstance(problem, Conflict):
                yield from self._places.functions(record).wait_while_busy(record.name, attempt)
            pause_before_retry(problem, attempt, patience)
        raise AssertionError("unreachable")

    def _check_latest(self, record: Record, plan: AliasPlan, latest: Function) -> None:
        """Check what would be released; the update is locked by the revision of `latest`."""
        if plan_step(latest, self._places.targets(record), self._options).verdict is not Verdict.UP_TO_DATE:
            raise ToolError("somebody else changed its layers before a version was published")
        if self._options.include_unreleased:
            return
        released = self._places.functions(record).get(record.name, plan.version)
        if differences := unreleased(released, latest, self._places.targets(record), self._options):
            raise AliasChanged(unreleased_reason(plan.name, plan.version, differences))


class _Rejected(Exception):
    """The alias was certainly not updated."""

    def __init__(self, reason: ToolError) -> None:
        super().__init__(reason)
        self.reason = reason


def _is_same(alias: Alias, expected: Alias) -> bool:
    """Whether nobody has changed the alias; an endpoint without revisions, or an old journal, has only its state."""
    return alias == (expected if expected.revision else replace(expected, revision=alias.revision))


def _changed_reason(alias: Alias, expected: Alias) -> str:
    if alias.version != expected.version:
        return f"somebody else pointed its alias {alias.name} to version {alias.version}"
    weights = f": it sends {weights_text(alias.weights)}" if alias.weights else ""
    return f"somebody else has changed its alias {alias.name} since it was read{weights}"
