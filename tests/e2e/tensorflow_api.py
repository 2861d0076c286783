"""TensorFlow Serving's gRPC API for tests, without TensorFlow: its messages, built here from the published protos.

Field numbers and types are those of tensorflow_serving/apis/*.proto, model_server_config.proto and TensorFlow's
tensor.proto and example.proto; only the fields that tests use. Independent of the stubs that the stand-in uses, so that
the wire format is tested too.
Must not import: anything of Kubernetes or Slipway.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

Array = np.ndarray[Any, Any]
Message = Any
"""A message made of a descriptor: its fields are known at run time only."""

PACKAGE = "slipway.tests.tensorflow"
# message: {field: (number, type)}; "* TYPE" is repeated, "map TYPE" a map from string.
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Dim": {"size": (1, "int64")},
    "TensorShape": {"dim": (2, "* Dim"), "unknown_rank": (3, "bool")},
    "Tensor": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "TensorShape"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "* float"),
        "double_val": (6, "* double"),
        "int_val": (7, "* int32"),
        "string_val": (8, "* bytes"),
        "int64_val": (10, "* int64"),
        "bool_val": (11, "* bool"),
    },
    "BytesList": {"value": (1, "* bytes")},
    "FloatList": {"value": (1, "* float")},
    "Int64List": {"value": (1, "* int64")},
    "Feature": {"bytes_list": (1, "BytesList"), "float_list": (2, "FloatList"), "int64_list": (3, "Int64List")},
    "Features": {"feature": (1, "map Feature")},
    "Example": {"features": (1, "Features")},
    "ExampleList": {"examples": (1, "* Example")},
    "ExampleListWithContext": {"examples": (1, "* Example"), "context": (2, "Example")},
    "Input": {"example_list": (1, "ExampleList"), "example_list_with_context": (2, "ExampleListWithContext")},
    "ModelSpec": {
        "name": (1, "string"),
        "version": (2, ".google.protobuf.Int64Value"),
        "signature_name": (3, "string"),
        "version_label": (4, "string"),
    },
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "map Tensor"), "output_filter": (3, "* string")},
    "PredictResponse": {"outputs": (1, "map Tensor"), "model_spec": (2, "ModelSpec")},
    "ClassificationRequest": {"model_spec": (1, "ModelSpec"), "input": (2, "Input")},
    "Class": {"label": (1, "string"), "score": (2, "float")},
    "Classifications": {"classes": (1, "* Class")},
    "ClassificationResult": {"classifications": (1, "* Classifications")},
    "ClassificationResponse": {"result": (1, "ClassificationResult"), "model_spec": (2, "ModelSpec")},
    "RegressionRequest": {"model_spec": (1, "ModelSpec"), "input": (2, "Input")},
    "Regression": {"value": (1, "float")},
    "RegressionResult": {"regressions": (1, "* Regression")},
    "RegressionResponse": {"result": (1, "RegressionResult"), "model_spec": (2, "ModelSpec")},
    "InferenceTask": {"model_spec": (1, "ModelSpec"), "method_name": (2, "string")},
    "InferenceResult": {
        "model_spec": (1, "ModelSpec"),
        "classification_result": (2, "ClassificationResult"),
        "regression_result": (3, "RegressionResult"),
    },
    "MultiInferenceRequest": {"tasks": (1, "* InferenceTask"), "input": (2, "Input")},
    "MultiInferenceResponse": {"results": (1, "* InferenceResult")},
    "GetModelStatusRequest": {"model_spec": (1, "ModelSpec")},
    "Status": {"error_code": (1, "int32"), "error_message": (2, "string")},
    "ModelVersionStatus": {"version": (1, "int64"), "state": (2, "int32"), "status": (3, "Status")},
    "GetModelStatusResponse": {"model_version_status": (1, "* ModelVersionStatus")},
    "TensorInfo": {"name": (1, "string"), "dtype": (2, "int32"), "tensor_shape": (3, "TensorShape")},
    "SignatureDef": {"inputs": (1, "map TensorInfo"), "outputs": (2, "map TensorInfo"), "method_name": (3, "string")},
    "SignatureDefMap": {"signature_def": (1, "map SignatureDef")},
    "GetModelMetadataRequest": {"model_spec": (1, "ModelSpec"), "metadata_field": (2, "* string")},
    "GetModelMetadataResponse": {"model_spec": (1, "ModelSpec"), "metadata": (2, "map .google.protobuf.Any")},
    "Specific": {"versions": (1, "* int64")},
    "VersionPolicy": {"specific": (102, "Specific")},
    "ModelConfig": {
        "name": (1, "string"),
        "base_path": (2, "string"),
        "model_platform": (4, "string"),
        "model_version_policy": (7, "VersionPolicy"),
        "version_labels": (8, "map int64"),
    },
    "ModelConfigList": {"config": (1, "* ModelConfig")},
    "ModelServerConfig": {"model_config_list": (1, "ModelConfigList")},
    "ReloadConfigRequest": {"config": (1, "ModelServerConfig")},
    "ReloadConfigResponse": {"status": (1, "Status")},
    "HealthCheckRequest": {"service": (1, "string")},
    "HealthCheckResponse": {"status": (1, "int32")},
}
_SCALARS = {
    "double": 1, "float": 2, "int64": 3, "int32": 5, "bool": 8, "string": 9, "bytes": 12,
}  # fmt: skip
_MESSAGE = 11
STATES = {10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}
DTYPES = {"float32": 1, "float64": 2, "int32": 3, "object": 7, "int64": 9, "bool": 10}
_NUMPY = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64, 10: np.bool_}
_VALUES = {1: "float_val", 2: "double_val", 3: "int_val", 7: "string_val", 9: "int64_val", 10: "bool_val"}
_SERVING = "tensorflow.serving"
METHODS = {
    "Predict": (f"/{_SERVING}.PredictionService/Predict", "PredictRequest", "PredictResponse"),
    "Classify": (f"/{_SERVING}.PredictionService/Classify", "ClassificationRequest", "ClassificationResponse"),
    "Regress": (f"/{_SERVING}.PredictionService/Regress", "RegressionRequest", "RegressionResponse"),
    "MultiInference": (
        f"/{_SERVING}.PredictionService/MultiInference",
        "MultiInferenceRequest",
        "MultiInferenceResponse",
    ),
    "GetModelMetadata": (
        f"/{_SERVING}.PredictionService/GetModelMetadata",
        "GetModelMetadataRequest",
        "GetModelMetadataResponse",
    ),
    "GetModelStatus": (f"/{_SERVING}.ModelService/GetModelStatus", "GetModelStatusRequest", "GetModelStatusResponse"),
    "HandleReloadConfigRequest": (
        f"/{_SERVING}.ModelService/HandleReloadConfigRequest",
        "ReloadConfigRequest",
        "ReloadConfigResponse",
    ),
    "Check": ("/grpc.health.v1.Health/Check", "HealthCheckRequest", "HealthCheckResponse"),
}


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="slipway_tests_tensorflow.proto", package=PACKAGE, syntax="proto3")
    file.dependency.extend([wrappers_pb2.DESCRIPTOR.name, any_pb2.DESCRIPTOR.name])
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, words) in fields.items():
            modifier, _, kind = words.rpartition(" ")
            field = message.field.add(name=field_name, number=number, label=3 if modifier else 1)
            if modifier == "map":
                entry_name = "".join(part.capitalize() for part in field_name.split("_")) + "Entry"
                entry = message.nested_type.add(name=entry_name)
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=1, type=_SCALARS["string"])
                _type(entry.field.add(name="value", number=2, label=1), kind)
                field.type, field.type_name = _MESSAGE, f".{PACKAGE}.{name}.{entry_name}"
            else:
                _type(field, kind)
    return file


def _type(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _MESSAGE
        field.type_name = kind if kind.startswith(".") else f".{PACKAGE}.{kind}"


_POOL = descriptor_pool.Default()
_POOL.Add(_describe())


def make(name: str, /, **fields: Any) -> Message:
    """A message by its name in MESSAGES."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))(**fields)


def spec_of(model: str, version: int | None = None, label: str = "", signature: str = "") -> Message:
    spec = make("ModelSpec", name=model, version_label=label, signature_name=signature)
    if version is not None:
        spec.version.value = version
    return spec


def tensor_of(array: Array) -> Message:
    """As a client writes it: the values in their own field."""
    dtype = DTYPES[str(array.dtype)]
    tensor = make("Tensor", dtype=dtype)
    tensor.tensor_shape.SetInParent()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    getattr(tensor, _VALUES[dtype]).extend(array.ravel().tolist())
    return tensor


def array_of(tensor: Message) -> Array:
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, _NUMPY[tensor.dtype]).reshape(shape)
    values = list(getattr(tensor, _VALUES[tensor.dtype]))
    return np.array(values, dtype=_NUMPY.get(tensor.dtype, object)).reshape(shape)


def example_of(features: Mapping[str, Sequence[float]]) -> Message:
    example = make("Example")
    for name, values in features.items():
        example.features.feature[name].float_list.value.extend(values)
    return example


@dataclass(frozen=True, slots=True)
class TensorFlowGrpc:
    """One channel to a server, as an ordinary client has it."""

    channel: grpc.Channel

    def call(self, method: str, seconds: float = 30.0, **fields: Any) -> Message:
        """One call by its name in METHODS. Raises grpc.RpcError."""
        path, request, response = METHODS[method]
        answer = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{response}"))
        invoke = self.channel.unary_unary(
            path, request_serializer=lambda made: made.SerializeToString(), response_deserializer=answer.FromString
        )
        return invoke(make(request, **fields), timeout=seconds)

    def predict(self, spec: Message, seconds: float = 30.0, **inputs: Array) -> dict[str, Array]:
        tensors = {name: tensor_of(array) for name, array in inputs.items()}
        answer = self.call("Predict", seconds, model_spec=spec, inputs=tensors)
        return {name: array_of(tensor) for name, tensor in answer.outputs.items()}

    def states(self, model: str) -> dict[int, str]:
        found = self.call("GetModelStatus", model_spec=spec_of(model)).model_version_status
        return {each.version: STATES[each.state] for each in found}


@contextmanager
def tensorflow_grpc(address: str) -> Iterator[TensorFlowGrpc]:
    """`address` is host:port."""
    with grpc.insecure_channel(address) as channel:
        yield TensorFlowGrpc(channel)


def error_of(failure: grpc.RpcError) -> tuple[str, str]:
    """Code and words of a failed call, as in ("NOT_FOUND", "…")."""
    return failure.code().name, failure.details() or ""
