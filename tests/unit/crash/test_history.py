"""What the crash tests call a breach: each is seen at the moment at which it began, and a good rollout has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.crash.history import Seen, breaches
from tests.simulation.routers import routes


def router(version: int, weights: Mapping[str, int]) -> Seen:
    return Seen(version, "ConfigMap", "digits-router", {"data": {"routes.json": routes({"weights": dict(weights)})}})


def service(version: int, **selector: str) -> Seen:
    return Seen(version, "Service", "digits", {"spec": {"selector": selector}})


def workload(version: int, name: str, replicas: int | None) -> Seen:
    content: dict[str, Any] | None = None if replicas is None else {"spec": {"replicas": replicas}}
    return Seen(version, "Deployment", f"digits-{name}", content)


def rejects(version: int, *revisions: str, said: str = "", done: str = "") -> Seen:
    """said: a person's command. done: the name of the one that status tells of."""
    status = {"rejected": [{"revision": revision} for revision in revisions], "lastCommand": {"id": done}}
    metadata = {"annotations": {"slipway.dev/command": said}}
    return Seen(version, "ModelDeployment", "digits", {"metadata": metadata, "status": status})


ROUTED = {"slipway.dev/model": "digits.router"}
PODS = {"slipway.dev/model": "digits"}


def test_a_canary_that_is_taken_back_breaches_nothing() -> None:
    history = [
        workload(1, "old", 2),
        service(2, **ROUTED),
        router(3, {"old": 100}),
        workload(4, "new", 1),
        router(5, {"old": 100, "new": 0}),
        router(6, {"old": 75, "new": 25}),
        router(7, {"old": 100, "new": 0}),
        rejects(8, "new"),
        router(9, {"old": 100}),
        workload(10, "new", None),
    ]
    assert breaches(history) == []


def test_what_a_person_wants_tried_again_may_have_weight_before_status_tells_of_it() -> None:
    retry = "retry/new/b"
    history = [rejects(1, "new", said=retry, done="a"), router(2, {"old": 75, "new": 25})]
    assert breaches(history) == []
    assert breaches([*history, rejects(3, "new", said=retry, done="b")])
    assert breaches([rejects(1, "new", said="retry/other/b"), router(2, {"old": 75, "new": 25})])


@pytest.mark.parametrize(
    ("history", "said"),
    [
        pytest.param([rejects(1, "new"), router(2, {"old": 75, "new": 25})], "since 2", id="a rejected one, again"),
        pytest.param([router(1, {"old": 75, "new": 25}), rejects(2, "new")], "since 2", id="rejected too early"),
        pytest.param([router(1, {"old": 50, "new": 25, "newer": 25})], "two canaries have weight", id="two canaries"),
        pytest.param([router(1, {"old": 75, "new": 24})], "don't sum to 100", id="a sum"),
        pytest.param(
            [rejects(1, "new"), service(2, **PODS, **{"slipway.dev/revision": "new"})],
            "the Service leads to its pods",
            id="the Service leads to it alone",
        ),
        pytest.param(
            [service(1, **PODS), rejects(2, "new"), workload(3, "old", 2), workload(4, "new", 1)],
            "since 4",
            id="the Service leads to all pods",
        ),
        pytest.param(
            [service(1, **PODS), *(workload(2 + number, name, 1) for number, name in enumerate("abc"))],
            "two canaries are behind the Service",
            id="two canaries by pods",
        ),
    ],
)
def test_a_breach_is_said_with_the_moment_at_which_it_began(history: list[Seen], said: str) -> None:
    (breach,) = breaches(reversed(history))
    assert said in breach
