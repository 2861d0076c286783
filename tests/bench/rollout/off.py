"""Part b: how fast a canary that answers only errors is off.

Each run: ALWAYS_FAILING, judged, at 5 % of 50 requests a second, and for the time after the verdict, where requests
must come close together to show it, at 25 % of 200. The verdict's moment is the first write of the
routers' ConfigMap after the weight was in force: nothing else writes it then, and the decision is made right before it.
A request is on the canary when its answer is the canary's own error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.bench.figures import Goal, percentile
from tests.bench.rollout.lost import SHARES
from tests.bench.rollout.subject import ALWAYS_FAILING, Subject
from tests.bench.serving.figures import Figure
from tests.e2e import reach
from tests.e2e.generator import clients_of, load_on
from tests.e2e.kube import Kube, Manifest, TimedOutError
from tests.e2e.rollouts import OWN_WORDS, command, prediction, then_quiet, then_weight

RUN_SECONDS = 120.0


@dataclass(slots=True)
class Watched:
    """Moments at which the routers' ConfigMap was seen changed."""

    moments: list[float] = field(default_factory=list)

    def follow(self, name: str, namespace: str) -> None:
        """Until it has changed, or RUN_SECONDS are over."""

        def note(found: Manifest | None) -> bool | None:
            self.moments.append(time.monotonic())
            return True if len(self.moments) > 1 else None

        try:
            Kube().wait("ConfigMap", name, namespace, "a change", note, RUN_SECONDS)
        except TimedOutError:
            return


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds from the canary's first error, and from the verdict, until the last request that reached the canary."""

    after_first_error: float
    after_verdict: float
    errors: int
    others: int


def measure(subject: Subject, runs: int) -> Iterator[Figure]:
    """The figures of all runs."""
    dense = _runs(subject, 25, 200.0, runs)
    after_verdict = [run.after_verdict for run in dense]
    note = (
        f"{runs} runs at 25 % of 200/s; p50 {percentile(after_verdict, 50):.2f} s, largest {max(after_verdict):.2f} s"
    )
    yield Figure(
        "verdict Fail → no new request on the canary, p99",
        percentile(after_verdict, 99),
        "s",
        Goal("at most", 2),
        2,
        note,
    )
    sparse = _runs(subject, 5, 50.0, max(1, runs // 2))
    after_error, errors = [run.after_first_error for run in sparse], [run.errors for run in sparse]
    yield Figure(
        "only errors at 5 % of 50/s: off after its first error, slowest",
        max(after_error),
        "s",
        Goal("at most", 15),
        1,
        f"{len(sparse)} runs; median {percentile(after_error, 50):.1f} s; {min(errors)} to {max(errors)} errors each",
    )
    others = sum(run.others for run in (*dense, *sparse))
    yield Figure("requests that failed and were not the canary's", others, "", Goal("at most", 0), 0)


def _runs(subject: Subject, weight: int, rate: float, count: int) -> list[Run]:
    subject.rest()
    return [_run(subject, weight, rate, is_first=number == 0) for number in range(count)]


def _run(subject: Subject, weight: int, rate: float, *, is_first: bool) -> Run:
    served = subject.served
    with (
        reach.service(served.kube, served.name, served.namespace) as address,
        load_on(clients_of(address, [prediction(subject.digits)], rate, SHARES)) as loaded,
    ):
        loaded.more(int(rate))
        if is_first:
            subject.rolls(
                ALWAYS_FAILING, [{"weight": weight, "holdSeconds": 600}, {"weight": 100}], analysis={"mode": "Enforce"}
            )
        else:
            revision = served.stored()["status"]["rejected"][-1]["revision"]
            command(served, "retry", revision)
        then_weight(served, weight)
        watched = Watched()
        follower = threading.Thread(
            target=watched.follow, args=(f"{served.name}-router", served.namespace), daemon=True
        )
        follower.start()
        served.then("Promoted", "False", "RolledBack", seconds=RUN_SECONDS)
        follower.join(RUN_SECONDS)
        loaded.more(int(4 * rate))
        then_quiet(served, 1)
    assert len(watched.moments) > 1, "the routers' ConfigMap was not written after the verdict"
    verdict = watched.moments[1]
    failures = [(due, words) for record in loaded.records.values() for due, words in record.failures]
    own = sorted(due for due, words in failures if OWN_WORDS in words)
    assert own, "the canary got no request"
    return Run(
        after_first_error=own[-1] - own[0],
        after_verdict=max(0.0, own[-1] - verdict),
        errors=len(own),
        others=len(failures) - len(own),
    )
