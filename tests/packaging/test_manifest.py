"""Manifests that break a rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.built_zips import (
    FILES,
    MANIFEST,
)
from support.checkout import Checkout

from tools.packaging import PackagingError, manifest


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in MANIFEST.items() if name != key}


def with_files(*extra: Any) -> dict[str, Any]:
    return {**MANIFEST, "files": [*MANIFEST["files"], *extra]}


PATHS = ["/etc/passwd", "../up", "a/../b", "./a", "a//b", "a/", ".", "..", "", "a\\b", "a\nb"]

MANIFEST_FAULTS: list[tuple[Any, str]] = [
    ([], "must be an object"),
    *((without(key), f"{key} is missing") for key in MANIFEST if key != "published"),
    (
        {**MANIFEST, "licence": "MIT"},
        "unknown key 'licence', known are name, version, description, license, ",
    ),
    ({**MANIFEST, "name": 1}, "name must be a string"),
    ({**MANIFEST, "name": ""}, "name '' must be 1 to 140 of the characters a-z A-Z 0-9 - _"),
    ({**MANIFEST, "name": "a.b"}, "name 'a.b' must be "),
    ({**MANIFEST, "name": "name\n"}, "name 'name\\n' must be "),
    ({**MANIFEST, "name": "n" * 141}, "name 'nnn"),
    ({**MANIFEST, "version": "1.0"}, "version '1.0' must be a semantic version, such as 1.2.3"),
    ({**MANIFEST, "version": "01.0.0"}, "version '01.0.0' must be "),
    ({**MANIFEST, "version": "v1.0.0"}, "version 'v1.0.0' must be "),
    ({**MANIFEST, "description": "d" * 257}, "description has 257 characters, the limit is 256"),
    ({**MANIFEST, "license": "l" * 513}, "license has 513 characters, the limit is 512"),
    ({**MANIFEST, "compatibleRuntimes": "python3.13"}, "compatibleRuntimes must be a list"),
    ({**MANIFEST, "compatibleRuntimes": []}, "compatibleRuntimes has 0 entries, 1 to 15 are allowed"),
    (
        {**MANIFEST, "compatibleRuntimes": [f"python3.{minor}" for minor in range(16)]},
        "compatibleRuntimes has 16 entries, 1 to 15 are allowed",
    ),
    ({**MANIFEST, "compatibleRuntimes": ["a", "a"]}, "compatibleRuntimes contains a value twice"),
    ({**MANIFEST, "compatibleRuntimes": [3.13]}, "compatibleRuntimes must contain strings only"),
    ({**MANIFEST, "compatibleArchitectures": []}, "compatibleArchitectures is empty: list one or both of "),
    ({**MANIFEST, "compatibleArchitectures": ["mips"]}, "compatibleArchitectures: 'mips' must be one of "),
    ({**MANIFEST, "files": {}}, "files must be a list"),
    ({**MANIFEST, "files": []}, "files must contain bootstrap"),
    ({**MANIFEST, "files": MANIFEST["files"][:1]}, "files must contain runtime.py"),
    ({**MANIFEST, "files": [{"path": "bootstrap", "mode": "0644"}]}, "files: bootstrap must have mode 0755"),
    (with_files("x.py"), f"files[{len(FILES)}]: must be an object"),
    (with_files({"path": "x.py"}), f"files[{len(FILES)}]: mode is missing"),
    (with_files({"path": "x.py", "mode": 420}), f"files[{len(FILES)}]: mode must be a string"),
    (with_files({"path": "x.py", "mode": "0777"}), f"files[{len(FILES)}]: mode '0777' must be one of 0755, 0644"),
    (with_files({"path": "x.py", "mode": "0644", "size": 1}), f"files[{len(FILES)}]: unknown key 'size'"),
    (with_files({"path": "runtime.py", "mode": "0644"}), "files contains a path twice"),
    *((with_files({"path": path, "mode": "0644"}), f"files[{len(FILES)}]: path {path!r} must ") for path in PATHS),
]


@pytest.mark.parametrize(("content", "message"), MANIFEST_FAULTS, ids=lambda value: str(value)[:60])
def test_a_manifest_that_breaks_a_rule_is_refused(content: Any, message: str) -> None:
    with pytest.raises(PackagingError) as refused:
        manifest.parse(json.dumps(content).encode())
    assert str(refused.value).startswith(f"layer-manifest.json: {message}")


def test_a_build_with_a_manifest_that_breaks_a_rule_is_refused(checkout: Checkout) -> None:
    content, message = MANIFEST_FAULTS[0]
    (checkout.root / "layer-manifest.json").write_text(json.dumps(content))
    assert checkout.refusal().startswith(f"layer-manifest.json: {message}")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\xfd", b"[" * 100_000])
def test_a_manifest_that_is_not_json_is_refused(checkout: Checkout, text: bytes) -> None:
    (checkout.root / "layer-manifest.json").write_bytes(text)
    assert checkout.refusal().startswith("layer-manifest.json: is not JSON: ")


def test_a_missing_manifest_is_refused(checkout: Checkout) -> None:
    (checkout.root / "layer-manifest.json").unlink()
    assert checkout.refusal() == "cannot read layer-manifest.json: No such file or directory"
