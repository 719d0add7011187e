"""The lock of shared journals: one roll-out of a layer in an account and region at a time.

The lock is one object. It is created with `If-None-Match: *`, so one of two machines gets it. A process that is killed
leaves it behind: nothing expires, because the clocks of two machines can differ, and a pause of an hour is normal for a
roll-out. So the lock shows its owner and the time, and a person decides: `--take-over` replaces it with `If-Match`. If
the owner was a process of this machine that no longer exists, no decision is needed.

The owner may still be alive, and must not go on. So who takes over also writes the next event of the owner's journal:
the owner's next write meets it, and fails before the change that it would have announced.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.common.errors import ToolError
from tools.fleet.aws.errors import AwsError, NotFound, PreconditionFailed
from tools.fleet.aws.objects import SCHEME, Bucket, Stored

MAX_ATTEMPTS = 10  # each means that another process was faster


@dataclass(frozen=True)
class Holder:
    """The owner of a lock, as the object contains it.

    Args:
        owner: a person, a machine and a process, as text.
        since: the time, in UTC.
        journal: the address of its journal.
        machine: identifies the machine and its processes; empty if that is not possible.
        process: the number of the process.
    """

    owner: str
    since: str
    journal: str
    machine: str
    process: int

    @classmethod
    def own(cls, journal: str) -> Holder:
        """Return this process as a holder."""
        process = os.getpid()
        owner = f"{_user()} on {socket.gethostname()}, process {process}"
        return cls(owner, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC", journal, _machine(), process)

    @classmethod
    def of(cls, stored: Stored, name: str) -> Holder:
        """Read a lock; raises `ToolError` if the object is not one."""
        try:
            fields: Mapping[str, Any] = json.loads(stored.data)
            texts = {key: str(fields[key]) for key in ("owner", "since", "journal", "machine")}
            return cls(**texts, process=int(fields["process"]))
        except (ValueError, KeyError, TypeError):
            raise ToolError(f"{name} is not a lock of this tool: use another folder with --journal") from None

    @property
    def has_ended(self) -> bool:
        """Whether the process is known to have ended."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def data(self) -> bytes:
        return json.dumps(vars(self)).encode()


class Lock:
    """A lock that this process holds."""

    def __init__(self, bucket: Bucket, key: str, version: str) -> None:
        self._bucket = bucket
        self._key = key
        self._version = version

    @classmethod
    def acquire(cls, bucket: Bucket, key: str, journal: str, take_over: bool) -> tuple[Lock, Holder | None]:
        """Create the lock, or take it over; return it with the holder before, if any.

        Args:
            take_over: replace the lock of a holder that may be alive.

        Raises:
            ToolError: another process holds it.
        """
        name = f"{SCHEME}{bucket.name}/{key}"
        own = Holder.own(journal).data()
        for _ in range(MAX_ATTEMPTS):
            with suppress(PreconditionFailed):
                return cls(bucket, key, bucket.create(key, own)), None
            stored = bucket.get(key)
            if stored is None:
                continue  # released meanwhile
            holder = Holder.of(stored, name)
            if not take_over and not holder.has_ended:
                raise ToolError(
                    f"another roll-out of this layer runs, by {holder.owner}, since {holder.since} ({holder.journal}): "
                    "wait until it ends; if its process no longer exists, add --take-over"
                )
            with suppress(PreconditionFailed):
                return cls(bucket, key, bucket.replace(key, own, stored.version)), holder
        raise ToolError(f"{name} is taken by others again and again: repeat the command")

    def release(self) -> None:
        """Delete the lock, unless another process has taken it over; raises `AwsError` if that is not possible."""
        try:
            self._bucket.delete(self._key, self._version)
        except (PreconditionFailed, NotFound):
            pass
        except AwsError as error:
            raise ToolError(f"the lock {SCHEME}{self._bucket.name}/{self._key} is not deleted: {error}") from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in a container
        return f"user {os.getuid()}"


def _machine() -> str:
    """Return what identifies this machine since its start, with its numbering of processes; empty if nothing does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""
