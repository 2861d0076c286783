"""The agent beside the real tritonserver, without a cluster: loads, failures, a killed server, under steady requests.

Needs SLIPWAY_TRITON_ROOT: a folder with bin/tritonserver, lib/ and backends/ (/opt/tritonserver of the triton image).
The cluster's e2e tests meet the same pair in a pod; this one is for looking closely, and takes half a minute.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from onnx import TensorProto, helper

import slipway_agent

ROOT = os.environ.get("SLIPWAY_TRITON_ROOT")
pytestmark = pytest.mark.skipif(ROOT is None, reason="SLIPWAY_TRITON_ROOT doesn't name a Triton installation")
KEY = "only the agent knows it"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def multiplier(factor: float) -> bytes:
    """An ONNX model that multiplies its input, so that an answer tells which version gave it."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "multiplier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


class Pair:
    def __init__(self, folder: Path) -> None:
        self.folder, self.source, self.models = folder, folder / "source", folder / "models"
        self.source.mkdir()
        self.server_port, self.agent_port = free_port(), free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def put(self, version: int, content: bytes | None = None) -> None:
        (self.source / str(version)).mkdir(exist_ok=True)
        place = self.source / str(version) / f"multiplier-{version}.onnx"
        place.write_bytes(multiplier(float(version)) if content is None else content)

    def want(self, served: int, *others: int, **triton: Any) -> None:
        fields = {
            "schema": 1,
            "generation": f"{served} and {others}",
            "runtime": "Triton",
            "model": "multiplier",
            "source": {"uri": "pvc://models/multiplier", "path": str(self.source), "versions": {}},
            "served": served,
            "load": [served, *others],
            "triton": {"httpPort": self.server_port, **triton},
        }
        new = self.folder / "agent.json.new"
        new.write_text(json.dumps(fields))
        os.replace(new, self.folder / "agent.json")

    def start_agent(self) -> None:
        command = [sys.executable, "-m", "slipway_agent", "--config", str(self.folder / "agent.json")]
        self._start(
            "agent",
            [*command, "--models", str(self.models), "--port", str(self.agent_port)],
            {"PYTHONPATH": str(Path(slipway_agent.__file__).parents[1]), "SLIPWAY_SERVER_KEY": KEY},
        )

    def start_server(self) -> None:
        command = [
            f"{ROOT}/bin/tritonserver",
            f"--model-repository={self.models}/repository",
            f"--backend-directory={ROOT}/backends",
            "--model-control-mode=explicit",
            "--load-model=multiplier",
            "--exit-on-error=false",
            f"--http-port={self.server_port}",
            f"--http-restricted-api=model-repository:slipway-agent={KEY}",
            "--http-address=127.0.0.1",
            "--allow-grpc=false",
            "--allow-metrics=false",
        ]
        self._start("server", command, {"LD_LIBRARY_PATH": f"{ROOT}/lib", "PATH": "/usr/bin:/bin"})

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """As a container ends: with everything that it started."""
        running = self._running.pop(name)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()

    def stop(self) -> None:
        for name in list(self._running):
            self.kill(name)

    def probe(self, path: str) -> int:
        try:
            return requests.get(f"http://127.0.0.1:{self.agent_port}{path}", timeout=2).status_code
        except requests.RequestException:
            return 0

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"http://127.0.0.1:{self.agent_port}/status", timeout=2).json()
        return found

    def states(self) -> dict[int, str]:
        return {each["version"]: each["state"] for each in self.status()["versions"]}

    def multiply(self, version: int | None = None) -> float:
        path = "/v2/models/multiplier" + (f"/versions/{version}" if version else "") + "/infer"
        body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 1.0]}]}
        answer = requests.post(f"http://127.0.0.1:{self.server_port}{path}", json=body, timeout=5)
        answer.raise_for_status()
        return float(answer.json()["outputs"][0]["data"][0])

    def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.words()
            time.sleep(0.05)

    def words(self) -> str:
        return "\n".join((self.folder / f"{name}.log").read_text(errors="replace")[-4000:] for name in self._running)

    def boot(self) -> None:
        self.start_agent()
        self.until(lambda: self.probe("/startz") == 200)
        self.start_server()
        self.until(lambda: self.probe("/readyz") == 200)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.stop()
    assert "Traceback" not in (tmp_path / "agent.log").read_text()


def test_versions_are_added_and_removed_under_load_without_a_failed_request(pair: Pair) -> None:
    for version in (1, 2, 3):
        pair.put(version)
    pair.want(2, 1)
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    assert (pair.multiply(1), pair.multiply(2), pair.multiply()) == (1.0, 2.0, 2.0)
    answers: list[float] = []
    failures: list[str] = []
    ended = threading.Event()

    def keep_asking() -> None:
        while not ended.wait(0.01):
            try:
                answers.append(pair.multiply())
                if pair.probe("/readyz") != 200:
                    failures.append("not ready")
            except requests.RequestException as failure:
                failures.append(str(failure))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    pair.want(3, 2)
    pair.until(lambda: pair.states() == {2: "Available", 3: "Available"})
    ended.set()
    asking.join()
    assert failures == []
    assert answers[0] == 2.0
    assert set(answers) <= {2.0, 3.0}
    assert pair.multiply() == 3.0
    assert not (pair.models / "repository" / "multiplier" / "1").exists()
    with pytest.raises(requests.HTTPError):
        pair.multiply(1)


def test_a_corrupt_version_is_left_out_and_said_in_tritons_words(pair: Pair) -> None:
    pair.put(1, b"no model")
    pair.put(2)
    pair.want(2, 1)
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Failed", 2: "Available"})
    [first, _] = pair.status()["versions"]
    assert first["reason"] == "LoadFailed"
    assert "TritonModelException" in first["message"]
    assert "\nAt:" not in first["message"]
    assert pair.status()["error"] is None
    assert pair.multiply() == 2.0


def test_a_corrupt_new_served_version_leaves_the_old_one_answering(pair: Pair) -> None:
    pair.put(2)
    pair.put(3, b"no model")
    pair.want(2)
    pair.boot()
    pair.want(3)
    pair.until(lambda: pair.states() == {2: "Unloading", 3: "Failed"})
    assert pair.status()["error"]["reason"] == "LoadFailed"
    assert pair.multiply() == 2.0
    pair.kill("server")
    pair.until(lambda: pair.probe("/readyz") == 503)
    pair.start_server()
    pair.until(lambda: pair.probe("/readyz") == 200)
    assert pair.multiply() == 2.0
    pair.put(3)
    pair.want(3, maxBatchSize=None)
    pair.until(lambda: pair.states() == {3: "Available"})
    assert pair.multiply() == 3.0


def test_a_killed_server_and_a_killed_agent_come_back_as_they_were(pair: Pair) -> None:
    pair.put(1)
    pair.put(2)
    pair.want(2, 1)
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    pair.kill("server")
    pair.until(lambda: pair.probe("/readyz") == 503, seconds=3)
    pair.start_server()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"} and pair.probe("/readyz") == 200)
    pair.kill("agent")
    shutil.rmtree(pair.source)
    pair.start_agent()
    pair.until(lambda: pair.probe("/readyz") == 200)
    assert pair.states() == {1: "Available", 2: "Available"}
    assert pair.multiply(1) == 1.0


def test_batching_and_a_kept_config_reach_the_server(pair: Pair) -> None:
    pair.put(2)
    (pair.source / "config.pbtxt").write_text(
        'name: "other" # kept\nparameters { key: "mine" value { string_value: "stays" } }\n'
    )
    pair.want(2, maxBatchSize=8, maxQueueDelayMicroseconds=500)
    pair.boot()
    config = requests.get(f"http://127.0.0.1:{pair.server_port}/v2/models/multiplier/config", timeout=5).json()
    assert config["name"] == "multiplier"
    assert config["max_batch_size"] == 8
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 500
    assert config["parameters"]["mine"]["string_value"] == "stays"
    assert [int(each) for each in config["version_policy"]["specific"]["versions"]] == [2]
    assert pair.multiply() == 2.0
