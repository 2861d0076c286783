"""Where model versions come from. A source lists and fetches; it neither verifies, unpacks nor publishes.

Invariant: a source writes below the staging folder it is given and nowhere else, in constant memory.
Each kind is a module of this package; `by_scheme` says which URI leads to which. It imports nothing of the others.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slipway_agent.model.errors import CancelledError
from slipway_agent.volume.safe_open import Tree


@dataclass(frozen=True, slots=True)
class Fetched:
    """One version's bytes in staging: a folder, or one file whose `name` (not its path) says its kind.

    `fingerprint` names these bytes at the source; None when the source can't compare bytes cheaply.
    """

    path: Path
    sha256: str
    name: str
    fingerprint: str | None


class Progress:
    """Bytes of one fetch, written by the worker and read by the loop; also how the loop calls the worker off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fetched_bytes = 0
        self._total_bytes: int | None = None
        self._received_bytes = 0
        self._cancelled = False
        self._wake: Callable[[], None] | None = None

    def expect(self, total_bytes: int | None, already_bytes: int = 0) -> None:
        with self._lock:
            self._total_bytes = total_bytes
            self._fetched_bytes = already_bytes

    def add(self, count_bytes: int) -> None:
        """Count bytes that arrived; CancelledError when the fetch was called off meanwhile."""
        with self._lock:
            self._fetched_bytes += count_bytes
            self._received_bytes += count_bytes
        self.check()

    def check(self) -> None:
        with self._lock:
            cancelled = self._cancelled
        if cancelled:
            raise CancelledError

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            wake = self._wake
        if wake is not None:
            # what wakes a read that ended meanwhile may fail, and has nothing left to wake
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                wake()

    def call_off_by(self, wake: Callable[[], None]) -> None:
        """`wake` ends the read that the fetch waits in, so that calling it off doesn't wait for a store that stalls.
        CancelledError when it was called off before there was anything to wake."""
        with self._lock:
            self._wake = wake
        self.check()

    @property
    def fetched_bytes(self) -> int:
        with self._lock:
            return self._fetched_bytes

    @property
    def total_bytes(self) -> int | None:
        with self._lock:
            return self._total_bytes

    @property
    def received_bytes(self) -> int:
        """What this attempt moved itself, without what an earlier one had left."""
        with self._lock:
            return self._received_bytes


class ModelSource(Protocol):
    def list_versions(self) -> Mapping[int, str | None]:
        """The versions found now, each with a stamp that names its bytes cheaply, without reading them: a hash over
        ETags, or sizes and times. Other bytes, another stamp; None where the source can't say. Only what the server
        knows as a model is listed, where names show that. SpecError or TransientError when nothing can.
        Called from a thread of its own, while `fetch` may be at work on another.
        """

    def fetch(
        self, version: int, staging: Path, progress: Progress, refused: str | None, known: str | None = None
    ) -> Fetched:
        """Bring one version's bytes below `staging`, which may hold what an earlier attempt left.

        `known`: the digest that they must have, where one is pinned or recorded; by it a cache needs no network. The
        caller compares.

        Raises SpecError, TransientError, CancelledError, and UnchangedError when the source can tell without
        fetching that its bytes are those with the fingerprint `refused`.
        """

    def model_folder(self) -> Tree | None:
        """A folder that holds the model's own config.pbtxt beside its versions; None without one."""
