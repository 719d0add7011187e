"""A watch over a wrapper, for one that ends without having started Python.

`bootstrap` cannot see that: `exec` has replaced it by the wrapper. Lambda then reports an exit status, and no reason.
So a process waits until either the runtime has started and ends it, or the wrapper has ended. Then it reports that.
It is a fork of the process that checks the files of the layer, so it costs no further start of Python. Lambda can stop
the environment before the report has been sent, as soon as the first process has ended.
"""

import os
import select

from streaming_runtime import LAYER_FOLDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

VERSION = "0.1.0"


def start(process: int, wrapper: str, python: str) -> None:
    """Start the watch, and print its process id, which the runtime needs to end it.

    Args:
        process: the id of the process that becomes the wrapper.
    """
    try:
        descriptor = os.pidfd_open(process)
    except (AttributeError, OSError):  # a kernel before 5.3
        return
    watch = os.fork()
    if watch:
        print(watch)
    else:
        wait(descriptor, wrapper, python)


def wait(descriptor: int, wrapper: str, python: str) -> "NoReturn":
    """Wait for the end of the process, and let `bootstrap` report it."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):  # bootstrap waits for the end of the output
        os.dup2(null, number)
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poller.poll()
    script = os.path.join(LAYER_FOLDER, "bootstrap")
    os.execv("/bin/sh", ["sh", script, "--refuse", "wrapper", python, wrapper])
