"""What is counted is counted right, what is said to serve serves, and a deadline names what was in the way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slipway.api.status import ModelDeploymentStatus, RevisionStatus, StepStatus
from slipway.model.rollout import NO_PROGRESS, Plan
from slipway.model.signals import Cause
from slipway.model.workload import Crash, Trouble
from slipway.observe.pods import Pod
from slipway.observe.snapshot import Snapshot
from slipway.report.status import assess
from tests.unit.plans import changed
from tests.unit.report.test_status import (
    BROKEN,
    EMPTY,
    FIRST,
    NOW,
    OLD_SERVES,
    REJECTING,
    ROLLING,
    STABLE,
    TAKEN_BACK,
    pod,
    report,
    snapshot,
)
from tests.unit.results import result_of


def said(status: ModelDeploymentStatus, kind: str) -> str:
    found = status.condition(kind)
    assert found is not None
    return found.message


# ---- counts


@pytest.mark.parametrize(
    ("plan", "pods", "replicas", "expected"),
    [
        (STABLE, (pod("a", "new"), pod("b", "new")), 2, "2 of 2 pods serve"),
        (STABLE, (pod("a", "new"), pod("b", "new")), 1, "1 of 1 pods serve"),
        (ROLLING, (pod("a", "old"), pod("b", "new")), 1, "1 of 1 pods serve"),
        (STABLE, tuple(pod(name, "new") for name in "abc"), 4, "3 of 4 pods serve"),
        (FIRST, (pod("a", "new"), pod("b", "new")), 1, "1 of 1 pods are ready"),
    ],
    ids=["all", "scaled down, one goes", "one stands in", "three of four", "first, scaled down"],
)
def test_no_more_pods_serve_than_are_wanted(plan: Plan, pods: tuple[Pod, ...], replicas: int, expected: str) -> None:
    status = assess(result_of(plan, replicas=replicas), snapshot(*pods), EMPTY, NOW)
    assert said(status, "Ready") == expected


# ---- taken back


OLD_STARTS = (pod("a", "old", ready=False), pod("b", "old", ready=False))


@pytest.mark.parametrize(
    ("world", "replicas", "expected"),
    [
        (snapshot(*OLD_SERVES), 2, "was taken back and old serves: "),
        (snapshot(OLD_SERVES[0]), 2, "was taken back and old serves: "),
        (snapshot(*OLD_STARTS), 2, "was taken back and old is to serve; 0 of 2 pods are ready: "),
        (snapshot(), 2, "was taken back and old is to serve; 0 of 2 pods are ready: "),
        (snapshot(), 0, "was taken back and old is to serve once spec.replicas is above 0: "),
    ],
)
def test_taken_back_says_that_stable_serves_only_if_it_does(world: Snapshot, replicas: int, expected: str) -> None:
    status = assess(result_of(TAKEN_BACK, replicas=replicas), world, EMPTY, NOW)
    assert expected in said(status, "Promoted")


def test_taken_back_without_a_stable_revision_says_that_nothing_serves() -> None:
    status = assess(result_of(changed(TAKEN_BACK, stable=None)), snapshot(), EMPTY, NOW)
    assert "was taken back and nothing serves: " in said(status, "Promoted")


# ---- the last known cause


LATE = changed(REJECTING, cause=Cause(NO_PROGRESS, "waited 600 s for 2 canary pods to be ready (1 now)"))
LATE_UNSAID = changed(REJECTING, cause=Cause(NO_PROGRESS, ""))
LOADING = snapshot(*OLD_SERVES, pod("c", "new", ready=False, says=report((2, "Loading"))))
CRASH = "the server of pod c ended with exit code 137 (out of memory)"
WAITED = ModelDeploymentStatus(
    canary=RevisionStatus(revision="new", version=2), step=StepStatus(waits_for="1 canary pods to be ready (0 now)")
)


def crashed() -> Snapshot:
    here = snapshot(*OLD_SERVES, pod("c", "new", ready=False))
    crash = Crash("c", 1, CRASH)
    return replace(here, workloads={**here.workloads, "new": replace(here.workloads["new"], crashes=(crash,))})


NOTHING = snapshot(*OLD_SERVES)
TROUBLED = snapshot(*OLD_SERVES, troubles={"new": BROKEN})


@pytest.mark.parametrize(
    ("plan", "world", "stored", "reason", "words"),
    [
        pytest.param(
            LATE, TROUBLED, EMPTY, NO_PROGRESS, f"(1 now); LoadFailed: {BROKEN.message}", id="its pods' trouble"
        ),
        pytest.param(LATE_UNSAID, TROUBLED, EMPTY, NO_PROGRESS, f"{NO_PROGRESS}: LoadFailed", id="that alone"),
        pytest.param(LATE, crashed(), EMPTY, NO_PROGRESS, f"(1 now); {CRASH}", id="its last crash"),
        pytest.param(LATE, LOADING, EMPTY, NO_PROGRESS, "(1 now); version 2 is Loading", id="what its agents say"),
        pytest.param(LATE, NOTHING, EMPTY, NO_PROGRESS, "2 canary pods to be ready (1 now)", id="no more"),
        pytest.param(
            REJECTING, crashed(), EMPTY, NO_PROGRESS, f"not become ready; {CRASH}", id="prepared: its last crash"
        ),
        pytest.param(
            REJECTING, LOADING, WAITED, NO_PROGRESS, "ready; version 2 is Loading", id="prepared: its agents' words"
        ),
        pytest.param(
            REJECTING, NOTHING, WAITED, NO_PROGRESS, "ready; it waited for 1 canary pods", id="prepared: waited"
        ),
        pytest.param(REJECTING, NOTHING, EMPTY, NO_PROGRESS, "its pods did not become ready", id="prepared: unknown"),
        pytest.param(REJECTING, TROUBLED, WAITED, "LoadFailed", BROKEN.message, id="prepared: its pods' trouble"),
    ],
)
def test_a_deadline_names_the_last_known_cause(
    plan: Plan, world: Snapshot, stored: ModelDeploymentStatus, reason: str, words: str
) -> None:
    status = assess(result_of(plan), world, stored, NOW)
    (entry,) = status.rejected
    assert entry.reason == reason
    assert words in entry.message
    assert words in said(status, "Promoted")


def test_a_cause_of_its_own_is_not_mixed_with_what_pods_do() -> None:
    plan = changed(REJECTING, cause=Cause("GoldenFailed", "request 1: 0.9, not 0.1"))
    (entry,) = assess(result_of(plan), TROUBLED, EMPTY, NOW).rejected
    assert entry.message == "GoldenFailed: request 1: 0.9, not 0.1"


def test_what_another_canary_waited_for_is_not_told_of_this_one() -> None:
    other = WAITED.model_copy(update={"canary": RevisionStatus(revision="another", version=3)})
    (entry,) = assess(result_of(REJECTING), NOTHING, other, NOW).rejected
    assert entry.message.endswith("its pods did not become ready")


def test_trouble_that_is_the_reason_is_named_once() -> None:
    trouble = Trouble("CrashLoopBackOff", "it ends again and again")
    (entry,) = assess(result_of(REJECTING), snapshot(*OLD_SERVES, troubles={"new": trouble}), EMPTY, NOW).rejected
    assert entry.message.count("it ends again and again") == 1
