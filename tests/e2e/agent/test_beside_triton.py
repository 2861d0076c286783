"""The agent beside the real tritonserver, without a cluster: loads, failures, a killed server, under steady requests.

Needs SLIPWAY_TRITON_ROOT: a folder with bin/tritonserver, lib/ and backends/ (/opt/tritonserver of the triton image).
The cluster's e2e tests meet the same pair in a pod; this one is for looking closely, and takes half a minute.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests

from tests.e2e.agent.contract import Contract
from tests.e2e.agent.pair import KEY, MODEL, Beside, infer_body, multiplier

ROOT = os.environ.get("SLIPWAY_TRITON_ROOT")
pytestmark = pytest.mark.skipif(ROOT is None, reason="SLIPWAY_TRITON_ROOT doesn't name a Triton installation")
BACKEND = Path(__file__).resolve().parents[3] / "serving-images" / "triton" / "backends" / "onnxruntime" / "model.py"


class Pair(Beside):
    runtime, section, asks_by_grpc = "Triton", "triton", False

    def server_command(self) -> list[str]:
        return [
            f"{ROOT}/bin/tritonserver",
            f"--model-repository={self.models}/repository",
            f"--backend-directory={self.backends()}",
            "--model-control-mode=explicit",
            f"--load-model={MODEL}",
            "--exit-on-error=false",
            f"--http-port={self.server_port}",
            f"--http-restricted-api=model-repository:slipway-agent={KEY}",
            "--http-address=127.0.0.1",
            f"--grpc-port={self.grpc_port}",
            "--grpc-address=127.0.0.1",
            f"--grpc-restricted-protocol=model-repository:slipway-agent={KEY}",
            "--allow-metrics=false",
        ]

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"grpcPort": self.grpc_port}

    def backends(self) -> Path:
        """The installation's backends, with the tree's own code for ONNX."""
        place = self.folder / "backends"
        if not place.exists():
            installed = Path(f"{ROOT}/backends")
            (place / "onnxruntime").mkdir(parents=True)
            (place / "python").symlink_to(installed / "python")
            for entry in (installed / "onnxruntime").iterdir():
                if entry.name not in ("model.py", "__pycache__"):
                    (place / "onnxruntime" / entry.name).symlink_to(entry)
            shutil.copy(BACKEND, place / "onnxruntime" / "model.py")
        return place

    def server_environment(self) -> dict[str, str]:
        return super().server_environment() | {"LD_LIBRARY_PATH": f"{ROOT}/lib"}

    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"{self.url}/v2/models/{MODEL}/config", timeout=5).json()
        return found


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.stop()
    assert "Traceback" not in (tmp_path / "agent.log").read_text()


class TestContract(Contract):
    broken_words = "TritonModelException"
    edit: ClassVar[dict[str, Any]] = {"maxBatchSize": None}


def test_no_client_on_a_kept_connection_waits_for_a_load(pair: Pair) -> None:
    """Triton loads on the HTTP thread that read the request: over HTTP most of these would wait for all of it."""
    pair.put(2)
    pair.put(3)
    pair.want(2)
    pair.boot()
    clients = 16
    slowest, ended, errors = [0.0] * clients, threading.Event(), []

    def ask(number: int) -> None:
        with requests.Session() as session:
            while not ended.wait(0.03):
                begin = time.monotonic()
                answer = session.post(f"{pair.url}/v2/models/{MODEL}/infer", json=infer_body([[1.0, 1.0]]), timeout=30)
                slowest[number] = max(slowest[number], time.monotonic() - begin)
                if answer.status_code != 200:
                    errors.append(answer.text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    slowest[:] = [0.0] * clients
    began = time.monotonic()
    pair.want(3, 2)
    pair.until(lambda: pair.states().get(3) == "Available")
    load_seconds = time.monotonic() - began
    ended.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert load_seconds > 0.8, "too quick a load to tell"
    assert max(slowest) < load_seconds / 2, sorted(round(seconds, 2) for seconds in slowest)


def test_the_repository_api_is_the_agents_alone(pair: Pair) -> None:
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
    answer = requests.post(f"{pair.url}/v2/repository/index", json={}, headers={"slipway-agent": KEY}, timeout=5)
    assert answer.status_code == 200
    assert pair.multiply() == 1.0
    assert not pair.tells(KEY)


def test_batching_and_a_kept_config_reach_the_server(pair: Pair) -> None:
    pair.put(2)
    (pair.source / "config.pbtxt").write_text(
        'name: "other" # kept\nparameters { key: "mine" value { string_value: "stays" } }\n'
    )
    pair.want(2, maxBatchSize=8, maxQueueDelayMicroseconds=500)
    pair.boot()
    config = pair.config()
    assert config["name"] == "multiplier"
    assert config["max_batch_size"] == 8
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 500
    assert config["parameters"]["mine"]["string_value"] == "stays"
    assert [int(each) for each in config["version_policy"]["specific"]["versions"]] == [2]
    assert pair.multiply() == 2.0


def test_an_opset_that_is_too_new_is_said_and_the_old_version_serves(pair: Pair) -> None:
    pair.put(2)
    pair.put(3, multiplier(3.0, opset=99))
    pair.want(2)
    pair.boot()
    with pair.asked_all_the_time() as constant:
        pair.want(3)
        pair.until(lambda: pair.states() == {2: "Unloading", 3: "Failed"})
        constant.after_answers()
    constant.nothing_failed(2.0)
    assert "its opset is newer than onnxruntime" in pair.message(3)


def test_instances_and_threads_reach_the_backend(pair: Pair) -> None:
    pair.put(1)
    pair.want(1, instanceCount=2, threads=6)
    pair.boot()
    config = pair.config()
    assert [(group["count"], group["kind"]) for group in config["instance_group"]] == [(2, "KIND_CPU")]
    assert config["parameters"]["intra_op_thread_count"]["string_value"] == "3"
    # what the two instances' own processes say of themselves
    log = (pair.folder / "server.log").read_text()
    assert log.count("CPUExecutionProvider, 3 threads") == 2


@pytest.mark.parametrize("settings", [{}, {"maxBatchSize": 8, "maxQueueDelayMicroseconds": 500}], ids=["", "batching"])
def test_warm_up_is_tritons_own(pair: Pair, settings: dict[str, Any]) -> None:
    pair.put(1)
    pair.put(2)
    warmup = (infer_body([[1.0, 2.0], [3.0, 4.0]]),)
    pair.want(1, warmup=warmup, **settings)
    pair.boot()

    def inferences(version: int) -> int:
        stats = requests.get(f"{pair.url}/v2/models/{MODEL}/versions/{version}/stats", timeout=5).json()
        return int(stats["model_stats"][0]["inference_stats"]["success"]["count"])

    # nobody has asked yet; with batching a row is a request
    assert inferences(1) == (2 if settings else 1)
    (sample,) = pair.config()["model_warmup"]
    assert sample["batch_size"] == (2 if settings else 1)
    assert [int(size) for size in sample["inputs"]["x"]["dims"]] == ([2] if settings else [2, 2])
    pair.want(2, warmup=warmup, **settings)
    pair.until(lambda: pair.states() == {2: "Available"})
    assert inferences(2) == (2 if settings else 1)
    assert pair.multiply() == 2.0


def test_a_warm_up_that_fails_fails_the_load_in_the_servers_words(pair: Pair) -> None:
    pair.put(1)
    pair.want(1, warmup=(infer_body([[1.0, 2.0, 3.0]]),))
    pair.start_agent()
    pair.until(lambda: pair.probe("/startz") == 200)
    pair.start_server()
    pair.until(lambda: pair.states() == {1: "Failed"})
    assert "unexpected shape for input 'x'" in pair.message(1)
    assert pair.probe("/readyz") == 503
    pair.want(1, warmup=(infer_body([[1.0, 2.0]]),))
    pair.until(lambda: pair.probe("/readyz") == 200)
    assert pair.multiply() == 1.0


def test_a_warm_up_that_is_no_request_is_said(pair: Pair) -> None:
    pair.put(1)
    pair.want(1, warmup=({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0]}]},))
    pair.start_agent()
    pair.until(lambda: pair.probe("/healthz") == 200)
    pair.until(lambda: (pair.status()["error"] or {}).get("reason") == "WarmupFailed")
    assert "spec.warmup.requests[0].inputs[0]: the shape [1, 2] holds 2 values" in pair.status()["error"]["message"]
