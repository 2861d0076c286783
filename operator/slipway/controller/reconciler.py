"""One pass over one ModelDeployment: the calls in order, and nothing decided here.

    cached objects ─ spec ─ agents' reports ─ observe ─ gather inputs ─ signals ─ step ─ render ─ apply what differs
    ─ status ─ events ─ prune

Invariant: every pass computes everything anew from spec, status and what is observed, so it can be ended after any
write and the next one arrives at the same state. Children are written before the status that tells of them; nothing is
pruned unless everything was applied.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from slipway.api import KIND, ModelDeployment
from slipway.api.status import ModelDeploymentStatus, read_status, write_status
from slipway.controller import metrics
from slipway.controller.apply import Children, NamespaceGoesError
from slipway.controller.cache import Cache, Key
from slipway.controller.clients import Clients
from slipway.controller.kube import ClusterError, TransientError
from slipway.controller.pacing import Pacing, while_hindered
from slipway.controller.version_watch import VersionWatch
from slipway.controller.workqueue import Queue
from slipway.decide.commands import read_command
from slipway.decide.discovery import choose_lister, needs_agents_listing, of_same_place
from slipway.decide.inputs import Inputs, gather_inputs
from slipway.decide.last_spec import read_spec
from slipway.decide.rollout import step
from slipway.decide.signals import gather_signals, is_judged_now
from slipway.model.revision import Json
from slipway.model.rollout import Plan
from slipway.model.workload import Trouble
from slipway.observe.snapshot import Snapshot, observe
from slipway.render.desired import render
from slipway.render.pod_template import Images
from slipway.report.agreement import agreement, settled_now
from slipway.report.events import Notice, event_of, notices
from slipway.report.pass_result import PassResult, judge_unreadable, sum_up, what_stands_in_the_way
from slipway.report.status import assess

log = logging.getLogger("slipway")


@dataclass(frozen=True, slots=True)
class Clock:
    """Where passes read the time: `now` for what is written down, `monotonic` (seconds) for pacing."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a pass begins with. body: the ModelDeployment; children: all under its label; stored: its status."""

    key: Key
    body: Json
    children: list[Json]
    stored: ModelDeploymentStatus
    now: datetime

    @property
    def uid(self) -> str:
        """Whose children are ours."""
        return str(self.body["metadata"]["uid"])


class Reconciler:
    """Passes keys from the queue until it is cancelled."""

    def __init__(
        self, clients: Clients, cache: Cache, queue: Queue[Key], images: Images, clock: Clock = Clock()
    ) -> None:
        self._clients = clients
        self._cache = cache
        self._queue = queue
        self._images = images
        self._clock = clock
        self._pacing = Pacing(clock.monotonic)
        self._children = Children(clients.cluster, cache, self._pacing)
        self._version_watch = VersionWatch(clients.agents, queue)
        self._unready: set[Key] = set()

    def close(self) -> None:
        """End what goes on between passes."""
        self._version_watch.close()

    async def work(self) -> None:
        """One worker."""
        while True:
            key = await self._queue.take()
            started = time.perf_counter()
            try:
                await self._guarded_pass(key)
            finally:
                metrics.PASS_SECONDS.observe(time.perf_counter() - started)
                await self._queue.done(key)

    async def _guarded_pass(self, key: Key) -> None:
        """A pass whose failure is tried again with backoff. What was applied stays; what failed is written again."""
        try:
            wake_after = await self._pass(key)
        except NamespaceGoesError:
            log.debug("its namespace is being deleted", extra={"key": "/".join(key)})
        except TransientError as error:
            await self._retry(key, "will try again", str(error))
        except ClusterError as error:
            await self._retry(key, "the API server refuses", str(error))
        except Exception:  # a defect of ours must not end the worker, nor stop other ModelDeployments
            log.exception("pass failed", extra={"key": "/".join(key)})
            await self._retry(key, "a defect in Slipway: please report it", "see the traceback above")
        else:
            self._pacing.note_success(key)
            if wake_after is not None:
                await self._queue.wake(key, wake_after)

    async def _retry(self, key: Key, what: str, why: str) -> None:
        metrics.PASSES.labels("failed").inc()
        delay = self._pacing.back_off(key)
        log.warning(what, extra={"key": "/".join(key), "error": why, "retry_seconds": delay})
        await self._queue.wake(key, delay)

    async def _pass(self, key: Key) -> float | None:
        """Returns after how many seconds to look again; None: when something happens."""
        body = self._cache.deployment(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            self._pacing.forget(key)
            self._children.forget(key)
            self._version_watch.follow(key, None)
            self._note_readiness(key, is_ready=True)
            _note_agents(key, 0)
            return None
        seen = _Seen(key, body, self._cache.children(key), read_status(body.get("status")), self._clock.now())
        snapshot = observe(seen.uid, seen.children, {}, seen.now)
        spec = read_spec(body, snapshot)
        if spec.asked is None:
            assert spec.problem is not None
            result = judge_unreadable(body, snapshot, seen.stored, spec.problem)
            await self._report(seen, snapshot, result, writes=0)
            return None
        return await self._carry_out(seen, spec.asked, spec.problem, snapshot)

    async def _carry_out(
        self, seen: _Seen, asked: ModelDeployment, unread: Trouble | None, snapshot: Snapshot
    ) -> float | None:
        """A pass by a spec that can be read: the object's own, or an earlier one where that can't be, as `unread` says.

        snapshot: without what agents and routers say.
        """
        key, stored, now, found = seen.key, seen.stored, seen.now, self._version_watch.found(seen.key)
        settled = settled_now(asked, snapshot, stored, found)
        if settled is not None and self._pacing.is_to_hear(key, snapshot):
            settled = None
        if settled is None:
            self._pacing.note_heard(key)
            reports, router_reports = await self._clients.read_reports(snapshot)
            # The same children, though time has passed: a deleted ModelDeployment's would be made anew.
            snapshot = observe(seen.uid, seen.children, reports, now, router_reports)
        inputs = gather_inputs(asked, snapshot, stored, found, read_command(seen.body, stored))
        is_judged = is_judged_now(inputs, stored)
        reading = await self._clients.read_counts(inputs.deployment, snapshot) if is_judged else None
        signals = gather_signals(inputs, snapshot, stored, reading, now)
        plan = step(inputs.target, inputs.state, snapshot.workloads, now, signals)
        golden = await self._clients.read_golden(key[0], inputs, plan, snapshot)
        rendered = render(inputs, plan, snapshot, self._images, golden)
        applied = await self._children.apply(key, seen.uid, rendered, snapshot)
        hindrance = golden if applied.hindrance is None and isinstance(golden, Trouble) else applied.hindrance
        problem = what_stands_in_the_way(unread, hindrance, plan, key[1])
        nudges = await self._children.nudge(key, rendered, snapshot)
        agreed = agreement(rendered, plan, snapshot, settled, stored.settled)
        result = sum_up(
            inputs, plan, rendered, snapshot, signals, problem=problem, are_settled=settled is not None, settled=agreed
        )
        await self._report(seen, snapshot, result, writes=applied.writes + nudges)
        await self._tell(seen, applied.put_back)
        if hindrance is None:
            # Last: what a failed canary leaves goes only once status tells that it failed, or that would be forgotten.
            await self._children.prune(key, rendered, snapshot)
        self._watch_versions(key, inputs, snapshot)
        look = self._pacing.next_look(
            key,
            plan,
            rendered,
            snapshot,
            now=now,
            is_settled=agreed is not None,
            has_nudged=nudges > 0,
            is_next_known=_is_next_known(inputs, plan),
        )
        return look if hindrance is None else while_hindered(look)

    def _watch_versions(self, key: Key, inputs: Inputs, snapshot: Snapshot) -> None:
        """Follow the source where the newest version is wanted, or where other bytes would clear a rejection."""
        is_watched = _follows_newest(inputs) or bool(inputs.state.rejected)
        here = of_same_place(inputs.deployment, snapshot)
        self._version_watch.follow(key, choose_lister(snapshot, here) if is_watched else None)

    async def _report(self, seen: _Seen, snapshot: Snapshot, result: PassResult, *, writes: int) -> None:
        """Write the status if it differs from the stored one, and post events for what changed."""
        status = assess(result, snapshot, seen.stored, seen.now)
        ready = status.condition("Ready")
        self._note_readiness(seen.key, is_ready=ready is not None and ready.status == "True")
        _note_agents(seen.key, status.agents.outdated if status.agents is not None else 0)
        wire = write_status(status)
        if wire != seen.body.get("status"):
            await self._write_status(seen, wire)
            writes += 1
            await self._tell(seen, notices(seen.stored, status))
        metrics.PASSES.labels("changed" if writes else "unchanged").inc()
        log.log(
            logging.INFO if writes else logging.DEBUG,
            "passed" if writes else "unchanged",
            extra={"key": "/".join(seen.key), "phase": status.phase, "ready": status.ready, "writes": writes},
        )

    async def _tell(self, seen: _Seen, told: Iterable[Notice]) -> None:
        for notice in told:
            event = event_of(notice, seen.body["metadata"], seen.now)
            await self._clients.cluster.post_event(seen.key[0], event)

    async def _write_status(self, seen: _Seen, wire: Json) -> None:
        try:
            answer = await self._clients.cluster.apply_status(*seen.key, seen.uid, wire)
        except ClusterError as error:
            if error.status == 404:  # deleted while no watch looked: nothing must be made for it any more
                self._cache.forget(seen.key)
            raise
        self._cache.put(KIND, answer)
        fresh = self._cache.deployment(seen.key)
        if fresh is not None and fresh | {"status": None} != seen.body | {"status": None}:
            # The answer brought an edit along; its event is older than the answer, and will be no news.
            await self._queue.wake(seen.key)

    def _note_readiness(self, key: Key, *, is_ready: bool) -> None:
        (self._unready.discard if is_ready else self._unready.add)(key)
        metrics.UNREADY.set(len(self._unready))


def _note_agents(key: Key, outdated: int) -> None:
    """A series for each ModelDeployment that has some, and none for those that have none: most of thousands."""
    if outdated:
        metrics.AGENTS_OUTDATED.labels(*key).set(outdated)
    else:
        metrics.AGENTS_OUTDATED.remove(*key)


def _follows_newest(inputs: Inputs) -> bool:
    """Whether the newest version that agents find is wanted."""
    return inputs.asked.spec.model.version is None and needs_agents_listing(inputs.asked)


def _is_next_known(inputs: Inputs, plan: Plan) -> bool:
    """Whether a newer version waits for the end of this rollout, and this is its end."""
    newest = max(inputs.listed, default=0)
    return _follows_newest(inputs) and plan.state.canary is None and newest > inputs.placement.revision.version
