"""Custom: what any container is given, and what it can't be asked for."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.api.v1alpha1 import ModelDeploymentSpec, SpecError
from slipway.render.pod_template import render_template
from slipway.runtimes import refuse_what_it_cant
from slipway.runtimes.custom import CUSTOM
from tests.unit.specs import IMAGES, deployment, merged

SERVICE = {"name": "Custom", "image": "example.com/service:1"}


def changes(**more: Any) -> dict[str, Any]:
    return merged({"runtime": SERVICE}, more)


def spec_of(**more: Any) -> ModelDeploymentSpec:
    return deployment(changes(**more)).spec


def test_the_container_learns_where_its_model_is_and_what_it_is_called() -> None:
    container = CUSTOM.container(spec_of(), "digits")
    assert container["env"] == [
        {"name": "SLIPWAY_MODEL_NAME", "value": "digits"},
        {"name": "SLIPWAY_MODEL_PATH", "value": "/models/current"},
    ]
    assert "command" not in container
    assert container["args"] == []


def test_command_and_arguments_are_the_users() -> None:
    container = CUSTOM.container(spec_of(runtime={"command": ["serve"], "args": ["--fast"]}), "digits")
    assert (container["command"], container["args"]) == (["serve"], ["--fast"])


def test_the_template_says_nothing_of_the_version() -> None:
    one, two = (
        render_template(deployment(changes(model={"version": version})), IMAGES, "revision") for version in (1, 2)
    )
    assert one == two
    (server,) = one["spec"]["containers"]
    assert server["image"] == "example.com/service:1"


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


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"versionPolicy": {"latest": {"count": 2}}}, "spec.versionPolicy"),
        ({"versionPolicy": {"all": {}}}, "spec.versionPolicy"),
        ({"versionPolicy": {"specific": {"versions": [1, 2]}}, "model": {"version": 2}}, "spec.versionPolicy"),
        ({"batching": {"maxBatchSize": 2}}, "spec.batching"),
        ({"model": {"labels": {"best": 1}}}, "spec.model.labels"),
        ({"runtime": {"instances": 1}}, "spec.runtime.instances"),
        ({"runtime": {"gpuMemoryFraction": 1.0}}, "spec.runtime.gpuMemoryFraction"),
        ({"runtime": {"paths": {"live": "/{version}"}}}, "spec.runtime.paths.live"),
    ],
)
def test_what_a_container_cant_be_told_is_refused(more: dict[str, Any], words: str) -> None:
    (refusal,) = CUSTOM.refusals(spec_of(**more))
    assert refusal.startswith(words)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"versionPolicy": {"latest": {"count": 1}}},
        {"versionPolicy": {"specific": {"versions": [1]}}},
        {"warmup": {"requests": [{}]}},
        {"resources": {"limits": {"nvidia.com/gpu": 1}}},
        {"runtime": {"paths": {"ready": "/{model}/{version}"}}},
    ],
)
def test_what_it_can_be_told_is_not_refused(more: dict[str, Any]) -> None:
    assert CUSTOM.refusals(spec_of(**more)) == ()


def test_another_version_is_another_pod() -> None:
    assert not CUSTOM.loads_hot


def test_in_place_is_refused_in_words() -> None:
    with pytest.raises(SpecError) as refused:
        refuse_what_it_cant(spec_of(rollout={"strategy": "InPlace"}))
    assert refused.value.reason == "NotSupportedByRuntime"
    assert "spec.rollout.strategy InPlace" in refused.value.message
