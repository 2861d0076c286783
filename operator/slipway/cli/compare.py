"""A prediction asked of one revision or of two: where to send it, and in what two answers differ.

Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.cli.errors import failed
from slipway.revisions import Revision
from slipway.runtimes import RUNTIMES

Json = dict[str, Any]

PROTOCOL_FIELDS = frozenset({"id", "model_name", "model_version", "parameters"})
"""What an answer says of itself; it may well differ."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a revision's pods answer predictions."""

    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Compared:
    """One output of two answers.

    values: how many were compared; differing: how many are not the same. most_absolute, most_relative: of the numbers
    that differ; None: none do. note: why they can't be compared value by value.
    """

    name: str
    values: int
    differing: int
    most_absolute: float | None = None
    most_relative: float | None = None
    note: str = ""

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        return not self.differing and not self.note


def route_of(revision: Revision, name: str, *, names_version: bool) -> Route:
    """Where a revision's own choice of server answers. names_version: its pods serve other versions too.

    Raises CommandError when the revision was made by a release whose fields this one doesn't know.
    """
    try:
        spec = ModelDeploymentSpec.model_validate(revision.choice)
    except ValueError:
        raise failed(
            f"revision {revision.hash} was written by another release of Slipway than this command; update it"
        ) from None
    runtime = RUNTIMES[spec.runtime.name]
    http = next(port for port in runtime.ports(spec) if port.name == "http")
    version = revision.version if names_version and revision.version else None
    return Route(http.number, runtime.predict_path(spec, spec.model.name or name, version))


def content_type(body: bytes) -> str:
    """JSON where the body is JSON; else bytes."""
    return "application/octet-stream" if parse_json(body) is None else "application/json"


def parse_json(body: bytes) -> object | None:
    """The value; None when it is no JSON."""
    try:
        found: object = json.loads(body)
    except ValueError:
        return None
    return found


# --- two answers ---


def compare(one: bytes, other: bytes) -> list[Compared]:
    """Output by output, what differs.

    >>> a = b'{"outputs": [{"name": "y", "data": [1.0, 2.0]}], "model_version": "1"}'
    >>> b = b'{"outputs": [{"name": "y", "data": [1.0, 2.5]}], "model_version": "2"}'
    >>> compare(a, b)
    [Compared(name='y', values=2, differing=1, most_absolute=0.5, most_relative=0.2, note='')]
    """
    first, second = parse_json(one), parse_json(other)
    if first is None or second is None:
        note = "" if one == other else "no JSON, and other bytes"
        return [Compared("answer", 1, int(one != other), note=note)]
    mine, theirs = _outputs(first), _outputs(second)
    return [_compared(name, mine, theirs) for name in dict.fromkeys((*mine, *theirs))]


def _outputs(answer: object) -> Mapping[str, object]:
    """Output → value: the Open Inference Protocol's tensors by name, else the fields of the answer."""
    if isinstance(answer, dict):
        tensors = answer.get("outputs")
        if isinstance(tensors, list) and all(isinstance(each, dict) and "name" in each for each in tensors):
            return {str(each["name"]): each.get("data") for each in tensors}
        return {str(key): value for key, value in answer.items() if key not in PROTOCOL_FIELDS}
    return {"answer": answer}


def _compared(name: str, mine: Mapping[str, object], theirs: Mapping[str, object]) -> Compared:
    if name not in mine or name not in theirs:
        return Compared(name, 0, 0, note=f"only {'the second' if name in theirs else 'the first'} has it")
    ours, others = list(_leaves(mine[name])), list(_leaves(theirs[name]))
    if [path for path, _ in ours] != [path for path, _ in others]:
        return Compared(name, 0, 0, note=f"another shape: {len(ours)} and {len(others)} values")
    differing = 0
    absolutes: list[float] = []
    relatives: list[float] = []
    for (_, one), (_, other) in zip(ours, others, strict=True):
        if _is_number(one) and _is_number(other):
            if one == other or (math.isnan(one) and math.isnan(other)):
                continue
            differing += 1
            gap = abs(one - other)
            absolutes.append(gap)
            relatives.append(gap / max(abs(one), abs(other)))
        elif one != other or type(one) is not type(other):
            differing += 1
    return Compared(
        name,
        len(ours),
        differing,
        _most(absolutes),
        _most(relatives),
    )


def _most(gaps: Sequence[float]) -> float | None:
    return float(f"{max(gaps):.6g}") if gaps else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _leaves(value: Any, path: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], Any]]:
    """Every value that holds no other, and where it stands."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _leaves(each, (*path, place))
    else:
        yield path, value
