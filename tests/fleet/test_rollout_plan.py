"""The plan of a roll-out, without AWS: any list of layers, and what AWS Lambda would reject."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.common.errors import UsageError
from tools.common.output import Output, table
from tools.fleet.aws import arns
from tools.fleet.aws.arns import LayerVersion, Place
from tools.fleet.aws.models import STACK_TAG, Function, LayerInfo, Unavailable
from tools.fleet.aws.settings import UNREADABLE
from tools.fleet.rollout.options import ATTACH, Options
from tools.fleet.rollout.plan import Step, Targets, Verdict, check, needed_versions, plan, plan_step
from tools.fleet.rollout.progress import Progress

HERE = Place("aws-eusc", "eusc-de-east-1", "123456789012")
OURS = HERE.layer("python-streaming-runtime")
TARGET = OURS.version(7)
OTHERS = [
    str(HERE.layer("python-streaming-runtime-2").version(1)),
    str(HERE.layer("other").version(3)),
    str(replace(OURS, account="999999999999").version(1)),
    str(replace(OURS, region="eu-central-1").version(1)),
    str(replace(OURS, partition="aws").version(1)),
    "nonsense",
]


def function(*layers: str, **more: Any) -> Function:
    arn = f"arn:{HERE.partition}:lambda:{HERE.region}:{HERE.account}:function:f"
    return Function("f", arn, layers=layers, **({"runtime": "python3.13"} | more))


def step(function: Function, targets: Targets | None = None, **options: Any) -> Step:
    return plan_step(function, targets or {OURS: TARGET}, Options(**options))


def info(arn: str, **more: Any) -> LayerInfo:
    return LayerInfo(**({
        "arn": arn, "number": 1, "sha256": "", "size": 1000, "runtimes": (), "architectures": (), "license": "",
        "description": "", "location": "",
    } | more))  # fmt: skip


# Lists


@given(st.lists(st.sampled_from(OTHERS), max_size=5), st.integers(0, 5), st.integers(1, 9))
def test_our_layer_is_replaced_at_its_position_and_nothing_else(others: list[str], index: int, number: int) -> None:
    old = (*others[:index], str(OURS.version(number)), *others[index:])
    planned = step(function(*old))
    assert planned.new == tuple(str(TARGET) if arn == str(OURS.version(number)) else arn for arn in old)
    assert planned.verdict is (Verdict.UP_TO_DATE if number == 7 else Verdict.CHANGE)
    assert planned.old == old


@given(st.lists(st.sampled_from(OTHERS), max_size=7))
def test_only_attach_adds_the_layer_and_adds_it_last(others: list[str]) -> None:
    skipped = step(function(*others))
    assert (skipped.verdict, skipped.new) == (Verdict.SKIPPED, tuple(others))
    attached = step(function(*others), command=ATTACH)
    if len(others) < 5:
        assert (attached.verdict, attached.new) == (Verdict.CHANGE, (*others, str(TARGET)))
    else:
        assert (attached.verdict, attached.new) == (Verdict.BLOCKED, tuple(others))


def test_attach_does_not_change_the_version() -> None:
    assert step(function(str(OURS.version(1))), command=ATTACH).verdict is Verdict.SKIPPED
    variables = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"}
    assert step(function(str(TARGET), variables=variables), command=ATTACH).verdict is Verdict.UP_TO_DATE


def test_a_function_with_two_versions_of_the_layer_is_blocked() -> None:
    blocked = step(function(str(OURS.version(1)), str(OURS.version(2))))
    assert (blocked.verdict, blocked.reason) == (
        Verdict.BLOCKED,
        "it has two versions of python-streaming-runtime: remove one of them",
    )


def test_two_variants_get_their_own_targets() -> None:
    arm = HERE.layer("python-streaming-runtime-python3-13-arm64")
    targets = {OURS: TARGET, arm: arm.version(2)}
    changed = step(function(str(arm.version(1)), OTHERS[1], str(OURS.version(1))), targets)
    assert changed.new == (str(arm.version(2)), OTHERS[1], str(TARGET))


@pytest.mark.parametrize(
    ("facts", "includes_stacks", "verdict"),
    [
        ({"is_image": True}, False, Verdict.SKIPPED),
        ({"tags": {STACK_TAG: "shop"}}, False, Verdict.SKIPPED),
        ({"tags": {STACK_TAG: "shop"}}, True, Verdict.CHANGE),
        ({"tags_are_known": False}, False, Verdict.BLOCKED),
        ({"tags_are_known": False}, True, Verdict.CHANGE),
    ],
)
def test_the_owner_of_a_function_decides(facts: dict[str, Any], includes_stacks: bool, verdict: Verdict) -> None:
    planned = step(function(str(OURS.version(1)), **facts), include_cloudformation=includes_stacks)
    assert planned.verdict is verdict


def test_the_plan_is_sorted_by_name() -> None:
    functions = [replace(function(), name=name) for name in ("b", "c", "a")]
    assert [each.function.name for each in plan(functions, {OURS: TARGET}, Options())] == ["a", "b", "c"]


# What AWS Lambda would reject

OLD, OTHER, FAR = str(OURS.version(1)), OTHERS[1], OTHERS[2]
NEW = str(TARGET)
AVAILABLE = {arn: info(arn) for arn in (OLD, NEW, OTHER, FAR)}


def checked(versions: dict[str, Any], **facts: Any) -> Step:
    planned = step(function(OTHER, OLD, FAR, **facts))
    assert needed_versions([planned]) == sorted([OLD, NEW, OTHER, FAR])
    return check(planned, AVAILABLE | versions)


@pytest.mark.parametrize(
    ("versions", "facts", "reason"),
    [
        (
            {OTHER: Unavailable(OTHER, is_deleted=True)},
            {},
            f"{OTHER} was deleted, so AWS Lambda rejects updates that contain it",
        ),
        ({FAR: Unavailable(FAR, is_deleted=False)}, {}, f"{FAR} is not shared with this account"),
        ({NEW: Unavailable(NEW, is_deleted=False)}, {}, f"{NEW} is not shared with this account"),
        (
            {OTHER: info(OTHER, size=262_144_000)},
            {},
            "it would have more than 262,146,000 bytes unpacked with its layers",
        ),
        ({}, {"code_size": 262_144_000}, "it would have more than 262,147,000 bytes unpacked with its layers"),
    ],
)
def test_a_change_that_would_be_rejected_is_blocked(
    versions: dict[str, Any], facts: dict[str, Any], reason: str
) -> None:
    blocked = checked(versions, **facts)
    assert (blocked.verdict, blocked.new) == (Verdict.BLOCKED, blocked.old)
    assert blocked.reason.startswith(reason)


@pytest.mark.parametrize(
    ("versions", "facts", "reason"),
    [
        ({NEW: info(NEW, architectures=("arm64",))}, {}, "it runs on x86_64, the layer on arm64"),
        (
            {OLD: info(OLD, runtimes=("python3.13",)), NEW: info(NEW, runtimes=("python3.14",))},
            {},
            "python3.13 is not a runtime of the new version, python3.14",
        ),
        ({}, {"runtime": "nodejs22.x"}, "its runtime is nodejs22.x, which runs no Python"),
        ({}, {"state": "Inactive"}, "it is inactive, because it was not invoked for weeks"),
        ({}, {"state": "Pending"}, "it is being created"),
        (
            {OTHER: Unavailable(OTHER, is_deleted=True)},
            {"state": "Failed", "failure": "the function failed: no subnet"},
            "the function failed: no subnet: repair or delete it",
        ),
    ],
)
def test_an_unusual_function_is_skipped(versions: dict[str, Any], facts: dict[str, Any], reason: str) -> None:
    skipped = checked(versions, **facts)
    assert (skipped.verdict, skipped.new) == (Verdict.SKIPPED, skipped.old)
    assert skipped.reason.startswith(reason)


@pytest.mark.parametrize(
    ("versions", "hint"),
    [
        (
            {OLD: Unavailable(OLD, is_deleted=True)},
            f"{OLD} is deleted or no longer shared: the change cannot be rolled back",
        ),
        (
            {FAR: Unavailable(FAR, is_deleted=True)},
            f"{FAR} is deleted or no longer shared: the change cannot be rolled back",
        ),
        (
            {OLD: info(OLD, runtimes=("x",)), NEW: info(NEW, runtimes=("x",))},
            "python3.13 is not a runtime of the layer",
        ),
        ({}, "AWS_LAMBDA_EXEC_WRAPPER is not /opt/bootstrap, so the layer is not used"),
    ],
)
def test_a_change_with_a_possible_problem_has_a_hint(versions: dict[str, Any], hint: str) -> None:
    changed = checked(versions)
    assert changed.verdict is Verdict.CHANGE and hint in changed.hints


def test_layers_that_are_available_have_no_hint() -> None:
    assert list(checked({}).hints) == ["AWS_LAMBDA_EXEC_WRAPPER is not /opt/bootstrap, so the layer is not used"]


def test_attach_skips_a_runtime_that_the_layer_does_not_support() -> None:
    blocked = check(step(function(), command=ATTACH), {NEW: info(NEW, runtimes=("python3.11",))})
    assert (blocked.verdict, blocked.reason) == (
        Verdict.SKIPPED,
        "python3.13 is not a runtime of the layer, python3.11",
    )


def test_attach_does_not_overwrite_variables_that_cannot_be_read() -> None:
    blocked = step(function(settings={UNREADABLE: "AccessDeniedException"}), command=ATTACH)
    assert blocked.verdict is Verdict.BLOCKED and blocked.new == ()
    assert blocked.reason == (
        "its variables cannot be read, so AWS_LAMBDA_EXEC_WRAPPER cannot be changed: allow kms:Decrypt for its key"
    )


# ARNs


@pytest.mark.parametrize("text", ["f", f"{HERE.account}:function:f", function().arn])
def test_a_function_can_be_named_in_three_ways(text: str) -> None:
    assert arns.function_name(text, HERE) == "f"


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_wrong_usage(text: str) -> None:
    for read in (lambda: arns.function_name(text, HERE), lambda: LayerVersion.parse(text)):
        try:
            read()
        except UsageError as error:
            assert str(error)


# Output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_and_keeps_failures_visible() -> None:
    terminal = Terminal()
    progress = Progress(3, Output(err=terminal), {"TERM": "xterm"})
    for name, outcome in (("a", "done"), ("b", "failed: no"), ("c", "done")):
        progress(name, outcome)
    lines = [line.removeprefix("\r\033[K") for line in terminal.getvalue().split("\n")]
    assert lines[0].endswith("1/3  a\r\033[Kb  failed: no")
    assert lines[-2].endswith(f"\r\033[K{'█' * 30} 3/3  c") and lines[-1] == ""


@pytest.mark.parametrize(
    ("stream", "as_json", "expected"),
    [
        (io.StringIO(), False, "1/2  a  done\n"),
        (Terminal(), True, '{"function": "a", "outcome": "done", "done": 1, "total": 2}\n'),
    ],
)
def test_a_pipe_shows_lines_and_json_shows_objects(stream: io.StringIO, as_json: bool, expected: str) -> None:
    Progress(2, Output(as_json, err=stream), {"TERM": "xterm"})("a", "done")
    assert stream.getvalue() == expected


def test_columns_of_a_table_are_aligned() -> None:
    assert table(("a", "b"), [("long", 1), ("x", "yy")]) == "a     b\nlong  1\nx     yy"
