"""Configuration files in protobuf's text form. Two messages have no published stubs; they are described here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from google.protobuf.message import Message

from model_server.status import invalid, not_found

AnyMessage = TypeVar("AnyMessage", bound=Message)
_PACKAGE = "slipway.stand_in"
_STRING, _BOOL, _MESSAGE = 9, 8, 11
# session_bundle_config.proto and monitoring_config.proto of tensorflow/serving
_WRAPPED = {
    "max_batch_size": (1, "Int64Value"),
    "batch_timeout_micros": (2, "Int64Value"),
    "max_enqueued_batches": (3, "Int64Value"),
    "num_batch_threads": (4, "Int64Value"),
    "thread_pool_name": (5, "StringValue"),
}


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="slipway_stand_in.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    batching = file.message_type.add(name="BatchingParameters")
    for name, (number, kind) in _WRAPPED.items():
        batching.field.add(name=name, number=number, label=1, type=_MESSAGE, type_name=f".google.protobuf.{kind}")
    batching.field.add(name="allowed_batch_sizes", number=6, label=3, type=3)
    batching.field.add(name="pad_variable_length_inputs", number=7, label=1, type=_BOOL)
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(name="enable", number=1, label=1, type=_BOOL)
    prometheus.field.add(name="path", number=2, label=1, type=_STRING)
    monitoring = file.message_type.add(name="MonitoringConfig")
    monitoring.field.add(
        name="prometheus_config", number=1, label=1, type=_MESSAGE, type_name=f".{_PACKAGE}.PrometheusConfig"
    )
    return file


_POOL = descriptor_pool.Default()
_POOL.Add(_describe())


def named(name: str) -> Any:
    """An empty BatchingParameters, PrometheusConfig or MonitoringConfig."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))()


def read_text(file: str, message: AnyMessage) -> AnyMessage:
    """The file's content in `message`. NOT_FOUND or INVALID_ARGUMENT, as ParseProtoTextFile says them."""
    try:
        text = Path(file).read_text()
    except OSError as cause:
        raise not_found(f"{file}; {cause.strerror}") from cause
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as cause:
        print(f"[libprotobuf ERROR] Error parsing text-format {type(message).__name__}: {cause}", flush=True)
        raise invalid(f"Invalid protobuf file: '{file}'") from cause
    return message
