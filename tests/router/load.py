"""Load on a router: constant, with what went wrong; or as much as quickly as possible, counted by who answered."""

from __future__ import annotations

import collections
import http.client
import socket
import threading
import time
from types import TracebackType

import grpc

from slipway.model.names import ROUTER_PORT

PATH = "/v2/models/digits/infer"


class Load:
    """Keep-alive clients, each with one request after another. `failures` says when and how."""

    def __init__(self, address: str, clients: int = 4, pause_seconds: float = 0.005) -> None:
        self.answers: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.connections = 0
        self.in_flight = 0
        self._address, self._pause_seconds = address, pause_seconds
        self._ends = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Every client ends after its request. Idempotent."""
        self._ends.set()
        for thread in self._threads:
            thread.join(40)

    @property
    def answered(self) -> int:
        return sum(self.answers.values())

    def _ask(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._ends.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(self._address, ROUTER_PORT, timeout=30)
                    connection.connect()
                    with self._lock:
                        self.connections += 1
                with self._lock:
                    self.in_flight += 1
                try:
                    connection.request("GET", PATH)
                    response = connection.getresponse()
                    body = response.read().decode()
                finally:
                    with self._lock:
                        self.in_flight -= 1
                with self._lock:
                    if response.status == 200:
                        self.answers[body.partition(" ")[0]] += 1
                    else:
                        self.failures.append(f"{time.strftime('%X')} {response.status} {body}")
                if response.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                with self._lock:
                    self.failures.append(f"{time.strftime('%X')} {error!r}")
                if connection is not None:
                    connection.close()
                connection = None
            self._ends.wait(self._pause_seconds)
        if connection is not None:
            connection.close()


def ask_many(address: str, count: int, at_once: int = 100) -> collections.Counter[str]:
    """`count` requests, pipelined on one connection. Who answered how many; anything but 200 by its status line."""
    request = f"GET {PATH} HTTP/1.1\r\nHost: digits\r\n\r\n".encode()
    found: collections.Counter[str] = collections.Counter()
    with (
        socket.create_connection((address, ROUTER_PORT), timeout=30) as connection,
        connection.makefile("rb") as answers,
    ):
        for _ in range(count // at_once):
            connection.sendall(request * at_once)
            for _ in range(at_once):
                status = answers.readline().decode()
                length = 0
                while line := answers.readline().strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line[15:])
                body = answers.read(length).decode()
                found[body.partition(" ")[0] if " 200 " in status else status.strip()] += 1
    return found


def call_many(channel: grpc.Channel, count: int, at_once: int = 50) -> collections.Counter[str]:
    """The same by gRPC, in one channel. Raises grpc.RpcError for any other status than OK."""
    call = channel.unary_unary("/model/One")
    found: collections.Counter[str] = collections.Counter()
    for _ in range(count // at_once):
        calls = [call.future(b"1", timeout=30) for _ in range(at_once)]
        found.update(each.result().decode() for each in calls)
    return found
