"""A cluster in memory for the commands: ModelDeployments, their history and pods, and an operator that answers.

It stands at the seam `slipway.cli.client.Client`; what the real API server does is for tests/e2e/test_cli.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from typer.testing import CliRunner, Result

from slipway.cli.app import app
from slipway.cli.client import ClusterFlags, Request, Response

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


def model(name: str = "digits", namespace: str = "team-a", status: Json | None = None, **spec: Any) -> Json:
    """A ModelDeployment that serves version 2 on two pods; `status` replaces fields of its status."""
    return {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": "1",
            "generation": 3,
            "creationTimestamp": ago(days=12),
        },
        "spec": {
            "runtime": {"name": "Triton"},
            "model": {"uri": f"s3://models/{name}", "version": 2},
            "replicas": 2,
        }
        | spec,
        "status": {
            "observedGeneration": 3,
            "phase": "Ready",
            "stable": {"revision": STABLE, "version": 2, "readyReplicas": 2, "carrier": STABLE},
            "replicas": 2,
            "readyReplicas": 2,
            "ready": "2/2",
            "conditions": healthy(),
        }
        | (status or {}),
    }


def in_canary(**status: Any) -> Json:
    """Version 3 has a quarter of the requests, in the second of its steps."""
    return model(
        model={"uri": "s3://models/digits", "version": 3},
        rollout={
            "steps": STEPS,
            "gates": {"golden": {"file": "golden.json"}, "signature": "Compatible"},
            "analysis": {},
        },
        status={
            "phase": "RollingOut",
            "stable": {
                "revision": STABLE,
                "version": 2,
                "readyReplicas": 2,
                "weightPercent": 75,
                "weightInForce": 75,
                "carrier": STABLE,
            },
            "canary": {
                "revision": CANARY,
                "version": 3,
                "readyReplicas": 1,
                "weightPercent": 25,
                "weightInForce": 25,
                "carrier": CANARY,
                "strategy": "Canary",
            },
            "readyReplicas": 3,
            "replicas": 3,
            "ready": "3/2",
            "step": {
                "index": 2,
                "count": 4,
                "since": ago(seconds=42),
                "waitsFor": "its hold to end at 09:30:18 UTC",
            },
            "verdict": {
                "result": "Inconclusive",
                "reason": "DifferenceNotSurelySmall",
                "message": "canary 3/812 errors, stable 10/2,401 (at most 1.80% more); canary 9/812 slower than "
                "200 ms, stable 24/2,401 (at most 1.04% more); margin 1.00%",
            },
            "traffic": {"entry": "Router", "message": ""},
            "conditions": [
                condition("Ready", "True", "MinimumReplicasReady"),
                condition("Promoted", "False", "InProgress", f"revision {CANARY} is in step 2 of 4 at 25 %"),
                condition("VersionsReady", "True", "AllAvailable"),
                condition("Degraded", "False", "AsExpected"),
            ],
            "transitions": [
                {
                    "at": ago(minutes=4),
                    "revision": CANARY,
                    "reason": "Started",
                    "message": f"revision {CANARY} prepares beside {STABLE}",
                },
                {
                    "at": ago(seconds=130),
                    "revision": CANARY,
                    "reason": "Step",
                    "message": "step 1 of 4 begins: weight 5",
                },
                {
                    "at": ago(seconds=45),
                    "revision": CANARY,
                    "reason": "Step",
                    "message": "step 2 of 4 begins: weight 25",
                },
            ],
        }
        | status,
    )


def at_pause() -> Json:
    """In the pause that only a person ends."""
    body = in_canary()
    body["status"]["step"] = {"index": 3, "count": 4, "since": ago(minutes=9), "waitsFor": "a person to resume"}
    body["status"]["phase"] = "Paused"
    body["status"]["verdict"] = {
        "result": "Pass",
        "reason": "NotWorse",
        "message": "canary 3/812 errors, stable 10/2,401",
    }
    body["status"]["conditions"][1] = condition("Promoted", "False", "Paused", "a person has to resume")
    return body


def in_bake() -> Json:
    """Version 3 was promoted; version 2 is kept warm."""
    body = in_canary(canary=None, step=None, verdict=None)
    body["status"]["stable"] = {
        "revision": CANARY,
        "version": 3,
        "readyReplicas": 2,
        "weightPercent": 100,
        "weightInForce": 100,
        "carrier": CANARY,
    }
    body["status"]["previous"] = {
        "revision": STABLE,
        "version": 2,
        "readyReplicas": 2,
        "weightPercent": 0,
        "weightInForce": 0,
        "carrier": STABLE,
    }
    body["status"]["bakeUntil"] = (NOW + timedelta(seconds=192)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return body


def rolled_back() -> Json:
    """Version 3 failed and is not tried again."""
    told = "golden request 2 of 8: outputs[0].data[3] is 0.91, not 0.11 (tolerance 0.0001)"
    body = in_canary(canary=None, step=None, verdict=None)
    body["status"]["phase"] = "RolledBack"
    body["status"]["stable"] |= {"weightPercent": 100, "weightInForce": 100}
    body["status"]["readyReplicas"] = 2
    body["status"]["rejected"] = [
        {"revision": CANARY, "content": "c", "reason": "GoldenFailed", "message": told, "at": ago(minutes=6)}
    ]
    body["status"]["conditions"] = [
        condition("Ready", "True", "MinimumReplicasReady"),
        condition("Promoted", "False", "RolledBack", f"revision {CANARY} was taken back: {told}"),
        condition("VersionsReady", "True", "AllAvailable"),
        condition("Degraded", "True", "RolledBack", f"revision {CANARY} was taken back: {told}"),
    ]
    return body


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


def pod(name: str, labels: Json, *, is_ready: bool = True) -> Json:
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels},
        "status": {
            "conditions": [{"type": "Ready", "status": "True" if is_ready else "False"}],
            "containerStatuses": [{"restartCount": 0}],
        },
    }


def pods(name: str = "digits") -> list[Json]:
    """One of each revision, and a router's."""
    return [
        pod(f"{name}-{STABLE}-a", {"slipway.dev/model": name, "slipway.dev/revision": STABLE}),
        pod(f"{name}-{CANARY}-b", {"slipway.dev/model": name, "slipway.dev/revision": CANARY}),
        pod(f"{name}-router-c", {"slipway.dev/model": f"{name}.router"}),
    ]


@dataclass
class FakeCluster:
    """models: all there are. operator: what happens to a model when it is annotated. answers: what pods say."""

    namespace: str = "team-a"
    models: list[Json] = field(default_factory=list)
    revisions: list[Json] = field(default_factory=history)
    running: list[Json] = field(default_factory=pods)
    operator: Callable[[Json, str], None] | None = None
    answers: Callable[[str, str, str, Request], Response] | None = None
    failing: Exception | None = None
    asked: list[tuple[str, str, str, Request]] = field(default_factory=list)
    annotated: list[str] = field(default_factory=list)

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
        wanted = dict(pair.split("=") for pair in selector.split(","))
        return [each for each in self.running if wanted.items() <= each["metadata"]["labels"].items()]

    def has_namespace(self) -> bool | None:
        return self.namespace != "nowhere"

    def annotate(self, name: str, key: str, value: str) -> Json:
        self._fail()
        body = next(each for each in self.models if each["metadata"]["name"] == name)
        body["metadata"].setdefault("annotations", {})[key] = value
        self.annotated.append(f"{key}={value}")
        if self.operator is not None:
            self.operator(body, value)
        return body

    def send(self, kind: str, name: str, port: str, request: Request) -> Response:
        self._fail()
        self.asked.append((kind, name, port, request))
        assert self.answers is not None, "this test's pods are never asked"
        return self.answers(kind, name, port, request)

    def _fail(self) -> None:
        if self.failing is not None:
            raise self.failing


def says(accepted: bool, message: str) -> Callable[[Json, str], None]:
    """An operator that answers every command so."""

    def answer(body: Json, text: str) -> None:
        verb, revision, name = text.split("/")
        body["status"]["lastCommand"] = {
            "id": name,
            "verb": verb,
            "revision": revision,
            "at": ago(),
            "accepted": accepted,
            "message": message,
        }

    return answer


@dataclass
class Time:
    """Goes on by what commands sleep, and not otherwise. each_sleep: something that happens meanwhile."""

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

    def __call__(self, *words: str, columns: int | None = 100, stdin: bytes | None = None) -> Result:
        environment = {"COLUMNS": str(columns) if columns else "", "SLIPWAY_TRACE": ""}
        return CliRunner().invoke(app, list(words), input=stdin, env=environment, prog_name="kubectl slipway")
