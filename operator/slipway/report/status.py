"""What a person and a script read: conditions, versions, phase; and the events that tell of changes.

Ready: stable serves. Promoted: the spec's revision is the stable one. VersionsReady: the policy's other versions too.
Degraded: something needs a person. Every reason is stable API (docs/conditions.md lists them); every message says what,
where and what to do.
Invariant: a status is a function of what was observed and planned; assessed twice, it is the same, so nothing is
written when nothing changed. Times change only with what they date.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from slipway.api import ModelDeployment, SpecError
from slipway.api.status import (
    CommandStatus,
    Condition,
    ModelDeploymentStatus,
    Pinned,
    Rejected,
    RevisionStatus,
    StepStatus,
    TrafficStatus,
    Transition,
    VerdictStatus,
    VersionStatus,
    read_time,
    write_time,
)
from slipway.decide.commands import Obeyed
from slipway.decide.discovery import MAX_LISTED, listing_trouble, needs_agents_listing, of_same_place
from slipway.decide.inputs import Stock
from slipway.decide.service_target import in_force_now
from slipway.decide.signals import Weighed
from slipway.decide.steps import unreachable_weights, wants_router
from slipway.model.names import MODEL_LABEL, router_label, selector_of
from slipway.model.revision import Json
from slipway.model.rollout import ABSENT, NO_PROGRESS, Plan, Promotion, Step, carrier_of, enough
from slipway.model.signals import Verdict
from slipway.observe.agent_reports import REFUSALS
from slipway.observe.pods import Pod
from slipway.observe.problems import Trouble
from slipway.observe.service import ROUTER, Entry
from slipway.observe.snapshot import Observed
from slipway.render.desired import Rendered

STATE_ORDER = ("Failed", "Unknown", "Pending", "Fetching", "Verified", "Loading", "Unloading", "Available")
MAX_REJECTED = 10
MAX_TRANSITIONS = 10
OTHER_BYTES = "ContentChanged"
ENDS = frozenset({Promotion.PROMOTED, Promotion.ROLLED_BACK})


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
    plan: None exactly when there is a spec error. load: the versions that the agents of what serves were told to load.
    stamps: version → name of its bytes at the source, as far as known now.
    rolls_because: why the new revision can't arrive in place. listing: why versions can't be found.
    are_settled: every pod's agent agrees with its configuration, so the stored versions still hold.
    remembered: what is still held against revisions. obeyed: what a person's command came to. steps: of the canary.
    evidence: the accumulators to keep. entry: what the Service reaches; None: requests aren't split.
    unreachable: which weights the provider can't make. pinned: a person's rollback that stands.
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
    stamps: Mapping[int, str | None] = field(default_factory=dict)
    rolls_because: str | None = None
    listing: Trouble | None = None
    remembered: tuple[Rejected, ...] = ()
    obeyed: Obeyed | None = None
    steps: tuple[Step, ...] = ()
    verdict: Verdict | None = None
    evidence: Json | None = None
    entry: Entry | None = None
    unreachable: str = ""
    pinned: Pinned | None = None


def judge_unreadable(body: Json, observed: Observed, stored: ModelDeploymentStatus, error: SpecError) -> Judged:
    """With a spec that can't be carried out, what serves goes on as it is."""
    home = carrier_of(stored.stable.revision, observed.carriers) if stored.stable else None
    stable = observed.carriers.get(home or "", ABSENT)
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


def sum_up(
    stock: Stock,
    plan: Plan,
    rendered: Rendered,
    observed: Observed,
    weighed: Weighed,
    problem: Trouble | None,
    *,
    are_settled: bool,
    settled: str | None,
) -> Judged:
    """What a pass that carried a plan out found out. settled: the hash of what agrees now."""
    asked, deployment, desired = stock.asked, stock.deployment, stock.arrival.revision
    shown = plan.stable or plan.canary or ""
    home = carrier_of(shown, observed.carriers) or stock.arrival.carrier
    tells_listed = needs_agents_listing(asked) and (
        shown in of_same_place(deployment, observed) or desired.version == 0
    )
    return Judged(
        name=deployment.name,
        generation=deployment.generation,
        replicas=deployment.spec.replicas,
        revision=desired.hash,
        version=desired.version,
        problem=problem,
        plan=plan,
        load=rendered.load.get(home, ()),
        listed=stock.listed if tells_listed else (),
        are_settled=are_settled,
        settled=settled,
        stamps=stock.stamps,
        rolls_because=stock.arrival.rolls_because,
        listing=listing_trouble(asked, observed),
        remembered=stock.remembered,
        obeyed=stock.obeyed,
        steps=stock.steps,
        verdict=weighed.verdict,
        evidence=weighed.evidence if plan.canary is not None or plan.previous is not None else None,
        entry=rendered.entry,
        unreachable=unreachable_weights(deployment) or _without_router(deployment, rendered),
        pinned=stock.obeyed.pinned,
    )


def _without_router(deployment: ModelDeployment, rendered: Rendered) -> str:
    """That there is no router where one is wanted, and how to look; empty when there is."""
    if not wants_router(deployment) or rendered.entry.is_router:
        return ""
    return (
        "no router is in force yet, so requests reach pods directly; see them with: "
        f"kubectl get pods -l {MODEL_LABEL}={router_label(deployment.name)}"
    )


def assess(judged: Judged, observed: Observed, stored: ModelDeploymentStatus, now: datetime) -> ModelDeploymentStatus:
    """The status to show."""
    plan = judged.plan
    stable = plan.stable if plan else stored.stable.revision if stored.stable else None
    canary = plan.canary if plan else stored.canary.revision if stored.canary else None
    previous = plan.previous if plan else stored.previous.revision if stored.previous else None
    rejected = _remember(judged, stored, observed, now)
    pods = [pod for pod in observed.pods if not pod.is_ending]
    ready = sum(pod.is_ready for pod in pods)
    if plan is not None and plan.weights is not None and stable is not None:  # a canary's pods serve only its share
        home = carrier_of(stable, observed.carriers) or ""
        ready = observed.carriers.get(home, ABSENT).ready
        if judged.entry == ROUTER and (reached := _reached(home, observed, is_split=canary is not None)) is not None:
            ready = min(ready, reached)  # no request gets to the others yet
        ready += _in_their_place(plan, observed, home, judged.replicas)
    shown = carrier_of(stable or canary or "", observed.carriers) or stable or canary
    served = _version_of(stable or canary, judged, observed, stored)
    versions = _versions(judged, [pod for pod in pods if pod.carrier == shown], served, stored)[-MAX_LISTED:]
    conditions = [
        _ready(judged, observed, stable, canary, ready),
        _promoted(judged, observed, canary, stable, rejected),
        _versions_ready(judged, versions, _labels(judged, [pod for pod in pods if pod.carrier == shown])),
    ]
    conditions.append(_degraded(judged, observed, conditions, stable, canary))
    return ModelDeploymentStatus(
        observed_generation=judged.generation,
        phase=_phase(judged, conditions, stable, canary),
        stable=_revision_status(stable, judged, observed, stored.stable or stored.previous),
        canary=_revision_status(canary, judged, observed, stored.canary),
        previous=_revision_status(previous, judged, observed, stored.previous or stored.stable),
        step=_step(judged, stored),
        verdict=_verdict(judged) if plan else stored.verdict,
        evidence=judged.evidence if plan else stored.evidence,
        traffic=_traffic(judged) if plan else stored.traffic,
        pinned=judged.pinned if plan else stored.pinned,
        last_command=_command(judged, stored, now),
        transitions=_transitions(judged, stored, rejected, now),
        progress_since=_kept_time(plan.progress_since, stored.progress_since) if plan else stored.progress_since,
        progress_ready=plan.canary_ready if plan else stored.progress_ready,
        weighted_since=_kept_time(plan.weighted_since, stored.weighted_since) if plan else stored.weighted_since,
        bake_until=_kept_time(plan.bake_until, stored.bake_until) if plan else stored.bake_until,
        next_look=_kept_time(plan.turns_at, stored.next_look) if plan else stored.next_look,
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


def _reached(home: str, observed: Observed, *, is_split: bool) -> int | None:
    """Pods of stable that each router which answers sends requests to; None: none answers.

    Once nothing is split, one that still sends them elsewhere reaches none: what is there may be gone.
    """
    ready = [pod.uid for pod in observed.routers if pod.is_ready and not pod.is_ending]
    heard = [observed.router_reports[uid] for uid in ready if uid in observed.router_reports]
    return min(
        (each.endpoints.get(home, 0) if is_split or each.weights.get(home) else 0 for each in heard), default=None
    )


def _in_their_place(plan: Plan, observed: Observed, home: str, replicas: int) -> int:
    """Ready pods of the canary that, with Swap, stand where stable's stood: they were asked to make room."""
    instead = replicas - plan.replicas.get(home, replicas)
    canary = carrier_of(plan.canary, observed.carriers) if plan.canary is not None else None
    return min(instead, observed.carriers[canary].ready) if canary is not None and canary != home else 0


def _remember(judged: Judged, stored: ModelDeploymentStatus, observed: Observed, now: datetime) -> list[Rejected]:
    if judged.plan is None:
        return stored.rejected
    kept = list(judged.remembered)
    gone = judged.plan.newly_rejected
    if gone is None:
        return kept
    home = carrier_of(gone.revision, observed.carriers) or gone.revision
    refusal = _refusal(observed, home, judged.version)
    trouble = refusal or observed.troubles.get(home) or _stood_in_the_way(judged, stored)
    why = f"{trouble.reason}: {trouble.message}" if trouble else "its pods did not become ready"
    is_final = refusal is not None and refusal.reason in REFUSALS  # else the deadline decided
    late = "" if is_final else "no progress within spec.rollout.progressDeadlineSeconds; "
    reason, message = trouble.reason if trouble else NO_PROGRESS, f"{late}{why}"
    if (cause := judged.plan.cause) is not None and cause.reason:
        reason, message = cause.reason, f"{cause.reason}: {cause.message}"
    entry = Rejected(
        revision=gone.revision,
        content=gone.content,
        reason=reason,
        message=message[:2048],
        at=write_time(now),
        stamp=judged.stamps.get(judged.version),
    )
    return [*kept, entry][-MAX_REJECTED:]


def _refusal(observed: Observed, carrier: str, version: int) -> Trouble | None:
    """What an agent says against a version that it was to serve, while the one before goes on serving."""
    for pod in observed.pods:
        report = pod.report.version(version) if pod.report and pod.carrier == carrier else None
        if report is not None and report.state == "Failed":
            return Trouble(report.reason or "Failed", f"version {version}: {report.message}")
    return None


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
    home = carrier_of(revision, observed.carriers)
    here = observed.carriers.get(home or "")
    plan = judged.plan
    is_canary = plan is not None and plan.canary == revision
    shares = is_canary and plan is not None and plan.stable and carrier_of(plan.stable, observed.carriers) == home
    before = stored if stored and stored.revision == revision else None
    if plan is None and before is not None:
        strategy, because = before.strategy, before.rolls_because
    elif is_canary:
        strategy = "InPlace" if shares else "RollingUpdate" if plan is None or plan.weights is None else "Canary"
        because = (judged.rolls_because or (before.rolls_because if before else None) or "")[:2048] or None
    else:
        strategy, because = None, None
    weight = in_force = None
    if plan is not None and plan.weights is not None and home is not None:
        weight = plan.weights.get(home, 0)
        split = in_force_now(observed.entry, observed.by_router, observed.carriers, wants_router=bool(observed.routers))
        in_force = split.weights.get(home, 0) if split is not None else None
        if split is None and before is not None and (judged.are_settled or judged.settled is not None):
            in_force = before.weight_in_force
    return RevisionStatus(
        weight_percent=weight,
        weight_in_force=in_force,
        revision=revision,
        version=_version_known(revision, judged, observed, stored),
        ready_replicas=(here.switched if here.replaces and is_canary else here.ready) if here else 0,
        carrier=home,
        strategy=strategy,
        rolls_because=because,
    )


def _version_of(revision: str | None, judged: Judged, observed: Observed, stored: ModelDeploymentStatus) -> int:
    if revision is None:
        return judged.version
    before = stored.stable if stored.stable and stored.stable.revision == revision else stored.canary
    return _version_known(revision, judged, observed, before)


def _version_known(revision: str, judged: Judged, observed: Observed, stored: RevisionStatus | None) -> int:
    known = observed.revisions.get(revision)
    if known is not None:
        return known.version
    return stored.version if stored and stored.revision == revision else judged.version


def _versions(judged: Judged, pods: list[Pod], served: int, stored: ModelDeploymentStatus) -> list[VersionStatus]:
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
        digests = sorted({report.sha256 for report in reports if report.state == "Available" and report.sha256})
        worst = min(reports, key=lambda report: STATE_ORDER.index(known_state(report.state)), default=None)
        digest = next((report.sha256 for report in reports if report.sha256), None)
        was = before.get(version)
        unheard = "Available" if judged.settled is not None else "Unknown"
        state = known_state(worst.state) if worst else unheard
        since = was.since if was and was.since and was.state == state else worst.since if worst else None
        found.append(
            VersionStatus.model_validate(
                {
                    "version": version,
                    "state": state,
                    "served": version == served,
                    "reason": OTHER_BYTES if len(digests) > 1 else (worst.reason or None) if worst else None,
                    "message": _differing(digests) or ((worst.message[:2048] or None) if worst else None),
                    "sha256": digest or (was.sha256 if was else None),
                    "since": since,
                }
            )
        )
    return found


def _differing(digests: list[str]) -> str | None:
    """What to say when pods hold different bytes under one number: they fetched while these changed."""
    if len(digests) < 2:
        return None
    return (
        f"pods hold different bytes: {', '.join(digest[:12] for digest in digests)}. Pin the right ones in "
        "spec.model.sha256: the others are fetched again"
    )


def known_state(state: str) -> str:
    """A state that an agent reports, or Unknown: agents may be newer than the operator."""
    return state if state in STATE_ORDER else "Unknown"


def _ready(judged: Judged, observed: Observed, stable: str | None, canary: str | None, ready: int) -> Condition:
    if judged.replicas == 0:
        return _condition("Ready", False, "ScaledToZero", "spec.replicas is 0: nothing serves")
    if stable is not None and ready >= enough(judged.replicas):
        return _condition("Ready", True, "MinimumReplicasReady", f"{ready} of {judged.replicas} pods serve")
    trouble = _trouble(observed, stable) or _trouble(observed, canary)
    if stable is None and judged.problem is not None:
        trouble = judged.problem
    if stable is None and trouble is None and judged.version == 0 and judged.plan is not None:
        if judged.listing is not None:
            return _condition("Ready", False, judged.listing.reason, judged.listing.message)
        return _condition(
            "Ready",
            False,
            "NoVersionFound",
            "spec.model.uri holds no version yet. Put one there as a folder that is called like its number "
            f"(1, 2, 3 …); it is served as soon as it is found{_waits(observed)}",
        )
    if trouble:
        return _condition("Ready", False, trouble.reason, trouble.message)
    return _condition("Ready", False, "Deploying", f"{ready} of {judged.replicas} pods are ready{_waits(observed)}")


def _trouble(observed: Observed, revision: str | None) -> Trouble | None:
    """What keeps a revision's pods from being ready."""
    return observed.troubles.get(carrier_of(revision, observed.carriers) or revision) if revision else None


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
        case Promotion.PAUSED:
            return _condition(
                "Promoted", False, "Paused", f"revision {judged.revision} waits for {judged.plan.waits_for}"
            )
        case Promotion.ROLLED_BACK if judged.pinned is not None and stable == judged.pinned.revision:
            return _condition(
                "Promoted",
                False,
                "RolledBack",
                f"a person rolled back to revision {judged.pinned.revision}; the spec's, {judged.pinned.instead_of}, "
                "is not tried again until the spec asks for another revision, or kubectl slipway retry",
            )
        case Promotion.ROLLED_BACK:
            why = next((entry.message for entry in reversed(rejected) if entry.revision == judged.revision), "")
            return _condition(
                "Promoted",
                False,
                "RolledBack",
                f"revision {judged.revision} was taken back and {stable} serves: {why}. It is not tried again until "
                "the spec asks for another revision, or kubectl slipway retry",
            )
        case Promotion.IN_PROGRESS:
            trouble = _trouble(observed, canary)
            text = f"revision {judged.revision} takes over"
            if judged.plan.previous is not None:
                text = f"revision {judged.revision} is stable and bakes until {_clock(judged.plan.bake_until)}"
            elif judged.plan.waits_for:
                text += f"; it waits for {judged.plan.waits_for}"
            if judged.rolls_because:
                text += f" in pods of its own: {judged.rolls_because}"
            return _condition(
                "Promoted", False, "InProgress", f"{text}; {trouble.reason}: {trouble.message}" if trouble else text
            )


def _labels(judged: Judged, pods: list[Pod]) -> Trouble | None:
    """A label that can't stand where it should, in any pod."""
    if judged.plan is None or judged.are_settled:
        return None
    return next((trouble for pod in pods if pod.report for trouble in pod.report.labels), None)


def _versions_ready(judged: Judged, versions: list[VersionStatus], label: Trouble | None) -> Condition:
    bad = [version for version in versions if version.state == "Failed" or version.reason == OTHER_BYTES]
    if bad:
        text = "; ".join(f"version {version.version}: {version.reason}: {version.message}" for version in bad)
        return _condition("VersionsReady", False, bad[0].reason or "Failed", text)
    if label is not None:
        return _condition("VersionsReady", False, label.reason, label.message)
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
    troubles = (judged.problem, _trouble(observed, canary), _trouble(observed, stable), judged.listing)
    found = next((trouble for trouble in troubles if trouble is not None and trouble.needs_person), None)
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
    if judged.plan is not None and judged.plan.promotion is Promotion.PAUSED:
        return "Paused"
    if stable is not None and canary is not None:
        return "RollingOut"
    if judged.plan is not None and judged.plan.previous is not None and is_ready:
        return "Baking"
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


def _clock(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%H:%M:%S} UTC" if moment else "its end"


def _step(judged: Judged, stored: ModelDeploymentStatus) -> StepStatus | None:
    plan = judged.plan
    if plan is None:
        return stored.step
    if plan.canary is None or plan.weights is None or plan.stable is None:
        return None
    return StepStatus(
        index=plan.step_index,
        count=len(judged.steps),
        since=_kept_time(plan.step_since, stored.step.since if stored.step else None),
        paused=plan.is_paused,
        hurried=plan.is_hurried,
        waits_for=plan.waits_for[:1024] or None,
    )


def _verdict(judged: Judged) -> VerdictStatus | None:
    verdict = judged.verdict
    if verdict is None:
        return None
    return VerdictStatus.model_validate(
        {"result": verdict.outcome.value, "reason": verdict.reason, "message": verdict.message[:2048]}
    )


def _traffic(judged: Judged) -> TrafficStatus | None:
    entry = judged.entry
    if entry is None or judged.plan is None or judged.plan.weights is None:
        return None
    name = "Router" if entry.is_router else entry.carrier or "Pods"
    return TrafficStatus(entry=name, message=judged.unreachable[:1024])


def _command(judged: Judged, stored: ModelDeploymentStatus, now: datetime) -> CommandStatus | None:
    obeyed = judged.obeyed
    if judged.plan is None or obeyed is None or obeyed.command is None:
        return stored.last_command
    command = obeyed.command
    return CommandStatus(
        id=command.id,
        verb=command.verb,
        revision=command.revision,
        at=write_time(now),
        accepted=obeyed.is_accepted,
        message=obeyed.message[:1024],
    )


def _transitions(
    judged: Judged, stored: ModelDeploymentStatus, rejected: list[Rejected], now: datetime
) -> list[Transition]:
    """The story so far: each line once, told from what this pass changed."""
    plan, told = judged.plan, list(stored.transitions)
    if plan is None:
        return told

    def tell(revision: str, reason: str, message: str) -> None:
        told.append(Transition(at=write_time(now), revision=revision, reason=reason, message=message[:1024]))

    obeyed = judged.obeyed
    if obeyed is not None and obeyed.command is not None and obeyed.is_accepted:
        tell(obeyed.command.revision, "Command", f"{obeyed.command.verb}: {obeyed.message}")
    was_canary = stored.canary.revision if stored.canary else None
    was_stable = stored.stable.revision if stored.stable else None
    was_previous = stored.previous.revision if stored.previous else None
    before = stored.step.index if stored.step and was_canary == plan.canary else 0
    if plan.canary is not None and plan.canary != was_canary and plan.stable is not None:
        tell(plan.canary, "Started", f"revision {plan.canary} prepares beside {plan.stable}")
    if plan.canary is not None and plan.step_index > before and plan.weights is not None:
        step = judged.steps[plan.step_index - 1]
        what = "a pause" if step.is_pause else f"weight {step.weight_percent}"
        tell(plan.canary, "Step", f"step {plan.step_index} of {len(judged.steps)} begins: {what}")
    if plan.newly_rejected is not None:
        why = next((each.message for each in reversed(rejected) if each.revision == plan.newly_rejected.revision), "")
        tell(plan.newly_rejected.revision, "RolledBack", f"back to revision {plan.stable}: {why}")
    elif plan.cause is not None and plan.stable != was_stable:  # in bake, while the spec names another revision
        message = f"back to revision {plan.stable}: {plan.cause.reason}: {plan.cause.message}"
        tell(was_stable or "", "RolledBack", message)
    elif plan.stable is not None and plan.stable != was_stable:
        bakes = f"; revision {plan.previous} stays warm until {_clock(plan.bake_until)}" if plan.previous else ""
        tell(plan.stable, "Promoted", f"revision {plan.stable} gets all requests{bakes}")
    if was_previous is not None and plan.previous is None and plan.newly_rejected is None and plan.stable == was_stable:
        tell(plan.stable or "", "Baked", f"the bake is over; revision {was_previous} goes")
    return told[-MAX_TRANSITIONS:]


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
        found.setdefault(
            new.reason, Notice(not is_good and new.reason not in ("InProgress", "Paused"), new.reason, new.message)
        )
    told = before.transitions[-1] if before.transitions else None
    fresh = after.transitions[after.transitions.index(told) + 1 :] if told in after.transitions else after.transitions
    for transition in fresh:
        if transition.reason == "RolledBack":
            found.setdefault("RolledBack", Notice(True, "RolledBack", transition.message))
        if transition.reason == "Promoted" and (before.stable is None or not found.keys().isdisjoint(ENDS)):
            continue  # Ready tells the first revision, condition Promoted one that ends without a bake
        if transition.reason in ("Started", "Step", "Promoted", "Baked", "Command"):
            found.setdefault(
                f"Rollout{transition.reason}", Notice(False, f"Rollout{transition.reason}", transition.message)
            )
    return list(found.values())
