"""Warm-up requests for Triton's own `model_warmup`: bodies of the Open Inference Protocol become raw input files.

Facts (model_config.proto, and Triton's backend_model_instance.cc): a sample's inputs name files in the model's `warmup`
folder; with batching a sample is made of `batch_size` requests of one row each, all with the same data, so a body's
first row is taken for all of its rows. Text is 4 bytes of length, then the bytes.
Pure: bytes in, bytes out; no file is read or written here.
"""

import hashlib
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.servers import textproto

WARMUP_FOLDER = "warmup"
_OUR_NAME = re.compile(r"slipway-[0-9a-f]{16}")

_FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""The protocol's datatypes in the struct module's letters, little-endian."""


@dataclass(frozen=True, slots=True)
class WarmupTensor:
    """One input. `whole` is all of its data, `first_row` that of its first row."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    whole: bytes
    first_row: bytes


@dataclass(frozen=True, slots=True)
class WarmupRequest:
    tensors: tuple[WarmupTensor, ...]


def read_requests(bodies: Iterable[object]) -> tuple[WarmupRequest, ...]:
    """SpecError(WarmupFailed) names the request and the input that is no tensor of the protocol."""
    return tuple(_read_request(f"spec.warmup.requests[{index}]", body) for index, body in enumerate(bodies))


def warmup_files(requests: Iterable[WarmupRequest]) -> Mapping[str, bytes]:
    """The files that `describe_requests` names; a file's name goes by its content."""
    contents = (content for each in requests for tensor in each.tensors for content in (tensor.whole, tensor.first_row))
    return {_file_name(content): content for content in contents}


def describe_requests(requests: Iterable[WarmupRequest], is_batched: bool) -> tuple[textproto.Message, ...]:
    """The `model_warmup` entries of config.pbtxt."""
    return tuple(_describe(number, each, is_batched) for number, each in enumerate(requests, start=1))


def _describe(number: int, request: WarmupRequest, is_batched: bool) -> textproto.Message:
    rows = max((tensor.shape[0] for tensor in request.tensors if tensor.shape), default=1) if is_batched else 1
    fields: list[tuple[str, textproto.Value]] = [
        ("name", textproto.text(f"spec.warmup.requests[{number - 1}]")),
        ("batch_size", textproto.number(max(1, rows))),
    ]
    for tensor in request.tensors:
        dims = tensor.shape[1:] if is_batched else tensor.shape
        content = tensor.first_row if is_batched else tensor.whole
        value = textproto.message(
            ("data_type", textproto.Scalar("TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}")),
            ("dims", tuple(textproto.number(size) for size in dims)),
            ("input_data_file", textproto.text(_file_name(content))),
        )
        fields.append(("inputs", textproto.message(("key", textproto.text(tensor.name)), ("value", value))))
    return textproto.message(*fields)


def is_warmup_file(name: str) -> bool:
    """Whether a file of the warm-up folder is one that `warmup_files` named, and not one that the model brought."""
    return _OUR_NAME.fullmatch(name) is not None


def _file_name(content: bytes) -> str:
    return f"slipway-{hashlib.sha256(content).hexdigest()[:16]}"


def _read_request(where: str, body: object) -> WarmupRequest:
    inputs = body.get("inputs") if isinstance(body, dict) else None
    if not isinstance(inputs, list) or not inputs:
        raise _invalid(f"{where} must be a request of the Open Inference Protocol: an object with a list of inputs")
    return WarmupRequest(tuple(_read_tensor(f"{where}.inputs[{index}]", each) for index, each in enumerate(inputs)))


def _read_tensor(where: str, raw: object) -> WarmupTensor:
    if not isinstance(raw, dict):
        raise _invalid(f"{where} must be an object with name, datatype, shape and data")
    name, datatype, shape, data = (raw.get(field) for field in ("name", "datatype", "shape", "data"))
    if not isinstance(name, str) or not isinstance(datatype, str) or (datatype not in _FORMATS and datatype != "BYTES"):
        raise _invalid(f"{where} needs a name and a datatype of {', '.join([*_FORMATS, 'BYTES'])}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise _invalid(f"{where}.shape must be a list of whole numbers")
    values = list(_flatten(data))
    if len(values) != math.prod(shape):
        raise _invalid(f"{where}: the shape {shape} holds {math.prod(shape)} values, and data has {len(values)}")
    row = math.prod(shape[1:]) if shape else 1
    try:
        return WarmupTensor(name, datatype, tuple(shape), _pack(datatype, values), _pack(datatype, values[:row]))
    except (struct.error, OverflowError, TypeError, AttributeError) as cause:
        raise _invalid(f"{where}.data holds a value that is no {datatype}: {cause}") from cause


def _flatten(data: object) -> Iterator[object]:
    if isinstance(data, list):
        for each in data:
            yield from _flatten(each)
    else:
        yield data


def _pack(datatype: str, values: list[object]) -> bytes:
    if datatype != "BYTES":
        return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
    texts = []
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is no text")
        texts.append(value.encode())
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _invalid(what: str) -> SpecError:
    return SpecError(Reason.WARMUP_FAILED, f"{what}. Correct it in the ModelDeployment")
