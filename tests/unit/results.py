"""Results of passes made for tests: of revision new, version 2, at generation 4, unless a test says otherwise."""

from __future__ import annotations

from collections.abc import Mapping

from slipway.decide.commands import CommandOutcome
from slipway.decide.inputs import Inputs
from slipway.decide.placement import Placement
from slipway.model.revision import Revision
from slipway.model.rollout import Plan, Step, Target
from slipway.model.signals import OPEN, Signals
from slipway.model.workload import Trouble
from slipway.render.desired import Rendered
from slipway.report.pass_result import CarriedOut, PassResult
from tests.unit.specs import NAME, Json, deployment


def result_of(
    plan: Plan | None,
    *,
    revision: str | None = "new",
    generation: int = 4,
    replicas: int = 2,
    problem: Trouble | None = None,
    load: tuple[int, ...] = (2,),
    steps: tuple[Step, ...] = (),
    stamps: Mapping[int, str | None] | None = None,
    are_settled: bool = False,
    spec: Json | None = None,
) -> PassResult:
    """What a pass found out that made this plan; None: the spec can't be read. spec: what it says beside the usual."""
    carried_out = None
    if plan is not None:
        inputs = Inputs(
            asked=deployment(spec),
            deployment=deployment(spec),
            listed=(),
            stamps=stamps or {},
            outcome=CommandOutcome(plan.state),
            steps=steps,
            placement=Placement(Revision(revision or "", 2, 2, {}, {}, {}), revision or ""),
            target=Target(revision or "", "", replicas, 600, revision or ""),
        )
        carried_out = CarriedOut(inputs, plan, Rendered((), {}, {}), Signals(OPEN), load)
    return PassResult(NAME, generation, replicas, problem, (), are_settled, None, carried_out)
