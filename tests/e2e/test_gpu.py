"""A GPU request is scheduled where a node has one; where none has, the condition says which and on how many nodes."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.e2e.kube import Kube, Manifest
from tests.e2e.models import Digits
from tests.e2e.rollouts import asked, nothing_was_lost, prediction, then_quiet, then_routed
from tests.e2e.stage import SMALL, Stage, conditions, digits_volume, merged
from tests.e2e.test_rollout import needs_service

pytestmark = pytest.mark.usefixtures("operator")

RESOURCE = "nvidia.com/gpu"
POINTER = "/status/capacity/nvidia.com~1gpu"


@pytest.fixture
def node_without_gpu(kube: Kube) -> Iterator[str]:
    """A node that can be given GPUs; they are taken away afterwards."""
    nodes = kube.list_("Node")
    if any(RESOURCE in node["status"]["capacity"] for node in nodes):
        pytest.skip("this cluster has GPUs: what is said without one can't be seen here")
    name = nodes[0]["metadata"]["name"]
    yield name
    found = kube.get("Node", name)
    assert found is not None
    if RESOURCE in found["status"]["capacity"]:
        kube.patch("Node", name, None, [{"op": "remove", "path": POINTER}], "/status")


@pytest.mark.alone  # gives the node GPUs, which other tests expect to be missing
def test_a_missing_gpu_is_named_and_one_that_comes_is_used(
    kube: Kube, stage: Stage, digits: Digits, node_without_gpu: str
) -> None:
    stage.given_digits(digits)
    nodes = len(kube.list_("Node"))
    served = stage.given(
        "digits", "volume://models/digits", 1, [digits_volume()], resources=merged(SMALL, {"limits": {RESOURCE: 1}})
    )
    served.then("Degraded", "True", "Unschedulable", says=[RESOURCE, f"{nodes} of {nodes} nodes"])
    served.then("Ready", "False", "Unschedulable")

    kube.patch("Node", node_without_gpu, None, [{"op": "add", "path": POINTER, "value": "2"}], "/status")

    def scheduled(pods: list[Manifest]) -> str | None:
        for pod in pods:
            if any(one["type"] == "PodScheduled" and one["status"] == "True" for one in conditions(pod)):
                return str(pod["spec"]["nodeName"])
        return None

    node = kube.wait_list("Pod", stage.namespace, "the pod is scheduled", scheduled, labels=served.labels)
    assert node == node_without_gpu

    def forgiven(found: Manifest | None) -> bool | None:
        return True if all(one["reason"] != "Unschedulable" for one in conditions(found)) else None

    kube.wait("ModelDeployment", served.name, served.namespace, "the condition is taken back", forgiven)


@pytest.fixture
def two_seats(kube: Kube) -> Iterator[str]:
    """A resource of which one node has two: scarce as GPUs are, and no server asks what they are."""
    resource = f"e2e.slipway.dev/seat-{secrets.token_hex(3)}"
    node, pointer = kube.list_("Node")[0]["metadata"]["name"], f"/status/capacity/{resource.replace('/', '~1')}"
    kube.patch("Node", node, None, [{"op": "add", "path": pointer, "value": "2"}], "/status")
    yield resource
    kube.patch("Node", node, None, [{"op": "remove", "path": pointer}], "/status")


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_with_swap_a_new_version_takes_over_where_all_is_in_use(stage: Stage, digits: Digits, two_seats: str) -> None:
    """Two seats, two pods: a new pod gets the seat of an old one, and one serves all the time."""
    stage.given_digits(digits)
    served = stage.given(
        "digits",
        "volume://models/digits",
        1,
        [digits_volume()],
        replicas=2,
        resources=merged(SMALL, {"limits": {two_seats: 1}}),
        rollout={
            "steps": [{"weight": 50}, {"weight": 100}],
            "analysis": {"mode": "Off"},
            "surge": "Swap",
            "bakeSeconds": 0,
        },
    ).then_ready()
    then_routed(served)
    with asked(served, prediction(digits)) as loaded:
        served.when_spec(model={"version": 2})
        then_quiet(served, 2, seconds=120)
        loaded.more(20)
    nothing_was_lost(loaded)
    served.then_answers(digits, 2)
    served.then_pods("both have a seat", 2)


def test_a_request_too_large_for_any_node_is_named(stage: Stage, digits: Digits) -> None:
    stage.given_digits(digits)
    served = stage.given(
        "digits",
        "volume://models/digits",
        1,
        [digits_volume()],
        resources={"requests": {"memory": "9Ti", "cpu": "20m"}, "limits": {"memory": "9Ti"}},
    )
    served.then("Ready", "False", "Unschedulable", says=["memory", "nodes", "spec.resources"])
