"""When a version at the source counts as found, look by look."""

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_agent.model.errors import Reason
from slipway_agent.plan.discovery import ListError, Listing, take_error, take_look

POLL = 30.0
DENIED = ListError(Reason.ACCESS_DENIED, "no")


def look(*looks: Mapping[int, str | None], poll_seconds: float = POLL) -> tuple[Listing, float]:
    """The listing after these looks, each made exactly when it was due, and the time of the last."""
    listing, now = Listing(), 0.0
    for seen in looks:
        now = listing.next_at if listing.next_at is not None else now
        listing = take_look(listing, seen, now, poll_seconds)
    return listing, now


def test_a_version_is_found_when_two_looks_a_second_apart_agree() -> None:
    listing, now = look({3: "a"})
    assert (listing.found, listing.next_at) == ({}, 1.0)
    listing, now = look({3: "a"}, {3: "a"})
    assert (listing.found, now, listing.next_at) == ({3: "a"}, 1.0, 1.0 + POLL)


def test_looks_that_are_too_close_dont_count_as_two() -> None:
    listing = take_look(take_look(Listing(), {3: "a"}, 0.0, POLL), {3: "a"}, 0.5, POLL)
    assert listing.found == {}
    assert take_look(listing, {3: "a"}, 1.0, POLL).found == {3: "a"}


def test_a_copy_under_way_is_announced_once_it_stands_still() -> None:
    listing, now = look({}, {4: "a"}, {4: "b"}, {4: "c"}, {4: "c"})
    assert (listing.found, now) == ({4: "c"}, 34.0)


def test_new_bytes_under_a_number_settle_like_a_new_version_and_the_old_stamp_stands_meanwhile() -> None:
    listing, _ = look({3: "a"}, {3: "a"}, {3: "b"})
    assert listing.found == {3: "a"}
    listing, now = look({3: "a"}, {3: "a"}, {3: "b"}, {3: "b"})
    assert (listing.found, now) == ({3: "b"}, 1.0 + POLL + 1.0)


def test_a_stamp_that_cant_be_had_is_no_news() -> None:
    assert look({3: "a"}, {3: "a"}, {3: None}, {3: None})[0].found == {3: "a"}
    assert look({3: None}, {3: None})[0].found == {3: None}


def test_a_version_that_is_gone_is_taken_back() -> None:
    assert look({3: "a", 4: "a"}, {3: "a", 4: "a"}, {4: "a"})[0].found == {4: "a"}


def test_what_never_settles_is_asked_in_pairs_at_growing_distances() -> None:
    listing, now, looks = Listing(), 0.0, []
    for stamp in range(14):
        looks.append(now)
        listing = take_look(listing, {3: str(stamp)}, now, POLL)
        assert listing.next_at is not None
        now = listing.next_at
    assert [after - before for before, after in itertools.pairwise(looks)] == [
        1, 2, 1, 4, 1, 8, 1, 16, 1, 30, 1, 30, 1,
    ]  # fmt: skip


def test_an_error_takes_nothing_back_and_passes_with_the_next_good_look() -> None:
    listing, now = look({3: "a"}, {3: "a"})
    failed = take_error(listing, DENIED, now, POLL)
    assert (failed.found, failed.error) == ({3: "a"}, DENIED)
    assert failed.token != listing.token
    healed = take_look(failed, {3: "a"}, now + 5, POLL)
    assert (healed.error, healed.token) == (None, listing.token)


@pytest.mark.parametrize(
    ("reason", "waits"), [(Reason.ACCESS_DENIED, [5, 10, 20, 30, 30]), (Reason.VERSION_NOT_FOUND, [5, 5, 5, 5, 5])]
)
def test_what_is_missing_is_looked_for_sooner_than_what_is_refused(reason: Reason, waits: list[float]) -> None:
    listing, now, waited = Listing(), 0.0, []
    for _ in waits:
        listing = take_error(listing, ListError(reason, "why"), now, POLL)
        assert listing.next_at is not None
        waited.append(listing.next_at - now)
        now = listing.next_at
    assert waited == waits


stamps = st.dictionaries(st.integers(1, 3), st.sampled_from(["a", "b", None]))


@given(st.lists(stamps, max_size=8), stamps)
def test_whatever_was_seen_before_what_stands_still_is_announced_within_three_looks(
    before: list[dict[int, str | None]], seen: dict[int, str | None]
) -> None:
    known = {version: stamp for version, stamp in seen.items() if stamp is not None}
    listing, _ = look(*before, seen, seen, seen)
    assert listing.found.keys() == seen.keys()
    assert {version: listing.found[version] for version in known} == known
    assert listing.next_at is not None


@given(st.lists(stamps, max_size=8))
def test_the_token_tells_what_is_found(looks: list[dict[int, str | None]]) -> None:
    one, other = look(*looks)[0], look(*looks, {1: "z"}, {1: "z"})[0]
    assert (one.token == other.token) == (dict(one.found) == dict(other.found))
