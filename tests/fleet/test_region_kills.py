"""Roll-outs in two regions at the same time, whose process is killed at a random call of AWS, again and again.

Afterwards every function and alias is as before or correct, the journal names each function that was changed, and the
roll-out can be completed or undone.
"""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from support.cloud import ACCOUNT, HANDLER, NAME, REGION, Cloud
from support.examples import sample
from support.lambda_standin import Call

REGIONS = [REGION, "us-east-1"]
NAMES = [f"f-{number}" for number in range(4)]
OPTIONS = [
    *("--all-using", "--to", "2", "--yes", "--region", *REGIONS, "--parallel-regions", "2"),
    *("--publish-alias", "live", "--waves", "1,50%,100%", "--gate", "true"),
]
CALLS = 140  # of a whole roll-out, roughly
MAX_KILLS = 3  # of one roll-out

State = dict[tuple[str, str], tuple[str, str]]  # by region and function: the layer of $LATEST, and that of the alias


@pytest.fixture
def fleet(cloud: Cloud) -> Cloud:
    for region in REGIONS:
        client = cloud.client(region=region)
        for number in range(2):
            client.publish_layer_version(LayerName=NAME, Content={"ZipFile": HANDLER + bytes(number)})
        for name in NAMES:
            cloud.function(name, [layer(region, 1)], region)
            client.publish_version(FunctionName=name)
            client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    cloud.standin.calls.clear()
    return cloud


def layer(region: str, version: int) -> str:
    return f"arn:aws:lambda:{region}:{ACCOUNT}:layer:{NAME}:{version}"


def state(cloud: Cloud) -> State:
    found = {}
    for region in REGIONS:
        for name in NAMES:
            alias = cloud.client(region=region).get_alias(FunctionName=name, Name="live")
            assert not alias.get("RoutingConfig", {}).get("AdditionalVersionWeights")
            versions = "$LATEST", alias["FunctionVersion"]
            latest, released = (cloud.standin.layers[ACCOUNT, region, name, version] for version in versions)
            found[region, name] = latest[0].rpartition(":")[2], released[0].rpartition(":")[2]
    return found


def all_at(version: str) -> State:
    return {(region, name): (version, version) for region in REGIONS for name in NAMES}


def killed(cloud: Cloud, chance: random.Random, *words: str | Path) -> bool:
    """Start a command and kill it at a random call. Returns whether it was killed before it ended by itself."""
    fatal, moment = chance.randint(1, CALLS), chance.choice(["before", "after"])
    calls: list[Call] = []

    def is_due(call: Call) -> bool:
        calls.append(call)
        return len(calls) >= fatal

    status = cloud.kill_when(is_due, moment, *words)
    assert status in (0, -signal.SIGKILL), (status, len(calls), fatal)
    return status != 0


def check_journal(cloud: Cloud, journal: Path) -> None:
    """Check that each function is as before or correct, and that each change was announced in the journal."""
    text = journal.read_text() if journal.exists() else ""
    events = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    begun = {(event["event"], event["function"]) for event in events if "function" in event}
    for (region, name), (latest, released) in state(cloud).items():
        arn = f"arn:aws:lambda:{region}:{ACCOUNT}:function:{name}"
        assert (latest, released) in (("1", "1"), ("2", "1"), ("2", "2"))
        assert latest == "1" or ("update-started", arn) in begun
        assert released == "1" or ("alias-move-started", arn) in begun


def sweep(cloud: Cloud, journal: Path, seed: int) -> None:
    """Kill a roll-out and those that resume it, then complete it, or undo it."""
    chance = random.Random(seed)
    words: list[Any] = ["rollout", *OPTIONS, "--journal", journal]
    resume = [*words, "--resume", "--forward"]
    is_killed = killed(cloud, chance, *words)
    check_journal(cloud, journal)
    for _ in range(chance.randint(0, MAX_KILLS - 1)):
        if is_killed:
            is_killed = killed(cloud, chance, *resume)
            check_journal(cloud, journal)
    if chance.random() < 0.5:
        cloud.done(*resume)
        assert state(cloud) == all_at("2")
        assert cloud.json("status", journal)["outcome"] == "done"
    elif '"accepted"' in journal.read_text():
        cloud.done("rollback", journal, "--yes")
        assert state(cloud) == all_at("1")
    else:
        assert state(cloud) == all_at("1")


@pytest.mark.parametrize("seed", sample([1, 2], 2))
def test_a_roll_out_in_two_regions_survives_kills(fleet: Cloud, tmp_path: Path, seed: int) -> None:
    sweep(fleet, tmp_path / "journal", seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3, 43))
def test_a_roll_out_in_two_regions_survives_many_kills(fleet: Cloud, tmp_path: Path, seed: int) -> None:
    sweep(fleet, tmp_path / "journal", seed)
