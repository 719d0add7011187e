"""Signing jobs of AWS Signer, which moto lacks; its signing profiles are used.

The additions follow the API Reference and the Developer Guide: the bucket of the source has versioning, a signed zip
cannot be signed again, a job takes time, and a second request with the same token returns the first job. The signature
is a random file with the name that zips signed by the service have.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import uuid
import zipfile
from dataclasses import dataclass
from typing import Any

from moto.s3.models import s3_backends
from moto.signer.models import signer_backends

SIGNATURE = "META_INF/aws_signer_signature_v1.0.SF"


@dataclass
class Job:
    looks: int  # reads that see it in progress
    bucket: str
    key: str = ""
    reason: str = ""


class SigningJobs:
    """All jobs.

    Attributes:
        profiles: the version of the profile that has signed a zip, by the `CodeSha256` of that.
        looks_until_done: the number of reads that see a new job in progress.
        changes_files: the signed zip lacks a file, as after an error of the service.
        omits_signature: the zip that is returned has no signature.
    """

    def __init__(self) -> None:
        self.profiles: dict[str, str] = {}
        self.looks_until_done = 2
        self.changes_files = False
        self.omits_signature = False
        self._jobs: dict[str, Job] = {}
        self._tokens: dict[str, str] = {}

    def start(self, account: str, region: str, body: dict[str, Any]) -> tuple[int, Any]:
        if known := self._tokens.get(body["clientRequestToken"]):
            return 200, {"jobId": known, "jobOwner": account}
        profile = signer_backends[account][region].signing_profiles.get(body["profileName"])
        if profile is None:
            return 404, {"code": "ResourceNotFoundException"}
        source, destination = body["source"]["s3"], body["destination"]["s3"]
        backend = s3_backends[account]["aws"]
        if not backend.get_bucket(source["bucketName"]).is_versioned:
            return 400, {"code": "ValidationException"}
        job, name = Job(self.looks_until_done, destination["bucketName"]), str(uuid.uuid4())
        stored = backend.get_object(source["bucketName"], source["key"], version_id=source["version"])
        if stored is None:
            return 400, {"code": "ValidationException"}
        signed = self._signed(stored.value)
        if signed is None:
            job.reason = "the zip has a signature"
        else:
            job.key = f"{destination['prefix']}{name}.zip"
            backend.put_object(job.bucket, job.key, signed)
            self.profiles[base64.b64encode(hashlib.sha256(signed).digest()).decode()] = profile.profile_version_arn
        self._jobs[name] = job
        self._tokens[body["clientRequestToken"]] = name
        return 200, {"jobId": name, "jobOwner": account}

    def describe(self, name: str) -> tuple[int, Any]:
        job = self._jobs.get(name)
        if job is None:
            return 404, {"code": "ResourceNotFoundException"}
        job.looks -= 1
        if job.looks >= 0:
            return 200, {"jobId": name, "status": "InProgress"}
        if job.reason:
            return 200, {"jobId": name, "status": "Failed", "statusReason": job.reason}
        signed = {"s3": {"bucketName": job.bucket, "key": job.key}}
        return 200, {"jobId": name, "status": "Succeeded", "signedObject": signed}

    def _signed(self, data: bytes) -> bytes | None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(buffer, "w") as signed:
            infos = archive.infolist()
            if SIGNATURE in archive.namelist():
                return None
            for info in infos[1:] if self.changes_files else infos:
                signed.writestr(info, archive.read(info))
            if not self.omits_signature:
                signed.writestr(SIGNATURE, os.urandom(64))
        return buffer.getvalue()
