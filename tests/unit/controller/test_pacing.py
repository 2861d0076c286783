"""When a failed pass is tried again, and when a pod is nudged again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from slipway.controller.pacing import (
    MAX_BACKOFF_SECONDS,
    MAX_POLL_SECONDS,
    NUDGE_SECONDS,
    PATIENT_NUDGES,
    POLL_SECONDS,
    PROBE_SECONDS,
    PROBLEM_SECONDS,
    TOLD_ANEW_SECONDS,
    TOLD_SECONDS,
    Pacing,
    while_hindered,
)
from slipway.model.rollout import Plan, Promotion, PromotionReason
from slipway.model.rollout_state import RolloutState
from slipway.observe.pods import Pod
from slipway.observe.router_reports import RouterPod
from slipway.observe.snapshot import AgentOrders, Questions, Snapshot
from slipway.render.desired import Rendered

KEY, OTHER = ("default", "digits"), ("default", "letters")


def pod(sent: str | None) -> RouterPod:
    return RouterPod("router-0", "uid", "198.18.0.1", True, False, sent, "uid/0")


def test_each_failure_doubles_the_wait_up_to_a_minute_for_this_deployment_alone() -> None:
    pacing = Pacing(lambda: 0.0)
    assert [pacing.back_off(KEY) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert pacing.back_off(OTHER) == 0.5
    pacing.note_success(KEY)
    assert pacing.back_off(KEY) == 0.5


def test_however_often_a_pass_fails_it_is_tried_again() -> None:
    """2 to the power of 1,024 is no float: a pass that failed for a day once ended the operator."""
    pacing = Pacing(lambda: 0.0)
    assert [pacing.back_off(KEY) for _ in range(1_100)][-1] == MAX_BACKOFF_SECONDS


def test_a_new_generation_is_written_at_once_and_again_with_a_pause() -> None:
    seconds = [0.0]
    pacing = Pacing(lambda: seconds[0])
    assert pacing.nudge(pod(None), "a") == "a.1"
    assert pacing.nudge(pod("a.1"), "a") is None
    seconds[0] = NUDGE_SECONDS
    assert pacing.nudge(pod("a.1"), "a") == "a.2"
    assert pacing.nudge(pod("a.2"), "b") == "b.1"


def test_a_kubelet_that_never_refreshes_a_pod_is_asked_less_often() -> None:
    seconds = [0.0]
    pacing = Pacing(lambda: seconds[0])
    sent = f"a.{PATIENT_NUDGES}"
    assert pacing.nudge(pod(sent), "a") == f"a.{PATIENT_NUDGES + 1}"
    seconds[0] = MAX_POLL_SECONDS - 1
    assert pacing.nudge(pod(sent), "a") is None
    seconds[0] = MAX_POLL_SECONDS
    assert pacing.nudge(pod(sent), "a") == f"a.{PATIENT_NUDGES + 1}"


@pytest.mark.parametrize(("is_asked", "wait"), [(False, None), (True, PROBE_SECONDS)])
def test_where_agents_ask_their_servers_they_are_heard_now_and_then_though_all_agree(
    is_asked: bool, wait: float | None
) -> None:
    seconds = [0.0]
    pacing = Pacing(lambda: seconds[0])
    orders = {"a": AgentOrders("g", "a", questions=Questions(is_asked=is_asked))}
    served = Pod("a-0", "uid", "a", is_ready=True, is_ending=False, ip="198.18.0.1", sent=None, trouble=None)
    seen = Snapshot({}, frozenset(), {}, {}, {}, (served,), orders)
    looked = pacing.next_look(
        KEY,
        Plan(RolloutState(), {}, {}, Promotion.PROMOTED),
        Rendered((), {}, {}),
        seen,
        now=datetime(2026, 3, 1, tzinfo=UTC),
        is_settled=True,
        has_nudged=False,
        is_next_known=False,
    )
    assert looked == wait
    assert pacing.is_to_hear(KEY, seen) is is_asked
    pacing.note_heard(KEY)
    seconds[0] = PROBE_SECONDS / 2
    assert not pacing.is_to_hear(KEY, seen)
    seconds[0] = PROBE_SECONDS
    assert pacing.is_to_hear(KEY, seen) is is_asked


def test_what_goes_on_and_on_is_told_now_and_then() -> None:
    seconds = [0.0]
    pacing = Pacing(lambda: seconds[0])
    assert pacing.may_tell(KEY, "Service digits")
    pacing.note_told(KEY, "Service digits")
    assert not pacing.may_tell(KEY, "Service digits")
    assert pacing.may_tell(KEY, "Deployment digits")
    assert pacing.may_tell(OTHER, "Service digits")
    seconds[0] = TOLD_SECONDS
    assert pacing.may_tell(KEY, "Service digits")


@pytest.mark.parametrize(
    ("look", "seconds"), [(None, PROBLEM_SECONDS), (0.05, POLL_SECONDS), (4.0, 4.0), (600.0, PROBLEM_SECONDS)]
)
def test_a_write_that_is_refused_is_tried_now_and_then(look: float | None, seconds: float) -> None:
    assert while_hindered(look) == seconds


@pytest.mark.parametrize(
    ("after_seconds", "is_ready", "is_ending", "waits"),
    [
        pytest.param(None, False, False, None, id="nothing is about to be said"),
        pytest.param(9, False, False, 9, id="that its image is being pulled"),
        pytest.param(0.1, False, False, 1, id="not in a hurry"),
        pytest.param(9, True, False, None, id="it is ready"),
        pytest.param(9, False, True, None, id="it ends"),
    ],
)
def test_a_pod_of_which_time_alone_says_more_is_looked_at_then(
    after_seconds: float | None, waits: float | None, *, is_ready: bool, is_ending: bool
) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    turns_at = None if after_seconds is None else now + timedelta(seconds=after_seconds)
    starting = Pod("p", "uid", "a", is_ready, is_ending, None, None, None, turns_at=turns_at)
    snapshot = Snapshot({}, frozenset(), {}, {}, {}, (starting,), {})
    plan = Plan(RolloutState(), {}, {}, Promotion.PROMOTED)
    rendered, quiet = Rendered((), {}, {}), {"is_settled": True, "has_nudged": False, "is_next_known": False}
    assert Pacing(lambda: 0.0).next_look(KEY, plan, rendered, snapshot, now=now, **quiet) == waits


@pytest.mark.parametrize(("reason", "waits"), [(PromotionReason.LOADED_EVERYWHERE, TOLD_ANEW_SECONDS), (None, None)])
def test_after_a_promotion_it_is_looked_at_again_since_the_service_names_what_status_tells(
    reason: PromotionReason | None, waits: float | None
) -> None:
    """Of an operator that found everything loaded: nothing else would make it look before the bake ends."""
    plan = Plan(RolloutState(), {}, {}, Promotion.PROMOTED, promotion_reason=reason)
    snapshot, now = Snapshot({}, frozenset(), {}, {}, {}, (), {}), datetime(2026, 3, 1, tzinfo=UTC)
    quiet = {"is_settled": True, "has_nudged": False, "is_next_known": False}
    assert Pacing(lambda: 0.0).next_look(KEY, plan, Rendered((), {}, {}), snapshot, now=now, **quiet) == waits
