"""Which ports Services have, for every pair of revisions that can have pods at once."""

from __future__ import annotations

import pytest

from slipway.api.v1alpha1 import MAX_NAME_LENGTH
from slipway.decide.placement import new_revision
from slipway.model.names import metrics_name
from slipway.model.revision import Assignment, Revision
from slipway.model.rollout import Plan, Promotion
from slipway.model.rollout_state import RolloutState
from slipway.render.objects import render_metrics_service, render_service
from slipway.render.ports import (
    ServicePort,
    live_ports,
    metrics_ports,
    own_path,
    predict_path,
    service_ports,
    specs_in_pods,
)
from tests.unit.specs import Json, deployment

TRITON: Json = {"runtime": {"name": "Triton"}}
TENSORFLOW: Json = {"runtime": {"name": "TensorFlowServing"}}
TORCH: Json = {"runtime": {"name": "TorchServe"}}
ONNX: Json = {"runtime": {"name": "ONNXRuntime"}}


def custom(http: int, grpc: int | None = None) -> Json:
    return {"runtime": {"name": "Custom", "image": "own:1", "httpPort": http, "grpcPort": grpc}}


def shown(ports: tuple[ServicePort, ...]) -> str:
    """name number→target, one after the other."""
    return ", ".join(f"{port.name} {port.number}→{port.target}" for port in ports)


@pytest.mark.parametrize(
    ("stable", "other", "expected"),
    [
        (TRITON, None, "http 8000→http, grpc 8001→grpc, metrics 8002→metrics"),
        (TRITON, ONNX, "http 8000→http, grpc 8001→grpc, metrics 8002→metrics"),
        (
            TRITON,
            TENSORFLOW,
            "http 8000→http, grpc 8001→grpc, metrics 8002→metrics, http-8501 8501→http, grpc-8500 8500→grpc",
        ),
        (
            TENSORFLOW,
            TRITON,
            "http 8501→http, grpc 8500→grpc, http-8000 8000→http, grpc-8001 8001→grpc, metrics 8002→metrics",
        ),
        (TORCH, custom(8080), "http 8080→http, grpc 7070→grpc, metrics 8082→metrics"),
        (custom(8080), custom(9090, 9091), "http 8080→http, http-9090 9090→http, grpc 9091→grpc"),
        # One number for two protocols: stable's is what its clients speak.
        (TENSORFLOW, custom(8500), "http 8501→http, grpc 8500→grpc"),
        (custom(8500), TENSORFLOW, "http 8500→http, http-8501 8501→http"),
    ],
)
def test_ports_of_pods(stable: Json, other: Json | None, expected: str) -> None:
    specs = [deployment(each).spec for each in (stable, other) if each is not None]
    assert shown(service_ports(specs, to_router=False)) == expected


@pytest.mark.parametrize(
    ("stable", "other", "expected"),
    [
        (TRITON, None, "http 8000→http, grpc 8001→grpc"),
        (TRITON, TENSORFLOW, "http 8000→http, grpc 8001→grpc, http-8501 8501→http, grpc-8500 8500→grpc"),
        (TRITON, custom(8002), "http 8000→http, grpc 8001→grpc, http-8002 8002→http"),
    ],
)
def test_behind_routers_there_is_no_metrics_port(stable: Json, other: Json | None, expected: str) -> None:
    specs = [deployment(each).spec for each in (stable, other) if each is not None]
    assert shown(service_ports(specs, to_router=True)) == expected


@pytest.mark.parametrize(
    ("stable", "other", "expected"),
    [
        (TRITON, None, "agent 8081→agent, metrics 8002→metrics"),
        (TRITON, ONNX, "agent 8081→agent, metrics 8002→metrics"),
        (TENSORFLOW, None, "agent 8081→agent, metrics 8501→http"),
        (custom(9090), None, "agent 8081→agent, metrics 9090→http"),
        (TRITON, TENSORFLOW, "agent 8081→agent, metrics 8002→metrics, metrics-8501 8501→http"),
    ],
)
def test_ports_of_the_metrics_service(stable: Json, other: Json | None, expected: str) -> None:
    assert shown(metrics_ports([deployment(each).spec for each in (stable, other) if each is not None])) == expected


# ---- whose ports


def kept() -> dict[str, Revision]:
    """Revisions old (Triton) and new (TensorFlowServing)."""
    return {
        name: Revision(name, 1, 1, new_revision(deployment(changes), 1).choice, {}, {})
        for name, changes in (("old", TRITON), ("new", TENSORFLOW))
    }


def plan(stable: str | None, canary: str | None, **replicas: int) -> Plan:
    orders = {name: Assignment(name) for name in replicas}
    return Plan(RolloutState(stable, canary), replicas, orders, Promotion.IN_PROGRESS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (plan(None, "new", new=2), ["TensorFlowServing"]),
        (plan("old", None, old=2), ["Triton"]),
        (plan("old", None, old=0), ["Triton"]),
        (plan("old", "new", old=2, new=1), ["Triton", "TensorFlowServing"]),
        (plan("old", "new", old=2, new=0), ["Triton"]),
        (plan("new", None, new=2, old=2), ["TensorFlowServing", "Triton"]),
        (plan("old", None, old=2, new=0), ["Triton"]),
        (plan("gone", None, gone=2), []),
    ],
    ids=["first", "serving", "at zero", "canary", "canary without pods", "bake", "rolled back", "stable unreadable"],
)
def test_ports_follow_the_revisions_with_pods_and_never_the_spec(given: Plan, expected: list[str]) -> None:
    today = deployment({"runtime": {"name": "TorchServe"}, "model": {"version": 9}})
    assert [spec.runtime.name for spec in specs_in_pods(today, given, kept())] == expected


def test_nothing_planned_shows_what_the_spec_asks() -> None:
    assert specs_in_pods(deployment(TORCH), plan(None, None), {}) == [deployment(TORCH).spec]


@pytest.mark.parametrize("specs", [[TRITON], [TRITON, TENSORFLOW], [TENSORFLOW, TRITON]])
def test_live_ports_are_read_as_they_were_written(specs: list[Json]) -> None:
    ports = service_ports([deployment(each).spec for each in specs], to_router=False)
    service = render_service(deployment(), ports=ports).manifest
    service["spec"]["ports"].append({"name": "debug", "port": 1, "targetPort": 1})
    assert live_ports(service) == ports


def test_a_port_of_ours_that_goes_is_a_difference() -> None:
    """Ports that others add are none, so that one which is only missing from ours would not be seen."""
    both = service_ports([deployment(TRITON).spec, deployment(TENSORFLOW).spec], to_router=False)
    alone = service_ports([deployment(TRITON).spec], to_router=False)
    one, other = render_service(deployment(), ports=both), render_service(deployment(), ports=alone)
    assert one.manifest["metadata"]["annotations"] != other.manifest["metadata"]["annotations"]
    one, other = render_metrics_service(deployment(), both), render_metrics_service(deployment(), alone)
    assert one.manifest["metadata"]["annotations"] != other.manifest["metadata"]["annotations"]


def test_the_metrics_service_finds_the_pods_of_all_revisions_ready_or_not() -> None:
    child = render_metrics_service(deployment(), metrics_ports([deployment().spec]))
    assert child.name == "digits-metrics"
    assert child.manifest["metadata"]["labels"]["app.kubernetes.io/component"] == "metrics"
    spec = child.manifest["spec"]
    assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)
    assert spec["selector"] == {"slipway.dev/model": "digits"}


def test_the_longest_name_has_a_metrics_service_too() -> None:
    assert len(metrics_name("d" * MAX_NAME_LENGTH)) <= 63


# ---- which paths


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        (TRITON, ONNX, True),
        (TRITON, custom(8080), True),
        (TRITON, TENSORFLOW, False),
        (TRITON, TORCH, False),
        (TRITON, {"model": {"name": "other"}}, False),
        (custom(8080), custom(9090), True),
    ],
)
def test_two_servers_of_one_path_are_asked_alike(one: Json, other: Json, *, are_same: bool) -> None:
    today = deployment()
    paths = {predict_path(today, deployment(each).spec) for each in (one, other)}
    assert (len(paths) == 1) is are_same


@pytest.mark.parametrize(
    ("path", "others", "expected"),
    [
        ("/v2/models/a/infer", ["/v1/models/a:predict"], "/v2"),
        ("/predictions/a", ["/v2/models/a/infer"], "/predictions"),
        ("/v2/models/a/infer", ["/v2/models/b/infer"], "/v2/models/a"),
        ("/v1/models/a:predict", ["/v1/models/ab:predict"], "/v1/models/a"),
        ("/predict", ["/predictions/a"], "/predict"),
        ("/v1", ["/v1/models/a:predict"], "/v1"),
    ],
)
def test_the_shortest_path_that_is_its_own(path: str, others: list[str], expected: str) -> None:
    assert own_path(path, others) == expected
