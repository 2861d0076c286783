"""The clock of the commands; tests replace it.

Must not import: anything of Slipway.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> datetime:
    """The time of day, in UTC."""
    return datetime.now(UTC)


def seconds() -> float:
    """A clock that only goes forward, for time limits."""
    return time.monotonic()


def sleep(duration_seconds: float) -> None:
    """Wait."""
    time.sleep(duration_seconds)
