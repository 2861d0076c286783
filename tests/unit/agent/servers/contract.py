"""The five servers for the contract suite: each driver beside the fake that stands for its server."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slipway_agent.servers.base import Server
from slipway_agent.servers.custom import CustomServer, CustomSettings
from slipway_agent.servers.onnx_runtime import OnnxRuntimeServer, OnnxSettings
from slipway_agent.servers.tensorflow_serving.config import TensorFlowServingSpec
from slipway_agent.servers.tensorflow_serving.driver import TensorFlowServer
from slipway_agent.servers.torchserve.driver import TorchServer
from slipway_agent.servers.torchserve.files import LOG_NAME, TorchServeSpec
from slipway_agent.servers.triton.config import TritonSpec
from slipway_agent.servers.triton.driver import TritonServer
from slipway_agent.volume.models_volume import ModelVolume
from tests.unit.agent.servers.fake_custom import FakeContainer
from tests.unit.agent.servers.fake_http import FakeServer
from tests.unit.agent.servers.fake_onnx_runtime import FakeOnnxRuntime
from tests.unit.agent.servers.fake_tensorflow_serving import FakeTensorFlowServing
from tests.unit.agent.servers.fake_torchserve import FakeTorchServe
from tests.unit.agent.servers.fake_triton import FakeTriton


@dataclass(frozen=True, slots=True)
class Beside:
    """`open` makes another driver beside the same fake, as each agent.json does. `refusal`: what the server says of a
    version 2 that is `broken`. `good`, `bad` and `complaint`: predict requests, and what is said of the bad one; None
    where the fake answers none."""

    fake: FakeServer
    volume: ModelVolume
    open: Callable[[], Server]
    refusal: str
    good: object = None
    bad: object = None
    complaint: str = ""


def _triton(volume: ModelVolume) -> Beside:
    fake = FakeTriton(volume.repository)
    spec = TritonSpec(http_port=fake.port, grpc_port=fake.grpc_port)
    return Beside(
        fake,
        volume,
        lambda: TritonServer(volume, spec, served=3, key=None),
        "Internal: not an ONNX model",
        good={"inputs": []},
    )


def _tensorflow_serving(volume: ModelVolume) -> Beside:
    fake = FakeTensorFlowServing(volume.repository)
    spec = TensorFlowServingSpec(http_port=fake.port)
    return Beside(
        fake,
        volume,
        lambda: TensorFlowServer(volume, spec, {}, ()),
        "DATA_LOSS: Can't parse version 2 as binary proto",
        good={"instances": [1.0]},
        bad={},
        complaint="HTTP 400: Missing 'inputs' or 'instances' key",
    )


def _torchserve(volume: ModelVolume) -> Beside:
    fake = FakeTorchServe(volume.repository, volume.repository.parents[1] / "log" / LOG_NAME)
    spec = TorchServeSpec(http_port=1, management_port=fake.port, log_folder=str(fake.log.parent))
    return Beside(fake, volume, lambda: TorchServer(volume, spec, 3), "ValueError: no vocabulary")


def _onnx_runtime(volume: ModelVolume) -> Beside:
    fake = FakeOnnxRuntime(volume.repository)
    settings = OnnxSettings(http_port=fake.port)
    return Beside(
        fake,
        volume,
        lambda: OnnxRuntimeServer(volume, settings, (), "key"),
        "not an ONNX model",
        good={"inputs": []},
        bad={},
        complaint="inputs is missing",
    )


def _custom(volume: ModelVolume) -> Beside:
    fake = FakeContainer(volume.repository)
    settings = CustomSettings(fake.port, "/{model}/{version}/up", "/{model}:predict")
    return Beside(
        fake,
        volume,
        lambda: CustomServer(volume, settings),
        "another version needs another pod",
        good={"a": 1},
        bad={},
        complaint='{"detail": "no a"}',
    )


MAKERS: dict[str, Callable[[ModelVolume], Beside]] = {
    "Triton": _triton,
    "TensorFlowServing": _tensorflow_serving,
    "TorchServe": _torchserve,
    "ONNXRuntime": _onnx_runtime,
    "Custom": _custom,
}


def make_beside(runtime: str, folder: Path) -> Beside:
    return MAKERS[runtime](ModelVolume(folder, "digits"))
