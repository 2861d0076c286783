"""Traffic of healthy and of bad canaries, many rollouts at once, as counts per look.

Invariant: a healthy canary's requests have the same fate as stable's; what differs between kinds of traffic is how
much there is, how it fails and when. Everything is drawn from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numpy.typing import NDArray

from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS

Counts = NDArray[np.int32]
Rates = NDArray[np.float64]

FIRST = LATENCY_BOUNDS_MILLISECONDS.index(20)
CELLS = 9
"""Latencies fall into the buckets up to 20, 30, 50, 75, 100, 150, 200, 300 and 500 ms."""
LATENCIES = np.array([0.50, 0.30, 0.12, 0.05, 0.02, 0.007, 0.002, 0.001, 0.0])
COLD = np.array([0.0, 0.0, 0.0, 0.05, 0.10, 0.35, 0.30, 0.15, 0.05])
STABLE, CANARY = 0, 1


@dataclass(frozen=True)
class Traces:
    """What was counted between looks, of many rollouts.

    weights: percent of requests to the canary at each look; enters: looks before which a step is entered, with the
    canary's pods. stable_pods: all the while. cells: rollout, look, revision, latency bucket → answers. errors,
    refusals: rollout, look, revision.
    """

    look_seconds: float
    stable_pods: int
    enters: dict[int, int]
    cells: Counts
    errors: Counts
    refusals: Counts

    @property
    def requests(self) -> Counts:
        return np.asarray(self.cells.sum(axis=3), np.int32)


@dataclass(frozen=True)
class Kind:
    """A kind of traffic. The functions get (generator, rollouts, looks) and give an array to multiply by."""

    name: str
    requests_per_second: float = 50
    look_seconds: float = 1
    looks_per_step: int = 200
    weights: tuple[int, ...] = (5, 25, 50)
    replicas: int = 4
    error_rate: float = 0.005
    refusal_rate: float = 0.01
    requests_vary: Callable[[np.random.Generator, int, int], Rates] | None = None
    errors_vary: Callable[[np.random.Generator, int, int], Rates] | None = None
    slowness: Callable[[np.random.Generator, int, int], Rates] | None = None
    pod_bursts_per_minute: float = 0
    burst_seconds: tuple[float, float] = (1, 4)
    cold_requests: int = 0
    is_weight_jumping: bool = False
    late_looks: int = 0
    error_factor: float = 1
    canary_error_rate: float | None = None
    slower_buckets: int = 0
    tags: dict[str, str] = field(default_factory=dict)

    def draw(self, generator: np.random.Generator, rollouts: int) -> Traces:
        """Counts of that many rollouts."""
        looks = self.looks_per_step * len(self.weights)
        share = np.repeat(np.array(self.weights) / 100, self.looks_per_step)[None, :]
        if self.is_weight_jumping:
            jumps = generator.choice([0.02, 0.05, 0.1, 0.25, 0.5, 0.8], size=(rollouts, ceil(looks / 7)))
            share = np.repeat(jumps, 7, axis=1)[:, :looks]
        total = self.requests_per_second * self.look_seconds * _varied(self.requests_vary, generator, rollouts, looks)
        rates = np.stack(np.broadcast_arrays(total * (1 - share), total * share), axis=2)
        chances = self._latencies(generator, rollouts, looks)
        cells = np.empty((rollouts, looks, 2, CELLS), np.int32)
        for arm in (STABLE, CANARY):
            for cell in range(CELLS):
                cells[:, :, arm, cell] = generator.poisson(rates[:, :, arm] * chances[:, :, arm, cell])
        if self.cold_requests:
            self._cool(generator, cells)
        requests = cells.sum(axis=3, dtype=np.int32)
        error_rate = self.error_rate * _varied(self.errors_vary, generator, rollouts, looks)
        per_arm = np.stack(np.broadcast_arrays(error_rate, error_rate * self.error_factor), axis=2)
        if self.canary_error_rate is not None:
            per_arm[:, :, CANARY] = self.canary_error_rate
        errors = generator.binomial(requests, np.minimum(per_arm, 1)).astype(np.int32)
        if self.pod_bursts_per_minute:
            errors = self._burst(generator, requests, errors)
        refusals = generator.binomial(requests - errors, self.refusal_rate).astype(np.int32)
        if self.late_looks:
            # Errors and the slowest answers are counted when they end: some looks after those that began with them.
            late = self.late_looks
            for counts in (errors, cells[:, :, :, 4:]):
                counts[:, late:] = counts[:, :-late].copy()
                counts[:, :late] = 0
            short = np.maximum(errors + refusals - cells.sum(axis=3), 0).astype(np.int32)
            cells[:, :, :, 0] += short
        enters = {
            step * self.looks_per_step: ceil(self.replicas * weight / 100) for step, weight in enumerate(self.weights)
        }
        return Traces(self.look_seconds, self.replicas, enters, cells, errors, refusals)

    def _latencies(self, generator: np.random.Generator, rollouts: int, looks: int) -> Rates:
        """Chance of each bucket: rollout, look, revision, bucket."""
        chances = np.broadcast_to(LATENCIES, (rollouts, looks, 2, CELLS)).copy()
        if self.slowness is not None:
            part = np.minimum(_varied(self.slowness, generator, rollouts, looks), 1)[:, :, None, None]
            chances = (1 - part) * chances + part * _slower(LATENCIES, 2)
        if self.slower_buckets:
            chances[:, :, CANARY] = _slower(LATENCIES, self.slower_buckets)
        return chances

    def _pods(self, look: int) -> tuple[int, int]:
        """Stable's and the canary's pods: a canary has as many as its weight of all, stable keeps all of its own."""
        return self.replicas, ceil(self.replicas * self.weights[look // self.looks_per_step] / 100)

    def _burst(self, generator: np.random.Generator, requests: Counts, errors: Counts) -> Counts:
        """Single pods fail all that they are asked, for a short time, now and then."""
        rollouts, looks = requests.shape[:2]
        errors = errors.copy()
        chance = self.pod_bursts_per_minute * self.look_seconds / 60
        for arm in (STABLE, CANARY):
            for pod in range(self.replicas):
                until = np.full(rollouts, -1.0)
                for look in range(looks):
                    pods = self._pods(look)[arm]
                    if pod >= pods:
                        continue
                    starts = np.less(generator.random(rollouts), chance)
                    if starts.any():
                        length = generator.uniform(*self.burst_seconds, size=rollouts)
                        until = np.where(starts, np.maximum(until, look + length / self.look_seconds), until)
                    failing = np.flatnonzero(until > look)
                    if len(failing):
                        part = np.minimum(until[failing] - look, 1) / pods
                        fine = requests[failing, look, arm] - errors[failing, look, arm]
                        # Pods' bursts rarely meet, so what another one failed already is not asked for again.
                        errors[failing, look, arm] += generator.binomial(fine, part).astype(np.int32)
        return errors

    def _cool(self, generator: np.random.Generator, cells: Counts) -> None:
        """Each new canary pod's first answers are slow."""
        rollouts, looks = cells.shape[:2]
        warm = np.zeros((rollouts, self.replicas), np.int64)
        for look in range(looks):
            pods = self._pods(look)[1]
            if (warm[:, :pods] >= self.cold_requests).all():
                continue
            asked = cells[:, look, CANARY].sum(axis=1)
            left = asked.copy()
            slow = np.zeros(rollouts, np.int64)
            for pod in range(pods):
                mine = generator.binomial(left, 1 / (pods - pod))
                left -= mine
                slow += np.minimum(mine, np.maximum(self.cold_requests - warm[:, pod], 0))
                warm[:, pod] += mine
            rows = np.flatnonzero(slow)
            # The slow ones take the place of as many others, of any latency.
            fast = cells[rows, look, CANARY]
            gone = generator.multivariate_hypergeometric  # drawn row by row: few rows are cold at a time
            for row, before in zip(rows, fast, strict=True):
                removed = gone(before, slow[row])
                cells[row, look, CANARY] += (generator.multinomial(slow[row], COLD) - removed).astype(np.int32)


def _varied(
    vary: Callable[[np.random.Generator, int, int], Rates] | None,
    generator: np.random.Generator,
    rollouts: int,
    looks: int,
) -> Rates:
    return np.ones((1, looks)) if vary is None else vary(generator, rollouts, looks)


def _slower(chances: Rates, buckets: int) -> Rates:
    moved = np.zeros_like(chances)
    moved[buckets:] = chances[: len(chances) - buckets]
    moved[-1] += chances[len(chances) - buckets :].sum()
    return moved


def on_and_off(low: float, high: float, look_chance: float, length: int) -> Callable[..., Rates]:
    """Mostly `low`, and `high` for `length` looks now and then: the same for both revisions."""

    def vary(generator: np.random.Generator, rollouts: int, looks: int) -> Rates:
        starts = generator.random((rollouts, looks)) < look_chance
        total = np.cumsum(starts, axis=1)
        before = np.zeros_like(total)
        before[:, length:] = total[:, :-length]
        return np.where(total > before, high, low)

    return vary


def waves(middle: float, factor: float, looks_per_wave: float) -> Callable[..., Rates]:
    """Up and down by that factor, from anywhere."""

    def vary(generator: np.random.Generator, rollouts: int, looks: int) -> Rates:
        phase = generator.uniform(0, 2 * np.pi, (rollouts, 1))
        waved: Rates = middle * factor ** np.sin(phase + np.arange(looks) * 2 * np.pi / looks_per_wave)
        return waved

    return vary


HEALTHY = (
    Kind("steady"),
    Kind("much traffic", requests_per_second=1000),
    Kind(
        "bursty",
        requests_vary=on_and_off(0.3, 4, 0.02, 8),
        errors_vary=on_and_off(0.5, 60, 0.005, 10),
        slowness=on_and_off(0, 0.8, 0.01, 5),
    ),
    Kind(
        "drifting",
        requests_vary=waves(1, 3, 500),
        errors_vary=waves(2, 5, 700),
        slowness=waves(0.2, 5, 900),
    ),
    Kind("low (0.5/s)", requests_per_second=0.5, look_seconds=5),
    Kind("bursts of one pod in 4", pod_bursts_per_minute=0.1),
    Kind("bursts of one pod in 20", pod_bursts_per_minute=0.05, replicas=20, requests_per_second=200),
    Kind("cold caches", cold_requests=10),
    Kind("cold caches, 20 pods", cold_requests=10, replicas=20, requests_per_second=200),
    Kind(
        "weights jumping",
        is_weight_jumping=True,
        errors_vary=waves(1, 4, 60),
        slowness=waves(0.1, 4, 90),
    ),
    Kind("slow ones counted late", late_looks=5, errors_vary=waves(1, 4, 60)),
)
