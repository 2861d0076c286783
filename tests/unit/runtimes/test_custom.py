"""Custom: what any container is given, and how it is asked."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.api.v1alpha1 import ModelDeploymentSpec, SpecError
from slipway.runtimes import refuse_what_it_cant
from slipway.runtimes.custom import CUSTOM
from tests.unit.specs import deployment, merged

SERVICE = {"name": "Custom", "image": "example.com/service:1"}


def spec_of(**more: Any) -> ModelDeploymentSpec:
    return deployment(merged({"runtime": SERVICE}, more)).spec


def test_the_container_learns_where_its_model_is_and_what_it_is_called() -> None:
    container = CUSTOM.container(spec_of(), "digits")
    assert container["env"] == [
        {"name": "SLIPWAY_MODEL_NAME", "value": "digits"},
        {"name": "SLIPWAY_MODEL_PATH", "value": "/models/current"},
    ]
    assert "command" not in container


def test_ports_are_the_users_and_8080_without_a_word() -> None:
    assert [(port.name, port.number) for port in CUSTOM.ports(spec_of())] == [("http", 8080)]
    told = spec_of(runtime={"httpPort": 9000, "grpcPort": 9001})
    assert [(port.name, port.number) for port in CUSTOM.ports(told)] == [("http", 9000), ("grpc", 9001)]


def test_the_paths_of_the_open_inference_protocol_are_the_default() -> None:
    assert CUSTOM.agent_settings(spec_of()) == (
        "custom",
        {"httpPort": 8080, "readyPath": "/v2/models/{model}/ready", "predictPath": "/v2/models/{model}/infer"},
    )
    assert CUSTOM.container(spec_of(), "digits")["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"


def test_paths_of_ones_own_reach_probes_and_agent() -> None:
    spec = spec_of(runtime={"paths": {"live": "/up/{model}", "ready": "/ready/{version}", "predict": "/do"}})
    container = CUSTOM.container(spec, "digits")
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/up/digits", "port": "http"}
    assert CUSTOM.agent_settings(spec)[1] == {"httpPort": 8080, "readyPath": "/ready/{version}", "predictPath": "/do"}


def test_in_place_is_refused_in_words() -> None:
    with pytest.raises(SpecError) as refused:
        refuse_what_it_cant(spec_of(rollout={"strategy": "InPlace"}))
    assert refused.value.reason == "NotSupportedByRuntime"
    assert "spec.rollout.strategy InPlace" in refused.value.message
