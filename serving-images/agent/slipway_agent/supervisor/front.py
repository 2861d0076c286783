"""The agent's port: probes are answered here, at once; everything else is the worker's, and passed on.

A worker that isn't there costs those who ask for more a 503 in words: to the operator, an agent that doesn't answer.
Connections are bounded (`bounded_server`).
"""

import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from slipway_agent.reporting.bounded_server import BoundedHandler, BoundedServer, listen
from slipway_agent.supervisor.judging import Judgement

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
            return (
                Answer(200, b"ok\n")
                if judgement.is_good
                else Answer(503, f"{judgement.words}\n".encode(errors="replace"))
            )
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


def start_front(port: int, front: Front) -> BoundedServer:
    """Serve on all addresses from a thread of its own. OSError when the port is taken."""
    server = listen(port, type("Handler", (_Handler,), {"front": front}))
    threading.Thread(target=server.serve_forever, name="front", daemon=True).start()
    return server


class _Handler(BoundedHandler):
    front: ClassVar[Front]
    server_version = "slipway-agent"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait for the first one's receipt

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        found = self.front.answer(self.path)
        self.answer(found.status, found.body, found.content_type)
