"""Whose turn it is to go over to a version that arrives in place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.decide.in_place import next_in_turn
from slipway.model.workload import Member

SERVES = {"is_ready": True}
GONE = {"is_ready": True, "is_in_turn": True, "has_switched": True}
ON_ITS_WAY = {"is_ready": True, "is_in_turn": True}
OUT = {"is_ready": False, "is_in_turn": True}
LOST = {"is_ready": False}


def members(*kinds: dict[str, bool]) -> list[Member]:
    found = zip("abcdefgh", kinds, strict=False)
    return [
        Member(name, kind["is_ready"], kind.get("is_in_turn", False), kind.get("has_switched", False))
        for name, kind in found
    ]


TABLE = {
    "of pods that all serve, one goes first": ((SERVES,) * 4, 4, "a"),
    "and goes alone until it is ready": ((OUT, SERVES, SERVES, SERVES), 4, "a"),
    "though its orders have only just come": ((ON_ITS_WAY, SERVES, SERVES, SERVES), 4, "a"),
    "once it serves, the next goes": ((GONE, SERVES, SERVES, SERVES), 4, "ab"),
    "and no other before that one is ready": ((GONE, OUT, SERVES, SERVES), 4, "ab"),
    "of eight, two at a time": ((GONE, *[SERVES] * 7), 8, "abc"),
    "which need not wait for each other": ((GONE, GONE, OUT, *[SERVES] * 5), 8, "abcd"),
    "one that is lost counts": ((GONE, *[SERVES] * 6, LOST), 8, "abh"),
    "one that isn't there counts": ((GONE, *[SERVES] * 6), 8, "ab"),
    "with two lost, none that serves goes": ((GONE, *[SERVES] * 5, LOST, LOST), 8, "agh"),
    "one that lost its readiness after it went counts": ((GONE, OUT, SERVES), 3, "ab"),
    "where one is lost already, that one goes first": ((SERVES, SERVES, LOST), 3, "c"),
    "where one isn't there, nobody goes first": ((SERVES, SERVES), 3, ""),
    "where nothing serves, one goes first": ((LOST, LOST), 2, "a"),
    "a single pod goes": ((SERVES,), 1, "a"),
    "all have gone, nothing changes": ((GONE, GONE), 2, "ab"),
    "no pods, no turns": ((), 2, ""),
    "scaled to nothing": ((), 0, ""),
}


@pytest.mark.parametrize(("kinds", "replicas", "turn"), TABLE.values(), ids=TABLE.keys())
def test_whose_turn_it_is(kinds: tuple[dict[str, bool], ...], replicas: int, turn: str) -> None:
    assert next_in_turn(members(*kinds), replicas) == tuple(turn)


anyone = st.sampled_from([SERVES, GONE, ON_ITS_WAY, OUT, LOST])


@given(st.lists(anyone, max_size=8), st.integers(1, 8))
def test_no_turn_takes_more_than_a_quarter_out(kinds: list[dict[str, bool]], replicas: int) -> None:
    here = members(*kinds)
    turn = next_in_turn(here, replicas)
    newly = [each for each in here if each.name in turn and not each.is_in_turn and each.is_ready]
    serving = sum(each.is_ready and (each.has_switched or each.name not in turn) for each in here)
    assert not newly or serving >= replicas - max(1, replicas // 4)


@given(st.lists(anyone, max_size=8), st.integers(1, 8))
def test_a_turn_is_never_taken_away_and_asking_twice_changes_nothing(
    kinds: list[dict[str, bool]], replicas: int
) -> None:
    here = members(*kinds)
    turn = next_in_turn(here, replicas)
    assert {each.name for each in here if each.is_in_turn} <= set(turn)
    told = [Member(each.name, each.is_ready, each.name in turn, each.has_switched) for each in here]
    assert next_in_turn(told, replicas) == turn


@given(st.lists(st.sampled_from([SERVES, LOST]), max_size=8), st.integers(1, 8))
def test_before_one_has_proven_it_at_most_one_goes(kinds: list[dict[str, bool]], replicas: int) -> None:
    assert len(next_in_turn(members(*kinds), replicas)) <= 1
