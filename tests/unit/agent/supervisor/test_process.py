"""The agent as processes, beside a server that goes on: whatever becomes of the worker, the pod stays what it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import slipway_agent
from tests.ports import free_port
from tests.unit.agent.servers.fake_http import FakeServer, Said

ROOT = Path(__file__).parents[4]
STRAW = "tests.unit.agent.supervisor.straw_worker"
PATH = os.pathsep.join([str(Path(slipway_agent.__file__).parents[1]), str(ROOT)])


class Container(FakeServer):
    """A server that says 200 at any path while it is up."""

    def answer(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Said:
        return 200, {}


class Pod:
    """A pod's volumes, its agent as processes and its server on a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.models, self.config = folder, folder / "models", folder / "agent.json"
        self.server, self.port = Container(folder), free_port()
        (folder / "server-port").write_text(str(self.server.port))
        source = folder / "source" / "3"
        source.mkdir(parents=True)
        (source / "weights.bin").write_text("weights")
        self.agent: subprocess.Popen[bytes] | None = None

    def want(self, **changes: Any) -> None:
        fields = {
            "schema": 1,
            "generation": "g",
            "runtime": "Custom",
            "model": "digits",
            "source": {"uri": "pvc://models/digits", "path": str(self.folder / "source"), "versions": {}},
            "served": 3,
            "load": [3],
            "custom": {"httpPort": self.server.port, "readyPath": "/up", "predictPath": "/predict"},
        }
        self.write(json.dumps(fields | changes))

    def write(self, text: str) -> None:
        new = self.config.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.config)

    def start(self, *options: str) -> None:
        command = [sys.executable, "-m", "tests.unit.agent.supervisor.supervised", "--config", str(self.config)]
        command += ["--models", str(self.models), "--port", str(self.port), *options]
        with (self.folder / "log").open("ab") as log:
            self.agent = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": PATH}, stderr=log, cwd=ROOT)

    def serve(self, *options: str) -> None:
        self.want()
        self.start(*options)
        self.until(lambda: self.probe("/startz") == 200)
        self.server.listen()
        self.until(lambda: self.probe("/readyz") == 200)

    def end(self, number: int = signal.SIGKILL) -> int:
        assert self.agent is not None
        self.agent.send_signal(number)
        return self.agent.wait(20)

    def ask(self, target: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{target}", timeout=30) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return int(refusal.code), refusal.read().decode()
        except OSError as cause:
            return 0, str(cause)

    def probe(self, path: str) -> int:
        return self.ask(path)[0]

    def status(self) -> dict[str, Any]:
        status, body = self.ask("/status")
        return dict(json.loads(body)) if status == 200 else {}

    def logged(self, message: str) -> list[dict[str, Any]]:
        lines = (self.folder / "log").read_text().splitlines()
        return [found for line in lines if line.startswith("{") and (found := json.loads(line))["message"] == message]

    @property
    def worker(self) -> int:
        """The last one that was started."""
        return int(self.logged("worker started")[-1]["pid"])

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def until_replaced(self, worker: int) -> None:
        """Another worker has said something."""
        self.until(lambda: self.worker != worker and self.probe("/status") == 200)


class Watched(threading.Thread):
    """Asks /readyz all the time. `seen`: each answer that isn't 200."""

    def __init__(self, pod: Pod) -> None:
        super().__init__(daemon=True)
        self.pod, self.count, self._ended = pod, 0, threading.Event()
        self.seen: list[tuple[int, str]] = []
        self.start()

    def run(self) -> None:
        while not self._ended.wait(0.02):
            found = self.pod.ask("/readyz")
            self.count += 1
            if found[0] != 200:
                self.seen.append(found)

    def end(self) -> list[tuple[int, str]]:
        more = self.count + 3
        self.pod.until(lambda: self.count >= more)
        self._ended.set()
        self.join(30)
        return self.seen


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    made = Pod(tmp_path)
    yield made
    made.server.kill()
    if made.agent is not None:
        with suppress(ProcessLookupError):
            made.agent.kill()
        made.agent.wait(20)


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_a_worker_that_is_killed_again_and_again_costs_no_readiness(pod: Pod) -> None:
    pod.serve()
    watched = Watched(pod)
    for _ in range(3):
        worker = pod.worker
        os.kill(worker, signal.SIGKILL)
        pod.until_replaced(worker)
    assert watched.end() == []
    assert [each["detail"] for each in pod.logged("worker ended")] == ["signal SIGKILL ended it"] * 3
    assert 'slipway_agent_worker_restarts_total{reason="ended"} 3' in pod.ask("/metrics")[1]
    assert pod.status()["serving"] == 3


def test_a_worker_that_is_stopped_is_replaced_and_costs_no_readiness(pod: Pod) -> None:
    pod.serve()
    watched, worker = Watched(pod), pod.worker
    os.kill(worker, signal.SIGSTOP)
    pod.until_replaced(worker)
    assert watched.end() == []
    assert [each["reason"] for each in pod.logged("worker ended")] == ["stalled"]
    assert is_gone(worker)


def test_a_worker_whose_child_takes_too_much_memory_ends_with_it(pod: Pod) -> None:
    pod.serve("--worker", STRAW, "--limit", str(100 << 20))
    watched, worker = Watched(pod), pod.worker
    (pod.folder / "order").write_text("hunger")
    pod.until(lambda: pod.worker != worker)
    [ended] = pod.logged("worker ended")
    assert ended["reason"] == "memory"
    assert ended["detail"].endswith("MiB of memory, and may hold 60 MiB")
    assert watched.end() == []
    assert len(pod.logged("worker ended")) == 1, "what it had started is gone, and counts no more"


def test_a_worker_that_is_refused_memory_goes_on_without_it(pod: Pod) -> None:
    """RLIMIT_DATA: one stroke for more than the container has fails in the worker, and ends nothing."""
    pod.serve("--limit", str(100 << 20))
    watched, worker = Watched(pod), pod.worker
    with (pod.folder / "recorded.json").open("wb") as file:
        file.truncate(300 << 20)
    pod.until(lambda: bool(pod.logged("the agent failed at its own work and goes on")))
    assert watched.end() == []
    assert pod.worker == worker
    (pod.folder / "recorded.json").unlink()
    pod.until(lambda: pod.status().get("serving") == 3)


def test_while_no_worker_is_there_the_servers_end_is_noticed(pod: Pod) -> None:
    pod.serve("--patience", "pause=600", "longest_pause=600")
    os.kill(pod.worker, signal.SIGKILL)
    pod.until(lambda: bool(pod.logged("worker ended")))
    assert pod.ask("/readyz") == (200, "ok\n")
    status, words = pod.ask("/status")
    assert (status, words) == (503, "the agent's worker isn't there: signal SIGKILL ended it; it is started again\n")
    pod.server.kill()
    pod.until(lambda: pod.probe("/readyz") == 503)
    assert "the server doesn't say that version 3 is ready" in pod.ask("/readyz")[1]
    assert pod.probe("/startz") == pod.probe("/healthz") == 200
    pod.server.listen()
    pod.until(lambda: pod.probe("/readyz") == 200)


def test_an_order_to_leave_reaches_a_pod_without_a_worker(pod: Pod) -> None:
    pod.serve("--patience", "pause=600", "longest_pause=600")
    os.kill(pod.worker, signal.SIGKILL)
    pod.until(lambda: bool(pod.logged("worker ended")))
    pod.want(out=["digits-a"])
    assert pod.probe("/readyz") == 503
    pod.want(out=[])
    assert pod.probe("/readyz") == 200


def test_another_container_of_the_agent_is_ready_at_its_first_probe(pod: Pod) -> None:
    pod.serve()
    worker = pod.worker
    pod.end()
    pod.until(lambda: is_gone(worker))
    pod.start("--worker", "no.such.module", "--patience", "pause=600", "longest_pause=600")
    pod.until(lambda: pod.probe("/startz") != 0)
    assert pod.probe("/startz") == pod.probe("/readyz") == 200
    pod.server.kill()
    pod.until(lambda: pod.probe("/readyz") == 503)


def test_a_configuration_that_cant_be_used_takes_no_serving_pod_out(pod: Pod) -> None:
    pod.serve()
    watched, worker = Watched(pod), pod.worker
    pod.write("{}")
    os.kill(worker, signal.SIGKILL)
    pod.until(lambda: (pod.status().get("error") or {}).get("reason") == "ConfigInvalid" and pod.worker != worker)
    assert watched.end() == []


def test_a_worker_that_never_starts_is_told_in_words_and_ends_the_container(pod: Pod) -> None:
    pod.want()
    (pod.folder / "order").write_text("exit 7")
    pod.start("--worker", STRAW, "--patience", "starts=3")
    assert pod.agent is not None
    assert pod.agent.wait(60) == 1
    words = "the agent's worker isn't there: it ended with exit code 7; it is started again"
    assert [each["detail"] for each in pod.logged("the agent can't start")] == [words]


def test_a_worker_that_never_starts_ends_no_container_whose_pod_serves(pod: Pod) -> None:
    pod.serve("--worker", STRAW, "--patience", "starts=2")
    watched = Watched(pod)
    (pod.folder / "order").write_text("exit 7")
    os.kill(pod.worker, signal.SIGKILL)
    pod.until(lambda: len(pod.logged("worker ended")) >= 5)
    assert pod.probe("/healthz") == 200
    assert watched.end() == []


def test_orphans_are_taken_in(pod: Pod) -> None:
    pod.serve("--worker", STRAW)
    (pod.folder / "order").write_text("orphan")
    pod.until(lambda: (pod.folder / "orphan").exists() and (pod.folder / "orphan").read_text().endswith("\n"))
    orphan = int((pod.folder / "orphan").read_text())
    pod.until(lambda: not Path(f"/proc/{orphan}").exists())


def test_sigterm_in_the_middle_of_a_fetch_ends_both(pod: Pod) -> None:
    os.mkfifo(pod.folder / "source" / "3" / "endless.bin")
    pod.want()
    pod.start()
    pod.until(lambda: bool(pod.logged("fetch begins")))
    worker = pod.worker
    assert pod.end(signal.SIGTERM) == 0
    assert is_gone(worker)
    assert pod.logged("stopping")[0]["signal"] == "SIGTERM"


def test_who_waits_for_news_hears_them_through_the_port(pod: Pod) -> None:
    pod.serve()
    pod.want(source={"uri": "pvc://models/digits", "path": str(pod.folder / "source"), "pollSeconds": 0.1})
    listing = json.loads(pod.ask("/listing")[1])
    pod.until(lambda: bool(json.loads(pod.ask("/listing")[1])["found"]))
    listing = json.loads(pod.ask("/listing")[1])
    heard: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: heard.append(pod.ask(f"/listing?after={listing['token']}&wait=25")))
    asking.start()
    (pod.folder / "source" / "4").mkdir()
    (pod.folder / "source" / "4" / "weights.bin").write_text("others")
    asking.join(40)
    assert json.loads(heard[0][1])["found"].keys() == {"3", "4"}
