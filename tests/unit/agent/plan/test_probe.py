"""How a server's answers to its own request are judged: a table, and what takes the pod out of the Service."""

from dataclasses import replace

import pytest

from slipway_agent.config import Config
from slipway_agent.model.probe import Probe, Question
from slipway_agent.plan.failures import configures_alike
from slipway_agent.plan.probe import PROBE_SECONDS, ProbeEnded, follow, is_due, take_answer
from slipway_agent.plan.world import LoadRecord, World, is_serving
from tests.unit.agent.plan.test_plan import NOW, alive, settled

SINCE = "2026-03-01T12:00:00Z"
LOST = None


def probed(**changes: object) -> World:
    """Version 3 serves, and is asked."""
    world = settled(3)
    config = replace(world.config, question=Question({"inputs": []}), **changes)  # type: ignore[arg-type]
    world = replace(world, config=config)
    return replace(world, probe=follow(world, SINCE))


def after(world: World, *statuses: int | None) -> World:
    """After these answers, half a minute apart."""
    for status in statuses:
        world = replace(world, now=world.now + PROBE_SECONDS)
        assert is_due(world)
        world = take_answer(world, ProbeEnded(3, world.now, status, f"said {status}"))
    return world


@pytest.mark.parametrize(
    ("statuses", "is_failing"),
    [
        ((), None),
        ((500, 500), None),
        ((500, 500, 500), True),
        ((503, 500, 502), True),
        ((500, 500, 200, 500, 500), False),
        ((500, 500, 400, 500), False),
        ((500, LOST, 500, LOST, 500), True),
        ((LOST, LOST, LOST, LOST), None),
        ((504, 504, 504), False),
        ((500, 500, 500, LOST), True),
        ((500, 500, 500, 200), False),
        ((500, 500, 500, 422), False),
    ],
)
def test_the_third_server_error_in_a_row_counts_and_an_answer_ends_it(
    statuses: tuple[int | None, ...], is_failing: bool | None
) -> None:
    probe = after(probed(), *statuses).probe
    assert probe.is_failing is is_failing
    assert probe.asked == len(statuses)
    assert probe.failed == sum(status is not None and status >= 500 and status != 504 for status in statuses)
    assert probe.refused == sum(status in (400, 422) for status in statuses)


def test_the_last_words_are_kept_until_an_answer_comes() -> None:
    world = after(probed(), 500, 500, 503, LOST)
    assert world.probe.message == "said 503"
    assert after(world, 200).probe.message == ""


@pytest.mark.parametrize(
    ("is_out", "statuses", "serves"),
    [
        (False, (500, 500, 500), True),
        (True, (500, 500, 500), False),
        (True, (), False),
        (True, (LOST,), False),
        (True, (500, 500, 500, 200), True),
        (True, (500, 500, 500, 200, 500), True),
    ],
)
def test_a_pod_is_out_while_the_operator_says_so_and_it_hasnt_answered_well(
    is_out: bool, statuses: tuple[int | None, ...], serves: bool
) -> None:
    assert is_serving(after(probed(is_out=is_out), *statuses)) is serves


def test_a_pod_that_has_nothing_to_be_asked_is_never_out() -> None:
    world = probed(is_out=True)
    assert is_serving(replace(world, config=replace(world.config, question=None)))


def test_it_is_asked_after_half_a_minute_and_at_once_where_it_is_to_be_out() -> None:
    assert not is_due(probed())
    assert is_due(replace(probed(), now=NOW + PROBE_SECONDS))
    assert is_due(probed(is_out=True))


def test_nothing_is_asked_beside_a_load_or_a_turn() -> None:
    due = replace(probed(), now=NOW + PROBE_SECONDS)
    assert not is_due(replace(due, loading=frozenset({3})))
    assert not is_due(replace(due, left_at=NOW))
    assert not is_due(replace(due, server=alive()))


def test_an_answer_that_came_beside_a_load_says_nothing() -> None:
    world = after(probed(), 500, 500)
    for beside in (
        replace(world, loading=frozenset({3})),
        replace(world, last_load=LoadRecord(frozenset({3}), world.now + 1)),
    ):
        for status in (500, 200):
            taken = take_answer(beside, ProbeEnded(3, world.now, status)).probe
            assert (taken.failures, taken.is_failing, taken.asked) == (2, None, 3)


def test_a_server_that_starts_and_another_version_begin_anew() -> None:
    failing = after(probed(), 500, 500, 500)
    assert follow(failing, "later").is_failing
    assert follow(replace(failing, server=alive()), "later").is_failing, "a load is on, the server is the same"
    assert follow(replace(failing, server=replace(alive(), is_alive=False)), "later") == Probe()
    other = replace(failing, config=replace(failing.config, served=4, load=(4,)), server=alive(3, 4))
    assert follow(other, "later") == Probe(4, next_at=failing.now + PROBE_SECONDS, since="later")
    assert take_answer(other, ProbeEnded(9, failing.now, 500)) == other


def test_who_is_out_and_what_is_asked_are_nothing_that_a_server_has_to_load() -> None:
    config: Config = probed().config
    assert configures_alike(config, replace(config, is_out=True, question=None, generation="next"))
