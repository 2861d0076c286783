"""The agent as processes, beside a server that goes on: whatever becomes of the worker, the pod stays what it is."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.unit.agent.supervisor.pods import ProcessPod

STRAW = "tests.unit.agent.supervisor.straw_worker"


class Watched(threading.Thread):
    """Asks /readyz all the time. `seen`: each answer that isn't 200."""

    def __init__(self, pod: ProcessPod) -> None:
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
def pod(tmp_path: Path) -> Iterator[ProcessPod]:
    made = ProcessPod(tmp_path)
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


def test_a_worker_that_is_killed_again_and_again_costs_no_readiness(pod: ProcessPod) -> None:
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


def test_a_worker_that_is_stopped_is_replaced_and_costs_no_readiness(pod: ProcessPod) -> None:
    pod.serve()
    watched, worker = Watched(pod), pod.worker
    os.kill(worker, signal.SIGSTOP)
    pod.until_replaced(worker)
    assert watched.end() == []
    assert [each["reason"] for each in pod.logged("worker ended")] == ["stalled"]
    assert is_gone(worker)


def test_a_worker_whose_child_takes_too_much_memory_ends_with_it(pod: ProcessPod) -> None:
    pod.serve("--worker", STRAW, "--limit", str(100 << 20))
    watched, worker = Watched(pod), pod.worker
    (pod.folder / "order").write_text("hunger")
    pod.until(lambda: pod.worker != worker)
    [ended] = pod.logged("worker ended")
    assert ended["reason"] == "memory"
    assert ended["detail"].endswith("MiB of memory, and may hold 60 MiB")
    assert watched.end() == []
    assert len(pod.logged("worker ended")) == 1, "what it had started is gone, and counts no more"


def test_a_worker_that_is_refused_memory_goes_on_without_it(pod: ProcessPod) -> None:
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


def test_while_no_worker_is_there_the_servers_end_is_noticed(pod: ProcessPod) -> None:
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


def test_an_order_to_leave_reaches_a_pod_without_a_worker(pod: ProcessPod) -> None:
    pod.serve("--patience", "pause=600", "longest_pause=600")
    os.kill(pod.worker, signal.SIGKILL)
    pod.until(lambda: bool(pod.logged("worker ended")))
    pod.want(out=["digits-a"])
    assert pod.probe("/readyz") == 503
    pod.want(out=[])
    assert pod.probe("/readyz") == 200


def test_another_container_of_the_agent_is_ready_at_its_first_probe(pod: ProcessPod) -> None:
    pod.serve()
    worker = pod.worker
    pod.end()
    pod.until(lambda: is_gone(worker))
    pod.start("--worker", "no.such.module", "--patience", "pause=600", "longest_pause=600")
    pod.until(lambda: pod.probe("/startz") != 0)
    assert pod.probe("/startz") == pod.probe("/readyz") == 200
    pod.server.kill()
    pod.until(lambda: pod.probe("/readyz") == 503)


def test_a_configuration_that_cant_be_used_takes_no_serving_pod_out(pod: ProcessPod) -> None:
    pod.serve()
    watched, worker = Watched(pod), pod.worker
    pod.write("{}")
    os.kill(worker, signal.SIGKILL)
    pod.until(lambda: (pod.status().get("error") or {}).get("reason") == "ConfigInvalid" and pod.worker != worker)
    assert watched.end() == []


def test_a_worker_that_never_starts_is_told_in_words_and_ends_the_container(pod: ProcessPod) -> None:
    pod.want()
    (pod.folder / "order").write_text("exit 7")
    pod.start("--worker", STRAW, "--patience", "starts=3")
    assert pod.agent is not None
    assert pod.agent.wait(60) == 1
    words = "the agent's worker isn't there: it ended with exit code 7; it is started again"
    assert [each["detail"] for each in pod.logged("the agent can't start")] == [words]


def test_a_worker_that_never_starts_ends_no_container_whose_pod_serves(pod: ProcessPod) -> None:
    pod.serve("--worker", STRAW, "--patience", "starts=2")
    watched = Watched(pod)
    (pod.folder / "order").write_text("exit 7")
    os.kill(pod.worker, signal.SIGKILL)
    pod.until(lambda: len(pod.logged("worker ended")) >= 5)
    assert pod.probe("/healthz") == 200
    assert watched.end() == []


def test_orphans_are_taken_in(pod: ProcessPod) -> None:
    pod.serve("--worker", STRAW)
    (pod.folder / "order").write_text("orphan")
    pod.until(lambda: (pod.folder / "orphan").exists() and (pod.folder / "orphan").read_text().endswith("\n"))
    orphan = int((pod.folder / "orphan").read_text())
    pod.until(lambda: not Path(f"/proc/{orphan}").exists())


def test_sigterm_in_the_middle_of_a_fetch_ends_both(pod: ProcessPod) -> None:
    os.mkfifo(pod.folder / "source" / "3" / "endless.bin")
    pod.want()
    pod.start()
    pod.until(lambda: bool(pod.logged("fetch begins")))
    worker = pod.worker
    assert pod.end(signal.SIGTERM) == 0
    assert is_gone(worker)
    assert pod.logged("stopping")[0]["signal"] == "SIGTERM"


def test_who_waits_for_news_hears_them_through_the_port(pod: ProcessPod) -> None:
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


def test_after_the_nodes_crash_nothing_is_remembered_and_a_damaged_version_is_fetched_again(pod: ProcessPod) -> None:
    pod.serve()
    notes, weights = pod.models / ".agent", pod.models / "repository" / "digits" / "3" / "weights.bin"
    pod.until(lambda: (notes / "seals.json").exists())
    worker = pod.worker
    pod.end(signal.SIGTERM)
    pod.until(lambda: is_gone(worker))
    for note in ("published.json", "readiness.json"):  # as an earlier start of the node left them
        written = json.loads((notes / note).read_text())
        (notes / note).write_text(json.dumps(written | {"boot": "an earlier one"}))
    weights.write_bytes(b"\0" * len("weights"))
    pod.start()
    pod.until(lambda: pod.probe("/readyz") == 200)
    assert weights.read_text() == "weights"
    assert [each["version"] for each in pod.logged("version is fetched again")] == [3]


def test_a_container_that_ends_leaves_no_worker_not_even_a_stopped_one(pod: ProcessPod) -> None:
    pod.serve()
    worker = pod.worker
    os.kill(worker, signal.SIGSTOP)
    pod.end()
    pod.until(lambda: is_gone(worker))
