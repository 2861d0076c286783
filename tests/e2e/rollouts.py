"""A canary as its user sees it: what the status told while it went on, commands by annotation, and load that is judged.

    with told(served) as story, asked(served, prediction) as loaded:
        served.when_spec(model={"version": 2})
        served.then("Promoted", "True")
    assert story.weights(revision) == [0, 20, 50, 100]
    nothing_was_lost(loaded)

Must not import: anything of Slipway; the tests see the product from outside only.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from tests.e2e import models_spoiled, reach
from tests.e2e.generator import Loaded, clients_of, load_on
from tests.e2e.kube import Found, Kube, Manifest, TimedOutError
from tests.e2e.models import Digits, Sample
from tests.e2e.stage import Served
from tests.e2e.traffic import KEPT
from tests.e2e.wire import Prediction, inference_protocol

COMMAND = "slipway.dev/command"
STORY_SECONDS = 600.0

QUICK_STEPS = [{"weight": 20, "holdSeconds": 1}, {"weight": 50, "holdSeconds": 1}, {"weight": 100}]
QUICK_ANALYSIS = {"mode": "Enforce", "minRequests": 50, "margin": 0.05}
UNJUDGED = {"mode": "Off"}
"""Without a word of it, steps are judged, and wait for requests."""
"""Passes a healthy canary within seconds at 80 requests a second."""
SLOW_STEPS = [{"weight": 20, "holdSeconds": 600}, {"weight": 50, "holdSeconds": 600}, {"weight": 100}]
"""For what happens in mid-rollout: nothing goes on by itself."""

OWN_WORDS = "Reshape node"
"""What the errors of a spoiled version hold (`models_spoiled.failing`), and no error of anybody else's."""


def agreed_sample(digits: Digits) -> Sample:
    """An image on which both trained versions agree: what is golden for one is for the other."""
    return next(sample for sample in digits.samples if sample.labels[1] == sample.labels[2])


def golden(digits: Digits, label: int | None = None) -> Manifest:
    """One request whose answer both trained versions agree on, or another label that neither gives."""
    sample = agreed_sample(digits)
    tensor = {"name": "image", "shape": [1, 64], "datatype": "FP32", "data": sample.image}
    request = {"inputs": [tensor], "outputs": [{"name": "label"}]}
    expected = sample.labels[1] if label is None else label
    response = {"outputs": [{"name": "label", "data": [expected]}]}
    return {"requests": [{"name": "a known digit", "request": request, "response": response}]}


def prediction(digits: Digits, is_triggering: bool = False) -> Prediction:
    image = agreed_sample(digits).image
    return inference_protocol("digits", "image", models_spoiled.triggering(image) if is_triggering else image)


def some_trigger(digits: Digits, one_in: int = 20) -> list[Prediction]:
    """Requests of which one in so many makes a FAILING version fail."""
    return [*[prediction(digits)] * (one_in - 1), prediction(digits, is_triggering=True)]


@dataclass(slots=True)
class Story:
    """Every status that the API server had, with the moment (time.monotonic()) at which it was seen."""

    seen: list[tuple[float, Manifest]] = field(default_factory=list)

    def weights(self, revision: str) -> list[int]:
        """The weights that were in force for that revision, as the canary and then as stable, each once, in order."""
        told = [
            one.get("weightInForce")
            for _, status in self.seen
            for one in (status.get("canary") or {}, status.get("stable") or {})
            if one.get("revision") == revision
        ]
        return [weight for weight, _ in groupby(one for one in told if one is not None)]

    def first(self, holds: Callable[[Manifest], Any]) -> float | None:
        """When the status first was so."""
        return next((moment for moment, status in self.seen if holds(status)), None)


@contextmanager
def told(served: Served) -> Iterator[Story]:
    """The statuses of the block."""
    story, ended = Story(), threading.Event()

    def note(found: Manifest | None) -> bool | None:
        story.seen.append((time.monotonic(), (found or {}).get("status") or {}))
        return True if ended.is_set() else None

    def listen() -> None:
        with contextlib.suppress(TimedOutError, OSError):
            Kube().wait("ModelDeployment", served.name, served.namespace, "the end of the story", note, STORY_SECONDS)

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield story
    finally:
        ended.set()


def status_of(served: Served) -> Manifest:
    """The status as stored."""
    found: Manifest = served.stored().get("status") or {}
    return found


def then_status(
    served: Served, what: str, check: Callable[[Manifest], Found | None], seconds: float = 60, *, old: bool = False
) -> Found:
    """Waits for the first value of `check` on a status that speaks of the present generation; `old`: of any."""

    def holds(found: Manifest | None) -> Found | None:
        status = (found or {}).get("status") or {}
        if found is None or not (old or status.get("observedGeneration") == found["metadata"]["generation"]):
            return None
        return check(status)

    return served.kube.wait("ModelDeployment", served.name, served.namespace, what, holds, seconds)


def then_weight(served: Served, weight: int, seconds: float = 60) -> str:
    """Waits until that weight is in force for a canary; returns the canary's revision."""

    def is_so(status: Manifest) -> str | None:
        canary = status.get("canary") or {}
        has_it = canary.get("weightPercent") == weight == canary.get("weightInForce")
        return str(canary["revision"]) if has_it else None

    return then_status(served, f"weight {weight} is in force", is_so, seconds)


def then_baking(served: Served, version: int, seconds: float = 60) -> str:
    """Waits until that version has all requests and the one before it is kept warm; returns its revision."""

    def is_so(status: Manifest) -> str | None:
        stable = status.get("stable") or {}
        return str(stable["revision"]) if stable.get("version") == version and status.get("previous") else None

    return then_status(served, f"version {version} bakes", is_so, seconds)


def then_quiet(served: Served, version: int, seconds: float = 60) -> Manifest:
    """Waits until that version is stable and no other revision has pods."""

    def is_so(status: Manifest) -> Manifest | None:
        stable = status.get("stable") or {}
        is_alone = not status.get("canary") and not status.get("previous")
        return status if stable.get("version") == version and is_alone else None

    status = then_status(served, f"version {version} serves alone", is_so, seconds)
    workload = status["stable"].get("workload") or status["stable"]["revision"]
    gone = [
        one["metadata"]["name"]
        for one in served.children("Deployment")
        if one["metadata"]["name"] not in (f"{served.name}-{workload}", f"{served.name}-router")
    ]
    for name in gone:
        served.kube.wait(
            "Deployment",
            name,
            served.namespace,
            "without pods, or gone",
            lambda found: True if found is None or not found["spec"]["replicas"] else None,
            seconds,
        )
    return status


def then_routed(served: Served, *, is_routed: bool = True, seconds: float = 90) -> None:
    """Waits until the Service reaches the routers; or not them any more."""

    def is_so(status: Manifest) -> bool | None:
        entry = (status.get("traffic") or {}).get("serviceTarget")
        return True if entry is not None and (entry == "Router") == is_routed else None

    then_status(served, "behind routers" if is_routed else "behind no router", is_so, seconds)


def rejected_of(status: Manifest, version_or_revision: str) -> Manifest | None:
    """What is held against a revision."""
    return next((one for one in status.get("rejected") or [] if one["revision"] == version_or_revision), None)


def command(served: Served, verb: str, revision: str, seconds: float = 30) -> Manifest:
    """A person's command; returns what the status says came of it."""
    name = secrets.token_hex(4)
    change = {"metadata": {"annotations": {COMMAND: f"{verb}/{revision}/{name}"}}}
    served.kube.patch("ModelDeployment", served.name, served.namespace, change)

    def is_done(status: Manifest) -> Manifest | None:
        last: Manifest = status.get("lastCommand") or {}
        return last if last.get("id") == name else None

    return then_status(served, f"{verb} is carried out", is_done, seconds, old=True)


@contextmanager
def asked(
    served: Served, predictions: Prediction | Sequence[Prediction], rate: float = 80, at_first: int = 20
) -> Iterator[Loaded]:
    """Constant load through the Service for the whole block: REST kept and new, gRPC."""
    chosen = [predictions] if isinstance(predictions, Prediction) else list(predictions)
    with (
        reach.service(served.kube, served.name, served.namespace) as address,
        load_on(clients_of(address, chosen, rate)) as loaded,
    ):
        loaded.more(at_first)
        yield loaded
        loaded.more(20)


def lost(loaded: Loaded, own: str | None = None) -> list[str]:
    """The failed requests of a load that is over, but for those whose words hold `own`: a canary's own errors."""
    return [
        f"{clock(due)} {kind}: {words}"
        for kind, record in loaded.records.items()
        for due, words in record.failures
        if own is None or own not in words
    ]


def clock(moment: float) -> str:
    """A moment of time.monotonic() as logs have it, in UTC."""
    there = datetime.fromtimestamp(time.time() - time.monotonic() + moment, UTC)
    return f"{there:%H:%M:%S.%f}"[:-3]


def nothing_was_lost(loaded: Loaded, own: str | None = None, ended_pods: int = 0) -> None:
    """Asserts it of a load that is over; `ended_pods` may each have closed a kept connection while it was in use."""
    assert loaded.records
    for kind, record in loaded.records.items():
        assert any(answer is not None for answer in record.answers), f"{kind} was never answered"
        assert len(record.reconnected) <= (ended_pods if kind == KEPT else 0), (
            f"{kind}: {len(record.reconnected)} closed"
        )
    missing = lost(loaded, own)
    total = sum(len(one.due) for one in loaded.records.values())
    assert not missing, "\n".join([f"{len(missing)} of {total} requests were lost:", *missing[:5], "…", *missing[-3:]])
