"""What a ModelDeployment waits for, in words: room, an image, its agents; and a first revision that is overdue.

Invariant: what is waited for is named with the moment since when, never with the seconds that went by: each write of
status wakes its watchers.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from slipway.model.rollout import NO_PROGRESS, Promotion
from slipway.model.workload import ABSENT, Trouble, Workload, workload_of
from slipway.observe.pods import Pod
from slipway.observe.room import PULLING
from slipway.observe.snapshot import Snapshot
from slipway.report.pass_result import PassResult

ON_ITS_WAY_SILENTLY = ("Available", "Pending")
"""States of a version that a person who waits learns nothing from."""


def trouble_of(snapshot: Snapshot, revision: str | None) -> Trouble | None:
    """What keeps a revision's pods from being ready."""
    return snapshot.troubles.get(workload_of(revision, snapshot.workloads) or revision) if revision else None


def room_for(snapshot: Snapshot, revision: str | None) -> Trouble | None:
    """What a revision's pods wait for that it didn't do wrong."""
    return _workload(snapshot, revision).waits_for_room


def pull_of(pods: Iterable[Pod]) -> str:
    """That a pod's image is being pulled, and since when; empty where none is."""
    pulls = (pod.trouble for pod in pods if not pod.is_ready and not pod.is_ending)
    return next((each.message for each in pulls if each is not None and each.reason == PULLING), "")


def doings(snapshot: Snapshot) -> str:
    """What pods that are not ready do, for a person who waits: a pull, else what their agents do. Begins with `; `."""
    doing = {
        f"version {version.version} is {version.state}"
        for pod in snapshot.pods
        if pod.report is not None
        and not pod.is_ready
        and not pod.is_ending
        # The server of a pod whose image is being pulled isn't there: nothing loads in it, whatever its agent hopes.
        and (pod.trouble is None or pod.trouble.reason != PULLING)
        for version in pod.report.versions
        if version.state not in ON_ITS_WAY_SILENTLY
    }
    found = [each for each in (pull_of(snapshot.pods), *sorted(doing)) if each]
    return f"; {', '.join(found)}" if found else ""


def overdue(result: PassResult, snapshot: Snapshot, now: datetime) -> Trouble | None:
    """That a first revision is past its deadline; None: it isn't, or it waits for what isn't its fault.

    There is nothing to take it back to, so it is tried on and on: a person has to know.
    """
    carried = result.carried_out
    if carried is None or result.replicas == 0 or carried.plan.promotion is not Promotion.IN_PROGRESS:
        return None
    state, seconds = carried.plan.state, carried.inputs.target.deadline_seconds
    if state.stable is not None or state.canary is None or state.progress_since is None:
        return None
    here = _workload(snapshot, state.canary)
    is_nothing_to_serve = result.version == 0 and result.listing is None
    if here.waits_for_room is not None or here.is_fetching or is_nothing_to_serve:
        return None
    if now < state.progress_since + timedelta(seconds=seconds):
        return None
    trouble = trouble_of(snapshot, state.canary) or result.listing
    why = f"{trouble.reason}: {trouble.message}" if trouble else doings(snapshot).removeprefix("; ")
    return Trouble(
        NO_PROGRESS,
        f"revision {state.canary}, the first one, has made no progress since "
        f"{state.progress_since.astimezone(UTC):%H:%M} UTC, for more than spec.rollout.progressDeadlineSeconds "
        f"({seconds}). It is tried on. {why or 'Its pods tell nothing; see kubectl describe pod, and their logs'}",
    )


def _workload(snapshot: Snapshot, revision: str | None) -> Workload:
    return snapshot.workloads.get(workload_of(revision, snapshot.workloads) or "", ABSENT) if revision else ABSENT
