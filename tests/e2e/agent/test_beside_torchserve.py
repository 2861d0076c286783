"""The agent beside the real TorchServe, without a cluster: loads, failures, ends, drain, under steady requests.

Needs SLIPWAY_TORCHSERVE_ROOT: the torchserve image's whole root file system, unpacked, and root: the server runs with
that as its root, started by the operator's own command line. The cluster's e2e tests meet the same pair in a pod.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest
import requests

from slipway.runtimes.torchserve import DRAIN, LAUNCH, STOP_SECONDS
from tests.e2e import models_torch
from tests.e2e.agent.contract import Contract
from tests.e2e.agent.pair import MODEL, Beside, Constant
from tests.e2e.torchserve_api import RefusedError, torch_grpc, torch_rest
from tests.ports import free_port

ROOT = os.environ.get("SLIPWAY_TORCHSERVE_ROOT")
pytestmark = pytest.mark.skipif(ROOT is None, reason="SLIPWAY_TORCHSERVE_ROOT doesn't name an image's root")

# The image's root with the test's folder in it, under the same name, seen by this process and its children only.
ENTER = """
set -e
mount -t tmpfs tmpfs "$ROOT/tmp"
mkdir -p "$ROOT$FOLDER"
mount --bind "$FOLDER" "$ROOT$FOLDER"
mount --bind "$FOLDER/models" "$ROOT$FOLDER/models"
mount -o remount,bind,ro "$ROOT$FOLDER/models"
mount -t proc proc "$ROOT/proc"
exec chroot "$ROOT" "$@"
"""
TREE = Path(__file__).resolve().parents[3]
STEADY = {"x": [1.0]}


class TorchServePair(Beside):
    runtime, section = "TorchServe", "torchServe"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.management_port, self.grpc_management_port = free_port(), free_port()

    def server_command(self) -> list[str]:
        return self.command("/opt/torchserve/bin/python", "-c", LAUNCH)

    def command(self, *words: str) -> list[str]:
        """Something with the image's root as its own, PID 1 as in a container."""
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "enter", *words]

    def server_environment(self) -> dict[str, str]:
        return {
            "ROOT": str(ROOT),
            "FOLDER": str(self.folder),
            "PATH": "/opt/torchserve/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "TS_CONFIG_FILE": f"{self.models}/repository/{MODEL}/config.properties",
        }

    def settings(self) -> dict[str, Any]:
        return {
            "httpPort": self.server_port,
            "metricsPort": self.metrics_port,
            "managementPort": self.management_port,
            "grpcPort": self.grpc_port,
            "grpcManagementPort": self.grpc_management_port,
            "logFolder": f"{self.folder}/log",
        }

    def put(self, version: int, content: bytes | None = None, **options: Any) -> None:
        made = models_torch.multiplier(self.folder / "made" / str(version), float(version), **options)
        self.put_file(version, made if content is None else content)

    def put_file(self, version: int, archive: Path | bytes) -> None:
        (self.source / str(version)).mkdir(exist_ok=True)
        content = archive if isinstance(archive, bytes) else archive.read_bytes()
        (self.source / str(version) / "any-name.mar").write_bytes(content)

    def predict(self, body: dict[str, Any], version: int | None = None) -> Any:
        with torch_rest(self.url, MODEL, keep=False) as client:
            return client.predict(body, version)

    def multiply(self, version: int | None = None) -> float:
        return float(self.predict({"x": [1.0]}, version)["y"][0])

    def describe(self, version: int) -> dict[str, Any]:
        answer = requests.get(f"http://127.0.0.1:{self.management_port}/models/{MODEL}/{version}", timeout=5)
        answer.raise_for_status()
        [found] = answer.json()
        return dict(found)

    def worker_of(self, version: int) -> int:
        [worker] = self.describe(version)["workers"]
        return int(worker["pid"])

    def terminate(self) -> float:
        """SIGTERM to PID 1, as the kubelet sends it; the seconds until it has ended."""
        began = time.monotonic()
        running = self._running.pop("server")
        os.kill(int(Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text()), signal.SIGTERM)
        running.wait(60)
        return time.monotonic() - began

    def put_broken(self, version: int) -> None:
        self.put_file(version, models_torch.broken(self.folder / "made" / "broken"))

    def serves(self, version: int) -> bool:
        try:
            self.multiply(version)
        except RefusedError as refused:
            if refused.status != 404:
                raise
            return False
        return True

    def identity(self, version: int) -> int:
        return self.worker_of(version)

    def constant(self) -> Constant:
        return Asked(self)


class Asked(Constant):
    """By TorchServe's own REST and gRPC."""

    def nothing_failed(self, *values: float) -> None:
        """Every request was answered, with these values, in this order."""
        assert self.failures == []
        for name, answers in self.answers.items():
            seen = [value for index, value in enumerate(answers) if index == 0 or answers[index - 1] != value]
            assert seen == list(values), f"{name}: {seen}"

    def _ask(self, name: str, client: Any) -> None:
        while not self._ended.wait(0.005):
            try:
                self.answers[name].append(float(client.predict(STEADY)["y"][0]))
                if name == "new" and self._pair.probe("/readyz") != 200:
                    self.failures.append("the agent says that the pod isn't ready")
            except (OSError, requests.RequestException, RefusedError, grpc.RpcError) as failure:
                self.failures.append(f"{name}: {type(failure).__name__}: {failure}")

    def _kept(self) -> None:
        with torch_rest(self._pair.url, MODEL) as client:
            self._ask("kept", client)

    def _new(self) -> None:
        with torch_rest(self._pair.url, MODEL, keep=False) as client:
            self._ask("new", client)

    def _grpc(self) -> None:
        with torch_grpc(f"127.0.0.1:{self._pair.grpc_port}", MODEL) as client:
            self._ask("grpc", client)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[TorchServePair]:
    made = TorchServePair(tmp_path)
    yield made
    made.stop()
    assert "Traceback" not in (tmp_path / "agent.log").read_text()


class TestContract(Contract):
    broken_words = "ValueError: the tokenizer's vocabulary is empty"
    edit: ClassVar[dict[str, Any]] = {"workers": 1}


def test_the_served_version_switches_up_and_down_without_a_failed_request(pair: TorchServePair) -> None:
    for version in (1, 2):
        pair.put(version)
    pair.want(1)
    pair.boot()
    with pair.asked_all_the_time() as asked:
        pair.want(2, 1)
        pair.until(lambda: pair.multiply() == 2.0)
        asked.after_answers()
        pair.want(1, 2)
        pair.until(lambda: pair.multiply() == 1.0)
        asked.after_answers()
        pair.want(1)
        pair.until(lambda: pair.states() == {1: "Available"})
        asked.after_answers()
    asked.nothing_failed(1.0, 2.0, 1.0)


def test_a_slow_answer_is_awaited_before_its_version_goes(pair: TorchServePair) -> None:
    pair.put(1)
    pair.put(2)
    pair.want(1)
    pair.boot()
    assert pair.predict({"x": [1.0], "sleep": 3})["y"] == [1.0]
    slow: list[Any] = []
    asking = threading.Thread(target=lambda: slow.append(pair.predict({"x": [1.0], "sleep": 6})))
    asking.start()
    time.sleep(0.5)
    pair.want(2)
    pair.until(lambda: pair.multiply() == 2.0)
    pair.until(lambda: pair.states() == {2: "Available"})
    asking.join()
    assert slow[0]["y"] == [1.0]


def test_every_mar_is_served_under_its_folders_number_whatever_its_manifest_says(pair: TorchServePair) -> None:
    pair.put(3, said="7.5")
    pair.put(4)
    pair.want(4, 3)
    pair.boot()
    pair.until(lambda: pair.states() == {3: "Available", 4: "Available"})
    assert (pair.multiply(3), pair.multiply(4)) == (3.0, 4.0)
    log = (pair.folder / "agent.log").read_text()
    assert '"version": 3, "manifest": "7.5"' in log


def test_a_worker_that_ends_is_replaced_by_the_server_and_the_version_stays(pair: TorchServePair) -> None:
    pair.put(1)
    pair.want(1)
    pair.boot()
    pair.until(lambda: '"load ended"' in (pair.folder / "agent.log").read_text())
    with pytest.raises(RefusedError):
        pair.predict({"no": "x"})
    with pytest.raises(RefusedError):
        pair.predict({"x": [1.0], "exit": True})
    pair.until(lambda: pair.probe("/readyz") == 503, seconds=5)
    pair.until(lambda: pair.probe("/readyz") == 200)
    assert pair.multiply() == 1.0
    assert "unregistered" not in (pair.folder / "server.log").read_text()
    assert pair.states() == {1: "Available"}


def test_batches_and_workers_of_the_spec_win_over_the_models_own(pair: TorchServePair) -> None:
    pair.put(1, config="minWorkers: 2\nmaxWorkers: 2\nbatchSize: 3\nresponseTimeout: 77\nmine:\n  batchSize: 5\n")
    pair.put(2)
    pair.want(2, 1, maxBatchSize=8, maxBatchDelayMilliseconds=200, workers=1)
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    first, second = pair.describe(1), pair.describe(2)
    keys = ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay")
    assert [first[key] for key in keys] == [second[key] for key in keys] == [1, 1, 8, 200]
    assert (first["responseTimeout"], second["responseTimeout"]) == (77, 600)
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(pair.predict({"x": [1.0]}))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(each["batch"] for each in answers) > 1
    assert {each["y"][0] for each in answers} == {2.0}


def test_a_models_own_configuration_stands_where_the_spec_says_nothing(pair: TorchServePair) -> None:
    pair.put(1, config="minWorkers: 2\nmaxWorkers: 2\nbatchSize: 3\n")
    pair.put(2, config="minWorkers: 2\nmaxWorkers: 2\nbatchSize: 3\n")
    pair.want(1)
    pair.boot()
    pair.want(2, 1)
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    for version in (1, 2):
        found = pair.describe(version)
        assert (len(found["workers"]), found["batchSize"]) == (2, 3)


def test_warm_up_runs_before_a_version_gets_unversioned_requests(pair: TorchServePair) -> None:
    pair.put(1)
    pair.put(2)
    warmup = ({"x": [1.0, 2.0]},)
    pair.want(1, warmup=warmup)
    pair.boot()
    with pair.asked_all_the_time() as asked:
        pair.want(2, 1, warmup=({"y": "no such field"},))
        pair.until(lambda: pair.states().get(2) == "Failed")
        asked.after_answers()
    asked.nothing_failed(1.0)
    pair.want(2, 1, warmup=warmup)
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    assert pair.multiply() == 2.0


def test_requests_are_counted_by_model_and_version(pair: TorchServePair) -> None:
    pair.put(1)
    pair.put(2)
    pair.want(2, 1)
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    for version in (None, 1, 1, 2):
        pair.multiply(version)
    counted = requests.get(f"http://127.0.0.1:{pair.metrics_port}/metrics", timeout=5).text
    for name, count in (("default", 1), ("1", 2), ("2", 1)):
        start = f'ts_inference_requests_total{{model_name="{MODEL}",model_version="{name}",'
        [line] = [line for line in counted.splitlines() if line.startswith(start)]
        assert float(line.rpartition(" ")[2]) == count
        assert f'ts_inference_latency_microseconds{{model_name="{MODEL}",model_version="{name}",' in counted


def test_management_answers_to_the_pod_alone(pair: TorchServePair) -> None:
    pair.put(1)
    pair.want(1)
    pair.boot()
    listening = subprocess.run(["ss", "-ltnH"], capture_output=True, text=True, check=True).stdout
    at = {row.split()[3].rpartition(":")[2]: row.split()[3].rpartition(":")[0] for row in listening.splitlines()}
    inside = {
        at[str(port)].removeprefix("[::ffff:").rstrip("]") for port in (pair.management_port, pair.grpc_management_port)
    }
    assert inside == {"127.0.0.1"}
    refused = requests.post(
        f"http://127.0.0.1:{pair.management_port}/models?url=http://127.0.0.1:{pair.server_port}/evil.mar", timeout=5
    )
    assert refused.status_code == 404
    assert "does not match any allowed URL" in refused.text
    assert requests.post(f"{pair.url}/models?url=any", timeout=5).status_code == 404


def test_a_default_handler_serves_torchscript(pair: TorchServePair) -> None:
    pair.put_file(1, models_torch.colours(pair.folder / "made" / "colours", sharpness=4.0))
    pair.want(1)
    pair.boot()
    with torch_rest(pair.url, MODEL) as client:
        for rgb, name in (((250, 5, 5), "red"), ((5, 5, 250), "blue"), ((5, 250, 5), "green")):
            answer = client.predict(models_torch.picture(*rgb))
            assert max(answer, key=answer.get) == name


def test_nothing_in_progress_is_lost_when_the_pod_ends(pair: TorchServePair) -> None:
    """preStop, then SIGTERM to Java: what is being answered is answered, and the process ends by itself."""
    pair.put(1)
    pair.want(1)
    pair.boot()
    slow: list[Any] = []
    asking = threading.Thread(target=lambda: slow.append(pair.predict({"x": [1.0], "sleep": 4})))
    asking.start()
    time.sleep(0.5)
    began = time.monotonic()
    drain = ["python3", "-c", DRAIN, "1", "2", "30", str(pair.server_port), str(pair.grpc_port)]
    subprocess.run(drain, check=True)
    waited = time.monotonic() - began
    assert 3.0 < waited < 25.0, "as long as it is answered, and not to the limit of 30 s"
    asking.join()
    assert slow[0]["y"] == [1.0]
    assert pair.terminate() < STOP_SECONDS


def test_the_example_is_trained_packed_and_served(pair: TorchServePair) -> None:
    """With the image's own torch and archiver: there is no other torch here."""
    shutil.copytree(TREE / "examples" / "torchserve", pair.folder / "example")
    pair.models.mkdir(exist_ok=True)
    training = pair.command("/opt/torchserve/bin/python", f"{pair.folder}/example/train.py", str(pair.folder / "made"))
    subprocess.run(training, check=True, env=pair.server_environment())
    for version in (1, 2):
        pair.put_file(version, pair.folder / "made" / "moons" / str(version) / "moons.mar")
    pair.want(2, 1, warmup=({"points": [[0.0, 0.0]]},))
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    for asked in (1, 2, None):
        with torch_rest(pair.url, MODEL) as client:
            upper, lower = client.predict({"points": [[0.0, 1.0], [1.0, -0.5]]}, asked)["lower"]
        assert upper < 0.2 < 0.8 < lower
