"""Parts c, d and e: what the router does to requests: exact shares, added latency, memory."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.bench.figures import Goal, percentile
from tests.bench.rollout.lost import SHARES
from tests.bench.rollout.subject import BETTER, GOOD, Subject
from tests.bench.serving.figures import Figure, Span
from tests.e2e import reach
from tests.e2e.generator import clients_of, load_on, quiet
from tests.e2e.kube import kubectl
from tests.e2e.reach import Address
from tests.e2e.rollouts import command, prediction, then_quiet, then_weight
from tests.e2e.traffic import Record

WEIGHTS = (1, 5, 25, 50)
REQUESTS = 10_000
SIGMAS = 4
WINDOW_SECONDS = 12.0
MEBIBYTE = 1024 * 1024


def measure_weights(subject: Subject, rate: float) -> Iterator[Figure]:
    """How far the canary's share of REQUESTS is from each weight, in standard deviations of a fair draw."""
    subject.rest()
    served = subject.served
    steps = [*({"weight": weight, "holdSeconds": 3600} for weight in WEIGHTS), {"weight": 100}]
    spans: list[Span] = []
    with (
        reach.service(served.kube, served.name, served.namespace) as address,
        load_on(clients_of(address, [prediction(subject.digits)], rate, SHARES)) as loaded,
    ):
        subject.rolls(BETTER, steps)
        for weight in WEIGHTS:
            revision = then_weight(served, weight, 120)
            loaded.more(int(rate))
            begin = time.monotonic()
            loaded.more(REQUESTS, seconds=3 * REQUESTS / rate)
            spans.append(Span(begin, time.monotonic()))
            command(served, "skip" if weight != WEIGHTS[-1] else "abort", revision)
        then_quiet(served, GOOD)
    for weight, span in zip(WEIGHTS, spans, strict=True):
        total, canary = _shares(list(loaded.records.values()), span)
        share = weight / 100
        sigma = math.sqrt(total * share * (1 - share))
        yield Figure(
            f"weight {weight} %: canary's share of the answers, from the wanted one",
            abs(canary - total * share) / sigma,
            "standard deviations",
            Goal("at most", SIGMAS),
            2,
            f"{canary:,} of {total:,}: {canary / total:.2%}",
        )


def _shares(records: Sequence[Record], span: Span) -> tuple[int, int]:
    answers = [
        answer
        for record in records
        for due, answer in zip(record.due, record.answers, strict=True)
        if span.holds(due) and answer is not None
    ][:REQUESTS]
    return len(answers), sum(answer == str(BETTER) for answer in answers)


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one window, in milliseconds."""

    p50: float
    p99: float
    late: float


def measure_overhead(subject: Subject, rate: float, rounds: int) -> Iterator[Figure]:
    """One pod, asked directly and through the Service and its routers, in turns; of each pair, the difference."""
    subject.rest()
    served = subject.served
    served.when_spec(replicas=1).then_pods("one pod", 1)
    served.then("Ready", "True")
    pod = served.pods()[0]["status"]["podIP"]
    pairs: list[tuple[Latency, Latency]] = []
    with reach.service(served.kube, served.name, served.namespace) as address:
        http, grpc = (one.rpartition(":")[2] for one in (address.http_url, address.grpc))
        direct = Address(f"http://{pod}:{http}", f"{pod}:{grpc}")
        for number in range(rounds):
            order = (direct, address) if number % 2 == 0 else (address, direct)
            found = {one: _window(subject, one, rate) for one in order}
            pairs.append((found[direct], found[address]))
    for name, goal in (("p50", 0.3), ("p99", 1.0)):
        plain = [getattr(one, name) for one, _ in pairs]
        routed = [getattr(other, name) for _, other in pairs]
        added = statistics.median(other - one for one, other in zip(plain, routed, strict=True))
        yield Figure(
            f"router, added latency, {name}",
            added,
            "ms",
            Goal("at most", goal),
            2,
            f"median of {rounds} pairs at {rate:.0f}/s; direct {statistics.median(plain):.2f}, "
            f"routed {statistics.median(routed):.2f} ms",
        )
    late = max(latency.late for pair in pairs for latency in pair)
    yield Figure("sent late by the load's own process, p99, worst window", late, "ms", digits=2)


def _window(subject: Subject, address: Address, rate: float) -> Latency:
    with load_on(clients_of(address, [prediction(subject.digits)], rate, SHARES)) as loaded:
        loaded.more(int(rate))
        begin = time.monotonic()
        quiet(WINDOW_SECONDS)
        span = Span(begin, time.monotonic())
    chosen = [
        (seconds, late)
        for record in loaded.records.values()
        for due, seconds, late in zip(record.due, record.seconds, record.late, strict=True)
        if span.holds(due)
    ]
    assert not any(record.failures for record in loaded.records.values()), "requests failed while nothing changed"
    taken = [seconds * 1000 for seconds, _ in chosen]
    return Latency(percentile(taken, 50), percentile(taken, 99), percentile([late for _, late in chosen], 99) * 1000)


def measure_memory(subject: Subject) -> Iterator[Figure]:
    """The largest Envoy's memory after whatever ran before, and under load now."""
    served = subject.served
    with (
        reach.service(served.kube, served.name, served.namespace) as address,
        load_on(clients_of(address, [prediction(subject.digits)], 300, SHARES)) as loaded,
    ):
        loaded.more(3000)
        told = [_memory(served.namespace, pod["metadata"]["name"]) for pod in subject.routers()]
    anonymous, resident = max(anon for anon, _ in told), max(rss for _, rss in told)
    note = f"the larger of {len(told)} routers, under 300/s"
    yield Figure("router, anonymous memory", anonymous / MEBIBYTE, "MiB", Goal("at most", 20), 1, note)
    yield Figure("router, resident memory", resident / MEBIBYTE, "MiB", None, 1, "most of it Envoy's own program")


def _memory(namespace: str, pod: str) -> tuple[int, int]:
    """Anonymous and resident bytes of the Envoy in that pod."""
    done = kubectl("-n", namespace, "exec", pod, "--", "bash", "-c", "cat /proc/[0-9]*/status")
    if done.status != 0:
        raise AssertionError(f"the memory of pod {pod} could not be read: {done.err.strip()}")
    fields: dict[str, str] = {}
    for line in done.out.splitlines():
        key, _, value = line.partition(":")
        if key == "Name" and "envoy" in fields.get("Name", ""):
            break
        fields = {"Name": value.strip()} if key == "Name" else fields | {key: value.strip()}
    assert "envoy" in fields["Name"], f"pod {pod} runs no envoy"
    return (int(fields["RssAnon"].split()[0]) * 1024, int(fields["VmRSS"].split()[0]) * 1024)
