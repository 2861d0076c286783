"""A cluster as a dictionary, and who lives in it: API server, controllers, kubelets, agents, routers, clients, a clock.

It plays just enough of Kubernetes for the operator's shell to run unchanged on it, second by second and always in the
same order. Only the operator's writes are counted and kept.
Invariant: nothing here knows how the operator decides; what a pod does follows from the objects alone and from what
the test says about the world (which versions are at the source, which are broken, how large the quota is, how well a
version answers). A router splits by the configuration that it has mounted, and says so.
"""

from __future__ import annotations

import asyncio
import json
import marshal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar, cast

from slipway import follow
from slipway.agents import Agents, Listing
from slipway.api.v1alpha1 import KIND
from slipway.cache import Cache, Key
from slipway.cluster import Cluster, ClusterError, TransientError
from slipway.evidence import LATENCY_BOUNDS_MILLISECONDS, Counts, Reading
from slipway.manifests import (
    AGENT_CONFIG_KEY,
    CONFIG_ANNOTATION,
    MERGE_KEYS,
    REVISION_LABEL,
    ROUTER_CONFIG_ANNOTATION,
    Images,
)
from slipway.observe import AgentReport, Pod, read_found, read_report
from slipway.queue import Queue
from slipway.reconcile import Clock, Reconciler
from slipway.routers import Routers
from slipway.server_counts import ServerCounts
from slipway.traffic.envoy import CLUSTERS_KEY, ROUTES_KEY
from slipway.traffic.router import RouterPod, RouterReport, is_of_router
from slipway.traffic.server_metrics import Counter
from tests.unit.specs import IMAGES, NAME, NAMESPACE, Json, body, merged

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
Refusal = Callable[[str], Exception | None]
"""The name of an object → the error that a write to it is answered with."""
T = TypeVar("T")
Slot = tuple[str, str]
"""Kind and name; everything is in one namespace."""

APPLY_KEYS = {**MERGE_KEYS, "ownerReferences": ("uid",)}
"""Lists that an apply merges by keys; all others it replaces."""
KUBELET_REFRESH_SECONDS = 60
AGENT_NEEDS_SECONDS = 1
READY_NEEDS_SECONDS = 2
ENDING_NEEDS_SECONDS = 3
ROUTER_NEEDS_SECONDS = 3
GOOD_MILLISECONDS = 10.0
SIGNATURE: Json = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}],
}
"""Of every version for which a test says nothing else."""

LOOP = asyncio.new_event_loop()
"""One for all: what an operator does between two passes goes on from one `run` to the next. conftest.py closes it."""
follow.NEWS_PAUSE_SECONDS = 0.0


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
class Tally:
    """Answers of one carrier, as one of those who count saw them; whole ones are told."""

    requests: float = 0
    errors: float = 0
    within: list[float] = field(default_factory=lambda: [0.0] * len(LATENCY_BOUNDS_MILLISECONDS))

    def add(self, requests: float, error_rate: float, milliseconds: float) -> None:
        self.requests += requests
        self.errors += requests * error_rate
        for number, bound in enumerate(LATENCY_BOUNDS_MILLISECONDS):
            self.within[number] += requests if milliseconds <= bound else 0

    def told(self) -> Counts:
        return Counts(int(self.requests), int(self.errors), 0, tuple(int(count) for count in self.within))


@dataclass
class World(Cluster):
    """The state of everything, and its history as far as tests ask for it.

    at_source: versions that the agents find. changed: version → another content of it since. heavy: versions that fit
    into a server only by themselves. slow: versions that take for ever to load. broken: version → the error that its
    agents report. quota: most pods.
    unschedulable: revisions' versions whose pods find no node. refuse: (verb, kind) → the error to answer with, as
    long as it stands. end_at: the operator ends after (True) or before (False) that write, counted from 1.
    wrong: versions that answer golden requests wrongly. signatures: version → what it takes and gives.
    requests_per_second: of all clients, to Service NAME. error_rate, milliseconds: version → how it answers.
    answered: version → answers so far; lost: requests that reached no pod. are_silent: routers can't be asked;
    are_mute: agents can't. quiet: pods of which neither can.
    is_deaf: nudges don't reach the last router's kubelet.
    routed: the weights of every configuration that routers were given.
    """

    at_source: set[int] = field(default_factory=lambda: {1, 2, 3})
    changed: dict[int, str] = field(default_factory=dict)
    heavy: set[int] = field(default_factory=set)
    slow: set[int] = field(default_factory=set)
    broken: dict[int, Json] = field(default_factory=dict)
    unschedulable: set[int] = field(default_factory=set)
    fetching: set[int] = field(default_factory=set)
    wrong: set[int] = field(default_factory=set)
    signatures: dict[int, Json] = field(default_factory=dict)
    requests_per_second: float = 0
    error_rate: dict[int, float] = field(default_factory=dict)
    milliseconds: dict[int, float] = field(default_factory=dict)
    answered: dict[int, float] = field(default_factory=dict)
    lost: float = 0
    are_silent: bool = False
    are_mute: bool = False
    quiet: set[str] = field(default_factory=set)
    is_deaf: bool = False
    routed: list[dict[str, int]] = field(default_factory=list)
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
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    _news: list[tuple[str, Json]] = field(default_factory=list)
    _version: int = 100
    _made: int = 0
    requests: int = 0
    _mounted: dict[str, tuple[int, Json]] = field(default_factory=dict)
    _loaded: dict[str, set[int]] = field(default_factory=dict)
    _served_by: dict[str, int] = field(default_factory=dict)
    _nudged: dict[str, int] = field(default_factory=dict)
    _crashed: dict[str, datetime] = field(default_factory=dict)
    _counted: dict[tuple[str, str], Tally] = field(default_factory=dict)

    # ---- time

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    # ---- what Cluster offers

    async def read(self, kind: str, namespace: str, name: str) -> Json | None:
        self.reads += 1
        return _copy(self.objects.get((kind, name)))

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
        return self._answer("status", self._store({**live, "status": _received(status)}))

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        self._admit("delete", kind, name)
        live = self.objects.get((kind, name))
        if live is not None and live["metadata"]["uid"] == uid:
            self._remove((kind, name))
            self._answer("delete", live)

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
        return _copy(answer)

    # ---- the API server's store

    def _store(self, body: Json) -> Json:
        """Write an object whole. Nothing happens when it stands so already."""
        slot = _slot(body)
        known = self.objects.get(slot)
        if known is not None and _plain(known) == _plain(body):
            return known
        made = _received(body)
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
        if slot[0] == "ConfigMap" and ROUTES_KEY in (made.get("data") or {}):
            self.routed.append(_told_by(made["data"])["weights"])
        self._news.append(("MODIFIED", _copy(made)))
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
                    self.end(live)
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

    def crash(self, version: int) -> None:
        """The servers of all pods that serve a version end by themselves, and are started again."""
        for pod in self.pods():
            if max(self._loaded.get(pod["metadata"]["name"], set()), default=None) == version:
                self._crashed[pod["metadata"]["name"]] = self.now()

    def command(self, verb: str, revision: str, number: int = 1) -> None:
        """A person's command, as the CLI writes it."""
        annotations = {"slipway.dev/command": f"{verb}/{revision}/{number}"}
        known = self.objects[KIND, NAME]
        self._store({**known, "metadata": {**known["metadata"], "annotations": annotations}})

    # ---- controllers, kubelets, agents

    def play(self) -> None:
        """One second."""
        self.seconds += 1
        for second in self.waiting:
            if not second.done():
                second.set_result(None)
        self.waiting.clear()
        self._collect_garbage()
        for (kind, _), body_ in sorted(self.objects.items()):
            if kind == "Deployment":
                self._play_deployment(body_)
        for (kind, _), body_ in sorted(self.objects.items()):
            if kind == "Pod":
                (self._play_router if is_of_router(body_) else self._play_pod)(body_)
        self._play_clients()

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
            self.end(pod)
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

    def end(self, pod: Json) -> None:
        """A pod is told to end: it serves no longer, and goes some seconds later."""
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
        version = (config["served"] or 0) if config else 0
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
        is_served = self._load(pod["metadata"]["name"], config) if config and age >= READY_NEEDS_SECONDS - 1 else False
        status: Json = {"phase": "Pending", "conditions": [scheduled]}
        if age >= AGENT_NEEDS_SECONDS and config:
            status["podIP"] = "198.18.0.1"
            status["initContainerStatuses"] = [{"name": "agent", "image": "agent", "state": {"running": {}}}]
        if age >= READY_NEEDS_SECONDS:
            status["phase"] = "Running"
            status["conditions"] = [scheduled, {"type": "Ready", "status": "True" if is_served else "False"}]
        if ended := self._crashed.get(pod["metadata"]["name"]):
            words = {"exitCode": 139, "message": "segmentation fault", "finishedAt": ended.isoformat()}
            server = {"name": "server", "image": "server", "state": {"running": {}}, "lastState": {"terminated": words}}
            status["containerStatuses"] = [{**server, "restartCount": 1}]
        self._store({**pod, "status": status})

    def _play_router(self, pod: Json) -> None:
        slot = _slot(pod)
        if _is_ending(pod):
            if self.seconds - pod["ended"] >= ENDING_NEEDS_SECONDS:
                self._remove(slot)
            return
        config = self._mount_router(pod)
        status: Json = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}
        if config and self.seconds - pod["born"] >= ROUTER_NEEDS_SECONDS:
            envoy = {"name": "envoy", "image": "router", "state": {"running": {}}, "restartCount": 0}
            ready = {"type": "Ready", "status": "True"}
            status = {
                "phase": "Running",
                "podIP": "198.18.0.2",
                "conditions": [*status["conditions"], ready],
                "containerStatuses": [envoy],
            }
        self._store({**pod, "status": status})

    def _mount_router(self, pod: Json) -> Json:
        """The routers' configuration as one sees it: refreshed as an agent's."""
        name = pod["metadata"]["name"]
        told = (pod["metadata"].get("annotations") or {}).get(ROUTER_CONFIG_ANNOTATION)
        since, config = self._mounted.get(name, (-KUBELET_REFRESH_SECONDS, {}))
        live = self.objects.get(("ConfigMap", pod["config"]))
        number = [router["metadata"]["name"] for router in self.routers()].index(name)
        is_deaf = self.is_deaf and number == len(self.routers()) - 1
        is_nudged = False
        if told != config.get("told") and not is_deaf:
            # Each kubelet takes another time, so that routers differ for a moment.
            is_nudged = self.seconds - self._nudged.setdefault(name, self.seconds) >= number
        if live is not None and (self.seconds - since >= KUBELET_REFRESH_SECONDS or is_nudged):
            config = {"data": live["data"], "told": told}
            self._nudged.pop(name, None)
            self._mounted[name] = (self.seconds, config)
        return config

    # ---- clients

    def _play_clients(self) -> None:
        """A second of requests, spread evenly over what the Service selects."""
        service = self.objects.get(("Service", NAME))
        if not self.requests_per_second or service is None:
            return
        selector = service["spec"]["selector"]
        reached = [pod for pod in self.pods() if is_ready(pod) and selector.items() <= _labels(pod).items()]
        if not reached:
            self.lost += self.requests_per_second
        for pod in reached:
            share = self.requests_per_second / len(reached)
            if is_of_router(pod):
                self._route(pod, share)
            else:
                self._answer_clients(pod, share)

    def _route(self, router: Json, requests: float) -> None:
        told = _told_by(self._mounted[router["metadata"]["name"]][1]["data"])
        for carrier, weight in told["weights"].items():
            endpoints, share = self.endpoints(carrier), requests * weight / 100
            if share and not endpoints:
                self.lost += share
            for pod in endpoints:
                rate, milliseconds = self._answer_clients(pod, share / len(endpoints))
                counted = self._counted.setdefault((router["metadata"]["uid"], carrier), Tally())
                counted.add(share / len(endpoints), rate, milliseconds)

    def _answer_clients(self, pod: Json, requests: float) -> tuple[float, float]:
        """A pod answers. Returns how: the share of errors, and the time it takes."""
        version = max(self._loaded[pod["metadata"]["name"]])
        rate, milliseconds = self.error_rate.get(version, 0.0), self.milliseconds.get(version, GOOD_MILLISECONDS)
        self.answered[version] = self.answered.get(version, 0) + requests
        key = (pod["metadata"]["uid"], _labels(pod)[REVISION_LABEL])
        self._counted.setdefault(key, Tally()).add(requests, rate, milliseconds)
        return rate, milliseconds

    def endpoints(self, carrier: str) -> list[Json]:
        """The ready pods behind a carrier's headless Service."""
        service = self.objects.get(("Service", f"{NAME}-{carrier}"))
        if service is None:
            return []
        selector = service["spec"]["selector"].items()
        return [pod for pod in self.pods() if is_ready(pod) and selector <= _labels(pod).items()]

    def router_report(self, pod: RouterPod) -> RouterReport | None:
        """What a router says of itself."""
        _, config = self._mounted.get(pod.name, (0, {}))
        if not config or self.are_silent or pod.name in self.quiet:
            return None
        told = _told_by(config["data"])
        clusters = json.loads(config["data"][CLUSTERS_KEY])["resources"]
        known = {each["name"].partition("/")[2] for each in clusters}
        counts = {carrier: tally.told() for (uid, carrier), tally in self._counted.items() if uid == pod.uid}
        endpoints = {carrier: len(self.endpoints(carrier)) for carrier in known}
        return RouterReport(pod.source, told["generation"], told["weights"], endpoints, counts)

    def server_counts(self, pod: Pod) -> Counts:
        """What a pod's own server counted."""
        return self._counted.get((pod.uid, pod.carrier), Tally()).told()

    def _mount(self, pod: Json) -> Json:
        """agent.json as the pod sees it: refreshed when the pod is updated by the operator, or after a minute."""
        name, told = pod["metadata"]["name"], (pod["metadata"].get("annotations") or {}).get(CONFIG_ANNOTATION)
        since, config = self._mounted.get(name, (-KUBELET_REFRESH_SECONDS, {}))
        live = self.objects.get(("ConfigMap", pod["config"]))
        if live is not None and (self.seconds - since >= KUBELET_REFRESH_SECONDS or told != config.get("told")):
            config = {**json.loads(live["data"][AGENT_CONFIG_KEY]), "told": told}
            self._mounted[name] = (self.seconds, config)
        return config

    def _load(self, pod_name: str, config: Json) -> bool:
        """The agent has its server load what it is told to. Returns whether the pod may get traffic."""
        if config.get("golden") and config["served"] in self.wrong:
            self._loaded[pod_name] = set(config["load"]) - self.wrong
            return False
        loaded = self._loaded.setdefault(pod_name, set())
        served, before = config["served"], self._served_by.get(pod_name)
        loaded |= {version for version in config["load"] if self._state_of(version, loaded) == "Available"}
        if served in loaded:
            self._served_by[pod_name] = served
            loaded &= set(config["load"])
        return served in loaded or before in loaded

    def _state_of(self, version: int, loaded: set[int]) -> str:
        if version in self.fetching:
            return "Fetching"
        if version in self.broken or version not in self.at_source or (loaded - {version} and version in self.heavy):
            return "Failed"
        return "Loading" if version in self.slow else "Available"

    def _failure_of(self, version: int, config: Json) -> Json:
        """What an agent says of a version that it can't have."""
        if version in self.broken:
            return self.broken[version]
        if version in self.wrong:
            words = "golden request 1: outputs[0].data[3] is 0.2, expected 0.9"
            return {"reason": "GoldenFailed", "permanent": True, "message": words}
        if version in self.heavy:
            words = f"version {version} needs 3.0 GiB beside 2.0 GiB of version 1, and the limit is 4.0 GiB"
            return {"reason": "NotEnoughMemory", "permanent": True, "message": words}
        return {
            "reason": "VersionNotFound",
            "permanent": True,
            "message": f"{config['source']['uri']} has no version {version}; correct spec.model",
        }

    def report_of(self, pod_name: str) -> Json | None:
        """What the agent of a pod answers to GET /status."""
        _, config = self._mounted.get(pod_name, (0, {}))
        if not config:
            return None
        versions, error = [], None
        loaded = self._loaded.get(pod_name, set())
        for version in sorted({*config["load"], *loaded}):
            state = "Available" if version in loaded else self._state_of(version, loaded)
            state = "Failed" if config.get("golden") and version in self.wrong else state
            state = state if version in config["load"] else "Unloading"
            found = self._failure_of(version, config)
            is_bad = state == "Failed"
            versions.append(
                {
                    "version": version,
                    "state": state,
                    "reason": found["reason"] if is_bad else "",
                    "message": found["message"] if is_bad else "",
                    "sha256": None if is_bad else f"{version:064x}",
                    "since": self.now().isoformat(),
                }
            )
            if is_bad and version == config["served"]:
                error = found
        return {
            "schema": 1,
            "generation": config["generation"],
            "served": config["served"],
            "ready": config["served"] in loaded,
            "serving": max(loaded, default=None),
            "listed": sorted(self.at_source),
            "found": self.found(),
            "versions": versions,
            "error": error,
            "signatures": {str(version): self.signatures.get(version, SIGNATURE) for version in loaded},
        }

    def found(self) -> dict[str, str]:
        """Version → stamp, as agents list the source."""
        return {str(version): self.changed.get(version, "first") for version in sorted(self.at_source)}

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

    def routers(self) -> list[Json]:
        """Of these, the routers."""
        return [pod for pod in self.pods() if is_of_router(pod)]

    def ready_by_version(self) -> dict[int, int]:
        """Version that an unversioned request gets → ready pods."""
        found: dict[int, int] = {}
        for pod in self.pods():
            if is_ready(pod) and not is_of_router(pod):
                version = max(self._loaded[pod["metadata"]["name"]])
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
            part: Json = _copy({key: live[key] for key in ("spec", "data", "revision") if key in live})
            found[f"{kind}/{name}"] = part
            if kind == KIND:
                status = _copy(live.get("status") or {})
                for time in ("settled", "bakeUntil", "evidence", "verdict"):
                    status.pop(time, None)
                told = [(each["revision"], each["reason"]) for each in status.pop("transitions", [])]
                status["transitions"] = sorted(set(told))
                status.get("lastCommand", {}).pop("at", None)
                status.get("step", {}).pop("since", None)
                for version in status.get("versions", []):
                    version.pop("since", None)
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
            is_quiet = self._world.are_mute or pod.name in self._world.quiet
            is_heard = pod.ip and not pod.is_ending and not is_quiet
            report = read_report(self._world.report_of(pod.name)) if is_heard else None
            if report is not None:
                found[pod.uid] = report
        return found

    async def await_listing(self, ip: str, after: str) -> Listing | None:
        """Answers when there is something new, second by second of the world."""
        while (token := json.dumps(self._world.found())) == after:
            second = LOOP.create_future()
            self._world.waiting.append(second)
            await second
        return Listing(token, read_found(self._world.found()))


class PlayedRouters(Routers):
    """Asks the world's routers instead of pods' addresses."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def read(self, pods: Iterable[RouterPod]) -> dict[str, RouterReport]:
        found = {pod.uid: self._world.router_report(pod) for pod in pods if pod.ip}
        return {uid: report for uid, report in found.items() if report is not None}


class PlayedServerCounts(ServerCounts):
    """Asks the world's servers."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def read(self, pods: Iterable[Pod], counters: Mapping[str, Counter]) -> Reading:
        asked = [pod for pod in pods if pod.is_ready and not pod.is_ending and pod.carrier in counters]
        return Reading({pod.uid: {pod.carrier: self._world.server_counts(pod)} for pod in asked})


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


LIVING: list[Operator] = []
"""Those that have not been closed."""


def close_all() -> None:
    """End what goes on between passes of all operators."""
    for operator in LIVING:
        operator._reconciler.close()
    LIVING.clear()
    LOOP.run_until_complete(asyncio.sleep(0))


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
        LIVING.append(self)
        self._reconciler = Reconciler(
            world,
            PlayedAgents(world),
            PlayedRouters(world),
            PlayedServerCounts(world),
            self.cache,
            self.queue,
            images,
            clock,
        )
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
            for _ in range(5):  # those who wait for a listing get their turn
                await asyncio.sleep(0)
            try:
                await self._reconciler.work()
            except NothingDueError:
                if not self.world._news:
                    return
        raise AssertionError(f"the operator does not come to rest: {self.world.writes[-10:]}")


def run(operator: Operator, seconds: int = 60) -> None:
    """Let the world and the operator live for so long. Keeps the fewest ready pods that were seen in between."""
    LOOP.run_until_complete(_run(operator, seconds))


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


def _told_by(data: Json) -> Json:
    """What a router with these files answers of itself: its generation and weights."""
    return _told_by_routes(data[ROUTES_KEY])


@cache
def _told_by_routes(text: str) -> Json:
    [routes] = json.loads(text)["resources"]
    [host] = [host for host in routes["virtual_hosts"] if host["name"] == "status"]
    told: Json = json.loads(host["routes"][0]["direct_response"]["body"]["inline_string"])
    return told


def _labels(body: Json) -> dict[str, str]:
    labels: dict[str, str] = body["metadata"].get("labels") or {}
    return labels


def _is_ending(pod: Json) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _received(value: T) -> T:
    """As it comes out of a request: what isn't JSON is refused, a tuple is a list."""
    received: T = json.loads(json.dumps(value))
    return received


def _copy(value: T) -> T:
    """Of what was received; eight times as fast as by way of JSON."""
    copied: T = marshal.loads(marshal.dumps(cast(Any, value)))
    return copied


def _slot(body: Mapping[str, Any]) -> Slot:
    return body["kind"], body["metadata"]["name"]


def _plain(body: Mapping[str, Any]) -> Json:
    """An object without what the store itself counts."""
    meta = {key: value for key, value in body["metadata"].items() if key not in ("resourceVersion", "generation")}
    return {**body, "metadata": meta}


def _applied(live: Any, manifest: Any, name: str = "") -> Any:
    """A server-side apply as far as our manifests go: maps merged, list-maps by their keys, the rest replaced.

    A selector is one value to it.
    """
    match live, manifest:
        case dict(), dict() if name != "selector":
            return {**live, **{key: _applied(live.get(key), value, key) for key, value in manifest.items()}}
        case list(), list() if name in APPLY_KEYS and all(isinstance(item, dict) for item in manifest):
            keys = APPLY_KEYS[name] if name != "ports" or "port" not in manifest[0] else ("port", "protocol")
            merged_items = {tuple(item.get(key) for key in keys): item for item in live}
            for item in manifest:
                identity = tuple(item.get(key) for key in keys)
                merged_items[identity] = _applied(merged_items.get(identity, {}), item)
            return list(merged_items.values())
    return _received(manifest)


def _with_defaults(spec: Json) -> Json:
    """Some of what the API server adds to a Deployment, and quantities as it writes them."""
    spec = _copy(spec)
    spec.setdefault("progressDeadlineSeconds", 600)
    pod = spec["template"]["spec"]
    pod.setdefault("dnsPolicy", "ClusterFirst")
    pod.setdefault("schedulerName", "default-scheduler")
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        for amounts in container.get("resources", {}).values():
            for resource, amount in amounts.items():
                if str(amount).endswith("000m"):
                    amounts[resource] = str(amount).removesuffix("000m")
    return spec
