"""The protocol between manifests and a model server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slipway.api.v1alpha1 import ModelDeploymentSpec

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the server, by the name that the Service gives it."""

    name: str
    number: int
    app_protocol: str


@dataclass(frozen=True, slots=True)
class ServerRuntime:
    """One model server.

    container: (spec, model name) → the server's container without image, env, resources and what every container gets.
    agent_settings: spec → (key in agent.json, the settings under it).
    grace_seconds: the pod's whole grace period: preStop, then the server's own drain.
    """

    name: str
    ports: tuple[Port, ...]
    container: Callable[[ModelDeploymentSpec, str], Json]
    agent_settings: Callable[[ModelDeploymentSpec], tuple[str, Json]]
    grace_seconds: int
