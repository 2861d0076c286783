"""What is written stays as it should be, and nothing more is written; with the operator up, down and back."""

from __future__ import annotations

import numpy as np
import pytest

from tests.e2e.install import Operator
from tests.e2e.kube import CHILDREN, Manifest
from tests.e2e.models import Digits
from tests.e2e.stage import Served, Stage, digits_volume

QUIET_SECONDS = 12


@pytest.fixture
def served(stage: Stage, digits: Digits, operator: Operator) -> Served:
    """Version 1 of the digits, Ready on one pod."""
    stage.given_digits(digits)
    return stage.given("digits", "volume://models/digits", 1, [digits_volume()]).then_ready()


@pytest.fixture
def idle(stage: Stage, digits: Digits, operator: Operator) -> Served:
    """Scaled to zero: all children, no pods to wait for."""
    stage.given_digits(digits)
    served = stage.given("digits", "volume://models/digits", 1, [digits_volume()], replicas=0)
    served.then("Ready", "False", "ScaledToZero")
    return served


def only(served: Served, kind: str) -> Manifest:
    """Its one child of that kind, beside the Service for metrics."""
    (child,) = (each for each in served.children(kind) if not each["metadata"]["name"].endswith("-metrics"))
    return child


def test_an_edited_deployment_is_repaired(idle: Served) -> None:
    name = only(idle, "Deployment")["metadata"]["name"]
    container = {"name": "server", "image": "example.invalid/other:1"}
    idle.kube.patch(
        "Deployment",
        name,
        idle.namespace,
        [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": container["image"]}],
    )

    def repaired(found: Manifest | None) -> bool | None:
        assert found is not None
        image = found["spec"]["template"]["spec"]["containers"][0]["image"]
        return True if image != container["image"] else None

    idle.kube.wait("Deployment", name, idle.namespace, "the image is put back", repaired)


def test_a_deployment_scaled_by_hand_is_put_back(idle: Served) -> None:
    name = only(idle, "Deployment")["metadata"]["name"]
    idle.kube.patch("Deployment", name, idle.namespace, {"spec": {"replicas": 3}})

    def put_back(found: Manifest | None) -> bool | None:
        return True if found and found["spec"]["replicas"] == 0 else None

    idle.kube.wait("Deployment", name, idle.namespace, "replicas are put back", put_back)

    def told(events: list[Manifest]) -> bool | None:
        messages = [event["message"] for event in events if event["reason"] == "ChangePutBack"]
        return (
            True
            if any(name in message and "spec.replicas was changed by " in message for message in messages)
            else None
        )

    idle.kube.wait_list("Event", idle.namespace, "the change is told", told)


def test_what_it_leaves_behind_serves_on_and_becomes_its_own_again(served: Served, stage: Stage) -> None:
    def uids() -> set[str]:
        return {child["metadata"]["uid"] for child in (*served.children(), *served.pods())}

    before = uids()
    done = stage.kubectl("delete", "mdep", served.name, "--cascade=orphan")
    assert done.status == 0, done.err
    served.kube.wait_gone("ModelDeployment", served.name, served.namespace)
    served.kube.apply(served.manifest)
    served.then_ready()
    served.then("Degraded", "False")
    assert uids() == before


@pytest.mark.parametrize("kind", ["Service", "Deployment", "ConfigMap"])
def test_a_deleted_child_comes_back(idle: Served, kind: str) -> None:
    before = only(idle, kind)["metadata"]
    idle.kube.delete(kind, before["name"], idle.namespace)

    def is_new(found: Manifest | None) -> bool | None:
        return True if found and found["metadata"]["uid"] != before["uid"] else None

    idle.kube.wait(kind, before["name"], idle.namespace, "made anew", is_new)


def test_what_other_managers_add_stays(idle: Served) -> None:
    name = only(idle, "Service")["metadata"]["name"]
    idle.kube.patch("Service", name, idle.namespace, {"metadata": {"annotations": {"example.com/team": "vision"}}})
    idle.when_spec(replicas=0, rollout={"revisionHistoryLimit": 3}).then("Ready", "False", "ScaledToZero")
    found = idle.kube.get("Service", name, idle.namespace)
    assert found is not None
    assert found["metadata"]["annotations"]["example.com/team"] == "vision"


def test_an_owned_object_that_nothing_names_is_pruned(idle: Served) -> None:
    template = only(idle, "ConfigMap")["metadata"]
    stray: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "digits-stray",
            "labels": template["labels"],
            "ownerReferences": template["ownerReferences"],
            "namespace": idle.namespace,
        },
    }
    idle.kube.create(stray)
    # not ours, however it is labelled: nobody may delete it
    unowned = stray | {
        "metadata": {"name": "digits-unowned", "labels": template["labels"], "namespace": idle.namespace}
    }
    idle.kube.create(unowned)
    idle.kube.wait_gone("ConfigMap", "digits-stray", idle.namespace)
    assert idle.kube.get("ConfigMap", "digits-unowned", idle.namespace) is not None


def test_only_so_many_revisions_are_kept(idle: Served) -> None:
    idle.when_spec(rollout={"revisionHistoryLimit": 1})
    for number in (2, 1, 2):
        idle.when_spec(model={"version": number}, runtime={"args": [f"--log-verbose={number}"]})
        idle.then("Ready", "False", "ScaledToZero")

    def pruned(found: list[Manifest]) -> bool | None:
        return True if 1 <= len(found) <= 2 else None

    idle.kube.wait_list("ControllerRevision", idle.namespace, "one old revision kept", pruned, labels=idle.labels)


def test_children_are_applied_by_manager_slipway(idle: Served) -> None:
    assert {child["kind"] for child in idle.children()} >= {"Deployment", "Service", "ConfigMap", "ControllerRevision"}
    for child in idle.children():
        managers = {
            (entry["manager"], entry["operation"])
            for entry in child["metadata"]["managedFields"]
            if entry["manager"].startswith("slipway")
        }
        assert managers == {("slipway", "Apply")}, f"{child['kind']} {child['metadata']['name']}: {managers}"
        assert child["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "slipway"
    assert not idle.stored()["metadata"].get("finalizers")


@pytest.mark.alone  # counts all writes of the operator
def test_once_converged_nothing_is_written(served: Served, operator: Operator) -> None:
    # namespaces of earlier tests may still be ending, which the operator's own count sees: so it gets several chances
    for _ in range(5):
        before = operator.writes()
        changed = served.kube.writes_during(("ModelDeployment", *CHILDREN, "Event"), served.namespace, QUIET_SECONDS)
        assert changed == []
        if operator.writes() == before:
            return
    pytest.fail(f"the operator never went {QUIET_SECONDS} s without a write: {operator.metrics()}")


def test_a_deleted_modeldeployment_takes_its_children_along(idle: Served) -> None:
    idle.kube.delete("ModelDeployment", idle.name, idle.namespace)
    nothing_is_left(idle)


def nothing_is_left(served: Served) -> None:
    """Waits until no child is there any more."""
    for kind in (*CHILDREN, "Pod"):
        served.kube.wait_list(
            kind,
            served.namespace,
            f"no {kind} is left",
            lambda found: True if not found else None,
            labels=served.labels,
            seconds=90,
        )


@pytest.mark.alone  # ends the operator
def test_while_the_operator_is_down_models_serve_and_deletion_works(
    served: Served, stage: Stage, digits: Digits, operator: Operator
) -> None:
    other = stage.given("other", "volume://models/digits", 1, [digits_volume()], replicas=0)
    other.then("Ready", "False", "ScaledToZero")
    with operator.down():
        with served.asked() as ask:
            answer = ask.rest.infer_json({"image": digits.images})
            np.testing.assert_allclose(answer["probabilities"], digits.probabilities(1), atol=1e-4)

        other.kube.delete("ModelDeployment", other.name, other.namespace)
        nothing_is_left(other)

        pod = served.pods()[0]["metadata"]["name"]
        served.kube.delete("Pod", pod, served.namespace)
        served.then_pods("a pod made without the operator is ready", 1)
        with served.asked() as ask:
            assert ask.grpc.infer({"image": digits.images})["label"].tolist() == [
                sample.labels[1] for sample in digits.samples
            ]
        served.when_spec(model={"version": 2})
    served.then_ready()
    assert served.stored()["status"]["stable"]["version"] == 2


@pytest.mark.alone  # ends the operator
def test_a_killed_operator_restarts_and_writes_nothing(served: Served, operator: Operator) -> None:
    changed = served.kube.writes_during(("ModelDeployment", *CHILDREN), served.namespace, 1)
    assert changed == []
    versions = {(c["kind"], c["metadata"]["name"]): c["metadata"]["resourceVersion"] for c in served.children()}
    operator.kill()
    # it is back when it acts on a change
    other = Stage(served.kube, served.namespace).given(
        "other", "volume://models/digits", 1, [digits_volume()], replicas=0
    )
    other.then("Ready", "False", "ScaledToZero")
    assert versions == {(c["kind"], c["metadata"]["name"]): c["metadata"]["resourceVersion"] for c in served.children()}
