"""The plan of a roll-out, which knows no AWS: what becomes of any list of layers, and what is refused beforehand."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.common import output as terminal
from tools.fleet import UsageError
from tools.fleet.aws import arns
from tools.fleet.aws.arns import LayerVersion, Place
from tools.fleet.aws.models import STACK_TAG, Function, LayerInfo, NotUsable
from tools.fleet.rollout import plan
from tools.fleet.rollout.plan import Goal, Verdict

HERE = Place("aws-eusc", "eusc-de-east-1", "123456789012")
OURS = HERE.layer("python-streaming-runtime")
TARGET = OURS.version(7)
ROLL_OUT = Goal({OURS: TARGET})
ATTACH = Goal({OURS: TARGET}, attach=True)
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
    return Function("f", arn, layers=layers, runtime="python3.13", **more)


def info(arn: str, **more: Any) -> LayerInfo:
    return LayerInfo(**({
        "arn": arn, "number": 1, "sha256": "", "size": 1000, "runtimes": (), "architectures": (), "license": "",
        "description": "", "location": "",
    } | more))  # fmt: skip


# Lists


@given(st.lists(st.sampled_from(OTHERS), max_size=5), st.integers(0, 5), st.integers(1, 9))
def test_our_layer_changes_where_it_is_and_nothing_else(others: list[str], index: int, number: int) -> None:
    old = (*others[:index], str(OURS.version(number)), *others[index:])
    step = plan.step(function(*old), ROLL_OUT)
    assert step.new == tuple(str(TARGET) if arn == str(OURS.version(number)) else arn for arn in old)
    assert step.verdict is (Verdict.RIGHT if number == 7 else Verdict.CHANGE)
    assert step.old == old


@given(st.lists(st.sampled_from(OTHERS), max_size=7))
def test_nothing_is_added_but_where_told_and_then_last(others: list[str]) -> None:
    left_alone = plan.step(function(*others), ROLL_OUT)
    assert (left_alone.verdict, left_alone.new) == (Verdict.SKIP, tuple(others))
    attached = plan.step(function(*others), ATTACH)
    if len(others) < 5:
        assert (attached.verdict, attached.new) == (Verdict.CHANGE, (*others, str(TARGET)))
    else:
        assert (attached.verdict, attached.new) == (Verdict.BLOCKED, tuple(others))


def test_attach_leaves_the_version_alone() -> None:
    assert plan.step(function(str(OURS.version(1))), ATTACH).verdict is Verdict.SKIP
    assert plan.step(function(str(TARGET)), ATTACH).verdict is Verdict.RIGHT


def test_two_versions_of_one_layer_are_not_touched() -> None:
    step = plan.step(function(str(OURS.version(1)), str(OURS.version(2))), ROLL_OUT)
    assert (step.verdict, step.reason) == (
        Verdict.BLOCKED,
        "it has two versions of python-streaming-runtime: remove one of them",
    )


def test_two_layers_of_ours_move_each_to_its_own_target() -> None:
    arm = HERE.layer("python-streaming-runtime-python3-13-arm64")
    goal = Goal({OURS: TARGET, arm: arm.version(2)})
    step = plan.step(function(str(arm.version(1)), OTHERS[1], str(OURS.version(1))), goal)
    assert step.new == (str(arm.version(2)), OTHERS[1], str(TARGET))


@pytest.mark.parametrize(
    ("facts", "goal", "verdict"),
    [
        ({"is_image": True}, ROLL_OUT, Verdict.BLOCKED),
        ({"tags": {STACK_TAG: "shop"}}, ROLL_OUT, Verdict.SKIP),
        ({"tags": {STACK_TAG: "shop"}}, replace(ROLL_OUT, stacks_too=True), Verdict.CHANGE),
        ({"tags_are_known": False}, ROLL_OUT, Verdict.BLOCKED),
        ({"tags_are_known": False}, replace(ROLL_OUT, stacks_too=True), Verdict.CHANGE),
    ],
)
def test_who_owns_a_function_decides(facts: dict[str, Any], goal: Goal, verdict: Verdict) -> None:
    assert plan.step(function(str(OURS.version(1)), **facts), goal).verdict is verdict


def test_the_plan_is_in_the_order_of_names() -> None:
    functions = [replace(function(), name=name) for name in ("b", "c", "a")]
    assert [step.function.name for step in plan.plan(functions, ROLL_OUT)] == ["a", "b", "c"]


# What AWS Lambda would refuse

OLD, OTHER, FAR = str(OURS.version(1)), OTHERS[1], OTHERS[2]
NEW = str(TARGET)
SOUND = {arn: info(arn) for arn in (OLD, NEW, OTHER, FAR)}


def checked(versions: dict[str, Any], **facts: Any) -> plan.Step:
    step = plan.step(function(OTHER, OLD, FAR, **facts), ROLL_OUT)
    assert plan.needed([step]) == sorted([OLD, NEW, OTHER, FAR])
    return plan.check(step, SOUND | versions)


@pytest.mark.parametrize(
    ("versions", "facts", "reason"),
    [
        ({OTHER: NotUsable(OTHER, deleted=True)}, {}, f"{OTHER} was deleted, so that AWS Lambda takes no list with it"),
        ({FAR: NotUsable(FAR, deleted=False)}, {}, f"{FAR} is not shared with this account"),
        ({NEW: info(NEW, architectures=("arm64",))}, {}, "it runs on x86_64, the layer on arm64"),
        (
            {OLD: info(OLD, runtimes=("python3.13",)), NEW: info(NEW, runtimes=("python3.14",))},
            {},
            "python3.13 is not among the runtimes of the new version, python3.14",
        ),
        (
            {OTHER: info(OTHER, size=262_144_000)},
            {},
            "with its layers it would have more than 262,146,000 bytes unpacked",
        ),
        ({}, {"code_size": 262_144_000}, "with its layers it would have more than 262,147,000 bytes unpacked"),
    ],
)
def test_what_would_be_refused_is_blocked(versions: dict[str, Any], facts: dict[str, Any], reason: str) -> None:
    step = checked(versions, **facts)
    assert (step.verdict, step.new) == (Verdict.BLOCKED, step.old)
    assert step.reason.startswith(reason)


@pytest.mark.parametrize(
    ("versions", "hint"),
    [
        ({OLD: NotUsable(OLD, deleted=True)}, f"{OLD} is deleted or not shared any more: the change cannot be undone"),
        ({FAR: NotUsable(FAR, deleted=True)}, f"{FAR} is deleted or not shared any more: the change cannot be undone"),
        (
            {OLD: info(OLD, runtimes=("x",)), NEW: info(NEW, runtimes=("x",))},
            "python3.13 is not among the layer's runtimes",
        ),
        ({}, "AWS_LAMBDA_EXEC_WRAPPER is not /opt/bootstrap, without which the layer is not used"),
    ],
)
def test_what_is_only_odd_is_a_hint(versions: dict[str, Any], hint: str) -> None:
    step = checked(versions)
    assert step.verdict is Verdict.CHANGE and hint in step.hints


def test_attach_refuses_a_runtime_that_the_layer_is_not_for() -> None:
    step = plan.check(plan.step(function(), ATTACH), {NEW: info(NEW, runtimes=("python3.11",))})
    assert step.reason == "python3.13 is not among the runtimes of the layer, python3.11"


# ARNs


@pytest.mark.parametrize("text", ["f", f"{HERE.account}:function:f", function().arn])
def test_a_function_has_three_kinds_of_names(text: str) -> None:
    assert arns.function_name(text, HERE) == "f"


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_wrong_usage(text: str) -> None:
    for read in (lambda: arns.function_name(text, HERE), lambda: LayerVersion.parse(text)):
        try:
            read()
        except UsageError as error:
            assert str(error)


# What people see


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_and_keeps_failures_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Screen())
    monkeypatch.setenv("TERM", "xterm")
    progress = terminal.Progress(3)
    for name, what in (("a", "done"), ("b", "failed: no"), ("c", "done")):
        progress(name, what)
    lines = [line.removeprefix("\r\033[K") for line in sys.stderr.getvalue().split("\n")]  # type: ignore[attr-defined]
    assert lines[0].endswith("1/3  a\r\033[Kb  failed: no")
    assert lines[-2].endswith(f"\r\033[K{'█' * 30} 3/3  c") and lines[-1] == ""


def test_elsewhere_it_shows_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    terminal.Progress(2)("a", "done")
    assert sys.stderr.getvalue() == "1/2  a  done\n"  # type: ignore[attr-defined]


def test_columns_are_as_wide_as_they_must_be() -> None:
    assert terminal.table(("a", "b"), [("long", 1), ("x", "yy")]) == "a     b\nlong  1\nx     yy"
