"""A split of the requests, as a traffic provider gets it, and the objects that make it so.

Invariant: values alone; `desired.ROUTINGS` says which provider makes which objects of them.
Must not import: report, controller. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.render.objects import Child


@dataclass(frozen=True, slots=True)
class Backend:
    """A workload that requests can be sent to.

    weight_percent: its share of the unversioned requests. versions: those loaded in all of its ready pods: requests
    that name one go to a workload that holds it. http_port, grpc_port: its server's; grpc_port None: it has none.
    spec: what its revision was made from; None: today's. is_open: it may get requests that no other workload can
    answer, whatever its weight; False: it prepares, or it leaves.
    """

    workload: str
    weight_percent: int
    versions: tuple[int, ...]
    http_port: int
    grpc_port: int | None
    spec: ModelDeploymentSpec | None = None
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class OtherApi:
    """What stable can't answer: requests whose path begins so, or for gRPC services of that package, by weight.

    grpc_package: empty: its gRPC requests can't be told from stable's.
    """

    path: str
    grpc_package: str
    backends: tuple[Backend, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """The workloads with their weights (sum 100), the stable one first.

    domain: the cluster's, under which Services have names.
    """

    backends: tuple[Backend, ...]
    domain: str = "cluster.local"


@dataclass(frozen=True, slots=True)
class Routing:
    """What should exist so that requests are split. generation: of the routers' configuration; None without routers."""

    children: tuple[Child, ...] = ()
    generation: str | None = None
