"""Whoever opens connections, sends half a request or a gigabyte of headers: a probe is answered meanwhile."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from slipway_agent.reporting import bounded_server
from slipway_agent.reporting.bounded_server import BoundedHandler, BoundedServer, Limits, listen

LIMITS = Limits(connections=8, head_seconds=60.0)


class Handler(BoundedHandler):
    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        self.answer(200, b"ok\n", "text/plain")


@pytest.fixture
def limits() -> Limits:
    return LIMITS


@pytest.fixture
def server(limits: Limits) -> Iterator[BoundedServer]:
    server = listen(0, Handler, limits)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def connect(server: BoundedServer, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=20, source_address=(host, 0))


def probe(server: BoundedServer, host: str = "127.0.0.1") -> int:
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(server.server_address[1]), timeout=20, source_address=(host, 0)
    )
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    finally:
        connection.close()


def await_end(opened: socket.socket) -> bytes:
    """What is sent until the server closes; a time-out where it doesn't."""
    said = b""
    try:
        while chunk := opened.recv(65536):
            said += chunk
    except ConnectionError:
        pass
    return said


def test_a_flood_of_connections_leaves_a_bounded_number_and_probes_answered(server: BoundedServer) -> None:
    with ExitStack() as opened:
        for number in range(40 * LIMITS.connections):
            opened.enter_context(connect(server, "127.0.0.9"))
            if number % 40 == 0:
                assert probe(server) == 200
        assert probe(server) == 200
        assert server.connections <= LIMITS.connections
        names = [thread.name for thread in threading.enumerate() if "process_request_thread" in thread.name]
        assert len(names) <= LIMITS.connections + bounded_server.ENDING_THREADS


def test_a_flood_closes_no_connection_of_another_address(server: BoundedServer) -> None:
    with ExitStack() as opened:
        kept = opened.enter_context(connect(server, "127.0.0.2"))
        kept.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(4 * LIMITS.connections):
            opened.enter_context(connect(server, "127.0.0.9"))
        assert probe(server, "127.0.0.3") == 200
        kept.sendall(b"Host: x\r\n\r\n")
        assert kept.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("limits", [Limits(head_seconds=0.3)])
@pytest.mark.parametrize("beginning", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_request_that_drips_or_never_comes_is_closed(server: BoundedServer, beginning: bytes) -> None:
    stop = threading.Event()
    with connect(server) as opened:

        def drip() -> None:
            while not stop.wait(0.05):
                try:
                    opened.sendall(b"x" if beginning else b"")
                except OSError:
                    return

        opened.sendall(beginning)
        dripping = threading.Thread(target=drip, daemon=True)
        dripping.start()
        await_end(opened)
        stop.set()
        dripping.join()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * (20 << 10) + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * (20 << 10) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 300) for n in range(90)) + b"\r\n",
        b"a" * (20 << 10),
    ],
)
def test_a_head_that_is_too_long_is_refused_as_soon_as_it_is(server: BoundedServer, head: bytes) -> None:
    with connect(server) as opened:
        try:
            opened.sendall(head)
        except ConnectionError:
            return  # closed while it was sent
        said = await_end(opened)
        assert b" 431 " in said or not said


def test_a_connection_is_kept_for_more_requests_and_each_has_the_whole_budget(server: BoundedServer) -> None:
    with connect(server) as opened, opened.makefile("rb") as reading:
        for _ in range(5):
            opened.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000 + b"\r\n\r\n")
            assert reading.readline() == b"HTTP/1.1 200 OK\r\n"
            while reading.readline() not in (b"\r\n", b""):
                pass
            assert reading.read(3) == b"ok\n"


def held(*connections: tuple[str, bool, float]) -> dict[socket.socket, bounded_server._Connection]:
    return {
        socket.socket(): bounded_server._Connection(address, since, is_busy) for address, is_busy, since in connections
    }


@pytest.mark.parametrize(
    ("connections", "victim"),
    [
        ([("a", False, 1.0)], 0),
        ([("a", False, 2.0), ("b", False, 1.0)], 1),
        ([("a", True, 1.0), ("b", False, 2.0)], 1),
        ([("kubelet", False, 1.0), ("x", True, 2.0), ("x", True, 3.0)], 1),
        ([("kubelet", True, 1.0), ("x", False, 3.0), ("x", False, 2.0), ("y", False, 0.0)], 2),
    ],
)
def test_who_goes_for_another_connection(connections: list[tuple[str, bool, float]], victim: int) -> None:
    found = held(*connections)
    try:
        assert list(found).index(bounded_server.choose_victim(found)) == victim
    finally:
        for each in found:
            each.close()


def test_it_imports_nothing_but_the_standard_library() -> None:
    source = bounded_server.__file__
    with open(source) as file:
        assert "slipway" not in file.read()


def test_idle_connections_go_by_themselves(server: BoundedServer) -> None:
    assert probe(server) == 200
    deadline = time.monotonic() + 20
    while server.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.connections == 0
