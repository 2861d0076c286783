"""The laws of rendering: merging of the user's podTemplate, names and labels, and the agents' orders.

What a field of the spec does to the objects is shown by tests/golden/cases.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.pod_lists import MERGE_KEYS
from slipway.api.v1alpha1 import MAX_NAME_LENGTH
from slipway.model.names import child_name, labels_of
from slipway.model.revision import Assignment
from slipway.model.workload import Turn
from slipway.render.agent_orders import held, in_turn, labels_before, render_agent_config
from slipway.render.merge import merge
from slipway.render.objects import (
    render_config_map,
    render_controller_revision,
    render_deployment,
    render_metrics_service,
    render_service,
)
from slipway.render.pod_template import render_template
from slipway.render.ports import metrics_ports, service_ports
from tests.unit.public_keys import P256
from tests.unit.specs import IMAGES, NAME, NAMESPACE, UID, Json, deployment, merged, rendered_revision


def template(changes: Json | None = None) -> Json:
    return render_template(deployment(changes), IMAGES, "aaaaaaaaaa")


def named(items: list[Json], name: str) -> Json:
    found = [item for item in items if item["name"] == name]
    assert len(found) == 1, [item["name"] for item in items]
    return found[0]


def server(changes: Json | None = None) -> Json:
    return named(template(changes)["spec"]["containers"], "server")


def agent(changes: Json | None = None) -> Json:
    return named(template(changes)["spec"]["initContainers"], "agent")


def orders(changes: Json | None = None, load: tuple[int, ...] = (1,)) -> Json:
    wanted = deployment(changes)
    return render_agent_config(wanted, rendered_revision(wanted, 1), load, {})


# ---- who must have signed a version

VERIFIED: Json = {"storage": {"verify": "Require", "publicKeys": [P256]}}


def test_the_keys_of_the_spec_are_in_the_orders_and_nothing_is_where_it_verifies_nothing() -> None:
    assert orders(VERIFIED)["source"]["verify"] == {"keys": [P256]}
    for off in ({}, {"storage": {"verify": "Off", "publicKeys": [P256]}}, {"storage": {"allowRedirects": False}}):
        assert "verify" not in orders(off)["source"]
        assert orders(off)["generation"] == orders()["generation"]


@pytest.mark.parametrize("place", [{}, {"model": {"uri": "pvc://models/other"}}, {"model": {"version": 2}}], ids=str)
def test_no_revision_is_excepted_wherever_it_comes_from(place: Json) -> None:
    former = rendered_revision(deployment(place), 1)
    assert render_agent_config(deployment(VERIFIED), former, (1,), {})["source"]["verify"] == {"keys": [P256]}


def test_keys_change_no_pod_template() -> None:
    assert template(VERIFIED) == template()


# ---- turns


def versions_of_tensorflow() -> tuple[Json, Json]:
    """The orders for version 1, and those for version 2 beside it."""
    tensorflow: Json = {"runtime": {"name": "TensorFlowServing"}}
    wanted, now = deployment(tensorflow), deployment(merged(tensorflow, {"model": {"version": 2}}))
    before = render_agent_config(wanted, rendered_revision(wanted, 1), (1,), {"stable": 1})
    labelled = {"stable": 1, "canary": 2, "prod": 2, "gone": 7}
    return before, render_agent_config(now, rendered_revision(now, 2), (1, 2), labelled, {"requests": []})


def test_orders_in_turn_name_the_pods_and_leave_the_others_what_they_have() -> None:
    before, own = versions_of_tensorflow()
    orders = in_turn(own, before, Turn(("a", "b"), leaves=True, is_held=True))
    assert orders["turn"] == {
        "pods": ["a", "b"],
        "served": 2,
        "load": [1, 2],
        "labels": own["labels"],
        "golden": {"requests": []},
        "drainSeconds": 10,
        "held": True,
    }
    assert {**orders, "generation": "", "turn": None} == {**before, "generation": "", "turn": None}
    assert orders["generation"] not in (before["generation"], own["generation"])
    assert orders == in_turn(own, before, Turn(("a", "b"), leaves=True, is_held=True))


def test_a_pod_that_stays_isnt_told_to_leave() -> None:
    before, own = versions_of_tensorflow()
    turn = in_turn(own, before, Turn(("a",)))["turn"]
    assert "drainSeconds" not in turn
    assert "held" not in turn


def test_a_label_leads_somewhere_in_pods_whose_turn_it_isnt() -> None:
    before, own = versions_of_tensorflow()
    assert labels_before(own, before, {"prod": 1}) == {"stable": 1, "canary": 1, "prod": 1, "gone": 7}
    assert labels_before(own, before, {}) == {"stable": 1, "canary": 1, "prod": 1, "gone": 7}


def test_held_orders_are_others_than_those_that_let_go() -> None:
    let_go = orders()
    assert held(let_go) == {**let_go, "held": True, "generation": held(let_go)["generation"]}
    assert held(let_go)["generation"] != let_go["generation"]


# ---- merging


@pytest.mark.parametrize(
    ("base", "extra", "merged"),
    [
        ({"a": 1}, {}, {"a": 1}),
        ({"a": 1}, {"a": 2, "b": 3}, {"a": 2, "b": 3}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"a": {"b": 1}}, {"a": "c"}, {"a": "c"}),
        ({"args": ["--a"]}, {"args": ["--b"]}, {"args": ["--b"]}),
        ({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]}, {"tolerations": [{"key": "b"}]}),
        (
            {"containers": [{"name": "server", "image": "x"}]},
            {"containers": [{"name": "server", "tty": True}, {"name": "proxy", "image": "y"}]},
            {"containers": [{"name": "server", "image": "x", "tty": True}, {"name": "proxy", "image": "y"}]},
        ),
        (
            {"ports": [{"containerPort": 80}]},
            {
                "ports": [
                    {"containerPort": 80, "protocol": "TCP", "name": "a"},
                    {"containerPort": 80, "protocol": "UDP"},
                ]
            },
            {
                "ports": [
                    {"containerPort": 80, "protocol": "TCP", "name": "a"},
                    {"containerPort": 80, "protocol": "UDP"},
                ]
            },
        ),
        (
            {"volumes": [{"name": "a", "emptyDir": {"medium": "Memory"}}]},
            {"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "c"}}]},
            {"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "c"}}]},
        ),
        (
            {"volumes": [{"name": "a", "emptyDir": {"medium": "Memory"}}]},
            {"volumes": [{"name": "a", "emptyDir": {"sizeLimit": "1Gi"}}]},
            {"volumes": [{"name": "a", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}]},
        ),
        (
            {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]},
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}, {"name": "B", "value": "2"}]},
        ),
    ],
)
def test_merge(base: Json, extra: Json, merged: Json) -> None:
    assert merge(base, extra) == merged


NAMES = st.sampled_from(["a", "b", "c"])
ENV = st.lists(st.builds(lambda n, v: {"name": n, "value": v}, NAMES, NAMES), max_size=3, unique_by=lambda i: i["name"])
MAPS = st.dictionaries(NAMES, NAMES | st.dictionaries(NAMES, NAMES, max_size=2), max_size=3)
PARTS = st.fixed_dictionaries({}, optional={"env": ENV, "labels": MAPS, "args": st.lists(NAMES, max_size=2)})


@given(PARTS, PARTS)
def test_merging_again_changes_nothing(base: Json, extra: Json) -> None:
    once = merge(base, extra)
    assert merge(once, extra) == once


@given(PARTS, PARTS)
def test_merging_changes_neither_side(base: Json, extra: Json) -> None:
    before = json.dumps([base, extra])
    merge(base, extra)
    assert json.dumps([base, extra]) == before


@given(PARTS)
def test_nothing_is_the_neutral_side(part: Json) -> None:
    assert merge(part, {}) == part
    assert merge({}, part) == part


def test_merge_keys_are_the_api_servers() -> None:
    """x-kubernetes-list-map-keys of everything below PodTemplateSpec, in the OpenAPI document of Kubernetes 1.36.

    Left out: `claims` of container resources, which Slipway never renders.
    """
    assert MERGE_KEYS == {
        "containers": ("name",),
        "initContainers": ("name",),
        "ephemeralContainers": ("name",),
        "env": ("name",),
        "ports": ("containerPort", "protocol"),
        "volumeDevices": ("devicePath",),
        "volumeMounts": ("mountPath",),
        "hostAliases": ("ip",),
        "imagePullSecrets": ("name",),
        "resourceClaims": ("name",),
        "schedulingGates": ("name",),
        "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
        "volumes": ("name",),
    }


# ---- the pod


def test_labels_that_select_are_not_the_users_to_change() -> None:
    labels = {
        "slipway.dev/model": "other",
        "slipway.dev/revision": "x",
        "app.kubernetes.io/managed-by": "me",
        "team": "b",
    }
    rendered = template({"podTemplate": {"metadata": {"labels": labels, "annotations": {"a": "b"}}}})["metadata"]
    assert rendered["labels"] == {**labels_of(NAME, "aaaaaaaaaa"), "team": "b"}
    assert rendered["annotations"] == {"a": "b"}


def test_all_containers_of_ours_run_restricted() -> None:
    spec = template()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*spec["initContainers"], *spec["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_every_mount_has_its_volume() -> None:
    for changes in (
        {},
        {"model": {"uri": "https://h/m", "versions": {"1": "a"}}, "storage": {"caBundle": {"configMapName": "ca"}}},
        {
            "model": {"uri": "volume://models/digits"},
            "podTemplate": {"spec": {"volumes": [{"name": "models", "emptyDir": {}}]}},
        },
    ):
        spec = template(changes)["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in [*spec["initContainers"], *spec["containers"]]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_the_agent_is_a_native_sidecar_and_the_pods_readiness() -> None:
    assert agent()["restartPolicy"] == "Always"
    assert agent()["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert "readinessProbe" not in server()


def test_only_the_agent_writes_models_and_only_it_sees_the_source() -> None:
    mounts = {mount["mountPath"]: mount for mount in server()["volumeMounts"]}
    assert mounts["/models"]["readOnly"] is True
    assert "/source" not in mounts
    source = next(mount for mount in agent()["volumeMounts"] if mount["mountPath"] == "/source")
    assert source["readOnly"] is True


def test_a_mounted_image_and_a_private_ca_go_together() -> None:
    """The CA is for the next spec, which may pull; the image is what this one serves."""
    storage = {"imageVolume": True, "caBundle": {"configMapName": "ca"}}
    changes = {"model": {"uri": "oci://registry/m", "versions": {"1": "v1"}}, "storage": storage}
    assert {"/source", "/etc/slipway-ca"} <= {mount["mountPath"] for mount in agent(changes)["volumeMounts"]}


@pytest.mark.parametrize(
    ("limits", "has_gpu"),
    [
        ({}, False),
        ({"nvidia.com/gpu": 1}, True),
        ({"amd.com/gpu": "2"}, True),
        ({"nvidia.com/gpu.shared": 1}, True),
        ({"nvidia.com/mig-1g.5gb": 1}, True),
        ({"example.com/gpus": 1}, False),
        ({"nvidia.com/gpu": 0}, False),
        ({"cpu": 1}, False),
    ],
)
def test_the_agent_is_told_of_a_gpu(limits: Json, *, has_gpu: bool) -> None:
    assert orders({"resources": {"limits": limits}})["triton"]["gpu"] is has_gpu


def test_env_of_the_users_wins_over_ours() -> None:
    rendered = server({"runtime": {"env": [{"name": "SLIPWAY_SERVER_KEY", "value": "mine"}]}})
    assert {item["name"]: item.get("value") for item in rendered["env"]}["SLIPWAY_SERVER_KEY"] == "mine"


def test_a_pod_template_adds_to_our_containers_and_brings_its_own() -> None:
    extra = {
        "spec": {
            "nodeSelector": {"gpu": "yes"},
            "containers": [
                {"name": "server", "env": [{"name": "B", "value": "2"}]},
                {"name": "proxy", "image": "proxy:1"},
            ],
            "initContainers": [{"name": "first", "image": "first:1"}],
        }
    }
    spec = template({"podTemplate": extra})["spec"]
    assert spec["nodeSelector"] == {"gpu": "yes"}
    assert [container["name"] for container in spec["containers"]] == ["server", "proxy"]
    assert [container["name"] for container in spec["initContainers"]] == ["agent", "first"]
    assert {"name": "B", "value": "2"} in spec["containers"][0]["env"]
    assert spec["containers"][0]["image"] == IMAGES.servers["Triton"]


# ---- the other children


def all_children(changes: Json | None = None) -> list[Any]:
    wanted = deployment(changes)
    revision = rendered_revision(wanted, 1)
    return [
        render_service(wanted, ports=service_ports([wanted.spec], to_router=False)),
        render_metrics_service(wanted, metrics_ports([wanted.spec])),
        render_controller_revision(wanted, revision, {}),
        render_config_map(
            wanted, revision.hash, Assignment(revision.hash), render_agent_config(wanted, revision, (1,), {}), {}
        ),
        render_deployment(wanted, revision.hash, revision.template, 3),
    ]


def test_every_child_is_owned_labelled_and_in_the_namespace() -> None:
    for child in all_children():
        meta = child.manifest["metadata"]
        assert meta["namespace"] == NAMESPACE
        assert meta["name"] == child.name
        assert meta["labels"]["slipway.dev/model"] == NAME
        assert meta["labels"]["app.kubernetes.io/managed-by"] == "slipway"
        (owner,) = meta["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("ModelDeployment", NAME, UID, True)


def test_rendered_twice_it_is_the_same() -> None:
    assert all_children() == all_children()


def test_the_longest_name_still_fits() -> None:
    """A pod of a ReplicaSet of a Deployment appends up to 17 characters; a label holds 63."""
    name = child_name("d" * MAX_NAME_LENGTH, "0123456789")
    assert len(name) + 12 <= 63


def test_a_deployments_pods_are_the_kept_template_whatever_the_spec_says_now() -> None:
    before = deployment({"model": {"version": 1}})
    revision = rendered_revision(before, 1)
    now = deployment({"model": {"version": 2}, "runtime": {"args": ["--new"]}, "replicas": 4})
    rendered = render_deployment(now, revision.hash, revision.template, 4).manifest
    assert rendered["spec"]["template"] == revision.template
    assert rendered["spec"]["replicas"] == 4


# ---- the agents' orders


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("pvc://models", "/source"),
        ("pvc://models/", "/source"),
        ("pvc://models/a/b", "/source/a/b"),
        ("pvc://models/a/b/", "/source/a/b"),
        ("https://h/m", None),
    ],
)
def test_where_the_agent_looks(uri: str, path: str | None) -> None:
    assert orders({"model": {"uri": uri, "versions": {"1": "x"}}})["source"]["path"] == path


@pytest.mark.parametrize(
    ("changes", "load"),
    [({}, (1, 2)), ({"model": {"sha256": {"1": "b" * 64}}}, (1,)), ({"storage": {"allowRedirects": True}}, (1,))],
)
def test_other_orders_are_another_generation(changes: Json, load: tuple[int, ...]) -> None:
    assert orders(changes, load)["generation"] != orders()["generation"]
    assert orders(changes, load) == orders(changes, load)


def of_earlier(before: Json, now: Json) -> Json:
    """The orders of the revision before, under the spec of now."""
    earlier = rendered_revision(deployment(before), 1)
    return render_agent_config(deployment(now), earlier, (earlier.version,), {})


def test_an_old_revision_keeps_its_place_name_version_and_batching() -> None:
    before = {
        "model": {"uri": "https://h/old", "versions": {"1": "one.onnx"}, "name": "old", "sha256": {"1": "a" * 64}},
        "batching": {"maxBatchSize": 4},
        "storage": {"allowRedirects": True},
    }
    found = of_earlier(before, {"model": {"uri": "pvc://models/new", "version": 2}})
    assert found["source"] == {
        "uri": "https://h/old",
        "path": None,
        "versions": {"1": "one.onnx"},
        "allowRedirects": True,
        "caFile": None,
    }
    assert (found["model"], found["served"], found["sha256"]) == ("old", 1, {"1": "a" * 64})
    assert found["triton"]["maxBatchSize"] == 4


def test_an_old_revision_at_the_same_place_follows_what_the_spec_says_of_fetching() -> None:
    found = of_earlier(
        {"model": {"sha256": {"1": "a" * 64}}},
        {"model": {"version": 2, "sha256": {"2": "c" * 64}}, "storage": {"allowRedirects": True}},
    )
    assert found["sha256"] == {"2": "c" * 64}
    assert found["source"]["allowRedirects"] is True


def test_limits_follow_the_spec_at_once_and_the_volumes_size_is_the_revisions_own() -> None:
    before = {"storage": {"sizeLimit": "1Gi", "limits": {"entries": 7}}}
    now = {"model": {"version": 2}, "storage": {"sizeLimit": "2Gi", "limits": {"unpackedSize": "5Gi"}}}
    assert of_earlier(before, now)["source"]["limits"] == {"unpackedBytes": 5 << 30, "volumeBytes": 1 << 30}
    assert "limits" not in of_earlier({}, {"storage": {"limits": {}}})["source"]


def test_an_old_revision_still_finds_its_version_when_the_spec_names_it_no_more() -> None:
    before = {"model": {"uri": "https://h/m", "versions": {"1": "one.onnx"}}}
    now = {"model": {"uri": "https://h/m", "version": 2, "versions": {"2": "two.onnx"}}}
    assert of_earlier(before, now)["source"]["versions"] == {"1": "one.onnx", "2": "two.onnx"}


def test_what_the_spec_names_anew_holds_for_old_revisions_too() -> None:
    before = {"model": {"uri": "https://h/m", "versions": {"1": "wrong.onnx"}}}
    now = {"model": {"uri": "https://h/m", "version": 2, "versions": {"1": "one.onnx", "2": "two.onnx"}}}
    assert of_earlier(before, now)["source"]["versions"] == {"1": "one.onnx", "2": "two.onnx"}


def test_the_specs_own_revision_has_exactly_the_versions_of_the_spec() -> None:
    before = {"model": {"uri": "https://h/m", "versions": {"1": "one.onnx", "3": "three.onnx"}}}
    now = {"model": {"uri": "https://h/m", "versions": {"1": "uno.onnx"}}}
    assert of_earlier(before, now)["source"]["versions"] == {"1": "uno.onnx"}
