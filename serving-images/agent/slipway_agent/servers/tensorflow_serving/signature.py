"""What TensorFlow Serving answers to GET /v1/models/M/versions/V/metadata, in the Open Inference Protocol's
words.

Facts (get_model_metadata.proto, meta_graph.proto, types.proto; the REST API prints every field and 64-bit numbers as
texts): a version has several signatures; requests that name none get `serving_default`, so that one is reported.
"""

from collections.abc import Mapping
from typing import Any

from slipway_agent.model.signature import Signature, Tensor
from slipway_agent.model.untrusted_json import parse_json

DEFAULT_SIGNATURE = "serving_default"
_DATATYPES = {
    "DT_BOOL": "BOOL", "DT_UINT8": "UINT8", "DT_UINT16": "UINT16", "DT_UINT32": "UINT32", "DT_UINT64": "UINT64",
    "DT_INT8": "INT8", "DT_INT16": "INT16", "DT_INT32": "INT32", "DT_INT64": "INT64", "DT_HALF": "FP16",
    "DT_BFLOAT16": "BF16", "DT_FLOAT": "FP32", "DT_DOUBLE": "FP64", "DT_STRING": "BYTES",
}  # fmt: skip
"""What isn't here keeps TensorFlow's own name."""


def read_metadata(body: bytes) -> Signature | None:
    """None when there is no `serving_default`, or when it is something else."""
    try:
        signature = parse_json(body)["metadata"]["signature_def"]["signature_def"][DEFAULT_SIGNATURE]
        return Signature(_read_side(signature["inputs"]), _read_side(signature["outputs"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _read_side(raw: Mapping[str, Any]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name, _DATATYPES.get(str(each["dtype"]), str(each["dtype"])), _read_shape(each["tensor_shape"]))
        for name, each in sorted(raw.items())
    )


def _read_shape(raw: Mapping[str, Any]) -> tuple[int, ...] | None:
    if raw.get("unknown_rank"):
        return None
    return tuple(int(each["size"]) for each in raw.get("dim") or ())
