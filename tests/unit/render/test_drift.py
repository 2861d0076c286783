"""Drift: whether a live object still says what was rendered."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.render.drift import amount, differing_fields, differs

Json = dict[str, Any]

LEAVES = st.text("abc", min_size=1, max_size=4) | st.integers(1, 9) | st.just(True)
NAMES = st.sampled_from(["spec", "name", "image", "args", "tolerations", "labels", "items"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=4) | st.lists(inner, min_size=1, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, VALUES, min_size=1, max_size=4)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all leaves."""
    match value:
        case dict():
            return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
        case list():
            return [leaf for index, inner in enumerate(value) for leaf in leaves(inner, (*path, index))]
        case _:
            return [path]


def replaced(value: Any, path: tuple[Any, ...], leaf: Any) -> Any:
    """A copy with another leaf at that path."""
    if not path:
        return leaf
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], leaf)
    return changed


def with_more(value: Any) -> Any:
    """A copy with another field in every map."""
    match value:
        case dict():
            return {key: with_more(inner) for key, inner in value.items()} | {"theirs": 1}
        case list():
            return [with_more(inner) for inner in value]
        case _:
            return value


@given(OBJECTS)
def test_what_was_rendered_does_not_differ_from_itself(rendered: Json) -> None:
    assert not differs(rendered, copy.deepcopy(rendered))


@given(OBJECTS)
def test_fields_that_others_add_are_theirs(rendered: Json) -> None:
    assert not differs(rendered, with_more(rendered))


@given(OBJECTS, st.data())
def test_any_other_leaf_is_seen(rendered: Json, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(leaves(rendered)))
    assert differs(rendered, replaced(rendered, path, "changed"))


@given(OBJECTS, st.data())
def test_any_missing_field_is_seen(rendered: Json, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(rendered)))
    assert differs(rendered, {key: value for key, value in rendered.items() if key != name})


@pytest.mark.parametrize(
    ("rendered", "live", "is_other"),
    [
        ({}, {"a": 1}, False),
        ({"a": {}}, {}, False),
        ({"a": []}, {}, False),
        ({"a": []}, {"a": ["x"]}, True),
        ({"a": False}, {}, False),
        ({"a": 0}, {}, False),
        ({"a": ""}, {}, False),
        ({"a": 0}, {"a": 1}, True),
        ({"a": None}, {}, False),
        ({"a": None}, {"a": 1}, True),
        ({"a": {"b": 1}}, {"a": "b"}, True),
        ({"args": ["a", "b"]}, {"args": ["b", "a"]}, True),
        ({"args": ["a"]}, {"args": ["a", "b"]}, True),
        # list-maps: others may add items, and the order is theirs
        ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "B"}, {"name": "A", "value": "1"}]}, False),
        ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "value": "2"}]}, True),
        ({"ports": [{"name": "a", "port": 1}]}, {"ports": [{"name": "a", "port": 1, "nodePort": 30_000}]}, False),
        ({"ownerReferences": [{"uid": "u"}]}, {"ownerReferences": [{"uid": "v"}, {"uid": "u"}]}, False),
        ({"ownerReferences": [{"uid": "u"}]}, {"ownerReferences": []}, True),
        # all other lists are one value
        ({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "a"}, {"key": "b"}]}, True),
        ({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "a", "operator": "Exists"}]}, False),
        ({"items": [{"key": "a", "path": "b"}]}, {}, True),
    ],
)
def test_differs(rendered: Json, live: Json, *, is_other: bool) -> None:
    assert differs(rendered, live) is is_other


@pytest.mark.parametrize(
    ("one", "other"),
    [("1000m", 1), ("1", "1"), ("0.5", "500m"), ("1Gi", "1024Mi"), ("1.5Gi", "1536Mi"), ("1e3", "1k"), (2, "2")],
)
@pytest.mark.parametrize("place", ["limits", "requests", "sizeLimit"])
def test_quantities_are_compared_as_amounts(one: str | int, other: str | int, place: str) -> None:
    def at(quantity: str | int) -> Json:
        return {"resources": {place: quantity if place == "sizeLimit" else {"cpu": quantity}}}

    assert not differs(at(one), at(other))
    assert not differs(at(other), at(one))
    assert differs(at(one), at("7"))


def test_outside_of_resources_text_is_text() -> None:
    assert differs({"labels": {"a": "1000m"}}, {"labels": {"a": "1"}})


@given(st.integers(0, 10**6), st.sampled_from(["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "Ti"]))
def test_every_quantity_is_a_number(count: int, suffix: str) -> None:
    one, twice = amount(f"{count}{suffix}"), amount(f"{2 * count}{suffix}")
    assert not isinstance(one, str | None)
    assert twice == 2 * one


def test_what_is_no_quantity_is_compared_as_text() -> None:
    assert amount("much") == "much"
    assert amount("xGi") == "xGi"
    assert amount(None) is None


@given(OBJECTS, st.data())
def test_what_differs_is_where_it_was_changed(rendered: Json, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(leaves(rendered)))
    [found] = differing_fields(rendered, replaced(rendered, path, "changed"))
    assert list(found) == list(path[: len(found)])
    assert all(isinstance(name, str) for name in found)


@given(OBJECTS)
def test_where_nothing_differs_no_field_does(rendered: Json) -> None:
    assert list(differing_fields(rendered, copy.deepcopy(rendered))) == []
