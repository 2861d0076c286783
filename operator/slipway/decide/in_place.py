"""A revision arrives in place: it takes over the stable one's workload, whose pods load the new version beside the old.

    N = 2                                workload a carries      replaces
    stable one, spec says two            two                     one     (pods load version 2 beside 1)
    1 of 2 pods serve version 2          two                     one
    2 of 2 pods serve version 2          two → stable            one     until bake is over, then nothing
    or a pod can't load version 2        one → RolledBack        nothing

Back is the same, the other way.
Pure.
"""

from __future__ import annotations

from slipway.decide import unsplit
from slipway.decide.step_input import StepInput
from slipway.model.rollout import Plan


def go_on(given: StepInput) -> Plan:
    """The stable revision's pods load the target's version beside their own."""
    return unsplit.go_on(given, unsplit.shift(given), given.stable)
