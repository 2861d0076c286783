"""Figures (a): what clients notice of a rolling update and of a hot one, under constant load.

One ModelDeployment, two pods. In turns its version changes by new pods (RollingUpdate) and in place (InPlace), there
and back. Before each change the load runs for a while undisturbed. Failed requests are counted from the change until
every pod that it ends is gone. The latency "during" is that of the busy part alone, until Promoted and the end of the
pods' preStop: with the quiet drain after it the figure would look better than what clients notice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.bench.figures import Goal, percentile
from tests.bench.serving.figures import Figure, Span, requests_within
from tests.bench.serving.subjects import MODEL, Subject
from tests.e2e import reach
from tests.e2e.generator import clients_of, load_on, quiet
from tests.e2e.stage import Served, Stage
from tests.e2e.traffic import KEPT, Record

STRATEGIES = {"RollingUpdate": "rolling update", "InPlace": "hot update"}
SETTLE_SECONDS = 180.0
AFTER_SECONDS = 7.0
"""After Promoted: the preStop's 5 s, and what a change leaves behind."""


@dataclass(slots=True)
class Measured:
    """The spans of one strategy, and the records of the whole run."""

    before: list[Span] = field(default_factory=list)
    busy: list[Span] = field(default_factory=list)
    during: list[Span] = field(default_factory=list)
    ended_pods: int = 0


def measure(
    stage: Stage, subject: Subject, strategies: Sequence[str], rate: float, repeats: int, before_seconds: float
) -> Iterator[Figure]:
    """Figures of the strategies; the claim `models` of the stage holds both versions."""
    served = stage.given(
        MODEL,
        f"pvc://models/{MODEL}",
        1,
        runtime=subject.runtime,
        replicas=2,
        rollout={"strategy": strategies[0], "bakeSeconds": 0},
    ).then_ready()
    found = {strategy: Measured() for strategy in strategies}
    with (
        reach.service(stage.kube, served.name, served.namespace) as address,
        load_on(clients_of(address, [subject.prediction], rate)) as loaded,
    ):
        quiet(3)  # first answers are slow ones
        version = 1
        for number in range(repeats):
            for strategy in strategies if number % 2 == 0 else reversed(strategies):
                version = 3 - version
                _change(served, strategy, version, found[strategy], before_seconds)
    for strategy, measured in found.items():
        yield from figures_of(f"{subject.runtime}, {STRATEGIES[strategy]}", loaded.records, measured, repeats)


def _change(served: Served, strategy: str, version: int, measured: Measured, before_seconds: float) -> None:
    pods = {pod["metadata"]["name"] for pod in served.pods()}
    begin = time.monotonic()
    quiet(before_seconds)
    changed = time.monotonic()
    served.when_spec(model={"version": version}, rollout={"strategy": strategy})
    served.then_ready(SETTLE_SECONDS)
    quiet(AFTER_SECONDS)
    busy = time.monotonic()
    if strategy == "RollingUpdate":
        for name in pods:
            served.kube.wait_gone("Pod", name, served.namespace, seconds=SETTLE_SECONDS)
    measured.before.append(Span(begin, changed))
    measured.busy.append(Span(changed, busy))
    measured.during.append(Span(changed, time.monotonic()))
    left = {pod["metadata"]["name"] for pod in served.pods()}
    measured.ended_pods += len(pods - left)


def figures_of(title: str, records: dict[str, Record], measured: Measured, repeats: int) -> Iterator[Figure]:
    """Lost requests and p99 by kind of client."""
    late: list[float] = []
    for kind, record in records.items():
        before, during = requests_within(record, measured.before), requests_within(record, measured.during)
        busy = requests_within(record, measured.busy)
        late += busy.late
        notes = [f"of {during.asked:,} in {repeats} updates"]
        if kind == KEPT:
            notes.append(f"{during.reconnected} sent again: {measured.ended_pods} pods closed connections in use")
        if before.failures:
            notes.append(f"{len(before.failures)} more while nothing changed")
        if during.failures:
            notes.append(f"first: {during.failures[0][:100]}")
        yield Figure(
            f"{title}: {kind}, failed requests", len(during.failures), "", Goal("at most", 0), 0, "; ".join(notes)
        )
        calm, rough = before.p99_milliseconds, busy.p99_milliseconds
        yield Figure(
            f"{title}: {kind}, p99 during / before",
            rough / calm if calm and rough else None,
            "",
            Goal("at most", 2),
            2,
            f"{calm:.1f} → {rough:.1f} ms" if calm and rough else "no answers",
        )
    if late:
        yield Figure(f"{title}: sent late by the load's own process, p99", percentile(late, 99) * 1000, "ms")
