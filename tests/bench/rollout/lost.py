"""Part a: what clients lose in everything that can happen to a rollout, under constant load over kept connections.

Half the requests are REST over kept connections, half gRPC on two channels. A request counts as lost when it got no
answer or an error, but for the errors of a bad canary's own: they hold words that no other error holds.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import Goal
from tests.bench.rollout.subject import AT_ONCE, BETTER, FAILING, Subject
from tests.bench.serving.figures import Figure
from tests.e2e import reach
from tests.e2e.generator import Loaded, clients_of, load_on, quiet
from tests.e2e.install import Operator
from tests.e2e.kube import Manifest
from tests.e2e.rollouts import (
    OWN_WORDS,
    QUICK_ANALYSIS,
    QUICK_STEPS,
    SLOW_STEPS,
    UNJUDGED,
    command,
    prediction,
    some_trigger,
    then_quiet,
    then_routed,
    then_status,
    then_weight,
)
from tests.e2e.stage import is_ready
from tests.e2e.traffic import GRPC, KEPT

SHARES = {KEPT: 0.5, GRPC: 0.5}
SETTLE_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens under load. goal: most requests that may be lost; None: it is said in words."""

    title: str
    happens: Callable[[Subject, Loaded], str]
    goal: int | None = 0
    is_bad: bool = False


def canary_to_the_end(subject: Subject, _: Loaded) -> str:
    subject.rolls(BETTER, QUICK_STEPS, analysis=QUICK_ANALYSIS)
    subject.served.then("Promoted", "True", seconds=SETTLE_SECONDS)
    then_quiet(subject.served, BETTER)
    return "20, 50, 100 %, judged"


def automatic_rollback(subject: Subject, loaded: Loaded) -> str:
    subject.rolls(FAILING, SLOW_STEPS, analysis={"mode": "Enforce", "minRequests": 100_000, "margin": 0.01})
    subject.served.then("Promoted", "False", "RolledBack", seconds=SETTLE_SECONDS)
    then_quiet(subject.served, 1)
    return f"beside {loaded.failures()} errors of the canary's own"


def abort(subject: Subject, _: Loaded) -> str:
    subject.rolls(BETTER)
    revision = then_weight(subject.served, 20)
    _obeyed(command(subject.served, "abort", revision))
    then_quiet(subject.served, 1)
    return "at 20 %"


def promote(subject: Subject, _: Loaded) -> str:
    subject.rolls(BETTER)
    revision = then_weight(subject.served, 20)
    _obeyed(command(subject.served, "promote", revision))
    then_quiet(subject.served, BETTER, 120)
    return "from 20 % to 100 % at once"


def back_in_bake(subject: Subject, loaded: Loaded) -> str:
    subject.rolls(BETTER, AT_ONCE, bakeSeconds=600)
    revision = then_status(
        subject.served,
        "it bakes",
        lambda status: str(status["stable"]["revision"]) if status.get("previous") else None,
        SETTLE_SECONDS,
    )
    loaded.more(300)
    begin = time.monotonic()
    _obeyed(command(subject.served, "abort", revision))
    then_quiet(subject.served, 1)
    return f"back after {time.monotonic() - begin:.1f} s"


def provider_switch(subject: Subject, _: Loaded) -> str:
    subject.served.when_spec(traffic={"provider": "Replicas"})
    then_routed(subject.served, is_routed=False, seconds=SETTLE_SECONDS)
    _then_routers(subject, 0)
    subject.served.when_spec(traffic={"provider": "Router"})
    then_routed(subject.served, seconds=SETTLE_SECONDS)
    return "Router → Replicas → Router"


def steps_removed(subject: Subject, _: Loaded) -> str:
    subject.served.when_spec(rollout={"steps": None, "analysis": None, "gates": None})
    subject.served.then("Promoted", "True")
    _then_routers(subject, 0)
    subject.served.when_spec(rollout={"steps": SLOW_STEPS, "analysis": UNJUDGED, "gates": {"signature": "Ignore"}})
    then_routed(subject.served, seconds=SETTLE_SECONDS)
    return "removed and added: the router goes and comes"


def operator_killed(subject: Subject, _: Loaded) -> str:
    after = random.uniform(0.0, 10.0)
    subject.rolls(BETTER, QUICK_STEPS, analysis=QUICK_ANALYSIS)
    quiet(after)
    Operator(subject.served.kube).kill()
    subject.served.then("Promoted", "True", seconds=SETTLE_SECONDS)
    then_quiet(subject.served, BETTER)
    return f"{after:.1f} s into a canary that is then promoted"


def router_deleted(subject: Subject, _: Loaded) -> str:
    subject.rolls(BETTER)
    then_weight(subject.served, 20)
    victim = subject.routers()[0]["metadata"]["name"]
    subject.served.kube.delete("Pod", victim, subject.served.namespace)
    subject.served.kube.wait_gone("Pod", victim, subject.served.namespace, seconds=SETTLE_SECONDS)
    _then_routers(subject, 2)
    return "gracefully, at 20 %"


def router_killed(subject: Subject, _: Loaded) -> str:
    subject.rolls(BETTER)
    then_weight(subject.served, 20)
    victim = subject.routers()[0]["metadata"]
    killed = _kill(victim["name"])
    if not killed:
        subject.served.kube.delete("Pod", victim["name"], subject.served.namespace, grace_seconds=0)
    _then_restarted(subject, victim["uid"])
    _then_routers(subject, 2)
    return f"{'SIGKILL' if killed else 'deleted without a grace'} at 20 %: its requests in flight only"


def _kill(pod: str) -> bool:
    """SIGKILL to the Envoy of that pod, where pods are processes of this machine, as in the native cluster."""
    mark = f"SLIPWAY_POD={pod}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_of_pod = mark in (process / "environ").read_bytes().split(b"\0")
            if is_of_pod and (process / "comm").read_text().strip() == "envoy":
                os.kill(int(process.name), signal.SIGKILL)
                return True
    return False


def _then_restarted(subject: Subject, pod_uid: str) -> None:
    """Waits until that pod is gone, or its container was seen to have started anew."""

    def is_so(pods: list[Manifest]) -> bool | None:
        victim = next((pod for pod in pods if pod["metadata"]["uid"] == pod_uid), None)
        counts = [one["restartCount"] for one in ((victim or {}).get("status") or {}).get("containerStatuses") or []]
        return True if victim is None or any(counts) else None

    subject.served.kube.wait_list(
        "Pod", subject.served.namespace, "the router is another one", is_so, labels=subject.router_labels
    )


EVENTS = (
    Event("canary to 100 %", canary_to_the_end),
    Event("automatic rollback", automatic_rollback, is_bad=True),
    Event("abort", abort),
    Event("promote", promote),
    Event("taken back in bake", back_in_bake),
    Event("provider switch", provider_switch),
    Event("steps removed and added", steps_removed),
    Event("operator killed", operator_killed),
    Event("operator killed", operator_killed),
    Event("operator killed", operator_killed),
    Event("router pod deleted", router_deleted),
    Event("router pod killed", router_killed, goal=None),
)


def measure(subject: Subject, rate: float, only: str = "") -> Iterator[Figure]:
    """One figure an event."""
    for event in EVENTS:
        if any(part in event.title for part in only.split(",")):
            subject.rest()
            yield _measured(subject, event, rate)


def _measured(subject: Subject, event: Event, rate: float) -> Figure:
    served = subject.served
    asked = some_trigger(subject.digits) if event.is_bad else [prediction(subject.digits)]
    with (
        reach.service(served.kube, served.name, served.namespace) as address,
        load_on(clients_of(address, asked, rate, SHARES)) as loaded,
    ):
        loaded.more(int(rate))
        said = event.happens(subject, loaded)
        loaded.more(int(2 * rate))
    total = sum(len(record.due) for record in loaded.records.values())
    failures = [
        words
        for record in loaded.records.values()
        for _, words in record.failures
        if not (event.is_bad and OWN_WORDS in words)
    ]
    again = sum(len(record.reconnected) for record in loaded.records.values())
    notes = [f"of {total:,}", said]
    if again:
        notes.append(f"{again} kept connections closed in use, sent again")
    if failures:
        notes.append(f"first: {failures[0][:120]}")
    goal = None if event.goal is None else Goal("at most", event.goal)
    return Figure(f"lost: {event.title}", len(failures), "", goal, 0, "; ".join(notes))


def _obeyed(last: Manifest) -> None:
    assert last["accepted"], f"{last['verb']} was refused: {last.get('message')}"


def _then_routers(subject: Subject, count: int) -> None:
    def are_there(pods: list[Manifest]) -> bool | None:
        staying = [pod for pod in pods if count == 0 or not pod["metadata"].get("deletionTimestamp")]
        return True if len(staying) == count and all(is_ready(pod) for pod in staying) else None

    subject.served.kube.wait_list(
        "Pod",
        subject.served.namespace,
        f"{count} routers",
        are_there,
        labels=subject.router_labels,
        seconds=SETTLE_SECONDS,
    )
