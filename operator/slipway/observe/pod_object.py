"""A pod's object, as far as troubles and waits are read from it.

Invariant: what isn't there or can't be read is absent, never an error.
Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from slipway.model.revision import Json


@dataclass(frozen=True, slots=True)
class PodObject:
    """What a pod's object says.

    node: where it is; None: nowhere yet. conditions: type → condition. starting, main: statuses of the init containers,
    in their order, and of the others. limits: container → its memory limit, as the pod has it.
    has_sandbox: its volumes are mounted and its network is there; what comes then is images and containers.
    """

    name: str
    node: str | None
    conditions: Mapping[str, Json]
    starting: tuple[Json, ...]
    main: tuple[Json, ...]
    limits: Mapping[str, str]
    has_sandbox: bool

    @property
    def containers(self) -> tuple[Json, ...]:
        """All containers' statuses, in the order in which they start."""
        return (*self.starting, *self.main)

    @property
    def where(self) -> str:
        """Its node, as a message names it."""
        return f"node {self.node}" if self.node else "its node"

    def holds(self, kind: str) -> bool:
        """Whether that condition is True."""
        return bool(self.conditions.get(kind, {}).get("status") == "True")

    def holds_since(self, kind: str) -> datetime | None:
        """Since when that condition is True; None: it isn't, or doesn't say."""
        return changed_at(self.conditions.get(kind, {})) if self.holds(kind) else None


def read_pod_object(body: Json) -> PodObject:
    """A pod's object, whole or as the cache keeps it."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    limits = {
        str(container.get("name")): str(memory)
        for container in spec.get("containers") or []
        if (memory := ((container.get("resources") or {}).get("limits") or {}).get("memory"))
    }
    is_ready_to_start = conditions.get("PodReadyToStartContainers", {}).get("status") == "True"
    return PodObject(
        name=body["metadata"]["name"],
        node=spec.get("nodeName") or None,
        conditions=conditions,
        starting=tuple(status.get("initContainerStatuses") or ()),
        main=tuple(status.get("containerStatuses") or ()),
        limits=limits,
        has_sandbox=bool(status.get("podIP")) or is_ready_to_start,
    )


def changed_at(condition: Json) -> datetime | None:
    """When a condition last changed; None: it doesn't say, or not in words of ours."""
    try:
        moment = datetime.fromisoformat(str(condition.get("lastTransitionTime")))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def since_words(moment: datetime | None) -> str:
    """`, since 02:13 UTC`: a message that holds a time must not change with each second. Empty where nobody tells."""
    return f", since {moment.astimezone(UTC):%H:%M} UTC" if moment is not None else ""
