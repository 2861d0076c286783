"""ONNXRuntime and Triton: what the spec becomes, in the same words of the user's."""

from __future__ import annotations

from typing import Any

from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.runtimes.onnx_runtime import ONNX_RUNTIME
from slipway.runtimes.server import ServerRuntime
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
