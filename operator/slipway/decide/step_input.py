"""What one step of a rollout is decided on, and what follows from it at once.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from slipway.model.revision import Orders
from slipway.model.rollout import RolloutState, Target
from slipway.model.signals import NO_EVIDENCE, Signals
from slipway.model.workload import ABSENT, Workload, serving_pods


@dataclass(frozen=True, slots=True)
class StepInput:
    """The arguments of a step, and what follows from them at once. home: the stable revision's workload."""

    target: Target
    state: RolloutState
    workloads: Mapping[str, Workload]
    now: datetime
    stable: str | None
    home: str | None = None
    signals: Signals = field(default=NO_EVIDENCE)

    @property
    def here(self) -> Workload:
        """The pods of the wanted revision's workload."""
        return self.workloads.get(self.target.workload, ABSENT)


def progress_of(given: StepInput) -> tuple[datetime, int]:
    """Since when there was no progress, and the most pods so far that serve the new revision."""
    state, here, now = given.state, given.here, given.now
    served = serving_pods(here) if here.revision == given.target.revision else 0
    if state.canary != given.target.revision or state.progress_since is None or served > state.canary_ready:
        return now, served
    if state.progress_since > now:  # another node's clock: no deadline may lie as far ahead as that one was
        return now, state.canary_ready
    return state.progress_since, state.canary_ready


def orders_for(replicas: Mapping[str, int], given: StepInput, decided: Mapping[str, Orders]) -> dict[str, Orders]:
    """What each workload of the plan carries: as decided, else what it carries; the stable one's workload, stable."""
    orders = {}
    for name in replicas:
        here = given.workloads.get(name, ABSENT)
        kept = given.stable if name == given.home and given.stable else here.revision
        orders[name] = decided.get(name) or Orders(kept or name)
    return orders
