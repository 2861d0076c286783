"""What a version of a model takes and gives, and how its golden requests went, as its pod's agent tells it.

Invariant: nothing here decides anything. An agent that is too old to tell is known by its silence.
Must not import: anything but `model`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DYNAMIC = -1
"""A dimension of any length."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output. datatype: in the Open Inference Protocol's names. shape: None where its rank isn't known.

    is_optional: of an input: a request may leave it out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] | None
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """What one version takes and gives; order means nothing."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """How the golden requests of a version went. state: Running, Passed or Failed, or a later agent's word."""

    version: int
    state: str
    message: str


def read_signatures(answer: Any) -> dict[int, Signature | None] | None:
    """Loaded version → its signature, None where the server doesn't tell one; a version that is missing is being read.

    None: the agent is too old to say. Raises AttributeError or ValueError where it is no map of versions.
    """
    signatures = answer.get("signatures")
    if signatures is None:
        return None
    return {int(version): _read_signature(each) for version, each in signatures.items()}


def read_golden(answer: Any) -> GoldenReport | None:
    """None where there are no golden requests, or nothing that can be read of them."""
    golden = answer.get("golden")
    try:
        return GoldenReport(int(golden["version"]), str(golden["state"])[:64], str(golden.get("message") or "")[:2000])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _read_signature(signature: Any) -> Signature | None:
    """What can't be read counts as absent."""
    try:
        return Signature(
            inputs=tuple(_read_tensor(each) for each in signature["inputs"]),
            outputs=tuple(_read_tensor(each) for each in signature["outputs"]),
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None


def _read_tensor(tensor: Mapping[str, Any]) -> Tensor:
    shape = tensor["shape"]
    return Tensor(
        name=str(tensor["name"])[:256],
        datatype=str(tensor["datatype"])[:64],
        shape=None if shape is None else tuple(int(size) for size in shape),
        is_optional=bool(tensor.get("optional")),
    )
