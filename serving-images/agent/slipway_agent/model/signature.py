"""A version's inputs and outputs, in the terms of the Open Inference Protocol, and their form in /status.

Pure; imports nothing of the agent.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slipway_agent.model.untrusted_json import parse_json

DYNAMIC = -1
SAID_LIMIT_BYTES = 64 * 1024
"""Of all signatures in /status together: an operator reads 256 KiB at most, and listings need room too."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output. A size of -1 is any; `shape` None: not even how many dimensions it has is known."""

    name: str
    datatype: str
    shape: tuple[int, ...] | None
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def read_metadata(body: bytes, optional: frozenset[str] = frozenset()) -> Signature | None:
    """The Open Inference Protocol's answer to GET /v2/models/M; None when it is something else, or names nothing.

    `optional`: inputs that may be left out, which the protocol can't say.
    """
    try:
        raw = parse_json(body)
        inputs, outputs = (tuple(_read_tensor(each, optional) for each in raw[side]) for side in ("inputs", "outputs"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Signature(inputs, outputs) if inputs and outputs else None


def _read_tensor(raw: Mapping[str, object], optional: frozenset[str]) -> Tensor:
    name, datatype, shape = raw["name"], raw["datatype"], raw["shape"]
    if not isinstance(name, str) or not isinstance(datatype, str) or not isinstance(shape, list):
        raise TypeError
    return Tensor(name, datatype, tuple(int(size) for size in shape), name in optional)


def render_signatures(signatures: Mapping[int, Signature | None], first: int | None) -> dict[str, object]:
    """Version → signature, null where there is none, or no room for it. `first` gets its room before others."""
    said: dict[str, object] = {}
    left_bytes = SAID_LIMIT_BYTES
    for version in sorted(signatures, key=lambda version: (version == first, version), reverse=True):
        signature = signatures[version]
        rendered = None if signature is None else _render(signature)
        size_bytes = len(json.dumps(rendered))
        said[str(version)] = rendered if size_bytes <= left_bytes else None
        left_bytes -= size_bytes if size_bytes <= left_bytes else 0
    return said


def _render(signature: Signature) -> dict[str, object]:
    return {"inputs": _render_tensors(signature.inputs), "outputs": _render_tensors(signature.outputs)}


def _render_tensors(tensors: Iterable[Tensor]) -> list[dict[str, object]]:
    return [
        {"name": each.name, "datatype": each.datatype, "shape": None if each.shape is None else list(each.shape)}
        | ({"optional": True} if each.is_optional else {})
        for each in tensors
    ]
