"""What `kubectl get` shows of runtime and versions: of what clients get, never of what the spec asks for.

A first revision replaces none: it stands where the served one will stand, and there is no canary.
Pure.
"""

from __future__ import annotations

from typing import Any

from slipway.api.status import ModelDeploymentStatus, RevisionStatus
from slipway.observe.snapshot import Snapshot
from slipway.report.pass_result import PassResult


def columns(
    result: PassResult,
    snapshot: Snapshot,
    stored: ModelDeploymentStatus,
    stable: RevisionStatus | None,
    canary: RevisionStatus | None,
) -> dict[str, Any]:
    """The fields of the status that columns show. stable, canary: as this pass leaves them."""
    shown, beside = (stable, canary) if stable is not None else (canary, None)
    weight = beside.weight_percent if beside is not None else None
    if beside is not None and result.carried_out is None:  # the spec can't be read: nothing was sent to anyone
        weight = stored.canary_weight_percent
    return {
        "runtime": _runtime(shown, result, snapshot, stored),
        "version": (shown.version if shown is not None else stored.version) or None,
        "canary_version": (beside.version or None) if beside is not None else None,
        "canary_weight_percent": weight,
    }


def _runtime(
    shown: RevisionStatus | None, result: PassResult, snapshot: Snapshot, stored: ModelDeploymentStatus
) -> str | None:
    """The server of the revision, as it is kept; of one that isn't kept yet, the spec's."""
    kept = snapshot.revisions.get(shown.revision) if shown is not None else None
    name = (kept.choice.get("runtime") or {}).get("name") if kept is not None else None
    if name is not None:
        return str(name)
    is_new = result.carried_out is not None and (shown is None or shown.revision == result.revision)
    if is_new or stored.runtime is None:
        return result.carried_out.inputs.deployment.spec.runtime.name if result.carried_out is not None else None
    return stored.runtime
