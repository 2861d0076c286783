"""Plans made for tests, from the fields of the plan and of the state in it side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from slipway.model.revision import Assignment
from slipway.model.rollout import Plan, Promotion
from slipway.model.rollout_state import RolloutState

STATE_FIELDS = {field.name for field in fields(RolloutState)}


def plan_of(
    stable: str | None,
    canary: str | None,
    replicas: Mapping[str, int],
    assignments: Mapping[str, Assignment],
    promotion: Promotion,
    **more: Any,
) -> Plan:
    """A plan after which these two are stable and canary. more: other fields of the plan or of its state."""
    return changed(Plan(RolloutState(stable, canary), replicas, assignments, promotion), **more)


def changed(plan: Plan, **more: Any) -> Plan:
    """The plan with other fields, its own or its state's."""
    of_state = {name: value for name, value in more.items() if name in STATE_FIELDS}
    of_plan = {name: value for name, value in more.items() if name not in STATE_FIELDS}
    return replace(plan, state=replace(plan.state, **of_state), **of_plan)
