"""What the source holds, look by look: when a version counts as found, and when to look again.

Rules (tests/unit/agent/plan/test_discovery.py):
- A version, or new bytes of one, is announced when two looks at least a second apart see the same stamp. A folder that
  is being copied has another stamp at every look.
- A look that fails takes nothing back; one that misses a version takes it back at once. A stamp that can't be had
  leaves the one that is known.
- While there is nothing there, looks come every few seconds for ten minutes: a copy may be under way.
- While something is settling the next look comes after a second, then at growing distances up to the poll interval, so
  that a source that never settles isn't asked all the time. New bytes are announced within the interval and a second.

Worked example, polling every 30 s: looks at 0 s (nothing) and 30 s (version 4 with stamp a), 31 s (a again): announced
at 31 s. Had the copy still been under way at 31 s (stamp b): looks at 33 s (c) and 34 s (c again): announced at 34 s.

Pure: no I/O, no clock; `now` is in seconds of any one clock.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from slipway_agent.model.errors import Reason

AGREEING_SECONDS = 1.0  # between the two looks that must agree
ERROR_RETRY_SECONDS = 5.0  # after a look that failed, doubling up to the poll interval
MISSING_LOOKS = 120  # at that first distance, while there is nothing there

Stamps = Mapping[int, str | None]


@dataclass(frozen=True, slots=True)
class ListError:
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was seen of a version that isn't announced yet, first at `at`."""

    stamp: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Listing:
    """`found`: what is announced. `unsettled`: looks in a row that ended with something unannounced; `errors`: that
    failed. `next_at`: when to look again, None for now."""

    found: Stamps = field(default_factory=dict)
    error: ListError | None = None
    sightings: Mapping[int, Sighting] = field(default_factory=dict)
    unsettled: int = 0
    errors: int = 0
    next_at: float | None = None

    @property
    def token(self) -> str:
        """Another announcement or error, another token."""
        error = None if self.error is None else [self.error.reason.value, self.error.message]
        said = json.dumps([sorted(self.found.items()), error])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def take_look(listing: Listing, seen: Stamps, now: float, poll_seconds: float) -> Listing:
    """After a look that saw these versions."""
    found: dict[int, str | None] = {}
    sightings: dict[int, Sighting] = {}
    for version, stamp in sorted(seen.items()):
        earlier = listing.sightings.get(version)
        if version in listing.found and stamp in (listing.found[version], None):
            found[version] = listing.found[version]
        elif earlier is not None and earlier.stamp == stamp and now - earlier.at >= AGREEING_SECONDS:
            found[version] = stamp
        else:
            is_same = earlier is not None and earlier.stamp == stamp
            sightings[version] = earlier if earlier is not None and is_same else Sighting(stamp, now)
            if version in listing.found:
                found[version] = listing.found[version]  # the bytes before, until the new ones have settled
    unsettled = listing.unsettled + 1 if sightings else 0
    next_at = now + _wait_seconds(unsettled, poll_seconds)
    return Listing(found, sightings=sightings, unsettled=unsettled, next_at=next_at)


def take_error(listing: Listing, error: ListError, now: float, poll_seconds: float) -> Listing:
    """After a look that failed: what was found stays found."""
    is_missing = error.reason in (Reason.SOURCE_NOT_FOUND, Reason.VERSION_NOT_FOUND)
    doublings = 0 if is_missing and listing.errors < MISSING_LOOKS else min(listing.errors, 10)
    wait_seconds = min(ERROR_RETRY_SECONDS * 2.0**doublings, max(poll_seconds, AGREEING_SECONDS))
    return replace(listing, error=error, errors=listing.errors + 1, next_at=now + wait_seconds)


def _wait_seconds(unsettled: int, poll_seconds: float) -> float:
    """1 → 1, 2 → 2, 3 → 1, 4 → 4, 5 → 1, 6 → 8 s …: pairs of looks a second apart, at growing distances."""
    if unsettled == 0:
        return poll_seconds
    if unsettled % 2 == 1:
        return AGREEING_SECONDS
    return max(min(2.0 ** min(unsettled // 2, 10), poll_seconds), AGREEING_SECONDS)
