"""The world before, passes of the operator, the world after: what comes to be, and how many writes it took.

Each test is a transition of one ModelDeployment in a world that plays Deployment controller, kubelet and agents. At its
end the operator is at rest: two more minutes bring no write.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from prometheus_client import REGISTRY

from slipway.controller.kube import ClusterError, TransientError
from slipway.render.pod_template import Images
from tests.simulation import pods
from tests.simulation.agents import LOAD_FAILED
from tests.transition.api_server import Write
from tests.transition.operators import Operator, begin, live_on, run, until, writes_of
from tests.transition.world import World
from tests.unit.specs import IMAGES, NAME, merged

HOUR = 3600


def serving(
    spec: dict[str, Any] | None = None,
    *,
    at_source: tuple[int, ...] = (1, 2, 3),
    strategy: str | None = "RollingUpdate",
) -> tuple[World, Operator]:
    """A ModelDeployment that serves and is at rest."""
    smallest = {"replicas": 2, "rollout": {"strategy": strategy}}
    world, operator = begin(merged(smallest, spec or {}), World(at_source=set(at_source)))
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")
    assert writes_of(operator) == []
    return world, operator


def stable_of(world: World) -> str:
    revision: str = world.deployment()["status"]["stable"]["revision"]
    return revision


NOTED = Write("apply", "Service", NAME)
"""The spec that was read is written down, for the case that the next one can't be."""


def assert_at_rest(operator: Operator) -> None:
    assert writes_of(operator) == []


def assert_cannot_serve(world: World, operator: Operator, reason: str) -> None:
    assert world.conditions()["Ready"] == ("False", reason)
    assert world.conditions()["Degraded"] == ("True", reason)
    assert_at_rest(operator)


def is_baking(world: World) -> bool:
    return "bakeUntil" in world.deployment()["status"]


def assert_healthy(world: World, version: int, replicas: int = 2) -> None:
    assert world.ready_by_version() == {version: replicas}
    conditions = world.conditions()
    conditions.pop("AgentsOutdated")  # one may be old and serve well
    assert conditions == {
        "Ready": ("True", "MinimumReplicasReady"),
        "Promoted": ("True", "Promoted"),
        "VersionsReady": ("True", "AllAvailable"),
        "Degraded": ("False", "AsExpected"),
        "Reconciling": ("True", "InProgress") if is_baking(world) else ("False", "AsExpected"),
    }
    assert world.deployment()["status"]["phase"] == "Ready"
    assert world.deployment()["status"]["stable"]["version"] == version
    assert "canary" not in world.deployment()["status"]


# ---- create, steady state


def test_a_new_one_gets_its_children_and_serves() -> None:
    world, operator = begin({"replicas": 2})
    assert_healthy(world, 1)
    child = f"{NAME}-{stable_of(world)}"
    assert world.named("Service") == [NAME, f"{NAME}-metrics"]
    for kind in ("Deployment", "ConfigMap", "ControllerRevision"):
        assert world.named(kind) == [child]
    assert world.writes[:7] == [
        Write("create", "Service", NAME),
        Write("create", "ControllerRevision", child),
        Write("create", "ConfigMap", child),
        Write("create", "Secret", *world.named("Secret")),
        Write("create", "Deployment", child),
        Write("create", "Service", f"{NAME}-metrics"),
        Write("status", "ModelDeployment", NAME),
    ]
    # Once it serves, the digest of what it serves is written down, for pods to come.
    noted = [write for write in world.writes[6:] if write.verb != "status"]
    assert noted == [Write("apply", "ControllerRevision", child), Write("apply", "ConfigMap", child)]
    assert_at_rest(operator)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"replicas": 0},
        {"replicas": 5},
        {"resources": {"limits": {"cpu": "2000m", "memory": "1Gi"}, "requests": {"cpu": 1}}},
        {"versionPolicy": {"latest": {"count": 2}}, "model": {"version": 3}},
        {"versionPolicy": {"specific": {"versions": [1, 3]}}, "model": {"version": 3}},
        {"versionPolicy": {"all": {}}, "model": {"version": 3}},
        {"versionPolicy": {"all": {}}, "model": {"uri": "https://h/m", "versions": {"1": "a.onnx", "3": "b.onnx"}}},
        {"model": {"version": 9}},
        {"autoscaling": {"maxReplicas": 2}},
    ],
)
def test_at_rest_nothing_is_written_by_an_operator_or_the_next_one(spec: dict[str, Any]) -> None:
    world, operator = begin({"replicas": 2, **spec}, seconds=60)
    assert_at_rest(operator)
    assert_at_rest(Operator(world))


@pytest.mark.parametrize("replicas", [1, 3, 5])
def test_scaling_writes_the_deployment_and_the_spec_once(replicas: int) -> None:
    world, operator = serving()
    world.edit({"replicas": replicas})
    written = [write for write in writes_of(operator, 30) if write.verb != "status"]
    assert written == [NOTED, Write("apply", "Deployment", f"{NAME}-{stable_of(world)}")]
    assert_healthy(world, 1, replicas)
    assert world.deployment()["status"]["ready"] == f"{replicas}/{replicas}"
    assert_at_rest(operator)


def test_scaled_to_zero_and_back() -> None:
    world, operator = serving()
    world.edit({"replicas": 0})
    run(operator, 30)
    assert world.ready_by_version() == {}
    assert world.conditions()["Ready"] == ("False", "ScaledToZero")
    assert_at_rest(operator)
    world.edit({"replicas": 2})
    run(operator, 30)
    assert_healthy(world, 1)


# ---- a new revision


def test_a_new_version_rolls_out_and_no_ready_pod_goes_too_early() -> None:
    world, operator = serving({"replicas": 4})
    world.edit({"model": {"version": 2}})
    run(operator, 60)
    assert world.least_ready == 4
    assert_healthy(world, 2, 4)
    assert len(world.named("Deployment")) == 1
    assert len(world.named("ConfigMap")) == 1
    assert len(world.named("ControllerRevision")) == 2  # the history
    assert_at_rest(operator)


def test_old_and_new_pods_serve_side_by_side_on_the_way() -> None:
    world, operator = serving({"replicas": 3})
    world.edit({"model": {"version": 2}})
    seen = []
    for _ in range(40):
        run(operator, 1)
        seen.append(world.ready_by_version())
    assert {1: 3, 2: 1} in seen
    assert {1: 1, 2: 2} in seen or {1: 2, 2: 2} in seen
    assert seen[-1] == {2: 3}


def test_the_spec_set_back_in_mid_rollout_is_a_rollback_at_once() -> None:
    world, operator = serving({"replicas": 3})
    first = stable_of(world)
    arrive(operator, pods=2)
    world.edit({"model": {"version": 1}})
    run(operator, 60)
    assert world.least_ready >= 3
    assert stable_of(world) == first
    assert_healthy(world, 1, 3)
    assert_at_rest(operator)


@pytest.mark.parametrize(("happens", "version"), [("a third revision", 3), ("its ControllerRevision is lost", 2)])
def test_stable_serves_on_whatever_comes_in_mid_rollout(happens: str, version: int) -> None:
    world, operator = serving({"replicas": 3})
    first = stable_of(world)
    arrive(operator, pods=1)
    if happens == "a third revision":
        world.edit({"model": {"version": 3}})
    else:
        world.lose("ControllerRevision", f"{NAME}-{first}")
    run(operator, 90)
    assert world.least_ready >= 3
    assert_healthy(world, version, 3)
    assert len(world.named("Deployment")) == 1
    assert_at_rest(operator)


def test_back_to_an_older_revision_uses_the_one_that_was_kept() -> None:
    world, operator = serving()
    first = stable_of(world)
    world.edit({"model": {"version": 2}})
    run(operator, 60)
    kept = world.objects["ControllerRevision", f"{NAME}-{first}"]["metadata"]["uid"]
    world.edit({"model": {"version": 1}})
    run(operator, 60)
    assert_healthy(world, 1)
    assert world.objects["ControllerRevision", f"{NAME}-{first}"]["metadata"]["uid"] == kept


def test_the_history_is_cut_to_its_limit() -> None:
    world, operator = serving({"rollout": {"revisionHistoryLimit": 2}})
    for args in (["--a"], ["--b"], ["--c"], ["--d"]):
        world.edit({"runtime": {"args": args}})
        run(operator, 40)
    assert_healthy(world, 1)
    kept = [world.objects["ControllerRevision", name] for name in world.named("ControllerRevision")]
    assert sorted(revision["revision"] for revision in kept) == [3, 4, 5]
    assert_at_rest(operator)


@pytest.mark.parametrize("unseen_seconds", [0, 60])
def test_what_is_kept_of_a_rollout_is_the_same_however_often_the_operator_looked(unseen_seconds: int) -> None:
    world, operator = serving()
    before = stable_of(world)
    world.edit({"model": {"version": 2}})
    run(operator, 1)
    for _ in range(unseen_seconds):
        world.play()
    run(operator, 60)
    assert_healthy(world, 2)
    digests = {
        revision: json.loads(
            world.objects["ControllerRevision", f"{NAME}-{revision}"]["metadata"]["annotations"]["slipway.dev/digests"]
        )
        for revision in (before, stable_of(world))
    }
    assert digests == {before: {"1": f"{1:064x}"}, stable_of(world): {"1": f"{1:064x}", "2": f"{2:064x}"}}
    assert_at_rest(operator)


def test_a_long_fetch_is_no_missed_deadline() -> None:
    world, operator = serving({"rollout": {"progressDeadlineSeconds": 60}})
    world.fetching = {2}
    world.edit({"model": {"version": 2}})
    run(operator, 300)
    assert world.conditions()["Promoted"] == ("False", "InProgress")
    world.fetching = set()
    run(operator, 60)
    assert_healthy(world, 2)


# ---- a revision that fails


def arrive(operator: Operator, pods: int) -> None:
    """Version 2 is asked for, and has so many ready pods."""
    operator.world.edit({"model": {"version": 2}})
    until(operator, lambda: operator.world.ready_by_version().get(2, 0) >= pods)


def broken_rollout() -> tuple[World, Operator]:
    """Version 1 serves; version 2 was tried, was refused, and was taken back."""
    world, operator = serving({"rollout": {"progressDeadlineSeconds": 60}})
    world.broken = {2: LOAD_FAILED}
    world.edit({"model": {"version": 2}})
    run(operator, 90)
    return world, operator


NOT_THERE = {"reason": "VersionNotFound", "permanent": True, "message": "pvc://models/digits has no version 2"}


@pytest.mark.parametrize(("trouble", "lasts"), [(LOAD_FAILED, False), (NOT_THERE, True)], ids=["refused", "missing"])
def test_a_revision_is_taken_back_at_once_when_refused_else_at_its_deadline_and_it_stays_so(
    trouble: dict[str, Any], lasts: bool
) -> None:
    world, operator = serving({"rollout": {"progressDeadlineSeconds": 60}})
    first = stable_of(world)
    world.broken = {2: trouble}
    world.edit({"model": {"version": 2}})
    run(operator, 50)
    assert world.conditions()["Promoted"] == ("False", "InProgress" if lasts else "RolledBack")
    assert world.conditions()["Degraded"] == ("True", trouble["reason"] if lasts else "RolledBack")
    assert world.least_ready == 2
    run(operator, 40)
    assert world.least_ready == 2
    assert world.ready_by_version() == {1: 2}
    assert stable_of(world) == first
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert world.conditions()["Degraded"] == ("True", "RolledBack")
    assert trouble["message"] in world.message("Promoted")
    assert ("progressDeadlineSeconds" in world.message("Promoted")) == lasts
    assert world.named("Deployment") == [f"{NAME}-{first}"]
    assert writes_of(operator, HOUR) == []


def test_a_rejected_revision_is_not_tried_again_by_scaling_or_restarting() -> None:
    world, operator = broken_rollout()
    world.broken = {}
    world.edit({"replicas": 3})
    run(operator, 60)
    run(Operator(world), 60)
    assert world.ready_by_version() == {1: 3}
    assert world.conditions()["Promoted"] == ("False", "RolledBack")


@pytest.mark.parametrize(
    "edits",
    [
        pytest.param([({"model": {"version": 3}}, 3)], id="another revision"),
        pytest.param([({"model": {"sha256": {"2": "a" * 64}}}, 2)], id="a corrected pin tries it again"),
        pytest.param([({"model": {"version": 1}}, 1), ({"model": {"version": 2}}, 2)], id="set back clears it"),
    ],
)
def test_after_a_rejection_the_spec_says_what_is_tried(edits: list[tuple[dict[str, Any], int]]) -> None:
    world, operator = broken_rollout()
    for edit, version in edits:
        if version == 2:
            world.broken = {}
        world.edit(edit)
        run(operator, 60)
        assert_healthy(world, version)
    assert_at_rest(operator)


def test_a_first_revision_that_fails_says_why_and_recovers() -> None:
    world, operator = begin({"rollout": {"progressDeadlineSeconds": 60}}, World(broken={1: LOAD_FAILED}), 120)
    assert_cannot_serve(world, operator, "LoadFailed")
    world.edit({"model": {"version": 2}})
    run(operator, 60)
    assert_healthy(world, 2, 1)


def test_pods_that_find_no_node_are_reported_and_waited_for() -> None:
    world, operator = serving({"rollout": {"progressDeadlineSeconds": 60}})
    world.unschedulable = {2}
    world.edit({"model": {"version": 2}, "resources": {"limits": {"nvidia.com/gpu": 1}}})
    run(operator, 30)
    assert world.conditions()["Degraded"] == ("True", "Unschedulable")
    assert "nvidia.com/gpu is missing on 1 of 1 nodes" in world.message("Degraded")
    run(operator, 120)
    assert world.least_ready == 2
    assert world.conditions()["Promoted"] == ("False", "InProgress")
    assert world.conditions()["Reconciling"] == ("True", "WaitingForCapacity")
    world.unschedulable = set()
    run(operator, 60)
    assert world.conditions()["Promoted"] == ("True", "Promoted")
    assert_at_rest(operator)


def test_after_its_time_for_room_the_old_revision_has_everything_and_the_new_one_is_tried_again() -> None:
    world, operator = serving({"rollout": {"capacityDeadlineSeconds": 60}})
    world.unschedulable = {2}
    world.edit({"model": {"version": 2}, "resources": {"limits": {"nvidia.com/gpu": 1}}})
    run(operator, 100)
    assert world.ready_by_version() == {1: 2}
    assert len(world.pods()) == 2
    assert world.deployment()["status"].get("rejected", []) == []
    assert world.conditions()["Reconciling"] == ("True", "WaitingForCapacity")
    assert "spec.rollout.capacityDeadlineSeconds" in world.message("Promoted")
    world.unschedulable = set()
    run(operator, 330)
    assert world.conditions()["Promoted"] == ("True", "Promoted")
    assert world.ready_by_version() == {2: 2}


@pytest.mark.parametrize(
    ("status", "ready", "words"),
    [
        pytest.param(pods.pulling("2026-03-01T12:00:00Z"), "Deploying", "pulling image", id="its image"),
        pytest.param(pods.gated(), "SchedulingGated", "a queue", id="a queue"),
    ],
)
def test_a_first_revision_that_waits_for_room_says_so_and_needs_no_person_however_long(
    status: dict[str, Any], ready: str, words: str
) -> None:
    world, operator = begin({"rollout": {"progressDeadlineSeconds": 60}}, World(held={1: status}), 120)
    assert world.conditions()["Ready"] == ("False", ready)
    assert world.conditions()["Reconciling"] == ("True", "WaitingForCapacity")
    assert world.conditions()["Degraded"] == ("False", "AsExpected")
    assert words in world.message("Reconciling")
    assert words in world.message("Ready")
    assert_at_rest(operator)
    world.held = {}
    run(operator, 60)
    assert_healthy(world, 1, 1)


def test_a_first_revision_that_never_loads_is_degraded_once_its_deadline_is_past() -> None:
    world, operator = begin({"rollout": {"progressDeadlineSeconds": 60}}, World(slow={1}), 50)
    assert world.conditions()["Degraded"] == ("False", "AsExpected")
    run(operator, 30)
    assert world.conditions()["Degraded"] == ("True", "ProgressDeadlineExceeded")
    assert "version 1 is Loading" in world.message("Degraded")
    world.slow = set()
    run(operator, 60)
    assert_healthy(world, 1, 1)


def test_a_quota_that_is_too_small_is_reported() -> None:
    world, operator = begin({"replicas": 3}, World(quota=2), 60)
    assert_cannot_serve(world, operator, "QuotaExceeded")
    world.quota = None
    run(operator, 60)
    assert_healthy(world, 1, 3)


def test_when_stable_serves_nothing_the_new_revision_goes_straight() -> None:
    world, operator = serving({"rollout": {"progressDeadlineSeconds": 60}})
    world.at_source = {2, 3}
    for pod in world.pods():
        world.lose("Pod", pod["metadata"]["name"])
    run(operator, 10)
    assert world.ready_by_version() == {}
    world.edit({"model": {"version": 2}})
    run(operator, 30)
    assert_healthy(world, 2)
    assert_at_rest(operator)


# ---- bad specs


def test_an_invalid_spec_keeps_what_serves_and_the_next_edit_is_picked_up() -> None:
    world, operator = serving()
    world.edit({"model": {"uri": "ftp://models/digits"}})
    written = writes_of(operator, 30)
    assert written == [Write("status", "ModelDeployment", NAME)]
    assert world.ready_by_version() == {1: 2}
    conditions = world.conditions()
    assert conditions["Ready"] == ("True", "MinimumReplicasReady")
    assert conditions["Promoted"] == ("False", "InvalidSpec")
    assert conditions["Degraded"] == ("True", "InvalidSpec")
    assert "ftp://models/digits" in world.message("Degraded")
    assert_at_rest(operator)
    world.edit({"model": {"uri": "pvc://models/digits", "version": 2}})
    run(operator, 60)
    assert_healthy(world, 2)


def test_what_the_server_cannot_do_is_refused_by_name_and_what_serves_goes_on() -> None:
    world, operator = serving({"runtime": {"name": "TensorFlowServing"}})
    world.edit({"runtime": {"instances": 2}})
    run(operator, 20)
    assert world.ready_by_version() == {1: 2}
    assert world.conditions()["Promoted"] == ("False", "NotSupportedByRuntime")
    assert "spec.runtime.instances" in world.message("Promoted")
    assert_at_rest(operator)
    world.edit({"runtime": {"instances": None}})
    run(operator, 20)
    assert_healthy(world, 1)


@pytest.mark.parametrize("name", ["Triton", "TensorFlowServing", "TorchServe", "ONNXRuntime", "Custom"])
def test_from_any_server_to_any_other_by_one_word(name: str) -> None:
    """Custom needs its image too: that is another word."""
    image = {"image": "registry.example/own:1"} if name == "Custom" else {}
    world, operator = serving()
    world.edit({"runtime": {"name": name, **image}})
    for _ in range(60):
        run(operator, 1)
        assert sum(world.ready_by_version().values()) >= 2
    assert_healthy(world, 1)
    world.edit({"runtime": {"name": "ONNXRuntime", "image": None}})
    run(operator, 60)
    assert_healthy(world, 1)
    assert_at_rest(operator)


def test_a_spec_that_was_never_valid_has_no_children_and_recovers() -> None:
    world, operator = begin({"model": {"uri": "gs://models/digits"}}, seconds=10)
    assert world.writes == [Write("status", "ModelDeployment", NAME)]
    assert_cannot_serve(world, operator, "InvalidSpec")
    world.edit({"model": {"uri": "pvc://models/digits"}})
    run(operator, 30)
    assert_healthy(world, 1, 1)


# ---- others' objects, drift, losses


def test_a_service_of_that_name_that_is_not_ours_is_left_alone() -> None:
    world = World()
    world.put_foreign("Service", NAME, spec={"selector": {"app": "theirs"}})
    before = dict(world.objects["Service", NAME])
    _, operator = begin({}, world)
    assert world.objects["Service", NAME] == before
    assert f"Service {NAME}" in world.message("Degraded")
    assert_cannot_serve(world, operator, "NameConflict")
    world.lose("Service", NAME)
    run(operator, 90)
    assert_healthy(world, 1, 1)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Service", {"spec": {"selector": {"slipway.dev/model": "another"}}}),
        ("ConfigMap", {"data": {"agent.json": "{}"}}),
        ("Deployment", {"spec": {"replicas": 7}}),
        ("Deployment", {"spec": {"template": {"spec": {"serviceAccountName": "x", "enableServiceLinks": True}}}}),
        ("Service", {"metadata": {"labels": {"app.kubernetes.io/managed-by": "helm"}}}),
    ],
)
def test_drift_is_repaired(kind: str, changes: dict[str, Any]) -> None:
    world, operator = serving()
    name = NAME if kind == "Service" else f"{NAME}-{stable_of(world)}"
    before = world.state()
    world.tamper(kind, name, changes)
    run(operator, 30)
    after = world.state()
    if "serviceAccountName" in str(changes):  # what we don't render stays theirs
        del after[f"Deployment/{name}"]["spec"]["template"]["spec"]["serviceAccountName"]
    assert after == before
    assert_at_rest(operator)


def test_what_others_add_beside_our_fields_stays() -> None:
    world, operator = serving()
    name = f"{NAME}-{stable_of(world)}"
    world.tamper("Deployment", name, {"metadata": {"annotations": {"theirs": "1"}, "labels": {"team": "b"}}})
    world.tamper("Service", NAME, {"spec": {"sessionAffinity": "ClientIP"}})
    assert_at_rest(operator)
    assert world.objects["Deployment", name]["metadata"]["annotations"] == {"theirs": "1"}
    assert world.objects["Service", NAME]["spec"]["sessionAffinity"] == "ClientIP"


@pytest.mark.parametrize("kind", ["Service", "ConfigMap", "Deployment", "ControllerRevision"])
def test_a_child_that_was_deleted_comes_back(kind: str) -> None:
    world, operator = serving()
    name = NAME if kind == "Service" else f"{NAME}-{stable_of(world)}"
    before = world.state()
    world.lose(kind, name)
    run(operator, 30)
    assert world.state() == before
    assert_healthy(world, 1)
    assert_at_rest(operator)


@pytest.mark.parametrize("is_ours", [True, False])
def test_an_object_under_our_label_that_nothing_asks_for_is_pruned_when_we_own_it(*, is_ours: bool) -> None:
    world, operator = serving()
    owners = [{"uid": world.deployment()["metadata"]["uid"], "controller": True}] if is_ours else []
    world.put_foreign("ConfigMap", "notes", data={})
    world.tamper("ConfigMap", "notes", {"metadata": {"labels": {"slipway.dev/model": NAME}, "ownerReferences": owners}})
    run(operator, 10)
    assert world.named("ConfigMap") == [f"{NAME}-{stable_of(world)}", *([] if is_ours else ["notes"])]
    assert_at_rest(operator)


@pytest.mark.parametrize("ready_of_new", [0, 1, 3])
def test_with_status_lost_what_serves_is_found_again(ready_of_new: int) -> None:
    world, operator = serving({"replicas": 3})
    if ready_of_new < 3:
        arrive(operator, pods=ready_of_new)
    world.lose_status()
    operator = Operator(world)
    run(operator, 90)
    assert world.least_ready >= 3
    assert_healthy(world, 1 if ready_of_new == 3 else 2, 3)
    assert_at_rest(operator)


def test_a_deleted_one_leaves_nothing_and_is_written_no_more() -> None:
    world, operator = serving()
    world.lose("ModelDeployment", NAME)
    assert writes_of(operator, 30) == []
    assert world.objects == {}


def test_made_anew_under_its_name_it_waits_for_what_is_left_of_the_one_before() -> None:
    world, operator = serving()
    before = world.deployment()["metadata"]["uid"]
    world.delete_slowly(NAME)
    run(operator, 3)
    before_edit = len(world.events)
    world.edit({"replicas": 2})
    assert world.deployment()["metadata"]["uid"] != before
    run(operator, 1)
    assert "NameConflict" not in str(world.deployment().get("status"))
    world.holds_garbage = False
    run(operator, 60)
    assert_healthy(world, 1)
    assert "NameConflict" not in [event["reason"] for event in world.events[before_edit:]]
    assert_at_rest(operator)


def test_deleted_while_no_watch_looked_it_is_made_no_more() -> None:
    """kopf lists anew after a gap, and tells of no deletion that was in it."""
    world, operator = serving()
    operator.misses = {"ModelDeployment"}
    world.lose("ModelDeployment", NAME)
    run(operator, 60)
    assert world.objects == {}
    assert_at_rest(operator)


# ---- policy, pins: hot, by the agents


def test_a_policy_change_reaches_the_agents_with_no_pod_restarted() -> None:
    world, operator = serving({"model": {"version": 3}})
    pods = [pod["metadata"]["uid"] for pod in world.pods()]
    revision = stable_of(world)
    world.edit({"versionPolicy": {"latest": {"count": 2}}})
    written = writes_of(operator, 20)
    assert world.agent_config(revision)["load"] == [2, 3]
    assert [pod["metadata"]["uid"] for pod in world.pods()] == pods
    assert {(write.verb, write.kind) for write in written} == {
        ("apply", "Service"),
        ("apply", "ConfigMap"),
        ("apply", "ControllerRevision"),
        ("annotate", "Pod"),
        ("status", "ModelDeployment"),
    }
    assert_healthy(world, 3)
    assert [entry["version"] for entry in world.deployment()["status"]["versions"]] == [2, 3]
    assert_at_rest(operator)


@pytest.mark.parametrize(
    ("policy", "load"),
    [({"specific": {"versions": [1, 3]}}, [1, 3]), ({"all": {}}, [1, 2, 3]), ({"latest": {"count": 1}}, [3])],
)
def test_each_policy_is_applied_hot_and_taken_back(policy: dict[str, Any], load: list[int]) -> None:
    world, operator = serving({"model": {"version": 3}})
    world.edit({"versionPolicy": policy})
    run(operator, 20)
    assert world.agent_config(stable_of(world))["load"] == load
    assert_healthy(world, 3)
    assert_at_rest(operator)
    world.edit({"versionPolicy": None})
    run(operator, 20)
    assert world.agent_config(stable_of(world))["load"] == [3]
    assert_healthy(world, 3)
    assert_at_rest(operator)


def test_an_extra_version_that_fails_makes_no_pod_unready() -> None:
    world, operator = serving({"model": {"version": 3}})
    world.broken = {2: LOAD_FAILED}
    world.edit({"versionPolicy": {"latest": {"count": 2}}})
    run(operator, 60)
    assert world.ready_by_version() == {3: 2}
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")
    assert world.conditions()["VersionsReady"] == ("False", "LoadFailed")
    assert world.conditions()["Degraded"] == ("True", "LoadFailed")
    assert_at_rest(operator)


def test_a_shorter_listing_changes_nothing() -> None:
    world, operator = serving({"model": {"version": 3}, "versionPolicy": {"all": {}}})
    world.at_source = {3}
    world.edit({"replicas": 3})
    run(operator, 30)
    assert world.agent_config(stable_of(world))["load"] == [1, 2, 3]


def test_a_listing_of_one_place_is_not_used_for_another() -> None:
    world, operator = serving({"model": {"version": 3}, "versionPolicy": {"latest": {"count": 2}}})
    world.at_source = {1, 3}
    world.edit({"model": {"uri": "pvc://models/others"}})
    run(operator, 60)
    assert world.agent_config(stable_of(world))["load"] == [1, 3]
    assert_healthy(world, 3)
    assert_at_rest(operator)


@pytest.mark.parametrize(("count", "first"), [(100, 1), (300, 45)])
def test_policy_all_loads_up_to_the_newest_256(count: int, first: int) -> None:
    world, _ = serving(
        {"model": {"version": count}, "versionPolicy": {"all": {}}}, at_source=tuple(range(1, count + 1))
    )
    assert world.agent_config(stable_of(world))["load"] == list(range(first, count + 1))
    assert [entry["version"] for entry in world.deployment()["status"]["versions"]] == list(range(first, count + 1))


# ---- what the API server refuses


def test_a_refused_child_is_reported_and_what_serves_goes_on() -> None:
    world, operator = serving({"rollout": {"progressDeadlineSeconds": 60}})
    first = stable_of(world)

    def refuse(name: str) -> Exception | None:
        return None if first in name else ClusterError(f"create Deployment {name}", 422, "spec.template: Invalid value")

    world.refuse["create", "Deployment"] = refuse
    world.edit({"runtime": {"args": ["--bad"]}})
    run(operator, 30)
    assert world.ready_by_version() == {1: 2}
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")
    assert world.conditions()["Degraded"] == ("True", "Refused")
    assert "spec.template: Invalid value" in world.message("Degraded")
    run(operator, 180)
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert "spec.template: Invalid value" in world.message("Promoted")
    assert_at_rest(operator)
    world.refuse.clear()
    world.edit({"runtime": {"args": ["--good"]}})
    run(operator, 60)
    assert_healthy(world, 1)


def test_a_quota_on_objects_is_reported_by_its_name() -> None:
    error = ClusterError("create Deployment", 403, "forbidden: exceeded quota: objects, limited: deployments=0")
    world, operator = begin({}, World(refuse={("create", "Deployment"): lambda _: error}))
    assert world.conditions()["Ready"] == ("False", "QuotaExceeded")
    world.refuse.clear()
    run(operator, 120)
    assert_healthy(world, 1, 1)


def test_a_namespace_that_goes_is_left_alone() -> None:
    tried: list[str] = []

    def refuse(name: str) -> Exception | None:
        tried.append(name)
        return ClusterError(f"create Service {name}", 403, "unable to create: namespace team is being terminated")

    world, _ = begin({}, World(refuse={("create", "Service"): refuse}), 600)
    assert len(tried) == 1
    assert world.writes == []


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        ("create", "Service"),
        ("create", "ConfigMap"),
        ("create", "Deployment"),
        ("create", "ControllerRevision"),
        ("status", "ModelDeployment"),
    ],
)
@pytest.mark.parametrize("failures", [1, 4])
def test_a_transient_failure_is_tried_again(verb: str, kind: str, failures: int) -> None:
    left = [TransientError(f"{verb} {kind}", 503, "overloaded") for _ in range(failures)]
    world, operator = begin({}, World(refuse={(verb, kind): lambda _: left.pop() if left else None}), 60)
    assert left == []
    assert_healthy(world, 1, 1)
    assert_at_rest(operator)


# ---- watches that are late


@pytest.mark.parametrize("lag_seconds", [1, 4, 15])
def test_late_watches_cost_time_and_no_capacity(lag_seconds: int) -> None:
    world, _ = serving({"replicas": 3})
    operator = Operator(world, lag_seconds=lag_seconds)
    world.edit({"model": {"version": 2}})
    run(operator, 60 + 20 * lag_seconds)
    assert world.least_ready == 3
    assert_healthy(world, 2, 3)
    assert_at_rest(operator)


def test_an_edit_that_comes_with_the_answer_to_a_status_is_acted_on() -> None:
    world, _ = serving()
    operator = Operator(world, lag_seconds=5)
    world.edit({"model": {"uri": "ftp://models"}})
    run(operator, 4)
    world.edit({"model": {"uri": "pvc://models/digits"}})  # not seen yet when the status of the edit before is written
    run(operator, 40)
    assert_healthy(world, 1)


# ---- upgrades of the operator


def test_an_operator_with_other_default_images_restarts_no_pod() -> None:
    world, _ = serving()
    newer = Images("slipway.dev/agent:new", {"Triton": "slipway.dev/triton:new"}, "slipway.dev/router:new", "Always")
    upgraded = Operator(world, newer)
    # That a refresh would change something is told once, in status alone.
    assert writes_of(upgraded, 30) == [Write("status", "ModelDeployment", NAME)]
    assert_at_rest(upgraded)
    world.edit({"replicas": 3})
    run(upgraded, 30)
    assert {image for pod in world.pods() for image in pod["images"]} == {IMAGES.agent, IMAGES.servers["Triton"]}
    world.edit({"model": {"version": 2}})
    run(upgraded, 60)
    assert_healthy(world, 2, 3)
    assert {image for pod in world.pods() for image in pod["images"]} == {newer.agent, "slipway.dev/triton:new"}


def test_defaults_that_a_newer_crd_fills_in_start_nothing() -> None:
    world, operator = serving({"batching": {"maxBatchSize": 8}, "rollout": {}})
    revision = stable_of(world)
    world.edit(
        {
            "batching": {"maxBatchSize": 8, "maxDelayMicroseconds": 0},
            "rollout": {"progressDeadlineSeconds": 600, "revisionHistoryLimit": 5, "surge": "Pods"},
        }
    )
    # Beside its observedGeneration.
    assert [write for write in writes_of(operator, 30) if write.verb != "status"] == [NOTED]
    assert stable_of(world) == revision
    assert_healthy(world, 1)


# ---- events and metrics


def test_the_metric_counts_those_that_are_not_ready() -> None:
    def not_ready() -> float | None:
        return REGISTRY.get_sample_value("slipway_modeldeployments_not_ready")

    world = World()
    world.edit({})
    operator = Operator(world)
    run(operator, 1)
    assert not_ready() == 1
    run(operator, 10)
    assert not_ready() == 0
    world.edit({"replicas": 0})
    run(operator, 10)
    assert not_ready() == 1
    world.lose("ModelDeployment", NAME)
    run(operator, 1)
    assert not_ready() == 0


def test_events_tell_changes_once() -> None:
    world, operator = broken_rollout()
    reasons = [event["reason"] for event in world.events]
    assert "MinimumReplicasReady" in reasons
    assert "RolledBack" in reasons
    count = len(reasons)
    run(operator, HOUR // 4)
    assert len(world.events) == count


# ---- an operator that ends at any write

Edit = Callable[[World], None]


def serve(version: int | None, **conditions: Any) -> Edit:
    """A version is asked for in a world where it has its troubles."""

    def edit(world: World) -> None:
        for name, value in conditions.items():
            setattr(world, name, value)
        world.edit({"model": {"version": version}})

    return edit


EDITS: dict[str, Edit] = {
    "create": lambda world: world.edit({"replicas": 2}),
    "new version": lambda world: world.edit({"rollout": {"strategy": "RollingUpdate"}, "model": {"version": 2}}),
    "broken version": lambda world: world.edit({"rollout": {"strategy": "RollingUpdate"}, "model": {"version": 9}}),
    "new version in place": serve(2),
    "missing version in place": serve(9),
    "broken version in place": serve(2, broken={2: LOAD_FAILED}),
    "version without room": serve(2, heavy={2}),
    "found version": serve(None),
    "scale": lambda world: world.edit({"replicas": 3}),
    "policy": lambda world: world.edit({"versionPolicy": {"all": {}}}),
    "several": lambda world: world.edit({"replicas": 1, "model": {"version": 3}, "batching": {"maxBatchSize": 4}}),
}


@pytest.mark.parametrize("name", list(EDITS))
@pytest.mark.parametrize("after", [True, False])
def test_ended_at_any_write_the_next_operator_comes_to_the_same_end(name: str, *, after: bool) -> None:
    expected, writes = _live(EDITS[name], name, None)
    assert writes > 0
    for number in range(1, writes + 1):
        reached, _ = _live(EDITS[name], name, (number, after))
        assert reached == expected, f"ended at write {number}"


def _live(edit: Edit, name: str, end_at: tuple[int, bool] | None) -> tuple[dict[str, Any], int]:
    world = World() if name == "create" else copy.deepcopy(_serving())
    operator = Operator(world)
    before = world.requests
    world.end_at = (before + end_at[0], end_at[1]) if end_at else None
    edit(world)
    live_on(operator, 60)
    return world.state(), world.requests - before


@cache
def _serving() -> World:
    return begin({"replicas": 2, "rollout": {"progressDeadlineSeconds": 20, "bakeSeconds": 10}}, seconds=15)[0]
