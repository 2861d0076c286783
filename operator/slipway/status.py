"""What a person and a script read: conditions, versions, phase; and the events that tell of changes.

Ready: stable serves. Promoted: the spec's revision is the stable one. VersionsReady: the policy's other versions too.
Degraded: something needs a person. Every reason is stable API (docs/conditions.md lists them); every message says what,
where and what to do.
Invariant: a status is a function of what was observed and planned; assessed twice, it is the same, so nothing is
written when nothing changed. Times change only with what they date.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from slipway.api import SpecError
from slipway.api.status import Condition, ModelDeploymentStatus, Rejected, RevisionStatus, VersionStatus
from slipway.children import MAX_LISTED
from slipway.manifests import selector_of
from slipway.observe import Observed, Pod, Trouble
from slipway.revisions import Json
from slipway.rollout import ABSENT, NO_PROGRESS, Memory, Plan, Promotion, Rejection, enough

STATE_ORDER = ("Failed", "Unknown", "Pending", "Fetching", "Verified", "Loading", "Unloading", "Available")
MAX_REJECTED = 10


@dataclass(frozen=True, slots=True)
class Notice:
    """A Kubernetes event to be: something changed that a person wants to know."""

    is_warning: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Judged:
    """What a pass found out, from which the status follows.

    revision, version: what the spec asks for.
    problem: why the spec can't be carried out (a spec error, a name taken by another's object); None when it can.
    plan: None exactly when there is a spec error. load: the versions the shown revision's agents were told to load.
    are_settled: every pod's agent agrees with its configuration, so the stored versions still hold.
    """

    name: str
    generation: int
    replicas: int
    revision: str | None
    version: int
    problem: Trouble | None
    plan: Plan | None
    load: tuple[int, ...]
    listed: tuple[int, ...]
    are_settled: bool
    settled: str | None


def judge_unreadable(body: Json, observed: Observed, stored: ModelDeploymentStatus, error: SpecError) -> Judged:
    """With a spec that can't be carried out, what serves goes on as it is."""
    stable = observed.deployments.get(stored.stable.revision, ABSENT) if stored.stable else ABSENT
    replicas = (body.get("spec") or {}).get("replicas")
    return Judged(
        name=body["metadata"]["name"],
        generation=int(body["metadata"].get("generation", 0)),
        replicas=stable.wanted if stored.stable else replicas if isinstance(replicas, int) else 1,
        revision=None,
        version=0,
        problem=Trouble(error.reason, error.message),
        plan=None,
        load=(),
        listed=tuple(stored.listed),
        are_settled=True,
        settled=stored.settled,
    )


def read_memory(stored: ModelDeploymentStatus, kept: Iterable[str]) -> Memory:
    """What the stored status remembers. `kept`: revisions that still have a ControllerRevision or a Deployment."""
    known = set(kept)
    stable = stored.stable.revision if stored.stable and stored.stable.revision in known else None
    return Memory(
        stable=stable,
        canary=stored.canary.revision if stored.canary else None,
        canary_ready=stored.progress_ready,
        progress_since=read_time(stored.progress_since),
        rejected=tuple(Rejection(entry.revision, entry.content) for entry in stored.rejected),
    )


def read_time(text: str | None) -> datetime | None:
    """A time as `write_time` writes it; None when there is none to read."""
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None


def write_time(moment: datetime) -> str:
    """RFC 3339 with seconds, in UTC, as Kubernetes writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def assess(judged: Judged, observed: Observed, stored: ModelDeploymentStatus, now: datetime) -> ModelDeploymentStatus:
    """The status to show."""
    plan = judged.plan
    stable = plan.stable if plan else stored.stable.revision if stored.stable else None
    canary = plan.canary if plan else stored.canary.revision if stored.canary else None
    rejected = _remember(judged, stored, observed, now)
    pods = [pod for pod in observed.pods if not pod.is_ending]
    ready = sum(pod.is_ready for pod in pods)
    shown = stable or canary
    versions = _versions(judged, [pod for pod in pods if pod.revision == shown], stored)[-MAX_LISTED:]
    conditions = [
        _ready(judged, observed, stable, canary, ready),
        _promoted(judged, observed, canary, stable, rejected),
        _versions_ready(judged, versions),
    ]
    conditions.append(_degraded(judged, observed, conditions, stable, canary))
    return ModelDeploymentStatus(
        observed_generation=judged.generation,
        phase=_phase(judged, conditions, stable, canary),
        stable=_revision_status(stable, judged, observed, stored.stable),
        canary=_revision_status(canary, judged, observed, stored.canary),
        progress_since=_kept_time(plan.progress_since, stored.progress_since) if plan else stored.progress_since,
        progress_ready=plan.canary_ready if plan else stored.progress_ready,
        rejected=rejected,
        versions=versions,
        listed=sorted(judged.listed)[-MAX_LISTED:],
        settled=judged.settled,
        replicas=len(pods),
        ready_replicas=ready,
        ready=f"{ready}/{judged.replicas}",
        selector=selector_of(judged.name),
        conditions=[_dated(condition, judged.generation, stored, now) for condition in conditions],
    )


def _remember(judged: Judged, stored: ModelDeploymentStatus, observed: Observed, now: datetime) -> list[Rejected]:
    if judged.plan is None:
        return stored.rejected
    # Another revision in the spec clears what was remembered of the one before.
    kept = [entry for entry in stored.rejected if entry.revision == judged.revision]
    gone = judged.plan.newly_rejected
    if gone is None:
        return kept
    trouble = observed.troubles.get(gone.revision) or _stood_in_the_way(judged, stored)
    why = f"{trouble.reason}: {trouble.message}" if trouble else "its pods did not become ready"
    entry = Rejected(
        revision=gone.revision,
        content=gone.content,
        reason=trouble.reason if trouble else NO_PROGRESS,
        message=f"no progress within spec.rollout.progressDeadlineSeconds; {why}"[:2048],
        at=write_time(now),
    )
    return [*kept, entry][-MAX_REJECTED:]


def _stood_in_the_way(judged: Judged, stored: ModelDeploymentStatus) -> Trouble | None:
    """What kept this generation from being carried out until now: the API server refused a child, a name was taken."""
    before = stored.condition("Promoted")
    if before is None or before.observed_generation != judged.generation or before.reason in set(Promotion):
        return None
    return Trouble(before.reason, before.message)


def _kept_time(moment: datetime | None, text: str | None) -> str | None:
    """The stored text where it dates the same moment: what is written once is not written otherwise."""
    if moment is None:
        return None
    return text if read_time(text) == moment else write_time(moment)


def _revision_status(
    revision: str | None, judged: Judged, observed: Observed, stored: RevisionStatus | None
) -> RevisionStatus | None:
    if revision is None:
        return None
    known = observed.revisions.get(revision)
    fallback = stored.version if stored and stored.revision == revision else judged.version
    here = observed.deployments.get(revision)
    return RevisionStatus(
        revision=revision, version=known.version if known else fallback, ready_replicas=here.ready if here else 0
    )


def _versions(judged: Judged, pods: list[Pod], stored: ModelDeploymentStatus) -> list[VersionStatus]:
    """Each version to load, with its least advanced state among the pods."""
    if judged.plan is None or judged.are_settled:
        return stored.versions
    before = {version.version: version for version in stored.versions}
    found = []
    for version in judged.load:
        reports = [
            report
            for pod in pods
            if pod.report is not None
            for report in pod.report.versions
            if report.version == version
        ]
        worst = min(reports, key=lambda report: STATE_ORDER.index(known_state(report.state)), default=None)
        digest = next((report.sha256 for report in reports if report.sha256), None)
        was = before.get(version)
        found.append(
            VersionStatus.model_validate(
                {
                    "version": version,
                    "state": known_state(worst.state) if worst else "Unknown",
                    "served": version == judged.load[-1],
                    "reason": (worst.reason or None) if worst else None,
                    "message": (worst.message[:2048] or None) if worst else None,
                    "sha256": digest or (was.sha256 if was else None),
                }
            )
        )
    return found


def known_state(state: str) -> str:
    """A state that an agent reports, or Unknown: agents may be newer than the operator."""
    return state if state in STATE_ORDER else "Unknown"


def _ready(judged: Judged, observed: Observed, stable: str | None, canary: str | None, ready: int) -> Condition:
    if judged.replicas == 0:
        return _condition("Ready", False, "ScaledToZero", "spec.replicas is 0: nothing serves")
    if stable is not None and ready >= enough(judged.replicas):
        return _condition("Ready", True, "MinimumReplicasReady", f"{ready} of {judged.replicas} pods serve")
    trouble = (stable and observed.troubles.get(stable)) or (canary and observed.troubles.get(canary)) or None
    if stable is None and judged.problem is not None:
        trouble = judged.problem
    if trouble:
        return _condition("Ready", False, trouble.reason, trouble.message)
    return _condition("Ready", False, "Deploying", f"{ready} of {judged.replicas} pods are ready{_waits(observed)}")


def _waits(observed: Observed) -> str:
    """What the agents of pods that are not ready do, for a person who waits."""
    doing = {
        f"version {version.version} is {version.state}"
        for pod in observed.pods
        if pod.report is not None and not pod.is_ready and not pod.is_ending
        for version in pod.report.versions
        if version.state not in ("Available", "Pending")
    }
    return f"; {', '.join(sorted(doing))}" if doing else ""


def _promoted(
    judged: Judged, observed: Observed, canary: str | None, stable: str | None, rejected: list[Rejected]
) -> Condition:
    if judged.problem is not None:
        return _condition("Promoted", False, judged.problem.reason, judged.problem.message)
    assert judged.plan is not None  # no plan means a problem
    match judged.plan.promotion:
        case Promotion.PROMOTED:
            return _condition("Promoted", True, "Promoted", f"revision {judged.revision} is stable")
        case Promotion.ROLLED_BACK:
            why = next((entry.message for entry in reversed(rejected) if entry.revision == judged.revision), "")
            return _condition(
                "Promoted",
                False,
                "RolledBack",
                f"revision {judged.revision} was taken back and {stable} serves: {why}. It is not tried again until "
                "the spec changes",
            )
        case Promotion.IN_PROGRESS:
            trouble = observed.troubles.get(canary or "")
            text = f"revision {judged.revision} takes over"
            return _condition(
                "Promoted", False, "InProgress", f"{text}; {trouble.reason}: {trouble.message}" if trouble else text
            )


def _versions_ready(judged: Judged, versions: list[VersionStatus]) -> Condition:
    bad = [version for version in versions if version.state == "Failed"]
    if bad:
        text = "; ".join(f"version {version.version}: {version.reason}: {version.message}" for version in bad)
        return _condition("VersionsReady", False, bad[0].reason or "Failed", text)
    waiting = [version for version in versions if version.state != "Available"]
    if not versions or all(version.state == "Unknown" for version in versions):
        return Condition(
            type="VersionsReady", status="Unknown", reason="NotReported", message="no agent has reported yet"
        )
    if waiting:
        text = ", ".join(f"{version.version} is {version.state}" for version in waiting)
        return _condition("VersionsReady", False, "Loading", f"version {text}")
    loaded = ", ".join(str(version.version) for version in versions)
    return _condition("VersionsReady", True, "AllAvailable", f"loaded: {loaded}")


def _degraded(
    judged: Judged, observed: Observed, conditions: list[Condition], stable: str | None, canary: str | None
) -> Condition:
    troubles: Mapping[str, Trouble] = observed.troubles
    found = judged.problem or next(
        (
            troubles[revision]
            for revision in (canary, stable)
            if revision is not None and revision in troubles and troubles[revision].needs_person
        ),
        None,
    )
    if found:
        return _condition("Degraded", True, found.reason, found.message)
    for condition in conditions:
        has_bad_version = (
            condition.type == "VersionsReady" and condition.status == "False" and condition.reason != "Loading"
        )
        if condition.reason == "RolledBack" or has_bad_version:
            return _condition("Degraded", True, condition.reason, condition.message)
    return _condition("Degraded", False, "AsExpected", "nothing needs a person")


def _phase(judged: Judged, conditions: list[Condition], stable: str | None, canary: str | None) -> str:
    is_ready = conditions[0].status == "True"
    if judged.problem is not None:
        return judged.problem.reason
    if judged.replicas == 0:
        return "ScaledToZero"
    if conditions[1].reason == "RolledBack":
        return "RolledBack"
    if stable is not None and canary is not None:
        return "RollingOut"
    if is_ready:
        return "Ready"
    return conditions[0].reason


def _condition(kind: str, is_true: bool, reason: str, message: str) -> Condition:
    return Condition(type=kind, status="True" if is_true else "False", reason=reason, message=message[:4096])


def _dated(condition: Condition, generation: int, stored: ModelDeploymentStatus, now: datetime) -> Condition:
    before = stored.condition(condition.type)
    same = before is not None and before.status == condition.status and before.last_transition_time
    return condition.model_copy(
        update={
            "observed_generation": generation,
            "last_transition_time": before.last_transition_time if before and same else write_time(now),
        }
    )


def notices(before: ModelDeploymentStatus, after: ModelDeploymentStatus) -> list[Notice]:
    """The events that a change of status is worth: one for each reason that is new."""
    found: dict[str, Notice] = {}
    for kind, good in (("Ready", "True"), ("Promoted", "True"), ("Degraded", "False")):
        old, new = before.condition(kind), after.condition(kind)
        if new is None or (old is not None and (old.status, old.reason) == (new.status, new.reason)):
            continue
        is_good = new.status == good
        if is_good and (old is None or kind == "Degraded"):
            continue
        if new.reason in ("Deploying", "InProgress", "ScaledToZero") and old is None:
            continue
        if is_good and kind == "Promoted" and before.stable is None:
            continue  # the first revision: Ready tells it
        found.setdefault(new.reason, Notice(not is_good and new.reason != "InProgress", new.reason, new.message))
    return list(found.values())
