"""slipway.analysis itself on the traces of the bench, look after look, as the operator calls it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from slipway.api.v1alpha1 import Analysis
from slipway.decide.analysis import verdict as analysis
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts, Outcome, Reading, Verdict

from .traffic import CANARY, CELLS, FIRST, STABLE, Traces

START = datetime(2026, 1, 1, tzinfo=UTC)
AFTER = len(LATENCY_BOUNDS_MILLISECONDS) - FIRST - CELLS


def verdicts(
    traces: Traces, rollout: int, settings: Analysis, *, is_restarted: bool = False
) -> Iterator[tuple[Verdict, analysis.Accumulated]]:
    """What the operator concludes at each look. is_restarted: it is ended after each look and reads status."""
    counted = np.zeros((2, 3 + CELLS), np.int64)
    accumulated = analysis.begin(_reading(counted), "stable", "canary", START)
    for look in range(traces.errors.shape[1]):
        if look in traces.enters:
            accumulated = analysis.enter_step(accumulated, traces.enters[look], traces.stable_pods)
        for arm in (STABLE, CANARY):
            counted[arm, 0] += traces.cells[rollout, look, arm].sum()
            counted[arm, 1] += traces.errors[rollout, look, arm]
            counted[arm, 2] += traces.refusals[rollout, look, arm]
            counted[arm, 3:] += traces.cells[rollout, look, arm].cumsum()
        now = START + timedelta(seconds=(look + 1) * traces.look_seconds)
        if is_restarted:
            stored = analysis.read(json.loads(json.dumps(analysis.write(accumulated))))
            if stored is None:
                raise AssertionError("what the operator wrote can't be read")
            accumulated = stored
        accumulated = analysis.look(accumulated, _reading(counted), now)
        yield analysis.judge(accumulated, settings, is_split=True), accumulated


def failed_at(traces: Traces, rollout: int, settings: Analysis, *, is_restarted: bool = False) -> tuple[int, str]:
    """The look (from 1) of the first `Fail` and its reason; (0, "") without one."""
    for look, (verdict, _) in enumerate(verdicts(traces, rollout, settings, is_restarted=is_restarted), 1):
        if verdict.outcome is Outcome.FAIL:
            return look, verdict.reason
    return 0, ""


def _reading(counted: np.ndarray) -> Reading:
    return Reading({"router": {"stable": _counts(counted[STABLE]), "canary": _counts(counted[CANARY])}})


def _counts(counted: np.ndarray) -> Counts:
    requests, errors, refusals, *within = (int(number) for number in counted)
    return Counts(requests, errors, refusals, (0,) * FIRST + tuple(within) + (requests,) * AFTER)


def read_all(readings: Sequence[Reading], settings: Analysis, is_split: bool) -> Iterator[Verdict]:
    """What is concluded from readings that are five seconds apart, at each after the first."""
    accumulated = analysis.begin(readings[0], "stable", "canary", START)
    for number, reading in enumerate(readings[1:], 1):
        accumulated = analysis.look(accumulated, reading, START + timedelta(seconds=5 * number))
        yield analysis.judge(accumulated, settings, is_split=is_split)
