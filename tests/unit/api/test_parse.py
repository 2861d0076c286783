"""Every spec that can't be carried out is refused in words: what, where, and what to write instead."""

from __future__ import annotations

import contextlib
import copy
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api import SpecError, parse
from slipway.api.rules import RULES, URI_FORM
from tests.unit.public_keys import ED25519, P256, P384, P521, SECP256K1
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
    {"model": {"version": None}},
    {"model": {"uri": "s3://bucket/digits"}, "storage": {"endpoint": "http://s3:9000", "secretRef": {"name": "s"}}},
    {"model": {"uri": "oci://registry/m", "versions": {"1": "v1"}}, "storage": {"imageVolume": True}},
    {"storage": {"cache": {"claimName": "c"}, "pollIntervalSeconds": 1}},
    {"storage": {"sizeLimit": "20Gi", "limits": {"unpackedSize": 5_000_000_000, "entries": 200_000}}},
    {"storage": {"verify": "Require", "publicKeys": [P256, P384.rstrip(), P521]}},
    {"storage": {"verify": "Off", "publicKeys": [P256]}},
    {"storage": {"verify": "Off"}},
    {"rollout": {"strategy": "InPlace", "bakeSeconds": 30}},
    {"rollout": {"strategy": "Canary"}},
    {"rollout": {"strategy": "Canary", "analysis": {"mode": "Observe"}}},
    {"rollout": {"analysis": {"mode": "Off"}}},
    {"rollout": {"steps": [{"weight": 0}, {"weight": 5, "holdSeconds": 60}, {"pause": {}}, {"weight": 5}]}},
    {"rollout": {"steps": [{"pause": {"durationSeconds": 5}}, {"weight": 100}], "analysis": {}}},
    {"rollout": {"gates": {"golden": {"file": "golden.json"}, "signature": "Ignore"}}},
    {"rollout": {"surge": "Swap", "steps": [{"weight": 50}]}, "replicas": 2},
    {"rollout": {"surge": "Swap", "strategy": "Canary"}, "replicas": 2},
    {"traffic": {"provider": "Replicas"}},
    {"traffic": {"timeoutSeconds": 20, "router": {"replicas": 3, "image": "i"}}},
    {"warmup": {"requests": [{"inputs": []}]}},
    {"runtime": {"name": "TensorFlowServing"}},
    {"runtime": {"name": "TorchServe", "instances": 2}},
    {"runtime": {"name": "ONNXRuntime"}},
    {"runtime": {"name": "Custom", "image": "i", "httpPort": 9000, "paths": {"predict": "/v1/{model}"}}},
]


@pytest.mark.parametrize("changes", VALID, ids=str)
def test_a_valid_spec_is_read(changes: Json) -> None:
    read = deployment(changes)
    assert (read.namespace, read.name, read.uid, read.generation) == (NAMESPACE, NAME, UID, 1)


def then_refused(changes: Json, reason: str, words: list[str]) -> None:
    """In one line, which speaks of the spec and not of what reads it."""
    with pytest.raises(SpecError) as refused:
        deployment(changes)
    assert refused.value.reason == reason
    for word in words:
        assert word in refused.value.message
    assert "\n" not in refused.value.message
    assert "pydantic" not in refused.value.message


# rule of RULES → a spec that breaks it, and the words that say so
BROKEN_RULES: list[tuple[str, Json, list[str]]] = [
    ("uri must be", {"model": {"uri": "ftp://models/x"}}, ["'ftp://models/x'", "SCHEME is s3 or pvc"]),
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
    ("Custom needs", {"runtime": {"name": "Custom"}}, ["spec.runtime.image is missing"]),
    ("are for Custom", {"runtime": {"httpPort": 80}}, ["httpPort", "Triton has its own", "Remove"]),
    ("are for Custom", {"runtime": {"command": ["x"]}}, ["command"]),
    (
        "grpcPort must differ",
        {"runtime": {"name": "Custom", "image": "i", "httpPort": 9000, "grpcPort": 9000}},
        ["spec.runtime.grpcPort 9000", "spec.runtime.httpPort too;", "another number"],
    ),
    (
        "grpcPort must differ",
        {"runtime": {"name": "Custom", "image": "i", "grpcPort": 8080}},
        ["spec.runtime.grpcPort 8080", "where it is not set"],
    ),
    (
        "InPlace can't change a mounted image",
        {
            "model": {"uri": "oci://registry/m", "versions": {"1": "v1"}},
            "storage": {"imageVolume": True},
            "rollout": {"strategy": "InPlace"},
        },
        ["spec.rollout.strategy InPlace", "imageVolume"],
    ),
    ("imageVolume", {"storage": {"imageVolume": True}}, ["spec.storage.imageVolume", "oci://", "remove it"]),
    (
        "mounts the served version alone",
        {
            "model": {"uri": "oci://r/m", "versions": {"1": "v1"}},
            "storage": {"imageVolume": True},
            "versionPolicy": {"latest": {}},
        },
        ["remove spec.versionPolicy"],
    ),
    (
        "specific needs model.version",
        {"model": {"version": None}, "versionPolicy": {"specific": {"versions": [1]}}},
        ["spec.model.version", "latest or all"],
    ),
    ("a step is a weight", {"rollout": {"steps": [{}]}}, ["spec.rollout.steps", "a weight", "or a pause"]),
    ("a step is a weight", {"rollout": {"steps": [{"weight": 5, "pause": {}}]}}, ["spec.rollout.steps"]),
    ("a step is a weight", {"rollout": {"steps": [{"pause": {}, "holdSeconds": 5}]}}, ["spec.rollout.steps"]),
    (
        "steps are for strategy Canary",
        {"rollout": {"strategy": "InPlace", "steps": [{"weight": 5}]}},
        ["spec.rollout.steps", "InPlace", "remove one"],
    ),
    ("analysis judges", {"rollout": {"analysis": {}}}, ["spec.rollout.analysis", "add spec.rollout.steps"]),
    (
        "gates.golden needs pods",
        {"rollout": {"strategy": "InPlace", "gates": {"golden": {"file": "golden.json"}}}},
        ["spec.rollout.gates.golden", "strategy InPlace"],
    ),
    ("requests, configMap, file", {"rollout": {"gates": {"golden": {}}}}, ["spec.rollout.gates.golden"]),
    (
        "requests, configMap, file",
        {"rollout": {"gates": {"golden": {"file": "f", "configMap": {"name": "c"}}}}},
        ["spec.rollout.gates.golden", "exactly one"],
    ),
    (
        "rollout.surge Swap",
        {"rollout": {"surge": "Swap", "steps": [{"weight": 50}]}},
        ["spec.rollout.surge", "spec.replicas of 2"],
    ),
    ("surge Swap is for canaries", {"rollout": {"surge": "Swap"}, "replicas": 2}, ["spec.rollout.surge", "steps"]),
    (
        "needs storage.publicKeys",
        {"storage": {"verify": "Require"}},
        ["spec.storage.verify Require needs spec.storage.publicKeys"],
    ),
    (
        "without storage.verify",
        {"storage": {"publicKeys": [P256]}},
        ["spec.storage.publicKeys verify nothing without spec.storage.verify", "write Require"],
    ),
    ("a limit can't", {"resources": {"limits": {"cpu": "-1"}}}, ["spec.resources.limits", "cpu", "negative"]),
    ("a request can't", {"resources": {"requests": {"memory": -1}}}, ["spec.resources.requests", "negative"]),
]


@pytest.mark.parametrize(("rule", "changes", "words"), BROKEN_RULES, ids=str)
def test_a_broken_rule_is_told(rule: str, changes: Json, words: list[str]) -> None:
    then_refused(changes, "InvalidSpec", words)


def test_weights_that_fall_are_told() -> None:
    """CEL could say it only at a cost that the API server doesn't grant."""
    with pytest.raises(SpecError, match=r"spec\.rollout\.steps: weights must rise, and \[25, 5\] do not"):
        deployment({"rollout": {"steps": [{"weight": 25}, {"pause": {}}, {"weight": 5}]}})


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
        ({"storage": {"sizeLimit": "much"}}, ["spec.storage.sizeLimit", "'much' is no number of bytes", "20Gi"]),
        ({"storage": {"sizeLimit": 0}}, ["spec.storage.sizeLimit", "0 is no number of bytes"]),
        ({"storage": {"limits": {"unpackedSize": "-1Gi"}}}, ["spec.storage.limits.unpackedSize", "'-1Gi'"]),
        ({"storage": {"limits": {"entries": 200_001}}}, ["spec.storage.limits.entries", "200000"]),
        ({"versionPolicy": {"latest": {"count": 0}}}, ["spec.versionPolicy.latest.count"]),
        ({"rollout": {"progressDeadlineSeconds": 1}}, ["spec.rollout.progressDeadlineSeconds"]),
        ({"rollout": {"capacityDeadlineSeconds": 0}}, ["spec.rollout.capacityDeadlineSeconds"]),
        ({"rollout": {"capacityDeadlineSeconds": 86_401}}, ["spec.rollout.capacityDeadlineSeconds"]),
        ({"rollout": {"strategy": "Sideways"}}, ["spec.rollout.strategy"]),
        ({"storage": {"verify": "Require", "publicKeys": ["key"]}}, ["spec.storage.publicKeys.0"]),
        (
            {"storage": {"verify": "Require", "publicKeys": [P256.replace("PUBLIC", "PRIVATE")]}},
            ["spec.storage.publicKeys.0"],
        ),
        (
            {"storage": {"verify": "Require", "publicKeys": [P256, ED25519]}},
            ["spec.storage.publicKeys.1", "is no EC key on P-256, P-384 or P-521"],
        ),
        (
            {"storage": {"verify": "Require", "publicKeys": [SECP256K1]}},
            ["spec.storage.publicKeys.0", "is no EC key on P-256, P-384 or P-521"],
        ),
        (
            {"storage": {"verify": "Require", "publicKeys": [P256.replace("MFkw", "M")]}},
            ["spec.storage.publicKeys.0", "is no base64; paste the whole file"],
        ),
        ({"storage": {"verify": "Warn"}}, ["spec.storage.verify", "'Off' or 'Require'"]),
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
    then_refused(changes, "InvalidSpec", words)


def test_all_wrong_fields_are_told_at_once() -> None:
    then_refused({"replicas": -1, "modle": {}}, "InvalidSpec", ["spec.replicas", "spec.modle"])


@pytest.mark.parametrize("name", ["a" * 41, "1a", "a.b", "A", "a-", "-a", "ä", ""])
def test_a_name_that_cannot_be_a_services(name: str) -> None:
    with pytest.raises(SpecError, match=r"metadata\.name") as refused:
        parse(body(name=name))
    assert refused.value.reason == "InvalidSpec"


# what isn't built → a spec that asks for it, and the words that say what there is
NOT_BUILT: list[tuple[Json, list[str]]] = [
    ({"autoscaling": {"maxReplicas": 3}}, ["spec.autoscaling is no field"]),
    ({"traffic": {"provider": "Istio"}}, ["spec.traffic.provider", "'Router' or 'Replicas'"]),
    ({"traffic": {"provider": "GatewayAPI"}}, ["spec.traffic.provider", "'Router' or 'Replicas'"]),
    ({"rollout": {"strategy": "BlueGreen"}}, ["spec.rollout.strategy", "'RollingUpdate', 'Canary' or 'InPlace'"]),
    ({"rollout": {"strategy": "Recreate"}}, ["spec.rollout.strategy", "'RollingUpdate', 'Canary' or 'InPlace'"]),
    ({"model": {"uri": "gs://b/m"}}, ["'gs://b/m'", "SCHEME is s3 or pvc; https or oci where model.versions"]),
    ({"model": {"uri": "az://b/m"}}, ["'az://b/m'", "SCHEME is s3 or pvc; https or oci where model.versions"]),
    (
        {"model": {"uri": "hf://b/m", "versions": {"1": "main"}}},
        ["'hf://b/m'", "SCHEME is s3 or pvc; https or oci where model.versions"],
    ),
]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"uri": "s3://place/path"}},
        {"model": {"uri": "pvc://place/path"}},
        {"model": {"uri": "https://place/path", "versions": {"1": "a.onnx"}}},
        {"model": {"uri": "oci://place/path", "versions": {"1": "v1"}}},
        {"model": {"uri": "volume://models/path"}, "podTemplate": VOLUMES},
    ],
    ids=str,
)
def test_a_scheme_that_the_message_offers_is_not_refused_next(changes: Json) -> None:
    scheme = changes["model"]["uri"].partition("://")[0]
    assert re.search(rf"\b{scheme}\b", URI_FORM.partition("SCHEME is ")[2])
    deployment(changes)


@pytest.mark.parametrize(("changes", "words"), NOT_BUILT, ids=str)
def test_what_is_not_built_is_refused_and_never_ignored(changes: Json, words: list[str]) -> None:
    then_refused(changes, "InvalidSpec", words)


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
