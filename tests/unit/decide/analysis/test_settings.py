"""Which settings a rollout is judged by, with and without `spec.rollout.analysis`, and who says that nobody judges."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.decide.analysis.settings import NOBODY, UNWRITTEN, judging_of
from slipway.decide.steps import steps_name
from slipway.model.revision import hash_of, user_choice
from slipway.runtimes import RUNTIMES
from tests.unit.specs import deployment, merged

STEPS: dict[str, Any] = {"rollout": {"steps": [{"weight": 50}]}}
COUNTING = ("Triton", "TensorFlowServing", "ONNXRuntime")


def asked(provider: str, server: str, analysis: dict[str, Any] | None) -> Any:
    image = {"image": "example/server:1"} if server == "Custom" else {}
    spec = {"runtime": {"name": server, **image}, "traffic": {"provider": provider}}
    return deployment(merged(STEPS, merged(spec, {"rollout": {"analysis": analysis}})))


@pytest.mark.parametrize("server", sorted(RUNTIMES))
def test_without_a_word_of_it_a_router_counts_for_every_server_and_evidence_decides(server: str) -> None:
    judging = judging_of(asked("Router", server, None))
    assert (judging.is_enforced, judging.holds_on_inconclusive) == (True, True)
    assert "mode Enforce and onInconclusive Hold" in judging.message


@pytest.mark.parametrize("server", sorted(RUNTIMES))
def test_without_a_router_evidence_decides_where_the_server_counts_and_else_nobody_judges(server: str) -> None:
    judging = judging_of(asked("Replicas", server, None))
    assert judging.is_enforced == (server in COUNTING)
    assert judging.message.startswith("nobody judges this rollout: ") == (server not in COUNTING)
    if server not in COUNTING:
        assert judging.settings is None
        assert server in judging.message
        assert "steps advance by gates, readiness, restarts and hold time" in judging.message
        assert "spec.traffic.provider: Router" in judging.message


def test_where_stable_runs_on_a_server_that_counts_nothing_nobody_judges() -> None:
    judging = judging_of(asked("Replicas", "Triton", None), ["TorchServe"])
    assert judging.settings is None
    assert "TorchServe counts no failed gRPC request" in judging.message
    assert judging_of(asked("Router", "Triton", None), ["TorchServe"]).is_enforced


@pytest.mark.parametrize(
    ("written", "is_judged", "is_enforced", "holds"),
    [
        ({}, True, True, False),
        ({"mode": "Enforce", "onInconclusive": "Hold"}, True, True, True),
        ({"mode": "Observe"}, True, False, False),
        ({"mode": "Off"}, False, False, False),
    ],
)
def test_what_is_written_holds_as_it_stands(
    written: dict[str, Any], is_judged: bool, is_enforced: bool, holds: bool
) -> None:
    judging = judging_of(asked("Router", "Triton", written))
    assert (judging.settings is not None, judging.is_enforced, judging.holds_on_inconclusive) == (
        is_judged,
        is_enforced,
        holds,
    )
    assert ("nobody judges" in judging.message) == (not is_judged)


def test_nothing_is_said_where_no_requests_are_split() -> None:
    assert judging_of(deployment()) == NOBODY
    assert judging_of(deployment({"rollout": {"analysis": {"mode": "Off"}}})) == NOBODY
    assert judging_of(deployment({"rollout": {"strategy": "Canary"}})).settings == UNWRITTEN


@pytest.mark.parametrize("written", [{}, {"mode": "Off"}, {"mode": "Observe", "alpha": 0.5}])
def test_how_it_is_judged_is_no_part_of_a_revision(written: dict[str, Any]) -> None:
    one, other = asked("Router", "Triton", None), asked("Router", "Triton", written)
    assert hash_of(user_choice(one.spec)) == hash_of(user_choice(other.spec))


def test_steps_have_another_name_when_they_are_edited_and_no_other_when_pods_are() -> None:
    one = deployment(STEPS | {"replicas": 2, "traffic": {"provider": "Replicas"}})
    assert steps_name(one) == steps_name(deployment(STEPS | {"replicas": 9}))
    assert steps_name(one) != steps_name(deployment({"rollout": {"steps": [{"weight": 50, "holdSeconds": 5}]}}))
