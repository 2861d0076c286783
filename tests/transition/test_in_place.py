"""A new version in pods that go on serving: loaded hot, made the served one, kept through bake, taken back by a switch.

And where new versions come from when the spec names none. Each test ends with the operator at rest, as in
test_transitions.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from slipway.model.names import RECORDED_KEY, STABLE_ANNOTATION
from tests.simulation.agents import LOAD_FAILED
from tests.transition.operators import Operator, begin, run, writes_of
from tests.transition.test_transitions import HOUR, NOTED, assert_at_rest, assert_healthy, serving, stable_of
from tests.transition.world import World
from tests.unit.specs import NAME

BAKE_SECONDS = 60
OVER_SECONDS = 40
"""Two pods, one after the other: each leaves the Service, drains, loads and is ready again."""
IN_PLACE = {"rollout": {"bakeSeconds": BAKE_SECONDS, "progressDeadlineSeconds": 60}}
FOLLOWING: dict[str, Any] = {**IN_PLACE, "model": {"version": None}}


def in_place(spec: dict[str, Any] | None = None, **more: Any) -> tuple[World, Operator]:
    """Version 1 serves in two pods; the next version comes in place."""
    return serving({**IN_PLACE, **(spec or {})}, strategy=None, **more)


def following(*versions: int, **rollout: Any) -> tuple[World, Operator]:
    """The spec names no version, and these are at the source."""
    spec = {"replicas": 2, **FOLLOWING, "rollout": {**IN_PLACE["rollout"], **rollout}}
    return begin(spec, World(at_source=set(versions)), 20)


def edited(**changes: Any) -> tuple[World, Operator]:
    """Version 2 has arrived in place, with what else was asked for."""
    world, operator = in_place()
    world.edit({"model": {"version": 2}, **changes})
    run(operator, OVER_SECONDS)
    return world, operator


def pod_names(world: World) -> list[str]:
    return [pod["metadata"]["name"] for pod in world.pods()]


def orders(world: World) -> dict[str, Any]:
    """What the agents of the only workload are ordered."""
    [name] = world.named("ConfigMap")
    return world.agent_config(name.removeprefix(f"{NAME}-"))


def test_a_new_version_is_loaded_into_the_pods_that_serve() -> None:
    world, operator = in_place()
    first, pods = stable_of(world), pod_names(world)
    world.edit({"model": {"version": 2}})
    run(operator, OVER_SECONDS)
    assert world.least_ready == 1, "one pod at a time is out of the Service"
    assert pod_names(world) == pods
    assert_healthy(world, 2)
    stable = world.deployment()["status"]["stable"]
    assert stable["revision"] != first
    assert stable["workload"] == first
    assert world.named("Deployment") == [f"{NAME}-{first}"]
    assert sorted(world.named("ControllerRevision")) == sorted([f"{NAME}-{first}", f"{NAME}-{stable['revision']}"])
    # The version before stays loaded through bake, and no longer.
    assert (orders(world)["served"], orders(world)["load"]) == (2, [1, 2])
    assert [entry["version"] for entry in world.deployment()["status"]["versions"]] == [1, 2]
    run(operator, BAKE_SECONDS)
    assert (orders(world)["served"], orders(world)["load"]) == (2, [2])
    assert "bakeUntil" not in world.deployment()["status"]
    assert_healthy(world, 2)
    assert_at_rest(operator)


def test_its_bake_is_told_from_its_beginning_to_its_end() -> None:
    world, operator = in_place()
    begun = len(world.events)
    world.edit({"model": {"version": 2}})
    run(operator, OVER_SECONDS + BAKE_SECONDS)
    told = [(each["reason"], each["message"]) for each in world.events[begun:]]
    [promoted] = [message for reason, message in told if reason == "Promoted"]
    assert "(LoadedEverywhere: all pods serve it); the version before stays loaded until" in promoted
    [baked] = [message for reason, message in told if reason == "RolloutBaked"]
    assert baked == "the bake is over; the version before is unloaded"
    assert_at_rest(operator)


def test_the_service_names_the_new_version_soon_after_its_promotion_whoever_wrote_that_down() -> None:
    world, _ = in_place()
    first = stable_of(world)
    world.edit({"model": {"version": 2}})
    for _ in range(2 * OVER_SECONDS):
        operator = Operator(world)  # what one knew, the next one doesn't
        run(operator, 1)
        if stable_of(world) != first:
            break
    run(operator, 5)
    assert world.objects["Service", NAME]["metadata"]["annotations"][STABLE_ANNOTATION] == stable_of(world) != first


def test_without_bake_the_version_before_goes_at_once() -> None:
    world, operator = in_place({"rollout": {"bakeSeconds": 0}})
    world.edit({"model": {"version": 2}})
    run(operator, OVER_SECONDS)
    assert orders(world)["load"] == [2]
    assert_at_rest(operator)


def test_set_back_during_bake_the_version_before_serves_at_once() -> None:
    world, operator = in_place()
    first, pods = stable_of(world), pod_names(world)
    world.edit({"model": {"version": 2}})
    run(operator, OVER_SECONDS)
    world.edit({"model": {"version": 1}})
    run(operator, 3)
    assert world.ready_by_version() == {1: 2}
    run(operator, 2 * BAKE_SECONDS)
    assert world.least_ready == 2
    assert stable_of(world) == first
    assert pod_names(world) == pods
    assert_healthy(world, 1)
    assert_at_rest(operator)


def test_set_back_on_the_way_the_stable_version_stays() -> None:
    world, operator = in_place()
    first = stable_of(world)
    world.slow = {2}
    world.edit({"model": {"version": 2}})
    run(operator, 10)
    assert world.deployment()["status"]["canary"]["strategy"] == "InPlace"
    world.edit({"model": {"version": 1}})
    run(operator, OVER_SECONDS)
    assert stable_of(world) == first
    assert orders(world)["load"] == [1]
    assert_healthy(world, 1)
    assert_at_rest(operator)


def test_a_version_that_fails_to_load_leaves_the_old_one_serving_and_says_why() -> None:
    world, operator = in_place()
    first, pods = stable_of(world), pod_names(world)
    world.broken = {2: LOAD_FAILED}
    world.edit({"model": {"version": 2}})
    run(operator, 10)
    assert world.least_ready == 2
    assert world.ready_by_version() == {1: 2}
    assert stable_of(world) == first
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert "LoadFailed" in world.message("Promoted")
    assert "the server says: version 2 is no ONNX" in world.message("Promoted")
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")
    assert (orders(world)["served"], orders(world)["load"]) == (1, [1])
    assert pod_names(world) == pods
    assert writes_of(operator, HOUR) == []


def test_a_version_that_never_loads_is_taken_back_at_its_deadline() -> None:
    world, operator = in_place()
    world.slow = {2}
    world.edit({"model": {"version": 2}})
    run(operator, 50)
    assert world.conditions()["Promoted"] == ("False", "InProgress")
    run(operator, OVER_SECONDS)
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert world.ready_by_version() == {1: 2}
    assert_at_rest(operator)


def test_a_version_that_does_not_fit_beside_the_old_one_rolls_in_pods_of_its_own() -> None:
    world, operator = in_place()
    first = stable_of(world)
    world.heavy = {2}
    world.edit({"model": {"version": 2}})
    seen: set[str] = set()
    for _ in range(40):
        run(operator, 1)
        seen.add(world.message("Promoted"))
        assert sum(world.ready_by_version().values()) >= 2
    assert any("NotEnoughMemory" in message and "4.0 GiB" in message for message in seen), seen
    assert_healthy(world, 2)
    assert world.named("Deployment") == [f"{NAME}-{stable_of(world)}"]
    assert stable_of(world) != first
    assert_at_rest(operator)


def test_with_anything_else_changed_pods_roll() -> None:
    world, operator = in_place()
    pods = pod_names(world)
    world.edit({"model": {"version": 2}, "runtime": {"args": ["--more"]}})
    run(operator, 60)
    assert_healthy(world, 2)
    assert not set(pods) & set(pod_names(world))
    assert_at_rest(operator)


def test_a_third_version_replaces_the_second_on_its_way() -> None:
    world, operator = in_place()
    pods = pod_names(world)
    world.slow = {2}
    world.edit({"model": {"version": 2}})
    run(operator, 10)
    world.edit({"model": {"version": 3}})
    run(operator, OVER_SECONDS)
    assert_healthy(world, 3)
    assert orders(world)["load"] == [1, 3]
    assert pod_names(world) == pods
    run(operator, BAKE_SECONDS)
    assert_at_rest(operator)


def test_to_a_lower_version_and_up_again() -> None:
    world, operator = in_place({"model": {"version": 3}})
    pods = pod_names(world)
    for version in (1, 2, 1, 3):
        world.edit({"model": {"version": version}})
        run(operator, OVER_SECONDS)
        assert world.least_ready >= 1
        assert_healthy(world, version)
    assert pod_names(world) == pods
    run(operator, BAKE_SECONDS)
    assert_at_rest(operator)


def test_pods_that_come_on_the_way_serve_the_new_version() -> None:
    world, operator = edited(replicas=4)
    run(operator, OVER_SECONDS)
    assert_healthy(world, 2, 4)


def test_after_a_promotion_in_place_another_revision_still_rolls() -> None:
    world, operator = in_place()
    first = stable_of(world)
    for edit, version, seconds in (
        ({"model": {"version": 2}}, 2, OVER_SECONDS),
        ({"runtime": {"args": ["--more"]}}, 2, 60),
        ({"runtime": {"args": []}, "model": {"version": 1}}, 1, 60),
    ):
        world.edit(edit)
        run(operator, seconds)
        assert_healthy(world, version)
    assert stable_of(world) == first
    assert_at_rest(operator)


def test_a_rolling_update_to_the_revision_whose_name_its_workload_has() -> None:
    """Version 2 is carried by the Deployment that is called like version 1; back to 1, with pods of its own."""
    world, operator = in_place()
    first = stable_of(world)
    world.edit({"model": {"version": 2}})
    run(operator, 90)
    world.edit({"rollout": {"strategy": "RollingUpdate"}, "model": {"version": 1}})
    run(operator, 60)
    assert_healthy(world, 1)
    assert stable_of(world) == first
    [deployment] = world.named("Deployment")
    assert deployment != f"{NAME}-{first}"
    assert_at_rest(operator)


def test_with_status_lost_on_the_way_the_end_is_the_same() -> None:
    world, operator = in_place()
    world.edit({"model": {"version": 2}})
    run(operator, 1)
    world.lose_status()
    run(operator, OVER_SECONDS)
    assert_healthy(world, 2)
    run(operator, BAKE_SECONDS)
    assert_at_rest(operator)


# ---- versions that are found


def test_with_no_version_named_the_newest_one_found_serves() -> None:
    world, operator = following(1, 2)
    assert_healthy(world, 2)
    assert world.deployment()["status"]["listed"] == [1, 2]
    assert len(world.named("Deployment")) == 1
    assert_at_rest(operator)
    # To name what is served already changes nothing.
    stable = stable_of(world)
    world.edit({"model": {"version": 2}})
    assert [write for write in writes_of(operator, 30) if write.verb != "status"] == [NOTED]
    assert stable_of(world) == stable


def test_with_nothing_there_it_says_so_and_serves_the_first_that_comes() -> None:
    world, operator = following()
    assert world.conditions()["Ready"] == ("False", "NoVersionFound")
    pods = pod_names(world)
    assert (orders(world)["served"], orders(world)["load"]) == (None, [])
    world.at_source = {7}
    run(operator, OVER_SECONDS)
    assert_healthy(world, 7)
    assert pod_names(world) == pods
    assert_at_rest(operator)


@pytest.mark.parametrize("strategy", [None, "RollingUpdate"])
def test_a_new_version_is_found_and_serves(strategy: str | None) -> None:
    world, operator = following(1, strategy=strategy)
    pods = pod_names(world)
    world.at_source = {1, 2}
    run(operator, 60)
    assert_healthy(world, 2)
    assert (pod_names(world) == pods) is (strategy is None)
    run(operator, BAKE_SECONDS)
    assert_at_rest(operator)


def test_discovery_only_moves_up_and_a_shorter_listing_changes_nothing() -> None:
    world, operator = following(1, 3)
    for listing in ({1, 2, 3}, {1}, set[int]()):
        world.at_source = listing
        run(operator, OVER_SECONDS)
        assert_healthy(world, 3)
    assert_at_rest(operator)
    assert_at_rest(Operator(world))


def test_a_found_version_waits_for_the_rollout_that_runs() -> None:
    world, operator = following(1)
    world.slow = {2}
    world.at_source = {1, 2}
    run(operator, 10)
    world.at_source = {1, 2, 3}
    run(operator, 10)
    assert world.deployment()["status"]["canary"]["version"] == 2
    world.slow = set()
    run(operator, OVER_SECONDS)
    assert_healthy(world, 3)


def test_a_found_version_that_fails_is_tried_again_with_other_bytes_only() -> None:
    world, operator = following(1)
    world.broken = {2: LOAD_FAILED}
    world.at_source = {1, 2}
    run(operator, OVER_SECONDS)
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert world.ready_by_version() == {1: 2}
    world.broken = {}
    run(operator, 60)
    run(Operator(world), 60)
    assert world.ready_by_version() == {1: 2}
    operator = Operator(world)
    world.changed = {2: "second"}
    run(operator, OVER_SECONDS)
    assert_healthy(world, 2)


def test_followed_to_another_place_the_old_one_serves_until_something_is_found_there() -> None:
    world, operator = following(1)
    world.at_source = set()
    world.edit({"model": {"uri": "pvc://models/others"}})
    run(operator, OVER_SECONDS)
    assert world.ready_by_version() == {1: 2}
    world.at_source = {5}
    run(operator, 60)
    assert_healthy(world, 5)
    assert_at_rest(operator)


# ---- digests


def test_what_was_served_under_a_number_is_written_down_for_pods_to_come() -> None:
    world, operator = in_place({"versionPolicy": {"latest": {"count": 2}}, "model": {"version": 2}})
    [name] = world.named("ConfigMap")
    digests = f'{{"1": "{1:064x}", "2": "{2:064x}"}}'
    assert world.objects["ConfigMap", name]["data"][RECORDED_KEY] == digests
    world.edit({"model": {"version": 3}})
    run(operator, OVER_SECONDS + BAKE_SECONDS)
    assert f"{3:064x}" in world.objects["ConfigMap", name]["data"][RECORDED_KEY]
    revision = stable_of(world)
    kept = world.objects["ControllerRevision", f"{NAME}-{revision}"]["metadata"]["annotations"]
    assert all(f"{version:064x}" in kept["slipway.dev/digests"] for version in (1, 2, 3))
    assert_at_rest(Operator(world))


@pytest.mark.parametrize(("pins", "kept"), [({}, 1), ({"1": f"{9:064x}"}, 9)])
def test_other_bytes_replace_what_was_written_down_only_where_a_person_pins_them(
    monkeypatch: pytest.MonkeyPatch, pins: dict[str, str], kept: int
) -> None:
    world, operator = in_place()
    [name] = world.named("ConfigMap")
    report_of = world.report_of

    def report_other_bytes(pod_name: str) -> dict[str, Any] | None:
        report = report_of(pod_name)
        for version in report["versions"] if report is not None else ():
            version["sha256"] = f"{9:064x}"
        return report

    monkeypatch.setattr(world, "report_of", report_other_bytes)
    world.edit({"replicas": 3, "model": {"sha256": pins}})
    run(operator, OVER_SECONDS)
    assert len(world.pods()) == 3
    assert world.objects["ConfigMap", name]["data"][RECORDED_KEY] == f'{{"1": "{kept:064x}"}}'
    assert_at_rest(operator)


# ---- a person goes back


BY_STEPS: dict[str, Any] = {
    "steps": [{"weight": 50, "holdSeconds": 2}],
    "strategy": None,
    "analysis": {"mode": "Off"},
}


WAYS = pytest.mark.parametrize(
    ("rollout", "bakes"),
    [
        pytest.param({}, True, id="in place"),
        pytest.param({}, False, id="in place, after the bake"),
        pytest.param({"strategy": "RollingUpdate"}, False, id="rolling"),
        pytest.param(BY_STEPS, True, id="by steps"),
        pytest.param(BY_STEPS, False, id="by steps, after the bake"),
    ],
)


def found_and_rolled_back(rollout: dict[str, Any], *, bakes: bool) -> tuple[World, Operator, str]:
    """Versions 1 and then 2 were found and served, and a person rolled back to 1. Returns 2's revision too."""
    world, operator = following(1, **rollout)
    first = stable_of(world)
    world.at_source = {1, 2}
    run(operator, OVER_SECONDS if bakes else OVER_SECONDS + 120)
    second = stable_of(world)
    assert second != first
    world.command("rollback", first)
    run(operator, OVER_SECONDS + 20)
    assert world.deployment()["status"]["lastCommand"]["accepted"]
    return world, operator, second


@WAYS
def test_a_rollback_stands_although_the_version_is_found_again(rollout: dict[str, Any], bakes: bool) -> None:
    world, operator, second = found_and_rolled_back(rollout, bakes=bakes)
    for listing in ({1, 2}, {1}, {1, 2}):
        world.at_source = listing
        run(operator, OVER_SECONDS)
        assert world.ready_by_version() == {1: 2}
        assert world.deployment()["status"]["pinned"]["insteadOf"] == second
        assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert_at_rest(operator)
    reborn = Operator(world)
    run(reborn, 10)
    assert world.ready_by_version() == {1: 2}
    assert_at_rest(reborn)


@WAYS
def test_a_rollback_ends_when_a_version_is_found_that_is_newer_than_the_rejected_one(
    rollout: dict[str, Any], bakes: bool
) -> None:
    world, operator, _ = found_and_rolled_back(rollout, bakes=bakes)
    world.at_source = {1, 2, 3}
    run(operator, OVER_SECONDS + BAKE_SECONDS)
    assert_healthy(world, 3)
    assert "pinned" not in world.deployment()["status"]
    assert_at_rest(operator)


def test_a_version_found_during_a_rollback_waits_for_its_end() -> None:
    world, operator = following(1, 2, strategy="RollingUpdate")
    first = stable_of(world)
    world.at_source = {1, 2, 3}
    run(operator, 60)
    third = stable_of(world)
    world.command("rollback", first)
    run(operator, 2)
    assert world.deployment()["status"]["canary"]["revision"] == first
    world.at_source = {1, 2, 3, 4}
    run(operator, 1)
    assert world.deployment()["status"]["pinned"] == {"revision": first, "insteadOf": third}
    run(operator, 90)
    assert_healthy(world, 4)


def test_abort_in_the_bake_of_a_version_in_place_is_a_switch_back() -> None:
    world, operator = in_place()
    first, pods = stable_of(world), pod_names(world)
    world.edit({"model": {"version": 2}})
    run(operator, OVER_SECONDS)
    second = stable_of(world)
    world.command("abort", second)
    run(operator, 3)
    assert world.ready_by_version() == {1: 2}
    assert stable_of(world) == first
    assert world.deployment()["status"]["lastCommand"]["accepted"]
    assert world.deployment()["status"]["rejected"][0]["reason"] == "Aborted"
    run(operator, 2 * BAKE_SECONDS)
    assert world.least_ready == 2
    assert (pod_names(world), orders(world)["load"]) == (pods, [1])
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")
    assert_at_rest(operator)
    world.command("retry", second, 2)
    run(operator, OVER_SECONDS + BAKE_SECONDS)
    assert_healthy(world, 2)


def test_abort_in_the_bake_of_a_found_version_is_not_undone_by_finding_it_again() -> None:
    world, operator = following(1)
    world.at_source = {1, 2}
    run(operator, OVER_SECONDS)
    world.command("abort", stable_of(world))
    for listing in ({1, 2}, {1}, {1, 2}):
        world.at_source = listing
        run(operator, OVER_SECONDS)
        assert world.ready_by_version() == {1: 2}
    world.at_source = {1, 2, 3}
    run(operator, OVER_SECONDS)
    assert_healthy(world, 3)


def test_promote_in_the_bake_of_a_version_in_place_ends_it() -> None:
    world, operator = in_place()
    world.edit({"model": {"version": 2}})
    run(operator, OVER_SECONDS)
    world.command("promote", stable_of(world))
    run(operator, 3)
    assert world.deployment()["status"]["lastCommand"]["accepted"]
    assert (orders(world)["served"], orders(world)["load"]) == (2, [2])
    assert "bakeUntil" not in world.deployment()["status"]
    assert_healthy(world, 2)
    assert_at_rest(operator)


@pytest.mark.parametrize("verb", ["abort", "promote"])
def test_steps_that_come_in_the_bake_of_a_version_in_place_leave_its_commands(verb: str) -> None:
    world, operator = in_place()
    first = stable_of(world)
    world.edit({"model": {"version": 2}})
    run(operator, OVER_SECONDS)
    second = stable_of(world)
    world.edit({"rollout": BY_STEPS})
    run(operator, OVER_SECONDS)
    world.command(verb, second)
    run(operator, OVER_SECONDS)
    assert world.deployment()["status"]["lastCommand"]["accepted"]
    assert world.ready_by_version() == ({1: 2} if verb == "abort" else {2: 2})
    assert stable_of(world) == (first if verb == "abort" else second)
    assert "bakeUntil" not in world.deployment()["status"]
    assert world.least_ready == 2
    run(operator, 2 * BAKE_SECONDS)
    assert_at_rest(operator)


@pytest.mark.parametrize("verb", ["abort", "promote"])
def test_after_the_bake_of_a_version_in_place_there_is_nothing_to_take_back(verb: str) -> None:
    world, operator = in_place()
    world.edit({"model": {"version": 2}})
    run(operator, OVER_SECONDS + BAKE_SECONDS)
    world.command(verb, stable_of(world))
    run(operator, 3)
    last = world.deployment()["status"]["lastCommand"]
    assert (last["accepted"], f"nothing to {verb}" in last["message"]) == (False, True)
    assert_healthy(world, 2)
