"""Where model versions come from. A source lists and fetches; it neither verifies, unpacks nor publishes.

Invariant: a source writes below the staging folder it is given and nowhere else, in constant memory.
Others (s3, oci) join by one module and one line in `open_source`.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slipway_agent.failures import CancelledError


@dataclass(frozen=True, slots=True)
class Fetched:
    """One version's bytes in staging: a folder, or one file whose `name` (not its path) tells what it is.

    `fingerprint` names these bytes at the source; None when the source can't tell them apart cheaply.
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
    def list_versions(self) -> tuple[int, ...]:
        """The versions found now, ascending. SpecError or TransientError when it can't be told."""

    def fetch(self, version: int, staging: Path, progress: Progress, refused: str | None) -> Fetched:
        """Bring one version's bytes below `staging`, which may hold what an earlier attempt left.

        Raises SpecError, TransientError, CancelledError, and UnchangedError when the source can tell without
        fetching that its bytes are those with the fingerprint `refused`.
        """

    def model_folder(self) -> Path | None:
        """A readable folder that holds the model's own config.pbtxt beside its versions; None without one."""
