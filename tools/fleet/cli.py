"""The command line of the commands that call AWS."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from functools import partial

from tools.common import cli
from tools.common.cli import Parser
from tools.common.errors import ToolError
from tools.common.output import Output
from tools.common.signals import INTERRUPTED, SIGNALS, SignalPipe, run_interruptible
from tools.common.urls import redact
from tools.fleet.commands import doctor, prune, publish, report, rollback, rollout, status, verify
from tools.fleet.commands.interface import Command, Context, Environment
from tools.fleet.rollout.ending import END_TIMEOUT

COMMANDS = (
    publish.COMMAND,
    verify.COMMAND,
    report.COMMAND,
    rollout.ROLL_OUT,
    rollout.ATTACH,
    rollout.DETACH,
    rollback.COMMAND,
    status.COMMAND,
    prune.COMMAND,
    doctor.COMMAND,
)


def run(arguments: Sequence[str], environment: Environment) -> int:
    """Run one command in the main thread of a process, which ends as `ending` describes. Returns the exit status."""
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)  # ignored under nohup
    signals = SignalPipe((*SIGNALS, *hangup))
    ending = environment.ending

    def work() -> int:
        try:
            return main(arguments, environment)
        finally:
            ending.finish()

    status = run_interruptible(signals, work, ending.end, ending.kill, END_TIMEOUT)
    if status == INTERRUPTED:  # threads that wait for AWS would delay the end
        os._exit(INTERRUPTED)
    return status


def main(arguments: Sequence[str], environment: Environment | None = None) -> int:
    """Run one command and return its exit status; every error is one line on stderr."""
    output = Output("--json" in arguments)  # before the arguments are read, because they can be wrong
    whole = parser(output)
    whole.on_error = partial(output.error, next(iter(arguments), ""))  # arguments that no command recognizes
    options = whole.parse_args(arguments)
    command: Command = options.command
    context = Context(environment or Environment(), output)

    def work() -> int:
        try:
            command.check(options, context)
            if command.needs_aws(options) and (status := cli.status_without("boto3")) is not None:
                return status
            return command.run(options, context)
        except (ToolError, OSError) as error:
            if not isinstance(error, BrokenPipeError):
                context.output.error(command.name, redact(cli.describe(error)))
            raise

    return cli.run("./build.sh", work, closed_pipe=cli.FAILED)


def parser(output: Output) -> Parser:
    """Return the parser of all commands; each adds its own arguments. Wrong usage goes to `output`, too."""
    parser = Parser(prog="./build.sh", add_help=False)
    parsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        each: Parser = parsers.add_parser(
            command.name,
            prog=f"./build.sh {command.name}",
            description=command.description,
            epilog=f"{command.exit_status} boto3 finds credentials, profile, region and endpoint as usual.",
        )
        each.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        command.add_arguments(each)
        each.set_defaults(command=command, parser_of_command=each)
        each.on_error = partial(output.error, command.name)
    return parser
