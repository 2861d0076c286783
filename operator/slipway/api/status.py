"""What Slipway reports of a ModelDeployment: the `status` subresource.

Everything that the next pass needs and can't observe stands here (stable revision, rejected revisions, the time of the
last progress), so that an operator that is ended anywhere goes on from the object alone.
Invariant: a stored status that this release can't read is treated as empty fields, never as an error.
Must not import: kopf, kubernetes, anything that does I/O.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel


class _Report(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore", frozen=True
    )


FORMER = "A name of release 0.1, which is read and never written."
"""Such a field stays in the schema for a release: the API server would drop it before the operator could read it."""


class RevisionStatus(_Report):
    """A revision that has pods."""

    revision: str = Field(max_length=63, description="Hash of the revision; its objects are <name>-<revision>.")
    version: int = Field(description="The model version it serves.")
    ready_replicas: int = Field(default=0, description="Its ready pods.")
    weight_percent: int | None = Field(default=None, description="Its share of the requests, where one is set.")
    weight_in_force: int | None = Field(
        default=None, description="Its share as the routers say that they split, or as its ready pods make it."
    )
    workload: str | None = Field(
        default=None, max_length=63, description="The Deployment of its pods is <name>-<workload>. Absent: none yet."
    )
    carrier: str | None = Field(default=None, max_length=63, description=FORMER)
    strategy: str | None = Field(
        default=None, max_length=64, description="How it arrives: Canary, InPlace or RollingUpdate."
    )
    rolls_because: str | None = Field(
        default=None, max_length=2048, description="Why it does not arrive in place, where it would by the spec."
    )


class VersionStatus(_Report):
    """One loaded, loading or failed version."""

    version: int = Field(description="Number of the version.")
    state: Literal["Pending", "Fetching", "Verified", "Loading", "Available", "Failed", "Unloading", "Unknown"] = Field(
        description="The least advanced state among the stable revision's pods."
    )
    served: bool = Field(default=False, description="Unversioned requests get this version.")
    reason: str | None = Field(default=None, max_length=128, description="Why it is not available.")
    message: str | None = Field(default=None, max_length=2048, description="In the server's or the store's own words.")
    sha256: str | None = Field(default=None, max_length=64, description="Digest of what was fetched.")
    since: str | None = Field(default=None, max_length=64, description="When it came into this state.")


class Rejected(_Report):
    """A revision that failed and is not tried again by itself."""

    revision: str = Field(max_length=63, description="Hash of the revision.")
    content: str = Field(max_length=63, description="Hash of what the user said about its bytes (pins, paths).")
    reason: str = Field(max_length=128, description="Why it was taken back.")
    message: str = Field(max_length=2048, description="What happened, and what to do.")
    at: str = Field(max_length=64, description="When.")
    stamp: str | None = Field(
        default=None, max_length=128, description="Name of its bytes at their source; other bytes are tried again."
    )


class Condition(_Report):
    """As in every Kubernetes object."""

    type: str = Field(
        max_length=316, description="Ready, Promoted, VersionsReady, Degraded, Reconciling or AgentsOutdated."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(max_length=1024, description="A CamelCase constant.")
    message: str = Field(max_length=32_768, description="What, where, what to do next.")
    observed_generation: int = Field(default=0, description="The generation of the spec that this speaks of.")
    last_transition_time: str = Field(default="", max_length=64, description="When status last changed.")


class StepStatus(_Report):
    """How far a canary is in its steps."""

    index: int = Field(default=0, description="The step, from 1; 0 while it prepares. One more than there are: 100 %.")
    count: int = Field(default=0, description="How many steps there are.")
    since: str | None = Field(
        default=None, max_length=64, description="Its weight is in force, or it pauses, since then."
    )
    paused: bool = Field(default=False, description="A person said pause.")
    promote_requested: bool = Field(default=False, description="A person said promote.")
    hurried: bool | None = Field(default=None, description=FORMER)
    weight_percent: int | None = Field(
        default=None, description="The canary's share by its step. While stable is down it may get more."
    )
    was_stable_down: bool = Field(
        default=False, description="Stable had no ready pod when this revision was asked for, and none since."
    )
    steps: str = Field(default="", max_length=63, description="Hash of the steps that it goes through.")
    waits_for: str | None = Field(default=None, max_length=1024, description="What it waits for, in words.")
    judging: str | None = Field(
        default=None,
        max_length=1024,
        description="That nobody judges the canary, and why; or by what, where spec.rollout.analysis is not written.",
    )


class HaltStatus(_Report):
    """A rollout stands still, through no fault of the new revision; deadline, hold and bake don't count."""

    reason: str = Field(
        max_length=64,
        description="ScaledToZero, StableUnavailable, WaitingForCapacity, OutOfCapacity or RoutersUnavailable.",
    )
    since: str = Field(max_length=64, description="Since when.")


class VerdictStatus(_Report):
    """What the evidence says of the canary."""

    result: Literal["Pass", "Fail", "Inconclusive", "Error"] = Field(
        description="Error: the source of the counts did not answer."
    )
    reason: str = Field(max_length=128, description="A CamelCase constant.")
    message: str = Field(max_length=2048, description="The numbers.")


class Transition(_Report):
    """Something that happened in a rollout."""

    at: str = Field(max_length=64, description="When.")
    revision: str = Field(max_length=63, description="To which revision.")
    reason: str = Field(max_length=128, description="A CamelCase constant.")
    message: str = Field(max_length=1024, description="What, in words.")
    because: str | None = Field(
        default=None, max_length=64, description="Promoted: why it became stable, as in First, StepsDone or Person."
    )


class CommandStatus(_Report):
    """The last command of a person, by the annotation slipway.dev/command."""

    id: str = Field(max_length=128, description="As in the annotation; the same one is never carried out again.")
    verb: str = Field(max_length=32, description="promote, abort, skip, pause, resume, retry, rollback or refresh.")
    revision: str = Field(max_length=63, description="Which revision it speaks of.")
    at: str = Field(max_length=64, description="When it was read.")
    accepted: bool = Field(description="Whether it was carried out.")
    message: str = Field(default="", max_length=1024, description="What it did, or why it was not carried out.")


class Pinned(_Report):
    """`rollback --to`: this revision serves instead of the spec's, until the spec names another."""

    revision: str = Field(max_length=63, description="The revision that serves.")
    instead_of: str = Field(max_length=63, description="The spec's revision at that time.")


class AgentsStatus(_Report):
    """How old the pods' agents are."""

    floor: str = Field(max_length=64, description="The oldest release that the operator vouched for at that look.")
    outdated: int = Field(default=0, description="Pods whose agent is older, or tells no release.")


class TrafficStatus(_Report):
    """Who splits the requests."""

    service_target: str = Field(
        max_length=64, description="What Service <name> reaches: Router, Pods, or one workload's pods."
    )
    entry: str | None = Field(default=None, max_length=64, description=FORMER)
    message: str = Field(default="", max_length=1024, description="Weights that can't be reached; what is missing.")


class ModelDeploymentStatus(_Report):
    """What is running, and how far it is."""

    observed_generation: int = Field(default=0, description="The generation of the spec that was last acted on.")
    phase: str = Field(default="", max_length=64, description="One word for a person; conditions are the API.")
    runtime: str | None = Field(
        default=None, max_length=64, description="The model server of what clients get; before that, of what starts."
    )
    version: int | None = Field(default=None, description="The version that clients get; before that, what starts.")
    canary_version: int | None = Field(
        default=None, description="The version that takes over from another. A first revision takes over from none."
    )
    canary_weight_percent: int | None = Field(default=None, description="Its share of the requests, where one is set.")
    stable: RevisionStatus | None = Field(default=None, description="The revision that serves.")
    canary: RevisionStatus | None = Field(default=None, description="The revision that is taking over.")
    progress_since: str | None = Field(
        default=None, max_length=64, description="When the canary last made progress; its deadline counts from here."
    )
    progress_ready: int = Field(default=0, description="The most ready pods that the canary ever had.")
    weighted_since: str | None = Field(default=None, max_length=64, description=FORMER)
    traffic_since: str | None = Field(
        default=None, max_length=64, description="When the canary got its first requests."
    )
    bake_until: str | None = Field(
        default=None, max_length=64, description="Until then the version before the served one stays loaded."
    )
    previous: RevisionStatus | None = Field(
        default=None, description="The revision before the stable one, kept warm until bake is over."
    )
    step: StepStatus | None = Field(default=None, description="How far the canary is.")
    halt: HaltStatus | None = Field(default=None, description="Why nothing advances now.")
    ends_before: dict[str, int] | None = Field(
        default=None,
        description="Pod uid → how often its server had ended before the canary got its first requests.",
        json_schema_extra={"x-slipway-open": True},
    )
    verdict: VerdictStatus | None = Field(default=None, description="What the evidence says of the canary.")
    evidence: dict[str, Any] | None = Field(
        default=None,
        description="What was counted so far, for the next look; only Slipway reads it.",
        json_schema_extra={"x-slipway-open": True},
    )
    traffic: TrafficStatus | None = Field(default=None, description="Who splits the requests.")
    pinned: Pinned | None = Field(default=None, description="A person's rollback.")
    last_command: CommandStatus | None = Field(default=None, description="A person's last command.")
    transitions: list[Transition] = Field(default_factory=list, max_length=10, description="What happened last.")
    next_look: str | None = Field(
        default=None,
        max_length=64,
        description="When time alone changes something: a hold ends, a deadline passes, bake is over.",
    )
    rejected: list[Rejected] = Field(default_factory=list, max_length=10, description="Revisions that failed.")
    versions: list[VersionStatus] = Field(
        default_factory=list, max_length=256, description="The stable revision's versions."
    )
    listed: list[int] = Field(
        default_factory=list,
        max_length=256,
        description="The newest versions at the URI; with a version named, up to that one.",
    )
    settled: str | None = Field(
        default=None, max_length=63, description="Hash of the pods and configuration whose agents all agree."
    )
    agents: AgentsStatus | None = Field(default=None, description="How old the pods' agents are.")
    replicas: int = Field(default=0, description="Pods of all revisions.")
    ready_replicas: int = Field(default=0, description="Ready pods of all revisions.")
    ready: str = Field(default="", max_length=32, description="Ready pods of the wanted number.")
    selector: str = Field(default="", max_length=512, description="Label selector of the pods, for autoscalers.")
    conditions: list[Condition] = Field(default_factory=list, max_length=16, description="The state, in conditions.")

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, or None."""
        return next((condition for condition in self.conditions if condition.type == kind), None)


FORMER_NAMES = {
    "carrier": "workload",
    "entry": "serviceTarget",
    "hurried": "promoteRequested",
    "weightedSince": "trafficSince",
}
"""What 0.1 called fields. A status that it wrote in mid-rollout is read under today's names, and written so."""


def read_status(stored: dict[str, Any] | None) -> ModelDeploymentStatus:
    """A stored status. Fields that can't be read (another release, a person's edit) count as absent."""
    stored = _under_names_of_today(dict(stored or {}))
    while True:
        try:
            return ModelDeploymentStatus.model_validate(stored)
        except ValidationError as error:
            unreadable = {str(problem["loc"][0]) for problem in error.errors()} & stored.keys()
            if not unreadable:
                return ModelDeploymentStatus()
            for field in unreadable:
                del stored[field]


def _under_names_of_today(stored: dict[str, Any]) -> dict[str, Any]:
    """The status and the parts of it that had other names."""
    renamed = {FORMER_NAMES.get(to_camel(name), name): value for name, value in stored.items()}
    for part in ("stable", "canary", "previous", "step", "traffic"):
        if isinstance(renamed.get(part), dict):
            renamed[part] = {FORMER_NAMES.get(to_camel(name), name): value for name, value in renamed[part].items()}
    return renamed


def write_status(status: ModelDeploymentStatus) -> dict[str, Any]:
    """The status as JSON, absent values left out."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def read_time(text: object) -> datetime | None:
    """A time as `write_time` writes it; None when there is none to read."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) and text else None
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else None


def write_time(moment: datetime) -> str:
    """RFC 3339 with seconds, in UTC, as Kubernetes writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
