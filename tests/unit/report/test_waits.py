"""What a ModelDeployment waits for is said: in Reconciling, in the messages of the others, and when it is overdue."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from slipway.api.status import ModelDeploymentStatus, read_status, write_status
from slipway.model.revision import Assignment, Revision
from slipway.model.rollout import Plan, Promotion
from slipway.model.rollout_state import Rejection
from slipway.model.workload import Trouble, Workload
from slipway.observe.agent_reports import AgentReport, VersionReport
from slipway.observe.pods import Pod
from slipway.observe.snapshot import Snapshot
from slipway.report.pass_result import PassResult
from slipway.report.status import assess
from tests.unit.plans import changed, plan_of
from tests.unit.results import result_of

NOW = datetime(2026, 3, 1, 2, 20, tzinfo=UTC)
UNTIL = NOW + timedelta(minutes=5)
DEADLINE = timedelta(seconds=600)
EMPTY = ModelDeploymentStatus()

NO_GPU = Trouble("Unschedulable", "pod p finds no node: nvidia.com/gpu is missing on 3 of 3 nodes, since 02:13 UTC. …")
PULL = Trouble("ImagePulling", "pod p: node n1 is pulling image 'x:1' of container server, since 02:13 UTC", False)
QUEUED = Trouble("SchedulingGated", "pod p may not be scheduled yet: a queue holds it back, since 02:13 UTC", False)
ONE_NODE = Trouble("NodeCannotLoad", "pod p on node n1 can't serve what other pods of the same revision serve: no disk")
BROKEN = Trouble("LoadFailed", "version 2: no ONNX")
SLOW = Trouble("SourceUnavailable", "the store does not answer", needs_person=False)
QUOTA = Trouble("QuotaExceeded", "ConfigMap d: exceeded quota. Raise the ResourceQuota")
UNREADABLE = Trouble("GoldenUnreadable", "ConfigMap golden does not exist")

OWN = {"old": Assignment("old"), "new": Assignment("new")}
FIRST = plan_of(None, "new", {"new": 2}, OWN, Promotion.IN_PROGRESS, progress_since=NOW)
ARRIVES = plan_of("old", "new", {"old": 2, "new": 1}, OWN, Promotion.IN_PROGRESS, progress_since=NOW)
PAUSED = changed(ARRIVES, promotion=Promotion.PAUSED, waits_for="a person to resume")
STABLE = plan_of("new", None, {"new": 2}, OWN, Promotion.PROMOTED)
BAKES = plan_of("new", None, {"old": 2, "new": 2}, OWN, Promotion.IN_PROGRESS, previous="old", bake_until=UNTIL)
BAKES_IN_PLACE = changed(STABLE, bake_until=UNTIL)
TAKEN_BACK = plan_of("old", None, {"old": 2}, OWN, Promotion.ROLLED_BACK)


def pod(name: str, of: str, *, ready: bool = True, trouble: Trouble | None = None, state: str = "Available") -> Pod:
    says = AgentReport("g", (), (VersionReport(2 if of == "new" else 1, state, "", "", None),), None)
    return Pod(name, f"uid-{name}", of, ready, False, "198.18.0.1", None, trouble, says)


def world(*pods: Pod, **waits: Trouble | None) -> Snapshot:
    """These pods; waits: workload → what it waits for, or what troubles it."""
    revisions = {name: Revision(name, version, version, {}, {}, {}) for name, version in (("old", 1), ("new", 2))}
    here = {}
    for name in {each.workload for each in pods} | set(waits):
        own = [each for each in pods if each.workload == name]
        room = waits.get(name)
        is_room = room is not None and room not in (BROKEN, SLOW)
        ready = sum(each.is_ready for each in own)
        here[name] = Workload(name, 2, len(own), ready, waits_for_room=room if is_room else None)
    troubles = {name: trouble for name, trouble in waits.items() if trouble not in (None, PULL)}
    return Snapshot({}, frozenset(), revisions, here, troubles, pods, {})


def said(result: PassResult, snapshot: Snapshot, kind: str, now: datetime = NOW) -> tuple[str, str]:
    """ "Status Reason" of a condition, and its message."""
    found = assess(result, snapshot, EMPTY, now).condition(kind)
    assert found is not None
    return f"{found.status} {found.reason}", found.message


OLD = (pod("a", "old"), pod("b", "old"))
NEW = (pod("c", "new"), pod("d", "new"))
LATE = pod("p", "new", ready=False, state="Loading")


@pytest.mark.parametrize(
    ("result", "snapshot", "expected", "words"),
    [
        pytest.param(result_of(STABLE), world(*NEW), "False AsExpected", "nothing", id="at rest"),
        pytest.param(result_of(FIRST), world(LATE), "True InProgress", "takes over", id="a first one starts"),
        pytest.param(
            result_of(FIRST),
            world(LATE, new=NO_GPU),
            "True WaitingForCapacity",
            "3 of 3 nodes, since 02:13",
            id="first",
        ),
        pytest.param(result_of(ARRIVES), world(*OLD, LATE), "True InProgress", "revision new", id="one arrives"),
        pytest.param(
            result_of(ARRIVES),
            world(*OLD, LATE, new=NO_GPU),
            "True WaitingForCapacity",
            "nvidia.com/gpu is missing on 3 of 3 nodes, since 02:13 UTC",
            id="it finds no node",
        ),
        pytest.param(
            result_of(ARRIVES), world(*OLD, LATE, new=QUEUED), "True WaitingForCapacity", "a queue", id="it is queued"
        ),
        pytest.param(
            result_of(ARRIVES),
            world(*OLD, LATE, new=PULL),
            "True WaitingForCapacity",
            "pulling image",
            id="it is pulled",
        ),
        pytest.param(
            result_of(ARRIVES), world(*OLD, LATE, new=BROKEN), "True InProgress", "LoadFailed", id="its own fault"
        ),
        pytest.param(
            result_of(ARRIVES),
            world(*OLD, LATE, new=ONE_NODE),
            "True NodeCannotLoad",
            "pod p on node n1",
            id="one node",
        ),
        pytest.param(result_of(PAUSED), world(*OLD, *NEW), "True Paused", "a person to resume", id="paused"),
        pytest.param(
            result_of(PAUSED),
            world(*OLD, LATE, new=NO_GPU),
            "True WaitingForCapacity",
            "nvidia",
            id="paused, and waits",
        ),
        pytest.param(result_of(BAKES), world(*OLD, *NEW), "True InProgress", "bakes until 02:25", id="it bakes"),
        pytest.param(result_of(BAKES_IN_PLACE), world(*NEW), "True InProgress", "bakes until 02:25", id="in place"),
        pytest.param(
            result_of(STABLE), world(LATE, new=NO_GPU), "True WaitingForCapacity", "nvidia", id="stable lost its node"
        ),
        pytest.param(
            result_of(STABLE), world(*NEW, LATE, new=NO_GPU), "False AsExpected", "nothing", id="stable serves enough"
        ),
        pytest.param(
            result_of(TAKEN_BACK), world(*OLD, LATE, new=NO_GPU), "False RolledBack", "taken back", id="taken back"
        ),
        pytest.param(
            result_of(TAKEN_BACK), world(old=NO_GPU), "False RolledBack", "taken back", id="taken back, stable waits"
        ),
        pytest.param(
            result_of(None, problem=Trouble("InvalidSpec", "spec.model.uri …")),
            world(*OLD, LATE, new=NO_GPU),
            "False InvalidSpec",
            "spec.model.uri",
            id="a spec that can't be read",
        ),
        pytest.param(
            result_of(ARRIVES, problem=UNREADABLE), world(*OLD), "False GoldenUnreadable", "does not exist", id="a gate"
        ),
        pytest.param(
            result_of(ARRIVES, problem=QUOTA), world(*OLD), "True WaitingForCapacity", "ResourceQuota", id="quota"
        ),
        pytest.param(
            result_of(STABLE, replicas=0), world(new=NO_GPU), "False AsExpected", "nothing", id="scaled to zero"
        ),
    ],
)
def test_reconciling_says_what_is_on_its_way_and_what_it_waits_for(
    result: PassResult, snapshot: Snapshot, expected: str, words: str
) -> None:
    reason, message = said(result, snapshot, "Reconciling")
    assert reason == expected
    assert words in message


def test_reconciling_is_dated_by_its_status_and_a_wait_is_written_once() -> None:
    first = assess(result_of(ARRIVES), world(*OLD, LATE), EMPTY, NOW)
    waiting = world(*OLD, LATE, new=NO_GPU)
    waits = assess(result_of(ARRIVES), waiting, read_status(write_status(first)), NOW + timedelta(minutes=1))
    condition = waits.condition("Reconciling")
    assert condition is not None
    assert (condition.reason, condition.last_transition_time) == ("WaitingForCapacity", "2026-03-01T02:20:00Z")
    later = assess(result_of(ARRIVES), waiting, read_status(write_status(waits)), NOW + timedelta(minutes=9))
    assert write_status(later) == write_status(waits)


# ---- a pull is not a version that loads

PULLED = pod("p", "new", ready=False, trouble=PULL, state="Loading")


@pytest.mark.parametrize(
    ("plan", "snapshot", "kind", "expected"),
    [
        pytest.param(FIRST, world(PULLED, new=PULL), "Ready", "False Deploying", id="first: Ready"),
        pytest.param(FIRST, world(PULLED, new=PULL), "VersionsReady", "False Loading", id="first: VersionsReady"),
        pytest.param(ARRIVES, world(*OLD, PULLED, new=PULL), "Promoted", "False InProgress", id="canary: Promoted"),
    ],
)
def test_an_image_that_is_being_pulled_is_said_with_since_when(
    plan: Plan, snapshot: Snapshot, kind: str, expected: str
) -> None:
    reason, message = said(result_of(plan), snapshot, kind)
    assert reason == expected
    assert PULL.message in message
    assert "is Loading" not in message


def test_a_pull_needs_no_person() -> None:
    assert said(result_of(FIRST), world(PULLED, new=PULL), "Degraded")[0] == "False AsExpected"


# ---- overdue


@pytest.mark.parametrize(
    ("plan", "snapshot", "seconds", "expected", "words"),
    [
        pytest.param(FIRST, world(LATE), 599, "False AsExpected", "nothing", id="in time"),
        pytest.param(FIRST, world(LATE), 600, "True ProgressDeadlineExceeded", "version 2 is Loading", id="it loads"),
        pytest.param(
            FIRST,
            world(LATE, new=SLOW),
            600,
            "True ProgressDeadlineExceeded",
            "the store does not answer",
            id="a store",
        ),
        pytest.param(
            FIRST, world(LATE, new=BROKEN), 600, "True LoadFailed", "no ONNX", id="its own reason comes first"
        ),
        pytest.param(FIRST, world(), 600, "True ProgressDeadlineExceeded", "kubectl describe pod", id="no word at all"),
        pytest.param(FIRST, world(LATE, new=PULL), 6000, "False AsExpected", "nothing", id="it waits for its image"),
        pytest.param(FIRST, world(LATE, new=QUEUED), 6000, "False AsExpected", "nothing", id="it waits in a queue"),
        pytest.param(
            FIRST, world(LATE, new=NO_GPU), 6000, "True Unschedulable", "3 of 3 nodes", id="it waits for a GPU"
        ),
        pytest.param(
            ARRIVES, world(*OLD, LATE), 6000, "False AsExpected", "nothing", id="another serves: it goes back"
        ),
        pytest.param(STABLE, world(*NEW), 6000, "False AsExpected", "nothing", id="at rest"),
    ],
)
def test_a_first_revision_past_its_deadline_needs_a_person(
    plan: Plan, snapshot: Snapshot, seconds: int, expected: str, words: str
) -> None:
    reason, message = said(result_of(plan), snapshot, "Degraded", NOW + timedelta(seconds=seconds))
    assert reason == expected
    assert words in message


def test_a_first_revision_that_downloads_or_has_nothing_to_download_is_not_overdue() -> None:
    late, here = NOW + DEADLINE, world(LATE)
    fetching = replace(here, workloads={"new": replace(here.workloads["new"], is_fetching=True)})
    assert said(result_of(FIRST), fetching, "Degraded", late)[0] == "False AsExpected"
    assert said(without_version(result_of(FIRST)), here, "Degraded", late)[0] == "False AsExpected"


def without_version(result: PassResult) -> PassResult:
    """As it is while no version was found."""
    assert result.carried_out is not None
    inputs = result.carried_out.inputs
    nothing: dict[str, Any] = {"placement": replace(inputs.placement, revision=Revision("new", 0, 0, {}, {}, {}))}
    return replace(result, carried_out=replace(result.carried_out, inputs=replace(inputs, **nothing)))


@pytest.mark.parametrize(
    ("reason", "needs_person", "expected"),
    [
        ("SourceNotFound", True, "True SourceNotFound"),
        ("SourceUnavailable", False, "False AsExpected"),
    ],
)
def test_a_source_that_is_not_there_is_degraded(reason: str, expected: str, *, needs_person: bool) -> None:
    result = without_version(result_of(FIRST))
    assert result.carried_out is not None
    listing = Trouble(reason, "no folder", needs_person)
    result = replace(result, carried_out=replace(result.carried_out, listing=listing))
    assert said(result, world(LATE), "Degraded")[0] == expected
    assert said(result, world(LATE), "Degraded", NOW + DEADLINE)[0].startswith("True ")


# ---- why it was taken back


def taken_back(snapshot: Snapshot) -> str:
    gone = Rejection("new", "c")
    plan = changed(TAKEN_BACK, newly_rejected=gone, rejected=(gone,))
    (entry,) = assess(result_of(plan), snapshot, EMPTY, NOW).rejected
    return f"{entry.reason}: {entry.message}"


def test_a_load_that_failed_for_want_of_memory_says_so() -> None:
    memory = Trouble("OutOfMemory", "pod p: … it may use 600Mi. Raise spec.resources.limits.memory")
    failed = AgentReport("g", (), (VersionReport(2, "Failed", "LoadFailed", "the server ended", None),), None)
    words = taken_back(world(*OLD, replace(LATE, report=failed), new=memory))
    assert words.startswith("LoadFailed")
    assert "spec.resources.limits.memory" in words
