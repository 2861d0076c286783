"""The traffic providers, by the name in the spec: which weights each can make, and which are in force.

`router`: Envoys of ours; `replicas`: the ratio of ready pods. Neither decides who gets how much: `decide.canary` does.
A new provider is one module here with one entry in PROVIDERS, and one in `render.desired.ROUTINGS` if it has objects.
Pure.
"""

from __future__ import annotations

from slipway.api.v1alpha1 import ModelDeploymentSpec, SpecError
from slipway.decide.weights import replicas, router
from slipway.decide.weights.provider import Provider

PROVIDERS: dict[str, Provider] = {"Router": router.PROVIDER, "Replicas": replicas.PROVIDER}
DEFAULT = "Router"


def provider_name(spec: ModelDeploymentSpec) -> str:
    """The name of this spec's traffic provider, where requests are split."""
    return spec.traffic.provider if spec.traffic is not None else DEFAULT


def provider_of(spec: ModelDeploymentSpec) -> Provider:
    """This spec's traffic provider, where requests are split."""
    return PROVIDERS[provider_name(spec)]


def refuse_what_it_cant(spec: ModelDeploymentSpec) -> None:
    """Raise SpecError(NotSupportedByProvider) when the spec asks its provider for what that one can't do."""
    if refused := provider_of(spec).refusals(spec):
        raise SpecError("NotSupportedByProvider", "; ".join(refused))
