"""One pass over one ModelDeployment: the calls in order, and nothing decided here.

    cached objects ─ parse ─ agents' reports ─ observe ─ gather inputs ─ signals ─ step ─ render ─ apply what differs
    ─ status ─ events ─ prune

Invariant: every pass computes everything anew from spec, status and what is observed, so it can be ended after any
write and the next one arrives at the same state. Children are written before the status that tells of them; nothing is
pruned unless everything was applied.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from slipway import runtimes
from slipway.api import KIND, ModelDeployment, SpecError, parse
from slipway.api.status import ModelDeploymentStatus, read_status, write_status, write_time
from slipway.api.v1alpha1 import GROUP, VERSION
from slipway.controller import metrics
from slipway.controller.agents import Agents
from slipway.controller.cache import Cache, Key
from slipway.controller.kube import Cluster, ClusterError, TransientError
from slipway.controller.routers import Routers
from slipway.controller.server_counts import ServerCounts
from slipway.controller.version_watch import VersionWatch
from slipway.controller.workqueue import Queue
from slipway.decide import weights as traffic
from slipway.decide.commands import read_command
from slipway.decide.discovery import choose_lister, needs_agents_listing, of_same_place
from slipway.decide.inputs import Inputs, gather_inputs
from slipway.decide.rollout import step
from slipway.decide.signals import is_judged_now, weigh
from slipway.model.names import CONFIG_ANNOTATION, ROUTER_CONFIG_ANNOTATION
from slipway.model.rollout import Plan
from slipway.model.signals import Reading
from slipway.model.workload import Trouble
from slipway.observe.pods import PREPARING_SECONDS, Pod, revision_of
from slipway.observe.router_reports import RouterPod, read_counts
from slipway.observe.server_counts import counters_of
from slipway.observe.snapshot import Snapshot, is_owned, observe, was_owned
from slipway.render.agent_orders import golden_kept, golden_orders
from slipway.render.desired import Rendered, render
from slipway.render.drift import differs
from slipway.render.objects import Child
from slipway.render.pod_template import Images
from slipway.report.agreement import agreement, is_told_anew, settled_now
from slipway.report.events import Notice, notices
from slipway.report.pass_result import PassResult, judge_unreadable, sum_up
from slipway.report.status import assess

log = logging.getLogger("slipway")

Json = dict[str, Any]

POLL_SECONDS = 1.0
MAX_POLL_SECONDS = 15.0
NUDGE_SECONDS = 1.0
PATIENT_NUDGES = 20
"""A kubelet that has not refreshed a pod after so many nudges is asked at MAX_POLL_SECONDS from then on."""
TOLD_ANEW_SECONDS = 0.05
PROMPT_SECONDS = 10.0
PROMPT_LOOK_SECONDS = 0.1
"""How often, and for how long after a change, routers are asked whether it is in force: a rollback waits for it."""
MAX_BACKOFF_SECONDS = 60.0
PROBLEM_SECONDS = 15.0
"""What stands in the way (another's object, a quota) may go without any event that reaches us."""
PRUNED_KINDS = ("Deployment", "ConfigMap", "Service", "ControllerRevision", "PodDisruptionBudget")


@dataclass(frozen=True, slots=True)
class Clock:
    """Where passes read the time: `now` for what is written down, `monotonic` (seconds) for pacing."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic


class NamespaceGoesError(ClusterError):
    """The namespace is being deleted, and the ModelDeployment with it: nothing is left to do."""


class Reconciler:
    """Passes keys from the queue until it is cancelled."""

    def __init__(
        self,
        cluster: Cluster,
        agents: Agents,
        routers: Routers,
        server_counts: ServerCounts,
        cache: Cache,
        queue: Queue[Key],
        images: Images,
        clock: Clock = Clock(),
    ) -> None:
        self._cluster = cluster
        self._agents = agents
        self._routers = routers
        self._server_counts = server_counts
        self._cache = cache
        self._queue = queue
        self._images = images
        self._clock = clock
        self._followers = VersionWatch(agents, queue)
        # Memory of pacing only: losing it costs a few seconds, never a wrong state.
        self._failures: dict[Key, int] = {}
        self._unsettled_since: dict[Key, float] = {}
        self._nudged_at: dict[str, float] = {}
        self._routed_at: dict[Key, float] = {}
        self._unready: set[Key] = set()

    def close(self) -> None:
        """End what goes on between passes."""
        self._followers.close()

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
            self._failures.pop(key, None)
            if wake_after is not None:
                await self._queue.wake(key, wake_after)

    async def _retry(self, key: Key, what: str, why: str) -> None:
        metrics.PASSES.labels("failed").inc()
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(MAX_BACKOFF_SECONDS, 0.25 * 2**count)
        log.warning(what, extra={"key": "/".join(key), "error": why, "retry_seconds": delay})
        await self._queue.wake(key, delay)

    async def _pass(self, key: Key) -> float | None:
        """Returns after how many seconds to look again; None: when something happens."""
        body = self._cache.deployment(key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            self._unsettled_since.pop(key, None)
            self._failures.pop(key, None)
            self._followers.follow(key, None)
            self._note_readiness(key, is_ready=True)
            return None
        now = self._clock.now()
        stored = read_status(body.get("status"))
        children = self._cache.children(key)
        snapshot = observe(body["metadata"]["uid"], children, {}, now)
        try:
            deployment = parse(body)
            runtimes.refuse_what_it_cant(deployment.spec)
            traffic.refuse_what_it_cant(deployment.spec)
        except SpecError as error:
            result = judge_unreadable(body, snapshot, stored, error)
            await self._report(key, body, result, snapshot, stored, now, writes=0)
            return None
        return await self._carry_out(key, body, children, deployment, snapshot, stored, now)

    async def _carry_out(
        self,
        key: Key,
        body: Json,
        children: list[Json],
        asked: ModelDeployment,
        snapshot: Snapshot,
        stored: ModelDeploymentStatus,
        now: datetime,
    ) -> float | None:
        """A pass over a spec that can be read. snapshot: without what agents and routers say."""
        uid, found = body["metadata"]["uid"], self._followers.found(key)
        settled = settled_now(asked, snapshot, stored, found)
        if settled is None:
            reports, heard = await asyncio.gather(
                self._agents.read_reports(snapshot.pods), self._routers.read(snapshot.routers)
            )
            # The same children, though time has passed: a deleted ModelDeployment's would be made anew.
            snapshot = observe(uid, children, reports, now, heard)
        inputs = gather_inputs(asked, snapshot, stored, found, read_command(body, stored))
        reading = await self._count(inputs.deployment, snapshot) if is_judged_now(inputs, stored) else None
        weighed = weigh(inputs, snapshot, stored, reading, now)
        plan = step(inputs.target, inputs.state, snapshot.workloads, now, weighed.signals)
        golden = await self._golden(key, inputs, plan, snapshot)
        rendered = render(inputs, plan, snapshot, self._images, golden)
        problem, writes = await self._apply_all(key, uid, rendered, snapshot)
        if problem is None and isinstance(golden, Trouble):
            problem = golden
        nudged = await self._nudge(key, rendered, snapshot)
        agreed = agreement(rendered, plan, snapshot, settled, stored.settled)
        result = sum_up(
            inputs, plan, rendered, snapshot, weighed, problem, are_settled=settled is not None, settled=agreed
        )
        await self._report(key, body, result, snapshot, stored, now, writes + nudged)
        if problem is None:
            # Last: what a failed canary leaves goes only once status tells that it failed, or that would be forgotten.
            await self._prune(key, rendered, snapshot)
        is_following = asked.spec.model.version is None and needs_agents_listing(asked)
        here = of_same_place(inputs.deployment, snapshot)
        self._followers.follow(key, choose_lister(snapshot, here) if is_following or inputs.state.rejected else None)
        if problem is not None:
            return PROBLEM_SECONDS
        if is_told_anew(rendered, snapshot) and any(pod.ip for pod in snapshot.pods):
            return TOLD_ANEW_SECONDS
        if snapshot.router_generation != rendered.router_generation and rendered.router_generation is not None:
            self._routed_at[key] = self._clock.monotonic()
            return TOLD_ANEW_SECONDS
        if (
            is_following
            and plan.state.canary is None
            and max(inputs.listed, default=0) > inputs.placement.revision.version
        ):
            return TOLD_ANEW_SECONDS  # a version that waited for this rollout's end
        return self._next_look(key, plan, snapshot, now, is_settled=agreed is not None, has_nudged=nudged > 0)

    def _next_look(
        self, key: Key, plan: Plan, snapshot: Snapshot, now: datetime, *, is_settled: bool, has_nudged: bool
    ) -> float | None:
        """The deadline of a rollout; and while agents work, a look at them: soon at first, then less often."""
        waits = []
        if not is_settled and self._clock.monotonic() < self._routed_at.get(key, -1e9) + PROMPT_SECONDS:
            waits.append(PROMPT_LOOK_SECONDS)
        if plan.wake_at is not None:
            waits.append(max(0.1, (plan.wake_at - now).total_seconds()))
        for pod in snapshot.pods:
            if pod.preparing_since and pod.trouble is None and not pod.is_ready and not pod.is_ending:
                waits.append(max(1.0, PREPARING_SECONDS - (now - pod.preparing_since).total_seconds()))
        if is_settled or not any(pod.ip and not pod.is_ending for pod in snapshot.pods):
            self._unsettled_since.pop(key, None)
            for pod in snapshot.pods:
                self._nudged_at.pop(pod.uid, None)
        elif has_nudged:
            waits.append(NUDGE_SECONDS)
        else:
            since = self._unsettled_since.setdefault(key, self._clock.monotonic())
            waits.append(min(MAX_POLL_SECONDS, POLL_SECONDS + (self._clock.monotonic() - since) / 10))
        return min(waits, default=None)

    async def _apply_all(
        self, key: Key, uid: str, rendered: Rendered, snapshot: Snapshot
    ) -> tuple[Trouble | None, int]:
        """Apply what differs, in order. Returns what stands in the way, and the number of writes."""
        writes = 0
        for child in rendered.children:
            try:
                answer = await self._apply_one(child, snapshot.live.get((child.kind, child.name)), key, uid)
            except SpecError as error:
                return Trouble(error.reason, error.message), writes
            if answer is not None:
                writes += 1
                self._cache.put(child.kind, answer)
                log.debug("applied", extra={"key": "/".join(key), "kind": child.kind, "child": child.name})
        return None, writes

    async def _apply_one(self, child: Child, live: Json | None, key: Key, uid: str) -> Json | None:
        """Create or correct one child. Returns the API server's answer, None when nothing had to be written.

        Raises SpecError when the name is taken, or when the API server will not have the object.
        """
        manifest = child.manifest
        try:
            if live is None:
                created = await self._cluster.create(manifest)
                if created is not None:
                    return created
                live = await self._cluster.read(child.kind, key[0], child.name)
                if live is None:
                    raise TransientError(f"create {child.kind} {child.name}", 409, "it has just been deleted")
                if not is_owned(live, uid):
                    if was_owned(live, key[1]):
                        what = f"create {child.kind} {child.name}"
                        raise TransientError(what, 409, "that of a deleted ModelDeployment of this name is still there")
                    raise _name_conflict(child, key)
                self._cache.put(child.kind, live)  # ours: the watch is late with it
            if differs(manifest, {**live, "apiVersion": manifest["apiVersion"]}):
                return await self._cluster.apply(manifest, live["metadata"]["uid"])
        except TransientError:
            raise
        except ClusterError as error:
            if error.status == 403 and "being terminated" in error.message:
                raise NamespaceGoesError(str(error), error.status, error.message) from error
            raise _refused(child, error) from error
        return None

    async def _prune(self, key: Key, rendered: Rendered, snapshot: Snapshot) -> int:
        """Delete what is ours and no longer rendered."""
        wanted = {(child.kind, child.name) for child in rendered.children}
        writes = 0
        for (kind, name), live in snapshot.live.items():
            if revision_of(live) in rendered.unreadable:
                continue
            if kind == "Service" and revision_of(live) and snapshot.routers and rendered.router_generation is None:
                continue  # routers that end still find the pods by it, for the clients that they still have
            if kind in PRUNED_KINDS and (kind, name) not in wanted and "deletionTimestamp" not in live["metadata"]:
                await self._cluster.delete(kind, key[0], name, live["metadata"]["uid"])
                writes += 1
                log.debug("pruned", extra={"key": "/".join(key), "kind": kind, "child": name})
        return writes

    async def _nudge(self, key: Key, rendered: Rendered, snapshot: Snapshot) -> int:
        """Make kubelets refresh the configuration of pods whose agents or routers still have an older one.

        A pod update makes the kubelet sync its volumes at once, where it would take up to a minute by itself. The two
        watches race, so the value is written anew each time until the new generation is reported.
        """
        writes = 0
        for pod in snapshot.pods:
            wanted = rendered.configured.get(pod.workload)
            if pod.report is not None and wanted is not None and pod.report.generation != wanted:
                writes += await self._tell(key, pod, CONFIG_ANNOTATION, wanted)
        for router in snapshot.routers:
            heard = snapshot.router_reports.get(router.uid)
            if rendered.router_generation is None or (
                heard is not None and heard.generation == rendered.router_generation
            ):
                continue
            if heard is None and snapshot.router_generation in (None, rendered.router_generation):
                continue  # one that starts mounts what is there; but what changes meanwhile must reach it
            writes += await self._tell(key, router, ROUTER_CONFIG_ANNOTATION, rendered.router_generation)
        return writes

    async def _tell(self, key: Key, pod: Pod | RouterPod, annotation: str, generation: str) -> int:
        """Write the generation into a pod, at once when it is new and paced from then on. Returns the writes."""
        if pod.is_ending:
            return 0
        told, _, number = (pod.sent or "").partition(".")
        count = int(number or 0) + 1 if told == generation else 1
        pause = NUDGE_SECONDS if count <= PATIENT_NUDGES else MAX_POLL_SECONDS
        if count > 1 and self._clock.monotonic() < self._nudged_at.get(pod.uid, -1e9) + pause - 0.1:
            return 0
        self._nudged_at[pod.uid] = self._clock.monotonic()
        answer = await self._cluster.annotate_pod(key[0], pod.name, annotation, f"{generation}.{count}")
        if answer is not None:
            self._cache.put("Pod", answer)
        return 1

    async def _count(self, deployment: ModelDeployment, snapshot: Snapshot) -> Reading:
        """What was counted so far, by those who split the requests or by the servers themselves."""
        if snapshot.service_target is not None and snapshot.service_target.is_router:
            return read_counts(snapshot.routers, snapshot.router_reports)
        carried = {workload: here.revision for workload, here in snapshot.workloads.items()}
        return await self._server_counts.read(snapshot.pods, counters_of(deployment, snapshot.revisions, carried))

    async def _golden(self, key: Key, inputs: Inputs, plan: Plan, snapshot: Snapshot) -> Json | Trouble | None:
        """What a revision that isn't stable is asked first; None: nothing. Trouble: that can't be read."""
        gates = inputs.deployment.spec.rollout.gates
        if gates is None or gates.golden is None or plan.state.canary is None or inputs.target.is_rollback:
            return None
        if gates.golden.config_map is None:
            return golden_orders(gates.golden)
        if plan.state.step_index > 0:  # it has requests: what it was asked stays, whatever becomes of the ConfigMap
            return golden_kept(plan, snapshot)
        found = await self._cluster.read("ConfigMap", key[0], gates.golden.config_map.name)
        try:
            return golden_orders(gates.golden, (found.get("data") or {}) if found is not None else None)
        except SpecError as error:
            return Trouble(error.reason, error.message)

    async def _report(
        self,
        key: Key,
        body: Json,
        result: PassResult,
        snapshot: Snapshot,
        stored: ModelDeploymentStatus,
        now: datetime,
        writes: int,
    ) -> None:
        """Write the status if it differs from the stored one, and post events for what changed."""
        status = assess(result, snapshot, stored, now)
        ready = status.condition("Ready")
        self._note_readiness(key, is_ready=ready is not None and ready.status == "True")
        wire = write_status(status)
        if wire != body.get("status"):
            try:
                answer = await self._cluster.apply_status(*key, body["metadata"]["uid"], wire)
            except ClusterError as error:
                if error.status == 404:  # deleted while no watch looked: nothing must be made for it any more
                    self._cache.forget(key)
                raise
            self._cache.put(KIND, answer)
            fresh = self._cache.deployment(key)
            if fresh is not None and fresh | {"status": None} != body | {"status": None}:
                # The answer brought an edit along; its event is older than the answer, and will be no news.
                await self._queue.wake(key)
            writes += 1
            for notice in notices(stored, status):
                await self._cluster.post_event(key[0], _event(key, body, notice, now))
        metrics.PASSES.labels("changed" if writes else "unchanged").inc()
        log.log(
            logging.INFO if writes else logging.DEBUG,
            "passed" if writes else "unchanged",
            extra={"key": "/".join(key), "phase": status.phase, "ready": status.ready, "writes": writes},
        )

    def _note_readiness(self, key: Key, *, is_ready: bool) -> None:
        (self._unready.discard if is_ready else self._unready.add)(key)
        metrics.UNREADY.set(len(self._unready))


def _name_conflict(child: Child, key: Key) -> SpecError:
    return SpecError(
        "NameConflict",
        f"{child.kind} {child.name} exists in namespace {key[0]} and is not this ModelDeployment's. It is left as it "
        f"is: delete or rename it, or give the ModelDeployment another name",
    )


def _refused(child: Child, error: ClusterError) -> SpecError:
    if "exceeded quota" in error.message:
        return SpecError("QuotaExceeded", f"{child.kind} {child.name}: {error.message}. Raise the ResourceQuota")
    return SpecError(
        "Refused",
        f"the API server refuses {child.kind} {child.name}: {error.message}. Correct the part of the spec that it "
        "names (resources, runtime or podTemplate)",
    )


def _event(key: Key, body: Json, notice: Notice, now: datetime) -> Json:
    stamp = write_time(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{key[1]}.", "namespace": key[0]},
        "involvedObject": {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": KIND,
            "namespace": key[0],
            "name": key[1],
            "uid": body["metadata"]["uid"],
        },
        "type": "Warning" if notice.is_warning else "Normal",
        "reason": notice.reason,
        "message": notice.message[:1024],
        "source": {"component": "slipway"},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
