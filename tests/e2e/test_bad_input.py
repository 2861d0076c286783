"""Every kind of bad input ends in a refusal or in a condition that says what, where and what to write instead.

A Ready deployment keeps serving on its old revision, and a corrected YAML recovers without a restart of anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.e2e.install import Operator
from tests.e2e.kube import Manifest, RefusedError, to_yaml
from tests.e2e.models import Digits
from tests.e2e.stage import Asked, Served, Stage, digits_volume, merged

PLAIN: Manifest = {
    "apiVersion": "slipway.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "digits"},
    "spec": {"runtime": {"name": "Triton"}, "model": {"uri": "pvc://models/digits", "version": 1}, "replicas": 0},
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"spec": {"modle": {}}}, ["spec.modle"], id="unknown field"),
        pytest.param({"spec": {"model": {"URI": "x"}}}, ["spec.model.URI"], id="unknown field below"),
        pytest.param(
            {"spec": {"replicas": -1}}, ["spec.replicas", "greater than or equal to 0"], id="negative replicas"
        ),
        pytest.param({"spec": {"replicas": "two"}}, ["spec.replicas", "integer"], id="replicas in words"),
        pytest.param({"spec": {"model": {"version": 0}}}, ["spec.model.version"], id="version 0"),
        pytest.param({"spec": {"model": {"uri": "ftp://models/x"}}}, ["spec.model", "s3 or pvc"], id="unknown scheme"),
        pytest.param({"spec": {"model": {"uri": "models/digits"}}}, ["spec.model", "SCHEME://"], id="no scheme"),
        pytest.param({"spec": {"model": {"uri": "pvc://models/../etc"}}}, ["spec.model", "'..'"], id="path upwards"),
        pytest.param({"spec": {"model": {"uri": None}}}, ["spec.model.uri", "Required"], id="no uri"),
        pytest.param({"spec": {"runtime": {"name": "Tritn"}}}, ["spec.runtime.name", "Triton"], id="unknown runtime"),
        pytest.param(
            {"spec": {"model": {"uri": "https://h/x"}}}, ["spec.model", "model.versions"], id="https without versions"
        ),
        pytest.param({"spec": {"model": {"sha256": {"1": "abc"}}}}, ["spec.model.sha256"], id="sha256 that is none"),
        pytest.param(
            {"spec": {"versionPolicy": {"latest": {"count": 2}, "all": {}}}},
            ["versionPolicy", "one of"],
            id="two policies",
        ),
        pytest.param(
            {"spec": {"versionPolicy": {"specific": {"versions": [1, 2]}}}},
            ["versionPolicy.specific", "none above"],
            id="a version above the served one",
        ),
        pytest.param(
            {"spec": {"resources": {"limits": {"cpu": "-1"}}}},
            ["spec.resources.limits", "negative"],
            id="negative limit",
        ),
        pytest.param(
            {"metadata": {"name": "digits.v1"}}, ["metadata.name", "no dots"], id="a name that can't be a Service's"
        ),
        pytest.param({"metadata": {"name": "d" * 41}}, ["metadata.name", "40 characters"], id="a name too long"),
        pytest.param({"spec": {"model": {"uri": "az://models/x"}}}, ["spec.model", "s3 or pvc"], id="az"),
        pytest.param({"spec": {"autoscaling": {"maxReplicas": 3}}}, ["spec.autoscaling"], id="autoscaling"),
        pytest.param(
            {"spec": {"rollout": {"strategy": "BlueGreen"}}}, ["spec.rollout.strategy", '"Canary"'], id="blue-green"
        ),
        pytest.param({"spec": {"traffic": {"provider": "Istio"}}}, ["spec.traffic.provider", '"Router"'], id="istio"),
    ],
)
def test_the_api_server_refuses(quiet_stage: Stage, change: Manifest, words: list[str]) -> None:
    with pytest.raises(RefusedError) as refused:
        quiet_stage.kube.create(merged(merged(PLAIN, {"metadata": {"namespace": quiet_stage.namespace}}), change))
    assert 400 <= refused.value.status < 500
    for word in words:
        assert word in refused.value.message
    assert quiet_stage.kube.list_("ModelDeployment", quiet_stage.namespace) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("apiVersion: slipway.dev/v1alpha1\nkind: [ModelDeployment\n", ["yaml"], id="no YAML"),
        pytest.param(
            to_yaml(merged(PLAIN, {"spec": {"replicsa": 2}})), ['unknown field "spec.replicsa"'], id="a field misspelt"
        ),
        pytest.param(to_yaml(merged(PLAIN, {"spec": {"replicas": -1}})), ["spec.replicas"], id="negative replicas"),
    ],
)
def test_kubectl_apply_refuses(quiet_stage: Stage, text: str, words: list[str]) -> None:
    done = quiet_stage.kubectl("apply", "-f", "-", stdin=text)
    assert done.status != 0
    for word in words:
        assert word in done.err
    assert quiet_stage.kube.list_("ModelDeployment", quiet_stage.namespace) == []


def test_a_spec_that_never_could_be_carried_out_has_no_children(quiet_stage: Stage) -> None:
    served = Served(
        quiet_stage.kube,
        merged(PLAIN, {"metadata": {"namespace": quiet_stage.namespace}, "spec": {"model": {"uri": "volume://no/x"}}}),
    )
    quiet_stage.kube.apply(served.manifest)
    served.then("Degraded", "True", "InvalidSpec", says=["'no'", "spec.podTemplate.spec.volumes"])
    served.then("Ready", "False")
    assert served.children() == []
    quiet_stage.kube.delete("ModelDeployment", served.name, served.namespace)
    quiet_stage.kube.wait_gone("ModelDeployment", served.name, served.namespace)


@dataclass(frozen=True, slots=True)
class Victim:
    """A Ready deployment that is edited badly again and again: version 1 serves. `good` is its correct YAML."""

    served: Served
    asked: Asked
    digits: Digits
    good: Manifest

    def corrected(self) -> None:
        """The user applies the correct YAML, and it serves."""
        self.served.kube.apply(self.good)
        self.served.manifest = self.good
        self.served.then_ready()

    def serves_version_1(self) -> None:
        answer = self.asked.rest.infer_json({"image": self.digits.images})
        np.testing.assert_allclose(answer["probabilities"], self.digits.probabilities(1), atol=1e-4)


@pytest.fixture(scope="module")
def victim(module_stage: Stage, digits: Digits, operator: Operator) -> Iterator[Victim]:
    """Version 1 of the digits; beside it on the volume the good version 2 and version 3, which is no model."""
    module_stage.given_digits(digits, **{"digits-3": b"this is no model"})
    volume = digits_volume()
    volume["configMap"]["items"].append({"key": "digits-3", "path": "digits/3/model.onnx"})
    served = module_stage.given("digits", "volume://models/digits", 1, [volume]).then_ready()
    with served.asked() as asked:
        yield Victim(served, asked, digits, served.manifest)


ROWS: list[Any] = [
    pytest.param({"model": {"version": 9}}, "VersionNotFound", ["9", "volume://models/digits"], id="missing version"),
    pytest.param(
        {"model": {"uri": "volume://models/nothing"}},
        "SourceNotFound",
        ["volume://models/nothing"],
        id="missing folder",
    ),
    pytest.param(
        {"model": {"version": 2, "sha256": {"2": "0" * 64}}},
        "RolledBack",
        ["DigestMismatch", "version 2", "0" * 64],
        id="sha256",
    ),
    pytest.param(
        {"model": {"version": 3}},
        "RolledBack",
        ["LoadFailed", "3/model.onnx", "not an ONNX model"],
        id="corrupt model",
    ),
    pytest.param(
        {"runtime": {"image": "127.0.0.1:1/no/such:1"}},
        "ImagePullDelayed",  # nobody listens there: that says nothing of the image
        ["127.0.0.1:1/no/such:1", "registry"],
        id="image that can't be pulled",
    ),
    pytest.param(
        {"runtime": {"args": ["--no-such-option"]}}, "CrashLoop", ["server", "logs"], id="server that won't start"
    ),
    pytest.param(
        {"rollout": {"steps": [{"weight": 50}, {"weight": 5}]}},
        "InvalidSpec",
        ["spec.rollout.steps", "must rise"],
        id="weights that fall",
    ),
    pytest.param(
        {
            "podTemplate": {
                "spec": {"containers": [{"name": "log", "image": "i", "env": [{"name": "A"}, {"name": "A"}]}]}
            }
        },
        "InvalidSpec",
        ["containers[log].env has name A twice"],
        id="a variable that stands twice",
    ),
]


@pytest.mark.parametrize(("change", "reason", "words"), ROWS)
def test_a_ready_deployment_keeps_serving_and_recovers(
    victim: Victim, operator: Operator, change: Manifest, reason: str, words: list[str]
) -> None:
    victim.corrected()
    served = victim.served
    pods = {pod["metadata"]["uid"] for pod in served.pods()}
    began = operator.identity()

    served.when({"spec": change})
    served.then("Degraded", "True", reason, says=words)
    served.then("Ready", "True")
    served.then("Promoted", "False")
    victim.serves_version_1()
    assert pods <= {pod["metadata"]["uid"] for pod in served.pods()}

    victim.corrected()
    served.then("Degraded", "False")
    victim.serves_version_1()
    served.then_pods("the old pod alone is left", 1)
    assert {pod["metadata"]["uid"] for pod in served.pods()} == pods
    assert operator.identity() == began


def test_a_quota_that_is_too_small_is_named(victim: Victim) -> None:
    victim.corrected()
    served = victim.served
    quota: Manifest = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small", "namespace": served.namespace},
        "spec": {"hard": {"pods": "1"}},
    }
    served.kube.apply(quota)
    served.when_spec(model={"version": 2}, rollout={"strategy": "RollingUpdate"})
    served.then("Degraded", "True", "QuotaExceeded", says=["pods", "quota"])
    served.then("Ready", "True")
    victim.serves_version_1()

    # the user raises the quota: nothing else has to be touched
    served.kube.delete("ResourceQuota", "small", served.namespace)
    served.then_ready()
    served.then_answers(victim.digits, 2)


def test_a_first_revision_that_is_wrong_recovers_when_corrected(
    stage: Stage, digits: Digits, operator: Operator
) -> None:
    stage.given_digits(digits)
    served = stage.given("digits", "volume://models/digits", 7, [digits_volume()])
    served.then("Ready", "False", "VersionNotFound", says=["7", "volume://models/digits"])
    served.then("Degraded", "True", "VersionNotFound")
    served.when_spec(model={"version": 2}).then_ready()
    served.then("Degraded", "False")


@pytest.mark.usefixtures("operator")
def test_a_foreign_object_of_that_name_is_never_taken_over(quiet_stage: Stage) -> None:
    foreign: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "digits"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "somebody-else"}},
    }
    quiet_stage.given_object(foreign)
    served = Served(quiet_stage.kube, merged(PLAIN, {"metadata": {"namespace": quiet_stage.namespace}}))
    quiet_stage.kube.apply(served.manifest)
    served.then("Degraded", "True", "NameConflict", says=["Service", "digits"])
    found = quiet_stage.kube.get("Service", "digits", quiet_stage.namespace)
    assert found is not None
    assert found["spec"]["selector"] == {"app": "somebody-else"}
    assert not found["metadata"].get("ownerReferences")

    quiet_stage.kube.delete("Service", "digits", quiet_stage.namespace)
    served.then("Ready", "False", "ScaledToZero")
    served.then("Degraded", "False")
    assert {child["metadata"]["name"] for child in served.children("Service")} == {"digits", "digits-metrics"}
    quiet_stage.kube.delete("ModelDeployment", served.name, served.namespace)
