"""What a command is, and what it works with."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from tools.common.cli import Parser
from tools.common.output import Output
from tools.common.paths import ROOT
from tools.fleet.aws.pace import Pace
from tools.fleet.aws.session import WORKERS, Aws
from tools.fleet.commands.retry_notes import RetryNotes
from tools.fleet.rollout.ending import Ending
from tools.fleet.rollout.storage import Disk
from tools.packaging import manifest
from tools.packaging.manifest import Manifest


@dataclass(frozen=True)
class Environment:
    """Everything outside a command; tests pass their own.

    Args:
        root: the checkout, with the manifest, `layer/`, `dist/` and `rollouts/`.
        connect: makes the connection to AWS; called on first use, so that a command can work without.
        workers: the number of threads that call AWS.
        now: returns the time.
        ending: what happens after a signal.
    """

    root: Path = ROOT
    pace: Pace = field(default_factory=Pace)
    connect: Callable[[Pace], Aws] = Aws
    disk: Disk = field(default_factory=Disk)
    workers: int = WORKERS
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ending: Ending = field(default_factory=Ending)


class Context:
    """What one run of a command works with."""

    def __init__(self, environment: Environment, output: Output) -> None:
        self.environment = environment
        self.output = output
        self.take_over = False  # of the lock of another process
        self.rate: float | None = None  # requests per second
        self.workers = environment.workers
        self.is_verbose = False
        self.summary: Path | None = None  # to which the outcome is appended in Markdown

    @property
    def root(self) -> Path:
        return self.environment.root

    @cached_property
    def aws(self) -> Aws:
        pace = self.environment.pace
        aws = self.environment.connect(replace(pace, between_requests=1 / self.rate) if self.rate else pace)
        aws.listener = RetryNotes(self.output, self.environment.pace)
        return aws

    @cached_property
    def manifest(self) -> Manifest:
        return manifest.load(self.root / manifest.FILE_NAME)


EXIT_STATUS = "Exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."
EXIT_STATUS_OF_CHECKS = "Exit status: 0 nothing found, 1 something found, or failed, 2 wrong usage, 130 interrupted."


@dataclass(frozen=True)
class Command:
    """A command of `build.sh`.

    Args:
        run: does the work and returns the exit status; raises `ToolError` for a failure in one line.
        needs_aws: whether it calls AWS with these arguments; if not, it works without boto3.
        check: called before `run`, and before boto3 is installed; raises what the arguments and local files show.
    """

    name: str
    description: str
    add_arguments: Callable[[Parser], None]
    run: Callable[[argparse.Namespace, Context], int]
    exit_status: str = EXIT_STATUS
    needs_aws: Callable[[argparse.Namespace], bool] = lambda namespace: True
    check: Callable[[argparse.Namespace, Context], None] = lambda namespace, context: None
