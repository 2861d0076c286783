"""JSON of the REST API to tensors and back, with the words of json_tensor.cc for what can't be."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from model_server.status import StatusError, invalid

Json: TypeAlias = Any
Array = np.ndarray[Any, Any]
Infos: TypeAlias = Mapping[str, meta_graph_pb2.TensorInfo]

# DataTypeString's names, and the types that JSON is read into
NAMES = {
    types_pb2.DT_FLOAT: "float", types_pb2.DT_DOUBLE: "double", types_pb2.DT_INT32: "int32",
    types_pb2.DT_UINT8: "uint8", types_pb2.DT_INT16: "int16", types_pb2.DT_INT8: "int8",
    types_pb2.DT_STRING: "string", types_pb2.DT_INT64: "int64", types_pb2.DT_BOOL: "bool",
    types_pb2.DT_UINT32: "uint32", types_pb2.DT_UINT64: "uint64", types_pb2.DT_HALF: "half",
    types_pb2.DT_UINT16: "uint16",
}  # fmt: skip
NUMPY = {
    types_pb2.DT_FLOAT: np.float32, types_pb2.DT_DOUBLE: np.float64, types_pb2.DT_INT32: np.int32,
    types_pb2.DT_UINT8: np.uint8, types_pb2.DT_INT16: np.int16, types_pb2.DT_INT8: np.int8,
    types_pb2.DT_STRING: object, types_pb2.DT_INT64: np.int64, types_pb2.DT_BOOL: np.bool_,
    types_pb2.DT_UINT32: np.uint32, types_pb2.DT_UINT64: np.uint64,
}  # fmt: skip
_RANGES = {
    types_pb2.DT_INT32: (-(2**31), 2**31), types_pb2.DT_INT16: (-(2**31), 2**31), types_pb2.DT_INT8: (-(2**31), 2**31),
    types_pb2.DT_UINT8: (-(2**31), 2**31), types_pb2.DT_INT64: (-(2**63), 2**63), types_pb2.DT_UINT32: (0, 2**32),
    types_pb2.DT_UINT64: (0, 2**64),
}  # fmt: skip
_FLOAT_DIGITS = {
    types_pb2.DT_FLOAT: ("float", 24, 3.4028234663852886e38),
    types_pb2.DT_DOUBLE: ("double", 53, math.inf),
}


def parse_object(text: str) -> dict[str, Json]:
    if not text:
        raise invalid("JSON Parse error: The document is empty")
    try:
        parsed = json.loads(text)
    except ValueError as cause:
        at = cause.pos if isinstance(cause, json.JSONDecodeError) else 0
        raise invalid(f"JSON Parse error: Invalid value. at offset: {at}") from cause
    if not isinstance(parsed, dict):
        raise invalid(f"JSON Value: {_show(parsed)} Is not object")
    return parsed


def signature_of(document: dict[str, Json]) -> str:
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_show(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def read_predict(document: dict[str, Json], infos: Infos) -> tuple[dict[str, Array], bool]:
    """The inputs, and whether they came as rows ("instances")."""
    if not infos:
        raise invalid(f"Failed to get input map for signature: {signature_of(document) or 'DEFAULT'}")
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {_show(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys "
            "to exist "
        )
    if "instances" in document:
        rows = document["instances"]
        if not isinstance(rows, list):
            raise invalid(f"JSON Value: {_show(document)} Excepting 'instances' to be an list/array")
        if not rows:
            raise invalid(f"JSON Value: {_show(document)} No values in 'instances' array")
        return _read_rows(rows, infos), True
    if "inputs" in document:
        return _read_columns(document["inputs"], infos), False
    raise invalid("Missing 'inputs' or 'instances' key")


def _read_rows(rows: list[Json], infos: Infos) -> dict[str, Array]:
    if not isinstance(rows[0], dict) and len(infos) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    are_objects = _is_named(rows[0])
    names = sorted(infos)
    parts: dict[str, list[Array]] = {}
    for position, row in enumerate(rows):
        if are_objects:
            if not _is_named(row):
                raise invalid(f"Expecting object but got list at item {position} of input list")
            for name, value in row.items():
                try:
                    _add_row(parts, name, value, infos)
                except StatusError as cause:
                    raise invalid(
                        f"Failed to process element: {position} key: {name} of 'instances' list. Error: {cause}"
                    ) from cause
            if sorted(row) != names:
                raise invalid(
                    f"Failed to process element: {position} of 'instances' list. JSON object: {_show(row)} keys must "
                    f"be equal to: {','.join(names)}"
                )
        else:
            if _is_named(row):
                raise invalid(f"Expecting value/list but got object at item {position} of input list")
            try:
                _add_row(parts, names[0], row, infos)
            except StatusError as cause:
                raise invalid(f"Failed to process element: {position} of 'instances' list. Error: {cause}") from cause
    return {name: np.stack(arrays) for name, arrays in parts.items()}


def _add_row(parts: dict[str, list[Array]], name: str, value: Json, infos: Infos) -> None:
    if name not in infos:
        raise invalid(f"JSON object: does not have named input: {name}")
    array = _read_tensor(value, infos[name].dtype)
    arrays = parts.setdefault(name, [])
    if arrays and arrays[0].size != array.size:
        raise invalid(f"Expecting tensor size: {arrays[0].size} but got: {array.size}")
    if arrays and arrays[0].shape != array.shape:
        raise invalid(f"Expecting shape {_shape(arrays[0])} but got: {_shape(array)}")
    arrays.append(array)


def _read_columns(inputs: Json, infos: Infos) -> dict[str, Array]:
    if not _is_named(inputs):
        if len(infos) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        (name,) = infos
        return {name: _read_tensor(inputs, infos[name].dtype)}
    arrays = {}
    for name in sorted(infos):
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        arrays[name] = _read_tensor(inputs[name], infos[name].dtype)
    return arrays


def _read_tensor(value: Json, dtype: int) -> Array:
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        if not inner:
            break
        inner = inner[0]
    values: list[Any] = []
    _fill(value, 0, shape, dtype, values)
    kind: Any = NUMPY.get(dtype, object)
    array: Array = np.empty(len(values), kind)
    for position, each in enumerate(values):
        # as C++ narrows an int into int8, int16 and uint8
        array[position] = np.array(each).astype(kind) if isinstance(each, int) and kind is not object else each
    return array.reshape(shape)


def _fill(value: Json, level: int, shape: list[int], dtype: int, values: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_show(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: "
                f"{len(shape)}"
            )
        values.append(_scalar(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for each in value:
        _fill(each, level + 1, shape, dtype, values)


def _scalar(value: Json, dtype: int) -> Any:
    if dtype == types_pb2.DT_STRING:
        if isinstance(value, dict):
            return _decode(value)
        if isinstance(value, str):
            return value.encode()
    elif dtype == types_pb2.DT_BOOL:
        if isinstance(value, bool):
            return value
    elif dtype in _FLOAT_DIGITS:
        if isinstance(value, int | float) and not isinstance(value, bool):
            name, digits, largest = _FLOAT_DIGITS[dtype]
            is_exact = abs(value) < 2**digits if isinstance(value, int) else abs(value) <= largest
            if not is_exact and math.isfinite(value):
                raise invalid(f"Cannot convert JSON value: {_show(value)} to {name} without loss of precision.")
            return float(value)
    elif dtype in _RANGES:
        low, high = _RANGES[dtype]
        if isinstance(value, int) and not isinstance(value, bool) and low <= value < high:
            return value
    else:
        raise StatusError(
            "UNIMPLEMENTED", f"Conversion of JSON Value: {_show(value)} to type: {NAMES.get(dtype, str(dtype))}"
        )
    raise invalid(f"JSON Value: {_show(value)} Type: {_kind(value)} is not of expected type: {NAMES[dtype]}")


def _is_b64(value: Json) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _is_named(value: Json) -> bool:
    return isinstance(value, dict) and not _is_b64(value)


def _decode(value: Json) -> bytes:
    if not _is_b64(value):
        raise invalid(f"JSON Value: {_show(value)} not formatted correctly for base64 data")
    words = value["b64"]
    try:
        return base64.b64decode(words + "=" * (-len(words) % 4), validate=True)
    except (binascii.Error, ValueError) as cause:
        raise invalid("Unable to base64 decode") from cause


def _kind(value: Json) -> str:
    if isinstance(value, bool):
        return str(value)
    kinds = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
    return "Null" if value is None else kinds[type(value)]


def _show(value: Json) -> str:
    return json.dumps(value, indent=4) if isinstance(value, dict | list) else json.dumps(value)


def _shape(array: Array) -> str:
    return f"[{','.join(map(str, array.shape))}]"


# --- classify and regress ---------------------------------------------------------------------------------------------


def read_examples(document: dict[str, Json]) -> tuple[list[example_pb2.Example], example_pb2.Example | None]:
    """The examples, and what they share."""
    context = _example(document["context"]) if "context" in document else None
    if "examples" not in document:
        raise invalid(
            f"JSON Value: {_show(document)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid(f"JSON Value: {_show(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid(f"JSON Value: {_show(document)} 'examples' value is an empty array")
    return [_example(each) for each in examples], context


def _example(value: Json) -> example_pb2.Example:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {_kind(value)}")
    example = example_pb2.Example()
    for name, content in value.items():
        feature = example.features.feature[name]
        for each in content if isinstance(content, list) else [content]:
            _add_feature(each, name, feature)
    return example


def _add_feature(value: Json, name: str, feature: feature_pb2.Feature) -> None:
    if isinstance(value, bool):
        _require_kind(feature, name, "int64_list")
        feature.int64_list.value.append(int(value))
    elif isinstance(value, str) or _is_b64(value):
        _require_kind(feature, name, "bytes_list")
        feature.bytes_list.value.append(value.encode() if isinstance(value, str) else _decode(value))
    elif isinstance(value, float):
        _require_kind(feature, name, "float_list")
        feature.float_list.value.append(value)
    elif isinstance(value, int):
        _require_kind(feature, name, "int64_list")
        if value >= 2**63:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        feature.int64_list.value.append(value)
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {_kind(value)}")


def _require_kind(feature: feature_pb2.Feature, name: str, wanted: str) -> None:
    kind = feature.WhichOneof("kind")
    if kind not in (None, wanted):
        shown = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}[kind]
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {shown}")


# --- answers ----------------------------------------------------------------------------------------------------------


def write_predict(outputs: dict[str, Array], as_rows: bool) -> str:
    """`outputs` sorted by name, as a C++ map is printed in tests; an object only where there are several."""
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    if not as_rows:
        if len(outputs) == 1:
            ((name, array),) = outputs.items()
            return _document("outputs", _write(array, _is_binary(name, array)))
        shown = {name: _write(array, _is_binary(name, array)) for name, array in sorted(outputs.items())}
        return _document("outputs", _object(shown))
    size: int | None = None
    for name, array in sorted(outputs.items()):
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if size is not None and array.shape[0] != size:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {array.shape[0]} expecting: {size}")
        size = array.shape[0]
    rows = []
    for position in range(size or 0):
        shown = {
            name: _write(np.asarray(array[position], dtype=array.dtype), _is_binary(name, array))
            for name, array in sorted(outputs.items())
        }
        rows.append(next(iter(shown.values())) if len(shown) == 1 else _object(shown))
    return _document("predictions", f"[{', '.join(rows)}]")


def write_results(results: list[Any]) -> str:
    """Classifications as lists of (label, score), regressions as numbers."""
    shown = [
        _decimal(np.float32(each))
        if isinstance(each, float)
        else "[" + ", ".join(f"[{json.dumps(label)}, {_decimal(np.float32(score))}]" for label, score in each) + "]"
        for each in results
    ]
    return _document("results", f"[{', '.join(shown)}]")


def write_error(message: str) -> str:
    return _document("error", json.dumps(message))


def _document(key: str, value: str) -> str:
    return f'{{\n    "{key}": {value}\n}}'


def _object(shown: dict[str, str]) -> str:
    inner = ",\n".join(f"            {json.dumps(name)}: {value}" for name, value in shown.items())
    return f"{{\n{inner}\n        }}"


def _is_binary(name: str, array: Array) -> bool:
    return array.dtype == object and name.endswith("_bytes")


def _write(array: Array, is_binary: bool) -> str:
    if array.ndim == 0:
        return _one(array[()], is_binary)
    return "[" + ", ".join(_write(np.asarray(each, dtype=array.dtype), is_binary) for each in array) + "]"


def _one(value: Any, is_binary: bool) -> str:
    if isinstance(value, bytes):
        if is_binary:
            return json.dumps({"b64": base64.b64encode(value).decode()})
        return json.dumps(value.decode("utf-8", errors="replace"), ensure_ascii=False)
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, np.floating):
        return _decimal(value)
    if isinstance(value, np.uint16 | np.complexfloating):
        raise invalid(f"Failed to write JSON value for tensor type: {value.dtype.name}")
    return str(int(value))


def _decimal(value: np.floating[Any]) -> str:
    """The shortest of six digits where they are enough, else as many as bring the number back; whole ones with .0."""
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = f"{float(value):g}"
    if type(value)(text) != value:
        text = f"{float(value):.{9 if value.dtype == np.float32 else 17}g}"
    return text if "." in text or "e" in text else f"{text}.0"
