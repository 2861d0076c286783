"""A cluster and who lives in it: API server, controllers, kubelets, agents, routers, clients, a clock.

It plays just enough of Kubernetes for the operator's shell to run unchanged on it, second by second and always in the
same order. What pods, agents and routers are and say is tests/simulation's.
Invariant: nothing here knows how the operator decides; what a pod does follows from the objects alone and from what
the test says about the world (which versions are at the source, which are broken, how large the quota is, how well a
version answers). A router splits by the configuration that it has mounted, and says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from slipway.api.v1alpha1 import KIND
from slipway.model.server_key import asked_secret
from slipway.model.signals import Counts
from slipway.observe.pods import Pod
from slipway.observe.router_reports import RouterPod, RouterReport
from tests.simulation import pods
from tests.simulation.agents import LOAD_FAILED, ORDERS_KEY, Agent, Source
from tests.simulation.pods import Json, is_ending, is_ready, is_router, nudge_of
from tests.simulation.requests import Answering, Tally
from tests.simulation.routers import ROUTES_KEY, Router, weights_in
from tests.transition.api_server import DictionaryCluster, copied, managed, slot_of
from tests.unit.specs import NAME, NAMESPACE, body, merged

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass
class World(Source, Answering, DictionaryCluster):
    """The state of everything, and its history as far as tests ask for it.

    quota: most pods. unschedulable: versions whose pods find no node; are_routers_unschedulable: theirs don't, either.
    dead_backends: pods whose servers answer every request with an error, and look well.
    homeless: pods that find no node. unpullable: images that no node gets. held: version → the status of pods that wait
    for something else (`tests.simulation.pods`: gated, pulling …). on_bad_nodes: pods in which nothing can be loaded.
    starting_anew: pods whose agents do; these are unready as long as they are named here.
    requests_per_second: of all clients, to Service NAME. answered: version → answers so far; lost: requests that
    reached no pod.
    are_silent: routers can't be asked; are_mute: agents can't. quiet: pods of which neither can.
    is_deaf: nudges don't reach the last router's kubelet.
    holds_garbage: what an owner left behind stays. routed: the weights of every configuration that routers were given.
    """

    unschedulable: set[int] = field(default_factory=set)
    are_routers_unschedulable: bool = False
    homeless: set[str] = field(default_factory=set)
    unpullable: set[str] = field(default_factory=set)
    held: dict[int, Json] = field(default_factory=dict)
    on_bad_nodes: set[str] = field(default_factory=set)
    starting_anew: set[str] = field(default_factory=set)
    dead_backends: set[str] = field(default_factory=set)
    quota: int | None = None
    requests_per_second: float = 0
    answered: dict[int, float] = field(default_factory=dict)
    lost: float = 0
    are_silent: bool = False
    are_mute: bool = False
    quiet: set[str] = field(default_factory=set)
    is_deaf: bool = False
    holds_garbage: bool = False
    routed: list[dict[str, int]] = field(default_factory=list)
    seconds: int = 0
    least_ready: int = 0
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    _agents: dict[str, Agent] = field(default_factory=dict)
    _routers: dict[str, Router] = field(default_factory=dict)
    _crashed: dict[str, int] = field(default_factory=dict)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def _store(self, body: Json) -> Json:
        known = self.objects.get(slot_of(body))
        stored = super()._store(body)
        if stored is not known and stored["kind"] == "ConfigMap" and ROUTES_KEY in (stored.get("data") or {}):
            self.routed.append(weights_in(stored))
        return stored

    # ---- people

    def edit(self, changes: Mapping[str, Any], *, name: str = NAME) -> None:
        """A person applies a ModelDeployment; the first edit creates it."""
        known = self.objects.get((KIND, name))
        made = body({}, name=name) if known is None else known
        if known is None:
            del made["metadata"]["uid"]
        self._store({**made, "spec": merged(made["spec"], changes)})

    def tamper(self, kind: str, name: str, changes: Mapping[str, Any], manager: str = "kubectl-edit") -> None:
        """Someone else edits an object."""
        self._store(managed(merged(self.objects[kind, name], changes), dict(changes), manager, "Update"))

    def put_foreign(self, kind: str, name: str, **parts: Any) -> None:
        """An object of someone else's."""
        self._store({"kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, **parts})

    def lose(self, kind: str, name: str) -> None:
        """Someone deletes an object; what it owns goes with it."""
        self._remove((kind, name))
        self._collect_garbage()
        self._collect_garbage()

    def orphan(self) -> None:
        """kubectl delete --cascade=orphan: the garbage collector takes the owner's name off what it owned."""
        gone = self.objects[KIND, NAME]["metadata"]["uid"]
        self._remove((KIND, NAME))
        for live in list(self.objects.values()):
            owners = live["metadata"].get("ownerReferences") or []
            left = [owner for owner in owners if owner["uid"] != gone]
            if left != owners:
                self._store({**live, "metadata": {**live["metadata"], "ownerReferences": left}})

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
            name = pod["metadata"]["name"]
            if name in self._agents and self._agents[name].serving == version:
                self._crashed[name] = self._crashed.get(name, 0) + 1

    def command(self, verb: str, revision: str, number: int = 1) -> None:
        """A person's command, as the CLI writes it."""
        annotations = {"slipway.dev/command": f"{verb}/{revision}/{number}"}
        known = self.objects[KIND, NAME]
        self._store({**known, "metadata": {**known["metadata"], "annotations": annotations}})

    # ---- controllers, kubelets

    def play(self) -> None:
        """One second."""
        self.seconds += 1
        for second in self.waiting:
            if not second.done():
                second.set_result(None)
        self.waiting.clear()
        self._collect_garbage()
        for (kind, _), live in sorted(self.objects.items()):
            if kind == "Deployment":
                self._play_deployment(live)
        for (kind, _), live in sorted(self.objects.items()):
            if kind == "Pod":
                self._play_pod(live)
        self._play_clients()

    def _play_deployment(self, deployment: Json) -> None:
        name, uid = deployment["metadata"]["name"], deployment["metadata"]["uid"]
        template, replicas = deployment["spec"]["template"], deployment["spec"]["replicas"]
        asked = asked_secret(template)
        here = [
            pod
            for (kind, _), pod in sorted(self.objects.items())
            if kind == "Pod" and pod["metadata"]["ownerReferences"][0]["uid"] == uid and not is_ending(pod)
        ]
        here = self._without_outdated(here, asked, replicas)
        all_pods = sum(kind == "Pod" for kind, _ in self.objects)
        made_of = json.dumps(template, sort_keys=True)
        new = [pod for pod in here if pod["made_of"] == made_of]
        old = [pod for pod in here if pod["made_of"] != made_of]
        failure = None
        # Rolling, one more than wanted; what is old goes when a new one is ready, and at once where it isn't ready.
        for _ in range(min(replicas - len(new), replicas + (1 if old else 0) - len(here))):
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
        spare = sum(map(is_ready, here)) - replicas
        for pod in sorted(old, key=lambda pod: (is_ready(pod), -pod["born"])) if old else []:
            if not is_ready(pod) or spare > 0:
                spare -= is_ready(pod)
                self.end(pod)
        for pod in sorted(new, key=lambda pod: (is_ready(pod), -pod["born"]))[: max(0, len(new) - replicas)]:
            self.end(pod)
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            "conditions": [failure] if failure else [],
        }
        self._store({**deployment, "status": status})

    def _without_outdated(self, here: list[Json], asked: str | None, replicas: int) -> list[Json]:
        """A rolling update to another Secret, one pod at a time. Returns those that count: one less while it lasts.

        Pods with the former one go when they aren't ready, or when enough others are.
        """
        ready = sum(map(is_ready, here))
        for pod in [pod for pod in here if pod["secret"] != asked]:
            if not is_ready(pod) or ready > replicas:
                ready -= is_ready(pod)
                here.remove(pod)
                self.end(pod)
        former = [pod for pod in here if pod["secret"] != asked]
        return [pod for pod in here if pod not in former[:1]]

    def _make_pod(self, owner: str, owner_uid: str, template: Json) -> None:
        name = f"{owner}-{self._next_number():04}"
        owners = [{"uid": owner_uid, "kind": "ReplicaSet", "controller": True}]
        meta = {"ownerReferences": owners, "annotations": template["metadata"].get("annotations", {})}
        made = pods.pod(name, template["metadata"]["labels"], pods.pending(), NAMESPACE, **meta)
        containers = [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]
        images = [container["image"] for container in containers]
        # The ConfigMap of a revision is called as its Deployment.
        kept = {"config": owner, "images": images, "made_of": json.dumps(template, sort_keys=True)}
        self._store({**made, **kept, "born": self.seconds, "secret": asked_secret(template)})

    def end(self, pod: Json) -> None:
        """A pod begins to end: it serves no longer, and goes some seconds later."""
        if not is_ending(pod):
            stamp = self.now().isoformat()
            self._store({**pod, "metadata": {**pod["metadata"], "deletionTimestamp": stamp}, "ended": self.seconds})

    def _play_pod(self, pod: Json) -> None:
        if is_ending(pod):
            if self.seconds - pod["ended"] >= pods.ENDING_NEEDS_SECONDS:
                self._remove(slot_of(pod))
        else:
            play = self._play_router if is_router(pod) else self._play_model_pod
            self._store({**pod, "status": play(pod, self.seconds - pod["born"])})

    def _play_model_pod(self, pod: Json, age: int) -> Json:
        """Its status at that age, after its agent did what there is to do."""
        name = pod["metadata"]["name"]
        agent = self._agents.setdefault(name, Agent())
        agent.is_dead = name in self.dead_backends
        live, nudge = self.objects.get(("ConfigMap", pod["config"])), nudge_of(pod, pods.CONFIG_ANNOTATION)
        if live is not None and agent.mount.is_due(nudge, self.seconds):
            agent.read(live["data"], nudge, self.seconds, name)
        if missing := self.unpullable & set(pod["images"]):
            return pods.unpulled("agent", *missing)
        if name in self.homeless or (agent.orders and agent.orders["served"] in self.unschedulable):
            return pods.unscheduled()
        if pod["secret"] and ("Secret", pod["secret"]) not in self.objects:
            is_kept = pod["status"].get("phase") == "Running" and name not in self.starting_anew
            if not is_kept:  # a container that runs has its variables
                at = self.now() - timedelta(seconds=age)
                return pods.keyless(pod["secret"], at.isoformat())
        if agent.orders and agent.orders["served"] in self.held:
            return self.held[agent.orders["served"]]
        is_served = age >= pods.READY_NEEDS_SECONDS - 1 and agent.follow(self._source_of(name), self.seconds)
        is_served = is_served and name not in self.starting_anew
        status = pods.model_pod_status(age, has_orders=agent.orders is not None, is_served=is_served)
        if ends := self._crashed.get(name):
            status["containerStatuses"] = [pods.crashed("segmentation fault", ends)]
        return status

    def _play_router(self, pod: Json, age: int) -> Json:
        """Its status at that age. Each kubelet takes another time to see a nudge: routers differ for a moment."""
        if self.are_routers_unschedulable:
            return pods.unscheduled()
        if missing := self.unpullable & set(pod["images"]):
            return pods.unpulled("envoy", *missing)
        names = [router["metadata"]["name"] for router in self.routers()]
        number = names.index(pod["metadata"]["name"])
        mount = self._router(pod["metadata"]["name"]).mount
        live, nudge = self.objects.get(("ConfigMap", pod["config"])), nudge_of(pod, pods.ROUTER_CONFIG_ANNOTATION)
        late_seconds = None if self.is_deaf and number == len(names) - 1 else number
        if mount.is_due(nudge, self.seconds, late_seconds) and live is not None:
            mount.read(live["data"], nudge, self.seconds)
        return pods.router_status(age, has_config=mount.data is not None)

    def _router(self, name: str) -> Router:
        return self._routers.setdefault(name, Router())

    # ---- clients

    def _play_clients(self) -> None:
        """A second of requests, spread evenly over what the Service selects."""
        if not self.requests_per_second or ("Service", NAME) not in self.objects:
            return
        reached = self._behind(NAME)
        if not reached:
            self.lost += self.requests_per_second
        for pod in reached:
            share = self.requests_per_second / len(reached)
            if is_router(pod):
                self._route(self._router(pod["metadata"]["name"]), share)
            else:
                self._answer_clients(pod, share)

    def _route(self, router: Router, requests: float) -> None:
        for workload, share in router.split(requests).items():
            endpoints = self.endpoints(workload)
            if share and not endpoints:
                self.lost += share
            for pod in endpoints:
                version = self._answer_clients(pod, share / len(endpoints))
                router.tally(workload).add(share / len(endpoints), version, self)

    def _answer_clients(self, pod: Json, requests: float) -> int:
        """A pod answers. Returns the version that did."""
        agent = self._agents[pod["metadata"]["name"]]
        version = max(agent.loaded)
        self.answered[version] = self.answered.get(version, 0) + requests
        agent.answers.add(requests, version, self)
        return version

    def endpoints(self, workload: str) -> list[Json]:
        """The ready pods behind a workload's headless Service."""
        return self._behind(f"{NAME}-{workload}")

    def _behind(self, name: str) -> list[Json]:
        """The ready pods that a Service selects."""
        service = self.objects.get(("Service", name))
        if service is None:
            return []
        selector = service["spec"]["selector"].items()
        return [pod for pod in self.pods() if is_ready(pod) and selector <= pod["metadata"]["labels"].items()]

    # ---- what pods answer

    def report_of(self, pod_name: str) -> Json | None:
        """GET /status of a pod's agent."""
        return self._agents.get(pod_name, Agent()).report(self._source_of(pod_name), self.now().isoformat())

    def _source_of(self, pod_name: str) -> Source:
        """The source, as it goes with it in that pod."""
        if pod_name not in self.on_bad_nodes:
            return self
        return Source(self.at_source, broken=dict.fromkeys(self.at_source, LOAD_FAILED))

    def router_report(self, pod: RouterPod) -> RouterReport | None:
        """What a router says of itself."""
        router = self._router(pod.name)
        if router.answer is None or self.are_silent or pod.name in self.quiet:
            return None
        counts = {workload: _counts(tally) for workload, tally in router.tallies.items()}
        endpoints = {name: len(self.endpoints(name)) for name in {each.partition("/")[2] for each in router.clusters}}
        return RouterReport(pod.source, router.answer["generation"], router.answer["weights"], endpoints, counts)

    def server_counts(self, pod: Pod) -> Counts:
        """What a pod's own server counted."""
        return _counts(self._agents.get(pod.name, Agent()).answers)

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

    # ---- what tests ask

    def deployment(self, name: str = NAME) -> Json:
        return self.objects[KIND, name]

    def named(self, kind: str) -> list[str]:
        """The names of all objects of a kind."""
        return sorted(name for other, name in self.objects if other == kind)

    def pods(self) -> list[Json]:
        """Pods that are not ending."""
        return [pod for (kind, _), pod in sorted(self.objects.items()) if kind == "Pod" and not is_ending(pod)]

    def routers(self) -> list[Json]:
        """Of these, the routers."""
        return [pod for pod in self.pods() if is_router(pod)]

    def ready_by_version(self) -> dict[int, int]:
        """Version that an unversioned request gets → ready pods."""
        found: dict[int, int] = {}
        for pod in self.pods():
            if is_ready(pod) and not is_router(pod):
                version = max(self._agents[pod["metadata"]["name"]].loaded)
                found[version] = found.get(version, 0) + 1
        return found

    def agent_config(self, revision: str, name: str = NAME) -> Json:
        """agent.json of a revision."""
        config: Json = json.loads(self.objects["ConfigMap", f"{name}-{revision}"]["data"][ORDERS_KEY])
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
            part: Json = copied({key: live[key] for key in ("spec", "data", "revision") if key in live})
            found[f"{kind}/{name}"] = part
            if kind == KIND:
                status = copied(live.get("status") or {})
                for time in ("settled", "bakeUntil", "evidence", "verdict"):
                    status.pop(time, None)
                transitions = [(each["revision"], each["reason"]) for each in status.pop("transitions", [])]
                status["transitions"] = sorted(set(transitions))
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


def _counts(tally: Tally) -> Counts:
    return Counts(int(tally.requests), int(tally.errors), 0, tuple(int(count) for count in tally.within))
