"""A shared journal: a folder in a bucket, with one object for each event.

`s3://BUCKET/PREFIX/` contains many journals, each in a folder of its own, and their locks:

    20261128T171500Z-1a2b3c/00000001.json    the first event of a journal
    locks/aws.123456789012.eu-central-1.python-streaming-runtime.json

What can go wrong besides the errors of a file (see `storage`): two processes write the same journal. Every object is
created with `If-None-Match: *`, so the second one fails, before the change that the event announces.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

from tools.common.errors import ToolError
from tools.fleet.aws.arns import Layer
from tools.fleet.aws.errors import AwsError, Interruption, PreconditionFailed
from tools.fleet.aws.objects import Address, Bucket
from tools.fleet.aws.session import Aws
from tools.fleet.rollout.lock import MAX_ATTEMPTS, Lock
from tools.fleet.rollout.storage import JournalError

WORKERS = 8  # that read a journal, or write a plan
_EVENT = re.compile(r"([0-9]{8})\.json")


class BucketLocation:
    """A journal in a bucket, that exists or not.

    Args:
        address: the folder of the journal.
        take_over: replace the lock of another process.
        note: shows a line.
    """

    def __init__(self, aws: Aws, region: str, address: Address, take_over: bool, note: Callable[[str], None]) -> None:
        self.name = str(address)
        self._bucket = Bucket(aws, region, address.bucket, secrets.token_hex(16))
        self._address = address
        self._take_over = take_over
        self._note = note

    def is_empty(self) -> bool:
        return not self._numbers()

    def create(self, replace_torn: bool) -> BucketStorage:
        """Return a new journal; every event is an object, so there is no incomplete line to replace."""
        if self._numbers():
            raise ToolError(f"{self.name} exists: continue it with --resume, or choose another --journal")
        return self._storage(0)

    def open(self) -> BucketStorage:
        return self._storage(max(self._numbers(), default=0))

    def read(self) -> bytes:
        return _read(self._bucket, self._address)

    def _numbers(self) -> list[int]:
        return _numbers(self._bucket, self._address)

    def _storage(self, last: int) -> BucketStorage:
        return BucketStorage(self._bucket, self._address, last, self._take_over, self._note)


class BucketStorage:
    """The open journal.

    Args:
        last: the number of the last event.
    """

    def __init__(
        self, bucket: Bucket, address: Address, last: int, take_over: bool, note: Callable[[str], None]
    ) -> None:
        self.name = str(address)
        self._bucket = bucket
        self._address = address
        self._last = last
        self._take_over = take_over
        self._note = note
        self._problem = ""
        self._written: list[str] = []
        self._locks: list[Lock] = []

    def read(self) -> bytes:
        return _read(self._bucket, self._address)

    def cut(self, length: int) -> None:
        """Do nothing: an object is written completely or not at all."""

    def lock(self, layers: Sequence[Layer]) -> None:
        """Lock the roll-out of `layers`; raises `ToolError` if another process has done so."""
        root = self._address.prefix.removesuffix("/").rpartition("/")[0]
        for layer in sorted(layers):
            name = f"{layer.partition}.{layer.account}.{layer.region}.{layer.name}.json"
            key = f"{root}/locks/{name}" if root else f"locks/{name}"
            lock, before = Lock.acquire(self._bucket, key, self.name, self._take_over)
            self._locks.append(lock)
            if before:
                self._note(f"took over the lock of {before.owner}, since {before.since} ({before.journal})")
                self._fence(before.journal, before.owner)

    def _fence(self, journal: str, owner: str) -> None:
        """Write the next event of the journal of the owner before, so that it cannot write another one."""
        if journal == self.name:
            self.append([_taken_over(owner)])
            return
        address = Address.parse(journal)
        bucket = self._bucket
        for _ in range(MAX_ATTEMPTS):
            number = max(_numbers(bucket, address), default=0) + 1
            with suppress(PreconditionFailed):
                bucket.create(_key(address, number), _taken_over(owner))
                return
        raise ToolError(f"{journal} is still written: end its process first")

    def append(self, lines: Sequence[bytes]) -> None:
        if self._problem:
            raise JournalError(self._problem)
        keys = [_key(self._address, self._last + number) for number in range(1, len(lines) + 1)]
        self._written += keys
        try:
            if len(lines) == 1:
                self._bucket.create(keys[0], lines[0])
            else:
                with ThreadPoolExecutor(WORKERS) as pool:
                    list(pool.map(self._bucket.create, keys, lines))
        except PreconditionFailed:
            self._problem = f"another process continues the journal {self.name}, so this one ends"
            raise JournalError(self._problem) from None
        except ToolError as error:
            self._problem = f"cannot write the journal {self.name}: {error}"
            if isinstance(error, Interruption):
                raise
            raise JournalError(self._problem) from None
        self._last += len(lines)

    def close(self) -> None:
        for lock in self._locks:
            try:
                lock.release()
            except ToolError as error:
                self._note(str(error))
        self._locks = []

    def discard(self) -> None:
        with suppress(AwsError):
            self._bucket.delete_all(self._written)
        self.close()


def new_address(folder: Address) -> Address:
    """Return the address of a new journal in a folder of journals."""
    return folder.folder(f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}")


def find_journal(aws: Aws, region: str, address: Address) -> Address:
    """Return `address` if it is a journal; otherwise the only unfinished one in that folder of journals.

    Raises:
        ToolError: there is none, or more than one.
    """
    bucket = Bucket(aws, region, address.bucket, "")
    last = _last_events(bucket, address)
    if address in last:
        return address
    unfinished = [each for each, key in last.items() if not _is_end(bucket, key)]
    if not unfinished:
        raise ToolError(f"no roll-out in {address} is unfinished: use the address of one journal")
    if len(unfinished) > 1:
        listed = ", ".join(map(str, unfinished))
        raise ToolError(f"{len(unfinished)} roll-outs are unfinished: use the address of one of {listed}")
    return unfinished[0]


def journals_below(aws: Aws, region: str, address: Address) -> list[Address]:
    """Return the journals in a folder of journals; raises `ToolError` if there is none."""
    found = sorted(_last_events(Bucket(aws, region, address.bucket, ""), address), key=str)
    if not found:
        raise ToolError(f"{address} contains no journal: check the address")
    return found


def _last_events(bucket: Bucket, address: Address) -> dict[Address, str]:
    """Return the key of the last event of each journal."""
    last: dict[Address, str] = {}
    for key in bucket.keys(address.prefix):
        folder, _, name = key.rpartition("/")
        if _EVENT.fullmatch(name):
            last[Address(bucket.name, f"{folder}/" if folder else "")] = key
    return last


def _is_end(bucket: Bucket, key: str) -> bool:
    stored = bucket.get(key)
    return stored is not None and b'"event": "end"' in stored.data


def _taken_over(owner: str) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"at": now, "takenOverFrom": owner}).encode() + b"\n"


def _key(address: Address, number: int) -> str:
    return f"{address.prefix}{number:08}.json"


def _numbers(bucket: Bucket, address: Address) -> list[int]:
    names = (key.removeprefix(address.prefix) for key in bucket.keys(address.prefix))
    return [int(match[1]) for name in names if (match := _EVENT.fullmatch(name))]


def _read(bucket: Bucket, address: Address) -> bytes:
    """Return all events. A number can be missing: of several lines of a plan, one was not written."""
    keys = [_key(address, number) for number in _numbers(bucket, address)]
    with ThreadPoolExecutor(WORKERS) as pool:
        return b"".join(stored.data for stored in pool.map(bucket.get, keys) if stored)
