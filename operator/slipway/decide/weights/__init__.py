"""Who splits the traffic, found by the name in the spec: weights → objects, objects → weights in force.

`router`: Envoys of ours; `replicas`: the ratio of ready pods. Neither decides who gets how much: `rollout` does. A new
provider is one module and one entry in PROVIDERS.
Pure.
"""

from __future__ import annotations

from slipway.api.v1alpha1 import ModelDeploymentSpec, SpecError
from slipway.decide.weights import replicas
from slipway.decide.weights.provider import Provider
from slipway.render import router

PROVIDERS: dict[str, Provider] = {"Router": router.PROVIDER, "Replicas": replicas.PROVIDER}
DEFAULT = "Router"


def provider_of(spec: ModelDeploymentSpec) -> Provider:
    """The one who splits this spec's requests, where they are split."""
    return PROVIDERS[spec.traffic.provider if spec.traffic is not None else DEFAULT]


def refuse_what_it_cant(spec: ModelDeploymentSpec) -> None:
    """Raise SpecError(NotSupportedByProvider) when the spec asks its provider for what that one can't do."""
    if refused := provider_of(spec).refusals(spec):
        raise SpecError("NotSupportedByProvider", "; ".join(refused))
