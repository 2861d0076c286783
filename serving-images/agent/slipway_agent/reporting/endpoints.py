"""The worker's HTTP: answers from a snapshot that the loop replaces, so that nobody waits for anything.

/startz   200 when the server may start      /status    JSON, see report.py
/readyz   200 when the pod may get traffic   /listing   JSON: what the source holds; waits for news when asked to
/healthz  200 while the loop turns           /metrics   Prometheus text

The supervisor passes questions on to it; what a probe is told, it has by `explain_start` and `explain_readiness`.

Each request has a thread of its own; one that waits delays no other. Few may wait at a time: when one more comes, the
one that has waited longest is answered early, so that askers that died don't keep others out. Connections are bounded,
too (`bounded_server`).
"""

import json
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import parse_qs

from slipway_agent.reporting.bounded_server import BoundedHandler, BoundedServer
from slipway_agent.reporting.report import Counters, Report, render_listing, render_metrics, render_status

WAIT_LIMIT_SECONDS = 60.0
WAITERS_LIMIT = 8
STALLED_SECONDS = 20.0  # the slowest turn asks a hanging server for every version, 2 s each


@dataclass(slots=True)
class Board:
    """The last report of the loop. Each field is replaced whole; the lock is only for those who wait for a change.

    pod: the name of the agent's pod. An address may belong to another pod by the time that it is asked.
    """

    pod: str = ""
    report: Report = field(default_factory=Report)
    counters: Counters = field(default_factory=Counters)
    turned_at: float = field(default_factory=time.monotonic)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _waiters: deque[object] = field(default_factory=deque)

    def show(self, report: Report) -> None:
        before, now = self.report.listing, report.listing
        is_news = now is not before and now.token != before.token
        self.report = report
        if is_news:
            with self._changed:
                self._changed.notify_all()

    def await_listing(self, after: str, wait_seconds: float) -> Report:
        """The report as soon as its listing's token is another one than `after`, else at the end of the wait."""
        ticket = object()
        with self._changed:
            self._waiters.append(ticket)
            if len(self._waiters) > WAITERS_LIMIT:
                self._waiters.popleft()
                self._changed.notify_all()
            self._changed.wait_for(
                lambda: self.report.listing.token != after or ticket not in self._waiters, wait_seconds
            )
            if ticket in self._waiters:
                self._waiters.remove(ticket)
        return self.report

    def is_stalled(self) -> bool:
        return time.monotonic() - self.turned_at > STALLED_SECONDS


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


def answer(target: str, board: Board) -> Answer:
    """`target`: a path, maybe with a query. Only /listing may take its time."""
    path, _, query = target.partition("?")
    report = board.report
    match path:
        case "/startz":
            return _probe(report.may_start, explain_start(report))
        case "/readyz":
            return _probe(report.is_serving, explain_readiness(report))
        case "/healthz":
            return _probe(not board.is_stalled(), f"the loop hasn't turned for {STALLED_SECONDS:.0f} s")
        case "/status":
            return Answer(200, json.dumps(render_status(report, board.pod)) + "\n", "application/json")
        case "/listing":
            return _answer_listing(query, board)
        case "/metrics":
            body = render_metrics(report, board.counters)
            return Answer(200, body, "text/plain; version=0.0.4; charset=utf-8")
        case _:
            return Answer(404, "not found; there are /startz, /readyz, /healthz, /status, /listing and /metrics\n")


def _answer_listing(query: str, board: Board) -> Answer:
    asked = parse_qs(query)
    try:
        wait_seconds = float(asked.get("wait", ["0"])[-1])
    except ValueError:
        return Answer(400, "wait must be a number of seconds\n")
    if not 0 <= wait_seconds <= WAIT_LIMIT_SECONDS:
        return Answer(400, f"wait must be from 0 to {WAIT_LIMIT_SECONDS:.0f} seconds\n")
    after = asked.get("after", [""])[-1]
    report = board.await_listing(after, wait_seconds) if after and wait_seconds else board.report
    return Answer(200, json.dumps(render_listing(report)) + "\n", "application/json")


def explain_start(report: Report) -> str:
    """Why the server may not start, where it may not."""
    is_waiting = report.generation is not None and report.served is None
    why_not = "no version is named yet" if is_waiting else "the served version's files aren't there yet"
    return why_not + _explain_error(report)


def explain_readiness(report: Report) -> str:
    """Why the pod gets no traffic, where it gets none."""
    why_not = "the served version isn't ready in the server"
    if report.is_out:
        why_not = f"the server answers its own request with errors: {report.probe.message}"
    return why_not + _explain_error(report)


def _explain_error(report: Report) -> str:
    error = report.error or (report.listing.error if report.served is None else None)
    return f": {error.reason}: {error.message}" if error is not None else ""


def _probe(is_good: bool, why_not: str) -> Answer:
    return Answer(200, "ok\n") if is_good else Answer(503, f"{why_not}\n")


def start_endpoints(listener: socket.socket, board: Board) -> BoundedServer:
    """Serve a socket that listens, of whatever kind, from a thread of its own."""
    server = BoundedServer(listener, type("Handler", (_Handler,), {"board": board}))
    threading.Thread(target=server.serve_forever, name="endpoints", daemon=True).start()
    return server


class _Handler(BoundedHandler):
    board: ClassVar[Board]
    server_version = "slipway-agent"

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        found = answer(self.path, self.board)
        self.answer(found.status, found.body.encode(), found.content_type)
