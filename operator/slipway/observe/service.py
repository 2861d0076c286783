"""What Service `<name>` reaches, as it stands.

Invariant: what is read is what the live selector says, never what was decided.
Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipway.model.names import MODEL_LABEL, REVISION_LABEL, router_label
from slipway.model.revision import Json


@dataclass(frozen=True, slots=True)
class ServiceTarget:
    """is_router: the routers. workload: its ready pods; None, without a router: all ready pods."""

    is_router: bool = False
    workload: str | None = None


ROUTER = ServiceTarget(is_router=True)

ALL_PODS = ServiceTarget()


def read_service_target(service: Json | None, name: str) -> ServiceTarget | None:
    """What the live Service selects; None when there is none."""
    if service is None:
        return None
    selector = (service.get("spec") or {}).get("selector") or {}
    if selector.get(MODEL_LABEL) == router_label(name):
        return ROUTER
    return ServiceTarget(workload=selector.get(REVISION_LABEL))
