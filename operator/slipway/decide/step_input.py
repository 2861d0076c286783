"""What one step of a rollout is decided on, and what follows from it at once.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from slipway.model.revision import Orders
from slipway.model.rollout import Memory, Wanted
from slipway.model.signals import NO_EVIDENCE, Scales
from slipway.model.workload import ABSENT, CarrierPods, arrived


@dataclass(frozen=True, slots=True)
class Scene:
    """The arguments of a step, and what follows from them at once. home: the stable revision's carrier."""

    wanted: Wanted
    memory: Memory
    carriers: Mapping[str, CarrierPods]
    now: datetime
    stable: str | None
    home: str | None = None
    scales: Scales = field(default=NO_EVIDENCE)

    @property
    def here(self) -> CarrierPods:
        """The pods of the wanted revision's carrier."""
        return self.carriers.get(self.wanted.carrier, ABSENT)


def progress_of(scene: Scene) -> tuple[datetime, int]:
    """Since when there was no progress, and the most pods so far that serve the new revision."""
    memory, here, now = scene.memory, scene.here, scene.now
    served = arrived(here) if here.revision == scene.wanted.revision else 0
    if memory.canary != scene.wanted.revision or memory.progress_since is None or served > memory.canary_ready:
        return now, served
    if memory.progress_since > now:  # another node's clock: no deadline may lie as far ahead as that one was
        return now, memory.canary_ready
    return memory.progress_since, memory.canary_ready


def orders_for(replicas: Mapping[str, int], scene: Scene, decided: Mapping[str, Orders]) -> dict[str, Orders]:
    """What each carrier of the plan carries: as decided, else what it carries; the stable one's carrier, stable."""
    orders = {}
    for name in replicas:
        here = scene.carriers.get(name, ABSENT)
        kept = scene.stable if name == scene.home and scene.stable else here.revision
        orders[name] = decided.get(name) or Orders(kept or name)
    return orders
