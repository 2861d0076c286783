"""What holds for every server that Slipway knows; what only one does stands in a module of its own."""

from __future__ import annotations

import pytest

from slipway.model.server_key import KEY_VARIABLE, first_secret, key_from
from slipway.render.envoy import DNS_REFRESH
from slipway.render.objects import render_service
from slipway.render.pod_template import render_template
from slipway.render.ports import service_ports
from slipway.runtimes import RUNTIMES
from slipway.runtimes.server import ENDPOINT_REMOVAL_SECONDS
from tests.unit.specs import IMAGES, NAME, UID, Json, deployment, merged

CLUSTER_DNS_TTL_SECONDS = 5
"""Of CoreDNS' kubernetes plugin, where nobody says otherwise."""
GPU: Json = {"limits": {"nvidia.com/gpu": 1}}
TENSORFLOW_ON_GPUS: Json = {"image": "tensorflow/serving:2.20.0-gpu"}
TORCH_ON_GPUS: Json = {"image": "pytorch/torchserve:0.12.0-gpu"}
MUCH: Json = {
    "batching": {"maxBatchSize": 8},
    "versionPolicy": {"all": {}},
    "warmup": {"requests": [{"inputs": []}]},
    "runtime": {"instances": 2, "env": [{"name": "A", "value": "b"}]},
}

every_runtime = pytest.mark.parametrize("name", RUNTIMES)


def changes(name: str, more: Json | None = None) -> Json:
    """The least that one writes for this server, and more."""
    image = {"image": "example.com/service:1"} if name == "Custom" else {}
    return merged({"runtime": {"name": name} | image}, more or {})


def pod(name: str, more: Json | None = None) -> Json:
    spec: Json = render_template(deployment(changes(name, more)), IMAGES, "revision")["spec"]
    return spec


def server(name: str, more: Json | None = None) -> Json:
    (container,) = pod(name, more)["containers"]
    return dict(container)


@every_runtime
def test_a_users_arguments_come_last(name: str) -> None:
    assert server(name, {"runtime": {"args": ["--theirs=1", "--more"]}})["args"][-2:] == ["--theirs=1", "--more"]


@every_runtime
def test_the_template_says_nothing_of_the_version(name: str) -> None:
    one, two = (pod(name, {"model": {"version": version}}) for version in (1, 2))
    assert one == two


@every_runtime
def test_agent_and_server_share_a_key_where_the_server_asks_for_one(name: str) -> None:
    (agent,) = (each for each in pod(name)["initContainers"] if each["name"] == "agent")
    keys = [variable for each in (agent, server(name)) for variable in each["env"] if variable["name"] == KEY_VARIABLE]
    asks = name in ("Triton", "ONNXRuntime")
    assert keys == [key_from(first_secret(NAME, UID, "revision"))] * (2 if asks else 0)


@every_runtime
def test_every_port_of_the_service_is_one_of_the_servers(name: str) -> None:
    ports = {port["name"]: port["containerPort"] for port in server(name)["ports"]}
    wanted = deployment(changes(name))
    service = render_service(wanted, ports=service_ports([wanted.spec], to_router=False)).manifest
    assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == ports


@every_runtime
def test_grpc_requests_of_every_server_but_a_users_own_can_be_told_apart(name: str) -> None:
    has_grpc = any(port.name == "grpc" for port in RUNTIMES[name].ports(deployment(changes(name)).spec))
    assert bool(RUNTIMES[name].grpc_package) == has_grpc


@every_runtime
def test_which_gpus_a_container_sees_is_the_device_plugins_to_say(name: str) -> None:
    named = {each["name"] for each in server(name, {"resources": GPU}).get("env", [])}
    assert not {each for each in named if "VISIBLE_DEVICES" in each}


@every_runtime
def test_a_pod_that_ends_serves_until_routers_know_no_more_of_it(name: str) -> None:
    """Routers ask for addresses each DNS_REFRESH, and CoreDNS may answer with what is five seconds old."""
    stop = server(name)["lifecycle"]["preStop"]
    seconds = stop["sleep"]["seconds"] if "sleep" in stop else ENDPOINT_REMOVAL_SECONDS
    if "exec" in stop:
        assert str(ENDPOINT_REMOVAL_SECONDS) in stop["exec"]["command"]
    assert seconds >= int(DNS_REFRESH.removesuffix("s")) + CLUSTER_DNS_TTL_SECONDS
    assert pod(name)["terminationGracePeriodSeconds"] > seconds


@pytest.mark.parametrize("name", ["Triton", "ONNXRuntime"])
def test_the_pod_outlives_what_the_server_needs_to_drain(name: str) -> None:
    container = server(name)
    assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": ENDPOINT_REMOVAL_SECONDS}}}
    drain = next(
        int(word.partition("=")[2]) for word in container["args"] if "drain-sec" in word or "exit-time" in word
    )
    assert pod(name)["terminationGracePeriodSeconds"] > ENDPOINT_REMOVAL_SECONDS + drain + 3


@pytest.mark.parametrize(
    ("name", "unversioned", "versioned"),
    [
        ("Triton", "/v2/models/digits/infer", "/v2/models/digits/versions/3/infer"),
        ("ONNXRuntime", "/v2/models/digits/infer", "/v2/models/digits/versions/3/infer"),
        ("TensorFlowServing", "/v1/models/digits:predict", "/v1/models/digits/versions/3:predict"),
        ("TorchServe", "/predictions/digits", "/predictions/digits/3"),
    ],
)
def test_predictions_are_addressed_by_model_and_version(name: str, unversioned: str, versioned: str) -> None:
    spec = deployment(changes(name)).spec
    assert RUNTIMES[name].predict_path(spec, "digits", None) == unversioned
    assert RUNTIMES[name].predict_path(spec, "digits", 3) == versioned


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("ONNXRuntime", {"resources": GPU}, ["spec.resources.limits", "name Triton"]),
        ("ONNXRuntime", {"runtime": {"gpuMemoryFraction": 0.5}}, ["spec.runtime.gpuMemoryFraction"]),
        ("ONNXRuntime", {"model": {"labels": {"best": 1}}}, ["spec.model.labels", "TensorFlowServing"]),
        ("Triton", {"runtime": {"gpuMemoryFraction": 0.5}}, ["spec.runtime.gpuMemoryFraction", "gpu_mem_limit"]),
        ("Triton", {"model": {"labels": {"best": 1}}}, ["spec.model.labels", "TensorFlowServing"]),
        ("TensorFlowServing", {"runtime": {"instances": 2}}, ["runtime.instances"]),
        ("TensorFlowServing", {"runtime": {"gpuMemoryFraction": 0.5}}, ["runtime.gpuMemoryFraction"]),
        ("TensorFlowServing", {"resources": GPU}, ["2.20.0-gpu"]),
        ("TensorFlowServing", {"model": {"labels": {"stable": 1}}}, ["model.labels: stable"]),
        ("TensorFlowServing", {"model": {"labels": {"a/b": 1}}}, ["model.labels: 'a/b'"]),
        ("TorchServe", {"model": {"name": "resnet.mar"}}, ["dies when it starts"]),
        ("TorchServe", {"model": {"name": "resnet.model-2"}}, ["dies when it starts"]),
        ("Custom", {"versionPolicy": {"latest": {"count": 2}}}, ["spec.versionPolicy"]),
        ("Custom", {"versionPolicy": {"all": {}}}, ["spec.versionPolicy"]),
        (
            "Custom",
            {"versionPolicy": {"specific": {"versions": [1, 2]}}, "model": {"version": 2}},
            ["spec.versionPolicy"],
        ),
        ("Custom", {"batching": {"maxBatchSize": 2}}, ["spec.batching"]),
        ("Custom", {"model": {"labels": {"best": 1}}}, ["spec.model.labels"]),
        ("Custom", {"runtime": {"instances": 1}}, ["spec.runtime.instances"]),
        ("Custom", {"runtime": {"gpuMemoryFraction": 1.0}}, ["spec.runtime.gpuMemoryFraction"]),
        ("Custom", {"runtime": {"paths": {"live": "/{version}"}}}, ["spec.runtime.paths.live"]),
    ],
    ids=str,
)
def test_what_a_server_cant_do_is_refused_by_field_and_with_a_way_out(name: str, more: Json, words: list[str]) -> None:
    (refusal,) = RUNTIMES[name].refusals(deployment(changes(name, more)).spec)
    for word in words:
        assert word in refusal


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in RUNTIMES),
        ("Triton", MUCH),
        ("ONNXRuntime", MUCH),
        ("TensorFlowServing", {"model": {"labels": {"previous": 1}}}),
        ("TensorFlowServing", {"runtime": TENSORFLOW_ON_GPUS | {"gpuMemoryFraction": 0.25}, "resources": GPU}),
        ("TorchServe", {"runtime": TORCH_ON_GPUS, "resources": GPU}),
        ("Custom", {"versionPolicy": {"latest": {"count": 1}}}),
        ("Custom", {"versionPolicy": {"specific": {"versions": [1]}}}),
        ("Custom", {"warmup": {"requests": [{}]}}),
        ("Custom", {"resources": GPU}),
        ("Custom", {"runtime": {"paths": {"ready": "/{model}/{version}"}}}),
    ],
    ids=str,
)
def test_what_a_server_can_do_is_not_refused(name: str, more: Json) -> None:
    assert RUNTIMES[name].refusals(deployment(changes(name, more)).spec) == ()


def test_only_a_container_of_the_users_needs_another_pod_for_another_version() -> None:
    assert [name for name, runtime in RUNTIMES.items() if not runtime.loads_hot] == ["Custom"]
