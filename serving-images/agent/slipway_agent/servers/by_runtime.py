"""The servers that the agent can stand beside, by the name that the spec gives them.

A new one is a module of this package with `parse_settings` and `open_server`, and one line in KINDS. This is the only
module that imports drivers, besides themselves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from slipway_agent.config import Fields
from slipway_agent.servers import custom, onnx_runtime
from slipway_agent.servers.base import DriverInputs, Server
from slipway_agent.servers.tensorflow_serving import driver as tensorflow_serving
from slipway_agent.servers.torchserve import driver as torchserve
from slipway_agent.servers.triton import driver as triton

Settings = TypeVar("Settings")


@dataclass(frozen=True, slots=True)
class Kind(Generic[Settings]):
    """`section` of agent.json holds the server's settings; `parse` reads them into a frozen value.

    `open(inputs, settings)` makes the driver: no I/O there.
    """

    section: str
    parse: Callable[[Fields], Settings]
    open: Callable[[DriverInputs, Settings], Server]


# Any: each server has settings of its own, and `parse` and `open` of one Kind agree by its type
KINDS: Mapping[str, Kind[Any]] = {
    "Triton": Kind("triton", triton.parse_settings, triton.open_server),
    "TensorFlowServing": Kind("tensorflowServing", tensorflow_serving.parse_settings, tensorflow_serving.open_server),
    "TorchServe": Kind("torchServe", torchserve.parse_settings, torchserve.open_server),
    "ONNXRuntime": Kind("onnxRuntime", onnx_runtime.parse_settings, onnx_runtime.open_server),
    "Custom": Kind("custom", custom.parse_settings, custom.open_server),
}
