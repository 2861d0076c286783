"""Requests with known answers: what they are, and whether an answer is the one that was expected.

Everything in the expected answer must be in the one that came: of an object its keys (more may come), of a list each
entry, numbers within the tolerance, anything else exactly. `outputs` of the Open Inference Protocol are matched by
their names, whatever their order; their `shape` is compared exactly, and their `data` may be written flat or nested.

Two worked examples, with the default tolerance (absolute 1e-6, relative 1e-4):
    expected 0.25, got 0.25002:  |difference| 2e-5 ≤ max(1e-6, 1e-4 · 0.25 = 2.5e-5): as expected
    expected 0.25, got 0.2501:   |difference| 1e-4 > 2.5e-5: different
NaN equals NaN alone, and an infinity the same infinity. JSON can't write these: expect them as the texts "NaN",
"Infinity" and "-Infinity". Pure; imports nothing of the agent.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeGuard

REQUESTS_LIMIT = 64
NAME_LIMIT = 63
SAID_LIMIT = 60  # characters of a value in a message
FIELDS_SAID = 8
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
FORM = 'a JSON list of objects, each {"name": …, "request": …, "response": …, "maxLatencyMilliseconds": …}'


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a number may be from the expected one: the larger of the two, `relative` being a share of it."""

    absolute: float = 1e-6
    relative: float = 1e-4


@dataclass(frozen=True, slots=True)
class GoldenRequest:
    """`request` in the server's own REST form. `response`: what the answer must hold."""

    name: str | None
    request: object
    response: object
    max_latency_milliseconds: int | None = None


@dataclass(frozen=True, slots=True)
class Golden:
    """`requests`, or the `file` below each version's own folder that holds them."""

    requests: tuple[GoldenRequest, ...] = ()
    file: str | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)

    def fingerprint(self) -> str:
        """Names these requests; a file's content goes with the version's own bytes."""
        said = [
            self.file,
            [self.tolerance.absolute, self.tolerance.relative],
            [[each.name, each.request, each.response, each.max_latency_milliseconds] for each in self.requests],
        ]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class GoldenState(StrEnum):
    RUNNING = "Running"
    PASSED = "Passed"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """How the golden requests of a version go, in words."""

    version: int
    state: GoldenState
    message: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Where an answer is another than expected, in words: `data[3]`, `is 0.5, expected 0.25`."""

    where: str
    words: str

    def __str__(self) -> str:
        return f"{self.where} {self.words}"


@dataclass(frozen=True, slots=True)
class Differences:
    """The first few of them, and how many there are."""

    first: tuple[Difference, ...] = ()
    count: int = 0


class MalformedError(Exception):
    """These are no golden requests; the message says which part isn't, and what it has to be."""


def read_requests(raw: object, where: str) -> tuple[GoldenRequest, ...]:
    """Golden requests as agent.json and a file beside a model have them. MalformedError names the part of `where`."""
    if not isinstance(raw, list) or not raw:
        raise MalformedError(f"{where} must be {FORM}, and is {describe(raw)}")
    if len(raw) > REQUESTS_LIMIT:
        raise MalformedError(f"{where} has {len(raw)} requests; {REQUESTS_LIMIT} are the most")
    return tuple(_read_request(each, f"{where}[{position}]") for position, each in enumerate(raw))


def _read_request(raw: object, where: str) -> GoldenRequest:
    if not isinstance(raw, dict):
        raise MalformedError(f"{where} must be an object with request and response, and is {describe(raw)}")
    if missing := [name for name in ("request", "response") if name not in raw]:
        has = ", ".join(sorted(map(str, raw))) or "nothing"
        raise MalformedError(f"{where} has no {' and no '.join(missing)}; it has {has}")
    name, limit = raw.get("name"), raw.get("maxLatencyMilliseconds")
    if name is not None and (not isinstance(name, str) or not 0 < len(name) <= NAME_LIMIT):
        raise MalformedError(f"{where}.name must be a text of at most {NAME_LIMIT} characters, and is {describe(name)}")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise MalformedError(
            f"{where}.maxLatencyMilliseconds must be a whole number of at least 1, and is {describe(limit)}"
        )
    return GoldenRequest(name, raw["request"], raw["response"], limit)


def find_differences(expected: object, got: object, tolerance: Tolerance, said_limit: int = 3) -> Differences:
    first: list[Difference] = []
    count = 0
    for each in _walk("", expected, got, tolerance):
        count += 1
        if len(first) < said_limit:
            first.append(each)
    return Differences(tuple(first), count)


def is_within(expected: float, got: float, tolerance: Tolerance) -> bool:
    try:
        if not (math.isfinite(expected) and math.isfinite(got)):
            return expected == got or (math.isnan(expected) and math.isnan(got))
        return abs(expected - got) <= max(tolerance.absolute, tolerance.relative * abs(expected))
    except OverflowError:  # whole numbers that no float can hold
        return expected == got


def describe(value: object) -> str:
    """A value for a message: short, and with its kind where it is no plain one."""
    match value:
        case dict():
            return f"an object with {len(value)} fields"
        case list():
            return f"a list of {len(value)}"
        case float():
            return _number(value)
        case _:
            said = json.dumps(value, ensure_ascii=False)
            return said if len(said) <= SAID_LIMIT else f"{said[:SAID_LIMIT]}…"


def _walk(where: str, expected: object, got: object, tolerance: Tolerance) -> Iterator[Difference]:
    match expected:
        case dict():
            yield from _walk_object(where, expected, got, tolerance)
        case list():
            yield from _walk_list(where, expected, got, tolerance)
        case bool() | None:
            if got is not expected:
                yield _other(where, expected, got)
        case int() | float():
            if not isinstance(got, int | float) or isinstance(got, bool):
                yield _other(where, expected, got)
            elif not is_within(expected, got, tolerance):
                yield Difference(where or "the answer", _explain_numbers(expected, got, tolerance))
        case str() if expected in _NOT_FINITE and isinstance(got, float):
            if not is_within(_NOT_FINITE[expected], got, tolerance):
                yield _other(where, expected, got)
        case _:
            if got != expected:
                yield _other(where, expected, got)


def _walk_object(where: str, expected: Mapping[str, object], got: object, tolerance: Tolerance) -> Iterator[Difference]:
    if not isinstance(got, dict):
        yield _other(where, expected, got)
        return
    for key, value in expected.items():
        place = f"{where}.{key}" if where else key
        if key not in got:
            has = ", ".join(list(map(str, got))[:FIELDS_SAID]) or "nothing"
            yield Difference(where or "the answer", f"has no {key}; it has {has}")
        elif key == "outputs" and not where and _are_tensors(value) and _are_tensors(got[key]):
            yield from _walk_tensors(value, got[key], tolerance)
        else:
            yield from _walk(place, value, got[key], tolerance)


def _walk_list(where: str, expected: Sequence[object], got: object, tolerance: Tolerance) -> Iterator[Difference]:
    if not isinstance(got, list):
        yield _other(where, expected, got)
    elif len(got) != len(expected):
        yield Difference(where or "the answer", f"has {len(got)} entries, expected {len(expected)}")
    else:
        for position, (value, came) in enumerate(zip(expected, got, strict=True)):
            yield from _walk(f"{where}[{position}]", value, came, tolerance)


def _are_tensors(value: object) -> TypeGuard[list[dict[str, object]]]:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in value)
    )


def _walk_tensors(
    expected: Sequence[Mapping[str, object]], got: Sequence[Mapping[str, object]], tolerance: Tolerance
) -> Iterator[Difference]:
    came = {str(each["name"]): each for each in got}
    for tensor in expected:
        name = str(tensor["name"])
        place = f"outputs[{name}]"
        if name not in came:
            yield Difference("the answer", f"has no output {name}; it has {', '.join(list(came)[:FIELDS_SAID])}")
            continue
        for key, value in tensor.items():
            there = came[name].get(key, ...)
            if there is ...:
                yield Difference(place, f"has no {key}; it has {', '.join(list(map(str, came[name]))[:FIELDS_SAID])}")
            elif key == "shape":
                if there != value:
                    said, wanted = (json.dumps(each)[:SAID_LIMIT] for each in (there, value))
                    yield Difference(f"{place}.shape", f"is {said}, expected {wanted}")
            elif key == "data" and isinstance(value, list) and isinstance(there, list):
                yield from _walk_list(f"{place}.data", list(_flatten(value)), list(_flatten(there)), tolerance)
            else:
                yield from _walk(f"{place}.{key}", value, there, tolerance)


def _flatten(data: Sequence[object]) -> Iterator[object]:
    for each in data:
        if isinstance(each, list):
            yield from _flatten(each)
        else:
            yield each


def _other(where: str, expected: object, got: object) -> Difference:
    return Difference(where or "the answer", f"is {describe(got)}, expected {describe(expected)}")


def _explain_numbers(expected: float, got: float, tolerance: Tolerance) -> str:
    said = f"is {_number(got)}, expected {_number(expected)}"
    try:
        if not (math.isfinite(expected) and math.isfinite(got)):
            return said
        allowed = max(tolerance.absolute, tolerance.relative * abs(expected))
        return f"{said}: off by {abs(expected - got):.3g}, and {allowed:.3g} is allowed"
    except OverflowError:
        return said


def _number(value: float) -> str:
    """As short as it can be written: 0.30000001192092896 is `0.300000012`."""
    if isinstance(value, int):
        return str(value)[:SAID_LIMIT]
    return f"{value:.9g}"
