"""Figures (b): from "object stored" to "new version answers", with no version named in the spec.

An S3 server in the cluster, a ModelDeployment that follows a prefix in its bucket, two pods, the constant load of (a).
Again and again the next version is uploaded; a try ends with the last answer that was still the old version's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from tests.bench.figures import Goal
from tests.bench.serving.figures import Figure, Span, last_old_answer, requests_within
from tests.bench.serving.subjects import MODEL, Subject
from tests.e2e import reach
from tests.e2e.generator import clients_of, load_on, quiet
from tests.e2e.kube import Manifest
from tests.e2e.stage import Stage
from tests.e2e.stores import BUCKET, Bucket
from tests.e2e.traffic import KEPT

MEGABYTES = 10
POLL_SECONDS = 5
SLACK_SECONDS = 3
WAIT_SECONDS = 120.0
CALM_SECONDS = 4.0


def measure(stage: Stage, subject: Subject, rate: float, repeats: int) -> Iterator[Figure]:
    """The slowest of the repeats counts: the promise is for each of them."""
    store = Bucket.started(stage)
    padded = {version: subject.padded(version, MEGABYTES * 1_000_000) for version in subject.files}

    def upload(number: int) -> None:
        for path, content in padded[2 - number % 2].items():
            store.put(f"{MODEL}/{number}/{path}", content)

    upload(1)
    served = stage.given(
        MODEL,
        f"s3://{BUCKET}/{MODEL}",
        None,
        runtime=subject.runtime,
        replicas=2,
        storage=store.storage | {"pollIntervalSeconds": POLL_SECONDS},
        rollout={"strategy": "InPlace", "bakeSeconds": 0},
    ).then_ready()
    pods = {pod["metadata"]["name"] for pod in served.pods()}
    spans: list[tuple[Span, Span]] = []
    with (
        reach.service(stage.kube, served.name, served.namespace) as address,
        load_on(clients_of(address, [subject.prediction], rate)) as loaded,
    ):
        quiet(3)
        for number in range(2, repeats + 2):
            begin = time.monotonic()
            quiet(CALM_SECONDS + number % 5)  # uploads come at any moment of the poll
            upload(number)
            stored = time.monotonic()

            def is_served(found: Manifest | None, number: int = number) -> bool | None:
                status = (found or {}).get("status") or {}
                return True if (status.get("stable") or {}).get("version") == number else None

            stage.kube.wait("ModelDeployment", MODEL, stage.namespace, f"{number} is served", is_served, WAIT_SECONDS)
            quiet(2)
            spans.append((Span(begin, stored), Span(stored, time.monotonic())))
    title = f"{subject.runtime}, stored → answered"
    taken = []
    for before, after in spans:
        moments = [last_old_answer(record, before, after) for record in loaded.records.values()]
        if any(moment is None for moment in moments):
            yield Figure(f"{title}: every pod, {MEGABYTES} MB", None, "s", note="a new version never answered")
            return
        taken.append(max(moment for moment in moments if moment is not None) - after.begin)
    note = f"median {statistics.median(taken):.1f} of {repeats}; polls every {POLL_SECONDS} s"
    goal = Goal("at most", POLL_SECONDS + SLACK_SECONDS)
    yield Figure(f"{title}: slowest, {MEGABYTES} MB", max(taken), "s", goal, note=note)
    whole = [Span(spans[0][0].begin, spans[-1][1].end)]
    for kind, record in loaded.records.items():
        window = requests_within(record, whole)
        first = f"; first: {window.failures[0][:100]}" if window.failures else ""
        yield Figure(
            f"{title}: {kind}, failed requests",
            len(window.failures),
            "",
            Goal("at most", 0),
            0,
            f"of {window.asked:,}{first}",
        )
        if kind == KEPT:
            yield Figure(f"{title}: {kind}, connections dropped", window.reconnected, "", Goal("at most", 0), 0)
    left = {pod["metadata"]["name"] for pod in served.pods()}
    yield Figure(f"{title}: pods replaced", len(pods - left), "", Goal("at most", 0), 0)
