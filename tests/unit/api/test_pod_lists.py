"""What a podTemplate says twice, so that the API server could apply none of it."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.api import SpecError
from tests.unit.specs import deployment

Json = dict[str, Any]

SIDECAR: Json = {"name": "log", "image": "registry.example/log:1"}


def sidecar(**parts: Any) -> Json:
    """A podTemplate with one container more."""
    return {"spec": {"containers": [{**SIDECAR, **parts}]}}


def port(number: int, **parts: Any) -> Json:
    return {"containerPort": number, **parts}


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            sidecar(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
            "spec.podTemplate.spec.containers[log].env has name A twice",
        ),
        (sidecar(ports=[port(1), port(1, protocol="TCP")]), "containers[log].ports has containerPort 1, protocol TCP"),
        (sidecar(volumeMounts=2 * [{"name": "x", "mountPath": "/x"}]), "volumeMounts has mountPath /x twice"),
        ({"spec": {"containers": [SIDECAR, SIDECAR]}}, "spec.podTemplate.spec.containers has name log twice"),
        ({"spec": {"volumes": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}}, "volumes has name a twice"),
        ({"spec": {"imagePullSecrets": [{"name": "a"}, {"name": "a"}]}}, "imagePullSecrets has name a twice"),
        (
            {"spec": {"containers": [SIDECAR], "initContainers": [SIDECAR]}},
            "has container log in containers and in initContainers",
        ),
    ],
    ids=str,
)
def test_what_stands_twice_is_told_with_its_place(template: Json, words: str) -> None:
    with pytest.raises(SpecError) as refused:
        deployment({"podTemplate": template})
    assert refused.value.reason == "InvalidSpec"
    assert words in refused.value.message


@pytest.mark.parametrize(
    "template",
    [
        sidecar(),
        sidecar(ports=[port(1, protocol="TCP"), port(1, protocol="UDP"), port(2)]),
        {"spec": {"containers": [SIDECAR, {**SIDECAR, "name": "other"}], "volumes": [{"name": "log"}]}},
        # Merged into ours one by one, as before: the last one counts.
        {"spec": {"containers": [{"name": "server", "env": [{"name": "A"}, {"name": "A", "value": "2"}]}]}},
        # Not lists of objects: the API server says so itself.
        {"spec": {"containers": "x", "volumes": [[], [], {"name": {}}]}},
    ],
    ids=str,
)
def test_what_stands_once_is_not(template: Json) -> None:
    assert deployment({"podTemplate": template}).spec.pod_template == template
