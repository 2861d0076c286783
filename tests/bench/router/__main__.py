"""What the router adds, without a cluster: a server on loopback asked directly and through Envoy, request by request.

    tests/e2e/images/build with-roots router -- .venv/bin/python -m tests.bench.router [-s SECONDS]

Open loop at 300 requests a second each, on kept connections; both ways take turns, so that whatever else the machine
does falls on both. Prints the differences of the medians and of the 99th percentiles, and the router's memory.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import threading
import time
from pathlib import Path

from slipway.model.names import ROUTER_PORT
from tests.bench.figures import percentile
from tests.router.conftest import CANARY, STABLE, Stage, both
from tests.router.envoys import Router, find_envoy
from tests.router.load import PATH
from tests.router.pods import HTTP_PORT

RATE = 300.0
CONNECTIONS = 4
REQUEST = f"POST {PATH} HTTP/1.1\r\nHost: digits\r\nContent-Length: 512\r\n\r\n".encode() + b"x" * 512
ANSWER = f"{STABLE} 512".encode()


class Way:
    """One way to the server: connections that take turns, and how long each answer took."""

    def __init__(self, address: str, port: int) -> None:
        self.seconds: list[float] = []
        self._connections = [socket.create_connection((address, port)) for _ in range(CONNECTIONS)]
        for connection in self._connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, number: int) -> None:
        connection = self._connections[number % CONNECTIONS]
        begin = time.perf_counter()
        connection.sendall(REQUEST)
        answer = b""
        while not answer.endswith(ANSWER):
            answer += connection.recv(4096)
        self.seconds.append(time.perf_counter() - begin)
        assert answer.startswith(b"HTTP/1.1 200"), answer

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.router")
    parser.add_argument("-s", "--seconds", type=float, default=20, help="how long to ask (20)")
    seconds = parser.parse_args().seconds
    program = find_envoy()
    if program is None:
        raise SystemExit("no Envoy: tests/e2e/images/build with-roots router -- .venv/bin/python -m tests.bench.router")
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(program, Path(folder))
        try:
            pod = stage.pod(STABLE)
            stage.pod(CANARY)
            router = stage.router(both(0))
            ways = {"direct": Way(pod.address, HTTP_PORT), "router": Way(router.address, ROUTER_PORT)}
            asked = threading.Event()
            reader = threading.Thread(target=lambda: _look(router, asked))  # as the operator does in a rollout
            reader.start()
            begin = time.perf_counter()
            count = int(seconds * RATE)
            for number in range(count):
                # direct first, then through the router, then the other way round
                for name in sorted(ways, reverse=bool(number % 2)):
                    ways[name].ask(number)
                rest = begin + (number + 1) / RATE - time.perf_counter()
                if rest > 0:
                    time.sleep(rest)
            took = time.perf_counter() - begin
            asked.set()
            reader.join()
            print(f"{count / took:.0f} requests a second each way, {count:,} requests")
            for percent in (50, 99):
                direct, routed = (percentile(ways[name].seconds, percent) * 1000 for name in ("direct", "router"))
                print(f"p{percent}: direct {direct:.3f} ms, router {routed:.3f} ms, + {routed - direct:.3f} ms")
            anonymous, resident = (router.memory_bytes(kind) / 2**20 for kind in ("RssAnon", "VmRSS"))
            print(f"memory: {anonymous:.1f} MiB anonymous, {resident:.1f} MiB resident")
            for way in ways.values():
                way.close()
        finally:
            stage.close()


def _look(router: Router, ended: threading.Event) -> None:
    while not ended.wait(1.0):
        router.report()


if __name__ == "__main__":
    main()
