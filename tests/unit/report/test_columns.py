"""RUNTIME, VERSION, CANARY and WEIGHT of `kubectl get`: what clients get, never what the spec asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slipway.api.status import ModelDeploymentStatus, RevisionStatus
from slipway.model.revision import Revision
from slipway.model.rollout import Plan, Promotion
from slipway.model.workload import Trouble
from slipway.observe.snapshot import Snapshot
from slipway.report.status import assess
from tests.unit.plans import changed, plan_of
from tests.unit.report.test_status import (
    EMPTY,
    FIRST,
    NOW,
    OLD_SERVES,
    OWN,
    ROLLING,
    STABLE,
    TAKEN_BACK,
    pod,
    snapshot,
)
from tests.unit.results import result_of

WEIGHTED = changed(ROLLING, weights={"old": 75, "new": 25})
BAKE = plan_of("new", None, {"old": 2, "new": 2}, OWN, Promotion.IN_PROGRESS, previous="old", weights={"new": 100})
FIRST_BY_STEPS = changed(FIRST, weights={"new": 100})
NOT_FOUND = plan_of(None, None, {}, {}, Promotion.IN_PROGRESS)


def kept(name: str, version: int, runtime: str) -> Revision:
    return Revision(name, version, version, {"runtime": {"name": runtime}}, {}, {})


def world(*, is_new_kept: bool = True) -> Snapshot:
    """Revision old is Triton's, new is TorchServe's; the spec of today says Triton."""
    revisions = {"old": kept("old", 1, "Triton"), "new": kept("new", 2, "TorchServe")}
    if not is_new_kept:
        del revisions["new"]
    return replace(snapshot(*OLD_SERVES, pod("c", "new")), revisions=revisions)


def columns(status: ModelDeploymentStatus) -> tuple[str | None, int | None, int | None, int | None]:
    return status.runtime, status.version, status.canary_version, status.canary_weight_percent


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        pytest.param(FIRST, ("TorchServe", 2, None, None), id="the first revision is no canary"),
        pytest.param(FIRST_BY_STEPS, ("TorchServe", 2, None, None), id="nor one that would have steps"),
        pytest.param(STABLE, ("TorchServe", 2, None, None), id="serving"),
        pytest.param(ROLLING, ("Triton", 1, 2, None), id="rolling: the former one is what clients get"),
        pytest.param(WEIGHTED, ("Triton", 1, 2, 25), id="a canary with its weight"),
        pytest.param(BAKE, ("TorchServe", 2, None, None), id="bake"),
        pytest.param(TAKEN_BACK, ("Triton", 1, None, None), id="rolled back"),
    ],
)
def test_columns_show_what_serves(plan: Plan, expected: tuple[str | None, int | None, int | None, int | None]) -> None:
    assert columns(assess(result_of(plan), world(), EMPTY, NOW)) == expected


def test_before_anything_is_there_the_spec_names_the_runtime() -> None:
    assert columns(assess(result_of(FIRST), world(is_new_kept=False), EMPTY, NOW)) == ("Triton", 2, None, None)
    assert columns(assess(result_of(NOT_FOUND), snapshot(), EMPTY, NOW)) == ("Triton", None, None, None)


def test_with_a_spec_that_cannot_be_read_the_columns_stay() -> None:
    once = assess(result_of(WEIGHTED), world(), EMPTY, NOW)
    unread = result_of(None, problem=Trouble("InvalidSpec", "m"), are_settled=True)
    assert columns(assess(unread, world(), once, NOW)) == ("Triton", 1, 2, 25)


def test_what_is_not_kept_any_more_shows_what_was_shown_of_it() -> None:
    stored = ModelDeploymentStatus(runtime="TorchServe", version=7, stable=RevisionStatus(revision="gone", version=7))
    plan = plan_of("gone", None, {}, {}, Promotion.PROMOTED)
    assert columns(assess(result_of(plan), world(), stored, NOW)) == ("TorchServe", 7, None, None)


def test_a_status_of_the_release_before_gets_its_columns() -> None:
    stored = ModelDeploymentStatus(stable=RevisionStatus(revision="old", version=1))
    unread = result_of(None, problem=Trouble("InvalidSpec", "m"), are_settled=True)
    assert columns(assess(unread, world(), stored, NOW)) == ("Triton", 1, None, None)
