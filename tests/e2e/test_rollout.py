"""A new version takes over, pods come and go, versions load and unload: and no request is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest

from tests.e2e import reach
from tests.e2e.kube import Manifest
from tests.e2e.load import Load, inference_clients, nothing_lost
from tests.e2e.models import Digits, Sample
from tests.e2e.stage import Served, Stage, digits_volume, eventually

pytestmark = pytest.mark.usefixtures("operator")

needs_service = pytest.mark.skipif(
    not reach.is_inside(), reason="kubectl port-forward stays with one pod; this needs Service addresses"
)


@pytest.fixture
def served(stage: Stage, digits: Digits) -> Served:
    """Version 1 of the digits, Ready on two pods, with a short drain: the end of a pod is part of what is tested."""
    stage.given_digits(digits)
    drain = {"args": ["--exit-timeout-secs=6"]}
    return stage.given("digits", "volume://models/digits", 1, [digits_volume()], replicas=2, runtime=drain).then_ready()


def telling(digits: Digits) -> Sample:
    """A sample that the two versions answer differently."""
    return next(sample for sample in digits.samples if sample.labels[1] != sample.labels[2])


@contextmanager
def load_on(served: Served, digits: Digits, ended_pods: int) -> Iterator[Load]:
    """Constant load, on for the whole block; nothing of it may be lost."""
    image = np.array(telling(digits).image, np.float32)
    with (
        reach.service(served.kube, served.name, served.namespace) as address,
        nothing_lost(inference_clients(address.http_url, address.grpc, served.name, image), ended_pods) as load,
    ):
        yield load


def restarts(pods: list[Manifest]) -> dict[str, int]:
    """Pod name to restarts of all its containers."""
    return {
        pod["metadata"]["name"]: sum(
            status["restartCount"]
            for status in [*pod["status"]["initContainerStatuses"], *pod["status"]["containerStatuses"]]
        )
        for pod in pods
    }


def then_seen(load: Load, labels: set[int]) -> None:
    """Every client had these answers, and no other."""
    for name, tally in load.tallies.items():
        assert set(tally.labels) == labels, f"{name}: {load.report()}"


def then_loads_while_serving(
    served: Served, loading: AbstractContextManager[Load], version: int, labels: set[int]
) -> None:
    """The version comes into the pods that serve: the load sees both versions' labels, and no container restarts."""
    before = restarts(served.pods())
    with loading as load:
        served.when_spec(model={"version": version}).then_ready()
        load.after_answers(10)
    then_seen(load, labels)
    assert restarts(served.pods()) == before


def then_rolls(served: Served, loading: AbstractContextManager[Load], **change: Any) -> Load:
    """New pods take over from the two that serve, which are gone before the load ends: their end may lose requests."""
    before = restarts(served.pods())
    with loading as load:
        served.when_spec(**change).then_ready()
        served.then_pods("only the new revision's pods are left", 2, seconds=150)
        for name in before:
            served.kube.wait_gone("Pod", name, served.namespace, seconds=120)
    assert not before.keys() & restarts(served.pods()).keys()
    return load


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_a_new_version_rolls_out_and_no_request_is_lost(served: Served, digits: Digits) -> None:
    loading = load_on(served, digits, ended_pods=2)
    load = then_rolls(served, loading, model={"version": 2}, rollout={"strategy": "RollingUpdate"})
    sample = telling(digits)
    then_seen(load, {sample.labels[1], sample.labels[2]})
    assert served.stored()["status"]["stable"]["version"] == 2
    deployments = {item["spec"]["replicas"] for item in served.children("Deployment")}
    assert deployments <= {0, 2}


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_a_pod_that_is_deleted_loses_no_request(served: Served, digits: Digits) -> None:
    with load_on(served, digits, ended_pods=1):
        victim = served.pods()[0]["metadata"]["name"]
        served.kube.delete("Pod", victim, served.namespace)
        served.kube.wait_gone("Pod", victim, served.namespace, seconds=90)
        served.then_pods("another pod is ready in its place", 2)


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_scaling_up_and_down_loses_no_request(served: Served, digits: Digits) -> None:
    with load_on(served, digits, ended_pods=2):
        served.when_spec(replicas=3).then_pods("three pods", 3)
        served.when_spec(replicas=1).then_pods("one pod", 1)
        served.then("Ready", "True")
    assert served.stored()["status"]["ready"] == "1/1"


def test_kubectl_scale_changes_the_number_of_pods(served: Served, stage: Stage) -> None:
    done = stage.kubectl("scale", "modeldeployment/digits", "--replicas=1")
    assert done.status == 0, done.err
    served.then_pods("one pod", 1)
    scale = served.kube.request(
        "GET", f"/apis/slipway.dev/v1alpha1/namespaces/{stage.namespace}/modeldeployments/digits/scale"
    ).json()
    assert scale["spec"]["replicas"] == 1
    assert scale["status"]["selector"]


def test_scaling_changes_no_revision_and_restarts_no_pod(served: Served) -> None:
    before, pods = served.stored()["status"]["stable"]["revision"], restarts(served.pods())
    served.when_spec(replicas=3).then_pods("three pods", 3)
    served.then("Ready", "True")
    assert served.stored()["status"]["stable"]["revision"] == before
    assert pods.items() <= restarts(served.pods()).items()


def test_versions_load_and_unload_hot(stage: Stage, digits: Digits) -> None:
    stage.given_digits(digits)
    served = stage.given("digits", "volume://models/digits", 2, [digits_volume()]).then_ready()
    before = restarts(served.pods())
    with served.asked() as ask:
        assert not ask.rest.is_ready(version=1)

        served.when_spec(versionPolicy={"latest": {"count": 2}})
        served.then("VersionsReady", "True", says=["1", "2"])
        answer = ask.grpc.infer({"image": digits.images}, version=1)
        np.testing.assert_allclose(answer["probabilities"], digits.probabilities(1), atol=1e-4)
        unversioned = ask.rest.infer_json({"image": digits.images})
        np.testing.assert_allclose(unversioned["probabilities"], digits.probabilities(2), atol=1e-4)

        served.when_spec(versionPolicy={"latest": {"count": 1}})
        served.kube.wait(
            "ModelDeployment", served.name, served.namespace, "version 1 is reported no more", _has_only_version_2
        )
        eventually("version 1 is unloaded", lambda: not ask.rest.is_ready(version=1))
        assert ask.rest.is_ready(version=2)
    assert restarts(served.pods()) == before


def _has_only_version_2(found: Manifest | None) -> bool | None:
    versions = ((found or {}).get("status") or {}).get("versions") or []
    return True if [one["version"] for one in versions] == [2] else None


def test_a_bad_extra_version_leaves_the_served_one_ready(stage: Stage, digits: Digits) -> None:
    stage.given_digits(digits, **{"digits-0": b"this is no model"})
    volume = digits_volume((2,))
    volume["configMap"]["items"].append({"key": "digits-0", "path": "digits/1/model.onnx"})
    served = stage.given(
        "digits", "volume://models/digits", 2, [volume], versionPolicy={"latest": {"count": 2}}
    ).then_ready()
    served.then("VersionsReady", "False", "LoadFailed", says=["version 1"])
    with served.asked() as ask:
        answer = ask.rest.infer_json({"image": digits.images})
        np.testing.assert_allclose(answer["probabilities"], digits.probabilities(2), atol=1e-4)


def test_a_version_that_cant_be_loaded_is_taken_back_at_once(stage: Stage, digits: Digits) -> None:
    stage.given_digits(digits, **{"digits-3": b"this is no model"})
    volume = digits_volume((1,))
    volume["configMap"]["items"].append({"key": "digits-3", "path": "digits/3/model.onnx"})
    served = stage.given(
        "digits",
        "volume://models/digits",
        1,
        [volume],
        rollout={"strategy": "RollingUpdate"},
    ).then_ready()
    stable = served.stored()["status"]["stable"]["revision"]

    served.when_spec(model={"version": 3})
    served.then("Promoted", "False", "RolledBack", says=["LoadFailed"])
    served.then("Ready", "True")
    served.then_pods("only the stable revision's pod is left", 1)
    assert served.stored()["status"]["stable"] == served.stored()["status"]["stable"] | {"revision": stable}

    # the user gives in: that is no new rollout
    served.when_spec(model={"version": 1})
    served.then("Promoted", "True")
    assert served.stored()["status"]["stable"]["revision"] == stable


def test_back_to_the_old_version_is_the_old_revision(stage: Stage, digits: Digits) -> None:
    stage.given_digits(digits)
    served = stage.given("digits", "volume://models/digits", 1, [digits_volume()]).then_ready()
    first = served.stored()["status"]["stable"]["revision"]
    served.when_spec(model={"version": 2}).then_ready()
    second = served.stored()["status"]["stable"]["revision"]
    assert second != first
    served.when_spec(model={"version": 1}).then_ready()
    assert served.stored()["status"]["stable"]["revision"] == first
    kept = {item["metadata"]["labels"]["slipway.dev/revision"] for item in served.children("ControllerRevision")}
    assert kept == {first, second}
