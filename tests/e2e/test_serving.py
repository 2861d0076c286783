"""A real model answers as it was trained to, by REST and gRPC, in every version that is loaded."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import numpy as np
import pytest

from tests.e2e.ask import UnansweredError
from tests.e2e.kube import CHILDREN, kubectl
from tests.e2e.models import Digits
from tests.e2e.stage import Asked, Served

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture(scope="module")
def ask(digits_served: Served) -> Iterator[Asked]:
    """The digits with versions 1 and 2 loaded and 2 served, from a PersistentVolumeClaim."""
    with digits_served.asked() as asked:
        yield asked


def test_rest_answers_as_trained(ask: Asked, digits: Digits) -> None:
    answer = ask.rest.infer_json({"image": digits.images})
    assert answer["label"].tolist() == [sample.labels[2] for sample in digits.samples]
    np.testing.assert_allclose(answer["probabilities"], digits.probabilities(2), atol=1e-4)


def test_grpc_answers_as_trained(ask: Asked, digits: Digits) -> None:
    answer = ask.grpc.infer({"image": digits.images})
    assert answer["label"].tolist() == [sample.labels[2] for sample in digits.samples]
    np.testing.assert_allclose(answer["probabilities"], digits.probabilities(2), atol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_each_loaded_version_is_addressable_by_number(ask: Asked, digits: Digits, version: int) -> None:
    by_rest = ask.rest.infer_json({"image": digits.images}, version)
    by_grpc = ask.grpc.infer({"image": digits.images}, version)
    np.testing.assert_allclose(by_rest["probabilities"], digits.probabilities(version), atol=1e-4)
    np.testing.assert_allclose(by_grpc["probabilities"], digits.probabilities(version), atol=1e-4)


def test_the_versions_differ(digits: Digits) -> None:
    # without this, the tests above could not tell one version from the other
    assert np.abs(digits.probabilities(1) - digits.probabilities(2)).max() > 0.1


def test_a_version_that_is_not_loaded_is_refused(ask: Asked, digits: Digits) -> None:
    with pytest.raises(UnansweredError) as refused:
        ask.rest.infer_json({"image": digits.images}, version=3)
    assert 400 <= refused.value.status < 500
    assert not ask.rest.is_ready(version=3)


def test_metadata_names_versions_and_tensors(ask: Asked) -> None:
    metadata = ask.rest.metadata()
    assert metadata["name"] == "digits"
    assert sorted(metadata["versions"]) == ["1", "2"]
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["image"]
    assert {tensor["name"]: tensor["datatype"] for tensor in metadata["outputs"]} == {
        "label": "INT64",
        "probabilities": "FP32",
    }


def test_a_wrong_request_gets_the_servers_words(ask: Asked) -> None:
    with pytest.raises(UnansweredError) as refused:
        ask.rest.infer_json({"picture": np.zeros((1, 64), np.float32)})
    assert refused.value.status == 400
    assert "picture" in str(refused.value)


def test_the_servers_metrics_count_requests_by_version(ask: Asked, digits: Digits) -> None:
    ask.rest.infer_json({"image": digits.images}, version=1)
    url = ask.address.http_url.replace(":8000", ":8002")
    if url == ask.address.http_url:
        pytest.skip("through kubectl port-forward only the ports 8000 and 8001 are reached")
    said = ask.rest.session.get(f"{url}/metrics", timeout=10).text
    assert 'nv_inference_request_success{model="digits",version="1"}' in said


def test_status_names_versions_and_their_digests(digits_served: Served) -> None:
    status = digits_served.stored()["status"]
    versions = {one["version"]: one for one in status["versions"]}
    assert {number: one["state"] for number, one in versions.items()} == {1: "Available", 2: "Available"}
    assert versions[2]["served"]
    assert not versions[1].get("served")
    assert all(len(one["sha256"]) == 64 for one in versions.values())


def test_model_pods_get_no_token_and_no_rights(digits_served: Served) -> None:
    (pod,) = digits_served.pods()
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert not any("serviceAccountToken" in str(volume) for volume in spec["volumes"])
    for container in [*spec["initContainers"], *spec["containers"]]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, container["name"]
        assert context["allowPrivilegeEscalation"] is False, container["name"]
        assert context["capabilities"]["drop"] == ["ALL"], container["name"]


def test_what_loads_models_asks_for_a_key_that_is_in_a_secret_alone(ask: Asked, digits_served: Served) -> None:
    kube, namespace = digits_served.kube, digits_served.namespace
    (pod,) = digits_served.pods()
    (server,) = pod["spec"]["containers"]
    (asked,) = (one["valueFrom"]["secretKeyRef"] for one in server["env"] if one["name"] == "SLIPWAY_SERVER_KEY")
    secret = kube.get("Secret", asked["name"], namespace)
    assert secret is not None
    key = base64.b64decode(secret["data"]["slipway-server-key"]).decode()
    assert secret["immutable"]

    def index(headers: dict[str, str]) -> int:
        url = f"{ask.address.http_url}/v2/repository/index"
        return int(ask.rest.session.post(url, json={}, headers=headers, timeout=10).status_code)

    guesses: tuple[dict[str, str], ...] = ({}, {"slipway-agent": "guessed"}, {"slipway-agent": pod["metadata"]["uid"]})
    assert [index(headers) for headers in guesses] == [403, 403, 403]
    assert index({"slipway-agent": key}) == 200
    readable = [kube.list_(kind, namespace) for kind in ("ModelDeployment", *CHILDREN, "ReplicaSet", "Pod", "Event")]
    name = pod["metadata"]["name"]
    logs = [kubectl("logs", name, "--namespace", namespace, "--container", each) for each in ("agent", "server")]
    for form in (key, secret["data"]["slipway-server-key"]):
        assert form not in json.dumps(readable)
        assert all(log.out and form not in log.out for log in logs)


def test_batching_is_in_force(ask: Asked, batched_digits: Served, digits: Digits) -> None:
    with batched_digits.asked() as batched:
        config = batched.rest.session.get(batched.rest.path(None, "/config"), timeout=10).json()
        assert config["max_batch_size"] == 8
        assert int(config["dynamic_batching"]["max_queue_delay_microseconds"]) == 2000
        answer = batched.rest.infer_json({"image": digits.images[:8]})
        np.testing.assert_allclose(answer["probabilities"], digits.probabilities(2)[:8], atol=1e-4)
        with pytest.raises(UnansweredError):
            batched.rest.infer_json({"image": digits.images[:9]})
    assert ask.rest.is_ready()
