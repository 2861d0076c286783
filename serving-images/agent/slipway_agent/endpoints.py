"""The agent's HTTP: answers from a snapshot that the loop replaces, so that a probe never waits for anything.

/startz   200 when the server may start      /status    JSON, see report.py
/readyz   200 when the pod may get traffic   /metrics   Prometheus text
/healthz  200 while the loop turns
"""

import json
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from slipway_agent.report import Counters, Report, render_metrics, render_status

STALLED_SECONDS = 20.0  # the slowest turn asks a hanging server for every version, 2 s each


@dataclass(slots=True)
class Board:
    """The last word of the loop. Each field is replaced whole, which needs no lock."""

    report: Report = field(default_factory=Report)
    counters: Counters = field(default_factory=Counters)
    turned_at: float = field(default_factory=time.monotonic)

    def is_stalled(self) -> bool:
        return time.monotonic() - self.turned_at > STALLED_SECONDS


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"


def answer(path: str, board: Board) -> Answer:
    report = board.report
    match path:
        case "/startz":
            return _probe(report.may_start, "the served version's files aren't there yet", report)
        case "/readyz":
            return _probe(report.is_serving, "the served version isn't ready in the server", report)
        case "/healthz":
            return _probe(not board.is_stalled(), f"the loop hasn't turned for {STALLED_SECONDS:.0f} s", report)
        case "/status":
            return Answer(200, json.dumps(render_status(report)) + "\n", "application/json")
        case "/metrics":
            body = render_metrics(report, board.counters)
            return Answer(200, body, "text/plain; version=0.0.4; charset=utf-8")
        case _:
            return Answer(404, "not found; there are /startz, /readyz, /healthz, /status and /metrics\n")


def _probe(is_good: bool, why_not: str, report: Report) -> Answer:
    if is_good:
        return Answer(200, "ok\n")
    # a failed probe's body is what `kubectl describe pod` shows
    detail = f": {report.error.reason}: {report.error.message}" if report.error is not None else ""
    return Answer(503, f"{why_not}{detail}\n")


def start_endpoints(port: int, board: Board) -> ThreadingHTTPServer:
    """Serve on all addresses from a thread of its own. OSError when the port is taken."""

    handler = type("Handler", (_Handler,), {"board": board})

    try:
        server: ThreadingHTTPServer = _DualStackServer(("::", port), handler)
    except OSError:
        server = _Server(("0.0.0.0", port), handler)  # noqa: S104  kubelet asks by the pod's address; no IPv6 here
    threading.Thread(target=server.serve_forever, name="endpoints", daemon=True).start()
    return server


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no event."""


class _DualStackServer(_Server):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    board: ClassVar[Board]
    protocol_version = "HTTP/1.1"
    server_version = "slipway-agent"
    sys_version = ""
    timeout = 10.0

    def do_GET(self) -> None:
        found = answer(self.path.partition("?")[0], self.board)
        body = found.body.encode()
        self.send_response(found.status)
        self.send_header("Content-Type", found.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every second; the log is for what changes."""
