"""A cluster in memory for the commands: ModelDeployments, their history and pods, and an operator that answers.

It stands at the seam `slipway.cli.client.Client`; what the real API server does is for tests/e2e/test_cli.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from typer.testing import CliRunner, Result

from slipway.cli.app import app
from slipway.cli.client import ClusterFlags, Request, Response
from tests.simulation import pods as simulated
from tests.unit import specs

Json = dict[str, Any]

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
STABLE, CANARY, OLD = "2e1b4ccfb4", "9c01fe2233", "77aa0b1c2d"
STEPS = [{"weight": 5, "holdSeconds": 60}, {"weight": 25, "holdSeconds": 60}, {"pause": {}}, {"weight": 100}]


def ago(**span: float) -> str:
    """A time before NOW, as Kubernetes writes it."""
    return (NOW - timedelta(**span)).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, status: str, reason: str, message: str = "", generation: int = 3) -> Json:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": ago(minutes=5),
    }


def healthy(generation: int = 3) -> list[Json]:
    return [
        condition("Ready", "True", "MinimumReplicasReady", "2 of 2 pods serve version 2", generation),
        condition("Promoted", "True", "Promoted", "", generation),
        condition("VersionsReady", "True", "AllAvailable", "", generation),
        condition("Degraded", "False", "AsExpected", "", generation),
    ]


def serving(revision: str, version: int, ready: int = 2, weight: int | None = None, **fields: Any) -> Json:
    """A revision in status. weight: desired, and in force."""
    weights = {} if weight is None else {"weightPercent": weight, "weightInForce": weight}
    return {"revision": revision, "version": version, "readyReplicas": ready, "workload": revision} | weights | fields


def transition(reason: str, message: str, **span: float) -> Json:
    return {"at": ago(**span), "revision": CANARY, "reason": reason, "message": message}


def command(verb: str, revision: str, *, accepted: bool, message: str, id: str = "x", **span: float) -> Json:
    """The last command in status."""
    answer = {"accepted": accepted, "message": message}
    return {"id": id, "verb": verb, "revision": revision, "at": ago(**span)} | answer


def model(name: str = "digits", namespace: str = "team-a", status: Json | None = None, **spec: Any) -> Json:
    """A ModelDeployment that serves version 2 on two pods; `status` replaces fields of its status."""
    body = specs.body({"model": {"uri": f"s3://models/{name}", "version": 2}, "replicas": 2}, name=name, generation=3)
    body["metadata"] |= {"namespace": namespace, "creationTimestamp": ago(days=12)}
    body["spec"] |= spec
    body["status"] = {
        "observedGeneration": 3,
        "phase": "Ready",
        "stable": serving(STABLE, 2),
        "replicas": 2,
        "readyReplicas": 2,
        "ready": "2/2",
        "conditions": healthy(),
    } | (status or {})
    return body


def in_canary(**status: Any) -> Json:
    """Version 3 has a quarter of the requests, in the second of its steps."""
    gates = {"golden": {"file": "golden.json"}, "signature": "Compatible"}
    found: Json = {
        "phase": "RollingOut",
        "stable": serving(STABLE, 2, weight=75),
        "canary": serving(CANARY, 3, 1, weight=25, strategy="Canary"),
        "readyReplicas": 3,
        "replicas": 3,
        "ready": "3/2",
        "step": {"index": 2, "count": 4, "since": ago(seconds=42), "waitsFor": "its hold to end at 09:30:18 UTC"},
        "verdict": {
            "result": "Inconclusive",
            "reason": "DifferenceNotSurelySmall",
            "message": "canary 3/812 errors, stable 10/2,401 (at most 1.80% more); canary 9/812 slower than "
            "200 ms, stable 24/2,401 (at most 1.04% more); margin 1.00%",
        },
        "traffic": {"serviceTarget": "Router", "message": ""},
        "conditions": [
            condition("Ready", "True", "MinimumReplicasReady"),
            condition("Promoted", "False", "InProgress", f"revision {CANARY} is in step 2 of 4 at 25 %"),
            condition("VersionsReady", "True", "AllAvailable"),
            condition("Degraded", "False", "AsExpected"),
        ],
        "transitions": [
            transition("Started", f"revision {CANARY} prepares beside {STABLE}", minutes=4),
            transition("Step", "step 1 of 4 begins: weight 5", seconds=130),
            transition("Step", "step 2 of 4 begins: weight 25", seconds=45),
        ],
    }
    return model(
        model={"uri": "s3://models/digits", "version": 3},
        rollout={"steps": STEPS, "gates": gates, "analysis": {}},
        status=found | status,
    )


def at_pause() -> Json:
    """In the pause that only a person ends."""
    body = in_canary(
        phase="Paused",
        step={"index": 3, "count": 4, "since": ago(minutes=9), "waitsFor": "a person to resume"},
        verdict={"result": "Pass", "reason": "NotWorse", "message": "canary 3/812 errors, stable 10/2,401"},
    )
    body["status"]["conditions"][1] = condition("Promoted", "False", "Paused", "a person has to resume")
    return body


def in_bake() -> Json:
    """Version 3 was promoted; version 2 is kept warm."""
    return in_canary(
        canary=None,
        step=None,
        verdict=None,
        stable=serving(CANARY, 3, weight=100),
        previous=serving(STABLE, 2, weight=0),
        bakeUntil=ago(seconds=-192),
    )


def in_bake_in_place() -> Json:
    """Version 3 was promoted in the pods of version 2, which stays loaded in them."""
    body = model(
        model={"uri": "s3://models/digits", "version": 3},
        status={"stable": serving(CANARY, 3) | {"workload": STABLE}, "bakeUntil": ago(seconds=-192)},
    )
    because = {"because": "LoadedEverywhere"}
    why = f"revision {CANARY} is stable (LoadedEverywhere: all pods serve it)"
    body["status"]["transitions"] = [transition("Promoted", why, seconds=108) | because]
    return body


def rolled_back() -> Json:
    """Version 3 failed; the operator does not try it again."""
    message = "golden request 2 of 8: outputs[0].data[3] is 0.91, not 0.11 (tolerance 0.0001)"
    back = f"revision {CANARY} was taken back: {message}"
    return in_canary(
        canary=None,
        step=None,
        verdict=None,
        phase="RolledBack",
        stable=serving(STABLE, 2, weight=100),
        readyReplicas=2,
        rejected=[
            {"revision": CANARY, "content": "c", "reason": "GoldenFailed", "message": message, "at": ago(minutes=6)}
        ],
        conditions=[
            condition("Ready", "True", "MinimumReplicasReady"),
            condition("Promoted", "False", "RolledBack", back),
            condition("VersionsReady", "True", "AllAvailable"),
            condition("Degraded", "True", "RolledBack", back),
        ],
    )


def agents(status: str, reason: str, message: str = "") -> Json:
    """Condition AgentsOutdated."""
    return condition("AgentsOutdated", status, reason, message)


def in_refresh() -> Json:
    """Pods of version 2 are being replaced."""
    conditions = [*healthy(), condition("Reconciling", "True", "Refreshing", "2 still to go")]
    return model(status={"conditions": conditions})


def kept(
    revision: str, number: int, version: int, name: str = "digits", image: str = "triton:1", **choice: Any
) -> Json:
    """A ControllerRevision."""
    return {
        "metadata": {
            "name": f"{name}-{revision}",
            "labels": {"slipway.dev/model": name, "slipway.dev/revision": revision},
            "creationTimestamp": ago(days=10 - number),
            "annotations": {"slipway.dev/digests": f'{{"{version}": "{str(version) * 64}"}}'},
        },
        "revision": number,
        "data": {
            "version": version,
            "choice": {"model": {"uri": f"s3://models/{name}", "version": version}, "runtime": {"name": "Triton"}}
            | choice,
            "fetching": {},
            "template": {"spec": {"containers": [{"name": "server", "image": f"registry.example/slipway/{image}"}]}},
        },
    }


def history() -> list[Json]:
    """Three revisions: old, stable, and the one that takes over."""
    return [
        kept(OLD, 1, 1),
        kept(STABLE, 2, 2, resources={"limits": {"cpu": "2"}}),
        kept(CANARY, 3, 3, resources={"limits": {"cpu": "4"}}),
    ]


def pod(name: str, labels: Mapping[str, str]) -> Json:
    return simulated.pod(name, labels, simulated.running("server", ip="198.18.0.1"))


def pods(name: str = "digits") -> list[Json]:
    """One of each revision, and a router's."""
    return [
        pod(f"{name}-{STABLE}-a", simulated.labels_of(name, STABLE)),
        pod(f"{name}-{CANARY}-b", simulated.labels_of(name, CANARY)),
        pod(f"{name}-router-c", simulated.labels_of(name)),
    ]


@dataclass
class FakeCluster:
    """operator: called with a model and the annotation that was written to it. respond: what pods and Services answer.

    failing: what every call raises. sent: the requests to pods and Services.
    """

    namespace: str = "team-a"
    models: list[Json] = field(default_factory=list)
    revisions: list[Json] = field(default_factory=history)
    pods: list[Json] = field(default_factory=pods)
    operator: Callable[[Json, str], None] | None = None
    respond: Callable[[str, str, str, Request], Response] | None = None
    failing: Exception | None = None
    sent: list[tuple[str, str, str, Request]] = field(default_factory=list)
    annotated: list[str] = field(default_factory=list)

    def within(self, namespace: str) -> FakeCluster:
        return replace(self, namespace=namespace)

    def read_model(self, name: str) -> Json | None:
        self._fail()
        found = [
            each
            for each in self.models
            if (each["metadata"]["namespace"], each["metadata"]["name"]) == (self.namespace, name)
        ]
        return copy.deepcopy(found[0]) if found else None

    def list_models(self, *, everywhere: bool = False) -> list[Json]:
        self._fail()
        return [each for each in self.models if everywhere or each["metadata"]["namespace"] == self.namespace]

    def list_revisions(self, name: str) -> list[Json]:
        self._fail()
        return self.revisions

    def list_pods(self, selector: str) -> list[Json]:
        self._fail()
        labels = dict(pair.split("=") for pair in selector.split(","))
        return [each for each in self.pods if labels.items() <= each["metadata"]["labels"].items()]

    def has_namespace(self) -> bool | None:
        return self.namespace != "nowhere"

    def annotate(self, name: str, key: str, value: str) -> Json:
        self._fail()
        body = next(
            each
            for each in self.models
            if (each["metadata"]["name"], each["metadata"]["namespace"]) == (name, self.namespace)
        )
        body["metadata"].setdefault("annotations", {})[key] = value
        self.annotated.append(f"{key}={value}")
        if self.operator is not None:
            self.operator(body, value)
        return body

    def send(self, kind: str, name: str, port: str, request: Request) -> Response:
        self._fail()
        self.sent.append((kind, name, port, request))
        assert self.respond is not None, "this test sends nothing to pods"
        return self.respond(kind, name, port, request)

    def _fail(self) -> None:
        if self.failing is not None:
            raise self.failing


def says(accepted: bool, message: str) -> Callable[[Json, str], None]:
    """An operator that gives every command this answer."""

    def answer(body: Json, text: str) -> None:
        verb, revision, id = text.split("/")
        body["status"]["lastCommand"] = command(verb, revision, accepted=accepted, message=message, id=id)

    return answer


@dataclass
class Time:
    """Passes only while commands sleep. each_sleep: called after every sleep."""

    passed: float = 0.0
    each_sleep: Callable[[], None] = lambda: None

    def seconds(self) -> float:
        return self.passed

    def sleep(self, duration_seconds: float) -> None:
        self.passed += duration_seconds
        self.each_sleep()


@dataclass
class Cli:
    """`cli.cluster` is the cluster; `cli(...)` types a command. targets: what was connected to."""

    cluster: FakeCluster
    connections: list[ClusterFlags]

    def __call__(
        self, *words: str, columns: int | None = 100, stdin: bytes | None = None, locale: str = "C.UTF-8"
    ) -> Result:
        environment = {"COLUMNS": str(columns) if columns else "", "SLIPWAY_TRACE": "", "LC_ALL": locale}
        return CliRunner().invoke(app, list(words), input=stdin, env=environment, prog_name="kubectl slipway")
