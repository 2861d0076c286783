"""Custom: a FastAPI service around the digits (examples/custom), told nothing but a path and a name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from tests.e2e import reach
from tests.e2e.ask import rest
from tests.e2e.install import image_references
from tests.e2e.kube import Manifest
from tests.e2e.load import KEPT, NEW, Load, inference_clients
from tests.e2e.models import Digits
from tests.e2e.stage import Served, Stage, digits_volume, eventually
from tests.e2e.test_rollout import needs_service, telling

pytestmark = pytest.mark.usefixtures("operator", "custom_image")


@pytest.fixture(scope="module")
def custom_image(needs_image: Callable[..., None]) -> None:
    needs_image("test-custom")


def given(stage: Stage, digits: Digits, version: int = 1, runtime: Manifest | None = None, **spec: Any) -> Served:
    stage.given_digits(digits, **{"digits-3": b"this is no model"})
    volume = digits_volume((1, 2))
    volume["configMap"]["items"].append({"key": "digits-3", "path": "digits/3/model.onnx"})
    own = {"name": "Custom", "image": image_references()["test-custom"]} | (runtime or {})
    return stage.given("digits", "volume://models/digits", version, [volume], runtime=own, **spec)


def test_a_service_of_ones_own_answers_and_a_new_version_is_other_pods(stage: Stage, digits: Digits) -> None:
    one = {"name": "image", "shape": [1, 64], "datatype": "FP32", "data": digits.samples[0].image}
    served = given(stage, digits, warmup={"requests": [{"inputs": [one]}]}).then_ready()
    (before,) = served.pods()
    (server,) = before["spec"]["containers"]
    assert {each["name"]: each.get("value") for each in server["env"]}["SLIPWAY_MODEL_PATH"] == "/models/current"
    assert answers_as(served, digits, 1)
    with reach.service(served.kube, served.name, served.namespace) as address:
        answer = requests.post(f"{address.http_url}/classify", json={"pixels": digits.samples[0].image}, timeout=10)
        assert answer.json()["digit"] == digits.samples[0].labels[1]
    served.when_spec(model={"version": 2}).then_ready()
    (after,) = served.then_pods("only the new version's pod is left", 1)
    assert after["metadata"]["name"] != before["metadata"]["name"]
    eventually("the new version answers", lambda: answers_as(served, digits, 2))  # a draining pod still answers
    # the template says nothing of the version: the label and the ConfigMap's name are the revision's
    assert after["spec"]["containers"][0]["env"] == before["spec"]["containers"][0]["env"]
    assert after["spec"]["containers"][0].get("args") == before["spec"]["containers"][0].get("args")


def answers_as(served: Served, digits: Digits, version: int) -> bool:
    with (
        reach.service(served.kube, served.name, served.namespace) as address,
        rest(address.http_url, "digits") as client,
    ):
        answer = client.infer_json({"image": digits.images})
    return np.allclose(answer["probabilities"], digits.probabilities(version), atol=1e-4)


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_a_rolling_update_loses_no_request(stage: Stage, digits: Digits) -> None:
    served = given(stage, digits, replicas=2).then_ready()
    before = [pod["metadata"]["name"] for pod in served.pods()]
    image = np.array(telling(digits).image, np.float32)
    with reach.service(served.kube, served.name, served.namespace) as address:
        clients = inference_clients(address.http_url, "", "digits", image)
        with Load({name: clients[name] for name in (KEPT, NEW)}) as load:
            load.after_answers(10)
            served.when_spec(model={"version": 2}).then_ready()
            served.then_pods("only the new revision's pods are left", 2)
            for name in before:
                served.kube.wait_gone("Pod", name, served.namespace, seconds=90)
            load.after_answers(20)
        load.nothing_was_lost(ended_pods=2)  # uvicorn closes a kept connection at SIGTERM, in use or not
    print(load.report())


def test_a_service_that_never_gets_ready_is_taken_back_with_what_it_says(stage: Stage, digits: Digits) -> None:
    served = given(stage, digits).then_ready()
    served.when_spec(model={"version": 3}, rollout={"progressDeadlineSeconds": 15})
    served.then("Promoted", "False", "RolledBack")
    served.then("Ready", "True")
    assert answers_as(served, digits, 1)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"versionPolicy": {"latest": {"count": 2}}}, ["spec.versionPolicy", "serves one"]),
        ({"batching": {"maxBatchSize": 8}}, ["spec.batching", "runtime.args"]),
        ({"runtime": {"instances": 2}}, ["spec.runtime.instances"]),
        ({"runtime": {"gpuMemoryFraction": 0.5}}, ["spec.runtime.gpuMemoryFraction"]),
        ({"model": {"labels": {"best": 1}}}, ["spec.model.labels", "TensorFlowServing"]),
    ],
    ids=["versions", "batching", "instances", "gpu memory", "labels"],
)
def test_what_a_container_cant_be_told_is_refused(quiet_stage: Stage, spec: Manifest, words: list[str]) -> None:
    runtime = {"name": "Custom", "image": "example.com/any:1"} | spec.pop("runtime", {})
    served = quiet_stage.given("digits", "pvc://models/digits", 1, runtime=runtime, replicas=0, **spec)
    served.then("Degraded", "True", "NotSupportedByRuntime", says=words)
    assert served.children() == []
    quiet_stage.kube.delete("ModelDeployment", served.name, served.namespace)
    quiet_stage.kube.wait_gone("ModelDeployment", served.name, served.namespace)


def test_an_image_is_required(quiet_stage: Stage) -> None:
    with pytest.raises(Exception, match=r"runtime\.image"):
        quiet_stage.given("digits", "pvc://models/digits", 1, runtime="Custom", replicas=0)


def test_the_example_is_accepted(quiet_stage: Stage) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "custom" / "modeldeployment.yaml"
    done = quiet_stage.kubectl("apply", "--dry-run=server", "-f", str(example))
    assert done.status == 0, done.err
