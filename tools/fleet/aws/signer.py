"""Signs zips with AWS Signer, in a versioned bucket of Amazon S3.

Each signing job writes another zip, because the signature contains the time. A signed zip is therefore found by the
hash of the zip before it was signed, which is part of the key of the signed object. A run that was interrupted between
signing and publishing, or a checkout that has lost its manifest, uses the object again.

AWS Signer Developer Guide, "Sign AWS Lambda code"; AWS Signer API Reference, StartSigningJob.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from tools.common.archives import open_zip
from tools.common.errors import ToolError
from tools.fleet.aws.errors import AwsError, translated
from tools.fleet.aws.session import Aws
from tools.packaging.zips.archive import is_signature

SIGNING_TIMEOUT = 500.0  # seconds: the waiter `successful_signing_job` of boto3 has 25 polls with 20 s between them
_NO_VERSION = "null"  # the version of an object that was written without versioning


@dataclass(frozen=True)
class SignedZip:
    """A zip that AWS Signer has written to a bucket."""

    bucket: str
    key: str
    data: bytes

    @property
    def sha256(self) -> str:
        """SHA-256 in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


class Bucket:
    """The bucket for the zips of one region."""

    def __init__(self, aws: Aws, region: str, name: str) -> None:
        self._client = aws.client("s3", region)
        self.name = name

    def upload(self, key: str, data: bytes, needs_version: bool = False) -> tuple[str, bool]:
        """Write an object unless it exists with the same size. Keys contain the hash of the data.

        Args:
            needs_version: the bucket must have versioning.

        Returns:
            The version of the object, and whether it was written.

        Raises:
            ToolError: the bucket has no versioning.
        """
        head = self._head(key)
        version = head.get("VersionId", _NO_VERSION)
        is_present = head.get("ContentLength") == len(data)
        if is_present and not (needs_version and version == _NO_VERSION):
            return version, False
        with translated():
            version = self._client.put_object(Bucket=self.name, Key=key, Body=data).get("VersionId", _NO_VERSION)
        if needs_version and version == _NO_VERSION:
            raise ToolError(f"the bucket {self.name} has no versioning, which AWS Signer needs: enable it")
        return version, True

    def _head(self, key: str) -> dict[str, Any]:
        try:
            with translated():
                return dict(self._client.head_object(Bucket=self.name, Key=key))
        except AwsError as error:
            if error.status not in (403, 404):  # without s3:ListBucket, a missing object is 403
                raise
        return {}

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of the objects below `prefix`, sorted."""
        with translated():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
            return sorted(each["Key"] for page in pages for each in page.get("Contents", ()))

    def read(self, key: str) -> bytes:
        with translated():
            data: bytes = self._client.get_object(Bucket=self.name, Key=key)["Body"].read()
            return data


class Signer:
    """Signs with one profile, in one region, where profile and bucket must be.

    Args:
        profile: the name of the signing profile, for the platform `AWSLambda-SHA384-ECDSA`.
    """

    def __init__(self, aws: Aws, region: str, bucket: Bucket, profile: str) -> None:
        self._client = aws.client("signer", region)
        self._pace = aws.pace
        self._bucket = bucket
        self._profile = profile

    def signed_before(self, name: str, data: bytes) -> list[SignedZip]:
        """Return the signed zips of `data`, a zip of the layer `name`, without those that `sign` would refuse."""
        keys = self._bucket.keys(self._prefix(name, hashlib.sha256(data).hexdigest()))
        found = [SignedZip(self._bucket.name, key, self._bucket.read(key)) for key in keys]
        return [signed for signed in found if _is_valid(data, signed)]

    def sign(self, name: str, data: bytes) -> SignedZip:
        """Sign the zip `data` of the layer `name`.

        Raises:
            ToolError: the bucket has no versioning, or AWS Signer does not sign it.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"{name}/{sha256}.zip"
        version, _ = self._bucket.upload(key, data, needs_version=True)
        with translated():
            job: str = self._client.start_signing_job(
                source={"s3": {"bucketName": self._bucket.name, "key": key, "version": version}},
                destination={"s3": {"bucketName": self._bucket.name, "prefix": self._prefix(name, sha256)}},
                profileName=self._profile,
            )["jobId"]
        signed_key = self._wait(job)
        signed = SignedZip(self._bucket.name, signed_key, self._bucket.read(signed_key))
        _check(data, signed)
        return signed

    def _prefix(self, name: str, sha256: str) -> str:
        return f"{name}/signed/{self._profile}/{sha256}/"

    def _wait(self, job: str) -> str:
        """Wait until a signing job is complete, and return the key of the signed object."""
        end = self._pace.clock() + SIGNING_TIMEOUT
        while self._pace.clock() < end:
            with translated():
                response = self._client.describe_signing_job(jobId=job)
            if response["status"] == "Succeeded":
                return str(response["signedObject"]["s3"]["key"])
            if response["status"] == "Failed":
                raise ToolError(f"AWS Signer could not sign it: {response.get('statusReason') or 'no reason given'}")
            self._pace.sleep(self._pace.between_polls)
        raise ToolError(f"the signing job {job} is not complete after {SIGNING_TIMEOUT:g} s: repeat the command")


def _is_valid(data: bytes, signed: SignedZip) -> bool:
    try:
        _check(data, signed)
    except ToolError:
        return False
    return True


def _check(data: bytes, signed: SignedZip) -> None:
    """The signed zip consists of the files that were sent, and of a signature."""
    sent, received = _files("the zip", data), _files("the signed zip", signed.data)
    if {path: content for path, content in received.items() if not is_signature(path)} != sent:
        raise ToolError(f"s3://{signed.bucket}/{signed.key} contains other files than were signed: do not use it")
    if len(received) == len(sent):
        raise ToolError(f"s3://{signed.bucket}/{signed.key} contains no signature: check the signing profile")


def _files(name: str, data: bytes) -> dict[str, bytes]:
    with open_zip(data, "sign it again", name) as archive:
        return {member.path: archive.read(member) for member in archive.files}
