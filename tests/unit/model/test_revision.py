"""What makes a revision, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api import v1alpha1
from slipway.model.revision import content_hash, hash_of, place_of, read_revision, user_choice
from slipway.render.objects import render_controller_revision
from tests.unit.public_keys import P256
from tests.unit.specs import Json, body, deployment, merged, rendered_revision

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


def revision_of(changes: Json) -> str:
    return hash_of(user_choice(deployment(changes).spec))


FULL: Json = {
    "runtime": {"image": "x:1", "args": ["--a"], "env": [{"name": "A", "value": "1"}]},
    "model": {"name": "m"},
    "resources": {"limits": {"cpu": "2"}, "requests": {"memory": "1Gi"}},
    "batching": {"maxBatchSize": 8, "maxDelayMicroseconds": 100},
    "podTemplate": {"spec": {"nodeSelector": {"a": "b"}}},
    "storage": {"caBundle": {"configMapName": "ca"}, "sizeLimit": 1073741824},
}

MAKES_A_REVISION: list[Json] = [
    {"model": {"uri": "pvc://models/other"}},
    {"model": {"version": 2}},
    {"model": {"name": "other"}},
    {"runtime": {"image": "x:2"}},
    {"runtime": {"args": ["--b"]}},
    {"runtime": {"args": ["--a", "--b"]}},
    {"runtime": {"env": [{"name": "A", "value": "2"}]}},
    {"resources": {"limits": {"cpu": "3"}}},
    {"resources": {"requests": None}},
    {"batching": {"maxBatchSize": 9}},
    {"batching": {"maxDelayMicroseconds": 200}},
    {"batching": None},
    {"podTemplate": {"spec": {"nodeSelector": {"a": "c"}}}},
    {"podTemplate": {"metadata": {"labels": {"a": "b"}}}},
    {"storage": {"caBundle": {"configMapName": "other"}}},
    {"storage": {"caBundle": {"key": "other.pem"}}},
    {"storage": {"sizeLimit": "2Gi"}},
    {"storage": {"sizeLimit": None}},
    {"storage": None},
]

MAKES_NONE: list[Json] = [
    {},
    {"replicas": 7},
    {"replicas": 0},
    {"model": {"sha256": {"1": "a" * 64}}},
    {"model": {"versions": {"1": "sub/path"}}},
    {"versionPolicy": {"latest": {"count": 3}}},
    {"versionPolicy": {"all": {}}},
    {"storage": {"allowRedirects": True}},
    {"storage": {"limits": {"unpackedSize": "50Gi", "entries": 100_000}}},
    {"storage": {"verify": "Require", "publicKeys": [P256]}},
    {"rollout": {"progressDeadlineSeconds": 60, "revisionHistoryLimit": 2}},
    {"rollout": {"capacityDeadlineSeconds": 60}},
    # defaults written out, as the API server does
    {"storage": {"caBundle": {"key": "ca.crt"}}},
    {"rollout": {"surge": "Pods", "progressDeadlineSeconds": 600, "steps": []}},
    {"model": {"versions": {}, "sha256": {}}},
    # two ways to write one thing
    {"resources": {"limits": {"cpu": 2}}},
    {"storage": {"sizeLimit": "1073741824"}},
]


@pytest.mark.parametrize("changes", MAKES_A_REVISION, ids=str)
def test_what_changes_what_a_pod_serves_is_a_new_revision(changes: Json) -> None:
    assert revision_of(merged(FULL, changes)) != revision_of(FULL)


@pytest.mark.parametrize("changes", MAKES_NONE, ids=str)
def test_all_else_is_none(changes: Json) -> None:
    assert revision_of(merged(FULL, changes)) == revision_of(FULL)


def test_each_of_these_is_a_revision_of_its_own() -> None:
    hashes = [revision_of(merged(FULL, changes)) for changes in MAKES_A_REVISION]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    "changes",
    [
        {"runtime": {"args": [], "env": []}},
        {"resources": {}},
        {"resources": {"limits": {}, "requests": {}}},
        {"podTemplate": {}},
        {"storage": {}},
    ],
    ids=str,
)
def test_an_empty_part_is_an_absent_one(changes: Json) -> None:
    assert revision_of(changes) == revision_of({})


def test_a_new_default_changes_no_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer API with another default, which its API server writes into every stored object that it shows."""
    before = revision_of({"batching": {"maxBatchSize": 8}})
    field = v1alpha1.Batching.model_fields["max_delay_microseconds"]
    monkeypatch.setattr(field, "default", 500)
    models = (v1alpha1.Batching, v1alpha1.ModelDeploymentSpec)
    try:
        for model in models:
            model.model_rebuild(force=True)
        assert deployment({"batching": {"maxBatchSize": 8}}).spec.batching == v1alpha1.Batching(
            max_batch_size=8, max_delay_microseconds=500
        )
        assert revision_of({"batching": {"maxBatchSize": 8, "maxDelayMicroseconds": 500}}) == before
    finally:
        monkeypatch.undo()
        for model in models:
            model.model_rebuild(force=True)
    assert revision_of({"batching": {"maxBatchSize": 8, "maxDelayMicroseconds": 0}}) == before


@given(JSON)
def test_the_order_of_keys_does_not_matter(value: Any) -> None:
    def reordered(inner: Any) -> Any:
        match inner:
            case dict():
                return {key: reordered(inner[key]) for key in sorted(inner, reverse=True)}
            case list():
                return [reordered(item) for item in inner]
        return inner

    assert hash_of(value) == hash_of(reordered(value))
    assert len(hash_of(value)) == 10


@pytest.mark.parametrize(
    ("changes", "is_other"),
    [
        ({"model": {"sha256": {"1": "a" * 64}}}, True),
        ({"model": {"versions": {"1": "path"}}}, True),
        ({"storage": {"allowRedirects": True}}, True),
        ({"storage": {"limits": {"entries": 100_000}}}, True),
        ({"storage": {"limits": {}}}, False),
        ({"storage": {"verify": "Require", "publicKeys": [P256]}}, True),
        ({"storage": {"verify": "Off", "publicKeys": [P256]}}, False),
        ({"model": {"sha256": {"2": "a" * 64}}}, False),
        ({"replicas": 3}, False),
        ({}, False),
    ],
)
def test_a_rejected_revision_is_tried_again_when_its_bytes_may_be_others(changes: Json, *, is_other: bool) -> None:
    assert (content_hash(deployment(changes).spec) != content_hash(deployment().spec)) is is_other


# ---- kept in ControllerRevisions


def test_a_revision_is_read_back_as_it_was_kept() -> None:
    wanted = deployment(merged(FULL, {"model": {"version": 4, "sha256": {"4": "b" * 64}}}))
    revision = rendered_revision(wanted, 7)
    kept = render_controller_revision(wanted, revision, {}).manifest
    assert read_revision(kept) == revision
    assert (revision.number, revision.version, place_of(revision)) == (7, 4, "pvc://models/digits")


def test_a_choice_is_a_valid_spec_by_itself() -> None:
    choice = user_choice(deployment(FULL).spec)
    again = v1alpha1.ModelDeploymentSpec.model_validate(choice)
    assert user_choice(again) == choice


@pytest.mark.parametrize(
    "changes",
    [
        {"data": None},
        {"data": {"version": None}},
        {"data": {"version": "x"}},
        {"data": {"template": None}},
        {"data": {"choice": [1]}},
        {"revision": None},
        {"metadata": {"labels": None}},
        {"metadata": {"labels": {"slipway.dev/revision": None}}},
    ],
    ids=str,
)
def test_a_controller_revision_that_is_none_of_ours_is_not_read(changes: Json) -> None:
    wanted = deployment()
    kept = render_controller_revision(wanted, rendered_revision(wanted, 1), {}).manifest
    assert read_revision(merged(kept, changes)) is None


def test_the_same_spec_under_another_name_is_the_same_revision() -> None:
    assert user_choice(deployment(name="other").spec) == user_choice(deployment().spec)
    assert body(name="other")["metadata"]["name"] == "other"
