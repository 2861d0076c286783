"""An HTTP server that a stranger can't exhaust: any pod may open connections to it, and the kubelet's probe must be
answered all the same.

Invariants: at most `connections` are held, whatever is opened: for one more, the longest idle one goes, of the address
that has the most, so that a flood costs nobody but whoever sends it. A request's head has a size and a time to arrive
in all, however it drips. No more threads than connections and a few that are ending.

Nothing but the standard library is imported: the agent's first process uses this, too, and must stay small.
"""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any

ENDING_THREADS = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """head_bytes: of a request's line and headers. head_seconds: until they are there, and between requests."""

    connections: int = 64
    head_bytes: int = 16 << 10
    head_seconds: float = 10.0
    send_seconds: float = 10.0


@dataclass(slots=True)
class _Connection:
    """is_busy: its request has arrived and is being answered. since: when it began to wait for one, or to answer it."""

    address: str
    since: float
    is_busy: bool = False


class _HeadTooLongError(Exception):
    """A request's head has more bytes than it may."""


class _Head:
    """Reads a connection line by line, within a budget that is renewed for each request."""

    def __init__(self, reading: BufferedIOBase, limit_bytes: int) -> None:
        self._reading = reading
        self._limit_bytes = limit_bytes
        self.left_bytes = limit_bytes

    def renew(self) -> None:
        self.left_bytes = self._limit_bytes

    def readline(self, size: int = -1) -> bytes:
        wanted_bytes = self.left_bytes + 1 if size < 0 else min(size, self.left_bytes + 1)
        line = self._reading.readline(wanted_bytes)
        self.left_bytes -= len(line)
        if self.left_bytes < 0:
            raise _HeadTooLongError
        return line

    def close(self) -> None:
        self._reading.close()


class BoundedHandler(BaseHTTPRequestHandler):
    """Answers of a subclass: do_GET and the like, which call `answer`. Bodies of requests aren't read."""

    protocol_version = "HTTP/1.1"
    sys_version = ""
    server: "BoundedServer"
    _head: _Head

    def setup(self) -> None:
        self.request.settimeout(self.server.limits.send_seconds)
        super().setup()
        self._head = _Head(self.rfile, self.server.limits.head_bytes)
        self.rfile: Any = self._head

    def handle_one_request(self) -> None:
        self._head.renew()
        self.server.mark(self.connection, is_busy=False)
        try:
            super().handle_one_request()
        except _HeadTooLongError:
            self.close_connection = True
            self.requestline, self.request_version, self.command = "", "HTTP/1.1", ""
            self.send_error(431)
        except OSError:
            self.close_connection = True  # a client that went away, or was closed to make room

    def parse_request(self) -> bool:
        is_whole = super().parse_request()
        self.server.mark(self.connection, is_busy=True)
        return is_whole

    def answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every second; the log is for what changes."""


class BoundedServer(ThreadingHTTPServer):
    """address: to bind, or a socket that listens already, of whatever kind. clock: seconds, as time.monotonic."""

    daemon_threads = True
    request_queue_size = 1024  # a probe's connection waits in the kernel while a flood's are taken and closed
    limits: Limits
    refused: int = 0  # connections closed to make room, since the start

    def __init__(
        self,
        address: tuple[str, int] | socket.socket,
        handler: type[BoundedHandler],
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._clock = clock
        self._changed = threading.Condition()
        self._held: dict[socket.socket, _Connection] = {}
        self._running = 0
        if isinstance(address, socket.socket):
            super().__init__(("", 0), handler, bind_and_activate=False)
            self.socket.close()
            self.socket = address
        else:
            super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """On the accepting thread."""
        with self._changed:
            if len(self._held) >= self.limits.connections:
                self._drop(choose_victim(self._held))
                self.refused += 1
            # those that were dropped end as soon as they get the processor
            self._changed.wait_for(lambda: self._running < self.limits.connections + ENDING_THREADS, 1.0)
            self._held[request] = _Connection(_host_of(client_address), self._clock())
            self._running += 1
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._forget(request)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def service_actions(self) -> None:
        """Between accepting, twice a second at least: whoever lets a request drip, or sends none, goes."""
        now = self._clock()
        with self._changed:
            late = [
                request
                for request, held in self._held.items()
                if not held.is_busy and now - held.since > self.limits.head_seconds
            ]
            for request in late:
                self._drop(request)

    def mark(self, request: socket.socket, *, is_busy: bool) -> None:
        with self._changed:
            if (held := self._held.get(request)) is not None:
                held.is_busy, held.since = is_busy, self._clock()

    @property
    def connections(self) -> int:
        """How many are held now."""
        return len(self._held)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no event."""

    def _drop(self, request: socket.socket) -> None:
        """Its thread, which waits in a read or a write, sees an end and closes it."""
        del self._held[request]
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def _forget(self, request: socket.socket) -> None:
        with self._changed:
            self._held.pop(request, None)
            self._running -= 1
            self._changed.notify_all()


def choose_victim(held: dict[socket.socket, _Connection]) -> socket.socket:
    """The connection that goes for another one. Of the address with the most: idle before busy, the longest first.

    Three idle ones of 10.0.0.9 and a probe of the node's: one of the three. One each of many: the longest idle.
    """
    of_address = Counter(each.address for each in held.values())
    return min(held, key=lambda each: (-of_address[held[each].address], held[each].is_busy, held[each].since))


def _host_of(client_address: Any) -> str:
    """Of an Internet socket's client; a Unix socket's has no address."""
    return str(client_address[0]) if client_address else ""


class _DualStackServer(BoundedServer):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def listen(port: int, handler: type[BoundedHandler], limits: Limits = Limits()) -> BoundedServer:
    """On all addresses, IPv6 where there is some; nothing is served yet. OSError when the port is taken."""
    try:
        return _DualStackServer(("::", port), handler, limits)
    except OSError:
        return BoundedServer(("0.0.0.0", port), handler, limits)  # noqa: S104  kubelet asks by the pod's address
