"""The agent beside the real ONNX Runtime server, without a cluster: loads, failures, ends, under steady requests.

Needs SLIPWAY_ONNXRUNTIME_ROOT: /opt/onnxruntime of the onnxruntime image. Its packages are used with the tree's own
server code. The cluster's e2e tests meet the same pair in a pod; this one is for looking closely.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import requests
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.agent.contract import Contract
from tests.e2e.agent.pair import KEY, MODEL, Beside, infer_body, multiplier
from tests.e2e.ask import UnansweredError, grpc_client, rest
from tests.e2e.models import NODE_CASES, onnx_cases

ROOT = os.environ.get("SLIPWAY_ONNXRUNTIME_ROOT")
pytestmark = pytest.mark.skipif(ROOT is None, reason="SLIPWAY_ONNXRUNTIME_ROOT doesn't name an installation")
CASES = (*NODE_CASES, "test_Conv2d", "test_squeezenet")
TREE = Path(__file__).resolve().parents[3] / "serving-images" / "onnxruntime"


class OnnxRuntimePair(Beside):
    runtime, section = "ONNXRuntime", "onnxRuntime"

    def server_command(self) -> list[str]:
        return [
            sys.executable, "-m", "slipway_onnxruntime",
            f"--model-repository={self.models}/repository",
            "--host=127.0.0.1",
            f"--http-port={self.server_port}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
            "--grpc-max-connection-age-seconds=2",
        ]  # fmt: skip

    def server_environment(self) -> dict[str, str]:
        return super().server_environment() | {
            "PYTHONPATH": f"{TREE}:{ROOT}/lib/python3.11/site-packages",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def index(self) -> dict[str, dict[str, str]]:
        answer = requests.post(f"{self.url}/v2/repository/index", json={}, headers={"slipway-agent": KEY}, timeout=5)
        return {each["version"]: each for each in answer.json()}

    def metric(self, name: str, version: int) -> float:
        text = requests.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5).text
        start = f'{name}{{model="{MODEL}",version="{version}"}} '
        (line,) = (line for line in text.splitlines() if line.startswith(start))
        return float(line.removeprefix(start))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[OnnxRuntimePair]:
    made = OnnxRuntimePair(tmp_path)
    yield made
    made.stop()
    for name in ("agent", "server"):
        assert "Traceback" not in (tmp_path / f"{name}.log").read_text()


class TestContract(Contract):
    broken_words = "not an ONNX model, or damaged (8 bytes)"
    edit: ClassVar[dict[str, Any]] = {"instances": 2}


def test_back_to_the_version_before_is_a_switch(pair: OnnxRuntimePair) -> None:
    for version in (1, 2):
        pair.put(version)
    pair.want(2, 1)
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    with pair.asked_all_the_time() as constant:
        pair.want(1)
        pair.until(lambda: pair.states() == {1: "Available"})
        constant.after_answers()
    constant.nothing_failed(2.0, 1.0)
    assert (pair.folder / "server.log").read_text().count("version 1 of multiplier is ready") == 1


def test_what_is_loaded_is_not_loaded_again(pair: OnnxRuntimePair) -> None:
    for version in (1, 2):
        pair.put(version)
    pair.want(1)
    pair.boot()
    pair.want(2, 1)
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    log = (pair.folder / "server.log").read_text()
    assert log.count("version 1 of multiplier is ready") == 1
    assert log.count("version 2 of multiplier is ready") == 1


def test_an_opset_that_is_too_new_is_said_in_onnxruntimes_words_and_the_old_version_serves(
    pair: OnnxRuntimePair,
) -> None:
    pair.put(2)
    pair.put(3, multiplier(3.0, opset=99))
    pair.want(2)
    pair.boot()
    with pair.asked_all_the_time() as constant:
        pair.want(3)
        pair.until(lambda: pair.states() == {2: "Unloading", 3: "Failed"})
        constant.after_answers()
    constant.nothing_failed(2.0)
    assert pair.status()["error"]["reason"] == "LoadFailed"
    assert "its opset is newer than onnxruntime" in pair.message(3)
    assert "Opset 99 is under development" in pair.message(3)


def test_warm_up_runs_before_a_version_is_ready_and_a_failing_one_refuses_it(pair: OnnxRuntimePair) -> None:
    pair.put(1)
    pair.put(2)
    pair.want(1, warmup=(infer_body([[1.0, 2.0]]),))
    pair.boot()
    pair.want(2, warmup=(infer_body([[1.0, 2.0]]), infer_body([[1.0]], name="z")))
    pair.until(lambda: pair.states() == {1: "Unloading", 2: "Failed"})
    assert pair.status()["error"]["reason"] == "WarmupFailed"
    assert "warm-up request 2 failed: there is no input 'z'; the model's own are: x" in pair.message(2)
    assert pair.multiply() == 1.0


def test_threads_are_as_many_as_the_spec_says(pair: OnnxRuntimePair) -> None:
    def threads() -> int:
        return len(list(Path(f"/proc/{pair.pid_of('server')}/task").iterdir()))

    pair.put(1)
    pair.want(1, threads=1)
    pair.boot()
    pair.multiply()
    before = threads()
    pair.want(1, threads=33)
    # 32 in the session's pool; of the others, which compute or load, some come and go
    pair.until(lambda: before + 28 <= threads() <= before + 36)
    assert pair.multiply() == 1.0


def test_the_repository_api_is_the_agents_alone(pair: OnnxRuntimePair) -> None:
    pair.put(1)
    pair.want(1)
    pair.boot()
    for path in (
        "/v2/repository/index",
        f"/v2/repository/models/{MODEL}/unload",
        f"/v2/repository/models/{MODEL}/load",
    ):
        for headers in ({}, {"slipway-agent": "guessed"}):
            assert requests.post(pair.url + path, json={}, headers=headers, timeout=5).status_code == 403
    client = grpc.InferenceServerClient(f"127.0.0.1:{pair.grpc_port}")
    for ask in (
        client.get_model_repository_index,
        lambda: client.unload_model(MODEL),
        lambda: client.load_model(MODEL),
    ):
        with pytest.raises(InferenceServerException) as refused:
            ask()
        assert "named in the ModelDeployment" in str(refused.value)
    client.close()
    assert not pair.tells(KEY)
    assert pair.multiply() == 1.0


def test_requests_that_arrive_together_are_computed_together_and_a_bad_one_fails_alone(pair: OnnxRuntimePair) -> None:
    pair.put(1)
    pair.want(1, maxBatchSize=8, maxBatchDelayMicroseconds=200_000)
    pair.boot()
    path = f"{pair.url}/v2/models/{MODEL}/infer"
    bodies = [infer_body([[float(number), 1.0]]) for number in range(7)] + [infer_body([[1.0, 2.0, 3.0]])]
    answers: dict[int, requests.Response] = {}

    def ask(number: int) -> None:
        answers[number] = requests.post(path, json=bodies[number], timeout=10)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(7):
        assert answers[number].json()["outputs"][0] | {"parameters": None} == {
            "name": "y", "datatype": "FP32", "shape": [1, 2], "data": [float(number), 1.0], "parameters": None,
        }  # fmt: skip
    assert answers[7].status_code == 400
    assert "Got: 3 Expected: 2" in answers[7].json()["error"]
    # the seven were one batch, and the bad one, of another shape, was one of its own
    assert pair.metric("model_infer_batch_rows_count", 1) <= 4
    assert pair.metric("model_infer_batch_rows_sum", 1) == 8
    too_many = requests.post(path, json=infer_body(np.ones((9, 2))), timeout=5)
    assert too_many.status_code == 400
    assert "at most 8" in too_many.json()["error"]


def test_metrics_count_by_the_version_that_answered(pair: OnnxRuntimePair) -> None:
    pair.put(1)
    pair.put(2)
    pair.want(2, 1)
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    pair.multiply()
    pair.multiply(2)
    pair.multiply(1)
    bad = requests.post(f"{pair.url}/v2/models/{MODEL}/infer", json=infer_body([[1.0]], name="z"), timeout=5)
    assert bad.status_code == 400
    assert pair.metric("model_infer_request_success_total", 2) == 2
    assert pair.metric("model_infer_request_success_total", 1) == 1
    assert pair.metric("model_infer_request_failure_total", 2) == 1
    assert pair.metric("model_infer_request_duration_count", 2) == 3
    with pytest.raises(requests.HTTPError):
        pair.multiply(99)
    text = requests.get(f"http://127.0.0.1:{pair.metrics_port}/metrics", timeout=5).text
    assert 'version="99"' not in text
    assert 'version="None"' not in text


@pytest.fixture(scope="module")
def case_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnnxRuntimePair]:
    """All cases of the onnx package as versions of one model."""
    made = OnnxRuntimePair(tmp_path_factory.mktemp("cases"))
    for number, name in enumerate(CASES, start=1):
        made.put(number, onnx_cases()[name].file)
    made.want(len(CASES), *range(1, len(CASES)))
    made.boot()
    made.until(lambda: set(made.states().values()) == {"Available"})
    yield made
    made.stop()


@pytest.mark.parametrize("name", CASES)
def test_the_onnx_packages_cases_give_their_outputs(case_server: OnnxRuntimePair, name: str) -> None:
    case, number = onnx_cases()[name], CASES.index(name) + 1
    with rest(case_server.url, MODEL) as rest_side:
        case.agrees(rest_side.infer_binary(case.inputs, number))
        case.agrees(rest_side.infer_json(case.inputs, number))
    with grpc_client(f"127.0.0.1:{case_server.grpc_port}", MODEL) as grpc_side:
        case.agrees(grpc_side.infer(case.inputs, number))


def test_requests_that_are_wrong_are_refused_in_words(pair: OnnxRuntimePair) -> None:
    pair.put(1)
    pair.want(1)
    pair.boot()

    def refused(body: bytes, **headers: str) -> str:
        answer = requests.post(f"{pair.url}/v2/models/{MODEL}/infer", data=body, headers=headers, timeout=5)
        assert answer.status_code == 400
        return str(answer.json()["error"])

    tensor = infer_body([[1.0, 2.0]])["inputs"][0]
    post = requests.post
    assert "can't be read" in refused(b"{")
    assert "list of inputs" in refused(b"[]")
    assert "inference-header-content-length" in refused(b"{}", **{"inference-header-content-length": "77"})
    for change, words in (
        ({"datatype": "FP64"}, "came as FP64, and the model takes FP32"),
        ({"datatype": "FLOAT"}, "the datatype 'FLOAT' isn't one of"),
        ({"shape": [3, 2]}, "holds 6 values, and 2 came"),
        ({"shape": [-1, 2]}, "shape"),
        ({"shape": "2"}, "list of whole numbers"),
        ({"data": ["a", "b"]}, "no FP32"),
        ({"data": [[1.0], [1.0, 2.0]]}, "no regular list"),
        ({"data": None}, "no FP32"),
        ({"name": "z"}, "there is no input 'z'"),
        ({"parameters": {"binary_data_size": 8}}, "binary_data_size is 8, and 0 bytes are there"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory"),
    ):
        answer = post(f"{pair.url}/v2/models/{MODEL}/infer", json={"inputs": [tensor | change]}, timeout=5)
        assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text
    answer = post(
        f"{pair.url}/v2/models/{MODEL}/infer", json={"inputs": [tensor], "outputs": [{"name": "q"}]}, timeout=5
    )
    assert "there is no output 'q'" in answer.json()["error"]
    answer = post(f"{pair.url}/v2/models/other/infer", json={"inputs": [tensor]}, timeout=5)
    assert (answer.status_code, "other" in answer.json()["error"]) == (404, True)
    with grpc_client(f"127.0.0.1:{pair.grpc_port}", MODEL) as client:
        with pytest.raises(InferenceServerException) as wrong:
            client.infer({"z": np.ones((1, 2), np.float32)})
        assert "there is no input 'z'" in str(wrong.value)
        with pytest.raises(InferenceServerException) as gone:
            client.infer({"x": np.ones((1, 2), np.float32)}, version=7)
        assert "7" in str(gone.value)
    with rest(pair.url, MODEL) as client_side, pytest.raises(UnansweredError):
        client_side.metadata(9)


def test_sigterm_moves_kept_connections_on_and_finishes_what_is_in_flight(pair: OnnxRuntimePair) -> None:
    pair.put(1)
    pair.want(1, maxBatchSize=64, maxBatchDelayMicroseconds=1_500_000)  # an answer takes a second and a half
    pair.boot()
    session = requests.Session()
    path = f"{pair.url}/v2/models/{MODEL}/infer"
    before = session.get(f"{pair.url}/v2/models/{MODEL}", timeout=5)
    assert before.headers.get("connection") != "close"
    answers: list[requests.Response] = []
    slow = [
        threading.Thread(target=lambda: answers.append(requests.post(path, json=infer_body([[1.0, 1.0]]), timeout=20)))
        for _ in range(4)
    ]
    for thread in slow:
        thread.start()
    time.sleep(0.3)
    codes: list[int] = []
    ending = threading.Thread(target=lambda: codes.append(pair.end_server()))
    ending.start()
    time.sleep(0.3)
    # still listening, for those who have not heard of it, and telling the client to go elsewhere
    during = session.get(f"{pair.url}/v2/models/{MODEL}", timeout=5)
    assert (during.status_code, during.headers.get("connection")) == (200, "close")
    assert requests.get(f"{pair.url}/v2/health/live", timeout=5).status_code == 200
    for thread in slow:
        thread.join()
    ending.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert codes == [0]
