"""ONNXRuntime and Triton: what the spec becomes, in the same words of the user's."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.runtimes.onnx_runtime import ONNX_RUNTIME
from slipway.runtimes.server import ENDPOINT_REMOVAL_SECONDS, ServerRuntime
from slipway.runtimes.triton import TRITON
from tests.unit.specs import deployment

RUNTIMES = (ONNX_RUNTIME, TRITON)


def spec_of(server: ServerRuntime, /, **more: Any) -> ModelDeploymentSpec:
    return deployment({"runtime": {"name": server.name} | more.pop("runtime", {}), **more}).spec


def settings(server: ServerRuntime, /, **more: Any) -> dict[str, Any]:
    return server.agent_settings(spec_of(server, **more))[1]


def test_switching_is_one_word_for_clients() -> None:
    one, other = (runtime.ports(spec_of(runtime)) for runtime in RUNTIMES)
    assert one == other
    for version in (None, 3):
        assert ONNX_RUNTIME.predict_path(deployment().spec, "digits", version) == TRITON.predict_path(
            deployment().spec, "digits", version
        )
    assert ONNX_RUNTIME.metrics is not None
    assert TRITON.metrics is not None
    assert ONNX_RUNTIME.metrics.path == TRITON.metrics.path


def test_the_sections_are_the_agents() -> None:
    assert ONNX_RUNTIME.agent_settings(spec_of(ONNX_RUNTIME)) == ("onnxRuntime", {"httpPort": 8000})
    assert TRITON.agent_settings(spec_of(TRITON)) == ("triton", {"httpPort": 8000, "grpcPort": 8001, "gpu": False})


def test_batching_instances_and_the_cpu_limit_reach_the_server() -> None:
    spec: dict[str, Any] = {
        "runtime": {"instances": 3},
        "batching": {"maxBatchSize": 8, "maxDelayMicroseconds": 50},
        "resources": {"limits": {"cpu": "1500m"}},
    }
    assert settings(ONNX_RUNTIME, **spec) == {
        "httpPort": 8000, "maxBatchSize": 8, "maxBatchDelayMicroseconds": 50, "instances": 3, "threads": 2,
    }  # fmt: skip
    assert settings(TRITON, **spec) == {
        "httpPort": 8000, "grpcPort": 8001, "gpu": False, "maxBatchSize": 8, "maxQueueDelayMicroseconds": 50,
        "instanceCount": 3, "threads": 2,
    }  # fmt: skip


def test_on_gpus_triton_is_told_of_no_cpu_threads() -> None:
    found = settings(TRITON, resources={"limits": {"cpu": "8", "nvidia.com/gpu": 2}}, runtime={"instances": 2})
    assert found == {"httpPort": 8000, "grpcPort": 8001, "gpu": True, "instanceCount": 2}


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_a_users_arguments_come_last_and_the_pod_drains_first(runtime: ServerRuntime) -> None:
    container = runtime.container(spec_of(runtime, runtime={"args": ["--mine=1"]}), "digits")
    assert container["args"][-1] == "--mine=1"
    assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": ENDPOINT_REMOVAL_SECONDS}}}
    drain = next(
        int(word.partition("=")[2]) for word in container["args"] if "drain-sec" in word or "exit-time" in word
    )
    assert runtime.grace_seconds > ENDPOINT_REMOVAL_SECONDS + drain + 3


@pytest.mark.parametrize(
    ("runtime", "more", "words"),
    [
        (ONNX_RUNTIME, {"resources": {"limits": {"nvidia.com/gpu": 1}}}, ["spec.resources.limits", "name Triton"]),
        (ONNX_RUNTIME, {"runtime": {"gpuMemoryFraction": 0.5}}, ["spec.runtime.gpuMemoryFraction"]),
        (ONNX_RUNTIME, {"model": {"labels": {"best": 1}}}, ["spec.model.labels", "TensorFlowServing"]),
        (TRITON, {"runtime": {"gpuMemoryFraction": 0.5}}, ["spec.runtime.gpuMemoryFraction", "gpu_mem_limit"]),
        (TRITON, {"model": {"labels": {"best": 1}}}, ["spec.model.labels", "TensorFlowServing"]),
    ],
)
def test_what_a_server_cant_do_is_refused_with_what_to_write(
    runtime: ServerRuntime, more: dict[str, Any], words: list[str]
) -> None:
    (refusal,) = runtime.refusals(spec_of(runtime, **more))
    for word in words:
        assert word in refusal


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_nothing_else_is_refused(runtime: ServerRuntime) -> None:
    spec = spec_of(
        runtime,
        batching={"maxBatchSize": 8},
        versionPolicy={"all": {}},
        warmup={"requests": [{"inputs": []}]},
        runtime={"instances": 2, "env": [{"name": "A", "value": "b"}]},
    )
    assert runtime.refusals(spec) == ()
    assert runtime.loads_hot
