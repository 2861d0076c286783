"""Liveness and metrics over HTTP, from a thread of their own: they answer even when the event loop does not.

The operator is alive when its event loop turns and its watches deliver. An idle operator is alive: the age of the last
event says nothing. What says something is that the API server holds a newer generation of a ModelDeployment than any
watch has shown us, for longer than a watch may be late.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from slipway.controller import metrics
from slipway.controller.cache import Cache, Key
from slipway.controller.kube import Cluster, ClusterError

log = logging.getLogger("slipway")

HEARTBEAT_SECONDS = 1.0
MAX_SILENCE_SECONDS = 30.0
AUDIT_SECONDS = 60.0
MAX_LATENESS_SECONDS = 90.0
"""Longer than kopf's own inactivity timeout of 70 s: its reconnect comes first."""


class Health:
    """What the two checks found last. Read from another thread, so only whole values are replaced."""

    def __init__(self) -> None:
        self._last_beat = time.monotonic()
        self._stall: str | None = None

    def problem(self) -> str | None:
        """What is wrong, or None."""
        silence = time.monotonic() - self._last_beat
        if silence > MAX_SILENCE_SECONDS:
            return f"the event loop has not turned for {silence:.0f} s"
        return self._stall

    async def beat(self) -> None:
        """Note that the event loop turns, for ever."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._last_beat = time.monotonic()
            metrics.LOOP_LAG.set(self._last_beat - before - HEARTBEAT_SECONDS)

    async def audit(self, cluster: Cluster, cache: Cache, namespaces: tuple[str, ...]) -> None:
        """Compare what the API server holds with what the watches have shown, for ever."""
        missing_since: dict[Key, float] = {}
        while True:
            await asyncio.sleep(AUDIT_SECONDS)
            try:
                held: dict[Key, int] = {}
                for namespace in namespaces or (None,):
                    held |= await cluster.list_generations(namespace)
            except ClusterError as error:
                log.warning("audit of watches has to wait", extra={"error": str(error)})
                continue
            seen = {key: cache.generation(key) for key in held}
            missing_since = note_missing(held, seen, missing_since, time.monotonic())
            late = [key for key, since in missing_since.items() if time.monotonic() - since > MAX_LATENESS_SECONDS]
            self._stall = f"no watch has delivered {'/'.join(late[0])} (and {len(late) - 1} more)" if late else None
            metrics.STALLED.set(1 if late else 0)

    def serve(self, port: int) -> ThreadingHTTPServer:
        """Serve /healthz and /metrics in a daemon thread."""
        health = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/healthz":
                    problem = health.problem()
                    self._answer(503 if problem else 200, "text/plain", (problem or "ok").encode() + b"\n")
                elif self.path == "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
                else:
                    self._answer(404, "text/plain", b"/healthz and /metrics are here\n")

            def _answer(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes come every few seconds: not worth a line each."""

        server = ThreadingHTTPServer(("", port), Handler)
        threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
        return server


def note_missing(
    held: Mapping[Key, int], seen: Mapping[Key, int | None], before: Mapping[Key, float], now: float
) -> dict[Key, float]:
    """Since when each ModelDeployment's newest generation has not been seen. Pure.

    held: the API server's generations. seen: ours, None for one we don't know.

    >>> note_missing({("ns", "a"): 2, ("ns", "b"): 1}, {("ns", "a"): 1, ("ns", "b"): 1}, {}, 5.0)
    {('ns', 'a'): 5.0}
    """
    return {key: before.get(key, now) for key, generation in held.items() if (seen.get(key) or 0) < generation}
