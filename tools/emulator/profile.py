"""The credentials and the region of a profile, for --profile.

boto3 finds the credentials of every kind of profile, such as those of IAM Identity Center. Without it, only the access
keys in the two files can be read (https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html).
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from typing import Any

NAMES = {
    "AWS_ACCESS_KEY_ID": "aws_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
    "AWS_SESSION_TOKEN": "aws_session_token",
}


class ProfileUnusable(Exception):
    """A profile has no credentials that can be used; the message has the cause and the next step."""


def profile_variables(name: str) -> dict[str, str]:
    """Return the environment variables of a function that uses the profile. Raises ProfileUnusable."""
    try:
        import botocore.session  # not everyone has it, and it takes 100 ms
    except ImportError:
        values = values_in_files(name)
    else:
        values = values_of_session(botocore.session.Session(profile=name), name)
    region = values.pop("region", None)
    variables = {variable: values[key] for variable, key in NAMES.items() if values.get(key)}
    return variables | ({"AWS_REGION": region, "AWS_DEFAULT_REGION": region} if region else {})


def values_of_session(session: Any, name: str) -> dict[str, str]:
    from botocore.exceptions import BotoCoreError  # see `profile_variables`

    try:
        # Without credentials in the profile, botocore would wait for the metadata service of an EC2 instance.
        session.set_config_variable("metadata_service_num_attempts", 0)
        credentials = session.get_credentials()
        if credentials is None:
            raise ProfileUnusable(
                f"the profile {name} has no credentials; add them with: aws configure --profile {name}"
            )
        keys = credentials.get_frozen_credentials()
    except BotoCoreError as error:
        raise ProfileUnusable(f"the profile {name} cannot be used: {error}") from None
    found = zip(NAMES.values(), (keys.access_key, keys.secret_key, keys.token), strict=True)
    return dict(found) | {"region": session.get_config_variable("region")}


def values_in_files(name: str) -> dict[str, str]:
    values: dict[str, str] = {}
    section = name if name == "default" else f"profile {name}"
    for variable, file, part in (
        ("AWS_CONFIG_FILE", "config", section),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name),
    ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(Path(os.environ.get(variable) or f"~/.aws/{file}").expanduser(), "utf-8")
        except (configparser.Error, ValueError, RuntimeError) as error:
            raise ProfileUnusable(f"the {file} file of AWS cannot be read: {' '.join(str(error).split())}") from None
        if parser.has_section(part):
            values |= dict(parser.items(part))
    if not (values.get("aws_access_key_id") and values.get("aws_secret_access_key")):
        message = f"the profile {name} has no access key in a file; for other kinds of profiles, install boto3"
        raise ProfileUnusable(f"{message}: python3 -m pip install boto3")
    return values
