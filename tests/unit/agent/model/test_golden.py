"""Golden requests: what counts as the expected answer, and in which words another one is told."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_agent.model.golden import (
    Differences,
    Golden,
    GoldenRequest,
    MalformedError,
    Tolerance,
    find_differences,
    is_within,
    read_requests,
)

EXACT = Tolerance(0.0, 0.0)


def differences(expected: object, got: object, tolerance: Tolerance | None = None) -> tuple[str, ...]:
    return tuple(map(str, find_differences(expected, got, tolerance or Tolerance()).first))


def output(name: str, *data: object, **more: object) -> dict[str, object]:
    return {"name": name, "datatype": "FP32", "shape": [1, len(data)], "data": list(data)} | more


AS_EXPECTED: dict[str, tuple[Any, Any]] = {
    "the same": ({"y": [1, 2.5, "a", True, None]}, {"y": [1, 2.5, "a", True, None]}),
    "nothing expected": ({}, {"anything": 1}),
    "more fields than expected": ({"y": {"a": 1}}, {"y": {"a": 1, "b": 2}, "z": 3}),
    "a whole number for a fraction": ([2], [2.0]),
    "a little off, by the relative tolerance": ([0.25, -100], [0.25002, -100.009]),
    "a little off, by the absolute one": ([0], [9e-7]),
    "a bare number": (3, 3.0),
    "a bare list": ([[1], [2]], [[1.00001], [2]]),
    "NaN": ([math.nan, "NaN"], [math.nan, math.nan]),
    "infinities": ([math.inf, "Infinity", "-Infinity"], [math.inf, math.inf, -math.inf]),
    "a text that says NaN": (["NaN"], ["NaN"]),
    "outputs in another order, and one more": (
        {"outputs": [{"name": "b", "data": [2]}, {"name": "a", "data": [1]}]},
        {"model_name": "m", "outputs": [output("a", 1.0), output("c", 3.0), output("b", 2.0)]},
    ),
    "data written as its shape is": (
        {"outputs": [{"name": "y", "shape": [2, 2], "data": [[1, 2], [3, 4]]}]},
        {"outputs": [output("y", 1.0, 2.0, 3.0, 4.0, shape=[2, 2])]},
    ),
    "outputs that are no tensors": ({"outputs": [[1.0, 1.0]]}, {"outputs": [[1.0, 1.0]]}),
    "whole numbers no float can hold": ([10**400], [10**400]),
}


@pytest.mark.parametrize("name", AS_EXPECTED)
def test_an_answer_that_holds_what_was_expected(name: str) -> None:
    expected, got = AS_EXPECTED[name]
    assert differences(expected, got) == ()


DIFFERENT: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "a number": (
        {"y": [0, 0.25]},
        {"y": [0, 0.31]},
        ("y[1] is 0.31, expected 0.25: off by 0.06, and 2.5e-05 is allowed",),
    ),
    "a number that is just too far": (
        [0.25],
        [0.2501],
        ("[0] is 0.2501, expected 0.25: off by 0.0001, and 2.5e-05 is allowed",),
    ),
    "the expected side decides": ([0], [1e-5], ("[0] is 1e-05, expected 0: off by 1e-05, and 1e-06 is allowed",)),
    "NaN for a number": ([1.0], [math.nan], ("[0] is nan, expected 1",)),
    "a number for NaN": (["NaN"], [1.0], ('[0] is 1, expected "NaN"',)),
    "an infinity, whatever the tolerance": ([math.inf], [1e308], ("[0] is 1e+308, expected inf",)),
    "the other infinity": ([math.inf], [-math.inf], ("[0] is -inf, expected inf",)),
    "a text": ({"label": "cat"}, {"label": "dog"}, ('label is "dog", expected "cat"',)),
    "a text for a number": ([1], ["1"], ('[0] is "1", expected 1',)),
    "true isn't 1": ([1, True], [True, 1], ("[0] is true, expected 1", "[1] is 1, expected true")),
    "null": ([None], [0], ("[0] is 0, expected null",)),
    "a list's length": ({"y": [1, 2, 3]}, {"y": [1, 2]}, ("y has 2 entries, expected 3",)),
    "a number for a list": ({"y": [1]}, {"y": 1}, ("y is 1, expected a list of 1",)),
    "a list for an object": ({"y": {"a": 1}}, {"y": [1]}, ("y is a list of 1, expected an object with 1 fields",)),
    "another kind of answer": ({"y": 1}, [1], ("the answer is a list of 1, expected an object with 1 fields",)),
    "a field that isn't there": ({"y": 1}, {"error": "no", "code": 3}, ("the answer has no y; it has error, code",)),
    "deep down": ({"a": [{"b": 1}]}, {"a": [{"c": 1}]}, ("a[0] has no b; it has c",)),
    "an output that isn't there": (
        {"outputs": [{"name": "scores", "data": [1]}]},
        {"outputs": [output("label", 1.0)]},
        ("the answer has no output scores; it has label",),
    ),
    "an output's data, type and shape": (
        {"outputs": [output("y", 1, 2)]},
        {"outputs": [output("y", 1.0, 3.0, datatype="FP64", shape=[2, 1])]},
        (
            'outputs[y].datatype is "FP64", expected "FP32"',
            "outputs[y].shape is [2, 1], expected [1, 2]",
            "outputs[y].data[1] is 3, expected 2: off by 1, and 0.0002 is allowed",
        ),
    ),
    "a shape, whatever the tolerance": (
        {"outputs": [output("y", shape=[20_000])]},
        {"outputs": [output("y", shape=[20_001])]},
        ("outputs[y].shape is [20001], expected [20000]",),
    ),
    "outputs that came as something else": (
        {"outputs": [{"name": "y", "data": [1]}]},
        {"outputs": {"y": [1]}},
        ("outputs is an object with 1 fields, expected a list of 1",),
    ),
    "fewer values, however they are written": (
        {"outputs": [{"name": "y", "data": [[1, 2], [3, 4]]}]},
        {"outputs": [output("y", 1.0, 2.0)]},
        ("outputs[y].data has 2 entries, expected 4",),
    ),
    "whole numbers no float can hold": (
        [10**400],
        [10**400 + 1],
        (f"[0] is {str(10**400)[:60]}, expected {str(10**400)[:60]}",),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_an_answer_that_differs_says_where_and_by_how_much(name: str) -> None:
    expected, got, said = DIFFERENT[name]
    assert differences(expected, got) == said


def test_of_many_differences_the_first_are_told_and_all_are_counted() -> None:
    found = find_differences([0] * 1000, [1] * 1000, EXACT, said_limit=2)
    assert [each.where for each in found.first] == ["[0]", "[1]"]
    assert found.count == 1000
    assert find_differences([], [], EXACT) == Differences()


def test_long_texts_are_told_by_their_beginning() -> None:
    (said,) = differences(["a" * 5000], ["b" * 5000])
    assert len(said) < 200


answers = st.recursive(
    st.none() | st.booleans() | st.integers(-100, 100) | st.floats(-1e3, 1e3) | st.text(max_size=3),
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(["a", "outputs", "name"]), below, max_size=3)
    ),
    max_leaves=12,
)


@given(answers)
def test_every_answer_is_as_itself_after_a_trip_through_json(answer: object) -> None:
    assert differences(answer, json.loads(json.dumps(answer)), EXACT) == ()


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 1), st.floats(0, 1))
def test_the_larger_tolerance_decides(expected: float, got: float, absolute: float, relative: float) -> None:
    by_either = is_within(expected, got, Tolerance(absolute, 0.0)) or is_within(expected, got, Tolerance(0.0, relative))
    assert is_within(expected, got, Tolerance(absolute, relative)) == by_either


# Reading


def test_requests_are_read_with_any_json_in_them() -> None:
    raw = [
        {"request": {"x": 1}, "response": [1.0]},
        {"name": "seven", "request": [1], "response": 7, "maxLatencyMilliseconds": 50},
    ]
    assert read_requests(raw, "here") == (
        GoldenRequest(None, {"x": 1}, [1.0]),
        GoldenRequest("seven", [1], 7, 50),
    )


GOOD: dict[str, Any] = {"request": {}, "response": {}}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "golden.json must be a JSON list of objects, each"),
        ([], "and is a list of 0"),
        ([1], "golden.json[0] must be an object with request and response, and is 1"),
        ([GOOD, {"request": {}}], "golden.json[1] has no response; it has request"),
        ([{}], "golden.json[0] has no request and no response; it has nothing"),
        ([GOOD | {"name": 7}], "golden.json[0].name must be a text of at most 63 characters, and is 7"),
        ([GOOD | {"name": "n" * 64}], "golden.json[0].name must be a text"),
        ([GOOD | {"maxLatencyMilliseconds": 0}], "Milliseconds must be a whole number of at least 1, and is 0"),
        ([GOOD | {"maxLatencyMilliseconds": 1.5}], "and is 1.5"),
        ([GOOD | {"maxLatencyMilliseconds": True}], "and is true"),
        ([GOOD] * 65, "golden.json has 65 requests; 64 are the most"),
    ],
)
def test_what_is_no_golden_request_is_named(raw: object, words: str) -> None:
    with pytest.raises(MalformedError) as refused:
        read_requests(raw, "golden.json")
    assert words in str(refused.value)


def test_the_fingerprint_names_what_is_asked_and_what_is_expected() -> None:
    one = Golden((GoldenRequest(None, {"a": 1, "b": 2}, 1),))
    same = Golden((GoldenRequest(None, {"b": 2, "a": 1}, 1),))
    others = [
        Golden((GoldenRequest(None, {"a": 1, "b": 2}, 2),)),
        Golden((GoldenRequest(None, {"a": 1, "b": 2}, 1, 5),)),
        Golden(one.requests, tolerance=EXACT),
        Golden(file="golden.json"),
    ]
    assert one.fingerprint() == same.fingerprint()
    assert len({one.fingerprint(), *(each.fingerprint() for each in others)}) == 5
