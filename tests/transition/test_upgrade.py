"""An operator of another release takes over in mid-rollout, and finds the status that the other one wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slipway.api.status import FORMER_NAMES
from tests.transition.api_server import Write
from tests.transition.operators import Operator, run, until, writes_of
from tests.transition.test_canary import BAKE_SECONDS, RESULT, arriving, replaced, status, until_ready, weights
from tests.transition.world import World
from tests.unit.specs import NAME

Json = dict[str, Any]

LONG: Json = {"rollout": {"steps": [{"weight": 25, "holdSeconds": 600}, {"pause": {}}]}}
FORMER = {name: former for former, name in FORMER_NAMES.items()}
PARTS = ("stable", "canary", "previous", "step", "traffic")


def renamed(stored: Json, rename: Callable[[str], str | None]) -> Json:
    """The status and its parts with other names; a field whose name is None is gone."""

    def part(fields: Json) -> Json:
        return {name: value for field, value in fields.items() if (name := rename(field)) is not None}

    return {name: part(value) if name in PARTS else value for name, value in part(stored).items()}


def upgrade(world: World) -> None:
    """What the release before wrote."""
    world.deployment()["status"] = renamed(status(world), lambda field: FORMER.get(field, field))


def downgrade(world: World) -> None:
    """What a CRD that doesn't know today's names leaves of a status, for whoever comes then and comes back."""
    world.deployment()["status"] = renamed(status(world), lambda field: None if field in FORMER else field)


@pytest.mark.parametrize("change", [upgrade, downgrade])
def test_in_mid_canary_another_release_goes_on_and_touches_nothing_but_the_status(
    change: Callable[[World], None],
) -> None:
    world, operator = arriving(LONG, RESULT)
    run(operator, 5)
    before, pods = status(world), [pod["metadata"]["uid"] for pod in world.pods()]
    change(world)
    successor = Operator(world)
    assert {write.kind for write in writes_of(successor, 10)} <= {"ModelDeployment"}
    assert weights(world) == (75, 25)
    assert [pod["metadata"]["uid"] for pod in world.pods()] == pods
    after = status(world)
    assert after["transitions"] == before["transitions"]
    assert after["canary"] | {"readyReplicas": 0} == before["canary"] | {"readyReplicas": 0}
    assert not FORMER_NAMES.keys() & {*after, *(field for part in PARTS for field in after.get(part, {}))}
    assert world.lost == 0


@pytest.mark.parametrize("change", [upgrade, downgrade])
def test_in_bake_another_release_keeps_the_old_version_warm_until_its_end(change: Callable[[World], None]) -> None:
    world, operator = arriving({"rollout": {"bakeSeconds": 4 * BAKE_SECONDS}})
    until(operator, lambda: "previous" in status(world))
    change(world)
    successor = Operator(world)
    run(successor, 3)
    assert status(world)["previous"]["version"] == 1
    until_ready(successor, 120)
    assert world.lost == 0


def test_a_promote_that_the_release_before_was_carrying_out_is_carried_out() -> None:
    world, operator = arriving(LONG)
    world.command("promote", status(world)["canary"]["revision"])
    until(operator, lambda: bool((status(world).get("step") or {}).get("promoteRequested")))
    upgrade(world)
    successor = Operator(world)
    until(successor, lambda: status(world)["stable"]["version"] == 2)
    assert world.lost == 0


def test_what_the_release_before_made_gets_the_last_spec_beside_it_and_nothing_else() -> None:
    world, operator = replaced()[:2]
    pods = {pod["metadata"]["uid"] for pod in world.pods()}
    service = world.objects["Service", NAME]
    kept = service["metadata"]["annotations"].pop("slipway.dev/last-spec")
    operator = Operator(world)
    assert writes_of(operator, 60) == [Write("apply", "Service", NAME)]
    assert world.objects["Service", NAME]["metadata"]["annotations"]["slipway.dev/last-spec"] == kept
    assert {pod["metadata"]["uid"] for pod in world.pods()} == pods
    assert "ChangePutBack" not in {event["reason"] for event in world.events}
