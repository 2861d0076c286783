"""What a person and a script read: each condition, each reason; and a stored status that may hold anything."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slipway.api.status import (
    Condition,
    ModelDeploymentStatus,
    Transition,
    read_status,
    read_time,
    write_status,
    write_time,
)
from slipway.decide.analysis.settings import NOBODY, Judging, judging_of
from slipway.decide.inputs import still_rejected
from slipway.model.revision import Assignment, Revision
from slipway.model.rollout import Promotion, PromotionReason, Step
from slipway.model.rollout_state import Rejection, read_rejections, read_state
from slipway.model.workload import Trouble, Workload
from slipway.observe.agent_reports import VERIFY, AgentReport, VersionReport
from slipway.observe.pods import Pod
from slipway.observe.room import ROOM
from slipway.observe.snapshot import Snapshot
from slipway.report.events import MAX_TRANSITIONS, STABLE_BECAUSE, Notice, notices
from slipway.report.pass_result import PassResult
from slipway.report.status import assess
from tests.unit.plans import changed, plan_of
from tests.unit.public_keys import P256
from tests.unit.results import result_of
from tests.unit.specs import deployment

ROOT = Path(__file__).resolve().parents[3]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
SOON = NOW + timedelta(minutes=5)
"""Before a deadline."""
EMPTY = ModelDeploymentStatus()
GPU = Trouble("Unschedulable", "pod p finds no node: nvidia.com/gpu is missing on 1 of 1 nodes")
PASSING = Trouble("SourceUnavailable", "the store does not answer; it is tried again", needs_person=False)
BROKEN = Trouble("LoadFailed", "version 2: the server says: no ONNX")
REFUSED = Trouble("Refused", "the API server refuses Deployment digits-new: spec.template: Invalid value")


def revision(name: str, version: int) -> Revision:
    return Revision(name, version, version, {}, {}, {})


def report(*versions: tuple[int, str], reason: str = "", message: str = "") -> AgentReport:
    found = tuple(
        VersionReport(
            number, state, reason if state == "Failed" else "", message if state == "Failed" else "", "d" * 64
        )
        for number, state in versions
    )
    return AgentReport("g", (1, 2, 3), found, None)


def pod(name: str, of: str, *, ready: bool = True, ending: bool = False, says: AgentReport | None = None) -> Pod:
    return Pod(name, f"uid-{name}", of, ready, ending, "198.18.0.1", None, None, says)


def snapshot(*pods: Pod, troubles: dict[str, Trouble] | None = None) -> Snapshot:
    revisions = {"old": revision("old", 1), "new": revision("new", 2)}
    here = {
        name: Workload(
            name,
            0,
            sum(p.workload == name for p in pods),
            sum(p.workload == name and p.is_ready for p in pods),
            waits_for_room=waiting if (waiting := (troubles or {}).get(name)) and waiting.reason in ROOM else None,
        )
        for name in {p.workload for p in pods}
    }
    return Snapshot({}, frozenset(), revisions, here, troubles or {}, pods, {})


OWN = {"old": Assignment("old"), "new": Assignment("new")}
STABLE = plan_of("new", None, {"new": 2}, OWN, Promotion.PROMOTED)
FIRST = plan_of(None, "new", {"new": 2}, OWN, Promotion.IN_PROGRESS, progress_since=NOW)
ROLLING = plan_of("old", "new", {"old": 2, "new": 1}, OWN, Promotion.IN_PROGRESS, progress_since=NOW)
TAKEN_BACK = plan_of("old", None, {"old": 2}, OWN, Promotion.ROLLED_BACK)
REJECTING = changed(TAKEN_BACK, newly_rejected=Rejection("new", "c"), rejected=(Rejection("new", "c"),))
RESULT = result_of(STABLE)
SERVING = snapshot(pod("a", "new", says=report((2, "Available"))), pod("b", "new", says=report((2, "Available"))))
OLD_SERVES = (pod("a", "old", says=report((1, "Available"))), pod("b", "old", says=report((1, "Available"))))


def conditions(status: ModelDeploymentStatus) -> dict[str, str]:
    """Condition type → "Status Reason"; how old agents are is told in test_agents.py."""
    return {
        condition.type: f"{condition.status} {condition.reason}"
        for condition in status.conditions
        if condition.type != "AgentsOutdated"
    }


ROWS = [
    pytest.param(
        RESULT,
        SERVING,
        "Ready",
        ("True MinimumReplicasReady", "True Promoted", "True AllAvailable", "False AsExpected", "False AsExpected"),
        id="serving",
    ),
    pytest.param(
        result_of(FIRST),
        snapshot(),
        "Deploying",
        ("False Deploying", "False InProgress", "Unknown NotReported", "False AsExpected", "True InProgress"),
        id="first, no pods yet",
    ),
    pytest.param(
        result_of(FIRST),
        snapshot(pod("a", "new", ready=False, says=report((2, "Fetching")))),
        "Deploying",
        ("False Deploying", "False InProgress", "False Loading", "False AsExpected", "True InProgress"),
        id="first, fetching",
    ),
    pytest.param(
        result_of(FIRST),
        snapshot(pod("a", "new", ready=False), troubles={"new": GPU}),
        "Unschedulable",
        (
            "False Unschedulable",
            "False InProgress",
            "Unknown NotReported",
            "True Unschedulable",
            "True WaitingForCapacity",
        ),
        id="first, no node",
    ),
    pytest.param(
        result_of(FIRST),
        snapshot(pod("a", "new", ready=False), troubles={"new": PASSING}),
        "SourceUnavailable",
        ("False SourceUnavailable", "False InProgress", "Unknown NotReported", "False AsExpected", "True InProgress"),
        id="first, a trouble that passes",
    ),
    pytest.param(
        result_of(FIRST, problem=REFUSED),
        snapshot(),
        "Refused",
        ("False Refused", "False Refused", "Unknown NotReported", "True Refused", "False Refused"),
        id="first, refused by the API server",
    ),
    pytest.param(
        result_of(STABLE, replicas=4),
        snapshot(*(pod(name, "new", says=report((2, "Available"))) for name in "abc")),
        "Ready",
        ("True MinimumReplicasReady", "True Promoted", "True AllAvailable", "False AsExpected", "False AsExpected"),
        id="three of four are enough",
    ),
    pytest.param(
        result_of(STABLE, replicas=4),
        snapshot(*(pod(name, "new", says=report((2, "Available"))) for name in "ab")),
        "Deploying",
        ("False Deploying", "True Promoted", "True AllAvailable", "False AsExpected", "False AsExpected"),
        id="two of four are not",
    ),
    pytest.param(
        result_of(STABLE, replicas=0),
        snapshot(),
        "ScaledToZero",
        ("False ScaledToZero", "True Promoted", "Unknown NotReported", "False AsExpected", "False AsExpected"),
        id="scaled to zero",
    ),
    pytest.param(
        result_of(ROLLING, load=(1,)),
        snapshot(*OLD_SERVES, pod("c", "new", ready=False)),
        "RollingOut",
        ("True MinimumReplicasReady", "False InProgress", "True AllAvailable", "False AsExpected", "True InProgress"),
        id="rolling out",
    ),
    pytest.param(
        result_of(ROLLING, load=(1,)),
        snapshot(*OLD_SERVES, pod("c", "new", ready=False), troubles={"new": BROKEN}),
        "RollingOut",
        ("True MinimumReplicasReady", "False InProgress", "True AllAvailable", "True LoadFailed", "True InProgress"),
        id="rolling out what is broken",
    ),
    pytest.param(
        result_of(TAKEN_BACK, load=(1,)),
        snapshot(*OLD_SERVES),
        "RolledBack",
        ("True MinimumReplicasReady", "False RolledBack", "True AllAvailable", "True RolledBack", "False RolledBack"),
        id="taken back",
    ),
    pytest.param(
        result_of(None, problem=Trouble("InvalidSpec", "spec.model.uri …")),
        snapshot(*OLD_SERVES),
        "InvalidSpec",
        ("False InvalidSpec", "False InvalidSpec", "Unknown NotReported", "True InvalidSpec", "False InvalidSpec"),
        id="a spec that never was valid",
    ),
    pytest.param(
        result_of(STABLE, load=(1, 2)),
        snapshot(
            pod("a", "new", says=report((1, "Failed"), (2, "Available"), reason="DigestMismatch", message="m")),
            pod("b", "new", says=report((1, "Available"), (2, "Available"))),
        ),
        "Ready",
        (
            "True MinimumReplicasReady",
            "True Promoted",
            "False DigestMismatch",
            "True DigestMismatch",
            "False AsExpected",
        ),
        id="an extra version fails in one pod",
    ),
    pytest.param(
        result_of(STABLE, load=(1, 2)),
        snapshot(pod("a", "new", says=report((2, "Available"))), pod("b", "new", says=report((2, "Available")))),
        "Ready",
        ("True MinimumReplicasReady", "True Promoted", "False Loading", "False AsExpected", "False AsExpected"),
        id="an extra version is not reported yet",
    ),
    pytest.param(
        result_of(STABLE, load=(2,)),
        snapshot(pod("a", "new", says=report((2, "Levitating"))), pod("b", "new")),
        "Ready",
        ("True MinimumReplicasReady", "True Promoted", "Unknown NotReported", "False AsExpected", "False AsExpected"),
        id="a state that a newer agent reports",
    ),
]


@pytest.mark.parametrize(("judged", "world", "phase", "expected"), ROWS)
def test_conditions(judged: PassResult, world: Snapshot, phase: str, expected: tuple[str, ...]) -> None:
    status = assess(judged, world, EMPTY, NOW)
    assert tuple(conditions(status).values()) == expected
    assert list(conditions(status)) == ["Ready", "Promoted", "VersionsReady", "Degraded", "Reconciling"]
    assert status.phase == phase


@pytest.mark.parametrize(("judged", "world", "phase", "expected"), ROWS)
def test_assessed_again_it_is_the_same(
    judged: PassResult, world: Snapshot, phase: str, expected: tuple[str, ...]
) -> None:
    once = assess(judged, world, EMPTY, NOW)
    again = assess(judged, world, read_status(write_status(once)), SOON)
    assert write_status(again) == write_status(once)
    assert notices(once, again) == []


@pytest.mark.parametrize(("judged", "world", "phase", "expected"), ROWS)
def test_every_condition_can_be_waited_for(
    judged: PassResult, world: Snapshot, phase: str, expected: tuple[str, ...]
) -> None:
    for condition in assess(judged, world, EMPTY, NOW).conditions:
        assert re.fullmatch(r"[A-Z][A-Za-z]+", condition.reason)
        assert condition.message
        assert condition.observed_generation == 4
        assert condition.last_transition_time == "2026-03-01T12:00:00Z"


def test_numbers_for_people_and_autoscalers() -> None:
    world = snapshot(pod("a", "old"), pod("b", "new"), pod("c", "new", ready=False), pod("d", "old", ending=True))
    status = assess(result_of(ROLLING, replicas=3), world, EMPTY, NOW)
    assert (status.replicas, status.ready_replicas, status.ready) == (3, 2, "2/3")
    assert status.selector == "slipway.dev/model=digits"
    assert status.observed_generation == 4
    assert status.stable is not None
    assert (status.stable.revision, status.stable.version) == ("old", 1)
    assert status.canary is not None
    assert (status.canary.revision, status.canary.version, status.canary.ready_replicas) == ("new", 2, 1)


def test_a_version_shows_its_least_advanced_state_among_the_pods() -> None:
    world = snapshot(
        pod("a", "new", says=report((1, "Available"), (2, "Available"))),
        pod("b", "new", says=report((1, "Loading"), (2, "Available"))),
    )
    versions = assess(result_of(STABLE, load=(1, 2)), world, EMPTY, NOW).versions
    assert [(v.version, v.state, v.served) for v in versions] == [(1, "Loading", False), (2, "Available", True)]
    assert [v.sha256 for v in versions] == ["d" * 64] * 2


def test_while_settled_the_versions_stay_as_they_were() -> None:
    once = assess(RESULT, SERVING, EMPTY, NOW)
    quiet = snapshot(pod("a", "new"), pod("b", "new"))
    assert assess(result_of(STABLE, are_settled=True), quiet, once, LATER).versions == once.versions


def test_a_digest_once_seen_is_kept_while_agents_are_silent() -> None:
    once = assess(RESULT, SERVING, EMPTY, NOW)
    assert assess(RESULT, snapshot(pod("a", "new")), once, LATER).versions[0].sha256 == "d" * 64


def test_a_time_changes_only_with_its_condition() -> None:
    once = assess(RESULT, SERVING, EMPTY, NOW)
    less = assess(
        result_of(STABLE, generation=5), snapshot(pod("a", "new", says=report((2, "Available")))), once, LATER
    )
    times = {condition.type: condition.last_transition_time for condition in less.conditions}
    assert times == {
        "Ready": "2026-03-01T13:00:00Z",
        "Promoted": "2026-03-01T12:00:00Z",
        "VersionsReady": "2026-03-01T12:00:00Z",
        "Degraded": "2026-03-01T12:00:00Z",
        "Reconciling": "2026-03-01T12:00:00Z",
        "AgentsOutdated": "2026-03-01T12:00:00Z",
    }
    assert {condition.observed_generation for condition in less.conditions} == {5}


def test_with_a_spec_that_cannot_be_read_all_that_serves_is_still_told() -> None:
    once = assess(result_of(ROLLING, load=(1,)), snapshot(*OLD_SERVES, pod("c", "new")), EMPTY, NOW)
    judged = result_of(None, problem=Trouble("InvalidSpec", "m"), are_settled=True)
    status = assess(judged, snapshot(*OLD_SERVES, pod("c", "new")), once, LATER)
    assert conditions(status)["Ready"] == "True MinimumReplicasReady"
    assert conditions(status)["VersionsReady"] == "True AllAvailable"
    assert (status.stable, status.canary, status.progress_since) == (once.stable, once.canary, once.progress_since)


# ---- rejections


def rejecting(world: Snapshot, stored: ModelDeploymentStatus = EMPTY) -> ModelDeploymentStatus:
    plan = REJECTING
    return assess(result_of(plan), world, stored, NOW)


def test_a_rejection_is_remembered_with_its_cause() -> None:
    (entry,) = rejecting(snapshot(*OLD_SERVES, troubles={"new": BROKEN})).rejected
    assert (entry.revision, entry.content, entry.reason, entry.at) == ("new", "c", "LoadFailed", "2026-03-01T12:00:00Z")
    assert BROKEN.message in entry.message


def test_a_rejection_without_a_cause_names_the_deadline() -> None:
    (entry,) = rejecting(snapshot(*OLD_SERVES)).rejected
    assert entry.reason == "ProgressDeadlineExceeded"
    assert "progressDeadlineSeconds" in entry.message


def test_a_rejection_after_a_refusal_names_the_refusal() -> None:
    before = assess(result_of(ROLLING, problem=REFUSED), snapshot(*OLD_SERVES), EMPTY, NOW)
    (entry,) = rejecting(snapshot(*OLD_SERVES), before).rejected
    assert entry.reason == "Refused"
    assert "spec.template: Invalid value" in entry.message


def test_the_condition_tells_the_cause_as_long_as_the_spec_stays() -> None:
    once = rejecting(snapshot(*OLD_SERVES, troubles={"new": BROKEN}))
    judged = result_of(changed(TAKEN_BACK, rejected=read_rejections(once)))
    later = assess(judged, snapshot(*OLD_SERVES), once, LATER)
    condition = later.condition("Promoted")
    assert condition is not None
    assert BROKEN.message in condition.message
    assert "until the spec asks for another revision" in condition.message
    assert later.rejected == once.rejected


def test_another_revision_in_the_spec_clears_it() -> None:
    once = rejecting(snapshot(*OLD_SERVES))
    later = assess(result_of(changed(STABLE, stable="old"), revision="old"), snapshot(*OLD_SERVES), once, NOW)
    assert later.rejected == []


def test_the_longest_words_fit() -> None:
    endless = Trouble("R", "m" * 100_000)
    status = rejecting(snapshot(*OLD_SERVES, troubles={"new": endless, "old": endless}))
    assert write_status(status)


def test_memory_is_what_was_written() -> None:
    status = rejecting(snapshot(*OLD_SERVES))
    memory = read_state(read_status(write_status(status)), {"old"}, read_rejections(status))
    assert (memory.stable, memory.canary, memory.rejected) == ("old", None, (Rejection("new", "c"),))
    rolling = assess(result_of(changed(ROLLING, canary_ready=1)), snapshot(*OLD_SERVES), EMPTY, NOW)
    memory = read_state(read_status(write_status(rolling)), {"old", "new"}, [])
    assert (memory.stable, memory.canary, memory.canary_ready, memory.progress_since) == ("old", "new", 1, NOW)


def test_a_stable_revision_that_is_kept_nowhere_is_forgotten() -> None:
    status = rejecting(snapshot(*OLD_SERVES))
    assert read_state(status, {"new"}, []).stable is None


# ---- events


def status_with(**reasons: tuple[str, str]) -> ModelDeploymentStatus:
    """Condition type → (status, reason)."""
    stable = {"revision": "a", "version": 1} if reasons.pop("stable", None) else None
    found = [{"type": kind, "status": value, "reason": why, "message": "m"} for kind, (value, why) in reasons.items()]
    return ModelDeploymentStatus.model_validate({"conditions": found, "stable": stable})


SERVES = {
    "Ready": ("True", "MinimumReplicasReady"),
    "Promoted": ("True", "Promoted"),
    "Degraded": ("False", "AsExpected"),
}
STABLE_BEFORE: dict[str, Any] = {"stable": ("", "")}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param({}, {}, [], id="nothing"),
        pytest.param(SERVES, SERVES, [], id="no change"),
        pytest.param(
            {},
            {"Ready": ("False", "Deploying"), "Promoted": ("False", "InProgress"), "Degraded": ("False", "AsExpected")},
            [],
            id="created",
        ),
        pytest.param(
            {"Ready": ("False", "Deploying"), "Promoted": ("False", "InProgress"), "Degraded": ("False", "AsExpected")},
            SERVES,
            ["Normal MinimumReplicasReady"],
            id="first ready",
        ),
        pytest.param(
            {}, {"Ready": ("False", "InvalidSpec"), "Degraded": ("True", "InvalidSpec")}, ["Warning InvalidSpec"],
            id="invalid from the start, told once",
        ),
        pytest.param(
            SERVES | STABLE_BEFORE,
            SERVES | {"Promoted": ("False", "InProgress")},
            ["Normal InProgress"],
            id="a rollout starts",
        ),
        pytest.param(
            SERVES | {"Promoted": ("False", "InProgress")} | STABLE_BEFORE,
            SERVES,
            ["Normal Promoted"],
            id="and ends",
        ),
        pytest.param(
            SERVES | {"Promoted": ("False", "InProgress")} | STABLE_BEFORE,
            SERVES | {"Promoted": ("False", "RolledBack"), "Degraded": ("True", "RolledBack")},
            ["Warning RolledBack"],
            id="or is taken back",
        ),
        pytest.param(
            SERVES,
            SERVES | {"Ready": ("False", "CrashLoop"), "Degraded": ("True", "CrashLoop")},
            ["Warning CrashLoop"],
            id="stops serving",
        ),
        pytest.param(
            SERVES | {"Degraded": ("True", "Unschedulable")}, SERVES, [], id="a trouble that is over is no event"
        ),
    ],
)  # fmt: skip
def test_notices(before: dict[str, Any], after: dict[str, Any], told: list[str]) -> None:
    assert in_short(notices(status_with(**before), status_with(**after))) == told


def in_short(found: list[Notice]) -> list[str]:
    """Each as "Type Reason"."""
    return [f"{'Warning' if notice.is_warning else 'Normal'} {notice.reason}" for notice in found]


def after_these(*reasons: str, **conditions: tuple[str, str]) -> ModelDeploymentStatus:
    """A status whose transitions have these reasons, the oldest first, each a second after the one before."""
    story = [
        Transition(at=write_time(NOW + timedelta(seconds=number)), revision="b", reason=reason, message=reason)
        for number, reason in enumerate(reasons)
    ]
    return status_with(**conditions).model_copy(update={"transitions": story})


def without_oldest(status: ModelDeploymentStatus) -> ModelDeploymentStatus:
    """As a status is that had no room for one transition more."""
    return status.model_copy(update={"transitions": status.transitions[1:]})


BAKES = SERVES | STABLE_BEFORE | {"Promoted": ("False", "InProgress")}
TAKEN = SERVES | STABLE_BEFORE | {"Promoted": ("False", "RolledBack"), "Degraded": ("True", "RolledBack")}
STORY = ("Promoted", "Started", "Step", "Step")
EVENTS = {
    "Started": "Normal RolloutStarted",
    "Step": "Normal RolloutStep",
    "Promoted": "Normal RolloutPromoted",
    "Baked": "Normal RolloutBaked",
    "Command": "Normal RolloutCommand",
    "RolledBack": "Warning RolledBack",
}
"""Transition → its event, where condition Promoted stays as it is."""


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param(after_these(*STORY, **BAKES), after_these(*STORY, **BAKES), [], id="nothing"),
        *(
            pytest.param(after_these(*STORY, **BAKES), after_these(*STORY, reason, **BAKES), [event], id=reason)
            for reason, event in EVENTS.items()
        ),
        pytest.param(
            after_these(Ready=("False", "Deploying"), Promoted=("False", "InProgress")),
            after_these("Promoted", **SERVES, **STABLE_BEFORE),
            ["Normal MinimumReplicasReady"],
            id="the first revision: Ready tells it",
        ),
        pytest.param(
            after_these("Promoted", "Started", **BAKES),
            after_these("Promoted", "Started", "Promoted", **SERVES, **STABLE_BEFORE),
            ["Normal Promoted"],
            id="promoted without a bake: the condition tells it",
        ),
        pytest.param(
            after_these(*STORY, "Promoted", **BAKES),
            after_these(*STORY, "Promoted", "Baked", **SERVES, **STABLE_BEFORE),
            ["Normal Promoted", "Normal RolloutBaked"],
            id="a bake ends",
        ),
        pytest.param(
            after_these(*STORY, **BAKES),
            after_these(*STORY, "Promoted", **TAKEN),
            ["Warning RolledBack"],
            id="a person's rollback has arrived: the condition tells it",
        ),
        pytest.param(
            after_these(*STORY, **BAKES),
            after_these(*STORY, "RolledBack", **TAKEN),
            ["Warning RolledBack"],
            id="taken back, told once",
        ),
        pytest.param(
            after_these(*STORY, **BAKES),
            after_these(*STORY, "Command", "Step", **BAKES),
            ["Normal RolloutCommand", "Normal RolloutStep"],
            id="a command and what it did",
        ),
        pytest.param(
            after_these(*["Step"] * MAX_TRANSITIONS, **BAKES),
            without_oldest(after_these(*["Step"] * MAX_TRANSITIONS, "Promoted", **BAKES)),
            ["Normal RolloutPromoted"],
            id="the oldest line has gone",
        ),
    ],
)
def test_each_transition_is_an_event(
    before: ModelDeploymentStatus, after: ModelDeploymentStatus, told: list[str]
) -> None:
    assert in_short(notices(before, after)) == told


def test_no_transition_is_without_an_event() -> None:
    files = (ROOT / "operator/slipway/report").glob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    reasons = {ast.literal_eval(call.args[1]) for call in calls if ast.unparse(call.func) == "tell"}
    assert reasons == set(EVENTS)


def test_every_event_of_a_rollout_is_explained() -> None:
    explained = (ROOT / "docs/conditions.md").read_text().partition("## Events")[2]
    assert {event.split()[1] for event in EVENTS.values()} <= set(re.findall(r"`([A-Z][A-Za-z]+)`", explained))


def test_a_promotion_by_steps_is_told_from_its_beginning_to_its_end() -> None:
    until = NOW + timedelta(minutes=5)
    at_rest, prepares = {"old": 100}, {"old": 100, "new": 0}
    plans = [
        plan_of("old", None, {"old": 2}, OWN, Promotion.PROMOTED, weights=at_rest),
        plan_of("old", "new", {"old": 2, "new": 1}, OWN, Promotion.IN_PROGRESS, progress_since=NOW, weights=prepares),
        plan_of(
            "old", "new", {"old": 2, "new": 1}, OWN, Promotion.IN_PROGRESS,
            progress_since=NOW, weights=prepares, step_index=1,
        ),
        plan_of(
            "new", None, {"old": 2, "new": 2}, OWN, Promotion.IN_PROGRESS, progress_since=NOW,
            bake_until=until, weights={"old": 0, "new": 100}, previous="old",
        ),
        changed(STABLE, weights={"new": 100}),
    ]  # fmt: skip
    world = snapshot(*OLD_SERVES, pod("c", "new"), pod("d", "new"))
    status, told = EMPTY, []
    for minute, plan in enumerate(plans):
        judged = result_of(plan, revision=plan.state.canary or plan.state.stable, steps=(Step(25, 1),))
        after = assess(judged, world, status, NOW + timedelta(minutes=minute))
        told.append(in_short(notices(status, after)))
        status = after
    assert told == [
        ["Normal RolloutPromoted"],
        ["Normal InProgress", "Normal RolloutStarted"],
        ["Normal RolloutStep"],
        ["Normal RolloutPromoted"],
        ["Normal Promoted", "Normal RolloutBaked"],
    ]
    assert "stays warm until 12:05:00 UTC" in status.transitions[-2].message


@pytest.mark.parametrize("reason", PromotionReason)
def test_a_promotion_says_by_which_reason_in_its_transition(reason: PromotionReason) -> None:
    stored = assess(result_of(ROLLING), snapshot(*OLD_SERVES), EMPTY, NOW)
    status = assess(result_of(replace(STABLE, promotion_reason=reason)), SERVING, stored, LATER)
    last = status.transitions[-1]
    assert (last.reason, last.because, last.revision) == ("Promoted", reason.value, "new")
    assert f"revision new is stable ({reason.value}: {STABLE_BECAUSE[reason.value]})" in last.message


def test_only_a_promotion_has_a_reason_to_be_stable() -> None:
    serves = assess(result_of(TAKEN_BACK), snapshot(*OLD_SERVES), EMPTY, NOW)
    status = assess(result_of(ROLLING), snapshot(*OLD_SERVES), serves, LATER)
    assert [(each.reason, each.because) for each in status.transitions][-1] == ("Started", None)
    assert "because" not in write_status(status)["transitions"][-1]


WHY = "revision b is stable (Person: a person asked for it)"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param(
            after_these(Ready=("False", "Deploying"), Promoted=("False", "InProgress")),
            SERVES | STABLE_BEFORE,
            {"MinimumReplicasReady": f"m; {WHY}"},
            id="the first one",
        ),
        pytest.param(after_these(**BAKES), BAKES, {"RolloutPromoted": WHY}, id="it bakes"),
        pytest.param(after_these(**BAKES), SERVES | STABLE_BEFORE, {"Promoted": WHY}, id="without a bake"),
        pytest.param(after_these(**BAKES), TAKEN, {"RolledBack": f"m; {WHY}"}, id="a person's rollback"),
        pytest.param(
            after_these(), STABLE_BEFORE, {"RolloutPromoted": WHY}, id="found serving: no condition tells it"
        ),
    ],
)  # fmt: skip
def test_the_event_of_a_promotion_says_by_which_reason(
    before: ModelDeploymentStatus, after: dict[str, Any], told: dict[str, str]
) -> None:
    line = Transition(at=write_time(NOW), revision="b", reason="Promoted", message=WHY, because="Person")
    found = notices(before, status_with(**after).model_copy(update={"transitions": [line]}))
    assert {each.reason: each.message for each in found} == told


def test_each_reason_of_a_promotion_is_explained() -> None:
    explained = (ROOT / "docs/conditions.md").read_text().partition("## Why a revision is stable")[2]
    assert {each.value for each in PromotionReason} <= set(re.findall(r"`([A-Z][A-Za-z]+)`", explained))


def test_the_eleventh_transition_drops_the_oldest() -> None:
    serves = assess(result_of(TAKEN_BACK), snapshot(*OLD_SERVES), EMPTY, NOW)
    stored = serves.model_copy(update={"transitions": after_these(*"abcdefghij").transitions})
    status = assess(result_of(ROLLING), snapshot(*OLD_SERVES), stored, LATER)
    assert [each.reason for each in status.transitions] == [*"bcdefghij", "Started"]
    assert write_status(status)


# ---- when time alone changes something


def with_turn(at: datetime | None) -> PassResult:
    return result_of(changed(ROLLING, turns_at=at))


def test_when_time_alone_changes_something_is_written() -> None:
    status = assess(with_turn(LATER), snapshot(*OLD_SERVES), EMPTY, NOW)
    assert write_status(status)["nextLook"] == "2026-03-01T13:00:00Z"
    later = assess(with_turn(LATER + timedelta(minutes=1)), snapshot(*OLD_SERVES), status, NOW)
    assert write_status(later)["nextLook"] == "2026-03-01T13:01:00Z"


def test_the_same_moment_is_not_written_otherwise() -> None:
    stored = ModelDeploymentStatus(next_look="2026-03-01T14:00:00+01:00")
    assert assess(with_turn(LATER), snapshot(*OLD_SERVES), stored, NOW).next_look == stored.next_look


def test_at_rest_there_is_no_next_look() -> None:
    once = assess(with_turn(LATER), snapshot(*OLD_SERVES), EMPTY, NOW)
    assert "nextLook" not in write_status(assess(RESULT, SERVING, once, LATER))
    assert "nextLook" not in write_status(assess(with_turn(None), snapshot(*OLD_SERVES), once, LATER))


def test_with_a_spec_that_cannot_be_read_the_next_look_stays() -> None:
    once = assess(with_turn(LATER), snapshot(*OLD_SERVES), EMPTY, NOW)
    unread = result_of(None, problem=Trouble("InvalidSpec", "m"))
    assert assess(unread, snapshot(*OLD_SERVES), once, NOW).next_look == once.next_look


# ---- a stored status may hold anything


def test_an_absent_status_is_an_empty_one() -> None:
    assert read_status(None) == read_status({}) == EMPTY


def test_what_can_be_read_is_kept() -> None:
    stored = {
        "stable": {"revision": "a", "version": 1},
        "canary": "nonsense",
        "rejected": [{"revision": 3}],
        "conditions": [{"type": "Ready", "status": "Perhaps", "reason": "R", "message": "m"}],
        "progressReady": "many",
        "fromTheFuture": {"x": 1},
    }
    status = read_status(stored)
    assert status.stable is not None
    assert status.stable.revision == "a"
    assert (status.canary, status.rejected, status.conditions, status.progress_ready) == (None, [], [], 0)


def test_a_status_of_the_release_before_is_read_once_and_written_under_the_names_of_today() -> None:
    stored = {
        "stable": {"revision": "a", "version": 1, "carrier": "home"},
        "canary": {"revision": "b", "version": 2, "carrier": "b", "weightPercent": 20},
        "step": {"index": 1, "count": 2, "hurried": True},
        "traffic": {"entry": "Router"},
        "weightedSince": "2026-03-01T12:00:00Z",
    }
    status = read_status(stored)
    state = read_state(status, {"a", "b"}, [])
    assert (state.traffic_since, state.is_promote_requested) == (datetime(2026, 3, 1, 12, tzinfo=UTC), True)
    assert [each.workload for each in (status.stable, status.canary) if each is not None] == ["home", "b"]
    assert status.traffic is not None
    assert status.traffic.service_target == "Router"
    assert not {"carrier", "entry", "hurried", "weightedSince"} & set(
        re.findall(r"[a-zA-Z]+", str(write_status(status)))
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = sorted(
    set(ModelDeploymentStatus.model_fields)
    | {str(field.alias) for field in ModelDeploymentStatus.model_fields.values()}
)
STORED = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), JSON, max_size=6)


@example({"weighted_since": ""})
@example({"step": {"hurried": True}})
@given(STORED)
def test_garbage_never_raises(stored: dict[str, Any]) -> None:
    status = read_status(stored)
    assert read_status(write_status(status)) == status
    read_state(status, {"old"}, read_rejections(status))
    assess(RESULT, SERVING, status, NOW)


@pytest.mark.parametrize("text", ["", None, "yesterday", "2026-03-01", "2026-03-01T12:00:00", "12"])
def test_a_time_that_cannot_be_read_is_none(text: str | None) -> None:
    assert read_time(text) is None


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))
def test_times_are_read_as_they_are_written(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    assert read_time(write_time(moment)) == moment


def test_absent_values_are_not_written() -> None:
    assert "canary" not in write_status(assess(RESULT, SERVING, EMPTY, NOW))
    condition = Condition(type="Ready", status="True", reason="R", message="m", observed_generation=1)
    assert write_status(ModelDeploymentStatus(conditions=[condition]))["conditions"][0]["observedGeneration"] == 1


# ---- versions


def test_pods_with_different_bytes_under_one_number_are_told() -> None:
    one = replace(report((2, "Available")), versions=(VersionReport(2, "Available", "", "", "a" * 64),))
    other = replace(one, versions=(VersionReport(2, "Available", "", "", "b" * 64),))
    status = assess(RESULT, snapshot(pod("a", "new", says=one), pod("b", "new", says=other)), EMPTY, NOW)
    assert conditions(status)["VersionsReady"] == "False ContentChanged"
    assert conditions(status)["Ready"] == "True MinimumReplicasReady"
    assert "aaaaaaaaaaaa, bbbbbbbbbbbb" in (status.versions[0].message or "")


def test_a_label_that_stands_on_nothing_is_told_and_serves() -> None:
    label = Trouble("LabelNotLoaded", "label 'beta' names version 7, which isn't loaded")
    says = replace(report((2, "Available")), labels=(label,))
    status = assess(RESULT, snapshot(pod("a", "new", says=says), pod("b", "new", says=says)), EMPTY, NOW)
    assert conditions(status)["VersionsReady"] == "False LabelNotLoaded"
    assert conditions(status)["Degraded"] == "True LabelNotLoaded"
    assert conditions(status)["Ready"] == "True MinimumReplicasReady"


def test_since_is_when_the_state_was_first_seen() -> None:
    says = replace(report((2, "Available")), versions=(VersionReport(2, "Available", "", "", None, "10:00"),))
    first = assess(RESULT, snapshot(pod("a", "new", says=says)), EMPTY, NOW)
    later = replace(says, versions=(VersionReport(2, "Available", "", "", None, "11:00"),))
    again = assess(RESULT, snapshot(pod("a", "new", says=later)), first, LATER)
    assert (first.versions[0].since, again.versions[0].since) == ("10:00", "10:00")
    failed = replace(says, versions=(VersionReport(2, "Failed", "LoadFailed", "m", None, "12:00"),))
    assert assess(RESULT, snapshot(pod("a", "new", says=failed)), again, LATER).versions[0].since == "12:00"


# ---- signed models


@pytest.mark.parametrize(
    ("verifies", "storage", "reason"),
    [
        (False, {"verify": "Require", "publicKeys": [P256]}, "AgentTooOld"),
        (True, {"verify": "Require", "publicKeys": [P256]}, "AsExpected"),
        (False, {"verify": "Off", "publicKeys": [P256]}, "AsExpected"),
        (False, {}, "AsExpected"),
    ],
)
def test_a_pod_that_cant_verify_what_the_spec_has_verified_is_named(
    verifies: bool, storage: dict[str, Any], reason: str
) -> None:
    says = replace(report((2, "Available")), abilities=frozenset({VERIFY} if verifies else ()))
    status = assess(result_of(STABLE, spec={"storage": storage}), snapshot(pod("a", "new", says=says)), EMPTY, NOW)
    [degraded] = [each for each in status.conditions if each.type == "Degraded"]
    assert degraded.reason == reason
    assert ("pods a are of an older release" in degraded.message) is (reason == "AgentTooOld")
    assert ("kubectl slipway refresh" in degraded.message) is (reason == "AgentTooOld")


def test_an_unsigned_version_that_serves_is_told_and_serves() -> None:
    says = report((2, "Failed"), reason="NotSigned", message="version 2 has no model.sig")
    found = conditions(assess(RESULT, snapshot(*(pod(name, "new", says=says) for name in "ab")), EMPTY, NOW))
    assert found["Ready"] == "True MinimumReplicasReady"
    assert (found["VersionsReady"], found["Degraded"]) == ("False NotSigned", "True NotSigned")


# ---- what arrives in place


def test_a_refusal_in_place_is_told_in_the_servers_words_and_not_as_a_deadline() -> None:
    says = AgentReport(
        "g",
        (),
        (VersionReport(1, "Available", "", "", None), VersionReport(2, "Failed", "LoadFailed", "no", None)),
        None,
    )
    here = snapshot(pod("a", "old", says=says))
    workloads = {"old": replace(here.workloads["old"], revision="new", replaces="old")}
    plan = REJECTING
    status = assess(result_of(plan), replace(here, workloads=workloads), EMPTY, NOW)
    assert status.rejected[0].message == "LoadFailed: version 2: no"
    assert conditions(status)["Promoted"] == "False RolledBack"


@pytest.mark.parametrize(("stamp", "is_kept"), [(None, True), ("x", True), ("y", False)])
def test_other_bytes_at_the_source_clear_a_rejection(stamp: str | None, *, is_kept: bool) -> None:
    plan = REJECTING
    status = assess(result_of(plan, stamps={2: "x"}), snapshot(*OLD_SERVES), EMPTY, NOW)
    assert bool(still_rejected(status, "new", 2, {2: stamp} if stamp else {})) is is_kept


def test_bytes_that_nobody_named_at_a_rejection_are_named_later_and_others_clear_it() -> None:
    plan = REJECTING
    status = assess(result_of(plan, stamps={}), snapshot(*OLD_SERVES), EMPTY, NOW)
    (kept,) = still_rejected(status, "new", 2, {2: "x"})
    assert kept.stamp == "x"
    assert still_rejected(status.model_copy(update={"rejected": [kept]}), "new", 2, {2: "y"}) == []


STEPS: dict[str, Any] = {"rollout": {"steps": [{"weight": 50}]}}
UNCOUNTED = {**STEPS, "runtime": {"name": "TorchServe"}, "traffic": {"provider": "Replicas"}}


@pytest.mark.parametrize(
    ("judging", "words"),
    [
        (judging_of(deployment(UNCOUNTED)), "nobody judges this rollout: provider Replicas judges by what the servers"),
        (judging_of(deployment(STEPS)), "mode Enforce and onInconclusive Hold"),
        (NOBODY, ""),
    ],
)
@pytest.mark.parametrize("is_rollback", [False, True])
def test_who_judges_a_canary_is_said_where_the_spec_does_not(judging: Judging, words: str, is_rollback: bool) -> None:
    plan = changed(ROLLING, weights={"old": 50, "new": 50}, step_index=1, waits_for="evidence")
    result = result_of(plan, steps=(Step(50, 1), Step(100, 2)))
    assert result.carried_out is not None
    inputs = result.carried_out.inputs
    inputs = replace(inputs, judging=judging, target=replace(inputs.target, is_rollback=is_rollback))
    result = replace(result, carried_out=replace(result.carried_out, inputs=inputs))
    status = assess(result, snapshot(*OLD_SERVES, pod("c", "new")), EMPTY, NOW)
    promoted = status.condition("Promoted")
    assert promoted is not None
    assert status.step is not None
    if is_rollback or not words:
        assert "judge" not in promoted.message
        assert status.step.judging is None
        return
    assert words in promoted.message
    assert words in (status.step.judging or "")


@pytest.mark.parametrize(("query", "found"), [("?X-Amz-Signature=abc", "X-Amz-Signature"), ("?download=true", "")])
def test_a_url_that_opens_by_itself_serves_and_needs_a_person(query: str, found: str) -> None:
    carried = RESULT.carried_out
    assert carried is not None
    model = {"uri": "https://store.example/models", "version": 2, "versions": {"2": f"2.onnx{query}"}}
    asked = deployment({"model": model})
    judged = replace(RESULT, carried_out=replace(carried, inputs=replace(carried.inputs, asked=asked)))
    status = assess(judged, SERVING, EMPTY, NOW)
    assert conditions(status)["Ready"] == "True MinimumReplicasReady"
    assert conditions(status)["Degraded"] == ("True CredentialInSpec" if found else "False AsExpected")
    assert "abc" not in str(write_status(status))
    assert ("query.2" in str(write_status(status))) is bool(found)


def test_a_password_in_the_models_own_uri_needs_a_person_too() -> None:
    carried = RESULT.carried_out
    assert carried is not None
    asked = deployment({"model": {"uri": "https://ann:abc@store.example/m", "version": 2, "versions": {"2": "2.onnx"}}})
    judged = replace(RESULT, carried_out=replace(carried, inputs=replace(carried.inputs, asked=asked)))
    status = assess(judged, SERVING, EMPTY, NOW)
    assert conditions(status)["Degraded"] == "True CredentialInSpec"
    assert "spec.model.uri has a password in it (https://store.example/m)" in str(write_status(status))
    assert "abc" not in str(write_status(status))
