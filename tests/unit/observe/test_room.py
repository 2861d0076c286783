"""What a pod waits for is told from what its revision did wrong, by the words of schedulers and kubelets."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from slipway.model.workload import Trouble, Workload
from slipway.observe.agent_reports import AgentReport, read_report
from slipway.observe.image_pulls import FAILED
from slipway.observe.pods import PREPARING_SECONDS, read_pod
from slipway.observe.room import PULLING_SECONDS, ROOM
from slipway.observe.snapshot import Snapshot, observe
from tests.simulation import pods
from tests.simulation.pods import Json, condition, container, pending, pulling, unscheduled
from tests.unit.specs import NAME, NAMESPACE, UID

AT = "2026-03-01T02:13:00Z"
START = datetime(2026, 3, 1, 2, 13, tzinfo=UTC)
LATER = START + timedelta(hours=1)
NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No …"
WAIT, FAULT = True, False
PERSON, NOBODY = True, False


def pod(status: Json, name: str = "p", node: str | None = "n1", memory: str | None = None) -> Json:
    server = {"name": "server"} | ({"resources": {"limits": {"memory": memory}}} if memory else {})
    made = pods.pod(name, pods.labels_of(NAME, "aaa"), status, NAMESPACE)
    return {**made, "spec": {"containers": [server]} | ({"nodeName": node} if node else {})}


def deployment(*conditions: Json, replicas: int = 1) -> Json:
    owner = {"uid": UID, "controller": True, "kind": "ModelDeployment"}
    labels = {"slipway.dev/model": NAME, "slipway.dev/revision": "aaa"}
    meta = {"name": "d", "namespace": NAMESPACE, "labels": labels, "ownerReferences": [owner]}
    status = {"conditions": list(conditions)}
    return {"kind": "Deployment", "metadata": meta, "spec": {"replicas": replicas}, "status": status}


def orders(served: int = 1, **annotations: str) -> Json:
    """The ConfigMap of the workload, at generation g."""
    meta = {**deployment()["metadata"], "annotations": annotations}
    text = json.dumps({"generation": "g", "load": [served], "served": served})
    return {"kind": "ConfigMap", "metadata": meta, "data": {"agent.json": text}}


def seen(*children: Json, reports: dict[str, AgentReport] | None = None, now: datetime | None = LATER) -> Snapshot:
    """The world with these pods in the workload aaa."""
    held = [] if any(child["kind"] == "Deployment" for child in children) else [deployment()]
    return observe(UID, [*held, *children], {f"uid-{name}": said for name, said in (reports or {}).items()}, now)


def workload(*children: Json, **more: Any) -> Workload:
    return seen(*children, **more).workloads["aaa"]


def message_of(trouble: Trouble | None) -> str:
    assert trouble is not None
    return trouble.message


# ---- before a node


def not_scheduled(message: str, reason: str = "Unschedulable") -> Json:
    return pending(condition("PodScheduled", holds=False, at=AT, reason=reason, message=message))


SCHEDULING = [
    pytest.param(
        not_scheduled(NO_GPU),
        "Unschedulable",
        "pod p finds no node: nvidia.com/gpu is missing on 3 of 3 nodes, since 02:13 UTC.",
        PERSON,
        id="no GPU",
    ),
    pytest.param(
        not_scheduled(
            "0/2 nodes are available: 1 node(s) had untolerated taint {nvidia.com/gpu: present}, 1 node(s) didn't "
            "match Pod's node affinity/selector. preemption: 0/2 nodes are available: 2 Preemption is not helpful."
        ),
        "Unschedulable",
        "finds no node, since 02:13 UTC: 0/2 nodes are available: 1 node(s) had untolerated taint",
        PERSON,
        id="a taint and a selector",
    ),
    pytest.param(
        not_scheduled("0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available"),
        "Unschedulable",
        "1 Too many pods",
        PERSON,
        id="a full node",
    ),
    pytest.param(
        not_scheduled("Scheduling is blocked due to non-empty scheduling gates", "SchedulingGated"),
        "SchedulingGated",
        "a queue (Kueue, or another owner of spec.schedulingGates) holds it back, since 02:13 UTC",
        NOBODY,
        id="Kueue",
    ),
    pytest.param(pods.gated(), "SchedulingGated", "holds it back.", NOBODY, id="gated, and nobody says since when"),
    pytest.param(
        not_scheduled('0/3 nodes are available: persistentvolumeclaim "models" not found. preemption: 0/3 nodes …'),
        "ClaimNotFound",
        "PersistentVolumeClaim models, which does not exist in this namespace, since 02:13 UTC. Create it",
        PERSON,
        id="a claim that doesn't exist",
    ),
    pytest.param(
        not_scheduled(
            "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/3 nodes are "
            "available: 3 Preemption is not helpful for scheduling."
        ),
        "ClaimNotBound",
        "not bound to a volume yet, since 02:13 UTC",
        NOBODY,
        id="a claim that isn't bound",
    ),
    pytest.param(
        not_scheduled("0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind."),
        "ClaimNotBound",
        "kubectl describe pvc",
        NOBODY,
        id="no volume to bind",
    ),
]


@pytest.mark.parametrize(("status", "reason", "words", "needs_person"), SCHEDULING)
def test_a_pod_without_a_node_waits(status: Json, reason: str, words: str, *, needs_person: bool) -> None:
    found = seen(pod(status, node=None))
    here = found.workloads["aaa"]
    assert here.waits_for_room == found.troubles["aaa"]
    assert (here.waits_for_room.reason, here.waits_for_room.needs_person) == (reason, needs_person)
    assert words in here.waits_for_room.message
    assert not here.is_refused


@pytest.mark.parametrize(
    ("status", "is_blocked"),
    [
        pytest.param(unscheduled(), True, id="no node"),
        pytest.param(pods.gated(), True, id="a queue"),
        pytest.param(not_scheduled('persistentvolumeclaim "models" not found'), False, id="a claim"),
        pytest.param(not_scheduled("pod has unbound immediate PersistentVolumeClaims"), False, id="a volume"),
        pytest.param(pulling(AT), False, id="an image"),
    ],
)
def test_only_a_wait_for_a_node_may_be_ended_by_what_others_give_up(status: Json, *, is_blocked: bool) -> None:
    assert workload(pod(status)).is_blocked is is_blocked


# ---- refused by the API server

QUOTA = 'pods "d-1" is forbidden: exceeded quota: small, requested: cpu=2, used: cpu=1, limited: cpu=2'
SECURITY = 'pods "d-1" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'


@pytest.mark.parametrize(
    ("message", "is_wait", "words"),
    [
        pytest.param(QUOTA, WAIT, "no more pods of this size, since 02:13 UTC: pods", id="quota"),
        pytest.param(SECURITY, FAULT, "violates PodSecurity", id="policy"),
    ],
)
def test_pods_that_the_api_server_refuses_wait_for_quota_alone(message: str, words: str, *, is_wait: bool) -> None:
    failure = condition("ReplicaFailure", at=AT, message=message)
    found = seen(deployment(failure))
    assert words in found.troubles["aaa"].message
    assert found.workloads["aaa"].waits_for_room == (found.troubles["aaa"] if is_wait else None)


# ---- images: the words of containerd 1.7 and 2, of CRI-O, of kubelets 1.29 to 1.36

PULL = 'failed to pull and unpack image "registry.invalid/x:1": failed to resolve reference "registry.invalid/x:1": '
HEAD = 'failed to do request: Head "https://registry.invalid/v2/x/manifests/1": '
RATE_LIMIT = (
    'rpc error: code = Unknown desc = failed to pull and unpack image "docker.io/library/x:1": failed to copy: '
    "httpReadSeeker: failed open: unexpected status code https://registry-1.docker.io/v2/x/manifests/sha256:ab: "
    "429 Too Many Requests - Server message: toomanyrequests: You have reached your unauthenticated pull rate limit."
)
IMAGES = [
    # waits that pass
    pytest.param("ErrImagePull", RATE_LIMIT, WAIT, NOBODY, id="429"),
    pytest.param("ErrImagePull", "reading manifest 1 in quay.io/x: toomanyrequests: too many", WAIT, NOBODY, id="crio"),
    pytest.param(
        "ErrImagePull",
        f"{PULL}unexpected status from HEAD request to https://registry.invalid/v2/x/manifests/1: 503 Service "
        "Unavailable",
        WAIT,
        NOBODY,
        id="503",
    ),
    pytest.param(
        "ErrImagePull",
        f"{PULL}pulling from host registry.invalid failed with status code [manifests 1]: 502 Bad Gateway",
        WAIT,
        NOBODY,
        id="502",
    ),
    pytest.param("ErrImagePull", f"{PULL}{HEAD}net/http: TLS handshake timeout", WAIT, NOBODY, id="TLS handshake"),
    pytest.param("ErrImagePull", f"{PULL}{HEAD}dial tcp 192.0.2.1:443: i/o timeout", WAIT, NOBODY, id="time-out"),
    pytest.param(
        "ErrImagePull", f"{PULL}{HEAD}dial tcp 192.0.2.1:443: connect: connection timed out", WAIT, NOBODY, id="no SYN"
    ),
    pytest.param(
        "ErrImagePull",
        "rpc error: code = DeadlineExceeded desc = context deadline exceeded",
        WAIT,
        NOBODY,
        id="the runtime's deadline",
    ),
    pytest.param(
        "ErrImagePull",
        f"{PULL}failed to authorize: failed to fetch anonymous token: Get "
        '"https://auth.docker.io/token?scope=repository%3Alibrary%2Fx%3Apull": dial tcp: i/o timeout',
        WAIT,
        NOBODY,
        id="the token's server",
    ),
    pytest.param(
        "ErrImagePull",
        f"{PULL}{HEAD}read tcp 192.0.2.2:1->192.0.2.1:443: read: connection reset by peer",
        WAIT,
        NOBODY,
        id="reset",
    ),
    pytest.param("ErrImagePull", f"{PULL}{HEAD}EOF", WAIT, NOBODY, id="cut"),
    pytest.param(
        "ErrImagePull",
        f"{PULL}{HEAD}dial tcp: lookup registry.invalid: Temporary failure in name resolution",
        WAIT,
        NOBODY,
        id="DNS, for now",
    ),
    pytest.param(
        "ErrImagePull",
        f"{PULL}{HEAD}dial tcp: lookup registry.invalid on 10.96.0.10:53: server misbehaving",
        WAIT,
        NOBODY,
        id="DNS, failing",
    ),
    pytest.param(
        "ImagePullBackOff",
        f'Back-off pulling image "registry.invalid/x:1": ErrImagePull: {RATE_LIMIT}',
        WAIT,
        NOBODY,
        id="429, backing off",
    ),
    # waits that a person should look at
    pytest.param(
        "ErrImagePull", f"{PULL}{HEAD}dial tcp 127.0.0.1:1: connect: connection refused", WAIT, PERSON, id="refused"
    ),
    pytest.param(
        "ErrImagePull",
        f"{PULL}{HEAD}dial tcp: lookup registry.invalid on 10.96.0.10:53: no such host",
        WAIT,
        PERSON,
        id="no such host",
    ),
    pytest.param(
        "ErrImagePull",
        f"{PULL}{HEAD}tls: failed to verify certificate: x509: certificate signed by unknown authority",
        WAIT,
        PERSON,
        id="certificate",
    ),
    pytest.param("RegistryUnavailable", "image pull failed, the registry is unavailable", WAIT, PERSON, id="kubelet's"),
    pytest.param(
        "ErrImagePull",
        'failed to extract layer sha256:ab: write /var/lib/x: no space left on device: "not found"',
        WAIT,
        PERSON,
        id="the node's disk",
    ),
    pytest.param(
        "ImagePullBackOff", 'Back-off pulling image "registry.invalid/not-found:1"', WAIT, PERSON, id="no cause, 1.29"
    ),
    pytest.param("ErrImagePull", None, WAIT, PERSON, id="no words"),
    # what is said of the image
    pytest.param(
        "ErrImagePull",
        f"rpc error: code = NotFound desc = {PULL}registry.invalid/x:1: not found",
        FAULT,
        PERSON,
        id="not found",
    ),
    pytest.param(
        "ImagePullBackOff",
        f'Back-off pulling image "registry.invalid/x:1": ErrImagePull: {PULL}registry.invalid/x:1: not found',
        FAULT,
        PERSON,
        id="not found, backing off",
    ),
    pytest.param(
        "ErrImagePull", "reading manifest 1 in registry.invalid/x: manifest unknown", FAULT, PERSON, id="no manifest"
    ),
    pytest.param(
        "ErrImagePull",
        f"{PULL}pull access denied, repository does not exist or may require authorization: server message: "
        "insufficient_scope: authorization failed",
        FAULT,
        PERSON,
        id="denied",
    ),
    pytest.param(
        "ErrImagePull",
        f"{PULL}failed to authorize: failed to fetch oauth token: unexpected status from POST request to "
        "https://auth.invalid/token: 401 Unauthorized",
        FAULT,
        PERSON,
        id="401",
    ),
    pytest.param(
        "ErrImagePull",
        f"{PULL}unexpected status from HEAD request to https://registry.invalid/v2/x/manifests/1: 403 Forbidden",
        FAULT,
        PERSON,
        id="403",
    ),
    pytest.param(
        "ErrImagePull", "no match for platform in manifest: not found", FAULT, PERSON, id="for another processor"
    ),
    pytest.param(
        "InvalidImageName",
        'Failed to apply default tag "X:1": invalid reference format',
        FAULT,
        PERSON,
        id="name",
    ),
    pytest.param(
        "ErrImageNeverPull",
        'Container image "x:1" is not present with pull policy of Never',
        FAULT,
        PERSON,
        id="never pulled",
    ),
    pytest.param("SignatureValidationFailed", "connection refused", FAULT, PERSON, id="signature"),
]


@pytest.mark.parametrize("part", ["containerStatuses", "initContainerStatuses"])
@pytest.mark.parametrize(("reason", "message", "is_wait", "needs_person"), IMAGES)
def test_what_a_registry_says_of_an_image_counts_and_what_is_the_registrys_own_is_waited_for(
    part: str, reason: str, message: str | None, *, is_wait: bool, needs_person: bool
) -> None:
    waiting = {"reason": reason} | ({"message": message} if message else {})
    found = seen(pod(pending(condition("PodScheduled", at=AT)) | {part: [container(waiting=waiting)]}))
    trouble = found.troubles["aaa"]
    assert trouble.reason == ("ImagePullDelayed" if is_wait else "ImagePullFailed")
    assert trouble.needs_person is needs_person
    assert found.workloads["aaa"].waits_for_room == (trouble if is_wait else None)
    assert "pod p: node n1 can't pull image 'registry.invalid/x:1' of container server" in trouble.message
    assert (message or reason)[:60] in trouble.message


def test_each_of_a_kubelets_reasons_has_a_row() -> None:
    assert {row.values[0] for row in IMAGES} | {"ImageInspectError"} == set(FAILED)


# ---- images that are being pulled


def seconds_after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def initializing(*starting: Json, **conditions: bool) -> Json:
    """With a sandbox since 02:13. conditions: beside that."""
    found = [condition(kind, at=AT, holds=holds) for kind, holds in conditions.items()]
    main = container("server", waiting={"reason": "PodInitializing"})
    kinds = [condition("PodScheduled", at=AT), condition("PodReadyToStartContainers", at=AT)]
    return pending(*kinds, *found) | {"initContainerStatuses": list(starting), "containerStatuses": [main]}


THROUGH, RUNS = container("mine", terminated={"exitCode": 0}), container("agent", running={})
WAITS = container("agent", waiting={"reason": "PodInitializing"})


@pytest.mark.parametrize(
    ("status", "of"),
    [
        pytest.param(pulling(AT), "agent", id="the agent's"),
        pytest.param(pulling(AT, agent_runs=True), "server", id="the server's"),
        pytest.param(initializing(THROUGH, WAITS, Initialized=False), "agent", id="after one of a person's own"),
        pytest.param(initializing(container("mine", running={}), WAITS), None, id="one of a person's own works"),
        pytest.param(initializing(RUNS, Initialized=False), None, id="the agent fetches"),
        pytest.param(pending(), None, id="not looked at yet"),
        pytest.param(pending(condition("PodScheduled", at=AT)), None, id="its volumes come first"),
        pytest.param(pods.running("server", ip="198.18.64.2", agents=["agent"], is_ready=False), None, id="it runs"),
        pytest.param(
            pulling(AT) | {"initContainerStatuses": [container("agent", restarts=2, waiting={"reason": "x"})]},
            None,
            id="it ran before",
        ),
    ],
)
def test_an_image_that_is_being_pulled_is_waited_for_with_its_name_and_since_when(status: Json, of: str | None) -> None:
    found = seen(pod(status), now=seconds_after(PULLING_SECONDS))
    waits = found.workloads["aaa"].waits_for_room
    assert (waits is not None and waits.reason == "ImagePulling") == (of is not None)
    assert "ImagePulling" not in {trouble.reason for trouble in found.troubles.values()}
    if of is not None:
        assert message_of(waits) == (
            f"pod p: node n1 is pulling image 'registry.invalid/x:1' of container {of}, since 02:13 UTC"
        )
        assert waits == workload(pod(status), now=LATER).waits_for_room  # watchers aren't woken while time goes by


@pytest.mark.parametrize(
    ("status", "after_seconds"),
    [
        pytest.param(pulling(AT), PULLING_SECONDS, id="an image"),
        pytest.param(pending(condition("PodScheduled", at=AT)), PREPARING_SECONDS, id="volumes"),
        pytest.param(unscheduled(), None, id="no node: nothing changes by itself"),
        pytest.param(pending(), None, id="nobody looked at it yet"),
    ],
)
def test_a_start_that_is_young_is_no_wait_and_is_looked_at_again(status: Json, after_seconds: float | None) -> None:
    young = read_pod(pod(status), {}, seconds_after(1))
    turns_at = None if after_seconds is None else seconds_after(after_seconds)
    assert young.turns_at == turns_at
    if turns_at is not None:
        assert young.trouble is None
        late = read_pod(pod(status), {}, turns_at)
        assert (late.trouble is not None, late.turns_at) == (True, None)


def test_volumes_that_do_not_come_count_since_their_pod_has_a_node() -> None:
    found = seen(pod(pending(condition("PodScheduled", at=AT))))
    assert found.troubles["aaa"].reason == "VolumesNotReady"
    assert found.workloads["aaa"].waits_for_room is None


# ---- several pods

LOOPS = pending(condition("PodScheduled", at=AT)) | {
    "podIP": "198.18.64.2",
    "containerStatuses": [container(waiting={"reason": "CrashLoopBackOff"}, restarts=4)],
}
MISSING = container(waiting={"reason": "CreateContainerConfigError", "message": 'secret "s" not found'})
NOT_CREATED = pending(condition("PodScheduled", at=AT)) | {"podIP": "198.18.64.2", "containerStatuses": [MISSING]}
READY = pods.running("server", ip="198.18.64.3", agents=["agent"])


@pytest.mark.parametrize(
    ("statuses", "reason", "is_wait"),
    [
        pytest.param([READY, unscheduled()], "Unschedulable", WAIT, id="one has no node"),
        pytest.param([LOOPS, unscheduled()], "CrashLoop", FAULT, id="what one did is not hidden by another's wait"),
        pytest.param([unscheduled(), NOT_CREATED], "ContainerFailed", FAULT, id="nor what its configuration did"),
        pytest.param([pulling(AT), unscheduled()], "Unschedulable", WAIT, id="a node is said before a pull"),
        pytest.param([pods.gated(), unscheduled()], "Unschedulable", WAIT, id="what a person can end comes first"),
        pytest.param([READY, READY], None, FAULT, id="all serve"),
    ],
)
def test_of_several_pods_what_counts_against_the_revision_comes_first(
    statuses: list[Json], reason: str | None, *, is_wait: bool
) -> None:
    found = seen(*(pod(status, f"p{number}") for number, status in enumerate(statuses)))
    trouble, here = found.troubles.get("aaa"), found.workloads["aaa"]
    assert (trouble.reason if trouble else None) == reason
    assert here.waits_for_room == (trouble if is_wait else None)


def test_a_quota_is_said_after_what_the_pods_that_are_there_did() -> None:
    found = seen(deployment(condition("ReplicaFailure", message=QUOTA)), pod(LOOPS))
    assert (found.troubles["aaa"].reason, found.workloads["aaa"].waits_for_room) == ("CrashLoop", None)


# ---- one node that can't load


def says(
    state: str, reason: str = "", *, serving: int | None = 1, version: int = 1, generation: str = "g"
) -> AgentReport:
    """An agent's report. state: of the version that it is to serve; serving: what unversioned requests get."""
    told = {"version": version, "state": state, "reason": reason, "message": "the server says: no. Look"}
    error = {"reason": reason, "permanent": True, "message": "the server says: no"} if state == "Failed" else None
    answer = {"generation": generation, "listed": [], "versions": [told], "error": error, "serving": serving}
    report = read_report(answer)
    assert report is not None
    return report


SERVES, NO_LOAD = says("Available"), says("Failed", "LoadFailed", serving=None)
UNREADY = pods.running("server", ip="198.18.64.4", agents=["agent"], is_ready=False)
IN_PLACE = {"slipway.dev/replaces": "old", "slipway.dev/carries": "aaa"}
BOTH, ALONE, NEITHER = "named", "refused", "neither"

NODES = [
    pytest.param({}, (READY, SERVES), (UNREADY, NO_LOAD), BOTH, id="another serves it"),
    pytest.param({}, (UNREADY, NO_LOAD), (UNREADY, NO_LOAD), ALONE, id="none serves it"),
    pytest.param({}, (UNREADY, says("Loading", serving=None)), (UNREADY, NO_LOAD), NEITHER, id="another loads it yet"),
    pytest.param({}, (pending(), None), (UNREADY, NO_LOAD), NEITHER, id="another starts yet"),
    pytest.param({}, (pulling(AT), None), (UNREADY, NO_LOAD), NEITHER, id="another's image is being pulled"),
    pytest.param({}, (unscheduled(), None), (UNREADY, NO_LOAD), ALONE, id="another finds no node"),
    pytest.param({}, (LOOPS, None), (UNREADY, NO_LOAD), ALONE, id="another can't run either"),
    pytest.param({}, (READY, None), (UNREADY, NO_LOAD), BOTH, id="the other is ready, and its agent silent"),
    pytest.param({}, (READY, says("Available", generation="f")), (UNREADY, NO_LOAD), BOTH, id="its orders are older"),
    pytest.param(
        {},
        (READY, says("Loading", serving=None)),
        (READY, says("Failed", "LoadFailed", serving=None, generation="f")),
        NEITHER,
        id="what it said of older orders is nothing",
    ),
    pytest.param({}, (READY, SERVES), (UNREADY, says("Failed", "DiskFull", serving=None)), BOTH, id="a full disk"),
    pytest.param(
        {}, (UNREADY, None), (UNREADY, says("Failed", "DiskFull", serving=None)), NEITHER, id="a full disk, alone"
    ),
    pytest.param({}, (READY, SERVES), (UNREADY, says("Failed", "GoldenFailed")), ALONE, id="a gate holds for each"),
    pytest.param({}, (READY, SERVES), (NOT_CREATED, None), BOTH, id="its container can't be made there"),
    pytest.param({}, (READY, SERVES), (LOOPS, None), NEITHER, id="a server that ends again and again is no node's"),
    pytest.param({}, (READY, SERVES), (READY, SERVES), NEITHER, id="all serve"),
    pytest.param(
        IN_PLACE,
        (READY, says("Available", version=2, serving=2)),
        (READY, says("Failed", "LoadFailed", version=2)),
        BOTH,
        id="in place, another has switched",
    ),
    pytest.param(
        IN_PLACE,
        (READY, says("Loading", version=2)),
        (READY, says("Failed", "LoadFailed", version=2)),
        NEITHER,
        id="in place, another loads it yet",
    ),
    pytest.param(
        IN_PLACE,
        (READY, says("Failed", "LoadFailed", version=2)),
        (READY, says("Failed", "LoadFailed", version=2)),
        ALONE,
        id="in place, all serve what was there before",
    ),
    pytest.param(
        IN_PLACE, (READY, None), (READY, says("Failed", "LoadFailed", version=2)), NEITHER, id="in place, nobody knows"
    ),
]


@pytest.mark.parametrize(("annotations", "one", "other", "what"), NODES)
def test_a_pod_that_cannot_load_what_others_serve_is_named_with_its_node_and_alone_it_refuses(
    annotations: dict[str, str], one: tuple[Json, AgentReport | None], other: tuple[Json, AgentReport | None], what: str
) -> None:
    reports = {name: report for name, (_, report) in (("a", one), ("b", other)) if report is not None}
    children = [orders(2 if annotations else 1, **annotations), pod(one[0], "a"), pod(other[0], "b", node="n2")]
    found = seen(*children, reports=reports)
    here = found.workloads["aaa"]
    assert here.is_refused is (what == ALONE)
    assert (here.waits_for_room is not None) is (what == BOTH)
    if here.waits_for_room is not None:
        assert (here.waits_for_room.reason, here.waits_for_room.needs_person) == ("NodeCannotLoad", True)
        assert "pod b on node n2" in here.waits_for_room.message
        assert "kubectl delete pod b" in here.waits_for_room.message
        assert found.troubles["aaa"] == here.waits_for_room


# ---- want of memory

KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": ""}}
LOADING = {"version": 1, "state": "Loading", "bytes": 3 * 2**29}
HEAVY = read_report({"generation": "g", "listed": [], "versions": [LOADING], "error": None})


@pytest.mark.parametrize(
    ("memory", "report", "words"),
    [
        pytest.param("600Mi", HEAVY, "it may use 600Mi, and the versions to load have 1.50 GiB on disk", id="both"),
        pytest.param("600Mi", None, "it may use 600Mi. Raise spec.resources.limits.memory", id="the limit"),
        pytest.param(None, HEAVY, "it has no limit of its own, so the node had no more", id="no limit"),
        pytest.param(
            "600Mi", says("Failed", "LoadFailed"), "it may use 600Mi", id="its agent saw that it couldn't load"
        ),
    ],
)
@pytest.mark.parametrize(
    "state",
    [
        pytest.param({"running": {}, "restarts": 1, "last": KILLED}, id="once, and it loads again"),
        pytest.param({"waiting": {"reason": "CrashLoopBackOff"}, "restarts": 7, "last": KILLED}, id="often"),
        pytest.param({**KILLED, "restarts": 1}, id="just now"),
    ],
)
def test_a_server_without_memory_enough_says_its_limit_and_what_to_raise(
    state: Json, memory: str | None, report: AgentReport | None, words: str
) -> None:
    status = {"podIP": "198.18.64.2", "containerStatuses": [container(**state)]}
    found = seen(pod(status, memory=memory), reports={"p": report} if report else {})
    trouble = found.troubles["aaa"]
    assert trouble.reason == "OutOfMemory"
    assert words in trouble.message
    assert "spec.resources.limits.memory" in trouble.message
    assert "kubectl logs" not in trouble.message
    assert found.workloads["aaa"].waits_for_room is None


def test_another_word_of_an_agent_comes_before_want_of_memory() -> None:
    status = {"podIP": "198.18.64.2", "containerStatuses": [container(running={}, restarts=1, last=KILLED)]}
    found = seen(pod(status), reports={"p": says("Failed", "DigestMismatch")})
    assert found.troubles["aaa"].reason == "DigestMismatch"


def test_a_crash_for_want_of_memory_says_what_to_raise() -> None:
    last = {"terminated": {**KILLED["terminated"], "finishedAt": AT}}
    [crash] = workload(pod({**READY, "containerStatuses": [container(running={}, restarts=1, last=last)]})).crashes
    assert "raise spec.resources.limits.memory" in crash.message


# ---- a source's error


@pytest.mark.parametrize(
    ("reason", "needs_person"), [("SourceNotFound", PERSON), ("AccessDenied", PERSON), ("SourceUnavailable", NOBODY)]
)
def test_a_place_that_cannot_be_listed_needs_a_person_unless_it_only_does_not_answer(
    reason: str, *, needs_person: bool
) -> None:
    report = read_report({"generation": "g", "listError": {"reason": reason, "message": "m"}})
    assert report is not None
    assert report.listing_trouble == Trouble(reason, "m", needs_person)


def test_each_wait_has_a_row() -> None:
    assert {row.values[1] for row in SCHEDULING} | {"QuotaExceeded", "ImagePulling", "ImagePullDelayed"} | {
        "NodeCannotLoad"
    } == ROOM
