"""Another server in mid-rollout: the Services' ports and what columns show follow what serves, not the spec."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from slipway.controller.kube import ClusterError
from tests.simulation.agents import LOAD_FAILED
from tests.transition.operators import Operator, run, until, writes_of
from tests.transition.test_canary import LONG, NEW, OLD, VERSION_2, assert_rested, canary_of, phase, serving, status
from tests.transition.world import World
from tests.unit.specs import NAME, merged

Json = dict[str, Any]

TENSORFLOW: Json = merged(VERSION_2, {"runtime": {"name": "TensorFlowServing"}})
ROLLING: Json = {"replicas": 3, "rollout": {"steps": None, "strategy": "RollingUpdate"}}
OLDS = {8000: "http", 8001: "grpc"}
NEWS = {8501: "http", 8500: "grpc"}
BESIDE = {8501: "http-8501", 8500: "grpc-8500"}
STILL = {8000: "http-8000", 8001: "grpc-8001"}
METRICS = {8002: "metrics"}


def ports(world: World, name: str = NAME) -> dict[int, str]:
    return {port["port"]: port["name"] for port in world.objects["Service", name]["spec"]["ports"]}


def seconds(operator: Operator, ends: str, most: int = 120) -> Iterator[None]:
    """Each second until that phase is reached, that one too."""
    for _ in range(most):
        run(operator, 1)
        yield
        if phase(operator.world) == ends:
            return
    pytest.fail(f"never {ends}, but {phase(operator.world)}: {operator.world.message('Promoted')}")


def apart(world: World) -> dict[str, list[str]]:
    """What paths of plain predictions begin with that have a route of their own → the workloads that get them."""
    routes = json.loads(world.objects["ConfigMap", f"{NAME}-router"]["data"]["routes.json"])
    (traffic,) = (host for host in routes["resources"][0]["virtual_hosts"] if host["name"] == "traffic")
    return {
        route["match"]["safe_regex"]["regex"].partition(")")[0].removeprefix("("): [
            cluster["name"].partition("/")[2] for cluster in route["route"]["weighted_clusters"]["clusters"]
        ]
        for route in traffic["routes"]
        if "safe_regex" in route["match"] and "weighted_clusters" in route["route"]
    }


def columns(world: World) -> tuple[str, int, int | None, int | None]:
    found = status(world)
    return found["runtime"], found["version"], found.get("canaryVersion"), found.get("canaryWeightPercent")


def test_during_a_canary_both_servers_ports_are_there_and_stables_keep_their_names() -> None:
    world, operator = serving(LONG)
    world.edit(TENSORFLOW)
    until(operator, lambda: status(world).get("canaryWeightPercent") == 25)
    run(operator, 3)
    assert ports(world) == OLDS | BESIDE
    assert columns(world) == ("Triton", OLD, NEW, 25)
    assert "each request goes to the one that answers its path" in status(world)["traffic"]["message"]
    assert writes_of(operator, 20) == []


def test_a_server_that_cant_serve_the_model_leaves_stables_ports_as_they_were() -> None:
    world, operator = serving(LONG)
    assert ports(world) == OLDS
    world.broken = {NEW: LOAD_FAILED}
    world.edit(TENSORFLOW)
    for _ in seconds(operator, "RolledBack"):
        assert OLDS.items() <= ports(world).items()
        assert columns(world)[:2] == ("Triton", OLD)
    assert_rested(world, operator, OLD)
    assert ports(world) == OLDS
    assert ports(world, f"{NAME}-metrics") == {8081: "agent"} | METRICS


def test_what_only_the_new_server_answers_goes_to_it_from_its_first_weight_and_to_the_former_one_until_bake_ends() -> (
    None
):
    world, operator = serving(LONG)
    before = status(world)["stable"]["revision"]
    world.slow = {NEW}
    world.edit(TENSORFLOW)
    run(operator, 10)
    assert canary_of(world) in world.routed[-1]
    assert apart(world) == {}  # it prepares: no request before its gates
    world.slow = set()
    until(operator, lambda: status(world).get("canaryWeightPercent") == 25)
    after = canary_of(world)
    assert apart(world) == {"/v1": [after]}
    world.command("promote", after)
    until(operator, lambda: phase(world) == "Baking")
    assert apart(world) == {"/v2": [before]}
    until(operator, lambda: phase(world) == "Ready", 90)
    run(operator, 5)
    assert apart(world) == {}


def test_in_bake_the_promoted_servers_ports_have_the_plain_names_and_the_former_ones_are_there() -> None:
    world, operator = serving(LONG)
    world.edit(TENSORFLOW)
    until(operator, lambda: status(world).get("canaryWeightPercent") == 25)
    world.command("promote", canary_of(world))
    for _ in seconds(operator, "Baking"):
        names = ports(world)
        assert OLDS.items() <= names.items() or status(world)["runtime"] == "TensorFlowServing"
    assert ports(world) == NEWS | STILL
    assert columns(world) == ("TensorFlowServing", NEW, None, None)
    for _ in seconds(operator, "Ready"):
        pass
    assert_rested(world, operator, NEW)
    assert ports(world) == NEWS


def test_aborted_in_bake_the_former_servers_ports_get_their_names_back() -> None:
    world, operator = serving(LONG)
    world.edit(TENSORFLOW)
    until(operator, lambda: status(world).get("canaryWeightPercent") == 25)
    world.command("promote", canary_of(world))
    until(operator, lambda: phase(world) == "Baking")
    world.command("abort", status(world)["stable"]["revision"], 2)
    for _ in seconds(operator, "RolledBack"):
        pass
    assert_rested(world, operator, OLD)
    assert ports(world) == OLDS
    assert columns(world) == ("Triton", OLD, None, None)


def test_without_steps_clients_reach_the_former_server_until_all_new_pods_are_ready() -> None:
    """They speak its language: a pod of the other would answer 404."""
    world, operator = serving(ROLLING)
    world.edit(TENSORFLOW)
    before, reached = status(world)["stable"]["revision"], []
    for _ in seconds(operator, "Ready"):
        names = ports(world)
        if status(world)["stable"]["revision"] == before:
            assert OLDS.items() <= names.items()
            reached.append(world.objects["Service", NAME]["spec"]["selector"].get("slipway.dev/revision"))
    assert before in reached
    assert set(reached[2:]) == {before}
    run(operator, 10)
    assert ports(world) == NEWS
    assert world.objects["Service", NAME]["spec"]["selector"] == {"slipway.dev/model": NAME}
    assert world.lost == 0
    assert writes_of(operator, 30) == []


def test_a_server_of_the_same_paths_gets_its_share_of_the_pods_as_before() -> None:
    world, operator = serving(ROLLING)
    world.edit(merged(VERSION_2, {"runtime": {"name": "ONNXRuntime"}}))
    for _ in seconds(operator, "Ready"):
        assert ports(world) == OLDS | METRICS
        assert world.objects["Service", NAME]["spec"]["selector"] == {"slipway.dev/model": NAME}
    assert world.lost == 0


def test_the_first_revision_shows_its_version_and_no_canary() -> None:
    world = World()
    world.edit({"replicas": 2, **LONG})
    run(Operator(world), 1)
    assert status(world)["canary"]["version"] == OLD
    assert columns(world) == ("Triton", OLD, None, None)


# ---- Service <name>-metrics


def test_a_service_of_another_under_the_metrics_name_is_left_alone_and_nothing_else_waits_for_it() -> None:
    world = World()
    world.put_foreign("Service", f"{NAME}-metrics", spec={"selector": {"app": "theirs"}})
    before = dict(world.objects["Service", f"{NAME}-metrics"])
    world.edit({"replicas": 2})
    operator = Operator(world)
    run(operator, 20)
    assert phase(world) == "Ready"
    assert world.objects["Service", f"{NAME}-metrics"] == before
    world.edit(VERSION_2)
    run(operator, 30)
    assert status(world)["stable"]["version"] == NEW
    assert writes_of(operator, 30) == []


def test_where_no_more_services_are_allowed_the_model_serves_without_that_one() -> None:
    def refuse(name: str) -> Exception | None:
        return ClusterError(f"create {name}", 403, "exceeded quota: few") if name.endswith("-metrics") else None

    world = World(refuse={("create", "Service"): refuse})
    world.edit({"replicas": 2})
    run(Operator(world), 20)
    assert phase(world) == "Ready"
    assert world.conditions()["Promoted"] == ("True", "Promoted")


def test_an_upgrade_adds_the_metrics_service_and_touches_no_pod() -> None:
    world, _ = serving()
    pods = {pod["metadata"]["uid"] for pod in world.pods()}
    world.lose("Service", f"{NAME}-metrics")  # as the release before leaves it
    service = world.objects["Service", NAME]
    world.tamper("Service", NAME, {"metadata": {"annotations": None}, "spec": {"ports": service["spec"]["ports"]}})
    written = writes_of(Operator(world), 30)
    assert {(write.verb, write.name) for write in written} == {("create", f"{NAME}-metrics"), ("apply", NAME)}
    assert {pod["metadata"]["uid"] for pod in world.pods()} == pods
