"""The cache: what is newer wins, whatever comes when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.controller.cache import REMEMBERED_DELETIONS, Cache, trim
from slipway.observe.snapshot import is_left_behind, observe
from tests.unit.specs import NAME, NAMESPACE, UID, Json, body, merged

KEY = (NAMESPACE, NAME)


def child(version: int, *, name: str = "a", of: str | None = NAME, kind: str = "ConfigMap", **parts: Any) -> Json:
    labels = {"slipway.dev/model": of} if of else {}
    meta = {"name": name, "namespace": NAMESPACE, "uid": "u", "resourceVersion": str(version), "labels": labels}
    return merged({"kind": kind, "metadata": meta, "data": {"version": str(version)}}, parts)


def held(cache: Cache) -> list[str]:
    return [found["data"]["version"] for found in cache.children(KEY)]


def test_news_are_told_and_repetitions_are_not() -> None:
    cache = Cache()
    assert cache.put("ConfigMap", child(1)) == KEY
    assert cache.put("ConfigMap", child(1)) is None
    assert cache.put("ConfigMap", child(2)) == KEY


def test_a_change_of_what_no_pass_reads_is_no_news() -> None:
    cache = Cache()
    cache.put("ConfigMap", child(1, data={"version": "x"}))
    later = child(2, data={"version": "x"}, metadata={"managedFields": [{"manager": "someone"}]})
    assert cache.put("ConfigMap", later) is None


@pytest.mark.parametrize("kind", ["ConfigMap", "Deployment", "Service"])
def test_of_what_is_left_behind_it_is_known_that_we_applied_it(kind: str) -> None:
    fields = {"managedFields": [{"manager": "slipway", "operation": "Apply", "fieldsV1": {"f:data": {}}}]}
    left = child(1, kind=kind, metadata=fields, spec={})
    assert is_left_behind(trim(kind, left))
    owned = merged(left, {"metadata": {"ownerReferences": [{"uid": UID, "controller": True}]}})
    assert "managedFields" not in trim(kind, owned)["metadata"]


def test_an_older_object_never_replaces_a_newer_one() -> None:
    cache = Cache()
    cache.put("ConfigMap", child(5))
    assert cache.put("ConfigMap", child(4)) is None
    assert held(cache) == ["5"]


def test_an_older_deletion_deletes_nothing() -> None:
    cache = Cache()
    cache.put("ConfigMap", child(5))
    cache.drop("ConfigMap", child(4))
    assert held(cache) == ["5"]


def test_a_late_answer_brings_nothing_back() -> None:
    cache = Cache()
    cache.put("ConfigMap", child(5))
    assert cache.drop("ConfigMap", child(7)) == KEY
    assert cache.put("ConfigMap", child(6)) is None
    assert held(cache) == []


def test_made_anew_it_is_there_again() -> None:
    cache = Cache()
    cache.put("ConfigMap", child(5))
    cache.drop("ConfigMap", child(7))
    assert cache.put("ConfigMap", child(8)) == KEY
    assert held(cache) == ["8"]


def test_deletions_are_forgotten_in_time() -> None:
    cache = Cache()
    for number in range(2 * REMEMBERED_DELETIONS):
        cache.drop("ConfigMap", child(number, name=f"n{number}"))
    assert len(cache._deleted) == REMEMBERED_DELETIONS


@given(st.permutations(range(1, 7)), st.sets(st.integers(1, 6)))
def test_in_any_order_the_newest_stands(order: list[int], deletions: set[int]) -> None:
    cache = Cache()
    for version in order:
        (cache.drop if version in deletions else cache.put)("ConfigMap", child(version))
    assert held(cache) == ([] if 6 in deletions else ["6"])


def test_what_has_no_label_of_ours_is_nobodys() -> None:
    cache = Cache()
    assert cache.put("ConfigMap", child(1, of=None)) is None
    assert cache.drop("ConfigMap", child(1, of=None)) is None
    assert cache.children(KEY) == []


def test_a_deployment_and_its_children_are_apart() -> None:
    cache = Cache()
    cache.put("ModelDeployment", merged(body(generation=3), {"metadata": {"resourceVersion": "9"}}))
    cache.put("ConfigMap", child(1))
    cache.put("ConfigMap", child(2, of="another"))
    known = cache.deployment(KEY)
    assert known is not None
    assert known["metadata"]["uid"] == UID
    assert known["spec"] == body()["spec"]
    assert len(cache.children(KEY)) == 1
    assert list(cache.deployments()) == [KEY]
    assert cache.generation(KEY) == 3
    assert cache.generation((NAMESPACE, "another")) is None


def test_children_without_their_deployment_are_no_deployment() -> None:
    cache = Cache()
    cache.put("ConfigMap", child(1))
    assert list(cache.deployments()) == []
    assert cache.deployment(KEY) is None


def test_nothing_is_left_of_what_is_gone() -> None:
    cache = Cache()
    cache.put("ConfigMap", child(1))
    cache.drop("ConfigMap", child(2))
    assert cache._objects == {}


NOISE = {"startedAt": "2026-03-01T12:00:00Z", "containerID": "x"}
POD: Json = {
    "metadata": {
        "name": "p",
        "namespace": NAMESPACE,
        "uid": "up",
        "labels": {"slipway.dev/model": NAME, "slipway.dev/revision": "aaa"},
        "annotations": {"slipway.dev/agent-config": "g.1", "other": "x"},
        "resourceVersion": "1",
    },
    "spec": {
        "nodeName": "n1",
        "containers": [{"name": "server", "image": "x", "resources": {"limits": {"memory": "1Gi", "cpu": "1"}}}],
        "volumes": [{"name": "model"}],
    },
    "status": {
        "phase": "Running",
        "podIP": "198.18.0.1",
        "conditions": [
            {"type": "Ready", "status": "True", "lastProbeTime": None},
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-03-01T12:00:00Z"},
            {"type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": "2026-03-01T12:00:01Z"},
            {"type": "Initialized", "status": "True", "lastTransitionTime": "2026-03-01T12:00:02Z"},
        ],
        "initContainerStatuses": [{"name": "agent", "state": {"running": {}}, "restartCount": 0, **NOISE}],
        "containerStatuses": [
            {"name": "server", "state": {"waiting": {"reason": "ErrImagePull"}}, "lastState": {}, "image": "x", **NOISE}
        ],
    },
}
KILLED: Json = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
SERVERS = [
    pytest.param({"waiting": {"reason": "ErrImagePull"}}, {}, id="its image can't be pulled"),
    pytest.param({"waiting": {"reason": "PodInitializing"}}, {}, id="its image is being pulled"),
    pytest.param({"running": {}}, KILLED, id="it had not enough memory"),
]


@pytest.mark.parametrize("ready", ["True", "False"])
@pytest.mark.parametrize(("state", "last"), SERVERS)
def test_of_a_pod_all_is_kept_that_a_pass_reads(ready: str, state: Json, last: Json) -> None:
    pod = merged(POD, {})
    pod["status"]["conditions"][0]["status"] = ready
    pod["status"]["containerStatuses"][0] |= {"state": state, "lastState": last}
    now = datetime(2026, 3, 1, 13, tzinfo=UTC)
    whole = observe(UID, [{"kind": "Pod", **pod}], {}, now)
    kept = observe(UID, [trim("Pod", pod)], {}, now)
    assert kept == whole
    assert (kept.pods[0].node, kept.pods[0].trouble is not None) == ("n1", True)
    server = {"name": "server", "resources": {"limits": {"memory": "1Gi"}}}
    assert trim("Pod", pod)["spec"] == {"nodeName": "n1", "containers": [server]}
    assert trim("Pod", pod)["metadata"]["annotations"] == {"slipway.dev/agent-config": "g.1"}


def test_of_a_deployment_the_failure_to_make_pods_is_kept() -> None:
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "message": "exceeded quota: x",
        "lastTransitionTime": "2026-03-01T12:00:00Z",
    }
    progress = {"type": "Progressing", "status": "True", "message": "ReplicaSet is progressing"}
    meta = {
        "name": "d",
        "namespace": NAMESPACE,
        "uid": "ud",
        "labels": {"slipway.dev/model": NAME, "slipway.dev/revision": "aaa"},
        "ownerReferences": [{"uid": UID, "controller": True}],
    }
    deployment = {"metadata": meta, "spec": {"replicas": 2}, "status": {"conditions": [failure, progress]}}
    kept = observe(UID, [trim("Deployment", deployment)], {})
    assert kept.troubles["aaa"].reason == "QuotaExceeded"
    assert "since 12:00 UTC" in kept.troubles["aaa"].message
    assert kept.workloads["aaa"].replicas == 2
    deployment["status"] = {"conditions": [progress]}
    assert trim("Deployment", deployment)["status"] == {"conditions": []}
