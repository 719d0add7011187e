"""The interpreters that `layer-manifest.json` pins: download, cache and updates."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import examples, web_server
from support.checkout import ENVIRONMENT, ROOT, Checkout
from support.fake_cpython import ARM64, HERE, NAMES, PATCH, PROGRAM, VERSION, X86_64, archive, cpython, launcher
from support.web_server import Request, WebServer

from tools.common.urls import without_secrets
from tools.packaging import PackagingError, manifest
from tools.packaging.interpreter import download as fetch
from tools.packaging.interpreter import pins as pinning
from tools.packaging.manifest import Pin

OPTIONS = ("layer", "--python", VERSION, "--arch", NAMES[HERE])
ARCHIVE = archive(cpython())
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()
PATH = f"/releases/cpython-{PATCH}%2B20260101.tar.gz"
CACHED_NAME = f"{SHA256[:16]}-cpython-{PATCH}+20260101.tar.gz"
NEXT_STEP = "try again, or fetch it another way and use --interpreter"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delitem(ENVIRONMENT, name, raising=False)
    monkeypatch.setitem(ENVIRONMENT, "XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Checkout.at(tmp_path / "checkout")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "python-streaming-runtime"


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server.running() as running:
        yield running


def pin_entry(machine: int, url: str, sha256: str = SHA256, **fields: str) -> dict[str, str]:
    named = {"python": VERSION, "architecture": NAMES[machine], "version": PATCH, "release": "20260101"}
    return {**named, "url": url, "sha256": sha256, **fields}


def write_pins(checkout: Checkout, *pins: dict[str, str]) -> None:
    path = checkout.root / "layer-manifest.json"
    text = json.loads(path.read_bytes())
    text["selfContained"]["interpreters"] = pins
    path.write_text(json.dumps(text))


# Downloads


def test_a_pinned_archive_is_downloaded_once_and_then_read_from_the_cache(
    checkout: Checkout, server: WebServer, cache: Path
) -> None:
    write_pins(checkout, pin_entry(HERE, server.serve(PATH, ARCHIVE)))
    report = checkout.build(*OPTIONS)
    assert (server.requests, os.listdir(cache)) == ([PATH], [CACHED_NAME])
    assert (cache / CACHED_NAME).read_bytes() == ARCHIVE
    name = f"python-build-standalone 20260101 {PATCH} {NAMES[HERE]}"
    assert f"\ninterpreter  CPython {PATCH} for {NAMES[HERE]}, {name}\n" in report
    assert f"  bundled  CPython {PATCH}, {name}, sha256 {SHA256}\n" in (checkout.dist / "INTERPRETERS").read_text()
    assert checkout.build(*OPTIONS) == report
    assert server.requests == [PATH]


@pytest.mark.long
def test_a_pinned_archive_gives_the_same_zip_as_the_file(
    checkout: Checkout, server: WebServer, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "a.tar.gz").write_bytes(ARCHIVE)
    sums = []
    for url in (server.serve(PATH, ARCHIVE), (tmp_path / "a.tar.gz").as_uri()):
        write_pins(checkout, pin_entry(HERE, url))
        checkout.build(*OPTIONS)
        sums.append((checkout.dist / "SHA256SUMS").read_text())
    checkout.build(*OPTIONS, "--interpreter", tmp_path / "a.tar.gz")
    assert sums == [(checkout.dist / "SHA256SUMS").read_text()] * 2
    assert sorted(os.listdir(cache)) == sorted([CACHED_NAME, f"{SHA256[:16]}-a.tar.gz"])


def test_a_damaged_file_in_the_cache_is_downloaded_again(checkout: Checkout, server: WebServer, cache: Path) -> None:
    write_pins(checkout, pin_entry(HERE, server.serve(PATH, ARCHIVE)))
    cache.mkdir(parents=True)
    (cache / CACHED_NAME).write_bytes(ARCHIVE[:-1])
    checkout.build(*OPTIONS, "-n")
    assert server.requests == [PATH]
    assert (cache / CACHED_NAME).read_bytes() == ARCHIVE


@pytest.mark.long
def test_an_archive_given_by_the_user_is_not_cached(checkout: Checkout, server: WebServer, tmp_path: Path) -> None:
    url = server.serve(PATH, ARCHIVE)
    for _ in range(2):
        checkout.build(*OPTIONS, "--interpreter", url, "-n")
    assert server.requests == [PATH, PATH]
    assert not (tmp_path / "cache").exists()


def test_a_redirection_is_followed(checkout: Checkout, server: WebServer, cache: Path) -> None:
    final = server.serve("/final?token=1", ARCHIVE)
    write_pins(
        checkout,
        pin_entry(HERE, server.serve(PATH, lambda request: request.head(302, Location=final, Content_Length=0))),
    )
    checkout.build(*OPTIONS, "-n")
    assert (server.requests, os.listdir(cache)) == ([PATH, "/final?token=1"], [CACHED_NAME])


@pytest.mark.long
def test_the_cache_is_in_the_home_folder_unless_xdg_cache_home_is_absolute(
    checkout: Checkout, server: WebServer, tmp_path: Path
) -> None:
    write_pins(checkout, pin_entry(HERE, server.serve(PATH, ARCHIVE)))
    for place in ("", "relative"):
        checkout.build(*OPTIONS, "-n", HOME=str(tmp_path / "home"), XDG_CACHE_HOME=place)
    assert server.requests == [PATH]
    assert os.listdir(tmp_path / "home/.cache/python-streaming-runtime") == [CACHED_NAME]


@pytest.mark.long
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the launcher is for x86_64")
def test_the_pinned_release_for_this_machine_compiles_for_the_other_architecture(
    checkout: Checkout, server: WebServer, tmp_path: Path
) -> None:
    calls, twin = tmp_path / "calls", tmp_path / "python"
    twin.write_text(f'#!/bin/sh\necho "$*" >>{calls}\nexec {Path(sys.executable).resolve()} "$@"\n')
    twin.chmod(0o755)
    here, foreign = archive(cpython({PROGRAM: launcher(twin)})), archive(cpython(machine=ARM64))
    pins = [
        pin_entry(machine, server.serve(f"/{NAMES[machine]}", data), hashlib.sha256(data).hexdigest())
        for machine, data in ((X86_64, here), (ARM64, foreign))
    ]
    write_pins(checkout, *pins)
    checkout.build("layer", "--python", VERSION, "--arch", "arm64")
    assert server.requests == ["/arm64", "/x86_64"]
    assert "compile_tree.py" in calls.read_text().splitlines()[-1]
    with zipfile.ZipFile(checkout.dist / f"layer-python{VERSION}-arm64.zip") as zipped:
        assert zipped.read("cpython/bin/python3") == cpython(machine=ARM64)[PROGRAM]


# Downloads that fail


def cut(request: Request) -> None:
    web_server.send(request, ARCHIVE[:100], length=len(ARCHIVE))


def cut_chunk(request: Request) -> None:
    request.head(200, Transfer_Encoding="chunked")
    request.wfile.write(b"400\r\n" + ARCHIVE[:100])


def redirect_to_itself(request: Request) -> None:
    request.head(302, Location=request.path, Content_Length=0)


FAILURES = {
    "not found": (lambda request: request.send_error(404), "status 404 Not Found"),
    "failing": (lambda request: request.send_error(500), "status 500 Internal Server Error"),
    "a redirection to itself": (
        redirect_to_itself,
        "status 302 The HTTP server returned a redirect error that would lead to an infinite ",
    ),
    "no response": (lambda request: None, f"Remote end closed connection without response; {NEXT_STEP}"),
    "no HTTP": (lambda request: request.wfile.write(b"SSH-2.0\r\n"), f"SSH-2.0; {NEXT_STEP}"),
    "cut": (cut, f"the connection ended after 100 of {len(ARCHIVE):,} bytes; {NEXT_STEP}"),
    "cut in a chunk": (cut_chunk, f"the connection ended too early; {NEXT_STEP}"),
}


WITH_SECRETS = {name: respond for name, (respond, _) in FAILURES.items()} | {
    "another file": b"text",
    "another hash": ARCHIVE,
    "user and password": ARCHIVE,
}


@pytest.mark.parametrize("kind", examples.sample(WITH_SECRETS, 3))
def test_no_message_contains_the_secrets_of_a_url(checkout: Checkout, server: WebServer, kind: str) -> None:
    signature = "?X-Amz-Signature=abc123"
    url = server.serve(f"{PATH}{signature}", WITH_SECRETS[kind])
    shown = url.removesuffix(signature)
    if kind == "user and password":
        url = url.replace("http://", "http://user:abc123@")
    options = ["--sha256", "0" * 64] if kind == "another hash" else []
    refusal = checkout.refusal(*OPTIONS, "--interpreter", url, *options)
    assert shown in refusal
    assert "abc123" not in refusal and "Signature" not in refusal


@pytest.mark.parametrize("kind", examples.sample(FAILURES, 2))
def test_a_failed_download_is_one_line_and_nothing_is_cached(
    checkout: Checkout, server: WebServer, tmp_path: Path, kind: str
) -> None:
    respond, message = FAILURES[kind]
    url = server.serve(PATH, respond)
    write_pins(checkout, pin_entry(HERE, url))
    assert checkout.refusal(*OPTIONS).startswith(f"cannot fetch {url}: {message}")
    assert not (tmp_path / "cache").exists()


INVALID_URLS = {
    "file:///nowhere.tar": "No such file or directory",
    "file://elsewhere/a.tar": "",
    "http://[::1": "Invalid IPv6 URL",
    "http://127.0.0.1:0/a": "",
    "http://127.0.0.1:x/a": "nonnumeric port: 'x'",
    "http://a b/": "",
    "http:///a": "no host given",
    "https://": "no host given",
    "http://127.0.0.1/\u00e9": "",
}


@pytest.mark.parametrize("url", INVALID_URLS)
def test_an_invalid_url_is_one_line(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("no_proxy", "*")
    assert fetch.is_url(url)
    with pytest.raises(PackagingError) as refusal:
        fetch.from_url(url)
    message = str(refusal.value)
    assert message.startswith(f"cannot fetch {without_secrets(url)}: {INVALID_URLS[url]}") and message.endswith(
        f"; {NEXT_STEP}"
    )
    assert "\n" not in message


@pytest.mark.parametrize(
    "path", ["a.tar", "/a.tar", "C:/a.tar", "http:a", "http:/a", "s3://bucket/a", "://", "a/http://b", ""]
)
def test_a_path_is_not_a_url(path: str) -> None:
    assert not fetch.is_url(path)


@pytest.mark.parametrize("has_length", [True, False], ids=["with Content-Length", "without"])
def test_a_download_that_is_too_large_is_stopped(server: WebServer, has_length: bool) -> None:
    def endless(request: Request) -> None:
        request.head(200, **({"Content_Length": 10**12} if has_length else {}))
        try:
            while True:
                request.wfile.write(bytes(65536))
        except OSError:
            pass  # the build has closed the connection

    url = server.serve("/endless", endless)
    with pytest.raises(PackagingError) as refusal:
        fetch.from_url(url, max_bytes=100_000)
    assert str(refusal.value) == f"{url} has more than 100,000 bytes: it is not an archive of CPython"


def test_an_archive_with_another_hash_is_refused_and_not_cached(
    checkout: Checkout, server: WebServer, tmp_path: Path
) -> None:
    url = server.serve(PATH, b"something else")
    write_pins(checkout, pin_entry(HERE, url))
    found = hashlib.sha256(b"something else").hexdigest()
    assert checkout.refusal(*OPTIONS) == (
        f"{url} has the sha256 {found}, layer-manifest.json pins {SHA256}: it is damaged or another file; "
        "find out which before you use it"
    )
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_one_line(checkout: Checkout, server: WebServer, tmp_path: Path) -> None:
    write_pins(checkout, pin_entry(HERE, server.serve(PATH, ARCHIVE)))
    (tmp_path / "file").touch()
    assert checkout.refusal(*OPTIONS, XDG_CACHE_HOME=str(tmp_path / "file")) == (
        f"cannot write to the cache {tmp_path}/file/python-streaming-runtime: Not a directory; "
        "set XDG_CACHE_HOME to another folder"
    )


def test_ctrl_c_during_a_download_leaves_nothing(checkout: Checkout, server: WebServer, tmp_path: Path) -> None:
    half_sent, released = threading.Event(), threading.Event()

    def stall(request: Request) -> None:
        cut(request)
        half_sent.set()
        released.wait()

    write_pins(checkout, pin_entry(HERE, server.serve(PATH, stall)))
    before = checkout.files()
    process = subprocess.Popen(
        [checkout.root / "build.sh", *OPTIONS],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the caller may ignore it
    )
    with process:
        half_sent.wait()
        process.send_signal(signal.SIGINT)
        try:
            assert process.communicate() == (b"", b"")
        finally:
            released.set()
    assert process.returncode == 130
    assert checkout.files() == before
    assert not (tmp_path / "cache").exists()


OTHER = next(version for version in ("3.12", "3.13") if version != VERSION)


@pytest.mark.parametrize(("machines", "pinned"), [((), "none"), ((HERE,), OTHER)])
def test_a_python_that_is_not_pinned_is_refused_with_a_list_of_pinned_ones(
    checkout: Checkout, machines: tuple[int, ...], pinned: str
) -> None:
    foreign = ARM64 if HERE == X86_64 else X86_64
    others = [pin_entry(machine, "http://127.0.0.1:0/", python=OTHER, version=f"{OTHER}.1") for machine in machines]
    write_pins(checkout, pin_entry(foreign, "http://127.0.0.1:0/"), *others)
    assert checkout.refusal(*OPTIONS) == (
        f"layer-manifest.json pins no Python {VERSION} for {NAMES[HERE]} (it pins {pinned}): "
        "choose one of these, or name an archive with --interpreter"
    )


# Manifests that are refused

GOOD = pin_entry(X86_64, "https://example.org/a.tar.gz")
MANIFEST = json.loads((ROOT / "layer-manifest.json").read_bytes())
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"compatibleRuntimes": ["provided.al2023"]}, "selfContained: interpreters is missing"),
    ({"interpreters": []}, "selfContained: compatibleRuntimes is missing"),
    ({"interpreters": {}}, "selfContained: interpreters must be a list"),
    ({"interpreters": ["3.13"]}, "selfContained: interpreters[0]: must be an object"),
    ({"interpreters": [GOOD], "more": 1}, "selfContained: unknown key 'more', known are "),
    ({"compatibleRuntimes": [1], "interpreters": []}, "selfContained: compatibleRuntimes must contain strings only"),
    (
        {"compatibleRuntimes": ["a", "a"], "interpreters": []},
        "selfContained: compatibleRuntimes contains a value twice",
    ),
    (
        {"compatibleRuntimes": [], "interpreters": [GOOD]},
        "selfContained: compatibleRuntimes has 0 entries, 1 to 15 are ",
    ),
    *(
        ({"interpreters": [{name: value for name, value in GOOD.items() if name != key}]}, f"[0]: {key} is missing")
        for key in GOOD
    ),
    ({"interpreters": [GOOD, {**GOOD, "architecture": "arm64", "size": 1}]}, "[1]: unknown key 'size', known are "),
    ({"interpreters": [{**GOOD, "release": 20260101}]}, "[0]: release must be a string"),
    (
        {"interpreters": [{**GOOD, "version": VERSION}]},
        f"[0]: version '{VERSION}' must be a release of Python {VERSION}, ",
    ),
    (
        {"interpreters": [{**GOOD, "version": "3.9.1"}]},
        f"[0]: version '3.9.1' must be a release of Python {VERSION}, such as ",
    ),
    ({"interpreters": [{**GOOD, "version": f"{PATCH}rc1"}]}, f"[0]: version '{PATCH}rc1' must be "),
    (
        {"interpreters": [{**GOOD, "architecture": "aarch64"}]},
        "[0]: architecture 'aarch64' must be one of x86_64, arm64",
    ),
    *(
        ({"interpreters": [{**GOOD, "sha256": value}]}, f"[0]: sha256 {value!r} must be 64 of the characters 0-9 a-f")
        for value in ("", "0" * 63, "0" * 65, "A" * 64, "0" * 63 + "\n")
    ),
    ({"interpreters": [GOOD, {**GOOD, "release": "1"}]}, "selfContained: interpreters contains a Python for one "),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=lambda value: str(value)[:70])
def test_a_manifest_with_a_faulty_pin_is_refused(change: dict[str, Any], message: str) -> None:
    if message.startswith("["):
        message = f"selfContained: interpreters{message}"
    if "missing" not in message:
        change = {"compatibleRuntimes": ["provided.al2023"], **change}
    elif "[" in message:
        change = {**change, "compatibleRuntimes": ["provided.al2023"]}
    with pytest.raises(PackagingError) as refusal:
        manifest.parse(json.dumps({**MANIFEST, "selfContained": change}).encode())
    assert str(refusal.value).startswith(f"layer-manifest.json: {message}")


def test_the_manifest_pins_interpreters_for_every_architecture_of_aws_lambda() -> None:
    pins = manifest.load(ROOT / "layer-manifest.json").pins
    assert [(each.python, each.architecture) for each in pins] == [
        (python, architecture) for python in ("3.12", "3.13", "3.14") for architecture in ("x86_64", "arm64")
    ]
    machines = {"x86_64": "x86_64", "arm64": "aarch64"}
    for each in pins:
        name = f"cpython-{each.version}%2B{each.release}-{machines[each.architecture]}-unknown-linux-gnu"
        assert each.url.endswith(f"/{each.release}/{name}-install_only_stripped.tar.gz")


# Updates

MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
KIND = "unknown-linux-gnu-install_only_stripped.tar.gz"


def listed(version: str, release: str, machine: str = "x86_64", kind: str = KIND) -> dict[str, Any]:
    """One archive as the `versions.json` of pbs-installer lists it."""
    name = f"cpython-{version}+{release}-{machine}-{kind}"
    url = f"https://example.org/{release}/{name.replace('+', '%2B')}"
    return {"filename": name, "url": url, "sha256": hashlib.sha256(name.encode()).hexdigest()}


def listing(*files: dict[str, Any], freethreaded: bool = False) -> list[dict[str, Any]]:
    return [{"python_version": {"freethreaded": freethreaded}, "files": [each]} for each in files]


def both(version: str, release: str) -> list[dict[str, Any]]:
    return listing(*(listed(version, release, machine) for machine in MACHINES.values()))


CURRENT = {each.python: each for each in manifest.load(ROOT / "layer-manifest.json").pins}
LATER = "20991231"
EVERY = [entry for each in CURRENT.values() for entry in both(each.version, each.release)]


def update(checkout: Checkout, entries: Any, *options: str) -> str:
    path = checkout.root.parent / "versions.json"
    path.write_text(json.dumps(entries))
    return checkout.build("pin", "--versions", path, *options)


def pins(checkout: Checkout) -> dict[tuple[str, str], Pin]:
    found = manifest.load(checkout.root / "layer-manifest.json").pins
    return {(each.python, each.architecture): each for each in found}


def test_the_newest_patch_of_the_newest_release_is_pinned(checkout: Checkout) -> None:
    before = pins(checkout)
    newer = [
        *both("3.13.99", LATER),
        *both("3.13.100", "20991230"),
        *both("3.13.100", "20991229"),
        *both("3.13.98", LATER),
    ]
    report = update(checkout, [*EVERY, *newer])
    for architecture, machine in MACHINES.items():
        source = listed("3.13.100", "20991230", machine)
        named = {"python": "3.13", "architecture": architecture, "version": "3.13.100", "release": "20991230"}
        assert pins(checkout)["3.13", architecture] == Pin(**named, url=source["url"], sha256=source["sha256"])
        old = before["3.13", architecture]
        line = f"3.13 {architecture:6}  {old.version} of {old.release} becomes 3.13.100 of 20991230\n"
        assert line in report
        other = before["3.14", architecture]
        assert f"3.14 {architecture:6}  {other.version} of {other.release} is the newest\n" in report
        assert pins(checkout)["3.14", architecture] == other
    assert report.count("\n") == 6


def test_a_newer_release_of_the_same_patch_is_pinned(checkout: Checkout) -> None:
    version = CURRENT["3.12"].version
    update(checkout, [*both(version, LATER), *EVERY])
    assert pins(checkout)["3.12", "arm64"].release == LATER
    assert pins(checkout)["3.12", "arm64"].version == version


def test_an_older_listing_changes_nothing(checkout: Checkout) -> None:
    before = checkout.files()
    older = [entry for python in CURRENT for entry in both(f"{python}.0", "20200101")]
    report = update(checkout, older)
    assert report.count(" is the newest\n") == 6
    assert checkout.files() == before


UNWANTED = {
    "a later CPU": listing(*(listed("3.13.99", LATER, f"x86_64_v{level}") for level in (2, 3, 4))),
    "musl": listing(listed("3.13.99", LATER, kind="unknown-linux-musl-install_only_stripped.tar.gz")),
    "debug": listing(listed("3.13.99", LATER, kind="unknown-linux-gnu-debug-full.tar.zst")),
    "not stripped": listing(listed("3.13.99", LATER, kind="unknown-linux-gnu-install_only.tar.gz")),
    "free-threaded by name": listing(
        listed("3.13.99", LATER, kind="unknown-linux-gnu-freethreaded-install_only_stripped.tar.gz")
    ),
    "free-threaded": listing(listed("3.13.99", LATER), freethreaded=True),
    "release candidate": listing(listed("3.13.99rc1", LATER), listed("3.13.0a1", LATER)),
    "macOS": listing(listed("3.13.99", LATER, "aarch64", "apple-darwin-install_only_stripped.tar.gz")),
    "Windows": listing(listed("3.13.99", LATER, kind="pc-windows-msvc-install_only_stripped.tar.gz")),
    "another Python": listing(listed("3.99.1", LATER), listed("13.13.1", LATER)),
}


@pytest.mark.parametrize("kind", UNWANTED)
def test_archives_that_do_not_run_everywhere_on_aws_lambda_are_never_used(checkout: Checkout, kind: str) -> None:
    before = checkout.files()
    path = checkout.root.parent / "versions.json"
    path.write_text(json.dumps([*UNWANTED[kind], *EVERY, *UNWANTED[kind]]))
    pinning.refresh(checkout.root / "layer-manifest.json", path, dry_run=False)
    assert checkout.files() == before


def test_only_the_values_in_the_manifest_change(checkout: Checkout) -> None:
    path = checkout.root / "layer-manifest.json"
    old, source = pins(checkout)["3.14", "arm64"], listed("3.14.99", LATER, "aarch64")
    text = path.read_text().replace('"release": ', '"release"  :\t').replace("\n", "\r\n") + "\n\n"
    path.write_bytes(text.encode())
    path.chmod(0o640)
    update(checkout, [*EVERY, *listing(source)])
    place = text.index(old.sha256)
    begin = text.rindex("{", 0, place)
    changed = text[begin:]
    for was, now in (
        (old.version, "3.14.99"),
        (old.release, LATER),
        (old.url, source["url"]),
        (old.sha256, source["sha256"]),
    ):
        changed = changed.replace(f'"{was}"', f'"{now}"', 1)
    assert path.read_bytes().decode() == text[:begin] + changed
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_dry_run_prints_the_report_and_writes_nothing(checkout: Checkout) -> None:
    entries = [*EVERY, *both("3.13.99", LATER)]
    before = checkout.files()
    report = update(checkout, entries, "-n")
    assert checkout.files() == before
    assert update(checkout, entries) == report


INVALID_LISTINGS = {
    "empty": b"",
    "no JSON": b"<html>",
    "a number": b"1",
    "an object": b'{"a": 1}',
    "no files": b'[{"python_version": {"freethreaded": false}}]',
    "no version": b'[{"files": []}]',
    "a file without a hash": json.dumps(
        listing({"filename": listed("3.13.99", LATER)["filename"], "url": ""})
    ).encode(),
    "a file without a name": json.dumps(listing({"url": "", "sha256": ""})).encode(),
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", INVALID_LISTINGS)
def test_a_file_that_is_not_a_listing_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.json").write_bytes(INVALID_LISTINGS[kind])
    with pytest.raises(PackagingError, match=r"a\.json is not the versions\.json of pbs-installer: "):
        pinning.refresh(ROOT / "layer-manifest.json", tmp_path / "a.json", dry_run=True)


@pytest.mark.parametrize("options", [(), ("-n",)])
def test_a_listing_with_a_faulty_hash_is_refused(checkout: Checkout, options: tuple[str, ...]) -> None:
    faulty = {**listed("3.13.99", LATER), "sha256": "0"}
    (checkout.root / "a.json").write_text(json.dumps([*EVERY, *listing(faulty)]))
    assert " sha256 '0' must be 64 of the characters 0-9 a-f" in checkout.refusal(
        "pin", "--versions", "a.json", *options
    )


def test_a_listing_without_a_pinned_python_is_refused(checkout: Checkout) -> None:
    (checkout.root / "a.json").write_text(json.dumps([entry for entry in EVERY if "aarch64" not in str(entry)]))
    assert checkout.refusal("pin", "--versions", "a.json") == (
        "versions.json contains no Python 3.12 for arm64: pbs-installer no longer lists it; "
        "remove the pin from layer-manifest.json"
    )


def test_a_missing_listing_is_refused(checkout: Checkout) -> None:
    assert checkout.refusal("pin", "--versions", "a.json") == "cannot read a.json: No such file or directory"


# The listing from pip


@pytest.fixture(scope="module")
def pip() -> None:
    command = [Path(sys.executable).resolve(), "-m", "pip", "--version"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("pip is not installed")


def wheel(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """Make a package index with one package, pbs-installer with `files`; return the variables that select it."""
    folder.mkdir()
    about = "pbs_installer-2099.1.1.dist-info"
    metadata = {
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: pbs-installer\nVersion: 2099.1.1\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(folder / "pbs_installer-2099.1.1-py3-none-any.whl", "w") as file:
        for name, text in {**files, **metadata}.items():
            file.writestr(name, text)
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}


@pytest.mark.long
@pytest.mark.usefixtures("pip")
def test_pip_downloads_the_newest_listing_whatever_the_working_folder(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('the wrong module')")
    entries = [*EVERY, *both("3.13.99", LATER)]
    variables = wheel(tmp_path / "wheels", {"pbs_installer/versions.json": json.dumps(entries)})
    report = checkout.build("pin", cwd=tmp_path, **variables)
    assert report.count(f" becomes 3.13.99 of {LATER}\n") == 2
    assert pins(checkout)["3.13", "arm64"].version == "3.13.99"


@pytest.mark.long
@pytest.mark.usefixtures("pip")
def test_a_package_without_a_listing_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    variables = wheel(tmp_path / "wheels", {"pbs_installer/__init__.py": ""})
    assert checkout.refusal("pin", **variables) == (
        "pbs_installer-2099.1.1-py3-none-any.whl contains no pbs_installer/versions.json: use one with --versions"
    )


@pytest.mark.long
@pytest.mark.usefixtures("pip")
def test_the_error_of_pip_is_shown(checkout: Checkout, tmp_path: Path) -> None:
    variables = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    assert checkout.refusal("pin", **variables) == (
        "pip could not fetch pbs-installer: ERROR: No matching distribution found for pbs-installer; "
        "fetch it another way and use its versions.json with --versions"
    )


def test_without_pip_the_message_names_the_option(checkout: Checkout, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    refusal = checkout.refusal("pin", PATH=f"{tmp_path}/venv/bin:/usr/bin:/bin")
    assert refusal.startswith("pip could not fetch pbs-installer: ")
    assert refusal.endswith(": No module named pip; fetch it another way and use its versions.json with --versions")
