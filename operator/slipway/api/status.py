"""What Slipway reports of a ModelDeployment: the `status` subresource.

Everything that the next pass needs and can't observe stands here (stable revision, rejected revisions, the time of the
last progress), so that an operator that is ended anywhere goes on from the object alone.
Invariant: a stored status that this release can't read is treated as empty fields, never as an error.
Must not import: kopf, kubernetes, anything that does I/O.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel


class _Report(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore", frozen=True
    )


class RevisionStatus(_Report):
    """A revision that has pods."""

    revision: str = Field(max_length=63, description="Hash of the revision; its objects are <name>-<revision>.")
    version: int = Field(description="The model version it serves.")
    ready_replicas: int = Field(default=0, description="Its ready pods.")
    weight_percent: int | None = Field(default=None, description="Its share of the requests, where one is set.")


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


class Rejected(_Report):
    """A revision that failed and is not tried again by itself."""

    revision: str = Field(max_length=63, description="Hash of the revision.")
    content: str = Field(max_length=63, description="Hash of what the user said about its bytes (pins, paths).")
    reason: str = Field(max_length=128, description="Why it was taken back.")
    message: str = Field(max_length=2048, description="What happened, and what to do.")
    at: str = Field(max_length=64, description="When.")


class Condition(_Report):
    """As in every Kubernetes object."""

    type: str = Field(max_length=316, description="Ready, Promoted, VersionsReady or Degraded.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(max_length=1024, description="A CamelCase constant.")
    message: str = Field(max_length=32_768, description="What, where, what to do next.")
    observed_generation: int = Field(default=0, description="The generation of the spec that this speaks of.")
    last_transition_time: str = Field(default="", max_length=64, description="When status last changed.")


class ModelDeploymentStatus(_Report):
    """What is running, and how far it is."""

    observed_generation: int = Field(default=0, description="The generation of the spec that was last acted on.")
    phase: str = Field(default="", max_length=64, description="One word for a person; conditions are the API.")
    stable: RevisionStatus | None = Field(default=None, description="The revision that serves.")
    canary: RevisionStatus | None = Field(default=None, description="The revision that is taking over.")
    progress_since: str | None = Field(
        default=None, max_length=64, description="When the canary last made progress; its deadline counts from here."
    )
    progress_ready: int = Field(default=0, description="The most ready pods that the canary ever had.")
    rejected: list[Rejected] = Field(default_factory=list, max_length=10, description="Revisions that failed.")
    versions: list[VersionStatus] = Field(
        default_factory=list, max_length=256, description="The stable revision's versions."
    )
    listed: list[int] = Field(
        default_factory=list, max_length=256, description="The newest versions seen at the URI, up to the served one."
    )
    settled: str | None = Field(
        default=None, max_length=63, description="Hash of the pods and configuration whose agents all agree."
    )
    replicas: int = Field(default=0, description="Pods of all revisions.")
    ready_replicas: int = Field(default=0, description="Ready pods of all revisions.")
    ready: str = Field(default="", max_length=32, description="Ready pods of the wanted number.")
    selector: str = Field(default="", max_length=512, description="Label selector of the pods, for autoscalers.")
    conditions: list[Condition] = Field(default_factory=list, max_length=16, description="The state, in conditions.")

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, or None."""
        return next((condition for condition in self.conditions if condition.type == kind), None)


def read_status(stored: dict[str, Any] | None) -> ModelDeploymentStatus:
    """A stored status. Fields that can't be read (another release, a person's edit) count as absent."""
    stored = dict(stored or {})
    while True:
        try:
            return ModelDeploymentStatus.model_validate(stored)
        except ValidationError as error:
            unreadable = {str(problem["loc"][0]) for problem in error.errors()} & stored.keys()
            if not unreadable:
                return ModelDeploymentStatus()
            for field in unreadable:
                del stored[field]


def write_status(status: ModelDeploymentStatus) -> dict[str, Any]:
    """The status as JSON, absent values left out."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)
