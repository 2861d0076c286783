"""When a ModelDeployment is looked at again, and when a pod is nudged again.

Invariant: what is remembered here is memory of pacing only: losing it costs a few seconds, never a wrong state.
Must not import: clients. It reads the time and does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from slipway.controller.cache import Key
from slipway.model.rollout import Plan
from slipway.observe.pods import Pod
from slipway.observe.router_reports import RouterPod
from slipway.observe.snapshot import Snapshot
from slipway.render.desired import Rendered
from slipway.report.agreement import is_told_anew

POLL_SECONDS = 1.0
MAX_POLL_SECONDS = 15.0
NUDGE_SECONDS = 1.0
PATIENT_NUDGES = 20
"""A kubelet that has not refreshed a pod after so many nudges is asked at MAX_POLL_SECONDS from then on."""
TOLD_ANEW_SECONDS = 0.05
PROMPT_SECONDS = 10.0
PROMPT_LOOK_SECONDS = 0.1
"""How often, and for how long after a change, routers are asked whether it is in force: a rollback waits for it."""
FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 60.0
LASTING_FAILURES = 5
"""So many passes in turn, a quarter of a minute, the same write may fail before it is told and the rest goes on."""
PROBLEM_SECONDS = 15.0
"""What stands in the way (another's object, a quota) may go without any event that reaches us."""
TOLD_SECONDS = 300.0
"""Two who change an object in turn would fill the events with it."""
PROBE_SECONDS = 30.0
"""How often agents that ask their servers now and then are heard while nothing else is on: as often as they ask."""
LONG_AGO = float("-inf")


def while_hindered(look: float | None) -> float:
    """Seconds until the next look while something can't be written. look: until the next one if all could be.

    Each look tries the write again, so they are not as dense as others; but what is judged or taken back doesn't wait.
    """
    return min(PROBLEM_SECONDS, max(POLL_SECONDS, PROBLEM_SECONDS if look is None else look))


class Pacing:
    """The memory. monotonic: the time in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._failures: dict[Key, int] = {}
        self._unsettled_since: dict[Key, float] = {}
        self._routed_at: dict[Key, float] = {}
        self._nudged_at: dict[str, float] = {}
        self._told_at: dict[Key, dict[str, float]] = {}
        self._heard_at: dict[Key, float] = {}
        self._unwritten: dict[Key, int] = {}

    def forget(self, key: Key) -> None:
        """This ModelDeployment is gone."""
        memories = (
            self._failures,
            self._unsettled_since,
            self._routed_at,
            self._told_at,
            self._heard_at,
            self._unwritten,
        )
        for memory in memories:
            memory.pop(key, None)

    def note_success(self, key: Key) -> None:
        """A pass ended well: the next failure is the first one again."""
        self._failures.pop(key, None)

    def back_off(self, key: Key) -> float:
        """A pass failed: the seconds until the next one, twice as many after each failure."""
        before = self._failures.get(key, 0)
        self._failures[key] = before + 1
        # The power is bounded, too: after a day of failures it would be no number that a float can hold.
        return min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(before, 10))

    def note_written(self, key: Key) -> None:
        """All that differed could be written, or is refused for good."""
        self._unwritten.pop(key, None)

    def is_lasting(self, key: Key) -> bool:
        """A write failed that may succeed by itself. Returns whether that has gone on for long."""
        self._unwritten[key] = min(LASTING_FAILURES, self._unwritten.get(key, 0) + 1)
        return self._unwritten[key] >= LASTING_FAILURES

    def may_tell(self, key: Key, what: str) -> bool:
        """Whether it is time to tell of this (again)."""
        return self._monotonic() >= self._told_at.get(key, {}).get(what, LONG_AGO) + TOLD_SECONDS

    def note_told(self, key: Key, what: str) -> None:
        """It has just been told."""
        self._told_at.setdefault(key, {})[what] = self._monotonic()

    def is_to_hear(self, key: Key, snapshot: Snapshot) -> bool:
        """Whether agents are asked though all agree: how their servers answer is told by no event."""
        due_at = self._heard_at.get(key, LONG_AGO) + PROBE_SECONDS - POLL_SECONDS
        return _ask_servers(snapshot) and self._monotonic() >= due_at

    def note_heard(self, key: Key) -> None:
        """Agents have just been asked."""
        self._heard_at[key] = self._monotonic()

    def nudge(self, pod: Pod | RouterPod, generation: str) -> str | None:
        """What to write into a pod that has an older configuration: at once when the generation is new, paced from then
        on. None: not yet.

        The value is another one at each nudge, or the kubelet would see no change: generation, a dot, the how manyth.
        """
        sent, _, number = (pod.sent or "").partition(".")
        count = int(number or 0) + 1 if sent == generation else 1
        pause = NUDGE_SECONDS if count <= PATIENT_NUDGES else MAX_POLL_SECONDS
        if count > 1 and self._monotonic() < self._nudged_at.get(pod.uid, LONG_AGO) + pause - 0.1:
            return None
        self._nudged_at[pod.uid] = self._monotonic()
        return f"{generation}.{count}"

    def next_look(
        self,
        key: Key,
        plan: Plan,
        rendered: Rendered,
        snapshot: Snapshot,
        *,
        now: datetime,
        is_settled: bool,
        has_nudged: bool,
        is_next_known: bool,
    ) -> float | None:
        """Seconds until the next look after a pass in which everything was applied; None: when something happens.

        At once after a change of what agents or routers are told, after a promotion (the Service names the stable
        revision once status does), and when the rollout that another version waited for is over (is_next_known); else
        at the rollout's deadline and, while agents work, soon at first and then less often.
        """
        if is_told_anew(rendered, snapshot) and any(pod.ip for pod in snapshot.pods):
            return TOLD_ANEW_SECONDS
        if snapshot.routers.generation != rendered.router_generation and rendered.router_generation is not None:
            self._routed_at[key] = self._monotonic()
            return TOLD_ANEW_SECONDS
        if is_next_known or plan.promotion_reason is not None:
            return TOLD_ANEW_SECONDS
        waits = [self._next_question(key, snapshot, is_settled=is_settled, has_nudged=has_nudged)]
        if not is_settled and self._monotonic() < self._routed_at.get(key, LONG_AGO) + PROMPT_SECONDS:
            waits.append(PROMPT_LOOK_SECONDS)
        if plan.wake_at is not None:
            waits.append(max(0.1, (plan.wake_at - now).total_seconds()))
        for pod in snapshot.pods:
            if pod.turns_at is not None and not pod.is_ready and not pod.is_ending:
                waits.append(max(1.0, (pod.turns_at - now).total_seconds()))
        return min((wait for wait in waits if wait is not None), default=None)

    def _next_question(self, key: Key, snapshot: Snapshot, *, is_settled: bool, has_nudged: bool) -> float | None:
        """Seconds until agents and routers are asked again; None: they need not be, or nobody is there to be asked."""
        if is_settled or not any(pod.ip and not pod.is_ending for pod in snapshot.pods):
            self._unsettled_since.pop(key, None)
            for pod in snapshot.pods:
                self._nudged_at.pop(pod.uid, None)
            return PROBE_SECONDS if is_settled and _ask_servers(snapshot) else None
        if has_nudged:
            return NUDGE_SECONDS
        since = self._unsettled_since.setdefault(key, self._monotonic())
        return min(MAX_POLL_SECONDS, POLL_SECONDS + (self._monotonic() - since) / 10)


def _ask_servers(snapshot: Snapshot) -> bool:
    """Whether agents ask their servers now and then."""
    return any(orders.questions.is_asked for orders in snapshot.agent_orders.values())
