"""ModelDeployments as users write them, made for tests: a smallest valid spec, and changes to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from slipway.api import ModelDeployment, parse
from slipway.decide.placement import new_revision
from slipway.model.revision import Revision
from slipway.render.pod_template import Images, with_template

Json = dict[str, Any]

NAMESPACE = "models"
NAME = "digits"
UID = "00000000-0000-4000-8000-000000000001"
IMAGES = Images(
    agent="slipway.dev/agent:0123456789ab",
    servers={
        "Triton": "slipway.dev/triton:0123456789ab",
        "TensorFlowServing": "tensorflow/serving:2.20.0",
        "TorchServe": "slipway.dev/torchserve:0123456789ab",
        "ONNXRuntime": "slipway.dev/onnxruntime:0123456789ab",
    },
    router="slipway.dev/router:0123456789ab",
    pull_policy="IfNotPresent",
)
SMALLEST: Json = {"runtime": {"name": "Triton"}, "model": {"uri": "pvc://models/digits", "version": 1}}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Json:
    """`changes` laid over `base`, map by map; None takes a field away."""
    result = copy.deepcopy(dict(base))
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def body(changes: Mapping[str, Any] | None = None, *, name: str = NAME, generation: int = 1) -> Json:
    """A whole object: the smallest valid spec with these changes."""
    return {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": UID, "generation": generation},
        "spec": merged(SMALLEST, changes or {}),
    }


def deployment(changes: Mapping[str, Any] | None = None, *, name: str = NAME, generation: int = 1) -> ModelDeployment:
    """The same, parsed."""
    return parse(body(changes, name=name, generation=generation))


def rendered_revision(wanted: ModelDeployment, number: int, former: Revision | None = None) -> Revision:
    """A new revision as it is kept: with its pod template."""
    return with_template(wanted, new_revision(wanted, number, former), IMAGES)
