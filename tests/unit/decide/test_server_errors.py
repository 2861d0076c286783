"""Which pods leave the Service for their servers' errors, and whose fault it is when all of a revision's do."""

from __future__ import annotations

import pytest

from slipway.decide.server_errors import pods_out
from slipway.model.workload import Member, Workload

WORDS = "stub process is not healthy"


def member(name: str, said: str | None, *, is_ready: bool = True, is_in_turn: bool = True) -> Member:
    return Member(name, is_ready, is_in_turn=is_in_turn, server_error=said)


def well(name: str) -> Member:
    return member(name, "")


def fails(name: str, *, is_ready: bool = True) -> Member:
    return member(name, WORDS, is_ready=is_ready)


def silent(name: str, *, is_ready: bool = True) -> Member:
    return member(name, None, is_ready=is_ready)


def workload(*members: Member) -> Workload:
    return Workload("r", len(members), len(members), sum(each.is_ready for each in members), members=members)


OUT: list[tuple[str, tuple[Member, ...], tuple[str, ...], tuple[str, ...]]] = [
    ("nothing is wrong", (well("a"), well("b")), (), ()),
    ("no agent tells", (silent("a"), silent("b")), (), ()),
    ("one fails, another answers", (fails("a"), well("b")), (), ("a",)),
    ("two fail, another answers", (fails("a"), fails("c"), well("b")), (), ("a", "c")),
    ("it is out and fails on", (fails("a", is_ready=False), well("b")), ("a",), ("a",)),
    ("it answers again", (member("a", "", is_ready=False), well("b")), ("a",), ()),
    ("it is out and silent", (silent("a", is_ready=False), well("b")), ("a",), ("a",)),
    ("all are silent for a moment", (silent("a", is_ready=False), silent("b")), ("a",), ("a",)),
    ("the other starts", (fails("a", is_ready=False), silent("b", is_ready=False)), ("a",), ("a",)),
    ("the other isn't known to answer", (fails("a"), silent("b")), (), ()),
    ("the other isn't ready", (fails("a"), member("b", "", is_ready=False)), (), ()),
    ("all fail", (fails("a"), fails("b")), (), ()),
    ("the last one fails, too", (fails("a", is_ready=False), fails("b")), ("a",), ()),
    ("it is alone", (fails("a"),), (), ()),
    ("the one that was out is gone", (well("b"), well("c")), ("a",), ()),
    ("nobody is there", (), ("a",), ()),
]


@pytest.mark.parametrize(("case", "members", "before", "out"), OUT, ids=[row[0] for row in OUT])
def test_a_pod_leaves_only_while_another_answers_and_comes_back_by_a_good_answer(
    case: str, members: tuple[Member, ...], before: tuple[str, ...], out: tuple[str, ...]
) -> None:
    assert pods_out(workload(*members), before) == out


@pytest.mark.parametrize(("case", "members", "before", "out"), OUT, ids=[row[0] for row in OUT])
def test_the_same_world_changes_nothing_twice(
    case: str, members: tuple[Member, ...], before: tuple[str, ...], out: tuple[str, ...]
) -> None:
    assert pods_out(workload(*members), out) == out, case


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ((), ""),
        ((well("a"),), ""),
        ((fails("a"), fails("b", is_ready=False)), WORDS),
        ((fails("a"), well("b")), ""),
        ((fails("a"), silent("b")), ""),
        ((fails("a"), silent("b", is_ready=False)), WORDS),
        ((fails("a"), member("b", "", is_in_turn=False)), WORDS),
    ],
)
def test_a_revision_fails_where_all_of_its_pods_that_serve_do(members: tuple[Member, ...], said: str) -> None:
    assert workload(*members).server_error == said
