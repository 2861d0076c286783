"""TensorFlow Serving in the cluster, by its stand-in: SavedModels served, updated in place, rolled, refused in words.

The models are made by the stand-in's own TensorFlow, in a pod, on the claim that they are served from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import requests

from tests.e2e import reach, store
from tests.e2e.install import image_references
from tests.e2e.kube import Manifest
from tests.e2e.load import GRPC, KEPT, NEW, Ask, Load, nothing_lost
from tests.e2e.rollouts import command, then_routed
from tests.e2e.stage import Served, Stage, eventually
from tests.e2e.tensorflow_api import error_of, spec_of, tensorflow_grpc
from tests.e2e.test_rollout import needs_service, restarts, then_loads_while_serving, then_rolls

pytestmark = pytest.mark.usefixtures("operator", "stand_in_image")
MODEL = "multiplier"
BODY = {"instances": [[1.0, 1.0]]}
# The claim's folders as versions: what is good keeps its number, what is broken has a name (make_models.py).
VERSIONS = {1: "1", 2: "2", 3: "3"}


@pytest.fixture(scope="module")
def stand_in_image(needs_image: Callable[..., None]) -> None:
    needs_image("test-tensorflow-serving")


@pytest.fixture(scope="module")
def claim(module_stage: Stage, operator: object, stand_in_image: None) -> str:
    """The claim with the SavedModels."""
    return make_saved_models(module_stage)


def make_saved_models(stage: Stage) -> str:
    """A claim with the SavedModels of make_models.py, written there by a pod of the stand-in's image."""
    kube, namespace, name = stage.kube, stage.namespace, "saved-models"
    store.claim(kube, namespace, name)
    made: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "make-models", "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            # a fresh volume belongs to root, and not every kind of volume knows fsGroup
            "securityContext": {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "make",
                    "image": image_references()["test-tensorflow-serving"],
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["/opt/tensorflow/bin/python", "/opt/tensorflow/stand_in/make_models.py", "/models"],
                    "volumeMounts": [{"name": "models", "mountPath": "/models"}],
                }
            ],
            "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": name}}],
        },
    }
    kube.create(made)

    def ended(pod: Manifest | None) -> bool | None:
        phase = ((pod or {}).get("status") or {}).get("phase")
        assert phase != "Failed", "the models could not be made: see the log of pod make-models"
        return True if phase == "Succeeded" else None

    kube.wait("Pod", "make-models", namespace, "the models are made", ended, 90)
    return name


def given(stage: Stage, claim: str, name: str, version: int, versions: dict[int, str], **spec: Any) -> Served:
    """A ModelDeployment of the multiplier under the model name that its warm-up knows."""
    model = {"name": MODEL, "versions": {str(number): folder for number, folder in versions.items()}}
    model |= spec.pop("model", {})
    return stage.given(
        name,
        f"pvc://{claim}/{MODEL}",
        version,
        model=model,
        **{"runtime": "TensorFlowServing", "rollout": {"bakeSeconds": 5}, **spec},
    )


def ask(url: str, path: str = "", session: requests.Session | None = None) -> float:
    """What a prediction answers: the number of the version that gave it."""
    post = (session or requests).post
    answer = post(f"{url}/v1/models/{MODEL}{path}:predict", json=BODY, timeout=30)
    assert answer.status_code == 200, f"HTTP {answer.status_code}: {answer.text[:500]}"
    return float(answer.json()["predictions"][0][0])


def answers(served: Served, path: str = "") -> float:
    with reach.service(served.kube, served.name, served.namespace) as address:
        return ask(address.http_url, path)


def answers_by_label(served: Served, label: str) -> float | None:
    """None where the server knows no such label."""
    try:
        return answers(served, f"/labels/{label}")
    except AssertionError:
        return None


@contextmanager
def load_on(served: Served, ended_pods: int) -> Iterator[Load]:
    """Constant load, on for the whole block; nothing of it may be lost."""

    @contextmanager
    def kept() -> Iterator[Ask]:
        with requests.Session() as session:
            session.trust_env = False
            yield lambda: int(ask(address.http_url, session=session))

    @contextmanager
    def new() -> Iterator[Ask]:
        yield lambda: int(ask(address.http_url))

    @contextmanager
    def channel() -> Iterator[Ask]:
        x = np.ones((1, 2), np.float32)
        with tensorflow_grpc(address.grpc) as client:
            yield lambda: int(client.predict(spec_of(MODEL), x=x)["y"][0][0])

    with (
        reach.service(served.kube, served.name, served.namespace) as address,
        nothing_lost({KEPT: kept, NEW: new, GRPC: channel}, ended_pods) as load,
    ):
        yield load


@pytest.fixture(scope="module")
def two(module_stage: Stage, claim: str) -> Served:
    """Versions 1 and 2 loaded, 2 served, a label of the user's on 1, batches of 4. Tests only read it."""
    return given(
        module_stage,
        claim,
        "two",
        2,
        VERSIONS,
        model={"labels": {"previous": 1}},
        versionPolicy={"latest": {"count": 2}},
        batching={"maxBatchSize": 4, "maxDelayMicroseconds": 500},
    )


@pytest.fixture
def multiplier(two: Served) -> Served:
    two.then_ready()
    two.then("VersionsReady", "True")
    return two


def test_rest_and_grpc_answer_by_version_and_by_default(multiplier: Served) -> None:
    x = np.ones((1, 2), np.float32)
    with (
        reach.service(multiplier.kube, multiplier.name, multiplier.namespace) as address,
        tensorflow_grpc(address.grpc) as client,
    ):
        assert [ask(address.http_url, path) for path in ("", "/versions/1", "/versions/2")] == [2.0, 1.0, 2.0]
        assert [client.predict(spec_of(MODEL, each), x=x)["y"][0][0] for each in (None, 1, 2)] == [2.0, 1.0, 2.0]
        assert client.states(MODEL) == {2: "AVAILABLE", 1: "AVAILABLE"}
        with pytest.raises(grpc.RpcError) as failure:
            client.predict(spec_of(MODEL, 3), x=x)
        assert error_of(failure.value) == ("NOT_FOUND", f"Servable not found for request: Specific({MODEL}, 3)")
        metadata = requests.get(f"{address.http_url}/v1/models/{MODEL}/metadata", timeout=10).json()
        assert metadata["model_spec"]["version"] == "2"


def test_labels_lead_to_their_versions(multiplier: Served) -> None:
    eventually("the labels are in force", lambda: answers_by_label(multiplier, "previous") == 1.0)
    assert answers_by_label(multiplier, "stable") == 2.0
    assert answers_by_label(multiplier, "canary") is None


def test_batching_is_in_force(multiplier: Served) -> None:
    with reach.service(multiplier.kube, multiplier.name, multiplier.namespace) as address:
        url = f"{address.http_url}/v1/models/{MODEL}:predict"
        assert requests.post(url, json={"instances": [[1.0, 1.0]] * 4}, timeout=10).status_code == 200
        refused = requests.post(url, json={"instances": [[1.0, 1.0]] * 5}, timeout=10)
        assert refused.status_code == 400
        assert "larger than maximum input batch size 4" in refused.json()["error"]


def test_the_servers_metrics_count_requests_and_not_the_agents_questions(multiplier: Served) -> None:
    def counted(url: str) -> float:
        page = requests.get(f"{url}/monitoring/prometheus/metrics", timeout=10).text
        lines = [line for line in page.splitlines() if line.startswith(":tensorflow:serving:request_count{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    with reach.service(multiplier.kube, multiplier.name, multiplier.namespace) as address:
        before = counted(address.http_url)
        for _ in range(20):
            ask(address.http_url)
        assert 20 <= counted(address.http_url) - before <= 22


def test_status_names_versions_and_their_digests(multiplier: Served) -> None:
    versions = {one["version"]: one for one in multiplier.stored()["status"]["versions"]}
    assert {number: one["state"] for number, one in versions.items()} == {1: "Available", 2: "Available"}
    assert versions[2]["served"]
    assert all(len(one["sha256"]) == 64 for one in versions.values())


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_a_new_version_loads_into_serving_pods_and_labels_follow(module_stage: Stage, claim: str) -> None:
    served = given(module_stage, claim, "hot", 2, VERSIONS, replicas=2).then_ready()
    then_loads_while_serving(served, load_on(served, ended_pods=0), 3, {2, 3})
    eventually("stable has followed", lambda: answers_by_label(served, "stable") == 3.0)


def test_a_label_on_a_version_that_isnt_loaded_is_said_and_the_others_stand(module_stage: Stage, claim: str) -> None:
    policy = {"latest": {"count": 2}}
    served = given(module_stage, claim, "labels", 2, VERSIONS, model={"labels": {"old": 1}}, versionPolicy=policy)
    served.then_ready()
    eventually("the label leads to it", lambda: answers_by_label(served, "old") == 1.0)  # version 1 is loaded later
    served.when_spec(model={"labels": {"old": 1, "next": 3}})
    served.then("VersionsReady", "False", "LabelNotLoaded", says=["the label next names version 3"])
    served.then("Ready", "True")
    assert [answers_by_label(served, label) for label in ("old", "stable", "next")] == [1.0, 2.0, None]
    served.when_spec(model={"labels": {"old": 1, "next": None}})
    served.then("VersionsReady", "True")


@needs_service
def test_labels_lead_to_stable_and_canary_while_requests_are_split(module_stage: Stage, claim: str) -> None:
    rollout = {"steps": [{"weight": 1}, {"pause": {}}], "analysis": {"mode": "Off"}, "bakeSeconds": 0}
    served = given(module_stage, claim, "split", 1, VERSIONS, rollout=rollout).then_ready()
    then_routed(served)
    served.when_spec(model={"version": 2})
    served.then("Promoted", "False", "Paused")
    eventually("canary leads to it", lambda: answers_by_label(served, "canary") == 2.0)
    assert [answers_by_label(served, "stable") for _ in range(20)] == [1.0] * 20
    assert command(served, "promote", served.stored()["status"]["canary"]["revision"])["accepted"]
    served.then_ready()
    eventually("stable leads to it", lambda: answers_by_label(served, "stable") == 2.0)


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_a_rolling_update_loses_nothing_though_the_server_ignores_sigterm(module_stage: Stage, claim: str) -> None:
    served = given(module_stage, claim, "rolled", 2, VERSIONS, replicas=2).then_ready()
    then_rolls(served, load_on(served, ended_pods=2), runtime={"env": [{"name": "ANY", "value": "other"}]})


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("garbage", ["LoadFailed", "Can't parse"]),
        ("without-signature", ["NoModelFile", "no signature", "signatures=..."]),
    ],
)
def test_a_broken_new_version_leaves_the_old_one_serving(
    module_stage: Stage, claim: str, folder: str, words: list[str]
) -> None:
    served = given(module_stage, claim, f"kept-{folder}", 2, {2: "2", 3: folder}).then_ready()
    before = restarts(served.pods())
    served.when_spec(model={"version": 3})
    served.then("Promoted", "False", "RolledBack", says=words)
    served.then("Ready", "True")
    assert answers(served) == 2.0
    assert restarts(served.pods()) == before


def test_a_first_version_that_cant_be_loaded_is_told_in_the_servers_words(module_stage: Stage, claim: str) -> None:
    served = given(module_stage, claim, "first", 1, {1: "garbage"})
    served.then("Ready", "False", says=["Can't parse"])


def test_what_the_server_cant_do_is_refused(module_stage: Stage, claim: str) -> None:
    served = given(module_stage, claim, "refused", 1, VERSIONS, runtime={"name": "TensorFlowServing", "instances": 2})
    served.then("Ready", "False", "NotSupportedByRuntime", says=["runtime.instances", "replicas"])
