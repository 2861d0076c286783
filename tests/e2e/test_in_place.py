"""A new version in pods that go on serving, and versions found where the models lie; no request is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.e2e import store
from tests.e2e.install import image_references
from tests.e2e.kube import Manifest
from tests.e2e.models import Digits
from tests.e2e.rollouts import agreed_sample, command, golden
from tests.e2e.stage import Served, Stage, digits_volume
from tests.e2e.test_rollout import load_on, needs_service, restarts, telling, then_loads_while_serving, then_seen

pytestmark = pytest.mark.usefixtures("operator")

Put = Callable[[dict[str, bytes]], None]


@pytest.fixture
def served(stage: Stage, digits: Digits) -> Served:
    """Version 1 of the digits on two pods; version 3 is no model."""
    stage.given_digits(digits, **{"digits-3": b"this is no model"})
    volume = digits_volume((1, 2))
    volume["configMap"]["items"].append({"key": "digits-3", "path": "digits/3/model.onnx"})
    return stage.given(
        "digits", "volume://models/digits", 1, [volume], replicas=2, rollout={"bakeSeconds": 60}
    ).then_ready()


@pytest.fixture
def put(stage: Stage, tmp_path: Path) -> Put:
    """Copies files (path → content) into the claim `models`, as a user does."""
    store.claim(stage.kube, stage.namespace, "models")

    def now(files: dict[str, bytes]) -> None:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        store.upload(stage.kube, stage.namespace, "models", tmp_path, image_references()["agent"], "IfNotPresent")

    return now


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_a_new_version_loads_into_serving_pods_and_no_connection_is_dropped(served: Served, digits: Digits) -> None:
    sample = telling(digits)
    loading = load_on(served, digits, ended_pods=0)
    then_loads_while_serving(served, loading, 2, {sample.labels[1], sample.labels[2]})
    status = served.stored()["status"]
    assert status["stable"]["version"] == 2
    assert [(one["version"], one["state"], one["served"]) for one in status["versions"]] == [
        (1, "Available", False),
        (2, "Available", True),
    ]
    assert all(one["since"] and len(one["sha256"]) == 64 for one in status["versions"])


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_back_within_bake_is_a_switch(served: Served, digits: Digits) -> None:
    before, stable = restarts(served.pods()), served.stored()["status"]["stable"]["revision"]
    served.when_spec(model={"version": 2}).then_ready()
    with load_on(served, digits, ended_pods=0):
        served.when_spec(model={"version": 1})
        served.then("Promoted", "True", seconds=10)
        served.then_answers(digits, 1, seconds=10)
    assert restarts(served.pods()) == before
    assert served.stored()["status"]["stable"]["revision"] == stable


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_a_version_that_fails_to_load_leaves_the_old_one_serving(served: Served, digits: Digits) -> None:
    before = restarts(served.pods())
    with load_on(served, digits, ended_pods=0) as load:
        served.when_spec(model={"version": 3})
        served.then("Promoted", "False", "RolledBack", says=["LoadFailed", "version 3"])
        served.then("Ready", "True")
        load.after_answers(10)
    assert restarts(served.pods()) == before
    then_seen(load, {telling(digits).labels[1]})
    served.when_spec(model={"version": 2}).then_ready()
    served.then_answers(digits, 2)


def test_a_version_refused_for_its_answers_is_taken_up_once_what_is_expected_is_corrected(
    served: Served, digits: Digits
) -> None:
    wrong = (agreed_sample(digits).labels[1] + 1) % 10
    served.when_spec(model={"version": 2}, rollout={"gates": {"golden": golden(digits, wrong)}})
    served.then("Promoted", "False", "RolledBack", says=["GoldenFailed", "a known digit"])
    served.when_spec(rollout={"gates": {"golden": golden(digits)}})
    [rejected] = served.stored()["status"]["rejected"]
    assert command(served, "retry", rejected["revision"])["accepted"]
    served.then_ready()
    served.then_answers(digits, 2)


def test_a_version_that_failed_to_load_is_taken_up_by_the_same_pods_once_its_bytes_are_corrected(
    stage: Stage, digits: Digits, put: Put
) -> None:
    put({"1/model.onnx": digits.files[1], "2/model.onnx": b"this is no model"})
    served = stage.given("digits", "pvc://models", 1, storage={"pollIntervalSeconds": 5}).then_ready()
    before = restarts(served.pods())
    served.when_spec(model={"version": 2})
    served.then("Promoted", "False", "RolledBack", says=["LoadFailed", "version 2"])
    put({"2/model.onnx": digits.files[2]})
    served.then_ready()
    served.then_answers(digits, 2)
    assert restarts(served.pods()) == before


def test_a_version_that_does_not_fit_beside_the_old_one_gets_pods_of_its_own(
    stage: Stage, digits: Digits, put: Put
) -> None:
    ballast = bytes(7 << 20)
    put({f"{n}/model.onnx": digits.files[n] for n in (1, 2)} | {f"{n}/ballast.bin": ballast for n in (1, 2)})
    served = stage.given(
        "digits", "pvc://models", 1, model={"memoryFactor": 100}, resources={"limits": {"memory": "1Gi"}}
    )
    before = set(restarts(served.then_ready().pods()))
    served.when_spec(model={"version": 2})
    served.kube.wait(
        "ModelDeployment", "digits", stage.namespace, "it says why it rolls", lambda found: _rolls_because(found)
    )
    served.then_ready()
    served.then_answers(digits, 2)
    assert not before & set(restarts(served.pods()))


def _rolls_because(found: Manifest | None) -> bool | None:
    canary = ((found or {}).get("status") or {}).get("canary") or {}
    said = canary.get("rollsBecause") or ""
    return True if said.startswith("NotEnoughMemory") and "MiB" in said else None


def test_versions_are_found_where_they_are_put(stage: Stage, digits: Digits, put: Put) -> None:
    served = stage.given("digits", "pvc://models", 1, storage={"pollIntervalSeconds": 1})
    served.when_spec(model={"version": None})
    served.then("Ready", "False", "NoVersionFound")
    put({"1/model.onnx": digits.files[1]})
    served.then_ready()
    served.then_answers(digits, 1)
    before = restarts(served.pods())
    put({"2/model.onnx": digits.files[2], "v3/model.onnx": digits.files[2], "04/model.onnx": digits.files[2]})
    served.then_answers(digits, 2, seconds=30)
    served.then_ready()
    assert restarts(served.pods()) == before
    assert served.stored()["status"]["listed"] == [1, 2]


def test_a_folder_that_is_half_copied_is_no_version_yet(stage: Stage, digits: Digits, put: Put) -> None:
    put({"1/model.onnx": digits.files[1], "2/labels.txt": b"its model comes later"})
    served = stage.given("digits", "pvc://models", 1, storage={"pollIntervalSeconds": 1})
    served.when_spec(model={"version": None})
    served.then_ready()
    before = restarts(served.pods())
    assert served.stored()["status"]["listed"] == [1]
    put({"2/model.onnx": digits.files[2]})
    served.then_answers(digits, 2, seconds=30)
    assert restarts(served.pods()) == before


def test_other_bytes_under_a_number_that_was_served_are_never_served(stage: Stage, digits: Digits, put: Put) -> None:
    put({"1/model.onnx": digits.files[1]})
    served = stage.given("digits", "pvc://models", 1).then_ready()
    config_map = served.children("ConfigMap")[0]["metadata"]["name"]
    served.kube.wait(
        "ConfigMap", config_map, stage.namespace, "the digest is recorded",
        lambda found: "recorded.json" in ((found or {}).get("data") or {}) or None,
    )  # fmt: skip
    put({"1/model.onnx": digits.files[2]})
    old = served.pods()[0]["metadata"]["name"]
    served.kube.delete("Pod", old, stage.namespace)
    served.then("Ready", "False", "ContentChanged", says=["model.sha256"])
    put({"1/model.onnx": digits.files[1]})
    served.then("Ready", "True")
    served.then_answers(digits, 1)


def test_two_models_with_one_name_stay_apart(stage: Stage, digits: Digits) -> None:
    """The name in the URL is each ModelDeployment's own affair: clients tell them apart by their Services."""
    stage.given_digits(digits)
    both = [
        stage.given(f"digits-{n}", "volume://models/digits", n, [digits_volume()], model={"name": "digits"})
        for n in (1, 2)
    ]
    for number, served in enumerate(both, start=1):
        served.then_ready()
        with served.asked("digits") as ask:
            answer = ask.rest.infer_json({"image": digits.images})["probabilities"]
        np.testing.assert_allclose(answer, digits.probabilities(number), atol=1e-4)
