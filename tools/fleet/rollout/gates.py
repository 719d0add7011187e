"""What is checked between two stages of a roll-out: alarms, the error rate, and commands.

A gate that does not pass raises `GateFailed`, and the roll-out is rolled back. An error of AWS is not the verdict of a
gate: it interrupts the roll-out, and `--resume` continues with the same gates. The `bake` is a pause for effects that
take time; alarms are read all along, so that a bad version does not stay for the rest of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta

from tools.common.errors import ToolError, located
from tools.common.output import duration_text
from tools.fleet.aws.arns import Place
from tools.fleet.aws.cloudwatch import CloudWatch, Metric, Sums
from tools.fleet.aws.pace import Pace
from tools.fleet.rollout.gate_command import GateFailed, run_gate
from tools.fleet.rollout.options import Options

CLOCK_SKEW = timedelta(minutes=10)  # with a slow clock, the latest data points would be missing
BETWEEN_ALARMS = 15.0  # seconds, while the version bakes
LONGEST_PAUSE = 1.0  # seconds until a signal is noticed
_ALARM = "ALARM"

LocatedMetric = tuple[Place, Metric]


class Gates:
    """The gates of one roll-out.

    Args:
        places: the regions and accounts of the roll-out; each alarm must exist in all of them.
        cloudwatch: opened on first use, because most roll-outs have no alarm and no error rate.
        now: returns the time, with its zone.
        note: shows a line.
    """

    def __init__(
        self,
        options: Options,
        places: Sequence[Place],
        cloudwatch: Callable[[Place], CloudWatch],
        pace: Pace,
        now: Callable[[], datetime],
        note: Callable[[str], None],
    ) -> None:
        self._options = options
        self._places = places
        self._cloudwatch = cloudwatch
        self._pace = pace
        self.now = now
        self._note = note

    def check_access(self) -> None:
        """Read alarms and metrics before a roll-out.

        Raises:
            ToolError: an alarm does not exist or is in the state `ALARM`, or the caller has no permission.
        """
        if self._options.max_error_rate is not None:
            metrics = [(place, Metric("any")) for place in self._places]
            self._sums(metrics, self.now() - timedelta(minutes=1), self.now())
        if alarms := self._in_alarm():
            raise ToolError(f"nothing was changed, because {alarms}: begin when it is OK")

    def bake(self, stage: str, seconds: float, is_interrupted: Callable[[], bool]) -> None:
        """Wait for effects of the stage; return early if `is_interrupted` becomes true.

        Raises:
            GateFailed: an alarm is in the state `ALARM`.
        """
        if seconds > 0:
            end = self.now() + timedelta(seconds=seconds)
            self._note(f"{stage} is complete; waiting {duration_text(seconds)}, until {end:%H:%M:%S} UTC")
        end_of_pause = self._pace.clock() + seconds
        next_look = self._pace.clock() + BETWEEN_ALARMS
        while (rest := end_of_pause - self._pace.clock()) > 0 and not is_interrupted():
            self._pace.sleep(min(rest, LONGEST_PAUSE))
            if self._pace.clock() >= next_look:
                self._pass_alarms()
                next_look = self._pace.clock() + BETWEEN_ALARMS

    def check(
        self,
        metrics: Iterable[tuple[str, Collection[LocatedMetric]]],
        since: datetime,
        is_interrupted: Callable[[], bool],
    ) -> list[str]:
        """Check everything once; return what was found, one line for each gate.

        Args:
            metrics: groups of metrics whose error rates are checked, each with its name.
            since: from this time on.
            is_interrupted: ends a command early; the result is then of no use.

        Raises:
            GateFailed: a gate did not pass.
            AwsError: alarms or metrics cannot be read.
        """
        found = []
        self._pass_alarms()
        found += [f"alarm {name}: not in the state {_ALARM}" for name in self._options.alarms]
        if self._options.max_error_rate is not None:
            for name, group in metrics:
                sums = self._sums(group, since, self.now() + CLOCK_SKEW)
                found.append(self._pass_error_rate(name, sums, self._options.max_error_rate))
        for command in self._options.gates:
            self._note(f"gate {command!r} runs, for at most {duration_text(self._options.gate_timeout)}")
            if not run_gate(command, self._options.gate_timeout, is_interrupted):
                break
            found.append(f"gate {command!r}: passed")
        for line in found:
            self._note(line)
        return found

    def _pass_alarms(self) -> None:
        if alarms := self._in_alarm():
            raise GateFailed(alarms)

    def _in_alarm(self) -> str:
        """Return which alarms are in the state `ALARM`, as a sentence; empty if none is."""
        if not self._options.alarms:
            return ""
        names = []
        for place in self._places:
            where = f" in {place}" if len(self._places) > 1 else ""
            with located(where):
                states = self._cloudwatch(place).alarm_states(self._options.alarms)
            names += [f"{name}{where}" for name, state in states.items() if state == _ALARM]
        return f"the alarm {' and the alarm '.join(names)} is in the state {_ALARM}" if names else ""

    def _sums(self, metrics: Collection[LocatedMetric], start: datetime, end: datetime) -> Sums:
        """Return the sums over all regions and accounts."""
        total = Sums(0, 0)
        for place in {place: None for place, _ in metrics}:
            chosen = [metric for where, metric in metrics if where == place]
            total += self._cloudwatch(place).sums(chosen, start, end)
        return total

    def _pass_error_rate(self, name: str, sums: Sums, limit: float) -> str:
        """Compare the error rate with the limit in percent; return it as text."""
        text = f"{sums.errors:,.0f} errors in {sums.invocations:,.0f} invocations"
        if sums.invocations < self._options.min_invocations:
            return f"error rate of {name}: {text}, fewer than {self._options.min_invocations:,}, so it is not checked"
        rate = 100 * sums.errors / sums.invocations if sums.invocations else 0.0
        if rate > limit:
            raise GateFailed(f"the error rate of {name} is {rate:.3g} % ({text}), above {limit:g} %")
        return f"error rate of {name}: {rate:.3g} % ({text}), at most {limit:g} % allowed"
