"""`python -m tests.bench.analysis -n 10000`: how often a healthy canary is rolled back, how soon a bad one is.

Needs nothing but numpy and scipy: no cluster, no clock, one core. The last lines are the worst rates of false rollbacks
beside their bounds: alpha, and 2 alpha where pods of both revisions are out for 3-8 s each ten minutes. Exit code 1
where one is above, where a canary passed without data, or where the many rollouts at once and slipway.analysis itself
disagree. What depends on bursts is shown beside what release 0.1 made of the same traces.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from slipway.api.v1alpha1 import Analysis
from slipway.model.signals import Counts, Outcome, Reading

from . import many, one, others
from .traffic import CANARY, HEALTHY, Kind, Traces

AT_ONCE = 500
REASONS = ("ErrorsRose", "RefusalsRose", "SlowerThanStable", "SlowerThanStable")
MINUTES = Kind("5 requests/s", requests_per_second=5, look_seconds=60, looks_per_step=60, weights=(10,))
SECONDS = Kind("50 requests/s", looks_per_step=600, weights=(5,))
RESTARTED = Kind("restarted at every look", look_seconds=20, looks_per_step=10)
HELD = "every 10 minutes, 3-8 s"
"""The row that is held to 2 alpha."""
OUT: dict[str, Any] = {"pod_bursts_per_minute": 0.1, "burst_seconds": (3.0, 8.0)}
BEYOND: tuple[tuple[str, dict[str, Any]], ...] = (
    ("every 10 minutes, 1-4 s", {"pod_bursts_per_minute": 0.1, "burst_seconds": (1.0, 4.0)}),
    ("every 30 minutes, 3-8 s", {"pod_bursts_per_minute": 1 / 30, "burst_seconds": (3.0, 8.0)}),
    (HELD, OUT),
    ("the same, 10 requests/s", OUT | {"requests_per_second": 10}),
    ("the same, 200 requests/s", OUT | {"requests_per_second": 200}),
    ("the same, 20 pods, 200/s", OUT | {"requests_per_second": 200, "replicas": 20}),
    ("every 3 minutes, 1-4 s", {"pod_bursts_per_minute": 1 / 3, "burst_seconds": (1.0, 4.0)}),
    ("every 10 minutes, 5-10 s", {"pod_bursts_per_minute": 0.1, "burst_seconds": (5.0, 10.0)}),
    ("every 10 minutes, 8-15 s", {"pod_bursts_per_minute": 0.1, "burst_seconds": (8.0, 15.0)}),
)
METHODS: tuple[Callable[[int], many.Purse], ...] = (many.Clock, many.Outages)
"""Release 0.1's, and today's."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.analysis", description=__doc__)
    parser.add_argument("-n", "--count", type=int, default=10_000, help="rollouts of each kind of traffic")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    settings = Analysis()
    started = time.process_time()
    differing = print_agreement(options.seed, settings)
    rates = print_false_rollbacks(options.count, options.seed, settings)
    held = print_bursts(max(200, options.count // 5), options.seed, settings)
    few = max(100, options.count // 10)
    print_outages(few, options.seed, settings)
    print_beside_others(few, options.seed)
    print_passing(few, options.seed, settings)
    passed = print_without_data(few, settings)
    worst = max(rates, key=lambda name: rates[name])
    print(f"\n{time.process_time() - started:.0f} s of one core")
    is_good = rates[worst] <= settings.alpha and held <= 2 * settings.alpha and not passed and not differing
    print(f"where pods of both are out {HELD}: {held:.2%}, 2 alpha {2 * settings.alpha:.2%}")
    print(f"worst false rollbacks: {rates[worst]:.2%} ({worst}), alpha {settings.alpha:.2%}", flush=True)
    return 0 if is_good else 1


def drawn(kind: Kind, count: int, seed: int) -> Iterator[Traces]:
    """That many rollouts of a kind, some at a time."""
    generator = np.random.default_rng([seed, *kind.name.encode()])
    for begin in range(0, count, AT_ONCE):
        yield kind.draw(generator, min(AT_ONCE, count - begin))


def print_agreement(seed: int, settings: Analysis) -> int:
    """Both ways to calculate on a few rollouts of each kind, half of them restarted at every look."""
    differing = compared = 0
    bad = Kind("worse", error_factor=8, slower_buckets=1)
    for kind in (*HEALTHY, bad):
        traces = next(drawn(kind, 2, seed + 1))
        for strict in (settings, settings.model_copy(update={"alpha": 0.5, "margin": 0.002})):
            found = many.judge(traces, strict)
            for rollout in range(2):
                reason = REASONS[found.kind[rollout]] if found.look[rollout] else ""
                said = one.failed_at(traces, rollout, strict, is_restarted=bool(rollout))
                compared += 1
                differing += said != (found.look[rollout], reason)
    print(f"slipway.analysis and the same at once with numpy: {compared} rollouts compared, {differing} differ\n")
    return differing


def print_false_rollbacks(count: int, seed: int, settings: Analysis) -> dict[str, float]:
    """Canaries that are the same as stable."""
    print(f"Healthy canaries rolled back, {count:,} rollouts each; 5, 25, 50 %; alpha {settings.alpha:g}")
    print(f"{'traffic':28}{'requests/s':>11}{'rolled back':>13}{'of which errors':>17}{'refusals':>10}{'latency':>9}")
    rates = {}
    for kind in HEALTHY:
        kinds = np.zeros(4, np.int64)
        for traces in drawn(kind, count, seed):
            found = many.judge(traces, settings)
            kinds += np.bincount(found.kind[found.look > 0], minlength=4)
        rates[kind.name] = kinds.sum() / count
        print(
            f"{kind.name:28}{kind.requests_per_second:11g}{rates[kind.name]:13.2%}{kinds[0]:17}{kinds[1]:10}"
            f"{kinds[2:].sum():9}",
            flush=True,
        )
    failed = 0
    for traces in drawn(RESTARTED, count, seed):
        for rollout in range(len(traces.errors)):
            failed += one.failed_at(traces, rollout, settings, is_restarted=True)[0] > 0
    rates[RESTARTED.name] = failed / count
    print(f"{RESTARTED.name:28}{RESTARTED.requests_per_second:11g}{failed / count:13.2%}\n", flush=True)
    return rates


def print_bursts(count: int, seed: int, settings: Analysis) -> float:
    """What pods of both revisions may be like for alpha to hold, and where it ends. Returns the rate that is held."""
    print(f"Healthy canaries of one pod beside 4, each of which fails all requests now and then, {count:,} rollouts")
    print(f"{'each pod is out':28}{'release 0.1':>13}{'today':>13}")
    base, held = next(kind for kind in HEALTHY if kind.name == "bursts of one pod in 4"), 1.0
    for name, changes in BEYOND:
        kind, failed = replace(base, name=name, **changes), [0, 0]
        for traces in drawn(kind, count, seed):
            for number, method in enumerate(METHODS):
                failed[number] += int((many.judge(traces, settings, method).look > 0).sum())
        former, today = (each / count for each in failed)
        note = "" if today <= 2 * settings.alpha else "   above 2 alpha: it can't be told from a bad one"
        print(f"{name:28}{former:13.2%}{today:13.2%}{note}", flush=True)
        held = today if name == HELD else held
    print()
    return held


def print_outages(count: int, seed: int, settings: Analysis) -> None:
    """How long a bad canary goes on."""
    print(f"Seconds from a bad canary's first request to `Fail`, at 50 requests/s, {count:,} rollouts of 10 minutes")
    print(f"{'':36}{'release 0.1':>25}{'today':>25}")
    print(f"{'canary':28}{'weight':>8}" + f"{'caught':>9}{'median':>9}{'99 %':>7}" * 2)
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("answers only 5xx", {"canary_error_rate": 1.0}),
        ("the same, pods out 3-8 s", {"canary_error_rate": 1.0} | OUT),
        ("fails 14 %, stable none", {"canary_error_rate": 0.14, "error_rate": 0.0}),
        ("fails 5 %, stable 0.5 %", {"canary_error_rate": 0.05}),
        ("three times slower", {"slower_buckets": 3}),
        ("half as slow again", {"slower_buckets": 1}),
    )
    for name, changes in cases:
        for weight in (5, 25, 50):
            kind = replace(SECONDS, name=name, weights=(weight,), **changes)
            looks: list[list[np.ndarray]] = [[], []]
            for traces in drawn(kind, count, seed):
                asked = (traces.requests[:, :, CANARY] > 0).argmax(axis=1)
                for number, method in enumerate(METHODS):
                    found = many.judge(traces, settings, method).look
                    looks[number].append(np.where(found > 0, found - 1 - asked, -1))
            print(f"{name:28}{weight:7}%" + "".join(_times(np.concatenate(each), count) for each in looks), flush=True)
    print()


def _times(after: np.ndarray, count: int) -> str:
    """How many were caught, and in how many seconds. after: -1: it was not."""
    caught = after[after >= 0]
    times = np.quantile(caught, [0.5, 0.99]) if len(caught) else [np.nan, np.nan]
    return f"{len(caught) / count:9.1%}{times[0]:9.0f}{times[1]:7.0f}"


def print_beside_others(count: int, seed: int) -> None:
    """The rules of others on the same traces."""
    print(f"Beside others' rules: 5 requests/s, 0.5 % errors, one-minute looks for an hour, {count:,} rollouts:")
    print("share rolled back (median minute). Kayenta judges once, after the hour.")
    columns = ("margin 0.1 %", "margin 1 %", "Flagger 99 %, 5", "Argo 95 %, 3", "Argo 99 %, 3", "Kayenta")
    print(f"{'canary':18}" + "".join(f"{column:>17}" for column in columns))
    for weight in (10, 50):
        for factor in (1, 2, 4, 10):
            kind = replace(MINUTES, name=f"{factor}x at {weight} %", weights=(weight,), error_factor=factor)
            found: list[list[np.ndarray]] = []
            generator = np.random.default_rng(seed)
            for traces in drawn(kind, count, seed):
                requests, errors = traces.requests, traces.errors
                found.append(
                    [
                        many.judge(traces, Analysis(margin=0.001)).look,
                        many.judge(traces, Analysis(margin=0.01)).look,
                        others.flagger(requests, errors),
                        others.argo(requests, errors),
                        others.argo(requests, errors, success=0.99),
                        np.where(others.kayenta(generator, requests, errors), 60, 0),
                    ]
                )
            cells = []
            for rule in range(len(columns)):
                looks = np.concatenate([chunk[rule] for chunk in found])
                hit = looks[looks > 0]
                cells.append(f"{len(hit) / count:.1%}" + (f" ({np.median(hit):.0f})" if len(hit) else ""))
            print(
                f"{kind.name + (' (healthy)' if factor == 1 else ''):18}" + "".join(f"{c:>17}" for c in cells),
                flush=True,
            )
    print()


def print_passing(count: int, seed: int, settings: Analysis) -> None:
    """How soon a good canary passes a step, and how often one passes that is worse by the margin or twice that."""
    print(
        f"Passing a step of at least 60 s and {settings.min_requests} requests within 10 minutes, margin "
        f"{settings.margin:.0%}, 50 requests/s, {count:,} steps: share (median seconds)"
    )
    print(f"{'errors of stable, canary':28}{'5 %':>15}{'25 %':>15}{'50 %':>15}")
    for rate, more in ((0.0, 0.0), (0.005, 0.0), (0.02, 0.0), (0.005, 0.01), (0.005, 0.02), (0.005, 0.03)):
        cells = []
        for weight in (5, 25, 50):
            kind = replace(SECONDS, name="passing", weights=(weight,), error_rate=rate, canary_error_rate=rate + more)
            passed = []
            for traces in drawn(kind, count, seed):
                failed = many.judge(traces, settings).look
                at = many.passes(traces, settings, hold_looks=60)
                passed.append(np.where((at > 0) & ((failed == 0) | (at < failed)), at, 0))
            looks = np.concatenate(passed)
            hit = looks[looks > 0]
            cells.append(f"{len(hit) / count:.1%}" + (f" ({np.median(hit):.0f})" if len(hit) else ""))
        print(f"{f'{rate:.1%}, {rate + more:.1%}':28}" + "".join(f"{cell:>15}" for cell in cells), flush=True)
    print()


def print_without_data(count: int, settings: Analysis) -> int:
    """No data, no promotion: none at all, none of the canary's, a source that is silent, counters that stand still."""
    generator = np.random.default_rng(0)
    passed = 0
    for _ in range(count):
        stable = Counts(int(generator.integers(0, 10_000)))
        canary = Counts(int(generator.integers(1, 10_000)))
        for readings, is_split in (
            ([Reading({})] * 3, True),
            ([Reading({"router": {}})] * 3, True),
            ([Reading({"router": {}})] * 3, False),
            ([Reading({"router": {"stable": replace(stable, requests=n)}}) for n in (0, 500, 9_000)], True),
            ([Reading({"router": {"stable": stable, "canary": canary}})] * 3, True),
            ([Reading({"router": {"stable": stable, "canary": canary}})] * 3, False),
            ([Reading({}, missing=2, trouble="no answer")] * 3, True),
            ([Reading({f"router-{n}": {"stable": stable, "canary": canary}}) for n in range(3)], True),
        ):
            passed += any(verdict.outcome is Outcome.PASS for verdict in one.read_all(readings, settings, is_split))
    print(f"Promotions without data: {passed} of {count * 8:,} rollouts")
    return passed


if __name__ == "__main__":
    sys.exit(main())
