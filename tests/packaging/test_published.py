"""What is published: `./build.sh arn`, the page docs/layers.md, and `--version`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import documents
from support.built_zips import MANIFEST
from support.checkout import ENVIRONMENT, ROOT, Checkout

from tools.packaging import manifest
from tools.packaging.release import published

VERSION = MANIFEST["version"]
NAME = MANIFEST["name"]
TITLE = f"{NAME} {VERSION}\n"


def entry(variant: str, region: str, number: int, **fields: Any) -> dict[str, Any]:
    layer = NAME if variant == "slim" else f"{NAME}-{variant.replace('.', '-').replace('_', '-')}"
    return {
        "variant": variant,
        "version": VERSION,
        "partition": "aws",
        "account": "123456789012",
        "region": region,
        "arn": f"arn:aws:lambda:{region}:123456789012:layer:{layer}:{number}",
        "sha256": "a" * 64,
        "size": 1000,
        "sharedWith": [],
        **fields,
    }


ENTRIES = [
    entry("python3.13-arm64", "eu-central-1", 3),
    entry("slim", "eu-central-1", 7, sharedWith=["public"]),
    entry("slim", "us-east-1", 5, sharedWith=["o-a1b2c3d4e5"]),
]
SLIM, BUNDLED = ENTRIES[1]["arn"], ENTRIES[0]["arn"]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout.at(tmp_path / "checkout")
    path = made.root / "layer-manifest.json"
    path.write_text(json.dumps(MANIFEST | {"published": ENTRIES}))
    return made


def test_the_arn_of_one_variant_is_printed_alone(checkout: Checkout) -> None:
    assert checkout.build("arn", "--region", "eu-central-1", "--variant", "slim") == f"{SLIM}\n"


def test_all_variants_of_a_region_are_printed_with_their_names(checkout: Checkout) -> None:
    assert checkout.build("arn", "--region", "eu-central-1") == f"slim  {SLIM}\npython3.13-arm64  {BUNDLED}\n"


def test_arns_are_one_json_object(checkout: Checkout) -> None:
    text = checkout.build("arn", "--region", "eu-central-1", "--json")
    assert json.loads(text) == {"command": "arn", "arns": {"slim": SLIM, "python3.13-arm64": BUNDLED}}


@pytest.fixture
def shared(checkout: Checkout) -> Checkout:
    """A checkout that has published the slim layer of one region in two accounts."""
    other = entry("slim", "us-east-1", 2)
    other |= {"account": "210987654321", "arn": other["arn"].replace("123456789012", "210987654321")}
    path = checkout.root / "layer-manifest.json"
    path.write_text(json.dumps(MANIFEST | {"published": [*ENTRIES, other]}))
    return checkout


def test_the_account_has_to_be_chosen_if_there_are_several(shared: Checkout) -> None:
    for words in ([], ["--variant", "slim"]):
        assert shared.refusal("arn", "--region", "us-east-1", *words) == (
            "several accounts have published in us-east-1, choose one with --account: 123456789012, 210987654321"
        )
    assert shared.build("arn", "--region", "us-east-1", "--account", "210987654321").endswith(
        f":210987654321:layer:{NAME}:2\n"
    )
    assert shared.build("arn", "--region", "eu-central-1", "--variant", "slim") == f"{SLIM}\n"


def test_an_account_that_has_published_nothing_is_an_error(checkout: Checkout) -> None:
    assert checkout.refusal("arn", "--region", "us-east-1", "--account", "210987654321") == (
        "layer-manifest.json lists nothing published in us-east-1 for the layer by the account 210987654321: "
        "publish it with ./build.sh publish"
    )


def test_a_region_without_the_layer_is_an_error_that_lists_the_others(checkout: Checkout) -> None:
    assert checkout.refusal("arn", "--region", "eu-west-1") == (
        "layer-manifest.json lists nothing published in eu-west-1 for the layer: "
        "it is published in eu-central-1, us-east-1"
    )


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["--region", "eu-west-1"], 1, "nothing published in eu-west-1"),
        (["--region", "eu-west-1", "--variant", "x"], 2, "--variant 'x' is unknown"),
        ([], 2, "--region"),
    ],
)
def test_an_error_is_one_json_object(checkout: Checkout, words: list[str], status: int, reason: str) -> None:
    done = checkout.run("arn", *words, "--json")
    value = json.loads(done.stdout)
    assert (done.returncode, value["command"]) == (status, "arn")
    assert reason in value["error"] and value["error"] in done.stderr


def test_an_unknown_variant_is_wrong_usage(checkout: Checkout) -> None:
    done = checkout.run("arn", "--region", "us-east-1", "--variant", "slimmer")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("build.sh: error: --variant 'slimmer' is unknown, use one of slim, python3.12-x86_64")


def test_a_region_is_required(checkout: Checkout) -> None:
    done = checkout.run("arn")
    assert (done.returncode, done.stderr) == (
        2,
        "build.sh: error: the following arguments are required: --region (see ./build.sh arn --help)\n",
    )


# The page


def test_the_committed_page_is_the_one_that_the_generator_writes() -> None:
    written = published.page(manifest.load(ROOT / manifest.FILE_NAME))
    assert (ROOT / published.PAGE).read_bytes() == written, "run ./build.sh layers-page"


def test_the_prose_of_the_page_has_no_backslash() -> None:
    assert "\\" not in documents.prose(published.PAGE)


def test_the_command_writes_the_page(checkout: Checkout) -> None:
    (checkout.root / "docs").mkdir()
    assert checkout.build("layers-page") == "wrote docs/layers.md\n"
    text = (checkout.root / "docs" / "layers.md").read_text()
    assert f"| eu-central-1 | {VERSION} | `{SLIM}` | everybody | `{'a' * 64}` |\n" in text
    assert f"| us-east-1 | {VERSION} | `{ENTRIES[2]['arn']}` | o-a1b2c3d4e5 | `{'a' * 64}` |\n" in text
    assert f"| eu-central-1 | {VERSION} | `{BUNDLED}` | nobody | `{'a' * 64}` |\n" in text
    assert text.index("### slim") < text.index("### python3.13-arm64")


def test_a_variant_that_is_no_longer_built_is_listed_last() -> None:
    old = entry("python3.11-x86_64", "eu-central-1", 1)
    loaded = manifest.parse(json.dumps(MANIFEST | {"published": [old, *ENTRIES]}).encode())
    text = published.page(loaded).decode()
    assert text.index("### python3.13-arm64") < text.index("### python3.11-x86_64")
    assert [each.arn for each in published.arns(loaded, "eu-central-1", "python3.11-x86_64")] == [old["arn"]]


# Versions


def test_build_sh_prints_the_version(checkout: Checkout) -> None:
    assert checkout.build("--version") == TITLE


def test_main_py_prints_the_version(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "main.py", "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, TITLE, "")
