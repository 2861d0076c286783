"""Keeps one worker running, and knows at any moment what the probes are to be answered.

The worker is started again when it ends, when its loop says nothing for a minute (a process that was stopped says
nothing either), and when it holds more memory than the container can give. As the container's first process this one
also takes in whatever its children left behind.
"""

import os
import select
import signal
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from slipway_agent.model.readiness import Verdict
from slipway_agent.node import read_boot_id
from slipway_agent.reporting.log import Log
from slipway_agent.supervisor.confirming import Confirmer
from slipway_agent.supervisor.front import Front, start_front
from slipway_agent.supervisor.judging import (
    FRESH_SECONDS,
    Heard,
    Judgement,
    judge_live,
    judge_ready,
    judge_start,
    remember,
)
from slipway_agent.supervisor.memory import Memory
from slipway_agent.supervisor.orders import Orders
from slipway_agent.supervisor.process import (
    SPARED_BYTES,
    WorkerProcess,
    await_end,
    container_limit_bytes,
    kill_leftovers,
)

STARTING = "the agent's worker is starting"
DEFECT_SECONDS = 1.0
SILENT = "the agent's worker says nothing"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what is waited for, in seconds. pause: before a worker's next start; it doubles up to longest_pause, and
    begins anew for a worker that ran for `proven`. starts: those of workers that never spoke, until the container
    ends, where nothing is served."""

    tick: float = 0.1
    stalled: float = 60.0  # the slowest turn removes a version of 50,000 files; the server is asked directly meanwhile
    first_word: float = 60.0  # imports on a node that is busy with everything else
    pause: float = 0.25
    longest_pause: float = 10.0
    proven: float = 30.0
    ending: float = 5.0
    starts: int = 5


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, and the pod's name."""

    config: Path
    models: Path
    port: int
    pod: str


@dataclass(frozen=True, slots=True)
class _State:
    """What the probes are answered from; replaced whole by the main thread.

    verdict, said_at, worker_seconds, has_served: as in `Heard`, of the worker that runs; verdict None: it hasn't
    spoken. spoke_at: the last word of any worker, or this process' start. away: why no worker speaks.
    """

    spoke_at: float
    away: str
    remembered: Verdict | None
    verdict: Verdict | None = None
    said_at: float = 0.0
    worker_seconds: float = 0.0
    has_served: bool = False

    def heard(self, now: float) -> Heard | None:
        if self.verdict is None:
            return None
        return Heard(self.verdict, now - self.said_at, self.worker_seconds, self.has_served)


class Supervisor:
    """All but the probes happens on the thread that calls `run`."""

    def __init__(self, options: Options, log: Log, patience: Patience, limit_bytes: int | None) -> None:
        """limit_bytes: the container's."""
        self._options = options
        self._log = log
        self._patience = patience
        self._limit_bytes = limit_bytes
        self._is_growing = False
        self._memory = Memory(options.models, read_boot_id())
        self._orders = Orders(options.config, options.pod)
        self._confirm = Confirmer(os.environ)
        now = time.monotonic()
        self._state = _State(now, STARTING, self._memory.read())
        self._worker: WorkerProcess | None = None
        self._start_at = now
        self._pause = patience.pause
        self._silent_starts = 0
        self._restarts = {"ended": 0, "stalled": 0, "memory": 0}
        self._signal: signal.Signals | None = None
        self._is_hopeless = False

    def run(self, listener: socket.socket) -> int:
        """Until a signal ends it. The exit code: 1 where no worker can be started and nothing is served."""
        while self._signal is None and not self._is_hopeless:
            try:
                self._take_turn(listener)
            except Exception as defect:  # its end would cost the pod its readiness; the probes are answered as before
                words = f"{type(defect).__name__}: {defect}"
                self._log.error("the supervisor failed at its own work and goes on", error=words)
                time.sleep(DEFECT_SECONDS)
        return self._end()

    def stop(self, number: int, frame: FrameType | None = None) -> None:
        """Make `run` return."""
        self._signal = signal.Signals(number)

    def _take_turn(self, listener: socket.socket) -> None:
        now = time.monotonic()
        if self._worker is None and now >= self._start_at:
            self._start(listener)
        self._await_word()
        self._reap()
        worker = self._worker
        if worker is None:
            return
        spoken = self._state.verdict is not None
        silent_seconds = time.monotonic() - worker.spoke_at
        if silent_seconds > (self._patience.stalled if spoken else self._patience.first_word):
            self._replace(worker, "stalled", f"it has said nothing for {silent_seconds:.0f} s")
        elif self._limit_bytes is not None:
            self._watch_memory(worker, self._limit_bytes - SPARED_BYTES)

    def _watch_memory(self, worker: WorkerProcess, budget_bytes: int) -> None:
        """The kernel's own way would end the container whole: this process, too."""
        held_bytes = worker.memory_bytes()
        self._is_growing = held_bytes > budget_bytes // 2
        if held_bytes > budget_bytes:
            words = f"it holds {held_bytes >> 20} MiB of memory, and may hold {budget_bytes >> 20} MiB"
            self._replace(worker, "memory", words)

    # the worker

    def _start(self, listener: socket.socket) -> None:
        options = self._options
        arguments = ["--config", str(options.config), "--models", str(options.models), "--pod", options.pod]
        try:
            self._worker = WorkerProcess(arguments, listener, self._limit_bytes)
        except OSError as cause:
            self._log.error("the agent's worker can't be started", detail=str(cause))
            self._silent_starts += 1
            self._plan_start(f"the agent's worker can't be started: {cause}")
            return
        self._log.info("worker started", pid=self._worker.pid)

    def _await_word(self) -> None:
        worker, tick = self._worker, self._patience.tick / (5 if self._is_growing else 1)
        if worker is None:
            left_seconds = max(self._start_at - time.monotonic(), 0.0)
            time.sleep(min(tick, left_seconds))
            return
        poll = select.poll()
        poll.register(worker.report_fd, select.POLLIN)
        events = [event for _, event in poll.poll(tick * 1000)]
        if any(event & select.POLLIN for event in events):
            self._hear(worker)
        elif events:
            time.sleep(tick)  # a pipe whose other end was closed is always ready

    def _hear(self, worker: WorkerProcess) -> None:
        for verdict in worker.hear():
            before, now = self._state, time.monotonic()
            self._silent_starts = 0
            has_served = before.has_served or verdict.is_serving
            heard = Heard(verdict, 0.0, now - worker.started_at, has_served)
            remembered = remember(before.remembered, heard)
            if remembered is not None and remembered != before.remembered:
                self._memory.write(remembered)
            away = "the agent's worker has no configuration in force" if not verdict.is_judging else SILENT
            self._state = _State(
                now,
                away,
                remembered,
                verdict,
                said_at=now,
                worker_seconds=heard.worker_seconds,
                has_served=has_served,
            )
        if time.monotonic() - worker.started_at > self._patience.proven:
            self._pause = self._patience.pause

    def _reap(self) -> None:
        """Take in every child that has ended: the worker, and orphans of its."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self._worker
            if worker is not None and pid == worker.pid:
                self._note_end(worker, "ended", describe_end(status))

    def _replace(self, worker: WorkerProcess, reason: str, words: str) -> None:
        """End a worker that is of no use any more. One that hangs in the kernel ends when it returns from there."""
        worker.kill()
        await_end(worker.pid, self._patience.ending)
        self._note_end(worker, reason, words)

    def _note_end(self, worker: WorkerProcess, reason: str, words: str) -> None:
        self._hear(worker)  # what it said before it ended is still to be remembered
        has_spoken = self._state.verdict is not None
        worker.close()
        worker.kill()  # what it had started
        kill_leftovers()
        self._worker = None
        self._restarts[reason] += 1
        self._log.warning("worker ended", reason=reason, detail=words, again_in_seconds=self._pause)
        if not has_spoken:
            self._silent_starts += 1
        self._plan_start(f"the agent's worker isn't there: {words}; it is started again")

    def _plan_start(self, away: str) -> None:
        self._state = replace(self._state, verdict=None, has_served=False, away=away)
        self._start_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, self._patience.longest_pause)
        remembered = self._state.remembered
        if self._silent_starts >= self._patience.starts and not (remembered is not None and remembered.is_serving):
            self._is_hopeless = True
            self._log.error("the agent can't start", detail=away)

    def _end(self) -> int:
        if self._signal is not None:
            self._log.info("stopping", signal=self._signal.name)
        worker = self._worker
        if worker is not None:
            worker.terminate()
            await_end(worker.pid, self._patience.ending)
            worker.kill()
            kill_leftovers()
        return 0 if self._signal is not None else 1

    # the probes, on threads of their own

    def start(self) -> Judgement:
        state = self._state
        return judge_start(state.heard(time.monotonic()), state.remembered, state.away)

    def ready(self) -> Judgement:
        state = self._state
        is_new_order = self._orders.is_out() and not (state.remembered is not None and state.remembered.knows_out)
        heard = state.heard(time.monotonic())
        return judge_ready(heard, state.remembered, is_new_order, state.away, self._confirm)

    def live(self) -> Judgement:
        state = self._state
        return judge_live(time.monotonic() - state.spoke_at, state.remembered, state.away, self._confirm)

    def why_away(self) -> str:
        """Why the worker can't be asked; empty when it can."""
        state = self._state
        if state.verdict is None:
            return state.away
        return "" if time.monotonic() - state.said_at <= FRESH_SECONDS else SILENT

    def metrics(self) -> str:
        """Prometheus' text format."""
        name = "slipway_agent_worker_restarts_total"
        rows = [f'{name}{{reason="{reason}"}} {count}' for reason, count in self._restarts.items()]
        up = f"slipway_agent_worker_up {int(not self.why_away())}"
        lines = [
            "# HELP slipway_agent_worker_up 1 while the agent's worker answers.",
            "# TYPE slipway_agent_worker_up gauge",
            up,
            f"# HELP {name} Ends of the agent's worker that the supervisor answered with a new one.",
            f"# TYPE {name} counter",
            *rows,
        ]
        return "\n".join(lines) + "\n"


def describe_end(status: int) -> str:
    """How a process ended, from what waitpid says."""
    code = os.waitstatus_to_exitcode(status)
    return f"it ended with exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name} ended it"


def supervise(options: Options, log: Log, patience: Patience | None = None, limit_bytes: int | None = None) -> int:
    """Run the agent: the exit code. limit_bytes: the container's, where it isn't to be looked up."""
    limit = limit_bytes if limit_bytes is not None else container_limit_bytes()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("")  # the kernel names it; in the pod's network, where it says no more than the port does
    listener.listen(64)
    supervisor = Supervisor(options, log, patience or Patience(), limit)
    probes = {"/startz": supervisor.start, "/readyz": supervisor.ready, "/healthz": supervisor.live}
    front = Front(probes, listener.getsockname(), supervisor.why_away, supervisor.metrics)
    for number in (signal.SIGTERM, signal.SIGINT):  # a container's first process has no others
        signal.signal(number, supervisor.stop)
    try:
        start_front(options.port, front)
    except (OSError, OverflowError) as cause:
        log.error("the agent can't start", detail=str(cause), port=options.port)
        return 1
    log.info("agent starts", config=str(options.config), models=str(options.models), port=options.port)
    return supervisor.run(listener)
