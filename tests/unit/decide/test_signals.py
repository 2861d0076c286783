"""What is kept of the evidence from look to look, and when a step's own minimum counts anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from slipway.api.status import ModelDeploymentStatus, RevisionStatus
from slipway.decide.analysis.settings import judging_of
from slipway.decide.commands import CommandOutcome
from slipway.decide.inputs import Inputs
from slipway.decide.placement import Placement
from slipway.decide.signals import gather_signals, is_judged_now
from slipway.decide.steps import steps_of
from slipway.model.revision import Revision
from slipway.model.rollout import Target
from slipway.model.rollout_state import RolloutState
from slipway.model.signals import Counts, Outcome, Reading
from slipway.model.workload import Workload
from slipway.observe.snapshot import Snapshot
from tests.unit.specs import deployment

START = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
ONE: list[Any] = [{"weight": 25, "holdSeconds": 60}, {"weight": 50}]
OTHER: list[Any] = [{"weight": 10}, {"weight": 25, "holdSeconds": 60}, {"weight": 50}]
SNAPSHOT = Snapshot({}, frozenset(), {}, {"old": Workload("old", 4, 4, 4), "new": Workload("new", 1, 1, 1)}, {}, (), {})


def inputs_of(steps: list[Any], state: RolloutState) -> Inputs:
    asked = deployment({"replicas": 4, "rollout": {"steps": steps, "analysis": {"onInconclusive": "Hold"}}})
    return Inputs(
        asked=asked,
        deployment=asked,
        listed=(),
        stamps={},
        outcome=CommandOutcome(state),
        steps=steps_of(asked),
        placement=Placement(Revision("new", 2, 2, {}, {}, {}), "new"),
        target=Target("new", "", 4, 600, "new"),
        judging=judging_of(asked),
    )


class Looks:
    """Looks at a canary, a second apart: each adds answers, half of the canary's bad, and keeps what status would."""

    def __init__(self) -> None:
        self.now, self.counts, self.seen = START, [0, 0], Outcome.INCONCLUSIVE
        self.stored = ModelDeploymentStatus()

    def at(self, index: int, steps: list[Any] = ONE, *, weight: int = 25, times: int = 10, bad: int = 1) -> Any:
        """The counts after that many looks in that step."""
        state = RolloutState(stable="old", canary="new", step_index=index, weight_percent=weight)
        for _ in range(times):
            self.now += timedelta(seconds=1)
            self.counts = [self.counts[0] + 30, self.counts[1] + 10]
            reading = Reading(
                {"router": {"old": Counts(self.counts[0]), "new": Counts(self.counts[1], self.counts[1] // 10 * bad)}}
            )
            canary = RevisionStatus(revision="new", version=2, weight_percent=weight)
            self.stored = self.stored.model_copy(update={"canary": canary})
            given = inputs_of(steps, state)
            if not is_judged_now(given, self.stored):
                continue
            signals = gather_signals(given, SNAPSHOT, self.stored, reading, self.now)
            assert signals.verdict is not None
            self.seen = signals.verdict.outcome
            self.stored = self.stored.model_copy(update={"evidence": signals.accumulators})
        evidence = self.stored.evidence
        return evidence["counted"] if evidence else None


def in_step(counted: Any) -> float:
    """Requests of the canary that count for the step."""
    return float(counted["step"][1][0])


def worth(counted: Any) -> list[float]:
    """What the bets against the canary's errors are worth."""
    return [float(bet) for bet in counted["evidence"][0][2:]]


@pytest.mark.parametrize(
    ("index", "steps"),
    [(2, ONE), (1, OTHER), (2, OTHER)],
    ids=["the next step", "the first of other steps", "the same number of other steps"],
)
@pytest.mark.parametrize("before", [1, 2])
def test_another_step_counts_its_own_requests_anew_and_the_evidence_goes_on(
    before: int, index: int, steps: list[Any]
) -> None:
    looks = Looks()
    first = looks.at(before)
    second = looks.at(index, steps, times=3)
    is_same = (before, steps) == (index, ONE)
    assert in_step(first) == 90  # the first look begins
    assert in_step(second) == (120 if is_same else 20)  # what came with the look that entered it was the one before's
    assert max(worth(second)) > max(worth(first))
    assert second["rollout"][1][0] == 120


def test_a_step_that_is_entered_again_counts_anew_once() -> None:
    looks = Looks()
    looks.at(2)
    assert in_step(looks.at(1, OTHER, times=5)) == 40


def test_a_canary_that_lost_its_weight_keeps_what_speaks_against_it() -> None:
    looks = Looks()
    first = looks.at(1, bad=1)
    prepares = looks.at(0, weight=0, times=5)
    assert max(worth(prepares)) >= max(worth(first))
    assert in_step(looks.at(1, times=3)) == 20


def test_before_its_first_requests_nothing_is_counted_of_a_canary() -> None:
    assert Looks().at(0, weight=0) is None


def test_what_a_canary_answers_in_stables_stead_is_no_evidence() -> None:
    looks = Looks()
    first = looks.at(1)
    diverted = looks.at(1, weight=100, times=5)
    assert (in_step(diverted), worth(diverted)) == (in_step(first), worth(first))
    assert in_step(looks.at(1, times=2)) == in_step(first) + 20
    assert looks.seen is not Outcome.PASS


def test_a_status_of_release_0_1_in_mid_step_goes_on_in_that_step() -> None:
    looks = Looks()
    looks.at(1)
    evidence = looks.stored.evidence
    assert evidence is not None
    former = {name: value for name, value in evidence.items() if name != "steps"}
    former["counted"] = {name: value for name, value in evidence["counted"].items() if name not in ("pods", "watched")}
    looks.stored = looks.stored.model_copy(update={"evidence": former})
    after = looks.at(1, times=1)
    assert in_step(after) == in_step(evidence["counted"]) + 10
    assert max(worth(after)) > max(worth(evidence["counted"]))
