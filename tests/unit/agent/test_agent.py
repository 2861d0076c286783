"""The whole agent beside a Triton of straw: what a pod lives through, from the first boot to the last signal."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import slipway_agent
from slipway_agent import decide
from slipway_agent.endpoints import Board, answer
from slipway_agent.journal import Journal
from slipway_agent.loop import Agent
from tests.unit.agent.fake_triton import FakeTriton

KEY = "only the agent knows it"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Pod:
    """A pod's volumes, its agent on a thread and its server on another."""

    def __init__(self, folder: Path) -> None:
        self.source, self.models, self.config = folder / "source", folder / "models", folder / "agent.json"
        self.source.mkdir()
        self.port = free_port()
        self.server = FakeTriton(self.models / "repository", "digits", self.port, KEY)
        self.log = io.StringIO()
        self.board = Board()
        self._agent: Agent | None = None
        self._thread: threading.Thread | None = None

    def put(self, version: int, content: str = "weights") -> None:
        (self.source / str(version)).mkdir(exist_ok=True)
        (self.source / str(version) / "model.onnx").write_text(content)

    def want(self, served: int, *others: int, generation: str = "g", **changes: Any) -> None:
        source = {"uri": "pvc://models/digits", "path": str(self.source), "versions": {}}
        fields = {
            "schema": 1,
            "generation": generation,
            "runtime": "Triton",
            "model": "digits",
            "source": source,
            "served": served,
            "load": [served, *others],
            "triton": {"httpPort": self.port},
        }
        self.write(json.dumps(fields | changes))

    def write(self, text: str) -> None:
        new = self.config.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.config)

    def start_agent(self) -> None:
        self.board = Board()
        journal = Journal({"SLIPWAY_LOG_FORMAT": "console"}, self.log)
        self._agent = Agent(self.config, self.models, self.board, journal, {"SLIPWAY_SERVER_KEY": KEY})
        self._thread = threading.Thread(target=self._agent.run)
        self._thread.start()

    def stop_agent(self) -> None:
        if self._agent is not None and self._thread is not None:
            self._agent.stop("SIGTERM")
            self._thread.join(5)
            assert not self._thread.is_alive()
        self._agent = None

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(answer("/status", self.board).body)
        return found

    def states(self) -> dict[int, str]:
        return {each["version"]: each["state"] for each in self.status()["versions"]}

    def probe(self, path: str) -> int:
        return answer(path, self.board).status

    def until(self, condition: Callable[[], bool], seconds: float = 8.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{self.status()}\n{self.log.getvalue()}"
            time.sleep(0.01)

    def until_states(self, **states: str) -> None:
        wanted = {int(name.removeprefix("v")): state for name, state in states.items()}
        self.until(lambda: self.states() == wanted)

    def boot(self) -> None:
        self.start_agent()
        self.until(lambda: self.probe("/startz") == 200)
        self.server.start()
        self.until(lambda: self.probe("/readyz") == 200)


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pod]:
    monkeypatch.setattr(decide, "SETTLED_SECONDS", 0.05)
    monkeypatch.setattr(decide, "CHANGING_SECONDS", 0.02)
    monkeypatch.setattr(decide, "MISSING_RETRY_SECONDS", 0.1)
    made = Pod(tmp_path)
    yield made
    made.stop_agent()
    made.server.kill()
    assert "Traceback" not in made.log.getvalue()
    assert "failed at its own work" not in made.log.getvalue(), made.log.getvalue()


def test_a_pod_boots_with_its_served_version_and_the_others_follow(pod: Pod) -> None:
    pod.put(1)
    pod.put(2)
    pod.want(2, 1, generation="first")
    pod.start_agent()
    pod.until(lambda: pod.probe("/startz") == 200)
    assert pod.probe("/readyz") == 503
    pod.server.start()
    assert pod.server.loads == [(2,)], "the served version alone is in the first boot configuration"
    pod.until_states(v1="Available", v2="Available")
    status = pod.status()
    assert (status["generation"], status["served"], status["ready"], status["error"]) == ("first", 2, True, None)
    pod.until(lambda: pod.status()["listed"] == [1, 2])
    assert pod.probe("/readyz") == pod.probe("/healthz") == 200


def test_the_server_isnt_started_before_the_files_are_there(pod: Pod) -> None:
    pod.want(3)
    pod.start_agent()
    pod.until(lambda: pod.status()["error"] is not None)
    assert pod.status()["error"]["reason"] == "VersionNotFound"
    assert pod.states() == {3: "Failed"}
    assert pod.probe("/startz") == 503
    assert "VersionNotFound: pvc://models/digits has no version 3" in answer("/startz", pod.board).body
    pod.put(3)
    pod.until(lambda: pod.probe("/startz") == 200)
    pod.until(lambda: pod.status()["error"] is None)


def test_versions_change_without_a_restart_and_ready_never_drops(pod: Pod) -> None:
    for version in (1, 2, 3):
        pod.put(version, "slow")
    pod.want(2, 1)
    pod.boot()
    pod.until_states(v1="Available", v2="Available")
    dropped = threading.Event()
    watched = threading.Event()

    def watch() -> None:
        while not watched.is_set():
            if pod.probe("/readyz") != 200 or not pod.server.loaded.keys() & {2, 3}:
                dropped.set()
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    pod.want(3, 2, generation="second")
    pod.until_states(v2="Available", v3="Available")
    watched.set()
    watcher.join()
    assert not dropped.is_set()
    assert pod.status()["generation"] == "second"
    assert sorted(path.name for path in pod.server.folder.iterdir()) == ["2", "3", "config.pbtxt"]
    assert pod.server.loads[-1] == (2, 3)
    assert (1, 2, 3) in pod.server.loads, "the old one went only after the new one was ready"


def test_a_failing_extra_version_is_left_out_and_reported(pod: Pod) -> None:
    pod.put(1, "broken")
    pod.put(2)
    pod.put(3)
    pod.want(3, 1, 2)
    pod.boot()
    pod.until_states(v1="Failed", v2="Available", v3="Available")
    status = pod.status()
    assert status["error"] is None
    assert status["ready"] is True
    assert status["versions"][0]["reason"] == "LoadFailed"
    assert status["versions"][0]["message"] == "Internal: not an ONNX model"
    assert pod.server.loaded.keys() == {2, 3}


def test_a_failing_served_version_is_reported_in_the_servers_own_words(pod: Pod) -> None:
    pod.put(3, "broken")
    pod.want(3)
    pod.start_agent()
    pod.until(lambda: pod.probe("/startz") == 200)
    pod.server.start()
    pod.until_states(v3="Failed")
    assert pod.status()["error"] == {
        "reason": "LoadFailed",
        "permanent": True,
        "message": "Internal: not an ONNX model",
    }
    assert pod.probe("/readyz") == 503


def test_a_new_served_version_that_fails_leaves_the_old_one_serving(pod: Pod) -> None:
    pod.put(2)
    pod.put(3, "broken")
    pod.want(2)
    pod.boot()
    pod.want(3)
    pod.until_states(v2="Unloading", v3="Failed")
    assert pod.probe("/readyz") == 200
    assert pod.status()["ready"] is False
    assert pod.status()["error"]["reason"] == "LoadFailed"
    assert pod.server.loaded.keys() == {2}
    pod.server.kill()
    pod.server.start()
    assert pod.server.loaded.keys() == {2}, "the boot configuration is what last worked"


def test_corrected_bytes_at_the_source_recover_by_themselves(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "PERMANENT_RETRY_SECONDS", 0.2)
    pod.put(3, "broken")
    pod.want(3)
    pod.start_agent()
    pod.until(lambda: pod.probe("/startz") == 200)
    pod.server.start()
    pod.until_states(v3="Failed")
    pod.put(3, "corrected")
    pod.until_states(v3="Available")
    assert pod.status()["error"] is None
    assert pod.server.loaded == {3: "corrected"}


def test_a_version_that_ends_the_server_is_taken_out_of_its_boot(pod: Pod) -> None:
    pod.put(2, "deadly")
    pod.put(3)
    pod.want(3, 2)
    pod.start_agent()
    pod.until(lambda: pod.probe("/startz") == 200)
    pod.server.start()
    pod.until(lambda: pod.states()[2] == "Failed")
    pod.until(lambda: pod.probe("/readyz") == 503)
    pod.server.start()
    pod.until_states(v2="Failed", v3="Available")
    assert "the server ended during the load" in pod.status()["versions"][0]["message"]


def test_a_killed_server_makes_the_pod_unready_until_it_is_back(pod: Pod) -> None:
    pod.put(2)
    pod.put(3)
    pod.want(3, 2)
    pod.boot()
    pod.until_states(v2="Available", v3="Available")
    pod.server.kill()
    pod.until(lambda: pod.probe("/readyz") == 503)
    assert pod.states() == {2: "Loading", 3: "Loading"}
    pod.server.start()
    pod.until_states(v2="Available", v3="Available")
    assert pod.probe("/readyz") == 200
    assert pod.server.loads[-1] == (2, 3), "the server came back as it was, from its file"


def test_a_server_that_lost_a_version_is_asked_for_it(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    pod.put(2)
    pod.put(3)
    pod.want(3, 2)
    pod.boot()
    pod.until_states(v2="Available", v3="Available")
    monkeypatch.setattr(decide, "RELOAD_SECONDS", 0.05)
    del pod.server.loaded[2]
    pod.until(lambda: pod.server.loaded.keys() == {2, 3})


def test_a_restarted_agent_fetches_nothing_again(pod: Pod) -> None:
    pod.put(2)
    pod.put(3)
    pod.want(3, 2)
    pod.boot()
    pod.until_states(v2="Available", v3="Available")
    pod.stop_agent()
    for version in (2, 3):
        (pod.source / str(version) / "model.onnx").unlink()
    pod.start_agent()
    pod.until_states(v2="Available", v3="Available")
    assert pod.probe("/startz") == pod.probe("/readyz") == 200
    assert "slipway_agent_fetched_bytes_total 0" in answer("/metrics", pod.board).body


def test_a_wrong_pin_is_refused_and_the_corrected_one_recovers(pod: Pod) -> None:
    pod.put(3)
    pod.want(3, sha256={"3": "a" * 64})
    pod.start_agent()
    pod.until_states(v3="Failed")
    error = pod.status()["error"]
    assert error["reason"] == "DigestMismatch"
    assert pod.probe("/startz") == 503
    [found] = re.findall(r"has sha256 ([0-9a-f]{64})", error["message"])
    pod.want(3, sha256={"3": found})
    pod.until(lambda: pod.probe("/startz") == 200)
    assert pod.status()["versions"][0]["sha256"] == found


def test_a_pin_that_no_longer_fits_is_reported_and_the_pod_keeps_serving(pod: Pod) -> None:
    pod.put(3)
    pod.want(3)
    pod.boot()
    pod.want(3, generation="pinned", sha256={"3": "a" * 64})
    pod.until_states(v3="Failed")
    assert pod.status()["error"]["reason"] == "DigestMismatch"
    assert pod.probe("/readyz") == 200


def test_a_bad_config_leaves_the_one_in_force(pod: Pod) -> None:
    pod.start_agent()
    pod.until(lambda: pod.status()["error"] is not None)
    assert "can't be read: No such file" in pod.status()["error"]["message"]
    assert pod.status()["generation"] is None
    pod.write("{")
    pod.until(lambda: "it is not JSON" in pod.status()["error"]["message"])
    pod.put(3)
    pod.want(3, generation="good")
    pod.until(lambda: pod.status()["error"] is None and pod.states() == {3: "Loading"})
    pod.write("[]")
    pod.until(lambda: pod.status()["error"] is not None)
    assert pod.status()["error"]["reason"] == "ConfigInvalid"
    assert pod.status()["generation"] == "good"
    pod.want(3, generation="good")
    pod.until(lambda: pod.status()["error"] is None)


def test_a_kept_config_that_cant_be_completed_is_said_so_and_its_correction_recovers(pod: Pod) -> None:
    pod.put(3)
    (pod.source / "config.pbtxt").write_text("sequence_batching {}")
    pod.want(3, triton={"httpPort": pod.port, "maxBatchSize": 8})
    pod.start_agent()
    pod.until_states(v3="Failed")
    assert pod.status()["error"]["reason"] == "ConfigInvalid"
    assert "it uses sequence_batching" in pod.status()["error"]["message"]
    assert pod.probe("/startz") == 503
    pod.want(3)
    pod.until(lambda: pod.probe("/startz") == 200)
    assert "sequence_batching" in (pod.server.folder / "config.pbtxt").read_text()


def test_since_is_when_the_state_began(pod: Pod) -> None:
    pod.put(3)
    pod.want(3)
    pod.boot()
    since = pod.status()["versions"][0]["since"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", since)
    time.sleep(0.1)
    assert pod.status()["versions"][0]["since"] == since


def test_the_log_has_one_line_a_change(pod: Pod) -> None:
    pod.put(3)
    pod.want(3)
    pod.boot()
    time.sleep(0.3)
    lines = [line for line in pod.log.getvalue().splitlines() if "version state" in line]
    assert [line.split("version=3 state=")[1] for line in lines if "before" in line or "Fetching" in line][-1:] == [
        "Available before=Loading"
    ]
    assert pod.log.getvalue().count("pod is ready") == 1


def test_metrics_are_in_prometheus_text(pod: Pod) -> None:
    pod.put(3)
    pod.want(3)
    pod.boot()
    body = answer("/metrics", pod.board).body
    assert 'slipway_agent_versions{state="Available"} 1\n' in body
    assert "slipway_agent_ready 1\n" in body
    assert f"slipway_agent_fetched_bytes_total {len('weights')}\n" in body
    assert 'slipway_agent_fetches_total{result="published"} 1\n' in body
    sample = re.compile(r"(#.*|[a-z_]+(\{[a-z]+=\"[A-Za-z]+\"\})? [0-9.e-]+)")
    assert all(sample.fullmatch(line) for line in body.splitlines())


def test_a_stalled_loop_is_unhealthy() -> None:
    board = Board()
    assert answer("/healthz", board).status == 200
    board.turned_at -= 60
    assert answer("/healthz", board).status == 503
    assert answer("/nothing", board).status == 404


# As a process, as the kubelet sees it.


@pytest.fixture
def process(pod: Pod, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    pod.put(3)
    pod.want(3)
    port = free_port()
    package = str(Path(slipway_agent.__file__).parents[1])
    command = [sys.executable, "-m", "slipway_agent", "--config", str(pod.config), "--models", str(pod.models)]
    environment = {**os.environ, "PYTHONPATH": package, "SLIPWAY_LOG_FORMAT": "json"}
    with subprocess.Popen(
        [*command, "--port", str(port)], env=environment, stderr=subprocess.PIPE, text=True
    ) as running:
        yield running, port
        running.kill()


def ask(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as response:
            return int(response.status)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return int(refusal.code)
    except OSError:
        return 0


def test_sigterm_ends_it_within_a_second_and_without_a_traceback(
    pod: Pod, process: tuple[subprocess.Popen[str], int]
) -> None:
    running, port = process
    pod.until(lambda: ask(port, "/startz") == 200)
    assert ask(port, "/readyz") == 503
    began = time.monotonic()
    running.send_signal(signal.SIGTERM)
    assert running.wait(5) == 0
    assert time.monotonic() - began < 1.0
    assert running.stderr is not None
    lines = [json.loads(line) for line in running.stderr.read().splitlines()]
    assert [lines[0]["message"], lines[-1]["message"]] == ["agent starts", "stopping"]
    assert all(line.keys() >= {"time", "level", "message"} for line in lines)


def test_a_taken_port_is_said_in_one_line(pod: Pod) -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        package = str(Path(slipway_agent.__file__).parents[1])
        ended = subprocess.run(
            [sys.executable, "-m", "slipway_agent", "--models", str(pod.models), "--port", str(taken.getsockname()[1])],
            env={**os.environ, "PYTHONPATH": package},
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert "Address already in use" in json.loads(line)["detail"]
