"""Tensors of the Open Inference Protocol: JSON and bytes to numpy and back, for all of its thirteen datatypes.

Invariant: nothing is rounded, cut or guessed. A value that the datatype can't hold is an InvalidTensorError, whose
message names the input and is meant for the caller.
Must not import: mlserver, onnxruntime.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

NUMPY: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
"""The protocol's name of a type to numpy's. BYTES is text here: ONNX strings are UTF-8."""

FROM_ONNX = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""onnxruntime's name of a type to the protocol's, which has none for bfloat16, float8, int4 and complex."""


class InvalidTensorError(ValueError):
    """A caller's tensor that is no such tensor; the message names it and says what is wrong."""


def from_json(name: str, datatype: str, shape: Sequence[int], data: Any) -> Array:
    """The array of a JSON tensor, whose `data` may be flat or nested."""
    dtype = _dtype(name, datatype)
    try:
        array = np.array(data, dtype=object) if datatype == "BYTES" else np.array(data)
    except (ValueError, OverflowError) as cause:
        raise InvalidTensorError(f"input '{name}': its data is no regular list of {datatype} values") from cause
    if datatype == "BYTES":
        return _shaped(name, _text(name, array), shape)
    is_whole = dtype is not np.bool_ and np.issubdtype(dtype, np.integer)
    if is_whole and array.dtype.kind in "fO":
        # For whole numbers on both sides of 2**63 numpy has no integer type, and takes floats, which lose digits.
        exact = np.array(data, dtype=object)
        if not all(type(value) is int for value in exact.flat):
            raise InvalidTensorError(f"input '{name}': its data has values that are no {datatype}")
        array = exact
    elif array.size and array.dtype.kind not in _kinds(datatype):
        raise InvalidTensorError(f"input '{name}': its data has values that are no {datatype}")
    if array.size and is_whole:
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise InvalidTensorError(f"input '{name}': a value lies outside {datatype}")
    return _shaped(name, array.astype(dtype), shape)


def from_bytes(name: str, datatype: str, shape: Sequence[int], content: bytes | memoryview) -> Array:
    """The array of a tensor in the protocol's binary form: little-endian, row by row; text with 4 bytes of length."""
    dtype = _dtype(name, datatype)
    if datatype == "BYTES":
        return _shaped(name, _text(name, _unpack(name, bytes(content))), shape)
    size = np.dtype(dtype).itemsize
    if len(content) != size * math.prod(shape) or min(shape, default=0) < 0:
        raise InvalidTensorError(
            f"input '{name}': {datatype} of the shape {list(shape)} takes {size * math.prod(shape)} bytes, and "
            f"{len(content)} came"
        )
    return np.frombuffer(content, dtype).reshape(tuple(shape))


def to_json(array: Array) -> list[Any]:
    """The flat list of an array's values."""
    flat: list[Any] = array.reshape(-1).tolist()
    return flat


def to_bytes(array: Array) -> bytes:
    """An array in the protocol's binary form."""
    if array.dtype.kind not in "OUS":
        return np.ascontiguousarray(array).tobytes()
    items = [item.encode() if isinstance(item, str) else bytes(item) for item in array.reshape(-1).tolist()]
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def _dtype(name: str, datatype: str) -> Any:
    try:
        return NUMPY[datatype]
    except KeyError:
        known = ", ".join(NUMPY)
        raise InvalidTensorError(f"input '{name}': the datatype '{datatype}' isn't one of {known}") from None


def _kinds(datatype: str) -> str:
    """numpy's kinds of values that JSON may give for a datatype: whole numbers do for floats, never the reverse."""
    if datatype == "BOOL":
        return "b"
    return "iuf" if datatype.startswith("FP") else "iu"


def _shaped(name: str, array: Array, shape: Sequence[int]) -> Array:
    if min(shape, default=0) < 0 or array.size != math.prod(shape):
        raise InvalidTensorError(
            f"input '{name}': the shape {list(shape)} holds {math.prod(shape)} values, and {array.size} came"
        )
    return array.reshape(tuple(shape))


def _text(name: str, array: Array) -> Array:
    """Every item as text, which is what onnxruntime wants."""
    text = np.empty(array.size, dtype=object)
    for index, item in enumerate(array.reshape(-1).tolist()):
        if isinstance(item, bytes):
            try:
                text[index] = item.decode()
            except UnicodeDecodeError as cause:
                raise InvalidTensorError(
                    f"input '{name}': element {index} is not UTF-8 text; ONNX strings are, so encode it (base64, say)"
                ) from cause
        elif isinstance(item, str):
            text[index] = item
        else:
            raise InvalidTensorError(f"input '{name}': element {index} is no text")
    return text.reshape(array.shape)


def _unpack(name: str, content: bytes) -> Array:
    items: list[bytes] = []
    at = 0
    while at < len(content):
        end = at + 4
        end += struct.unpack_from("<I", content, at)[0] if end <= len(content) else len(content)
        if end > len(content):
            raise InvalidTensorError(f"input '{name}': its bytes end in the middle of element {len(items)}")
        items.append(content[at + 4 : end])
        at = end
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
