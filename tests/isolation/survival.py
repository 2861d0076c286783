"""A pod that serves while its agent's worker is ended in every way: what its clients and its kubelet notice of that.

Real processes: the agent as its container runs it, with the container's limit of 256 MiB, and a server that answers its
ready path. A hundred requests a second go to the server while the pod is ready, as a kubelet finds it: `/readyz` each
second, within two, twice unanswered for unready. What is sent while it isn't counts as lost.

Two waits are shorter than in a pod: for a silent worker (4 s, not 60), and before its next start (0.5 s at most, not
10).

    python -m tests.isolation.survival              # two to three minutes
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from slipway_agent.supervisor.process import anonymous_bytes, descendants
from tests.ports import free_port
from tests.unit.agent.supervisor.pods import ProcessPod

LIMIT_BYTES = 256 << 20
REQUESTS_PER_SECOND, CLIENTS = 100, 8
INCIDENTS, CONTAINERS = 50, 5
LONGEST_SECONDS = 170.0
WAITS = ("--patience", "stalled=4", "longest_pause=0.5", "--limit", str(LIMIT_BYTES))
ENTRIES = 900_000  # of a recorded.json that takes some 300 MB to read
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@dataclass(slots=True)
class Kubelet:
    """What a kubelet makes of `/readyz`. flips: how often a ready pod became unready. failed: single probes."""

    pod: ProcessPod
    is_ready: bool = False
    flips: int = 0
    failed: int = 0
    words: list[str] = field(default_factory=list)

    def look(self, in_a_row: int = 0) -> int:
        """One probe; how many have failed in a row by then."""
        status, said = self.pod.ask("/readyz", seconds=2.0)
        if status == 200:
            self.is_ready = True
            return 0
        self.failed += 1
        self.words.append(said.strip())
        if in_a_row + 1 >= 2 and self.is_ready:
            self.is_ready, self.flips = False, self.flips + 1
        return in_a_row + 1

    def watch(self, ended: threading.Event) -> None:
        in_a_row = 0
        while not ended.wait(1.0):
            in_a_row = self.look(in_a_row)


@dataclass(slots=True)
class Clients:
    """Requests all the time, each in its turn: a hundred a second, however long one takes."""

    port: int
    kubelet: Kubelet
    answered: int = 0
    lost: int = 0
    words: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask_on(self, turns: Iterator[float], ended: threading.Event) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not ended.is_set():
            with self.lock:
                at = next(turns)
            ended.wait(max(at - time.monotonic(), 0.0))
            said = self._ask(connection) if self.kubelet.is_ready else "the pod isn't ready"
            with self.lock:
                self.answered += not said
                self.lost += bool(said)
                if said:
                    self.words.append(said)

    def _ask(self, connection: http.client.HTTPConnection) -> str:
        try:
            connection.request("GET", "/predict")
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as cause:
            connection.close()
            return f"{type(cause).__name__}: {cause}"
        return "" if answer.status == 200 else f"status {answer.status}"


@dataclass(slots=True)
class Watch:
    """The most memory that agent and worker held together, in bytes, and the most of the first process alone."""

    pod: ProcessPod
    peak_bytes: int = 0
    supervisor_bytes: int = 0

    def watch(self, ended: threading.Event) -> None:
        while not ended.wait(0.05):
            first = self.pod.agent
            if first is None:
                continue
            own = anonymous_bytes(first.pid)
            self.supervisor_bytes = max(self.supervisor_bytes, own)
            below = sum(anonymous_bytes(pid) for pid in descendants(first.pid))
            self.peak_bytes = max(self.peak_bytes, own + below)


# what happens to the worker


def kill(pod: ProcessPod) -> None:
    os.kill(pod.worker, signal.SIGKILL)


def restart(pod: ProcessPod) -> None:
    os.kill(pod.worker, signal.SIGTERM)


def freeze(pod: ProcessPod) -> None:
    os.kill(pod.worker, signal.SIGSTOP)


def starve(pod: ProcessPod) -> None:
    """The worker reads a file that takes more memory than it may hold, until that has ended it."""
    worker, large, place = pod.worker, pod.folder / "large.json", pod.folder / "recorded.json"
    if not large.exists():
        with large.open("w") as file:
            file.writelines(["{", *(f'"{number}":"{number:064x}",' for number in range(1, ENTRIES)), '"0":""}'])
    os.link(large, place)
    pod.until(lambda: pod.worker != worker)
    place.unlink()


PLAN: tuple[tuple[str, Callable[[ProcessPod], None], int], ...] = (
    ("killed", kill, 22),
    ("restarted", restart, 12),
    ("frozen", freeze, 8),
    ("out of memory", starve, 8),
)


def incidents() -> Iterator[tuple[str, Callable[[ProcessPod], None]]]:
    """All of PLAN, the kinds in turn as far as they last."""
    rows = [[(name, do)] * count for name, do, count in PLAN]
    for several in itertools.zip_longest(*rows):
        yield from (each for each in several if each is not None)


@dataclass(frozen=True, slots=True)
class Result:
    """containers_seconds: from each container's end to the next one's good `/startz` and `/readyz`."""

    done: dict[str, int]
    kubelet: Kubelet
    clients: Clients
    memory: Watch
    seconds: float
    containers_seconds: tuple[float, ...]

    @property
    def is_met(self) -> bool:
        in_bounds = self.memory.peak_bytes <= LIMIT_BYTES
        is_whole = sum(self.done.values()) == INCIDENTS and len(self.containers_seconds) == CONTAINERS
        return is_whole and in_bounds and not (self.clients.lost or self.kubelet.flips or self.kubelet.failed)


@contextmanager
def serving(folder: Path) -> Iterator[ProcessPod]:
    """A pod whose server is a process of its own."""
    pod = ProcessPod(folder)
    pod.server.port = free_port()
    pod.want()
    with subprocess.Popen([sys.executable, "-c", SERVER, str(pod.server.port)]) as server:
        try:
            pod.start(*WAITS)
            pod.until(lambda: pod.probe("/readyz") == 200)
            yield pod
        finally:
            server.kill()
            if pod.agent is not None and pod.agent.poll() is None:
                pod.end(signal.SIGTERM)


def survive(pod: ProcessPod) -> Result:
    """All incidents, one after the other, as far as the time goes; then the containers' restarts."""
    began, ended = time.monotonic(), threading.Event()
    kubelet, memory = Kubelet(pod), Watch(pod)
    clients = Clients(pod.server.port, kubelet)
    kubelet.look()
    turns = itertools.count(time.monotonic(), 1 / REQUESTS_PER_SECOND)
    work: list[Callable[[threading.Event], None]] = [kubelet.watch, memory.watch]
    threads = [threading.Thread(target=each, args=(ended,), daemon=True) for each in work]
    threads += [threading.Thread(target=clients.ask_on, args=(turns, ended), daemon=True) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    done: dict[str, int] = {}
    for name, do in incidents():
        if time.monotonic() - began > LONGEST_SECONDS:
            break
        worker = pod.worker
        do(pod)
        pod.until_replaced(worker)
        done[name] = done.get(name, 0) + 1
    ended.set()
    for thread in threads:
        thread.join(15)
    seconds = time.monotonic() - began
    return Result(done, kubelet, clients, memory, seconds, tuple(restart_container(pod) for _ in range(CONTAINERS)))


def restart_container(pod: ProcessPod) -> float:
    """Seconds until another container of the agent would be ready, its first process killed."""
    began = time.monotonic()
    pod.end()
    pod.start(*WAITS)
    pod.until(lambda: pod.probe("/startz") == 200 and pod.probe("/readyz") == 200)
    return time.monotonic() - began


def render(result: Result) -> str:
    """The row of `make isolation`."""
    kinds = ", ".join(f"{name} {count}" for name, count in result.done.items())
    asked = result.clients.answered + result.clients.lost
    containers = " ".join(f"{each:.1f}" for each in result.containers_seconds)
    lines = [
        f"A serving pod while its agent's worker ends {sum(result.done.values())} times ({kinds})",
        f"  requests lost              {result.clients.lost} of {asked} in {result.seconds:.0f} s",
        f"  flips of readiness         {result.kubelet.flips}, single probes failed {result.kubelet.failed}",
        f"  memory, at most            {result.memory.peak_bytes >> 20} MiB of {LIMIT_BYTES >> 20}, of which the first "
        f"process {result.memory.supervisor_bytes >> 20} MiB",
        f"  its container restarted    {len(result.containers_seconds)} times: both probes good after {containers} s",
        *(f"  {words}" for words in sorted({*result.clients.words, *result.kubelet.words})[:5]),
        "met" if result.is_met else "missed",
    ]
    return "\n".join(lines)


def main(arguments: Iterable[str] | None = None) -> int:
    """Print the row. 1 where the figure is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.isolation.survival", description=__doc__)
    parser.parse_args(None if arguments is None else list(arguments))
    with tempfile.TemporaryDirectory(prefix="slipway-survival-") as folder, serving(Path(folder)) as pod:
        result = survive(pod)
    sys.stdout.write(render(result) + "\n")
    return 0 if result.is_met else 1


if __name__ == "__main__":
    sys.exit(main())
