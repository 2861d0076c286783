"""A cluster as a dictionary, and those who live in it: API server, Deployment controller, kubelets, agents, a clock.

It plays just enough of Kubernetes for the operator's shell to run unchanged on it, second by second and always in the
same order. Only the operator's writes are counted and kept.
Invariant: nothing here knows how the operator decides; what a pod does follows from the objects alone and from what
the test says about the world (which versions are at the source, which are broken, how large the quota is).
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from slipway.agents import Agents
from slipway.api.v1alpha1 import KIND
from slipway.cache import Cache, Key
from slipway.cluster import Cluster, ClusterError, TransientError
from slipway.manifests import AGENT_CONFIG_KEY, CONFIG_ANNOTATION, MERGE_KEYS, Images
from slipway.observe import AgentReport, Pod, read_report
from slipway.queue import Queue
from slipway.reconcile import Clock, Reconciler
from tests.unit.specs import IMAGES, NAME, NAMESPACE, Json, body, merged

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
Refusal = Callable[[str], Exception | None]
"""The name of an object → the error that a write to it is answered with."""
Slot = tuple[str, str]
"""Kind and name; everything is in one namespace."""

APPLY_KEYS = {**MERGE_KEYS, "ownerReferences": ("uid",)}
"""Lists that an apply merges by keys; all others it replaces."""
KUBELET_REFRESH_SECONDS = 60
AGENT_NEEDS_SECONDS = 1
READY_NEEDS_SECONDS = 2
ENDING_NEEDS_SECONDS = 3


class OperatorEndedError(BaseException):
    """The operator's process ends here, as by SIGKILL."""


class NothingDueError(Exception):
    """All keys wait for something, or for a later time."""


@dataclass(frozen=True, slots=True)
class Write:
    """One mutating request of the operator that changed something or was answered."""

    verb: str
    kind: str
    name: str


@dataclass
class World(Cluster):
    """The state of everything, and its history as far as tests ask for it.

    at_source: versions that the agents find. broken: version → the error that its agents report. quota: most pods.
    unschedulable: revisions' versions whose pods find no node. refuse: (verb, kind) → the error to answer with, as
    long as it stands. end_at: the operator ends after (True) or before (False) that write, counted from 1.
    """

    at_source: set[int] = field(default_factory=lambda: {1, 2, 3})
    broken: dict[int, Json] = field(default_factory=dict)
    unschedulable: set[int] = field(default_factory=set)
    fetching: set[int] = field(default_factory=set)
    quota: int | None = None
    refuse: dict[tuple[str, str], Refusal] = field(default_factory=dict)
    end_at: tuple[int, bool] | None = None
    objects: dict[Slot, Json] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    holds_garbage: bool = False
    seconds: int = 0
    least_ready: int = 0
    reads: int = 0
    _news: list[tuple[str, Json]] = field(default_factory=list)
    _version: int = 100
    _made: int = 0
    requests: int = 0
    _mounted: dict[str, tuple[int, Json]] = field(default_factory=dict)

    # ---- time

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    # ---- what Cluster offers

    async def read(self, kind: str, namespace: str, name: str) -> Json | None:
        self.reads += 1
        return copy.deepcopy(self.objects.get((kind, name)))

    async def create(self, manifest: Json) -> Json | None:
        slot = _slot(manifest)
        self._admit("create", *slot)
        if slot in self.objects:
            return None
        return self._answer("create", {**manifest, "metadata": self._store(manifest)["metadata"]})

    async def apply(self, manifest: Json, uid: str) -> Json:
        slot = _slot(manifest)
        self._admit("apply", *slot)
        live = self.objects.get(slot)
        if live is None or live["metadata"]["uid"] != uid:
            raise TransientError(f"apply {slot}", 409, "the uid in the precondition is another")
        if manifest["kind"] == "ControllerRevision" and live["data"] != manifest["data"]:
            raise ClusterError(f"apply {slot}", 422, "data: field is immutable")
        return self._answer("apply", {**manifest, "metadata": self._store(_applied(live, manifest))["metadata"]})

    async def apply_status(self, namespace: str, name: str, uid: str, status: Json) -> Json:
        self._admit("status", KIND, name)
        live = self.objects.get((KIND, name))
        if live is None or live["metadata"]["uid"] != uid:
            raise ClusterError("status", 404, "not found")
        return self._answer("status", self._store({**live, "status": copy.deepcopy(status)}))

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        self._admit("delete", kind, name)
        live = self.objects.get((kind, name))
        if live is not None and live["metadata"]["uid"] == uid:
            self._answer("delete", live)
            self._remove((kind, name))

    async def annotate_pod(self, namespace: str, name: str, annotation: str, value: str) -> Json | None:
        self._admit("annotate", "Pod", name)
        live = self.objects.get(("Pod", name))
        if live is None:
            return None
        annotations = {**(live["metadata"].get("annotations") or {}), annotation: value}
        return self._answer(
            "annotate", self._store({**live, "metadata": {**live["metadata"], "annotations": annotations}})
        )

    async def post_event(self, namespace: str, event: Json) -> None:
        self.events.append(event)

    def _admit(self, verb: str, kind: str, name: str) -> None:
        self.requests += 1
        if self.end_at == (self.requests, False):
            raise OperatorEndedError
        refusal = self.refuse.get((verb, kind))
        error = refusal(name) if refusal else None
        if error is not None:
            raise error

    def _answer(self, verb: str, answer: Json) -> Json:
        self.writes.append(Write(verb, answer["kind"], answer["metadata"]["name"]))
        if self.end_at == (self.requests, True):
            raise OperatorEndedError
        return copy.deepcopy(answer)

    # ---- the API server's store

    def _store(self, body: Json) -> Json:
        """Write an object whole. Nothing happens when it stands so already."""
        slot = _slot(body)
        known = self.objects.get(slot)
        if known is not None and _plain(known) == _plain(body):
            return known
        made = copy.deepcopy(body)
        meta = made["metadata"]
        if known is None:
            meta.setdefault("uid", f"uid-{self._next_number()}")
            meta["generation"] = 1
        elif known.get("spec") != made.get("spec"):
            meta["generation"] = known["metadata"]["generation"] + 1
        if slot[0] == "Deployment":
            made["spec"] = _with_defaults(made["spec"])
        self._version += 1
        meta["resourceVersion"] = str(self._version)
        self.objects[slot] = made
        self._news.append(("MODIFIED", copy.deepcopy(made)))
        return made

    def _remove(self, slot: Slot) -> None:
        gone = self.objects.pop(slot)
        self._version += 1
        gone["metadata"]["resourceVersion"] = str(self._version)
        self._news.append(("DELETED", gone))

    def _next_number(self) -> int:
        self._made += 1
        return self._made

    def _collect_garbage(self) -> None:
        """Remove what an owner left behind; pods end slowly."""
        if self.holds_garbage:
            return
        alive = {live["metadata"]["uid"] for live in self.objects.values()}
        for slot, live in list(self.objects.items()):
            owners = live["metadata"].get("ownerReferences") or []
            if owners and not any(owner["uid"] in alive for owner in owners):
                if slot[0] == "Pod":
                    self._end(live)
                else:
                    self._remove(slot)

    # ---- people

    def edit(self, changes: Mapping[str, Any], *, name: str = NAME) -> None:
        """A person applies a ModelDeployment; the first edit creates it."""
        known = self.objects.get((KIND, name))
        made = body({}, name=name) if known is None else known
        if known is None:
            del made["metadata"]["uid"]
        self._store({**made, "spec": merged(made["spec"], changes)})

    def tamper(self, kind: str, name: str, changes: Mapping[str, Any]) -> None:
        """Someone else edits an object."""
        self._store(merged(self.objects[kind, name], changes))

    def put_foreign(self, kind: str, name: str, **parts: Any) -> None:
        """An object of someone else's."""
        self._store({"kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, **parts})

    def lose(self, kind: str, name: str) -> None:
        """Someone deletes an object; what it owns goes with it."""
        self._remove((kind, name))
        self._collect_garbage()
        self._collect_garbage()

    def delete_slowly(self, name: str) -> None:
        """Someone deletes a ModelDeployment, and the garbage collector is not there."""
        self.holds_garbage = True
        self._remove((KIND, name))

    def lose_status(self) -> None:
        """The object comes back from a backup, without its status."""
        self._store({part: value for part, value in self.objects[KIND, NAME].items() if part != "status"})

    # ---- controllers, kubelets, agents

    def play(self) -> None:
        """One second."""
        self.seconds += 1
        self._collect_garbage()
        for (kind, _), body_ in sorted(self.objects.items()):
            if kind == "Deployment":
                self._play_deployment(body_)
        for (kind, _), body_ in sorted(self.objects.items()):
            if kind == "Pod":
                self._play_pod(body_)

    def _play_deployment(self, deployment: Json) -> None:
        name, uid = deployment["metadata"]["name"], deployment["metadata"]["uid"]
        template, wanted = deployment["spec"]["template"], deployment["spec"]["replicas"]
        pods = [
            pod
            for (kind, _), pod in sorted(self.objects.items())
            if kind == "Pod" and pod["metadata"]["ownerReferences"][0]["uid"] == uid and not _is_ending(pod)
        ]
        all_pods = sum(kind == "Pod" for kind, _ in self.objects)
        failure = None
        for _ in range(wanted - len(pods)):
            if self.quota is not None and all_pods >= self.quota:
                failure = {
                    "type": "ReplicaFailure",
                    "status": "True",
                    "reason": "FailedCreate",
                    "message": f'pods "{name}-" is forbidden: exceeded quota: small, requested: pods=1, used: '
                    f"pods={self.quota}, limited: pods={self.quota}",
                }
                break
            all_pods += 1
            self._make_pod(name, uid, template)
        # As the ReplicaSet controller: pods that are not ready go first, then the youngest.
        for pod in sorted(pods, key=lambda pod: (is_ready(pod), -pod["born"]))[: max(0, len(pods) - wanted)]:
            self._end(pod)
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            "conditions": [failure] if failure else [],
        }
        self._store({**deployment, "status": status})

    def _make_pod(self, owner: str, owner_uid: str, template: Json) -> None:
        number = self._next_number()
        self._store(
            {
                "kind": "Pod",
                "metadata": {
                    "name": f"{owner}-{number:04}",
                    "namespace": NAMESPACE,
                    "labels": dict(template["metadata"]["labels"]),
                    "ownerReferences": [{"uid": owner_uid, "kind": "ReplicaSet", "controller": True}],
                },
                "config": owner,  # the ConfigMap of a revision is called as its Deployment
                "images": [container["image"] for container in template["spec"]["containers"]],
                "born": self.seconds,
                "status": {"phase": "Pending"},
            }
        )

    def _end(self, pod: Json) -> None:
        if not _is_ending(pod):
            stamp = self.now().isoformat()
            self._store({**pod, "metadata": {**pod["metadata"], "deletionTimestamp": stamp}, "ended": self.seconds})

    def _play_pod(self, pod: Json) -> None:
        slot = _slot(pod)
        if _is_ending(pod):
            if self.seconds - pod["ended"] >= ENDING_NEEDS_SECONDS:
                self._remove(slot)
            return
        config = self._mount(pod)
        version = config["served"] if config else 0
        scheduled: Json = {"type": "PodScheduled", "status": "True"}
        if version in self.unschedulable:
            scheduled |= {
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are "
                "available: 1 No preemption victims found for incoming pod.",
            }
            self._store({**pod, "status": {"phase": "Pending", "conditions": [scheduled]}})
            return
        age = self.seconds - pod["born"]
        is_served = bool(config) and self._state_of(version, config) == "Available"
        status: Json = {"phase": "Pending", "conditions": [scheduled]}
        if age >= AGENT_NEEDS_SECONDS and config:
            status["podIP"] = "198.18.0.1"
            status["initContainerStatuses"] = [{"name": "agent", "image": "agent", "state": {"running": {}}}]
        if age >= READY_NEEDS_SECONDS:
            status["phase"] = "Running"
            status["conditions"] = [scheduled, {"type": "Ready", "status": "True" if is_served else "False"}]
        self._store({**pod, "status": status})

    def _mount(self, pod: Json) -> Json:
        """agent.json as the pod sees it: refreshed when the pod is updated by the operator, or after a minute."""
        name, told = pod["metadata"]["name"], (pod["metadata"].get("annotations") or {}).get(CONFIG_ANNOTATION)
        since, config = self._mounted.get(name, (-KUBELET_REFRESH_SECONDS, {}))
        live = self.objects.get(("ConfigMap", pod["config"]))
        if live is not None and (self.seconds - since >= KUBELET_REFRESH_SECONDS or told != config.get("told")):
            config = {**json.loads(live["data"][AGENT_CONFIG_KEY]), "told": told}
            self._mounted[name] = (self.seconds, config)
        return config

    def _state_of(self, version: int, config: Json) -> str:
        if version in self.fetching:
            return "Fetching"
        return "Failed" if version in self.broken or version not in self.at_source else "Available"

    def report_of(self, pod_name: str) -> Json | None:
        """What the agent of a pod answers to GET /status."""
        _, config = self._mounted.get(pod_name, (0, {}))
        if not config:
            return None
        versions, error = [], None
        for version in config["load"]:
            state = self._state_of(version, config)
            found = self.broken.get(version) or {
                "reason": "VersionNotFound",
                "permanent": True,
                "message": f"{config['source']['uri']} has no version {version}; correct spec.model",
            }
            is_bad = state == "Failed"
            versions.append(
                {
                    "version": version,
                    "state": state,
                    "reason": found["reason"] if is_bad else "",
                    "message": found["message"] if is_bad else "",
                    "sha256": None if is_bad else f"{version:064x}",
                }
            )
            if is_bad and version == config["served"]:
                error = found
        return {
            "schema": 1,
            "generation": config["generation"],
            "served": config["served"],
            "ready": self._state_of(config["served"], config) == "Available",
            "listed": sorted(self.at_source),
            "versions": versions,
            "error": error,
        }

    # ---- what tests ask

    def news(self) -> list[tuple[str, Json]]:
        """What happened since the last time this was asked: the watch."""
        news, self._news = self._news, []
        return news

    def deployment(self, name: str = NAME) -> Json:
        return self.objects[KIND, name]

    def named(self, kind: str) -> list[str]:
        """The names of all objects of a kind."""
        return sorted(name for other, name in self.objects if other == kind)

    def pods(self) -> list[Json]:
        """Pods that are not ending."""
        return [pod for (kind, _), pod in sorted(self.objects.items()) if kind == "Pod" and not _is_ending(pod)]

    def ready_by_version(self) -> dict[int, int]:
        """Served version → ready pods."""
        found: dict[int, int] = {}
        for pod in self.pods():
            if is_ready(pod):
                version = self._mounted[pod["metadata"]["name"]][1]["served"]
                found[version] = found.get(version, 0) + 1
        return found

    def agent_config(self, revision: str, name: str = NAME) -> Json:
        """agent.json of a revision."""
        config: Json = json.loads(self.objects["ConfigMap", f"{name}-{revision}"]["data"][AGENT_CONFIG_KEY])
        return config

    def conditions(self, name: str = NAME) -> dict[str, tuple[str, str]]:
        """Condition type → (status, reason)."""
        found = self.deployment(name)["status"]["conditions"]
        return {condition["type"]: (condition["status"], condition["reason"]) for condition in found}

    def message(self, condition: str, name: str = NAME) -> str:
        found = self.deployment(name)["status"]["conditions"]
        return next(str(c["message"]) for c in found if c["type"] == condition)

    def state(self) -> Json:
        """Everything that should not depend on how the operator got here: no times, uids and pods' names."""
        found: Json = {}
        for (kind, name), live in sorted(self.objects.items()):
            if kind == "Pod":
                continue
            part: Json = copy.deepcopy({key: live[key] for key in ("spec", "data", "revision") if key in live})
            found[f"{kind}/{name}"] = part
            if kind == KIND:
                status = copy.deepcopy(live.get("status") or {})
                status.pop("settled", None)
                for condition in status.get("conditions", []):
                    condition.pop("lastTransitionTime")
                for entry in status.get("rejected", []):
                    entry.pop("at")
                part["status"] = status
        found["ready"] = self.ready_by_version()
        return found


class PlayedAgents(Agents):
    """Asks the world's agents instead of pods' addresses."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def read_reports(self, pods: Iterable[Pod]) -> dict[str, AgentReport]:
        found = {}
        for pod in pods:
            report = read_report(self._world.report_of(pod.name)) if pod.ip and not pod.is_ending else None
            if report is not None:
                found[pod.uid] = report
        return found


class PlayedQueue(Queue[Key]):
    """Due times on the world's clock; `take` never waits."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.due: dict[Key, float] = {}

    async def wake(self, key: Key, delay_seconds: float = 0.0) -> None:
        self.due[key] = min(self.due.get(key, float("inf")), self._world.seconds + delay_seconds)

    async def take(self) -> Key:
        key = min(self.due, key=lambda key: self.due[key], default=None)
        if key is None or self.due[key] > self._world.seconds:
            raise NothingDueError
        del self.due[key]
        return key

    async def done(self, key: Key) -> None:
        """Passes follow one another here."""


class Operator:
    """One life of the operator in a world: cache, queue and reconciler, filled as at a start.

    lag_seconds: how late watches deliver. misses: kinds whose events never come.
    """

    def __init__(self, world: World, images: Images = IMAGES, *, lag_seconds: int = 0) -> None:
        self.world = world
        self._lag_seconds = lag_seconds
        self.misses: set[str] = set()
        self._late: list[tuple[int, str, Json]] = []
        self.cache = Cache()
        self.queue = PlayedQueue(world)
        clock = Clock(world.now, lambda: float(world.seconds))
        self._reconciler = Reconciler(world, PlayedAgents(world), self.cache, self.queue, images, clock)
        world.news()
        for (kind, _), live in sorted(world.objects.items(), key=lambda item: item[0][0] == KIND):
            if (key := self.cache.put(kind, live)) and kind == KIND:
                self.queue.due[key] = world.seconds

    def _delivered(self) -> list[tuple[str, Json]]:
        """What the watches deliver now."""
        now = self.world.seconds
        news = [(event, live) for event, live in self.world.news() if live["kind"] not in self.misses]
        self._late += [(now + self._lag_seconds, event, live) for event, live in news]
        due = [(event, live) for at, event, live in self._late if at <= now]
        self._late = [news for news in self._late if news[0] > now]
        return due

    async def pass_all(self) -> None:
        """Deliver the news and pass all keys that are due, until nothing is. Raises OperatorEndedError."""
        for _ in range(50):
            for event, live in self._delivered():
                key = (self.cache.drop if event == "DELETED" else self.cache.put)(live["kind"], live)
                if key is not None:
                    await self.queue.wake(key)
            try:
                await self._reconciler.work()
            except NothingDueError:
                if not self.world._news:
                    return
        raise AssertionError(f"the operator does not come to rest: {self.world.writes[-10:]}")


def run(operator: Operator, seconds: int = 60) -> None:
    """Let the world and the operator live for so long. Keeps the fewest ready pods that were seen in between."""
    asyncio.run(_run(operator, seconds))


async def _run(operator: Operator, seconds: int) -> None:
    world = operator.world
    world.least_ready = sum(world.ready_by_version().values())
    for _ in range(seconds):
        await operator.pass_all()
        world.play()
        world.least_ready = min(world.least_ready, sum(world.ready_by_version().values()))
    await operator.pass_all()


def writes_of(operator: Operator, seconds: int = 120) -> list[Write]:
    """What the operator writes in so many seconds."""
    before = len(operator.world.writes)
    run(operator, seconds)
    return operator.world.writes[before:]


def is_ready(pod: Json) -> bool:
    """Whether the pod's condition Ready is True."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def _is_ending(pod: Json) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _slot(body: Mapping[str, Any]) -> Slot:
    return body["kind"], body["metadata"]["name"]


def _plain(body: Mapping[str, Any]) -> Json:
    """An object without what the store itself counts."""
    meta = {key: value for key, value in body["metadata"].items() if key not in ("resourceVersion", "generation")}
    return {**body, "metadata": meta}


def _applied(live: Any, manifest: Any, name: str = "") -> Any:
    """A server-side apply as far as our manifests go: maps merged, list-maps by their keys, the rest replaced."""
    match live, manifest:
        case dict(), dict():
            return {**live, **{key: _applied(live.get(key), value, key) for key, value in manifest.items()}}
        case list(), list() if name in APPLY_KEYS and all(isinstance(item, dict) for item in manifest):
            keys = APPLY_KEYS[name] if name != "ports" or "port" not in manifest[0] else ("port", "protocol")
            merged_items = {tuple(item.get(key) for key in keys): item for item in live}
            for item in manifest:
                identity = tuple(item.get(key) for key in keys)
                merged_items[identity] = _applied(merged_items.get(identity, {}), item)
            return list(merged_items.values())
    return copy.deepcopy(manifest)


def _with_defaults(spec: Json) -> Json:
    """Some of what the API server adds to a Deployment, and quantities as it writes them."""
    spec = copy.deepcopy(spec)
    spec.setdefault("progressDeadlineSeconds", 600)
    pod = spec["template"]["spec"]
    pod.setdefault("dnsPolicy", "ClusterFirst")
    pod.setdefault("schedulerName", "default-scheduler")
    for container in [*pod["initContainers"], *pod["containers"]]:
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        for amounts in container.get("resources", {}).values():
            for resource, amount in amounts.items():
                if str(amount).endswith("000m"):
                    amounts[resource] = str(amount).removesuffix("000m")
    return spec
