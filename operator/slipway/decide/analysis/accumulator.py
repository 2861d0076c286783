"""What was counted of stable and the canary, look after look, and what speaks against the canary by that.

Invariant: counts only grow by what sources counted since the last look, never by what nobody saw and never below
nothing; `write` and `read` carry everything through status exactly, so an operator that is restarted at every look
counts and judges the same.
Must not import: anything that does I/O. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from slipway.decide.analysis.eprocess import RELATIVE_RISKS, UNPROVEN, Evidence, Outage, watch, weigh
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts, Reading

BOUNDS = 2
"""Bounds above which an answer counts as slow: one above the middle of stable's, and one that hardly any passes."""
SLOW_SHARES = (0.50, 0.01)
"""Stable's share of answers above them, at most. In the tail alone, a stall among the first answers lifts both bounds
above all that a canary three times slower does, for the whole rollout."""
ENOUGH_FOR_BOUNDS = 200
"""Stable's answers from which the bounds are chosen."""
SLACK_MILLISECONDS = 5
"""Nobody cares about less: a canary with little traffic has colder processors and connections."""
COLD_REQUESTS, COLD_SECONDS = 20, 5.0
"""A canary's first answers in a step, so many for each of its pods, are not timed: new pods have cold caches."""
RECENT_SECONDS = 60.0
"""How long ago "lately" is."""
MOST_SILENT = 16
"""Sources that are remembered while they don't answer: one that restarts over and over must not fill status."""
FORMAT = 1


BUCKETS = len(LATENCY_BOUNDS_MILLISECONDS)


@dataclass(frozen=True, slots=True)
class Tally:
    """Answers of one revision. timed: those with a latency that counts; within: as in Counts, of the timed ones."""

    requests: float = 0
    errors: float = 0
    refusals: float = 0
    timed: float = 0
    within: tuple[float, ...] = (0,) * BUCKETS

    def plus(self, more: Tally, *, keep: float = 1) -> Tally:
        """This, times keep, and more."""
        return Tally(
            self.requests * keep + more.requests,
            self.errors * keep + more.errors,
            self.refusals * keep + more.refusals,
            self.timed * keep + more.timed,
            tuple(one * keep + other for one, other in zip(self.within, more.within, strict=True)),
        )

    def untimed(self) -> Tally:
        """The same without latencies."""
        return Tally(self.requests, self.errors, self.refusals)

    def slower(self, bound: int) -> float:
        """How many took longer than LATENCY_BOUNDS_MILLISECONDS[bound]."""
        return self.timed - self.within[bound]


@dataclass(frozen=True, slots=True)
class Arms:
    """Stable's and the canary's answers over the same time."""

    stable: Tally = Tally()
    canary: Tally = Tally()

    def plus(self, more: Arms, *, keep: float = 1) -> Arms:
        """Both."""
        return Arms(self.stable.plus(more.stable, keep=keep), self.canary.plus(more.canary, keep=keep))


@dataclass(frozen=True, slots=True)
class Look:
    """What the sources said when they were last looked at.

    at: seconds since 1970. counts: source → workload → what it counted since its beginning, kept also of sources that
    were silent. missing: how many were. trouble: why, in short: status is small.
    """

    at: float
    counts: Mapping[str, Mapping[str, Counts]]
    missing: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Against:
    """What speaks against the canary, by the kind of bad answer. slow: one for each of the bounds."""

    errors: Evidence = UNPROVEN
    refusals: Evidence = UNPROVEN
    slow: tuple[Evidence, ...] = (UNPROVEN,) * BOUNDS


@dataclass(frozen=True, slots=True)
class Accumulated:
    """All that the next look needs of the earlier ones.

    stable, canary: workloads. seconds: how long both had traffic. step_seconds: how long the canary had, in this step.
    cold_requests: how many of the canary's in this step are not timed. pods: stable's and the canary's, in this step.
    bounds: indices of the latencies above which answers are slow, empty while stable answered too little.
    """

    stable: str
    canary: str
    last: Look
    seconds: float = 0.0
    step_seconds: float = 0.0
    cold_requests: int = COLD_REQUESTS
    pods: tuple[int, int] = (1, 1)
    rollout: Arms = Arms()
    step: Arms = Arms()
    recent: Arms = Arms()
    bounds: tuple[int, ...] = ()
    against: Against = Against()


def begin(reading: Reading, stable: str, canary: str, now: datetime) -> Accumulated:
    """From here on everything counts. stable, canary: workloads."""
    counts = _sources(reading, stable, canary)
    return Accumulated(stable, canary, Look(now.timestamp(), counts, reading.missing, _short(reading.trouble)))


def look(accumulated: Accumulated, reading: Reading, now: datetime) -> Accumulated:
    """What was counted since the last look is added.

    A source that is seen for the first time, and one whose counters fell, begin here: what they counted before is
    left out for both revisions alike. One that doesn't answer is gone on with when it answers again.
    """
    at, last, against = now.timestamp(), accumulated.last, accumulated.against
    look_seconds = max(0.0, at - last.at)
    sources = _sources(reading, accumulated.stable, accumulated.canary)
    since = Arms()
    for name, counts in sources.items():
        before = last.counts.get(name)
        if before is not None:
            since = since.plus(_since(before, counts, accumulated.stable, accumulated.canary))
    both = since.stable.requests > 0 and since.canary.requests > 0
    step_seconds = accumulated.step_seconds + (look_seconds if since.canary.requests > 0 else 0)
    is_cold = accumulated.step.canary.requests < accumulated.cold_requests or step_seconds < COLD_SECONDS
    if is_cold:
        since = Arms(since.stable.untimed(), since.canary.untimed())
    seconds, traffic_seconds = accumulated.seconds, look_seconds if both else 0.0

    def add(evidence: Evidence, stable: float, canary: float, stable_of: float, canary_of: float) -> Evidence:
        weighed = weigh(
            evidence,
            stable,
            canary,
            canary_of / (stable_of + canary_of) if stable_of + canary_of > 0 else 0.0,
            seconds=seconds,
            traffic_seconds=traffic_seconds,
            look_seconds=look_seconds,
        )
        return watch(weighed, (stable, stable_of), (canary, canary_of), accumulated.pods, look_seconds=look_seconds)

    of = since.stable.requests, since.canary.requests
    timed = since.stable.timed, since.canary.timed
    slow = tuple(
        add(evidence, since.stable.slower(bound), since.canary.slower(bound), *timed)
        for evidence, bound in zip(against.slow, accumulated.bounds, strict=False)
    )
    step = accumulated.step.plus(since)
    return replace(
        accumulated,
        last=Look(max(at, last.at), _kept(last, sources, reading.missing), reading.missing, _short(reading.trouble)),
        seconds=seconds + traffic_seconds,
        step_seconds=step_seconds,
        rollout=accumulated.rollout.plus(Arms(since.stable.untimed(), since.canary.untimed())),
        step=step,
        recent=accumulated.recent.plus(since, keep=math.exp(-look_seconds / RECENT_SECONDS)),
        bounds=accumulated.bounds or choose_bounds(step.stable),
        against=Against(
            errors=add(against.errors, since.stable.errors, since.canary.errors, *of),
            refusals=add(against.refusals, since.stable.refusals, since.canary.refusals, *of),
            slow=slow + tuple(add(one, 0, 0, 0, 0) for one in against.slow[len(slow) :]),
        ),
    )


def skip(accumulated: Accumulated, reading: Reading, now: datetime) -> Accumulated:
    """What was counted since the last look is left out: the canary stood in for stable, so nothing was compared."""
    last, sources = accumulated.last, _sources(reading, accumulated.stable, accumulated.canary)
    at = max(now.timestamp(), last.at)
    seen = Look(at, _kept(last, sources, reading.missing), reading.missing, _short(reading.trouble))
    return replace(accumulated, last=seen)


def _kept(last: Look, sources: Mapping[str, Mapping[str, Counts]], missing: int) -> dict[str, dict[str, Counts]]:
    """What the next look compares with: what didn't answer, or left a workload out, is gone on with when it does.

    Where none is missing, a source that isn't there any more is gone for good.
    """
    silent = [name for name in last.counts if name not in sources] if missing else []
    kept = {name: dict(last.counts[name]) for name in silent[-MOST_SILENT:]}
    return kept | {name: {**last.counts.get(name, {}), **counts} for name, counts in sources.items()}


def enter_step(accumulated: Accumulated, pods: int = 1, stable_pods: int = 1) -> Accumulated:
    """A new step, or another one under the same number: what is needed to pass counts anew; what speaks against the
    canary goes on.

    pods: the canary's, of which any may be new and cold. stable_pods: of which one is told from all by its share.
    """
    return replace(
        accumulated,
        step_seconds=0.0,
        cold_requests=COLD_REQUESTS * max(1, pods),
        pods=(max(1, stable_pods), max(1, pods)),
        step=Arms(),
        bounds=choose_bounds(accumulated.step.stable) or accumulated.bounds,
    )


def choose_bounds(stable: Tally) -> tuple[int, ...]:
    """Indices of the latencies above which an answer is slow; empty while stable answered too little.

    One bucket above the one at which stable's share falls below the wanted one, and at least SLACK_MILLISECONDS above:
    a canary that is a third slower, or a few milliseconds, is not worse in a way that anybody cares about.

    >>> stable = Tally(1000, timed=1000, within=(0,) * 8 + (700, 950) + (995,) * 17)
    >>> [LATENCY_BOUNDS_MILLISECONDS[bound] for bound in choose_bounds(stable)]
    [50, 100]
    """
    if stable.timed < ENOUGH_FOR_BOUNDS:
        return ()
    return tuple(_bound_above(stable, share * stable.timed) for share in SLOW_SHARES)


def _bound_above(stable: Tally, slow: float) -> int:
    """The bound that is one above the first that at most so many of stable's answers pass."""
    first = next((bound for bound in range(BUCKETS) if stable.slower(bound) <= slow), BUCKETS - 1)
    enough = LATENCY_BOUNDS_MILLISECONDS[first] + SLACK_MILLISECONDS
    return next(
        (bound for bound in range(first + 1, BUCKETS) if LATENCY_BOUNDS_MILLISECONDS[bound] >= enough), BUCKETS - 1
    )


def _sources(reading: Reading, stable: str, canary: str) -> dict[str, dict[str, Counts]]:
    return {
        source: {workload: counts[workload] for workload in (stable, canary) if workload in counts}
        for source, counts in reading.counts.items()
    }


def _short(trouble: str) -> str:
    """What is kept of it: status is small."""
    return trouble[:200]


def _since(before: Mapping[str, Counts], now: Mapping[str, Counts], stable: str, canary: str) -> Arms:
    return Arms(
        _delta(before.get(stable, Counts()), now.get(stable)), _delta(before.get(canary, Counts()), now.get(canary))
    )


def _delta(before: Counts, now: Counts | None) -> Tally:
    """What one source counted for one workload since; nothing where any counter fell."""
    if now is None:
        return Tally()
    requests, errors, refusals = (
        now.requests - before.requests,
        now.errors - before.errors,
        now.refusals - before.refusals,
    )
    if min(requests, errors, refusals) < 0:
        return Tally()
    errors = min(errors, requests)
    refusals = min(refusals, requests - errors)
    within = before.within or (0,) * len(now.within)
    if len(now.within) != BUCKETS or len(within) != BUCKETS or (not before.within and before.requests):
        return Tally(requests, errors, refusals)
    since = tuple(min(requests, new - old) for new, old in zip(now.within, within, strict=True))
    if min(since) < 0 or list(since) != sorted(since):
        return Tally(requests, errors, refusals)
    # Not every answer is timed (a connection that broke isn't), and times may be counted a moment later than answers:
    # those that took longer than the last bound can't be told from either, and are left out.
    return Tally(requests, errors, refusals, since[-1], since)


def write(accumulated: Accumulated) -> dict[str, Any]:
    """As JSON."""
    return {
        "format": FORMAT,
        "stable": accumulated.stable,
        "canary": accumulated.canary,
        "at": accumulated.last.at,
        "last": {
            source: {
                workload: [counts.requests, counts.errors, counts.refusals, *counts.within]
                for workload, counts in workloads.items()
            }
            for source, workloads in accumulated.last.counts.items()
        },
        "missing": accumulated.last.missing,
        "trouble": accumulated.last.trouble,
        "seconds": [accumulated.seconds, accumulated.step_seconds],
        "cold": accumulated.cold_requests,
        "rollout": _write_arms(accumulated.rollout),
        "step": _write_arms(accumulated.step),
        "recent": _write_arms(accumulated.recent),
        "bounds": list(accumulated.bounds),
        "pods": list(accumulated.pods),
        "evidence": [[one.purse, one.canary_out.seconds, *one.bets] for one in _all_of(accumulated.against)],
        "watched": [_write_watched(one) for one in _all_of(accumulated.against)],
    }


def _all_of(against: Against) -> tuple[Evidence, ...]:
    return against.errors, against.refusals, *against.slow


def _write_watched(one: Evidence) -> list[float]:
    out, canary_out = one.stable_out, one.canary_out
    return [
        out.seconds, out.well, canary_out.seconds, canary_out.well, one.longest_seconds, one.stable_bad, one.stable_of
    ]  # fmt: skip


def read(written: Mapping[str, Any] | None) -> Accumulated | None:
    """What `write` wrote; None where there is none or it can't be read: the analysis begins anew.

    Release 0.1 watched no outages: what it gathered goes on, and outages are watched from here on. It reads what this
    one writes.
    """
    try:
        return _read(written) if written else None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
        return None


def _read(written: Mapping[str, Any]) -> Accumulated | None:
    if written["format"] != FORMAT:
        return None
    counts = {
        str(source): {
            str(workload): Counts(int(one[0]), int(one[1]), int(one[2]), tuple(map(int, one[3:])))
            for workload, one in workloads.items()
        }
        for source, workloads in written["last"].items()
    }
    bounds = tuple(int(bound) for bound in written["bounds"])
    if len(bounds) not in (0, BOUNDS) or not all(0 <= bound < BUCKETS for bound in bounds):
        return None
    evidence = [_read_evidence(one) for one in written["evidence"]]
    evidence = [_read_watched(one, of) for one, of in zip(evidence, written.get("watched") or evidence, strict=True)]
    seconds, step_seconds = (_number(value) for value in written["seconds"])
    if len(evidence) != 2 + BOUNDS:
        return None
    return Accumulated(
        stable=str(written["stable"]),
        canary=str(written["canary"]),
        last=Look(_number(written["at"]), counts, int(written["missing"]), str(written["trouble"])),
        seconds=seconds,
        step_seconds=step_seconds,
        cold_requests=int(written["cold"]),
        pods=_read_pods(written),
        rollout=_read_arms(written["rollout"]),
        step=_read_arms(written["step"]),
        recent=_read_arms(written["recent"]),
        bounds=bounds,
        against=Against(evidence[0], evidence[1], tuple(evidence[2:])),
    )


def _write_arms(arms: Arms) -> list[list[float]]:
    return [
        [one.requests, one.errors, one.refusals, *([one.timed, *one.within] if one.timed else [])]
        for one in (arms.stable, arms.canary)
    ]


def _read_arms(written: list[list[float]]) -> Arms:
    stable, canary = (_read_tally(one) for one in written)
    return Arms(stable, canary)


def _read_tally(written: list[float]) -> Tally:
    numbers = [_number(value) for value in written]
    if len(numbers) == 3:
        return Tally(numbers[0], numbers[1], numbers[2])
    if len(numbers) != 4 + BUCKETS:
        raise ValueError("not a tally")
    return Tally(numbers[0], numbers[1], numbers[2], numbers[3], tuple(numbers[4:]))


def _read_evidence(written: list[float]) -> Evidence:
    purse, _, *bets = (_number(value) for value in written)
    if len(bets) != len(RELATIVE_RISKS):
        raise ValueError("not evidence")
    return Evidence(tuple(bets), max(0.0, purse))


def _read_watched(evidence: Evidence, written: list[float] | Evidence) -> Evidence:
    """The evidence, with what was watched; as it is where nothing was."""
    if isinstance(written, Evidence):
        return evidence
    out, well, canary_out, canary_well, longest, bad, of = (_number(value) for value in written)
    return replace(
        evidence,
        stable_out=Outage(out, well),
        canary_out=Outage(canary_out, canary_well),
        longest_seconds=longest,
        stable_bad=bad,
        stable_of=of,
    )


def _read_pods(written: Mapping[str, Any]) -> tuple[int, int]:
    """Stable's and the canary's. Release 0.1 kept the canary's alone, in how many answers are cold."""
    canary = int(written["cold"]) // COLD_REQUESTS
    stable, canary = written.get("pods") or (canary, canary)
    return max(1, int(stable)), max(1, int(canary))


def _number(value: float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a number")
    return number
