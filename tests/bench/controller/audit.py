"""The API server's audit log: every mutating request, with who sent it, counted where nobody can forget one.

Invariant: pure but for reading the log; must not import slipway.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

WRITE_VERBS = frozenset({"create", "update", "patch", "delete", "deletecollection"})
# Asking who may do what and for a token is a POST that changes nothing.
NOT_WRITES = frozenset({"selfsubjectaccessreviews", "selfsubjectreviews", "tokenreviews", "subjectaccessreviews"})


@dataclass(frozen=True, slots=True)
class Write:
    """One mutating request that the API server answered."""

    at_seconds: float  # since the epoch, when the answer was complete
    verb: str
    resource: str  # with its subresource: deployments, modeldeployments/status
    name: str
    status: int


class AuditLog:
    """Reads one user's writes from the log, from where the last reading ended."""

    def __init__(self, file: Path, user: str) -> None:
        self._file = file
        self._user = user
        self._offset = file.stat().st_size

    def read_new(self) -> list[Write]:
        """The user's writes since the last call (or since this object was made), oldest first."""
        with self._file.open("rb") as log:
            log.seek(self._offset)
            data = log.read()
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        needle = self._user.encode()
        writes = [parse_write(line, self._user) for line in data.splitlines() if needle in line]
        return sorted((w for w in writes if w is not None), key=lambda w: w.at_seconds)


def parse_write(line: bytes, user: str) -> Write | None:
    """Returns None for a reading, a dry run, another user's request and a stage before the answer."""
    event = json.loads(line)
    reference = event.get("objectRef", {})
    if (
        event["user"].get("username") != user
        or event["verb"] not in WRITE_VERBS
        or event["stage"] not in ("ResponseComplete", "Panic")
        or reference.get("resource") in NOT_WRITES
        or "dryRun=" in event.get("requestURI", "")
    ):
        return None
    resource = reference.get("resource", event.get("requestURI", ""))
    if reference.get("subresource"):
        resource += "/" + reference["subresource"]
    return Write(
        at_seconds=datetime.fromisoformat(event["stageTimestamp"]).timestamp(),
        verb=event["verb"],
        resource=resource,
        name=reference.get("name", ""),
        status=event.get("responseStatus", {}).get("code", 0),
    )


def count_by_kind(writes: Iterable[Write]) -> Counter[str]:
    """How many of each verb and resource; refused ones are shown apart, with their status."""
    return Counter(f"{w.verb} {w.resource}" + (f" ({w.status})" if w.status >= 400 else "") for w in writes)
