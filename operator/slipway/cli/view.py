"""A ModelDeployment as a person sees it: one frozen value, computed from the object alone.

Pictures and `-o json` both come from it, so they can't disagree.
Invariant: every object that an API server can hold gives a view; a missing or unreadable field is absent, not an error.
Pure: time comes in as `now`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Literal

from slipway.api.status import (
    CommandStatus,
    Condition,
    ModelDeploymentStatus,
    Pinned,
    Rejected,
    RevisionStatus,
    Transition,
    VerdictStatus,
    read_status,
    read_time,
)
from slipway.api.urls import show_url
from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.decide.gates import SIGNATURE_CHANGED, compares_signatures
from slipway.decide.steps import DEFAULT_STEPS
from slipway.model.rollout import Promotion

Json = dict[str, Any]
Role = Literal["stable", "canary", "previous"]
Stage = Literal["done", "current", "next"]

GATE_REASONS = {"GoldenFailed": "golden", "GoldenUnreadable": "golden", SIGNATURE_CHANGED: "signature"}
FINAL_REASONS = frozenset({Promotion.ROLLED_BACK, "InvalidSpec", "NotSupportedByRuntime", "NotSupportedByProvider"})
"""Reasons of condition Promoted that do not pass by themselves: a person has to change the spec, or retry."""


@dataclass(frozen=True, slots=True)
class RevisionView:
    """A revision with pods.

    weight_percent: the desired weight; weight_in_force: the routers' own; None: no router, or not known. workload: its
    Deployment is named NAME-WORKLOAD.
    """

    role: Role
    revision: str
    version: int
    ready_pods: int
    weight_percent: int | None
    weight_in_force: int | None
    workload: str
    strategy: str | None
    rolls_because: str | None


@dataclass(frozen=True, slots=True)
class StepView:
    """A step of the canary. weight_percent None: a pause. hold_seconds None: until a person resumes."""

    weight_percent: int | None
    hold_seconds: int | None
    stage: Stage
    left_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class GateView:
    """A check before any live traffic. failed: the revision was rejected for it."""

    name: str
    state: Literal["passed", "waiting", "failed"]


@dataclass(frozen=True, slots=True)
class View:
    """A ModelDeployment as a person sees it.

    More than twelve fields, because it is the document of `status -o json`, whose scripts read one flat object.
    runtime: of what serves; before that, of what starts. ready_pods: of all revisions; desired_pods: the spec's
    replicas. is_current: the operator has acted on this generation of the spec. judging: that nobody judges the canary,
    or by what without a word of it in the spec. step_index: 0 while the canary prepares. patience_seconds: the time
    left until the canary's deadline; None: no deadline. bake_left_seconds: None: no bake. service_target: what Service
    NAME selects.
    gates: of the canary; without a canary, the gate that the spec's revision was rejected for.
    troubles: the conditions that a healthy model would not have. transitions: the newest first.
    reconciling, agents: the conditions Reconciling and AgentsOutdated; None: written by an older operator.
    """

    namespace: str
    name: str
    runtime: str
    uri: str
    phase: str
    created: datetime | None
    ready_pods: int
    desired_pods: int
    is_current: bool
    revisions: tuple[RevisionView, ...]
    steps: tuple[StepView, ...]
    step_index: int
    is_paused: bool
    is_promote_requested: bool
    waits_for: str
    judging: str
    gates: tuple[GateView, ...]
    verdict: VerdictStatus | None
    patience_seconds: int | None
    bake_left_seconds: int | None
    bake_seconds: int
    service_target: str
    traffic_message: str
    troubles: tuple[Condition, ...]
    promoted: Condition | None
    rejected: tuple[Rejected, ...]
    pinned: Pinned | None
    last_command: CommandStatus | None
    transitions: tuple[Transition, ...]
    reconciling: Condition | None
    agents: Condition | None

    def of_role(self, role: Role) -> RevisionView | None:
        """The revision in that role."""
        return next((revision for revision in self.revisions if revision.role == role), None)

    @property
    def shown(self) -> RevisionView | None:
        """The revision that serves; before anything does, the first one, which starts."""
        return self.of_role("stable") or self.of_role("canary")

    @property
    def current_step(self) -> StepView | None:
        """The canary's step; None while it prepares, and without a canary."""
        return next((step for step in self.steps if step.stage == "current"), None)

    @property
    def waits_for_person(self) -> bool:
        """Whether the rollout is paused: by a command, or in a pause step that only a person ends."""
        step = self.current_step
        is_pause = step is not None and step.weight_percent is None and step.hold_seconds is None
        return self.is_paused or (is_pause and not self.is_promote_requested)

    @property
    def bakes(self) -> bool:
        """Whether the stable revision bakes: abort goes back to the one before, promote ends the bake.

        In place the one before has no pods of its own, so it has no role. A person's rollback is left by retry.
        """
        if self.of_role("stable") is None or self.of_role("canary") is not None:
            return False
        return self.of_role("previous") is not None or (self.bake_left_seconds is not None and self.pinned is None)

    @property
    def is_refreshing(self) -> bool:
        """Whether pods are being replaced by a refresh, or its abort."""
        return self.reconciling is not None and self.reconciling.reason == "Refreshing"

    @property
    def may_refresh(self) -> bool:
        """Whether a refresh may be under way: one whose new pods find no room says that instead."""
        found = self.reconciling
        return found is not None and found.status == "True" and found.reason in ("Refreshing", *WAITS)

    @property
    def outcome(self) -> bool | None:
        """Whether the spec's revision was promoted; None: the rollout goes on."""
        promoted = self.promoted
        if promoted is None or not self.is_current:
            return None
        if promoted.status == "True":
            return True
        return False if promoted.reason in FINAL_REASONS else None


def view_of(body: Json, now: datetime) -> View:
    """The view of an object, with time spans counted from `now`."""
    meta = body.get("metadata") or {}
    spec = body.get("spec") or {}
    status = read_status(body.get("status"))
    rollout = _part(spec, "rollout")
    canary = status.canary
    step = status.step
    until, turns = read_time(status.bake_until), read_time(status.next_look)
    generation = int(meta.get("generation") or 0)
    promoted = status.condition("Promoted")
    is_current = generation <= (promoted.observed_generation if promoted else 0)
    return View(
        namespace=str(meta.get("namespace", "")),
        name=str(meta.get("name", "")),
        runtime=status.runtime or str(_part(spec, "runtime").get("name", "")),
        uri=show_url(str(_part(spec, "model").get("uri", ""))),
        phase=status.phase,
        created=read_time(meta.get("creationTimestamp")),
        ready_pods=status.ready_replicas,
        desired_pods=_whole(spec.get("replicas"), 1),
        is_current=is_current,
        revisions=tuple(_revisions(status)),
        steps=_steps(rollout, status, now) if canary is not None and step is not None else (),
        step_index=step.index if step is not None and canary is not None else 0,
        is_paused=step is not None and step.paused,
        is_promote_requested=step is not None and step.promote_requested,
        waits_for=(step.waits_for or "") if step is not None else "",
        judging=(step.judging or "") if step is not None else "",
        gates=_gates(spec, status, is_current=is_current),
        verdict=status.verdict,
        patience_seconds=_seconds_until(turns, now) if turns is not None and canary is not None else None,
        bake_left_seconds=_seconds_until(until, now) if until is not None else None,
        bake_seconds=_whole(rollout.get("bakeSeconds"), 300),
        service_target=status.traffic.service_target if status.traffic else "",
        traffic_message=status.traffic.message if status.traffic else "",
        troubles=tuple(_troubles(status.conditions)),
        promoted=promoted,
        rejected=tuple(status.rejected),
        pinned=status.pinned,
        last_command=status.last_command,
        transitions=tuple(reversed(status.transitions)),
        reconciling=status.condition("Reconciling"),
        agents=status.condition("AgentsOutdated"),
    )


def _part(spec: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = spec.get(name)
    return found if isinstance(found, dict) else {}


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _seconds_until(moment: datetime, now: datetime) -> int:
    return max(0, round((moment - now) / timedelta(seconds=1)))


def _revisions(status: ModelDeploymentStatus) -> list[RevisionView]:
    found: list[tuple[Role, RevisionStatus | None]] = [
        ("stable", status.stable),
        ("canary", status.canary),
        ("previous", status.previous),
    ]
    return [
        RevisionView(
            role=role,
            revision=each.revision,
            version=each.version,
            ready_pods=each.ready_replicas,
            weight_percent=each.weight_percent,
            weight_in_force=each.weight_in_force,
            workload=each.workload or each.revision,
            strategy=each.strategy,
            rolls_because=each.rolls_because,
        )
        for role, each in found
        if each is not None
    ]


# --- steps and gates ---


def _steps(rollout: Mapping[str, Any], status: ModelDeploymentStatus, now: datetime) -> tuple[StepView, ...]:
    """The spec's steps and the final 100 %, each done, current or next.

    >>> rollout = {"steps": [{"weight": 25, "holdSeconds": 60}, {"pause": {}}]}
    >>> status = read_status({"step": {"index": 2, "count": 3, "since": "2026-01-01T00:00:00Z"}})
    >>> [(step.weight_percent, step.stage) for step in _steps(rollout, status, datetime(2026, 1, 1, tzinfo=UTC))]
    [(25, 'done'), (None, 'current'), (100, 'next')]
    """
    assert status.step is not None
    index = status.step.index
    plain = [each for each in rollout.get("steps") or [] if isinstance(each, dict)] or [
        step.model_dump(by_alias=True, exclude_none=True) for step in DEFAULT_STEPS
    ]
    holds = [_hold(each) for each in plain]
    if holds[-1][0] != 100:
        holds.append((100, 0))
    since = read_time(status.step.since)
    seen: list[StepView] = []
    for number, (weight, hold) in enumerate(holds, start=1):
        stage: Stage = "done" if number < index else "current" if number == index else "next"
        left = None
        if stage == "current" and since is not None and hold and not status.step.paused:
            left = min(hold, _seconds_until(since + timedelta(seconds=hold), now))
        seen.append(StepView(weight, hold, stage, left))
    return tuple(seen)


def _hold(step: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Weight and hold of a step in the spec; a pause has no weight."""
    if "pause" in step:
        duration = (step.get("pause") or {}).get("durationSeconds")
        return None, duration if isinstance(duration, int) else None
    return _whole(step.get("weight"), 0), _whole(step.get("holdSeconds"), 0)


def _gates(spec: Mapping[str, Any], status: ModelDeploymentStatus, *, is_current: bool) -> tuple[GateView, ...]:
    """The gates of this spec: passed once the canary has left preparation, failed once its revision is rejected.

    A rejection says nothing about a canary of the same revision: that one has other bytes.
    """
    gates = _part(_part(spec, "rollout"), "gates")
    named = [*(["golden"] if gates.get("golden") else []), *(["signature"] if _compares_signatures(spec) else [])]
    if status.canary is None:
        rejected = _rejected(status) if is_current else None
        failed = GATE_REASONS.get(rejected.reason) if rejected is not None else None
        return tuple(GateView(name, "failed") for name in named if name == failed)
    if status.step is None or (status.pinned is not None and status.pinned.revision == status.canary.revision):
        return ()  # a person's rollback skips the gates
    return tuple(GateView(name, "passed" if status.step.index > 0 else "waiting") for name in named)


def _rejected(status: ModelDeploymentStatus) -> Rejected | None:
    """The rejection of the spec's revision; None: not rejected. Status also keeps that of a rollback's target."""
    promoted = status.condition("Promoted")
    if promoted is None or promoted.reason != Promotion.ROLLED_BACK:
        return None
    pinned = status.pinned.revision if status.pinned is not None else None
    return next((each for each in reversed(status.rejected) if each.revision != pinned), None)


def _compares_signatures(spec: Mapping[str, Any]) -> bool:
    try:
        return compares_signatures(ModelDeploymentSpec.model_validate(spec))
    except ValueError:  # written for another release: only what it says is known
        return _part(_part(spec, "rollout"), "gates").get("signature") == "Compatible"


# --- conditions ---


def _troubles(conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions that a healthy model would not have; of several with one message, the first."""
    messages: set[str] = set()
    found = []
    for condition in conditions:
        if not _is_good(condition) and condition.message not in messages:
            messages.add(condition.message)
            found.append(condition)
    return found


def _is_good(condition: Condition) -> bool:
    """That a revision is on its way is what the others tell; that it waits for room isn't always in them."""
    if condition.type == "Reconciling":
        return condition.reason not in (*WAITS, "Refreshing")
    if condition.type == "AgentsOutdated":
        return condition.status != "True"
    return condition.status == ("False" if condition.type == "Degraded" else "True")


WAITS = ("WaitingForCapacity", "NodeCannotLoad")
"""Reasons of Reconciling that a person wants to see."""

UNITS = ((86_400, "d", "d"), (3_600, "h", "h"), (60, "m", "min"), (1, "s", "s"))
"""Seconds of a unit, its letter in an age, its name in a duration."""


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago, as kubectl writes it: one unit.

    >>> [age(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 2, 3, tzinfo=UTC)), age(None, datetime.now(UTC))]
    ['2h', '-']
    """
    if moment is None:
        return "-"
    seconds = max(0, int((now - moment).total_seconds()))
    return next((f"{seconds // length}{unit}" for length, unit, _ in UNITS if seconds >= length), "0s")


def duration(seconds: int) -> str:
    """A time span in words: its largest unit, and the next one.

    >>> [duration(18), duration(192), duration(3600), duration(90_000), duration(0)]
    ['18 s', '3 min 12 s', '1 h', '1 d 1 h', '0 s']
    """
    for (length, _, unit), (smaller, _, smaller_unit) in pairwise(UNITS):
        if seconds >= length:
            rest = seconds % length // smaller
            return f"{seconds // length} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{seconds} s"
