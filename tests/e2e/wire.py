"""A prediction request in each server's own forms, REST and gRPC, encoded once and sent thousands of times.

gRPC messages are written field by field, because three servers' generated stubs (one of which wants TensorFlow) are
much to install for one request each. Field numbers are those of the published .proto files: KServe's
open_inference_grpc.proto, TensorFlow Serving's predict.proto, TorchServe's inference.proto.
Must not import: anything of Kubernetes or Slipway.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Prediction:
    """One request. `path`: the REST path; `method`: the gRPC method's whole name; empty where there is no gRPC.

    rest_marks, grpc_marks: name → text (Latin-1) by which an answer of that name is known.
    """

    path: str
    body: bytes
    method: str
    message: bytes
    content_type: str = "application/json"
    rest_marks: Mapping[str, str] = field(default_factory=dict)
    grpc_marks: Mapping[str, str] = field(default_factory=dict)


def inference_protocol(model: str, tensor: str, row: Sequence[float]) -> Prediction:
    """Triton and ONNX Runtime: the Open Inference Protocol. The id is ours: a server's own would differ each time."""
    tensors = [{"name": tensor, "shape": [1, len(row)], "datatype": "FP32", "data": list(row)}]
    shape = _packed(1, len(row))
    message = (
        _text(1, model)
        + _text(3, "bench")
        + _field(5, _text(1, tensor) + _text(2, "FP32") + _field(3, shape))
        + _field(7, _floats(row))
    )
    return Prediction(
        f"/v2/models/{model}/infer",
        json.dumps({"id": "bench", "inputs": tensors}).encode(),
        "/inference.GRPCInferenceService/ModelInfer",
        message,
        rest_marks={str(version): f'"model_version":"{version}"' for version in range(1, 10)},
        grpc_marks={str(version): f"\x12\x01{version}" for version in range(1, 10)},
    )


def tensorflow_serving(model: str, tensor: str, row: Sequence[float]) -> Prediction:
    """TensorFlow Serving: Predict, in row format over REST."""
    dims = _field(2, _number(1, 1)) + _field(2, _number(1, len(row)))
    proto = _number(1, 1) + _field(2, dims) + _field(4, _floats(row))  # dtype 1 is DT_FLOAT
    return Prediction(
        f"/v1/models/{model}:predict",
        json.dumps({"instances": [list(row)]}).encode(),
        "/tensorflow.serving.PredictionService/Predict",
        _field(1, _text(1, model)) + _field(2, _text(1, tensor) + _field(2, proto)),
    )


def torchserve(model: str, key: str, content: bytes, content_type: str = "application/json") -> Prediction:
    """TorchServe: the same bytes to the handler either way."""
    return Prediction(
        f"/predictions/{model}",
        content,
        "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
        _text(1, model) + _field(3, _text(1, key) + _field(2, content)),
        content_type,
    )


def _varint(value: int) -> bytes:
    """Base 128, lowest group first: 1 is 01, 300 is ac 02."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field: bytes, text, a message, packed numbers."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _text(number: int, content: str) -> bytes:
    return _field(number, content.encode())


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _packed(*values: int) -> bytes:
    return b"".join(_varint(value) for value in values)


def _floats(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)
