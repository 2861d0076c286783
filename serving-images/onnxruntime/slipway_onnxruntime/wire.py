"""Requests and answers as they travel: JSON, the protocol's binary extension, and gRPC, without a list in between.

MLServer's own conversions make a Python list of every tensor and know no binary REST; its clients (tritonclient's
HTTP client is binary unless told otherwise) would not find here what they find in Triton. Shapes and datatypes are
checked here, names and meaning by the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from mlserver.errors import InferenceError
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, RequestOutput, TensorData

from slipway_onnxruntime.tensors import InvalidTensorError, from_bytes, from_json, to_bytes, to_json

HEADER_LENGTH = "inference-header-content-length"

_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""gRPC's typed contents; FP16 has none and travels raw."""


def data_of(tensor: Any) -> Any:
    """What a tensor of MLServer's carries: an array where it came through here, else a list."""
    return getattr(tensor.data, "root", tensor.data)


# --- REST -------------------------------------------------------------------------------------------------------------


def read_rest(body: bytes, header_length: str | None) -> tuple[InferenceRequest, Any]:
    """The request, and its JSON, which `write_rest` asks for what is to be binary. Raises InferenceError."""
    try:
        size = len(body) if header_length is None else int(header_length)
        if not 0 <= size <= len(body):
            raise ValueError(f"{HEADER_LENGTH} is {size}, and the body has {len(body)} bytes")
        head = orjson.loads(memoryview(body)[:size])
    except ValueError as cause:
        raise InferenceError(f"the request can't be read: {cause}") from cause
    return request_of(head, memoryview(body)[size:]), head


def request_of(head: Any, blobs: memoryview = memoryview(b"")) -> InferenceRequest:  # noqa: B008  an empty one is one
    """The request that JSON stands for; `blobs` are its binary tensors, one after the other. Raises InferenceError."""
    if not isinstance(head, dict) or not isinstance(head.get("inputs"), list):
        raise InferenceError("the request must be a JSON object with a list of inputs")
    inputs = []
    for entry in head["inputs"]:
        tensor, blobs = _read_input(entry, blobs)
        inputs.append(tensor)
    if len(blobs):
        raise InferenceError(f"{len(blobs)} bytes are left after the last binary input")
    outputs = head.get("outputs")
    if outputs is not None and not (
        isinstance(outputs, list)
        and all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in outputs)
    ):
        raise InferenceError("outputs must be a list of objects with a name")
    return InferenceRequest.model_construct(
        id=_text_or_none(head.get("id")),
        inputs=inputs,
        outputs=[RequestOutput.model_construct(name=each["name"]) for each in outputs or ()] or None,
    )


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)


def _read_input(entry: Any, blobs: memoryview) -> tuple[RequestInput, memoryview]:
    if not isinstance(entry, dict):
        raise InferenceError("each input must be an object with name, datatype, shape and data")
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    if not isinstance(name, str) or not isinstance(datatype, str):
        raise InferenceError("each input needs a name and a datatype")
    if not isinstance(shape, list) or not all(isinstance(size, int) and not isinstance(size, bool) for size in shape):
        raise InferenceError(f"input '{name}': its shape must be a list of whole numbers")
    parameters = entry.get("parameters") or {}
    if "shared_memory_region" in parameters:
        raise InferenceError(f"input '{name}': shared memory isn't served here; send the data")
    size = parameters.get("binary_data_size")
    try:
        if size is None:
            array = from_json(name, datatype, shape, entry.get("data"))
        else:
            if not isinstance(size, int) or not 0 <= size <= len(blobs):
                raise InferenceError(f"input '{name}': binary_data_size is {size}, and {len(blobs)} bytes are there")
            array = from_bytes(name, datatype, shape, blobs[:size])
            blobs = blobs[size:]
    except InvalidTensorError as cause:
        raise InferenceError(str(cause)) from cause
    data = TensorData.model_construct(root=array)
    return RequestInput.model_construct(name=name, datatype=datatype, shape=shape, data=data), blobs


def write_rest(response: InferenceResponse, head: Any) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part where binary tensors follow it."""
    is_binary = _binary_outputs(head)
    blobs: list[bytes] = []
    outputs = []
    for output in response.outputs:
        array = np.asarray(data_of(output))
        entry: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        if is_binary.get(output.name, is_binary[None]):
            blobs.append(to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = to_json(array)
        outputs.append(entry)
    body: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id is not None:
        body["id"] = response.id
    written = orjson.dumps(body | {"outputs": outputs})
    return (b"".join([written, *blobs]), len(written)) if blobs else (written, None)


def _binary_outputs(head: Any) -> dict[str | None, bool]:
    """Whether each output is to be binary, by name; under None what holds for the others."""
    default = bool((head.get("parameters") or {}).get("binary_data_output"))
    named = {
        each["name"]: bool((each.get("parameters") or {}).get("binary_data", default))
        for each in head.get("outputs") or ()
    }
    return {None: default, **named}


# --- gRPC -------------------------------------------------------------------------------------------------------------


def read_grpc(request: pb.ModelInferRequest) -> InferenceRequest:
    """Raises InferenceError."""
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InferenceError(f"{len(request.inputs)} inputs and {len(raw)} raw contents came")
    inputs = []
    for index, tensor in enumerate(request.inputs):
        shape = list(tensor.shape)
        try:
            if raw:
                array = from_bytes(tensor.name, tensor.datatype, shape, raw[index])
            elif (contents := _CONTENTS.get(tensor.datatype)) is None:
                raise InferenceError(f"input '{tensor.name}': {tensor.datatype} has to come in raw_input_contents")
            else:
                array = from_json(tensor.name, tensor.datatype, shape, list(getattr(tensor.contents, contents)))
        except InvalidTensorError as cause:
            raise InferenceError(str(cause)) from cause
        data = TensorData.model_construct(root=array)
        inputs.append(RequestInput.model_construct(name=tensor.name, datatype=tensor.datatype, shape=shape, data=data))
    return InferenceRequest.model_construct(
        id=request.id or None,
        inputs=inputs,
        outputs=[RequestOutput.model_construct(name=each.name) for each in request.outputs] or None,
    )


def write_grpc(response: InferenceResponse) -> pb.ModelInferResponse:
    """Raw contents, as Triton answers, whichever way the request came."""
    written = pb.ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version or "", id=response.id or ""
    )
    for output in response.outputs:
        tensor = written.outputs.add()
        tensor.name, tensor.datatype = output.name, output.datatype
        tensor.shape.extend(output.shape)
        written.raw_output_contents.append(to_bytes(np.asarray(data_of(output))))
    return written


def headers_of(header_length: int | None) -> Mapping[str, str]:
    """The headers of an answer whose JSON part is so long; None: it is all JSON."""
    if header_length is None:
        return {"content-type": "application/json"}
    return {"content-type": "application/octet-stream", HEADER_LENGTH: str(header_length)}
