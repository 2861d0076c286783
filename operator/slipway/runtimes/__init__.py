"""What each model server needs, as pure functions: one module a server, found by its name in the spec.

Invariant: the one place that knows servers apart: a new server is one module and one entry in RUNTIMES.
Must not import: observe, decide, render, report, controller. Pure.
"""

from __future__ import annotations

from slipway.api.v1alpha1 import ModelDeploymentSpec, SpecError
from slipway.runtimes import custom, onnx_runtime, tensorflow_serving, torchserve, triton
from slipway.runtimes.server import Metrics, Port, Samples, ServerRuntime

RUNTIMES: dict[str, ServerRuntime] = {
    "Triton": triton.TRITON,
    "TensorFlowServing": tensorflow_serving.TENSORFLOW_SERVING,
    "TorchServe": torchserve.TORCHSERVE,
    "ONNXRuntime": onnx_runtime.ONNX_RUNTIME,
    "Custom": custom.CUSTOM,
}


def refuse_what_it_cant(spec: ModelDeploymentSpec) -> None:
    """Raise SpecError(NotSupportedByRuntime) when the spec asks its server for what that one can't do."""
    runtime = RUNTIMES[spec.runtime.name]
    refusals = list(runtime.refusals(spec))
    if spec.rollout.strategy == "InPlace" and not runtime.loads_hot:
        refusals.append(
            f"spec.rollout.strategy InPlace needs a server that loads versions while it serves, and {runtime.name} is "
            "none: leave it out"
        )
    if refusals:
        raise SpecError("NotSupportedByRuntime", "; ".join(refusals))


__all__ = ["RUNTIMES", "Metrics", "Port", "Samples", "ServerRuntime", "refuse_what_it_cant"]
