"""The agent's port: probes are answered here, at once; everything else is the worker's, and passed on.

A worker that isn't there costs those who ask for more a 503 in words: to the operator, an agent that doesn't answer.
Connections are bounded: one more than that, and the one that is open longest is cut.
"""

import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from slipway_agent.supervisor.judging import Judgement

CONNECTIONS_LIMIT = 64
PASS_SECONDS = 5.0  # the operator waits for two
WAIT_SECONDS = 70.0  # /listing is held for up to 60
ANSWER_BYTES = 4 << 20
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    content_type: str = TEXT


@dataclass(frozen=True, slots=True)
class Front:
    """What is behind the port.

    probes: path → its judgement. worker: the address that it listens at. why_away: why it can't be asked; empty when it
    can. metrics: the supervisor's own, as text.
    """

    probes: Mapping[str, Callable[[], Judgement]]
    worker: bytes
    why_away: Callable[[], str]
    metrics: Callable[[], str]

    def answer(self, target: str) -> Answer:
        path = target.partition("?")[0]
        judge = self.probes.get(path)
        if judge is not None:
            judgement = judge()
            # a failed probe's body is what `kubectl describe pod` shows
            return Answer(200, b"ok\n") if judgement.is_good else Answer(503, f"{judgement.words}\n".encode())
        if path not in ("/status", "/listing", "/metrics"):
            words = b"not found; there are /startz, /readyz, /healthz, /status, /listing and /metrics\n"
            return Answer(404, words)
        found = self._pass_on(path, target)
        if path != "/metrics":
            return found
        rest = found.body if found.status == 200 else b""
        return Answer(200, rest + self.metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _pass_on(self, path: str, target: str) -> Answer:
        why_away = self.why_away()
        if why_away:
            return Answer(503, f"{why_away}\n".encode())
        try:
            return ask_worker(self.worker, target, WAIT_SECONDS if path == "/listing" else PASS_SECONDS)
        except (OSError, http.client.HTTPException) as cause:
            words = str(cause) or type(cause).__name__
            return Answer(503, f"the agent's worker doesn't answer ({words}); it is started again\n".encode())


def ask_worker(address: bytes, target: str, seconds: float) -> Answer:
    """OSError or HTTPException where it doesn't answer."""
    connection = http.client.HTTPConnection("worker")
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(seconds)
        connection.sock.connect(address)
        connection.putrequest("GET", target, skip_accept_encoding=True)
        connection.putheader("Connection", "close")
        connection.endheaders()
        response = connection.getresponse()
        return Answer(response.status, response.read(ANSWER_BYTES), response.getheader("Content-Type") or TEXT)
    finally:
        connection.close()


def start_front(port: int, front: Front) -> ThreadingHTTPServer:
    """Serve on all addresses from a thread of its own. OSError when the port is taken."""

    handler = type("Handler", (_Handler,), {"front": front})

    try:
        server: ThreadingHTTPServer = _DualStackServer(("::", port), handler)
    except OSError:
        server = _Server(("0.0.0.0", port), handler)  # noqa: S104  kubelet asks by the pod's address; no IPv6 here
    threading.Thread(target=server.serve_forever, name="front", daemon=True).start()
    return server


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._lock = threading.Lock()
        self._open: dict[socket.socket, None] = {}
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > CONNECTIONS_LIMIT else None
            if oldest is not None:
                del self._open[oldest]
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread ends by that
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no event."""


class _DualStackServer(_Server):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    front: ClassVar[Front]
    protocol_version = "HTTP/1.1"
    server_version = "slipway-agent"
    sys_version = ""
    timeout = 10.0
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait for the first one's receipt

    def do_GET(self) -> None:
        found = self.front.answer(self.path)
        self.send_response(found.status)
        self.send_header("Content-Type", found.content_type)
        self.send_header("Content-Length", str(len(found.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(found.body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every second; the log is for what changes."""
