"""What Service <name> reaches: it changes only when the other side takes the requests as they are wanted."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.decide.service_target import choose_service_target, in_force_now
from slipway.model.signals import InForce
from slipway.model.workload import Workload
from slipway.observe.service import ALL_PODS, ROUTER, ServiceTarget, read_service_target
from tests.unit.specs import NAME

OLD, NEW = ServiceTarget(workload="old"), ServiceTarget(workload="new")
STABLE_ALONE = {"old": 100}
SHARED = {"old": 75, "new": 25}
PROMOTED = {"new": 100, "old": 0}


def pods(**ready: int) -> dict[str, Workload]:
    return {name: Workload(name, count, count, count) for name, count in ready.items()}


def split(weights: dict[str, int], **endpoints: int) -> InForce:
    return InForce(weights, endpoints)


# ---- what the live Service selects


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"slipway.dev/model": NAME}, ALL_PODS),
        ({"slipway.dev/model": NAME, "slipway.dev/revision": "old"}, OLD),
        ({"slipway.dev/model": f"{NAME}.router"}, ROUTER),
        (None, ALL_PODS),
    ],
)
def test_the_live_entry_is_read_from_the_selector(selector: Any, expected: ServiceTarget) -> None:
    assert read_service_target({"spec": {"selector": selector}}, NAME) == expected


def test_without_a_service_there_is_no_entry() -> None:
    assert read_service_target(None, NAME) is None


# ---- which entry


WITH_ROUTER = [
    pytest.param(STABLE_ALONE, None, None, 0, {}, ROUTER, id="new: routers from the start"),
    pytest.param(STABLE_ALONE, ROUTER, None, 0, pods(old=0), ROUTER, id="new: nobody is ready yet, they stay"),
    pytest.param(STABLE_ALONE, ROUTER, None, 0, pods(old=2), OLD, id="new: pods come before the routers"),
    pytest.param(
        STABLE_ALONE, None, None, 0, pods(old=2), OLD, id="made anew: stable's pods until routers are in force"
    ),
    pytest.param(STABLE_ALONE, ALL_PODS, None, 0, pods(old=2), OLD, id="steps added: stable's pods alone first"),
    pytest.param(
        STABLE_ALONE,
        OLD,
        split({"old": 100}, old=2),
        2,
        pods(old=2),
        ROUTER,
        id="all routers split as wanted: they take over",
    ),
    pytest.param(
        STABLE_ALONE,
        OLD,
        split({"old": 100}, old=1),
        2,
        pods(old=2),
        OLD,
        id="they don't reach all ready pods: not yet",
    ),
    pytest.param(
        SHARED, OLD, split({"old": 100, "new": 0}), 2, pods(old=2, new=1), OLD, id="they split otherwise: not yet"
    ),
    pytest.param(SHARED, OLD, None, 2, pods(old=2, new=1), OLD, id="nobody knows how they split: not yet"),
    pytest.param(SHARED, ROUTER, None, 1, pods(old=2, new=1), ROUTER, id="behind routers it stays while one is ready"),
    pytest.param(SHARED, ROUTER, None, 0, pods(old=2, new=1), OLD, id="no router is ready: stable's pods"),
    pytest.param(
        STABLE_ALONE,
        ALL_PODS,
        None,
        0,
        pods(old=1, new=2),
        ALL_PODS,
        id="stable's pods can't take it all yet: do nothing",
    ),
    pytest.param(
        SHARED, ROUTER, None, 0, pods(old=0, new=1), ALL_PODS, id="no router, stable has no pods: whoever is there"
    ),
]


@pytest.mark.parametrize(("weights", "live", "by_router", "ready", "workloads", "expected"), WITH_ROUTER)
def test_with_routers(
    weights: dict[str, int],
    live: ServiceTarget | None,
    by_router: InForce | None,
    ready: int,
    workloads: dict[str, Workload],
    expected: ServiceTarget,
) -> None:
    assert (
        choose_service_target(
            weights,
            {"old": 2, "new": 2},
            live,
            by_router,
            ready_routers=ready,
            workloads=workloads,
            wants_router=True,
        )
        == expected
    )


BY_PODS = [
    pytest.param(STABLE_ALONE, None, pods(old=2), OLD, id="stable alone"),
    pytest.param({"old": 100, "new": 0}, OLD, pods(old=2, new=1), OLD, id="a canary at weight 0 isn't reached"),
    pytest.param(SHARED, OLD, pods(old=2, new=1), ALL_PODS, id="shared: all pods"),
    pytest.param(SHARED, OLD, pods(old=2, new=0), OLD, id="shared, but the canary has no ready pod: not yet"),
    pytest.param(SHARED, ALL_PODS, pods(old=2, new=0), ALL_PODS, id="it lost its pods: as it is"),
    pytest.param(PROMOTED, ALL_PODS, pods(old=2, new=2), NEW, id="promoted: its pods alone"),
    pytest.param(PROMOTED, ALL_PODS, pods(old=2, new=1), ALL_PODS, id="its pods aren't enough: not yet"),
    pytest.param(STABLE_ALONE, ROUTER, pods(old=2), OLD, id="from routers to pods"),
    pytest.param(SHARED, ROUTER, pods(old=2, new=1), ALL_PODS, id="from routers to pods while shared"),
]


@pytest.mark.parametrize(("weights", "live", "workloads", "expected"), BY_PODS)
def test_by_the_ratio_of_pods(
    weights: dict[str, int], live: ServiceTarget | None, workloads: dict[str, Workload], expected: ServiceTarget
) -> None:
    assert (
        choose_service_target(
            weights, {"old": 2, "new": 2}, live, None, ready_routers=0, workloads=workloads, wants_router=False
        )
        == expected
    )


def test_with_swap_what_is_promoted_needs_no_more_pods_than_there_is_room_for() -> None:
    room = {"old": 1, "new": 1}
    chosen = choose_service_target(
        PROMOTED, room, ALL_PODS, None, ready_routers=0, workloads=pods(old=1, new=1), wants_router=False
    )
    assert chosen == NEW


@pytest.mark.parametrize("live", [None, ALL_PODS, OLD, ROUTER])
def test_where_requests_are_not_split_all_ready_pods_share_them(live: ServiceTarget | None) -> None:
    chosen = choose_service_target(
        None, {"old": 2}, live, None, ready_routers=0, workloads=pods(old=2), wants_router=False
    )
    assert chosen == ALL_PODS


@pytest.mark.parametrize(
    ("workloads", "expected"),
    [
        (pods(old=2, new=1), OLD),
        (pods(old=1, new=2), OLD),
        (pods(old=0, new=2), ALL_PODS),
        (pods(new=2), ALL_PODS),
    ],
)
def test_pods_that_answer_on_other_paths_get_no_request_while_stable_can_answer(
    workloads: dict[str, Workload], expected: ServiceTarget
) -> None:
    chosen = choose_service_target(
        None, {}, ALL_PODS, None, ready_routers=0, workloads=workloads, wants_router=False, alone="old"
    )
    assert chosen == expected


# ---- how requests are split now


def test_without_a_service_nobody_can_say_how_requests_are_split() -> None:
    assert in_force_now(None, split(SHARED), pods(old=2), wants_router=True) is None


@pytest.mark.parametrize("said", [None, split(SHARED)])
def test_behind_routers_it_is_what_they_say(said: InForce | None) -> None:
    assert in_force_now(ROUTER, said, pods(old=2, new=1), wants_router=True) == said


def test_by_pods_it_is_the_ratio_of_the_ready_ones() -> None:
    assert in_force_now(ALL_PODS, None, pods(old=3, new=1), wants_router=False) == InForce(
        {"old": 75, "new": 25}, {"old": 3, "new": 1}
    )


def test_before_routers_have_the_requests_no_canary_is_reachable_through_them() -> None:
    assert in_force_now(OLD, split(STABLE_ALONE), pods(old=3, new=1), wants_router=True) == InForce(
        {"old": 100}, {"old": 3}
    )


def test_pods_that_nobody_reaches_split_nothing() -> None:
    assert in_force_now(OLD, None, pods(old=0, new=1), wants_router=False) is None
