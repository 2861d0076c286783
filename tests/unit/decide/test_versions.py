"""Which versions are loaded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.v1alpha1 import VersionPolicy
from slipway.decide.discovery import choose_versions, needs_listing

VERSIONS = st.integers(1, 30)
POLICIES = st.one_of(
    st.none(),
    st.builds(lambda count: {"latest": {"count": count}}, st.integers(1, 10)),
    st.builds(lambda versions: {"specific": {"versions": versions}}, st.lists(VERSIONS, min_size=1, max_size=6)),
    st.just({"all": {}}),
)


def policy(written: dict[str, Any] | None) -> VersionPolicy | None:
    return None if written is None else VersionPolicy.model_validate(written)


@pytest.mark.parametrize(
    ("written", "served", "listed", "loaded"),
    [
        (None, 3, [1, 2, 3, 4], (3,)),
        (None, 3, [], (3,)),
        ({"latest": {"count": 1}}, 3, [1, 2, 3], (3,)),
        ({"latest": {"count": 2}}, 3, [1, 2, 3, 4], (2, 3)),
        ({"latest": {"count": 2}}, 3, [1], (1, 3)),
        ({"latest": {"count": 9}}, 3, [1, 2, 3], (1, 2, 3)),
        ({"latest": {"count": 2}}, 3, [], (3,)),
        ({"specific": {"versions": [1, 3]}}, 3, [], (1, 3)),
        ({"specific": {"versions": [3, 1, 1]}}, 3, [2], (1, 3)),
        # an older revision under a policy that was written for a newer one
        ({"specific": {"versions": [2, 3]}}, 1, [1, 2, 3], (1,)),
        ({"all": {}}, 3, [4, 2, 1, 3], (1, 2, 3)),
        ({"all": {}}, 3, [], (3,)),
    ],
)
def test_choose(written: dict[str, Any] | None, served: int, listed: list[int], loaded: tuple[int, ...]) -> None:
    assert choose_versions(policy(written), served, listed) == loaded


@given(POLICIES, VERSIONS, st.lists(VERSIONS))
def test_the_served_version_is_in_and_is_the_highest(
    written: dict[str, Any] | None, served: int, listed: list[int]
) -> None:
    chosen = choose_versions(policy(written), served, listed)
    assert chosen[-1] == served
    assert list(chosen) == sorted(set(chosen))


@given(st.integers(1, 10), VERSIONS, st.lists(VERSIONS))
def test_latest_loads_no_more_than_its_count_and_the_newest(count: int, served: int, listed: list[int]) -> None:
    chosen = choose_versions(policy({"latest": {"count": count}}), served, listed)
    assert len(chosen) <= count
    left_out = {version for version in listed if version < served} - set(chosen)
    assert all(out < inside for out in left_out for inside in chosen)


@given(POLICIES, VERSIONS, st.lists(VERSIONS), st.lists(st.integers(31, 60)))
def test_versions_above_the_served_one_change_nothing(
    written: dict[str, Any] | None, served: int, listed: list[int], above: list[int]
) -> None:
    assert choose_versions(policy(written), served, listed + above) == choose_versions(policy(written), served, listed)


@pytest.mark.parametrize(
    ("written", "needed"),
    [
        (None, False),
        ({"latest": {"count": 1}}, False),
        ({"latest": {"count": 2}}, True),
        ({"specific": {"versions": [1]}}, False),
        ({"all": {}}, True),
    ],
)
def test_a_listing_is_asked_for_only_where_it_decides(written: dict[str, Any] | None, *, needed: bool) -> None:
    assert needs_listing(policy(written)) is needed
