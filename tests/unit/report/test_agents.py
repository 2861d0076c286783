"""Condition AgentsOutdated: which pods' agents are older than the operator's floor, and what a refresh would change."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from slipway.api.status import Condition, ModelDeploymentStatus
from slipway.model.revision import Assignment
from slipway.model.rollout import Promotion
from slipway.observe.agent_reports import AGENT_FLOOR, AgentReport
from slipway.observe.pods import Pod
from slipway.observe.snapshot import Snapshot
from slipway.report.agents import agents_status
from slipway.report.pass_result import PassResult
from slipway.report.status import assess
from tests.unit.plans import plan_of
from tests.unit.results import result_of

NOW = datetime(2026, 3, 1, tzinfo=UTC)
EMPTY = ModelDeploymentStatus()
STABLE = plan_of("new", None, {"new": 2}, {"new": Assignment("new")}, Promotion.PROMOTED)


def pod(name: str, release: str | None, **more: Any) -> Pod:
    """release: None: its agent doesn't answer."""
    report = None if release is None else AgentReport("g", (), (), None, release=release)
    return replace(Pod(name, f"uid-{name}", "new", True, False, "198.18.0.1", None, None, report), **more)


def snapshot(*pods: Pod) -> Snapshot:
    return Snapshot({}, frozenset(), {}, {}, {}, pods, {})


def result(*, offer: str = "", are_settled: bool = False) -> PassResult:
    found = result_of(STABLE, are_settled=are_settled)
    assert found.carried_out is not None
    rendered = replace(found.carried_out.rendered, offer=offer)
    return replace(found, carried_out=replace(found.carried_out, rendered=rendered))


def said(*pods: Pod, offer: str = "", stored: ModelDeploymentStatus = EMPTY) -> Condition:
    return agents_status(result(offer=offer), snapshot(*pods), stored)[1]


def test_pods_whose_agent_is_older_or_tells_no_release_are_named_with_the_way_out() -> None:
    found = said(pod("a", ""), pod("b", "0.0.3"), pod("c", AGENT_FLOOR))
    assert (found.status, found.reason) == ("True", "AgentsTooOld")
    assert "in 2 of 3 pods: a, b." in found.message
    assert "too old to tell its release, 0.0.3" in found.message
    assert "kubectl slipway refresh digits" in found.message


def test_of_many_some_are_named_and_all_counted() -> None:
    found = said(*(pod(f"p{number}", "") for number in range(9)))
    assert "in 9 of 9 pods: p0, p1, p2, p3, p4 and 4 more." in found.message


def test_where_none_is_too_old_it_says_what_a_refresh_would_change() -> None:
    found = said(pod("a", AGENT_FLOOR), offer="image of agent x:1 becomes x:2")
    assert (found.status, found.reason) == ("False", "RefreshAvailable")
    assert "image of agent x:1 becomes x:2" in found.message
    assert said(pod("a", AGENT_FLOOR)).reason == "AsExpected"


def test_before_any_agent_has_answered_nothing_is_claimed() -> None:
    found = said(pod("a", None))
    assert (found.status, found.reason) == ("Unknown", "NotReported")


@pytest.mark.parametrize("pods", [(), (pod("a", "", is_ending=True),), (pod("a", None, ip=None),)])
def test_pods_that_end_or_have_not_begun_do_not_count(pods: tuple[Pod, ...]) -> None:
    status, found = agents_status(result(), snapshot(*pods), EMPTY)
    assert status is not None
    assert (status.floor, status.outdated, found.status) == (AGENT_FLOOR, 0, "False")


def test_what_was_found_out_stands_while_nobody_is_asked_or_one_does_not_answer() -> None:
    once = assess(result(), snapshot(pod("a", ""), pod("b", AGENT_FLOOR)), EMPTY, NOW)
    assert once.agents is not None
    assert once.agents.outdated == 1
    settled = assess(result(are_settled=True), snapshot(pod("a", None), pod("b", None)), once, NOW)
    silent = assess(result(), snapshot(pod("a", None), pod("b", AGENT_FLOOR)), once, NOW)
    for later in (settled, silent):
        assert later.agents == once.agents
        assert later.condition("AgentsOutdated") == once.condition("AgentsOutdated")
    mended = assess(result(), snapshot(pod("a", AGENT_FLOOR), pod("b", AGENT_FLOOR)), once, NOW)
    assert mended.agents is not None
    assert mended.agents.outdated == 0


def test_ready_and_degraded_say_nothing_of_it() -> None:
    old = assess(result(), snapshot(pod("a", ""), pod("b", "")), EMPTY, NOW)
    new = assess(result(), snapshot(pod("a", AGENT_FLOOR), pod("b", AGENT_FLOOR)), EMPTY, NOW)
    for kind in ("Ready", "Promoted", "VersionsReady", "Degraded", "Reconciling"):
        assert old.condition(kind) == new.condition(kind)
