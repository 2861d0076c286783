"""An operator that ends between what it asked of the routers and the status that tells of it: its successor goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from slipway.decide.catch_up import catch_up, recall_stable
from slipway.decide.rollout import step
from slipway.model.revision import Revision
from slipway.model.rollout import Step, Target
from slipway.model.rollout_state import Rejection, RolloutState
from slipway.model.signals import InForce, Outcome, Signals, Verdict
from slipway.model.workload import Workload
from slipway.observe.router_reports import read_sent_weights
from slipway.render.router import configure
from slipway.render.routing import Backend, Split
from tests.unit.canaries import NOW
from tests.unit.specs import deployment

HOMES = {
    "old": Workload("old", 2, 2, 2),
    "new": Workload("new", 1, 1, 1),
}


@pytest.mark.parametrize(
    ("index", "weight", "told", "expected"),
    [
        pytest.param(0, 0, {"old": 75, "new": 25}, (1, 25), id="the first step"),
        pytest.param(1, 25, {"old": 50, "new": 50}, (2, 50), id="the next step"),
        pytest.param(1, 25, {"old": 0, "new": 100}, (4, 100), id="the last step"),
        pytest.param(3, 50, {"old": 50, "new": 50}, (3, 50), id="a pause at the weight that is there"),
        pytest.param(2, 50, {"old": 100, "new": 0}, (2, 50), id="taken back: why is found again"),
        pytest.param(1, 25, {}, (1, 25), id="nobody is told"),
    ],
)
@pytest.mark.parametrize("knows_canary", [True, False])
def test_a_weight_that_was_asked_before_status_told_of_it_is_remembered(
    index: int, weight: int, told: dict[str, int], expected: tuple[int, int], *, knows_canary: bool
) -> None:
    steps = (Step(25, 1), Step(50, 1), Step(50, 1, None, is_pause=True), Step(100, 2))
    memory = RolloutState(stable="old", canary="new" if knows_canary else None, step_index=index, weight_percent=weight)
    caught_up = catch_up(memory, told, HOMES, steps, "new", is_commanded=False)
    assert (caught_up.step_index, caught_up.weight_percent) == expected
    commanded = catch_up(memory, told, HOMES, steps, "new", is_commanded=True)
    assert (commanded.step_index, commanded.weight_percent) == (index, expected[1])


@pytest.mark.parametrize(
    ("memory", "told"),
    [
        pytest.param(RolloutState(stable=None), {"new": 100}, id="nothing is stable"),
        pytest.param(RolloutState(stable="new"), {"new": 100}, id="it is stable already"),
        pytest.param(RolloutState(stable="old", canary="third"), {"old": 75, "new": 25}, id="another one takes over"),
        pytest.param(RolloutState(stable="old", previous="new"), {"old": 0, "new": 100}, id="it is kept warm"),
        pytest.param(RolloutState(stable="third", previous="old"), {"new": 100}, id="something bakes"),
    ],
)
def test_a_weight_of_who_is_no_canary_is_nothing_to_catch_up_with(memory: RolloutState, told: dict[str, int]) -> None:
    wanted = memory.canary or "new"
    assert catch_up(memory, told, HOMES, (Step(100, 2),), wanted, is_commanded=False) == memory


def test_a_canary_that_replaced_another_before_status_told_of_it_goes_on() -> None:
    """Were its weight taken back each time, operators that end at every write would flap for ever."""
    third = RolloutState("old", "third", 2, NOW, step_index=2, step_since=NOW, weight_percent=50, is_paused=True)
    told, steps = {"old": 75, "third": 0, "new": 25}, (Step(25, 1), Step(50, 1), Step(100, 2))
    expected = RolloutState("old", "new", step_index=1, weight_percent=25)
    assert catch_up(third, told, HOMES, steps, "new", is_commanded=False) == expected
    assert catch_up(third, told, HOMES, steps, "fourth", is_commanded=False) == third


def test_a_command_that_began_a_canary_is_gone_on_with_before_status_tells_of_it() -> None:
    """It is carried out once more; but what routers were sent isn't taken back while some have it and some don't."""
    wanted = Target("new", "", 2, 60, "new", steps=(Step(25, 1), Step(100, 2)))
    memory = catch_up(RolloutState("old"), {"old": 75, "new": 25}, HOMES, wanted.steps, "new", is_commanded=True)
    plan = step(wanted, memory, HOMES, NOW, Signals(in_force=None))
    assert (plan.state.step_index, plan.weights) == (1, {"old": 75, "new": 25})


def test_a_carrier_that_routers_are_not_told_of_any_more_does_not_come_back() -> None:
    """Its weight 0 was in force before it was left out; that the latest isn't in force yet says nothing of it."""
    workloads = {"old": Workload("old", 2, 2, 2), "new": Workload("new", 2, 2, 2)}
    wanted = Target("new", "", 2, 60, "new", steps=(Step(100, 2),))
    not_latest = InForce({"old": 0, "new": 100}, {"old": 2, "new": 2}, is_latest=False)
    for told, expected in (({"old": 0, "new": 100}, {"old", "new"}), ({"new": 100}, {"new"})):
        plan = step(wanted, RolloutState(stable="new"), workloads, NOW, Signals(in_force=not_latest, sent_weights=told))
        assert set(plan.replicas) == expected


def test_a_canary_that_fails_is_left_out_only_once_status_tells_that_it_failed() -> None:
    workloads = {"old": Workload("old", 2, 2, 2), "new": Workload("new", 2, 2, 2)}
    wanted = Target("new", "bytes", 2, 60, "new", steps=(Step(50, 1), Step(100, 2)), is_judged=True)
    off = InForce({"old": 100, "new": 0}, {"old": 2, "new": 2})
    failed = Signals(
        verdict=Verdict(Outcome.FAIL, "ErrorsRose", "all of them"), in_force=off, sent_weights={"old": 100, "new": 0}
    )
    before = RolloutState(stable="old", canary="new", step_index=1, weight_percent=50, progress_since=NOW)
    first = step(wanted, before, workloads, NOW, failed)
    assert (first.newly_rejected, first.weights) == (Rejection("new", "bytes"), {"old": 100, "new": 0})
    assert first.replicas == {"old": 2, "new": 2}
    told = RolloutState(stable="old", rejected=(Rejection("new", "bytes"),))
    assert step(wanted, told, workloads, NOW, Signals(in_force=off, sent_weights={"old": 100, "new": 0})).replicas == {
        "old": 2
    }


def test_what_routers_were_told_is_read_from_their_config_map() -> None:
    split = Split((Backend("old", 75, (1,), 8000, 8001), Backend("new", 25, (2,), 8000, 8001)))
    files = configure(deployment({"rollout": {"steps": [{"weight": 25}]}}), split).files
    assert read_sent_weights({"data": dict(files)}) == {"old": 75, "new": 25}


@pytest.mark.parametrize("routes", [None, "", "{}", "[]", json.dumps({"resources": [{"virtual_hosts": []}]})])
def test_a_config_map_that_somebody_broke_tells_nothing(routes: str | None) -> None:
    assert read_sent_weights({"data": {} if routes is None else {"routes.json": routes}}) == {}
    assert read_sent_weights({}) == {}


SERVES, ENDS = Workload("", 2, 2, 2), Workload("", 2, 2, 0)
NUMBERS = {
    name: Revision(hash=name, number=number, version=number, choice={}, fetching={}, template={})
    for number, name in enumerate(("a", "b", "c"), 1)
}


@pytest.mark.parametrize(
    ("named", "serving", "spec", "is_lost", "stable"),
    [
        pytest.param("b", {"a": SERVES, "b": SERVES}, "c", True, "b", id="as the Service says"),
        pytest.param("b", {"a": SERVES}, "b", True, "b", id="though it is the spec's, and its pods are gone"),
        pytest.param("b", {"a": SERVES}, "b", False, "b", id="though some of status is left"),
        pytest.param("gone", {"a": SERVES}, "c", True, "a", id="one that is kept nowhere is none"),
        pytest.param(None, {"a": SERVES, "b": SERVES}, "c", True, "a", id="unnamed, the oldest that serves"),
        pytest.param(None, {"a": ENDS, "b": SERVES}, "c", True, "b", id="of those that serve"),
        pytest.param(None, {"a": SERVES}, "a", True, None, id="the spec's own has it all to prove"),
        pytest.param(None, {"a": SERVES}, "b", False, None, id="with a status, nothing was stable yet"),
    ],
)
def test_a_lost_status_is_recalled_from_what_the_service_names_or_from_what_serves(
    named: str | None, serving: dict[str, Workload], spec: str, stable: str | None, *, is_lost: bool
) -> None:
    workloads = {name: replace(here, revision=name) for name, here in serving.items()}
    assert recall_stable(RolloutState(), named, workloads, NUMBERS, spec, is_lost=is_lost).stable == stable


def test_what_was_replaced_in_place_is_what_was_stable() -> None:
    workloads = {"a": Workload("b", 2, 2, 0, replaces="a")}
    assert recall_stable(RolloutState(), None, workloads, NUMBERS, "b", is_lost=True).stable == "a"
