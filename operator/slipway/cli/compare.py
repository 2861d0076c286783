"""Two models' answers to one request, compared output by output.

Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROTOCOL_FIELDS = frozenset({"id", "model_name", "model_version", "parameters"})
"""Fields about the answer itself, which differ between any two answers."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One output of two answers.

    values: how many were compared; differing: how many of them differ. most_absolute, most_relative: the largest
    differences between numbers; None: no number differs. note: why the values can't be compared one by one.
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


def parse_json(body: bytes) -> object | None:
    """The value; None when the body is not JSON."""
    try:
        found: object = json.loads(body)
    except ValueError:
        return None
    return found


def compare(one: bytes, other: bytes) -> list[Compared]:
    """One entry for each output, in the order of the first answer.

    >>> a = b'{"outputs": [{"name": "y", "data": [1.0, 2.0]}], "model_version": "1"}'
    >>> b = b'{"outputs": [{"name": "y", "data": [1.0, 2.5]}], "model_version": "2"}'
    >>> compare(a, b)
    [Compared(name='y', values=2, differing=1, most_absolute=0.5, most_relative=0.2, note='')]
    """
    first, second = parse_json(one), parse_json(other)
    if first is None or second is None:
        note = "" if one == other else "not JSON, and the bytes differ"
        return [Compared("answer", 1, int(one != other), note=note)]
    mine, theirs = _outputs(first), _outputs(second)
    return [_compared(name, mine, theirs) for name in dict.fromkeys((*mine, *theirs))]


def _outputs(answer: object) -> Mapping[str, object]:
    """Output → value: tensors by name (Open Inference Protocol), else the fields of the answer."""
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
        return Compared(name, 0, 0, note=f"shapes differ: {len(ours)} and {len(others)} values")
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
    """Every value that contains no other, with its path."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _leaves(each, (*path, place))
    else:
        yield path, value
