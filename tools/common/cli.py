"""What all command lines share: one parser, the exit statuses, and one line for each error."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from types import FrameType
from typing import NoReturn

from tools.common.errors import ToolError, UsageError
from tools.common.output import discard, escaped
from tools.common.signals import INTERRUPTED
from tools.common.urls import redact

DONE, FAILED, WRONG_USAGE = 0, 1, 2


class Parser(argparse.ArgumentParser):
    """A parser that reports wrong usage in one line: `build.sh: error: … (see ./build.sh verify --help)`.

    `prog` is what the user types, such as `./build.sh verify`. Options cannot be abbreviated: an abbreviation in a
    script would break when another option is added.

    Attributes:
        on_error: receives the text of an error before it is printed.
    """

    on_error: Callable[[str], None] = staticmethod(lambda text: None)

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})  # type: ignore[arg-type]

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As argparse does, but the error about an unknown argument refers to the help of its command."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser: Parser = getattr(options, "parser_of_command", self)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options

    def error(self, message: str) -> NoReturn:
        text = f"{message} (see {self.prog} --help)"
        self.on_error(redact(text))
        self.exit(WRONG_USAGE, _line(self.prog, text))


def not_empty(text: str) -> str:
    """Return a text, for `type=`. An empty one is a variable of a script that is not set."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def status_without(package: str) -> int | None:
    """Return the exit status if a package is not installed and build.sh will install it; None if it is installed.

    build.sh runs a command without packages first, and again after it has installed them.

    Raises:
        ToolError: it is not installed, and the command was not started by build.sh.
    """
    if find_spec(package) is not None:
        return None
    if status := os.environ.get("STATUS_WITHOUT_PACKAGES"):
        return int(status)
    raise ToolError(f"{package} is not installed: run the command through ./build.sh, which installs it")


def run(program: str, command: Callable[[], int], closed_pipe: int = DONE) -> int:
    """Run `command` and return its exit status; every error is one line on stderr.

    Ctrl-C and SIGTERM clean up, in the main thread. A second SIGTERM ends the process at once.

    Args:
        program: the first word of the command line, such as `./build.sh`.
        closed_pipe: the exit status where the reader of stdout has gone, as in `./build.sh | head -1`.
    """
    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _terminate)
    try:
        status = command()
        sys.stdout.flush()  # here, where a closed pipe can still be handled
        return status
    except BrokenPipeError:
        discard(sys.stdout)
        return closed_pipe
    except (ToolError, OSError) as error:
        sys.stderr.write(_line(program, describe(error)))
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        if signal.getsignal(signal.SIGTERM) is _terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)  # runs every `finally`


def describe(error: ToolError | OSError) -> str:
    """Return the text of an error; that of an operating system error without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _line(program: str, message: str) -> str:
    name = os.path.basename(program.split(" ")[0])
    return f"{name}: error: {escaped(redact(' '.join(message.splitlines())))}\n"
