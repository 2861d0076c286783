"""Every spec that can't be carried out is refused in words: what, where, and what to write instead."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api import SpecError, parse
from slipway.api.v1alpha1 import NOT_YET, RULES
from tests.unit.specs import NAME, NAMESPACE, UID, Json, body, deployment, merged

HTTPS = {"uri": "https://h/m", "versions": {"1": "a.onnx"}}
VOLUMES = {"spec": {"volumes": [{"name": "models", "emptyDir": {}}]}}

VALID: list[Json] = [
    {},
    {"replicas": 0},
    {"model": {"uri": "pvc://models"}},
    {"model": {"uri": "pvc://models/a/b_c/d-1/"}},
    {"model": {"uri": "pvc://models/..a/b..c/..."}},
    {"model": HTTPS},
    {"model": {**HTTPS, "versions": {"1": "https://other/a.onnx", "2": "x/y.zip"}}},
    {"model": {"uri": "volume://models/x"}, "podTemplate": VOLUMES},
    {"model": {"versions": {"1": "some/folder", "2": "other"}, "sha256": {"9": "a" * 64}}},
    {"model": {"name": "A_model.v2"}},
    {"versionPolicy": {"latest": {}}},
    {"versionPolicy": {"all": {}}},
    {"versionPolicy": {"specific": {"versions": [1, 2]}}, "model": {"version": 2}},
    {"resources": {"limits": {"cpu": "500m", "memory": "1.5Gi", "nvidia.com/gpu": 1}, "requests": {"cpu": 0}}},
    {"rollout": {"strategy": "RollingUpdate", "surge": "Pods", "bakeSeconds": 0, "steps": []}},
    {"batching": {"maxBatchSize": 1}},
    {"storage": {"allowRedirects": True, "caBundle": {"configMapName": "ca"}}},
    {"podTemplate": {"metadata": {"labels": {"a": "b"}}}},
]


@pytest.mark.parametrize("changes", VALID, ids=str)
def test_a_valid_spec_is_read(changes: Json) -> None:
    read = deployment(changes)
    assert (read.namespace, read.name, read.uid, read.generation) == (NAMESPACE, NAME, UID, 1)


# rule of RULES → a spec that breaks it, and the words that say so
BROKEN_RULES: list[tuple[str, Json, list[str]]] = [
    ("uri must be", {"model": {"uri": "ftp://models/x"}}, ["'ftp://models/x'", "pvc, https, volume"]),
    ("uri must be", {"model": {"uri": "models/digits"}}, ["'models/digits'", "SCHEME://PLACE/path"]),
    ("uri must be", {"model": {"uri": "pvc://"}}, ["SCHEME://PLACE/path"]),
    ("uri must be", {"model": {"uri": "pvc:///digits"}}, ["SCHEME://PLACE/path"]),
    ("uri must be", {"model": {"uri": "pvc://models/a b"}}, ["without spaces"]),
    ("uri must be", {"model": {"uri": "https://h/m?token=x", "versions": {"1": "a"}}}, ["spec.model.uri"]),
    ("uri must be", {"model": {"uri": ""}}, ["spec.model.uri ''"]),
    ("uri must not contain", {"model": {"uri": "pvc://models/../etc"}}, ["'pvc://models/../etc'", "'..'"]),
    ("uri must not contain", {"model": {"uri": "pvc://models/a/.."}}, ["'..'"]),
    ("uri must not contain", {"model": {"uri": "pvc://../a"}}, ["'..'"]),
    ("a path in versions", {"model": {"versions": {"1": "../x"}}}, ["spec.model.versions", "'..'"]),
    ("a path in versions", {"model": {"versions": {"1": "a/../../x"}}}, ["spec.model.versions", "'..'"]),
    ("can't be listed", {"model": {"uri": "https://h/m"}}, ["'https://h/m'", 'as in {"1": model-1.onnx}']),
    ("can't be listed", {"model": {"uri": "hf://o/m"}}, ["'hf://o/m'"]),
    ("can't be listed", {"model": {"uri": "oci://o/m"}}, ["'oci://o/m'"]),
    ("does not name model.version", {"model": {"versions": {"2": "x"}}}, ["spec.model.versions", "version 1"]),
    (
        "versionPolicy.specific",
        {"versionPolicy": {"specific": {"versions": [2, 3]}}, "model": {"version": 4}},
        ["[2, 3]", "spec.model.version 4"],
    ),
    (
        "versionPolicy.specific",
        {"versionPolicy": {"specific": {"versions": [1, 2]}}},
        ["[1, 2]", "none above it", "gets the highest"],
    ),
    (
        "exactly one of",
        {"versionPolicy": {"latest": {"count": 2}, "all": {}}},
        ["spec.versionPolicy", "exactly one of latest, specific, all"],
    ),
    ("exactly one of", {"versionPolicy": {}}, ["spec.versionPolicy"]),
    ("a limit can't", {"resources": {"limits": {"cpu": "-1"}}}, ["spec.resources.limits", "cpu", "negative"]),
    ("a request can't", {"resources": {"requests": {"memory": -1}}}, ["spec.resources.requests", "negative"]),
]


@pytest.mark.parametrize(("rule", "changes", "words"), BROKEN_RULES, ids=str)
def test_a_broken_rule_is_told(rule: str, changes: Json, words: list[str]) -> None:
    with pytest.raises(SpecError) as refused:
        deployment(changes)
    assert refused.value.reason == "InvalidSpec"
    for word in words:
        assert word in refused.value.message


def test_every_rule_of_the_crd_has_its_twin_here() -> None:
    for rule in RULES:
        assert any(words in rule.message for words, _, _ in BROKEN_RULES), rule.message
    for words, _, _ in BROKEN_RULES:
        assert any(words in rule.message for rule in RULES), words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modle": {}}, ["spec.modle is no field", "kubectl explain modeldeployment.spec"]),
        ({"model": {"URI": "x"}}, ["spec.model.URI is no field"]),
        ({"model": {"uri": None}}, ["spec.model.uri is missing"]),
        ({"model": None}, ["spec.model is missing"]),
        ({"replicas": -1}, ["spec.replicas", "greater than or equal to 0"]),
        ({"replicas": 1001}, ["spec.replicas", "1000"]),
        ({"replicas": "two"}, ["spec.replicas", "integer"]),
        ({"model": {"version": 0}}, ["spec.model.version"]),
        ({"model": {"version": "1.5"}}, ["spec.model.version"]),
        ({"model": {"versions": {"01": "x"}}}, ["spec.model.versions.01"]),
        ({"model": {"versions": {"v1": "x"}}}, ["spec.model.versions.v1"]),
        ({"model": {"versions": {"1": ""}}}, ["spec.model.versions.1"]),
        ({"model": {"sha256": {"1": "abc"}}}, ["spec.model.sha256.1"]),
        ({"model": {"sha256": {"1": "A" * 64}}}, ["spec.model.sha256.1"]),
        ({"model": {"name": "a/b"}}, ["spec.model.name"]),
        ({"runtime": {"name": "Tritn"}}, ["spec.runtime.name", "'Triton'"]),
        ({"batching": {"maxBatchSize": 0}}, ["spec.batching.maxBatchSize"]),
        ({"resources": {"limits": {"cpu": "much"}}}, ["spec.resources.limits", "'much' is no quantity", "500m"]),
        ({"versionPolicy": {"latest": {"count": 0}}}, ["spec.versionPolicy.latest.count"]),
        ({"rollout": {"progressDeadlineSeconds": 1}}, ["spec.rollout.progressDeadlineSeconds"]),
        ({"rollout": {"strategy": "Sideways"}}, ["spec.rollout.strategy"]),
        (
            {"model": {"uri": "volume://models/x"}},
            ["names volume 'models'", "spec.podTemplate.spec.volumes has none", "add it there"],
        ),
        (
            {"model": {"uri": "volume://model/x"}, "podTemplate": VOLUMES},
            ["names volume 'model'", "spec.podTemplate.spec.volumes has models"],
        ),
    ],
    ids=str,
)
def test_a_field_that_cannot_be_is_told_by_its_path(changes: Json, words: list[str]) -> None:
    with pytest.raises(SpecError) as refused:
        deployment(changes)
    assert refused.value.reason == "InvalidSpec"
    for word in words:
        assert word in refused.value.message


def test_all_wrong_fields_are_told_at_once() -> None:
    with pytest.raises(SpecError) as refused:
        deployment({"replicas": -1, "modle": {}})
    assert "spec.replicas" in refused.value.message
    assert "spec.modle" in refused.value.message


@pytest.mark.parametrize("name", ["a" * 41, "1a", "a.b", "A", "a-", "-a", "ä", ""])
def test_a_name_that_cannot_be_a_services(name: str) -> None:
    with pytest.raises(SpecError, match=r"metadata\.name") as refused:
        parse(body(name=name))
    assert refused.value.reason == "InvalidSpec"


# path (as in NOT_YET, or of the code's own) → a spec that uses it, and the words that say what to write
NOT_YET_SPECS: list[tuple[str, Json, list[str]]] = [
    ("autoscaling", {"autoscaling": {"maxReplicas": 3}}, ["spec.autoscaling", "spec.replicas"]),
    ("warmup", {"warmup": {}}, ["spec.warmup", "leave it out"]),
    ("traffic", {"traffic": {"provider": "Istio"}}, ["spec.traffic", "Service <name>"]),
    ("storage.secret_ref", {"storage": {"secretRef": {"name": "s"}}}, ["spec.storage.secretRef", "pvc://"]),
    ("storage.cache", {"storage": {"cache": {"claimName": "c"}}}, ["spec.storage.cache"]),
    ("storage.poll_interval_seconds", {"storage": {"pollIntervalSeconds": 60}}, ["spec.storage.pollIntervalSeconds"]),
    ("rollout.steps", {"rollout": {"steps": [{"weight": 5}]}}, ["spec.rollout.steps", "pod by pod"]),
    ("rollout.analysis", {"rollout": {"analysis": {}}}, ["spec.rollout.analysis"]),
    ("", {"rollout": {"strategy": "Canary"}}, ["Canary", "RollingUpdate"]),
    ("", {"rollout": {"strategy": "InPlace"}}, ["InPlace", "RollingUpdate"]),
    ("", {"rollout": {"strategy": "BlueGreen"}}, ["BlueGreen", "RollingUpdate"]),
    ("", {"rollout": {"strategy": "Recreate"}}, ["Recreate", "RollingUpdate"]),
    ("", {"rollout": {"surge": "Swap"}}, ["Swap", "Pods"]),
    ("", {"rollout": {"bakeSeconds": 300}}, ["spec.rollout.bakeSeconds", "leave it out"]),
    ("", {"runtime": {"name": "TorchServe"}}, ["TorchServe", "write Triton"]),
    ("", {"runtime": {"name": "TensorFlowServing"}}, ["TensorFlowServing", "write Triton"]),
    ("", {"runtime": {"name": "ONNXRuntime"}}, ["ONNXRuntime", "write Triton"]),
    ("", {"runtime": {"name": "Custom"}}, ["Custom", "write Triton"]),
    ("", {"model": {"uri": "s3://b/m"}}, ["s3://", "use pvc://, https:// or volume://"]),
    ("", {"model": {"uri": "gs://b/m"}}, ["gs://", "use pvc://"]),
    ("", {"model": {"uri": "az://b/m"}}, ["az://", "use pvc://"]),
    ("", {"model": {"uri": "hf://b/m", "versions": {"1": "main"}}}, ["hf://", "use pvc://"]),
    ("", {"model": {"uri": "oci://b/m", "versions": {"1": "v1"}}}, ["oci://", "use pvc://"]),
    ("", {"model": {"version": None}}, ["write spec.model.version"]),
]


@pytest.mark.parametrize(("path", "changes", "words"), NOT_YET_SPECS, ids=str)
def test_what_a_later_release_does_is_refused_and_never_ignored(path: str, changes: Json, words: list[str]) -> None:
    with pytest.raises(SpecError) as refused:
        deployment(changes)
    assert refused.value.reason == "NotYetSupported"
    assert "is not implemented in this release" in refused.value.message
    for word in words:
        assert word in refused.value.message


def test_every_field_of_a_later_release_is_in_that_table() -> None:
    assert {path for path, _, _ in NOT_YET_SPECS if path} == {path for path, _ in NOT_YET}


def test_a_message_is_in_one_line_and_speaks_of_the_spec() -> None:
    for _, changes, _ in [*BROKEN_RULES, *NOT_YET_SPECS]:
        with pytest.raises(SpecError) as refused:
            deployment(changes)
        assert "\n" not in refused.value.message
        assert "pydantic" not in refused.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        *("runtime", "model", "versionPolicy", "replicas", "autoscaling", "resources", "batching", "warmup"),
        *("storage", "rollout", "traffic", "podTemplate"),
    ]
)


@given(st.dictionaries(FIELDS, JSON, max_size=3))
def test_garbage_is_refused_in_words_and_never_an_error(garbage: dict[str, Any]) -> None:
    written = copy.deepcopy(body())
    written["spec"] = {**written["spec"], **garbage}
    with contextlib.suppress(SpecError):
        assert parse(written).spec.model.version == 1


@pytest.mark.parametrize(
    "template",
    [
        {"spec": None},
        {"spec": {}},
        {"spec": {"volumes": None}},
        {"spec": {"volumes": []}},
    ],
    ids=str,
)
def test_a_pod_template_without_the_volume_is_refused_in_words(template: Json) -> None:
    with pytest.raises(SpecError):
        parse(merged(body({"model": {"uri": "volume://models/x"}}), {"spec": {"podTemplate": template}}))


@pytest.mark.parametrize("spec", [None, {}, [], "x"])
def test_no_spec_at_all_is_refused_in_words(spec: Any) -> None:
    with pytest.raises(SpecError):
        parse({**body(), "spec": spec})
