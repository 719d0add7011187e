"""Objects of one S3 bucket, with conditional writes.

`If-None-Match: *` lets one of several writers create an object, and `If-Match` one of them replace it (Amazon S3 User
Guide, "How to prevent object overwrites with conditional writes"). Two responses need care:

- 412 after a lost response: the object that is in the way can be our own. So every object has the writer's token in its
  metadata, and the writer of an object that exists already is read before the error is believed.
- 409 (`ConditionalRequestConflict`): another request for the same key is in progress. The write is repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tools.common.errors import ToolError, UsageError
from tools.fleet.aws.errors import AwsError, Conflict, NotFound, PreconditionFailed, translated
from tools.fleet.aws.retries import Patience
from tools.fleet.aws.session import Aws

SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # Amazon S3 User Guide, "General purpose bucket naming rules"
_MAX_KEY_BYTES = 900  # of a prefix; S3 allows 1,024 for a whole key
_MAX_DELETED = 1000  # objects in one request
_WRITER = "writer"


@dataclass(frozen=True)
class Address:
    """A folder in a bucket: `s3://BUCKET/PREFIX/`.

    Args:
        prefix: empty, or ending in a slash.
    """

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}"

    def folder(self, name: str) -> Address:
        return Address(self.bucket, f"{self.prefix}{name}/")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse the address of a folder; the slash at its end can be missing.

        Raises:
            UsageError: it is not one.
        """
        bucket, _, prefix = text.removeprefix(SCHEME).partition("/")
        parts = prefix.removesuffix("/").split("/") if prefix.strip("/") else []
        is_wrong = any(part in ("", ".", "..") or not part.isprintable() for part in parts)
        if not _BUCKET.fullmatch(bucket) or is_wrong or len(prefix.encode()) > _MAX_KEY_BYTES:
            raise UsageError(f"{text!r} is not a folder in a bucket, such as s3://BUCKET/PREFIX/")
        return cls(bucket, "".join(f"{part}/" for part in parts))


@dataclass(frozen=True)
class Stored:
    """An object.

    Args:
        version: its ETag, for `replace` and `delete`.
        writer: the token of the process that wrote it; empty if it is not an object of this project.
    """

    data: bytes
    version: str
    writer: str


class Bucket:
    """The objects of a bucket, by key.

    Args:
        writer: the token of this process.
    """

    def __init__(self, aws: Aws, region: str, name: str, writer: str) -> None:
        self.name = name
        self._retries = aws.retries(region)
        self._client = aws.client("s3", region)
        self._writer = writer

    def create(self, key: str, data: bytes) -> str:
        """Write an object that does not exist, and return its version.

        Raises:
            PreconditionFailed: another writer has created it.
            AwsError: it could not be written, or perhaps was.
        """
        return self._write(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, version: str) -> str:
        """Overwrite an object that still has `version`, and return the new one; raises as `create`."""
        return self._write(key, data, IfMatch=version)

    def _write(self, key: str, data: bytes, **condition: str) -> str:
        patience = Patience(self._retries, "PutObject")
        while True:
            try:
                with translated():
                    response = self._client.put_object(
                        Bucket=self.name, Key=key, Body=data, Metadata={_WRITER: self._writer}, **condition
                    )
                return str(response["ETag"])
            except PreconditionFailed:
                stored = self.get(key)
                if stored is None or stored.writer != self._writer or stored.data != data:
                    raise
                return stored.version  # the response to an earlier request was lost
            except Conflict as error:
                if not patience.pause(error.code):
                    raise
            except AwsError as error:
                raise self._explained(error) from None

    def get(self, key: str) -> Stored | None:
        """Return an object, or None if it does not exist."""
        try:
            with translated():
                response = self._client.get_object(Bucket=self.name, Key=key)
                data: bytes = response["Body"].read()
        except AwsError as error:
            if error.code == "NoSuchKey":
                return None
            raise self._explained(error) from None
        return Stored(data, str(response["ETag"]), response.get("Metadata", {}).get(_WRITER, ""))

    def keys(self, prefix: str) -> list[str]:
        """Return the keys that begin with `prefix`, sorted."""
        return sorted(self._keys(prefix))

    def _keys(self, prefix: str) -> Iterator[str]:
        try:
            with translated():
                for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                    yield from (each["Key"] for each in page.get("Contents", ()))
        except AwsError as error:
            raise self._explained(error) from None

    def delete(self, key: str, version: str) -> None:
        """Delete an object that still has `version`; raises `PreconditionFailed` if it has not."""
        with translated():
            self._client.delete_object(Bucket=self.name, Key=key, IfMatch=version)

    def delete_all(self, keys: Sequence[str]) -> None:
        """Delete objects."""
        for start in range(0, len(keys), _MAX_DELETED):
            chosen: list[dict[str, Any]] = [{"Key": key} for key in keys[start : start + _MAX_DELETED]]
            with translated():
                self._client.delete_objects(Bucket=self.name, Delete={"Objects": chosen, "Quiet": True})

    def _explained(self, error: AwsError) -> ToolError:
        if isinstance(error, NotFound):  # of the bucket
            return ToolError(f"the bucket {self.name} does not exist: create it, or use another one")
        return error
