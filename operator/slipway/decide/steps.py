"""By which steps a new revision gets its share of the requests, as the spec asks and the provider can make them.

Pure.
"""

from __future__ import annotations

from slipway.api import ModelDeployment
from slipway.api.v1alpha1 import Step as AskedStep
from slipway.decide.weights import provider_of
from slipway.model.revision import hash_of
from slipway.model.rollout import Step

DEFAULT_STEPS = tuple(AskedStep(weight=weight, hold_seconds=60) for weight in (5, 25, 50))
"""Of strategy Canary without steps."""


def steps_of(deployment: ModelDeployment) -> tuple[Step, ...]:
    """The steps of a canary, up to 100 percent; none where revisions arrive another way."""
    rollout = deployment.spec.rollout
    if not wants_split(deployment):
        return ()
    steps: list[Step] = []
    weight, pods = 0, 0
    for asked in rollout.steps or DEFAULT_STEPS:
        if asked.weight is None:
            seconds = asked.pause.duration_seconds if asked.pause is not None else None
            steps.append(Step(weight, pods, seconds, is_pause=True))
            continue
        weight, pods = reach(deployment, asked.weight)
        steps.append(Step(weight, pods, asked.hold_seconds or 0))
    if not steps or steps[-1].weight_percent < 100 or steps[-1].is_pause:
        steps.append(Step(100, reach(deployment, 100)[1]))
    return tuple(steps)


def steps_name(deployment: ModelDeployment) -> str:
    """Names the steps as the spec has them: other ones begin anew, whatever the provider makes of their weights."""
    return hash_of([step.model_dump(mode="json", by_alias=True) for step in deployment.spec.rollout.steps])


def reach(deployment: ModelDeployment, weight: int) -> tuple[int, int]:
    """The weight that the provider can make of a wanted one, and the canary pods that it takes."""
    spec, replicas = deployment.spec, deployment.spec.replicas
    most = max(1, replicas - 1) if spec.rollout.surge == "Swap" else replicas
    reached = provider_of(spec).reach(weight, replicas)
    return reached.weight_percent, min(most, reached.pods)


def unreachable_weights(deployment: ModelDeployment) -> str:
    """Which of the steps' weights the provider can't make, in a sentence; empty when it makes all."""
    if not wants_split(deployment):
        return ""
    weights = [step.weight for step in deployment.spec.rollout.steps or DEFAULT_STEPS if step.weight is not None]
    return provider_of(deployment.spec).explain(weights, deployment.spec.replicas)


def wants_split(deployment: ModelDeployment) -> bool:
    """Whether requests are split between revisions at all."""
    return bool(deployment.spec.rollout.steps) or deployment.spec.rollout.strategy == "Canary"


def wants_router(deployment: ModelDeployment) -> bool:
    """Whether they go through routers."""
    return wants_split(deployment) and provider_of(deployment.spec).has_routers
