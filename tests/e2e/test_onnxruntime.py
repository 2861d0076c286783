"""ONNX Runtime: what Triton serves, by changing one word; hot updates, rolling updates, refusals in plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from tritonclient.utils import InferenceServerException

from tests.e2e.ask import UnansweredError
from tests.e2e.kube import Manifest
from tests.e2e.models import Digits
from tests.e2e.stage import Asked, Served, Stage, config_map_volume, digits_volume
from tests.e2e.test_rollout import load_on, needs_service, restarts, telling, then_loads_while_serving, then_rolls

pytestmark = pytest.mark.usefixtures("operator", "onnxruntime_image")


@pytest.fixture(scope="module")
def onnxruntime_image(needs_image: Callable[..., None]) -> None:
    needs_image("onnxruntime")


def with_opset(content: bytes, opset: int) -> bytes:
    """The same model, stamped with another opset."""
    model = onnx.load_from_string(content)
    for imported in model.opset_import:
        if imported.domain in ("", "ai.onnx"):
            imported.version = opset
    written: bytes = model.SerializeToString()
    return written


@pytest.fixture
def served(stage: Stage, digits: Digits) -> Served:
    """Version 1 of the digits on two pods. Version 3 has an opset that no server knows, version 4 is no model."""
    stage.given_digits(digits, **{"digits-3": with_opset(digits.files[1], 99), "digits-4": b"this is no model"})
    volume = digits_volume((1, 2))
    for version in (3, 4):
        item = {"key": f"digits-{version}", "path": f"digits/{version}/digits.onnx"}
        volume["configMap"]["items"].append(item)
    return stage.given(
        "digits", "volume://models/digits", 1, [volume], runtime="ONNXRuntime", replicas=2, rollout={"bakeSeconds": 60}
    ).then_ready()


def test_one_word_switches_between_triton_and_onnxruntime(stage: Stage, digits: Digits) -> None:
    stage.given_digits(digits)
    served = stage.given(
        "digits", "volume://models/digits", 2, [digits_volume()], versionPolicy={"latest": {"count": 2}}
    ).then_ready()
    served.then("VersionsReady", "True")
    by_triton = everything_a_client_sees(served, digits)
    served.when_spec(runtime={"name": "ONNXRuntime"}).then_ready()
    served.then("VersionsReady", "True")
    served.then_pods("only the new revision's pod is left", 1)
    by_onnxruntime = everything_a_client_sees(served, digits)
    assert by_onnxruntime == by_triton


def everything_a_client_sees(served: Served, digits: Digits) -> dict[str, object]:
    """Answers by REST, binary REST and gRPC, unversioned and by version, metadata and readiness."""
    seen: dict[str, object] = {}
    with served.asked() as ask:
        for version in (None, 1, 2):
            inputs = {"image": digits.images}
            for way, answer in (
                ("rest", ask.rest.infer_json(inputs, version)),
                ("binary", ask.rest.infer_binary(inputs, version)),
                ("grpc", ask.grpc.infer(inputs, version)),
            ):
                np.testing.assert_allclose(answer["probabilities"], digits.probabilities(version or 2), atol=1e-4)
                seen[f"{way} {version}"] = answer["label"].tolist()
            metadata = ask.rest.metadata(version)
            assert metadata.pop("platform") in ("onnxruntime_onnx", "onnxruntime", "")
            for part in ("inputs", "outputs"):
                tensors = {(each["name"], each["datatype"], tuple(each["shape"])) for each in metadata[part]}
                seen[f"{part} {version}"] = sorted(tensors)
            seen[f"metadata {version}"] = [metadata["name"], *sorted(metadata["versions"])]
            seen[f"ready {version}"] = ask.rest.is_ready(version)
            seen[f"grpc ready {version}"] = ask.grpc.client.is_model_ready("digits", str(version or ""))
        seen["not there"] = ask.rest.is_ready(3)
        seen["live"] = ask.grpc.client.is_server_live()
        with pytest.raises(UnansweredError) as refused:
            ask.rest.infer_json({"picture": np.zeros((1, 64), np.float32)})
        assert "picture" in str(refused.value)
        seen["wrong name"] = refused.value.status
        with pytest.raises(InferenceServerException):
            ask.grpc.infer({"picture": np.zeros((1, 64), np.float32)})
    return seen


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_a_new_version_loads_into_serving_pods_and_no_connection_is_dropped(served: Served, digits: Digits) -> None:
    sample = telling(digits)
    loading = load_on(served, digits, ended_pods=0)
    then_loads_while_serving(served, loading, 2, {sample.labels[1], sample.labels[2]})
    assert served.stored()["status"]["stable"]["version"] == 2


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_a_rolling_update_loses_no_request_and_closes_no_connection_in_use(served: Served, digits: Digits) -> None:
    loading = load_on(served, digits, ended_pods=0)  # not one kept connection may be cut
    load = then_rolls(served, loading, model={"version": 2}, rollout={"strategy": "RollingUpdate"})
    print(load.report())


@pytest.mark.parametrize(
    ("version", "words"),
    [(3, ["its opset is newer than onnxruntime", "Opset 99"]), (4, ["not an ONNX model", "16 bytes"])],
    ids=["opset", "broken file"],
)
def test_a_version_that_cant_be_loaded_leaves_the_old_one_serving(
    served: Served, digits: Digits, version: int, words: list[str]
) -> None:
    before = restarts(served.pods())
    served.when_spec(model={"version": version})  # a pod drains before it tries
    served.then("Degraded", "True", says=words)
    served.then("Ready", "True")
    served.then_answers(digits, 1)
    assert restarts(served.pods()) == before


def test_a_file_that_is_no_model_is_named(stage: Stage) -> None:
    stage.given_files("models", {"weights": b"weights"})
    volume = config_map_volume("models", {"weights": "digits/1/weights.pt"}, "models")
    served = stage.given("digits", "volume://models/digits", 1, [volume], runtime="ONNXRuntime")
    served.then("Ready", "False", "NoModelFile", says=["weights.pt", "model.onnx"])


def test_what_it_cant_do_is_refused_with_what_to_write(quiet_stage: Stage) -> None:
    served = quiet_stage.given(
        "digits",
        "pvc://models/digits",
        1,
        runtime={"name": "ONNXRuntime", "gpuMemoryFraction": 0.5},
        resources={"limits": {"nvidia.com/gpu": "1"}},
        replicas=0,
    )
    served.then("Degraded", "True", "NotSupportedByRuntime", says=["GPU", "Triton", "gpuMemoryFraction"])
    assert served.children() == []


def tuning(digits: Digits) -> Manifest:
    """Batching, instances, a CPU limit and warm-up requests."""
    one = {"name": "image", "shape": [1, 64], "datatype": "FP32", "data": digits.samples[0].image}
    return {
        "batching": {"maxBatchSize": 8, "maxDelayMicroseconds": 2000},
        "resources": {"requests": {"cpu": "20m"}, "limits": {"cpu": "2", "memory": "1Gi"}},
        "warmup": {"requests": [{"inputs": [one]}]},
    }


@pytest.fixture(scope="module")
def tuned(module_stage: Stage, digits: Digits) -> Iterator[Asked]:
    """The digits in ONNX Runtime, tuned."""
    module_stage.given_digits(digits)
    runtime = {"name": "ONNXRuntime", "instances": 2}
    served = module_stage.given(
        "tuned", "volume://models/digits", 2, [digits_volume()], runtime=runtime, **tuning(digits)
    ).then_ready()
    with served.asked() as asked:
        yield asked


def test_triton_takes_the_same_tuning(stage: Stage, digits: Digits) -> None:
    stage.given_digits(digits)
    served = stage.given(
        "digits", "volume://models/digits", 2, [digits_volume()], runtime={"instances": 2}, **tuning(digits)
    ).then_ready()
    with served.asked() as ask:
        answer = ask.rest.infer_json({"image": digits.images[:8]})
        np.testing.assert_allclose(answer["probabilities"], digits.probabilities(2)[:8], atol=1e-4)
        config = ask.rest.session.get(ask.rest.path(None, "/config"), timeout=10).json()
    assert [(group["count"], group["kind"]) for group in config["instance_group"]] == [(2, "KIND_CPU")]
    assert config["parameters"]["intra_op_thread_count"]["string_value"] == "1"
    assert len(config["model_warmup"]) == 1


def test_batching_instances_and_warm_up_answer_as_trained(tuned: Asked, digits: Digits) -> None:
    answer = tuned.rest.infer_json({"image": digits.images[:8]})
    np.testing.assert_allclose(answer["probabilities"], digits.probabilities(2)[:8], atol=1e-4)
    by_grpc = tuned.grpc.infer({"image": digits.images[:1]})
    np.testing.assert_allclose(by_grpc["probabilities"], digits.probabilities(2)[:1], atol=1e-4)
    with pytest.raises(UnansweredError) as refused:
        tuned.rest.infer_json({"image": np.zeros((9, 64), np.float32)})
    assert (refused.value.status, "at most 8" in str(refused.value)) == (400, True)


@needs_service
def test_metrics_count_requests_by_version(tuned: Asked, digits: Digits) -> None:
    tuned.rest.infer_json({"image": digits.images[:1]})
    said = tuned.rest.session.get(tuned.address.http_url.replace(":8000", ":8002") + "/metrics", timeout=10).text
    assert 'model_infer_request_success_total{model="tuned",version="2"}' in said
    assert 'model_infer_batch_rows_bucket{le="1.0",model="tuned",version="2"}' in said


@needs_service
def test_the_repository_api_is_closed_to_others(tuned: Asked) -> None:
    for path in ("index", "models/tuned/unload"):
        answer = tuned.rest.session.post(f"{tuned.address.http_url}/v2/repository/{path}", json={}, timeout=10)
        assert answer.status_code == 403
    with pytest.raises(InferenceServerException):
        tuned.grpc.client.unload_model("tuned")
    assert tuned.rest.is_ready()


def test_the_example_is_accepted(quiet_stage: Stage) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "onnxruntime" / "modeldeployment.yaml"
    done = quiet_stage.kubectl("apply", "--dry-run=server", "-f", str(example))
    assert done.status == 0, done.err
