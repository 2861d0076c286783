"""The world is read as it is: pods' troubles in a person's words, what can't be read as absent."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.model.workload import Trouble, Turn
from slipway.observe.agent_reports import AgentReport, ProbeReport, read_report
from slipway.observe.pods import read_pod
from slipway.observe.router_reports import RouterReport
from slipway.observe.snapshot import AgentOrders, Questions, is_left_behind, observe
from tests.simulation import pods
from tests.simulation.pods import container, unscheduled
from tests.unit.specs import NAME, NAMESPACE, UID, Json, merged

OWNER = [{"uid": UID, "controller": True, "kind": "ModelDeployment"}]
SCHEDULED = pods.condition("PodScheduled", at="2026-03-01T12:00:00Z")


def pod(status: Json, *, name: str = "p", **meta: Any) -> Json:
    return pods.pod(name, pods.labels_of(NAME, "aaa"), status, NAMESPACE, **meta)


def trouble_of(status: Json, report: AgentReport | None = None) -> Trouble | None:
    return read_pod(pod(status), {"uid-p": report} if report else {}).trouble


# ---- kube-scheduler's words, 1.30 to 1.36


@pytest.mark.parametrize(
    ("message", "words"),
    [
        pytest.param(
            "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available: 1 No "
            "preemption victims found for incoming pod.",
            ["nvidia.com/gpu is missing on 1 of 1 nodes."],
            id="gpu",
        ),
        pytest.param(
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are "
            "available: 1 Preemption is not helpful for scheduling.",
            ["cpu is missing on 1 of 1 nodes; nvidia.com/gpu is missing on 1 of 1 nodes."],
            id="two resources, the same count",
        ),
        pytest.param(
            "0/14 nodes are available: 1 Insufficient memory, 11 Insufficient cpu, 2 node(s) had untolerated taint "
            "{node-role.kubernetes.io/control-plane: }. no new claims to deallocate, preemption: 0/14 nodes are "
            "available: 14 Preemption is not helpful for scheduling.",
            ["memory is missing on 1 of 14 nodes; cpu is missing on 11 of 14 nodes."],
            id="one count ends with the other, and a taint",
        ),
        pytest.param(
            "0/2 nodes are available: 2 Insufficient ephemeral-storage. still not schedulable, preemption: 0/2 nodes "
            "are available: 2 No preemption victims found for incoming pod.",
            ["ephemeral-storage is missing on 2 of 2 nodes."],
            id="what 1.36 says before preemption",
        ),
        pytest.param(
            "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are "
            "available: 3 Preemption is not helpful for scheduling.",
            ["3 node(s) didn't match Pod's node affinity/selector"],
            id="selector",
        ),
        pytest.param("", ["no reason given"], id="no words"),
        pytest.param("no nodes available to schedule pods", ["no nodes available to schedule pods"], id="no nodes"),
    ],
)
def test_a_pod_that_finds_no_node_says_what_is_missing_on_how_many(message: str, words: list[str]) -> None:
    trouble = trouble_of(unscheduled(message))
    assert trouble is not None
    assert trouble.reason == "Unschedulable"
    for word in words:
        assert word in trouble.message
    assert "preemption" not in trouble.message.lower()


def test_a_missing_claim_has_a_reason_of_its_own() -> None:
    trouble = trouble_of(
        unscheduled(
            '0/1 nodes are available: persistentvolumeclaim "models" not found. preemption: 0/1 nodes are available: '
            "1 Preemption is not helpful for scheduling."
        )
    )
    assert trouble is not None
    assert trouble.reason == "ClaimNotFound"
    assert "PersistentVolumeClaim models" in trouble.message
    assert "spec.model.uri" in trouble.message


# ---- kubelets' words


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"])
@pytest.mark.parametrize("part", ["containerStatuses", "initContainerStatuses"])
def test_an_image_that_cannot_be_pulled(reason: str, part: str) -> None:
    waiting = {"reason": reason, "message": "failed to resolve reference: not found\nmore"}
    trouble = trouble_of({"phase": "Pending", part: [container(waiting=waiting)]})
    assert trouble is not None
    assert trouble.reason == "ImagePullFailed"
    assert "'registry.invalid/x:1' of container server" in trouble.message
    assert "failed to resolve reference" in trouble.message
    assert "\n" not in trouble.message


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"])
def test_a_container_that_cannot_start(reason: str) -> None:
    waiting = {"reason": reason, "message": 'configmap "ca" not found'}
    trouble = trouble_of({"containerStatuses": [container(waiting=waiting)]})
    words = 'pod p: container server can\'t start: configmap "ca" not found. '
    assert trouble == Trouble("ContainerFailed", f"{words}Create what is missing, or correct spec.podTemplate")


TERMINATED = {"terminated": {"exitCode": 139, "reason": "Error"}}


@pytest.mark.parametrize(
    "state",
    [
        pytest.param({"waiting": {"reason": "CrashLoopBackOff"}, "restarts": 1, "last": TERMINATED}, id="backing off"),
        pytest.param({"running": {}, "restarts": 3, "last": TERMINATED}, id="running for a moment"),
        pytest.param({**TERMINATED, "restarts": 3}, id="just ended"),
    ],
)
def test_a_container_that_ends_again_and_again(state: Json) -> None:
    trouble = trouble_of({"containerStatuses": [container(**state)]})
    assert trouble is not None
    assert trouble.reason == "CrashLoop"
    assert "exit code 139 (Error)" in trouble.message
    assert "kubectl logs p -c server --previous" in trouble.message


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("loading\nFailed to start server. Error: no model\n", "(Failed to start server. Error: no model)"),
        ('Traceback:\n  File "a.py", line 1\nValueError: no model\n', "(ValueError: no model)"),
        ("java.lang.Error: no model\n\tat org.A.b\n\tat org.A.c\n", "(java.lang.Error: no model)"),
        ("  ", "(Error)"),
    ],
)
def test_a_containers_last_words_are_what_it_said_last(log: str, words: str) -> None:
    last = {"terminated": {"exitCode": 1, "reason": "Error", "message": log}}
    trouble = trouble_of(
        {"containerStatuses": [container(waiting={"reason": "CrashLoopBackOff"}, restarts=1, last=last)]}
    )
    assert trouble is not None
    assert words in trouble.message


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]},
        {"containerStatuses": [container(waiting={"reason": "ContainerCreating"})]},
        {"containerStatuses": [container(running={}, restarts=1, last=TERMINATED)]},
        {"containerStatuses": [container(waiting={"reason": "PodInitializing"})], "conditions": None},
    ],
)
def test_a_pod_on_its_way_is_no_trouble(status: Json) -> None:
    assert trouble_of(status) is None


def test_the_agents_word_comes_before_a_crash_loop_and_after_an_image() -> None:
    report = read_report(answer(error={"reason": "SourceNotFound", "permanent": True, "message": "no folder"}))
    crash = container(waiting={"reason": "CrashLoopBackOff"})
    image = container(waiting={"reason": "ErrImagePull", "message": "manifest unknown"})
    first = trouble_of({"containerStatuses": [crash]}, report)
    second = trouble_of({"containerStatuses": [image]}, report)
    assert first is not None
    assert first.reason == "SourceNotFound"
    assert second is not None
    assert second.reason == "ImagePullFailed"


# ---- pods


RUNNING_AGENT = pods.starting("198.18.0.9")


@pytest.mark.parametrize(
    ("status", "meta", "ready", "ending", "ip"),
    [
        ({}, {}, False, False, None),
        ({"conditions": [{"type": "Ready", "status": "True"}], "podIP": "198.18.0.9"}, {}, True, False, None),
        (RUNNING_AGENT, {}, False, False, "198.18.0.9"),
        (RUNNING_AGENT, {"deletionTimestamp": "2026-03-01T12:00:00Z"}, False, True, "198.18.0.9"),
        ({"phase": "Failed"}, {}, False, True, None),
        ({"phase": "Succeeded"}, {}, False, True, None),
    ],
)
def test_a_pod_is_read(status: Json, meta: Json, *, ready: bool, ending: bool, ip: str | None) -> None:
    read = read_pod(pod(status, **meta), {})
    assert (read.is_ready, read.is_ending, read.ip, read.workload) == (ready, ending, ip, "aaa")


# ---- all children


def child(kind: str, name: str, revision: str = "aaa", **parts: Any) -> Json:
    labels = {"slipway.dev/model": NAME, "slipway.dev/revision": revision}
    meta = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}", "labels": labels, "ownerReferences": OWNER}
    return merged({"kind": kind, "metadata": meta}, parts)


READY = pods.running("server", ip="198.18.0.9", agents=["agent"])


def test_pods_are_counted_by_revision_and_those_that_end_are_not() -> None:
    snapshot = observe(
        UID,
        [
            child("Deployment", "d-aaa", spec={"replicas": 3}),
            child("Deployment", "d-bbb", "bbb", spec={"replicas": 1}),
            pod(READY, name="1"),
            pod({"phase": "Pending"}, name="2"),
            pod(READY, name="3", deletionTimestamp="x"),
            pod({"phase": "Failed"}, name="4"),
        ],
        {},
    )
    here = snapshot.workloads["aaa"]
    assert (here.replicas, here.existing, here.ready) == (3, 2, 1)
    assert snapshot.workloads["bbb"].existing == 0


def test_a_deployment_that_is_being_deleted_does_not_count() -> None:
    gone = child("Deployment", "d-aaa", spec={"replicas": 3}, metadata={"deletionTimestamp": "x"})
    snapshot = observe(UID, [gone], {})
    assert snapshot.workloads == {}
    assert ("Deployment", "d-aaa") in snapshot.live


@pytest.mark.parametrize(
    "owners", [None, [], [{"uid": "another", "controller": True}], [{"uid": UID}], [{"uid": UID, "controller": False}]]
)
def test_an_object_that_another_owns_is_foreign(owners: list[Json] | None) -> None:
    service = child("Service", NAME, metadata={"ownerReferences": owners})
    snapshot = observe(UID, [service], {})
    assert snapshot.live == {}
    assert snapshot.foreign == {("Service", NAME)}


APPLIED = {"manager": "slipway", "operation": "Apply"}


@pytest.mark.parametrize(
    ("meta", "is_ours"),
    [
        ({"managedFields": [APPLIED]}, True),
        ({"managedFields": [{"manager": "kubectl-edit", "operation": "Update"}, APPLIED]}, True),
        ({"managedFields": [APPLIED], "ownerReferences": [{"uid": "another"}]}, True),  # no controller
        ({"managedFields": [APPLIED], "ownerReferences": [{"uid": "another", "controller": True}]}, False),
        ({"managedFields": [{"manager": "slipway", "operation": "Update"}]}, False),
        ({"managedFields": [{"manager": "kubectl", "operation": "Apply"}]}, False),
        ({"managedFields": None}, False),
        ({"managedFields": [APPLIED], "labels": None}, False),
    ],
    ids=str,
)
def test_what_we_applied_and_nobody_owns_is_ours(meta: Json, *, is_ours: bool) -> None:
    """As kubectl delete --cascade=orphan leaves it."""
    service = child("Service", NAME, metadata={"ownerReferences": [], **meta})
    service["metadata"] |= {key: value for key, value in meta.items() if value is None}
    assert is_left_behind(service) == is_ours
    if "labels" not in meta:
        assert (("Service", NAME) in observe(UID, [service], {}).live) == is_ours


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            'pods "d-1" is forbidden: exceeded quota: small, requested: cpu=2, used: cpu=1, limited: cpu=2',
            "QuotaExceeded",
        ),
        ('pods "d-1" is forbidden: violates PodSecurity "restricted:latest"', "PodsRefused"),
    ],
)
def test_pods_that_the_api_server_refuses(message: str, reason: str) -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "message": message}
    snapshot = observe(UID, [child("Deployment", "d", spec={}, status={"conditions": [failure]})], {})
    assert snapshot.troubles["aaa"].reason == reason
    assert message in snapshot.troubles["aaa"].message


def test_a_ready_pods_past_is_no_trouble_of_its_revision() -> None:
    crashed = [container(running={}, restarts=9, last=TERMINATED)]
    snapshot = observe(UID, [child("Deployment", "d", spec={}), pod({**READY, "containerStatuses": crashed})], {})
    assert snapshot.troubles == {}


def test_want_of_a_node_blocks_a_revision_and_other_troubles_do_not() -> None:
    deployment = child("Deployment", "d", spec={})
    lacking = unscheduled("0/1 nodes are available: 1 Insufficient cpu.")
    assert observe(UID, [deployment, pod(lacking)], {}).workloads["aaa"].is_blocked
    missing = unscheduled('persistentvolumeclaim "models" not found')
    assert not observe(UID, [deployment, pod(missing)], {}).workloads["aaa"].is_blocked


def test_orders_are_read_from_config_maps_and_garbage_is_none() -> None:
    orders = json.dumps({"generation": "g1", "load": [2, 3], "served": 3})
    snapshot = observe(
        UID,
        [
            child("ConfigMap", "a", data={"agent.json": orders}),
            child("ConfigMap", "b", "bbb", data={"agent.json": "{"}),
            child("ConfigMap", "c", "ccc"),
            child("ConfigMap", "d", "ddd", data={"agent.json": "[]"}),
        ],
        {},
    )
    assert snapshot.agent_orders == {
        "aaa": AgentOrders("g1", "aaa", (2, 3), 3),
        "bbb": AgentOrders("", "bbb"),
        "ccc": AgentOrders("", "ccc"),
        "ddd": AgentOrders("", "ddd"),
    }


def test_orders_in_turn_are_those_of_the_pods_that_have_them() -> None:
    own = {"pods": ["p"], "served": 3, "load": [2, 3], "labels": {"stable": 2}, "drainSeconds": 10, "golden": {"a": 1}}
    orders = {"generation": "g1", "load": [2], "served": 2, "labels": {"stable": 2, "prod": 2}, "turn": own}
    [read] = observe(UID, [child("ConfigMap", "a", data={"agent.json": json.dumps(orders)})], {}).agent_orders.values()
    assert (read.load, read.served, read.golden) == ((2, 3), 3, {"a": 1})
    assert (read.turn, read.labels) == (Turn(("p",), leaves=True), {"stable": 2, "prod": 2})


GOLDEN: Json = {"requests": [{"request": {"x": 1}, "response": {}}, {"request": {"x": 2}, "response": {}}]}


@pytest.mark.parametrize(
    ("orders", "questions"),
    [
        ({}, Questions()),
        ({"warmup": [{"x": 3}]}, Questions(is_asked=True)),
        ({"probe": {"file": "g"}}, Questions({"file": "g"}, {"file": "g"}, is_asked=True)),
        ({"golden": GOLDEN}, Questions({"request": {"x": 1}}, {"request": {"x": 1}}, is_asked=True)),
        ({"golden": {"file": "g", "requests": None}}, Questions({"file": "g"}, {"file": "g"}, is_asked=True)),
        (
            {"probe": {"request": {"x": 0}}, "turn": {"pods": ["p"], "golden": GOLDEN}},
            Questions({"request": {"x": 1}}, {"request": {"x": 0}}, is_asked=True),
        ),
        (
            {"probe": {"request": {"x": 0}}, "turn": {"pods": ["p"]}},
            Questions(None, {"request": {"x": 0}}, is_asked=True),
        ),
    ],
)
def test_what_servers_are_asked_is_the_golden_request_that_their_revision_arrived_with(
    orders: Json, questions: Questions
) -> None:
    data = {"agent.json": json.dumps({"generation": "g1", "load": [2], "served": 2, "out": ["p"], **orders})}
    [read] = observe(UID, [child("ConfigMap", "a", data=data)], {}).agent_orders.values()
    assert read.questions == questions
    assert read.out == ("p",)


def test_orders_that_hold_all_pods_say_so() -> None:
    orders = json.dumps({"generation": "g1", "load": [3], "served": 3, "held": True})
    [read] = observe(UID, [child("ConfigMap", "a", data={"agent.json": orders})], {}).agent_orders.values()
    assert read.turn == Turn(is_held=True)


@pytest.mark.parametrize(
    ("state", "error", "is_fetching"),
    [
        ("Fetching", None, True),
        ("Loading", None, False),
        ("Fetching", {"reason": "SourceUnavailable", "permanent": False, "message": "m"}, False),
    ],
)
def test_fetching_without_error_is_progress(state: str, error: Json | None, *, is_fetching: bool) -> None:
    report = read_report(answer(versions=[{"version": 1, "state": state}], error=error))
    assert report is not None
    snapshot = observe(UID, [child("Deployment", "d", spec={}), pod(RUNNING_AGENT)], {"uid-p": report})
    assert snapshot.workloads["aaa"].is_fetching is is_fetching


# ---- agents' reports


def answer(**parts: Any) -> Json:
    return {"schema": 1, "generation": "g", "listed": [1], "versions": [], "error": None, **parts}


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"failing": True, "message": "stub process is not healthy"}, "stub process is not healthy"),
        ({"failing": True, "message": ""}, "a server error without a word"),
        ({"failing": False, "message": "once"}, ""),
        ({"failing": None, "message": "once"}, None),
    ],
)
def test_how_a_server_answers_its_own_request_is_read(told: Json, error: str | None) -> None:
    counts = {"asked": 9, "failed": 3, "refused": 1, "since": "noon"}
    report = read_report(answer(probe={"version": 1, **told, **counts}))
    assert report is not None
    assert report.probe == ProbeReport(1, error, 9, 3, 1, "noon")


@pytest.mark.parametrize("said", [{}, {"probe": None}])
def test_an_agent_that_asks_nothing_or_is_older_says_nothing_of_its_server(said: Json) -> None:
    report = read_report(answer(**said))
    assert report is not None
    assert report.probe is None


def test_a_report_is_read() -> None:
    versions = [{"version": 2, "state": "Failed", "reason": "LoadFailed", "message": "m", "sha256": "a" * 64}]
    report = read_report(answer(listed=[1, 2], versions=versions, more="from a newer agent"))
    assert report is not None
    assert (report.generation, report.listed, report.trouble) == ("g", (1, 2), None)
    assert (report.versions[0].version, report.versions[0].reason, report.versions[0].sha256) == (
        2,
        "LoadFailed",
        "a" * 64,
    )


@pytest.mark.parametrize(("permanent", "needs_person"), [(True, True), (False, False), (None, False)])
def test_a_passing_error_needs_no_person(permanent: bool | None, *, needs_person: bool) -> None:
    report = read_report(answer(error={"reason": "SourceUnavailable", "permanent": permanent, "message": "m"}))
    assert report is not None
    assert report.trouble == Trouble("SourceUnavailable", "m", needs_person)


def test_an_agents_words_are_cut_to_what_status_holds() -> None:
    versions = [{"version": 2, "state": "Failed", "reason": "R" * 999, "message": "m" * 9999, "sha256": "a" * 999}]
    report = read_report(answer(versions=versions, error={"reason": "R" * 999, "message": "m" * 9999}))
    assert report is not None
    assert report.trouble is not None
    assert len(report.trouble.reason) <= 64
    assert len(report.trouble.message) <= 2048
    assert len(report.versions[0].reason) <= 128
    assert len(report.versions[0].message) <= 2048
    assert len(report.versions[0].sha256 or "") <= 64


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "generation": JSON,
        "listed": JSON,
        "versions": JSON | st.lists(st.fixed_dictionaries({"version": JSON, "state": JSON, "sha256": JSON})),
        "error": JSON | st.fixed_dictionaries({"reason": JSON, "message": JSON}),
    },
)


@given(JSON | PARTS)
def test_an_answer_that_is_no_report_is_none_and_never_an_error(garbage: Any) -> None:
    assert isinstance(read_report(garbage), AgentReport | None)


@pytest.mark.parametrize(
    ("status", "seconds", "reason"),
    [
        pytest.param({"conditions": [SCHEDULED]}, 29, None, id="volumes and network take their time"),
        pytest.param({"conditions": [SCHEDULED]}, 30, "VolumesNotReady", id="a ConfigMap that is missing"),
        pytest.param({"conditions": [SCHEDULED], "podIP": "198.18.64.2"}, 900, None, id="images are being pulled"),
        pytest.param({"conditions": []}, 900, None, id="not looked at by the scheduler yet"),
        pytest.param({"conditions": [{**SCHEDULED, "lastTransitionTime": "?"}]}, 900, None, id="no time to count from"),
    ],
)
def test_a_pod_that_cannot_start_on_its_node_is_told(status: Json, seconds: int, reason: str | None) -> None:
    now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC) + timedelta(seconds=seconds)
    read = read_pod(pod(status), {}, now)
    assert (read.trouble.reason if read.trouble else None) == reason
    if read.trouble:
        assert "kubectl describe pod" in read.trouble.message


# ---- routers


def router(name: str, *, is_ready: bool = True, runs: bool = True, **meta: Any) -> Json:
    """A router's pod."""
    status = pods.running(*(["envoy"] if runs else []), ip="198.18.0.2", is_ready=is_ready)
    return pods.pod(name, pods.labels_of(NAME), status, NAMESPACE, **meta)


THEIRS: Json = {
    "kind": "Deployment",
    "metadata": {"name": f"{NAME}-router", "ownerReferences": [{"uid": UID, "controller": True}]},
    "spec": {"replicas": 2},
}


def config_map(generation: str) -> Json:
    """The routers'."""
    labels, annotations = {"slipway.dev/model": NAME}, {"slipway.dev/routed": generation}
    meta = {"name": f"{NAME}-router", "labels": labels, "annotations": annotations, "ownerReferences": OWNER}
    return {"kind": "ConfigMap", "metadata": {**meta, "namespace": NAMESPACE}, "data": {}}


@pytest.mark.parametrize(
    ("second", "says", "is_latest"),
    [
        pytest.param(router("b"), "2", True, id="both do what was sent last"),
        pytest.param(router("b"), "1", False, id="one is behind"),
        pytest.param(router("b", is_ready=False), "1", False, id="one that is about to be ready is behind"),
        pytest.param(
            router("b", is_ready=False), None, False, id="nobody knows what one that is about to be ready does"
        ),
        pytest.param(router("b", is_ready=False, runs=False), None, True, id="one that doesn't run yet"),
        pytest.param(router("b", deletionTimestamp="2026-03-01T12:00:00Z"), "1", True, id="one that ends"),
    ],
)
def test_what_was_sent_last_is_in_force_when_every_router_that_runs_does_it(
    second: Json, says: str | None, *, is_latest: bool
) -> None:
    def report(generation: str) -> RouterReport:
        return RouterReport("source", generation, {"aaa": 100}, {"aaa": 1}, {})

    heard = {"uid-a": report("2")} | ({"uid-b": report(says)} if says else {})
    seen = observe(UID, [THEIRS, config_map("2"), router("a"), second], {}, router_reports=heard)
    assert seen.routers.in_force is not None
    assert (seen.routers.in_force.weights, seen.routers.in_force.is_latest) == ({"aaa": 100}, is_latest)


@pytest.mark.parametrize(("answers", "lingering"), [(True, frozenset({"bbb"})), (False, frozenset())])
def test_a_router_that_ends_is_known_by_what_it_still_says(*, answers: bool, lingering: frozenset[str]) -> None:
    ending = router("b", deletionTimestamp="2026-03-01T12:00:00Z")
    heard = {"uid-a": RouterReport("source", "2", {"aaa": 100, "bbb": 0}, {"aaa": 1}, {})}
    if answers:
        heard["uid-b"] = RouterReport("other", "1", {"aaa": 0, "bbb": 100}, {"bbb": 1}, {})
    seen = observe(UID, [THEIRS, config_map("2"), router("a"), ending], {}, router_reports=heard)
    assert seen.routers.in_force is not None
    assert seen.routers.in_force.weights == {"aaa": 100, "bbb": 0}
    assert seen.routers.in_force.lingering == lingering


def test_routers_whose_deployment_was_deleted_are_none_that_could_take_requests() -> None:
    """The garbage collector comes to them a moment later; steps may have been taken away and put back meanwhile."""
    heard = {"uid-a": RouterReport("source", "2", {"aaa": 100}, {"aaa": 1}, {})}
    seen = observe(UID, [config_map("2"), router("a")], {}, router_reports=heard)
    assert seen.routers.in_force is None
    assert [pod.is_ending for pod in seen.routers.pods] == [True]


def failing(message: str) -> Json:
    """The routers' Deployment, whose pods are not made."""
    failure = {"type": "ReplicaFailure", "status": "True", "message": message}
    return {**THEIRS, "status": {"conditions": [failure]}}


def waiting(reason: str, **meta: Any) -> Json:
    """A router's pod whose container waits."""
    words = {"reason": reason, "message": f"{reason}: not found"}
    status = pods.pending(SCHEDULED) | {"containerStatuses": [container("envoy", waiting=words)]}
    return pods.pod("b", pods.labels_of(NAME), status, NAMESPACE, **meta)


@pytest.mark.parametrize(
    ("deployment", "second", "reason", "words"),
    [
        (failing("exceeded quota: small"), router("b"), "QuotaExceeded", "in spec.traffic.router.resources or"),
        (failing("violates PodSecurity"), router("b"), "PodsRefused", "the part of spec.traffic.router or"),
        (THEIRS, waiting("ErrImagePull"), "ImagePullFailed", "or spec.podTemplate.spec.imagePullSecrets"),
        (THEIRS, waiting("CreateContainerError"), "ContainerFailed", "or correct spec.traffic.router"),
        (
            THEIRS,
            pods.pod("b", pods.labels_of(NAME), unscheduled(), NAMESPACE),
            "Unschedulable",
            "less in spec.traffic.router.resources",
        ),
    ],
)
def test_what_troubles_a_router_is_said_in_its_own_fields(
    deployment: Json, second: Json, reason: str, words: str
) -> None:
    found = observe(UID, [deployment, router("a"), second], {}).routers.trouble
    assert found is not None
    assert found.reason == reason
    assert found.message.startswith("routers: ")
    assert words in found.message


@pytest.mark.parametrize(
    "children",
    [
        pytest.param([THEIRS, router("a"), router("b")], id="all serve"),
        pytest.param([THEIRS, router("a"), router("b", is_ready=False)], id="one is on its way"),
        pytest.param([THEIRS, router("a"), waiting("ErrImagePull", deletionTimestamp="x")], id="one goes"),
        pytest.param([router("a"), waiting("ErrImagePull")], id="nobody wants them any more"),
        pytest.param([], id="none"),
    ],
)
def test_routers_that_are_as_they_should_be_have_no_trouble(children: list[Json]) -> None:
    assert observe(UID, children, {}).routers.trouble is None
