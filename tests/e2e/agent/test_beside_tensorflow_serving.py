"""The agent beside TensorFlow Serving's stand-in, without a cluster: loads, labels, failures, a killed server.

The server gets the command line that the operator renders. Needs a Python with TensorFlow, see tests/e2e/stand_in.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests

from slipway.runtimes.tensorflow_serving import TENSORFLOW_SERVING
from slipway_agent.volume.digest import digest_path
from tests.e2e.agent.pair import Processes
from tests.e2e.stand_in import tensorflow as stand_in
from tests.e2e.tensorflow_api import spec_of, tensorflow_grpc
from tests.unit.specs import deployment

pytestmark = pytest.mark.skipif(stand_in.PYTHON is None, reason=stand_in.WHY_SKIPPED)
MODEL = "multiplier"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in.make_models(tmp_path_factory.mktemp("made"))


class Pair(Processes):
    def __init__(self, folder: Path, made: Path) -> None:
        super().__init__(folder)
        self.made = made
        self.rest_port = self.server_port

    def put(self, version: int, content: str | None = None) -> None:
        """As an upload by a tool that renames when all is there."""
        working = self.source / f".{version}"
        shutil.copytree(self.made / MODEL / (content or str(version)), working)
        shutil.rmtree(self.source / str(version), ignore_errors=True)
        os.rename(working, self.source / str(version))

    def want(self, served: int, *others: int, labels: dict[str, int] | None = None, **more: Any) -> None:
        settings = {"httpPort": self.rest_port} | more.pop("settings", {})
        fields = {
            "schema": 1,
            "generation": f"{served} and {others} {labels} {more}",
            "runtime": "TensorFlowServing",
            "model": MODEL,
            "source": {"uri": "pvc://models/multiplier", "path": str(self.source), "versions": {}},
            "served": served,
            "load": [served, *others],
            "labels": labels or {},
            "tensorflowServing": settings,
            **more,
        }
        new = self.folder / "agent.json.new"
        new.write_text(json.dumps(fields))
        os.replace(new, self.folder / "agent.json")

    def start_server(self, **spec: Any) -> None:
        """With the operator's own arguments, at this test's ports and folder."""
        made = deployment({"runtime": {"name": "TensorFlowServing"}, **spec}).spec
        args = [
            argument.replace("/models/repository", f"{self.models}/repository")
            for argument in TENSORFLOW_SERVING.container(made, MODEL)["args"]
        ]
        ports = [f"--port={self.grpc_port}", f"--rest_api_port={self.rest_port}"]
        self._start("server", stand_in.command_of(*args, *ports), {"PATH": "/usr/bin:/bin"})

    def kill(self, name: str) -> None:
        running = self._running.pop(name)
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()

    def has_ended(self, name: str) -> bool:
        return self._running[name].poll() is not None

    def said_of(self, version: int) -> tuple[str, str]:
        (found,) = (each for each in self.status()["versions"] if each["version"] == version)
        return found["reason"], found["message"]

    def multiply(self, path: str = "") -> float:
        answer = requests.post(
            f"http://127.0.0.1:{self.rest_port}/v1/models/{MODEL}{path}:predict",
            json={"instances": [[1.0, 1.0]]},
            timeout=10,
        )
        answer.raise_for_status()
        return float(answer.json()["predictions"][0][0])

    def label(self, name: str) -> float | None:
        """What a request by this label gets; None when the server knows no such label."""
        try:
            return self.multiply(f"/labels/{name}")
        except requests.HTTPError:
            return None

    def counted(self) -> float:
        """Requests for the model in the server's own metrics."""
        page = requests.get(f"http://127.0.0.1:{self.rest_port}/monitoring/prometheus/metrics", timeout=5).text
        lines = [line for line in page.splitlines() if line.startswith(":tensorflow:serving:request_count{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def boot(self, **spec: Any) -> None:
        self.start_agent()
        self.until(lambda: self.probe("/startz") == 200)
        self.start_server(**spec)
        self.until(lambda: self.probe("/readyz") == 200, seconds=60)

    @contextmanager
    def asked_all_the_time(self) -> Iterator[set[float]]:
        """REST with kept and new connections, gRPC, and the pod's readiness, side by side; none may fail."""
        seen: set[float] = set()
        failures: list[str] = []
        counts = dict.fromkeys(("kept", "new", "grpc", "readyz"), 0)
        ended = threading.Event()
        url, body = f"http://127.0.0.1:{self.rest_port}/v1/models/{MODEL}:predict", {"instances": [[1.0, 1.0]]}

        def kept() -> None:
            with requests.Session() as session:
                while not ended.wait(0.01):
                    answer = session.post(url, json=body, timeout=10)
                    answer.raise_for_status()
                    seen.add(answer.json()["predictions"][0][0])
                    counts["kept"] += 1

        def new() -> None:
            while not ended.wait(0.01):
                seen.add(self.multiply())
                counts["new"] += 1

        def by_grpc() -> None:
            with tensorflow_grpc(f"127.0.0.1:{self.grpc_port}") as client:
                while not ended.wait(0.01):
                    seen.add(float(client.predict(spec_of(MODEL), x=np.ones((1, 2), np.float32))["y"][0][0]))
                    counts["grpc"] += 1

        def readiness() -> None:
            while not ended.wait(0.05):
                assert self.probe("/readyz") == 200
                counts["readyz"] += 1

        def guarded(work: Callable[[], None]) -> None:
            try:
                work()
            except (requests.RequestException, grpc.RpcError, AssertionError) as failure:
                failures.append(f"{work.__name__}: {failure}")

        threads = [threading.Thread(target=guarded, args=(each,)) for each in (kept, new, by_grpc, readiness)]
        for thread in threads:
            thread.start()
        try:
            yield seen
            self.until(lambda: bool(failures) or min(counts.values()) > 10)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert failures == [], self.words()


@pytest.fixture
def pair(tmp_path: Path, made: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path, made)
    yield pair
    pair.stop()
    assert "Traceback" not in (tmp_path / "agent.log").read_text()


def test_versions_are_added_and_removed_under_load_without_a_failed_request(pair: Pair) -> None:
    for version in (1, 2, 3):
        pair.put(version)
    pair.want(2, 1)
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    assert (pair.multiply("/versions/1"), pair.multiply("/versions/2"), pair.multiply()) == (1.0, 2.0, 2.0)
    with pair.asked_all_the_time() as seen:
        pair.want(3, 2)
        pair.until(lambda: pair.multiply() == 3.0)
        pair.until(lambda: pair.states() == {2: "Available", 3: "Available"})
        pair.want(2)
        pair.until(lambda: pair.states() == {2: "Available"})
        assert pair.multiply() == 2.0
    assert seen == {2.0, 3.0}
    assert not (pair.models / "repository" / MODEL / "1").exists()


def test_labels_follow_what_is_loaded_and_never_lead_nowhere(pair: Pair) -> None:
    for version in (1, 2, 3):
        pair.put(version)
    pair.want(2, 1, labels={"stable": 2, "previous": 1})
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    pair.until(lambda: (pair.label("stable"), pair.label("previous")) == (2.0, 1.0))
    lost: list[str] = []
    ended = threading.Event()

    def ask_by_label() -> None:
        while not ended.wait(0.01):
            if pair.label("stable") not in (2.0, 3.0):
                lost.append("stable")

    asking = threading.Thread(target=ask_by_label)
    asking.start()
    # the new one is on its way: `stable` stays where it is until it is there, `canary` begins when it can
    pair.want(3, 2, labels={"stable": 3, "canary": 3, "previous": 1})
    pair.until(lambda: pair.label("canary") == 3.0)
    pair.until(lambda: pair.states() == {2: "Available", 3: "Available"})
    ended.set()
    asking.join()
    assert lost == []
    assert pair.label("stable") == 3.0
    # a label on a version that isn't loaded is left out, and takes nothing with it
    pair.until(lambda: pair.label("previous") is None)


def test_labels_alone_move_without_a_load(pair: Pair) -> None:
    for version in (1, 2):
        pair.put(version)
    pair.want(2, 1, labels={"stable": 2})
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    pair.want(2, 1, labels={"stable": 1, "newest": 2})
    pair.until(lambda: (pair.label("stable"), pair.label("newest")) == (1.0, 2.0))
    assert pair.multiply() == 2.0


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        ("garbage", "LoadFailed", "Can't parse"),
        ("for-training", "LoadFailed", "Could not find meta graph def matching supplied tags: { serve }"),
        ("without-variables", "LoadFailed", "variables"),
        ("failing-warm-up", "LoadFailed", 'Serving signature key "absent" not found.'),
        ("without-signature", "NoModelFile", "no signature"),
    ],
)
def test_a_new_served_version_that_fails_leaves_the_old_one_answering(
    pair: Pair, content: str, reason: str, words: str
) -> None:
    pair.put(2)
    pair.put(3, content)
    pair.want(2)
    pair.boot()
    with pair.asked_all_the_time() as seen:
        pair.want(3)
        pair.until(lambda: pair.states().get(3) == "Failed")
        found_reason, said = pair.said_of(3)
        assert found_reason == reason
        assert words in said
        assert pair.status()["error"]["reason"] == reason
    assert seen == {2.0}
    # what a server would start with is what worked
    pair.kill("server")
    pair.until(lambda: pair.probe("/readyz") == 503, seconds=5)
    pair.start_server()
    pair.until(lambda: pair.probe("/readyz") == 200, seconds=60)
    assert pair.multiply() == 2.0


def test_a_failed_version_serves_once_its_source_has_better_bytes(pair: Pair) -> None:
    pair.put(2)
    pair.put(3, "garbage")
    pair.want(2)
    pair.boot()
    pair.want(3)
    pair.until(lambda: pair.states().get(3) == "Failed")
    pair.put(3)
    with pair.asked_all_the_time() as seen:
        pair.want(3, sha256={})  # any change of the configuration tries everything again
        pair.want(3, labels={"stable": 3})
        pair.until(lambda: pair.states() == {3: "Available"}, seconds=90)
        assert pair.multiply() == 3.0
    assert seen == {2.0, 3.0}


def test_a_broken_extra_is_left_out_and_said_in_the_servers_words(pair: Pair) -> None:
    pair.put(1, "garbage")
    pair.put(2)
    pair.want(2, 1)
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Failed", 2: "Available"})
    assert pair.said_of(1)[0] == "LoadFailed"
    assert "Can't parse" in pair.said_of(1)[1]
    assert pair.status()["error"] is None
    assert pair.multiply() == 2.0


def test_a_killed_server_and_a_killed_agent_come_back_as_they_were(pair: Pair) -> None:
    pair.put(1)
    pair.put(2)
    pair.want(2, 1, labels={"stable": 2})
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    pair.kill("server")
    pair.until(lambda: pair.probe("/readyz") == 503, seconds=3)
    pair.start_server()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"} and pair.probe("/readyz") == 200, seconds=60)
    assert pair.label("stable") == 2.0
    pair.kill("agent")
    shutil.rmtree(pair.source)
    pair.start_agent()
    pair.until(lambda: pair.probe("/readyz") == 200)
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
    assert pair.multiply("/versions/1") == 1.0


def test_the_first_version_that_cant_be_loaded_ends_the_server_in_words_for_the_condition(pair: Pair) -> None:
    pair.put(2, "garbage")
    pair.want(2)
    pair.start_agent()
    pair.until(lambda: pair.probe("/startz") == 200)
    pair.start_server()
    pair.until(lambda: pair.has_ended("server"), seconds=60)
    # the container's last words, which Kubernetes takes as its termination message
    last = (pair.folder / "server.log").read_text().strip().splitlines()[-1]
    assert last.startswith("Failed to start server. Error: ")
    assert "Can't parse" in last
    assert pair.probe("/readyz") == 503


def test_a_server_that_is_as_it_should_be_isnt_asked_all_the_time(pair: Pair) -> None:
    pair.put(2)
    pair.want(2)
    pair.boot()
    time.sleep(1)
    before = pair.counted()
    time.sleep(8)
    assert pair.counted() - before <= 1, "the agent's own questions must not look like traffic"
    assert pair.states() == {2: "Available"}


def test_batching_reaches_the_server(pair: Pair) -> None:
    pair.put(2)
    pair.want(2, settings={"maxBatchSize": 4, "maxDelayMicroseconds": 1000, "batchThreads": 2})
    pair.boot(batching={"maxBatchSize": 4, "maxDelayMicroseconds": 1000})
    assert pair.multiply() == 2.0
    answer = requests.post(
        f"http://127.0.0.1:{pair.rest_port}/v1/models/{MODEL}:predict", json={"instances": [[1.0, 1.0]] * 5}, timeout=10
    )
    assert answer.status_code == 400
    assert "larger than maximum input batch size 4" in answer.json()["error"]


def test_a_slow_load_is_waited_for_while_the_old_one_answers(pair: Pair) -> None:
    pair.put(2)
    pair.put(4, "slow-to-load")
    pair.want(2)
    pair.boot()
    with pair.asked_all_the_time() as seen:
        pair.want(4)
        pair.until(lambda: pair.states().get(4) == "Loading")
        pair.until(lambda: pair.states() == {4: "Available"}, seconds=60)
        assert pair.multiply() == 4.0
    assert seen == {2.0, 4.0}


@pytest.mark.parametrize("inside", ["", "export/1700000000/"])
def test_a_saved_model_is_found_inside_an_archive(pair: Pair, inside: str) -> None:
    with tarfile.open(pair.source / "model.tar.gz", "w:gz") as archive:
        archive.add(pair.made / MODEL / "2", arcname=inside.rstrip("/") or ".")
    pair.want(2, source={"uri": "pvc://models/m", "path": str(pair.source), "versions": {"2": "model.tar.gz"}})
    pair.boot()
    assert pair.multiply() == 2.0


def test_the_specs_warm_up_runs_in_the_server_before_a_client_meets_the_version(pair: Pair) -> None:
    pair.put(2)
    pair.put(4, "slow-to-load")  # brings a request of its own
    warmup = [{"instances": [[1.0, 2.0]]}, {"signature_name": "slow", "inputs": {"turns": [10]}}]
    pair.want(2, warmup=warmup)
    pair.boot()
    log = pair.folder / "server.log"
    assert "Number of warmup records read: 2." in log.read_text()
    assert pair.multiply() == 2.0
    pair.want(4, warmup=warmup)
    pair.until(lambda: pair.states() == {4: "Available"}, seconds=60)
    assert "Number of warmup records read: 3." in log.read_text()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"instances": [{"z": 1.0}]}, "request 1 of spec.warmup can't be asked: it has the inputs z"),
        ({"signature_name": "no", "instances": [1.0]}, "the model has no signature 'no'"),
    ],
)
def test_a_warm_up_that_cant_be_asked_is_said_by_its_number(pair: Pair, request_: Any, words: str) -> None:
    pair.put(2)
    pair.want(2, warmup=[request_])
    pair.start_agent()
    pair.until(lambda: pair.probe("/healthz") == 200)
    pair.until(lambda: pair.states() == {2: "Failed"})
    reason, said = pair.said_of(2)
    assert reason == "WarmupFailed"
    assert words in said


def test_other_bytes_under_a_pinned_number_are_loaded_anew(pair: Pair) -> None:
    pair.put(2)
    pair.want(2, sha256={"2": digest_path(pair.source / "2")})
    pair.boot()
    assert pair.multiply() == 2.0
    shutil.copytree(pair.made / MODEL / "3", pair.folder / "three")
    shutil.rmtree(pair.source / "2")
    os.rename(pair.folder / "three", pair.source / "2")
    pair.want(2, sha256={"2": digest_path(pair.source / "2")})

    def is_anew() -> bool:
        try:
            return pair.multiply() == 3.0
        except requests.HTTPError:  # the old bytes are gone, the new ones aren't loaded yet
            return False

    pair.until(is_anew, seconds=40)
    pair.until(lambda: pair.probe("/readyz") == 200)
