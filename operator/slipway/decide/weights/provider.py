"""What a traffic provider must be able to say: which weights can be had, and which are in force.

Plain values and pure functions. Who gets how much is decided in `decide.canary`, what Service `<name>` reaches in
`decide.service_target`; the objects that split are rendered by `render.desired.ROUTINGS`, under the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.model.signals import InForce


@dataclass(frozen=True, slots=True)
class Reached:
    """What comes nearest to a wanted weight. weight_percent: what `pods` canary pods really make, rounded."""

    pods: int
    weight_percent: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands. selected: the workload whose pods alone Service `<name>` selects; None: all. ready: workload → pods.

    by_router: how the routers say that they split; None: they don't all say, or not the same.
    """

    selected: str | None
    ready: Mapping[str, int]
    by_router: InForce | None = None


@dataclass(frozen=True, slots=True)
class Provider:
    """A traffic provider.

    has_routers: they go through pods of its own, that Service `<name>` selects. is_exact: every weight can be had.
    reach: (weight in percent, replicas) → what comes of it.
    explain: (weights in percent, replicas) → which of them can't be had, in a sentence; empty when all can.
    refusals: what the spec asks and this provider can't do, each a sentence that names the field and what to write.
    in_force: objects → weights; None while nobody can say.
    uncounted: server → why nobody counts its failures, in a clause; empty where somebody does.
    """

    has_routers: bool
    is_exact: bool
    reach: Callable[[int, int], Reached]
    explain: Callable[[Iterable[int], int], str]
    refusals: Callable[[ModelDeploymentSpec], tuple[str, ...]]
    in_force: Callable[[Standing], InForce | None]
    uncounted: Callable[[str], str] = lambda server: ""
