"""What is known of two revisions' traffic and of a new revision's gates: the values that judge and step exchange.

Invariant: nothing here decides. Counters are cumulative since their source began; what is compared are differences.
Must not import: anything but `model`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from slipway.model.workload import Trouble

LATENCY_BOUNDS_MILLISECONDS = (
    1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750,
    1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 20_000, 30_000, 60_000,
)  # fmt: skip
"""Upper bounds of the latency buckets that routers count in."""


class Outcome(StrEnum):
    """What the evidence says."""

    PASS = "Pass"  # noqa: S105 — no password
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"


@dataclass(frozen=True, slots=True)
class Counts:
    """Answers of one workload, as one source counted them since it began. Only unversioned requests.

    errors: those that the server failed (HTTP 5xx, no answer; gRPC UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED,
    UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS). refusals: those that it refused (HTTP 4xx, the other gRPC codes).
    within: for each of LATENCY_BOUNDS_MILLISECONDS, the answers that took at most as long; empty where the source has
    no latencies.
    """

    requests: int = 0
    errors: int = 0
    refusals: int = 0
    within: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at all sources of counts.

    counts: source → workload → its counts. A source is a name that changes when its counters start anew (a router pod's
    uid and its container's start). missing: sources that should have answered and did not.
    """

    counts: Mapping[str, Mapping[str, Counts]]
    missing: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class InForce:
    """How requests are split now, as the traffic provider says.

    weights: workload → percent; a workload that isn't named gets nothing. endpoints: workload → pods that requests can
    reach through it. is_latest: it is what was sent last; False: another configuration is on its way.
    lingering: workloads that still get requests from routers that are ending.
    """

    weights: Mapping[str, int]
    endpoints: Mapping[str, int]
    is_latest: bool = True
    lingering: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evidence says, with the numbers that a person can check."""

    outcome: Outcome
    reason: str
    message: str


class GateState(StrEnum):
    """How far a new revision's gates are."""

    PASSED = "Passed"
    WAITING = "Waiting"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What the gates say before any live traffic. reason: empty unless FAILED; message: what is waited for, or why."""

    state: GateState
    reason: str = ""
    message: str = ""


OPEN = GateVerdict(GateState.PASSED)
"""There are no gates."""


@dataclass(frozen=True, slots=True)
class Command:
    """A person's command, from the annotation slipway.dev/command: VERB/REVISION/ID."""

    verb: str
    revision: str
    id: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a revision is taken back: a CamelCase reason, and what happened."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Signals:
    """What a step is decided on beside pods and state.

    gates: of the canary. verdict: None while nothing is judged. in_force: None while nobody can say.
    abort: a person wants the revision taken back. sent_weights: workload → percent, as last sent to the
    routers that have the requests; None where there are none. accumulators: of the analysis, to keep for the next
    look; None while nothing is judged. router_trouble: why no router can take the requests. unmade: why the pass before
    could not make a workload, for a reason that isn't the revision's; None: it could, or the revision is at fault.
    """

    gates: GateVerdict = OPEN
    verdict: Verdict | None = None
    in_force: InForce | None = None
    abort: Cause | None = None
    sent_weights: Mapping[str, int] | None = None
    accumulators: dict[str, Any] | None = None
    router_trouble: Trouble | None = None
    unmade: Trouble | None = None


NO_EVIDENCE = Signals()
