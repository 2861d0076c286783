"""A revision arrives rolling: new pods beside old ones; an old pod goes when a new one is ready.

    N = 2, surge = 1                     old wanted   new wanted
    old ready 2, new ready 0             2            1
    old ready 2, new ready 1             1            1    (an old pod still ends: 2 + 1 exist)
    old ready 1, new ready 1             1            2
    old ready 1, new ready 2             0            2    → new is stable
    or a new pod can't load it           2            0    → RolledBack

The new revision has a workload of its own.
Pure.
"""

from __future__ import annotations

from slipway.decide import unsplit
from slipway.decide.step_input import StepInput, former_of
from slipway.model.rollout import Plan
from slipway.model.workload import Turn


def go_on(given: StepInput) -> Plan:
    """Pods of the target's replace the stable one's. Held ones aren't ready, so that no old pod goes for them."""
    replicas = unsplit.shift(given, fallback=given.stable_workload or given.stable)
    return unsplit.go_on(given, replicas, former_of(given), Turn(is_held=True) if unsplit.holds(given) else None)
