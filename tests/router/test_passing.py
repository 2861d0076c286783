"""What passes through a router unchanged, and what nobody reaches through it."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from slipway.model.names import ROUTER_PORT, STATUS_PORT
from slipway.render import envoy
from slipway.render.routing import Split
from tests.router.conftest import STABLE, Stage, alone, backend
from tests.router.envoys import Answer, Router, until
from tests.router.load import ask_many

LONG_SECONDS = 20


def test_long_requests_and_silent_streams_are_not_cut(stage: Stage) -> None:
    """Envoy's own limit is 15 s. A request, a gRPC call and a gRPC stream without a message, all at once."""
    pod = stage.pod(STABLE, has_grpc=True)
    pod.delay_seconds = LONG_SECONDS
    router = stage.router(alone(has_grpc=True))
    may_go_on = threading.Event()

    def messages() -> Iterator[bytes]:
        yield b"1"
        may_go_on.wait(LONG_SECONDS + 10)
        yield b"2"

    with (
        concurrent.futures.ThreadPoolExecutor(2) as pool,
        grpc.insecure_channel(f"{router.address}:{ROUTER_PORT}") as channel,
    ):
        began = time.monotonic()
        stream = channel.stream_stream("/model/Stream")(messages())
        rest = pool.submit(lambda: router.get("/", timeout=LONG_SECONDS + 10))
        call = pool.submit(lambda: channel.unary_unary("/model/One")(b"1", timeout=LONG_SECONDS + 10))
        assert next(stream) == STABLE.encode() + b"1"
        assert rest.result().status == 200
        assert call.result() == STABLE.encode()
        assert time.monotonic() - began >= LONG_SECONDS
        may_go_on.set()
        assert list(stream) == [STABLE.encode() + b"2"]


def test_a_timeout_ends_http_and_grpc_and_counts_as_an_error(stage: Stage) -> None:
    pod = stage.pod(STABLE, has_grpc=True)
    pod.delay_seconds = 2.5
    router = stage.router(alone(has_grpc=True), {"traffic": {"timeoutSeconds": 1}})
    assert router.get("/").status == 504
    with grpc.insecure_channel(f"{router.address}:{ROUTER_PORT}") as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/model/One")(b"1")
        assert raised.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    report = router.report()
    assert report is not None
    counts = report.counts[STABLE]
    assert (counts.requests, counts.errors) == (2, 2)


def test_neither_clients_nor_servers_notice_a_hop(stage: Stage) -> None:
    pod = stage.pod(STABLE)
    router = stage.router(alone())
    answer = router.get("/v2/models/digits/infer?a=1", headers={"X-Request-Id": "mine", "X-Own": "Value"})
    assert answer.headers["server"] == "model"
    assert not [name for name in answer.headers if name.lower().startswith("x-")]
    lines = pod.heads[-1].split("\r\n")
    assert lines[0] == "GET /v2/models/digits/infer?a=1 HTTP/1.1"
    headers = {line.partition(":")[0].lower(): line.partition(": ")[2] for line in lines[1:]}
    assert headers["x-request-id"] == "mine"
    assert headers["x-own"] == "Value"
    assert headers["host"] == f"{router.address}:{ROUTER_PORT}"
    assert {name for name in headers if name.startswith("x-")} == {"x-request-id", "x-own", "x-forwarded-proto"}


def test_large_bodies_pass_without_filling_its_memory(stage: Stage) -> None:
    stage.pod(STABLE)
    router = stage.router(alone())
    size = 32 * 1024 * 1024
    assert router.get("/", method="POST", body=b"x" * size).body == f"{STABLE} {size}"
    assert router.memory_bytes("RssAnon") < 40 * 1024 * 1024


def test_clients_of_http_1_0_are_served(stage: Stage) -> None:
    stage.pod(STABLE)
    router = stage.router(alone())
    with socket.create_connection((router.address, ROUTER_PORT)) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert b" 200 " in answer.partition(b"\r\n")[0]
    assert STABLE.encode() in answer


def test_more_than_a_thousand_requests_at_once_are_held(stage: Stage) -> None:
    """Envoy's own circuit breaker refuses the 1,025th."""
    pod = stage.pod(STABLE)
    pod.delay_seconds = 1.5
    router = stage.router(alone())
    request = b"GET / HTTP/1.1\r\nHost: digits\r\n\r\n"
    connections = [socket.create_connection((router.address, ROUTER_PORT)) for _ in range(1200)]
    try:
        for connection in connections:
            connection.sendall(request)
        until("all are at the server", lambda: pod.requests == 1200)
        assert {connection.recv(12) for connection in connections} == {b"HTTP/1.1 200"}
    finally:
        for connection in connections:
            connection.close()


def test_a_connection_is_closed_before_the_usual_servers_close_it(stage: Stage) -> None:
    pod = stage.pod(STABLE)
    router = stage.router(alone())
    router.get("/")
    assert pod.connections
    until("it is idle too long", lambda: not pod.connections, 2)


def test_grpc_without_a_grpc_port_is_unimplemented(stage: Stage) -> None:
    stage.pod(STABLE)
    router = stage.router(Split((backend(STABLE, 100, 1, has_grpc=False),)))
    with (
        grpc.insecure_channel(f"{router.address}:{ROUTER_PORT}") as channel,
        pytest.raises(grpc.RpcError) as raised,
    ):
        channel.unary_unary("/model/One")(b"1")
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_websockets_pass(stage: Stage) -> None:
    pod = stage.pod(STABLE)
    pod.status, pod.extra = 101, b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    router = stage.router(alone())
    with socket.create_connection((router.address, ROUTER_PORT), timeout=10) as connection:
        connection.sendall(
            b"GET / HTTP/1.1\r\nHost: digits\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        assert connection.recv(12) == b"HTTP/1.1 101"


# ---- what nobody reaches


def status_of(router: Router, path: str, method: str = "GET") -> int:
    answer: Answer = router.get(path, STATUS_PORT, method)
    return answer.status


def test_of_admin_only_readiness_and_stats_are_to_be_seen(stage: Stage) -> None:
    stage.pod(STABLE)
    router = stage.router(alone())
    assert status_of(router, "/ready") == 200
    assert status_of(router, "/stats/prometheus?filter=answers") == 200
    for path in (
        "/",
        "/stats",
        "/stats/prometheus/",
        "/stats/prometheus/../../quitquitquit",
        "/%71uitquitquit",
        "/ready/../quitquitquit",
        "/quitquitquit",
        "/config_dump",
        "/drain_listeners",
        "/clusters",
        "//ready",
    ):
        for method in ("GET", "POST"):
            assert status_of(router, path, method) == 404, (method, path)
    for method in ("POST", "PUT", "DELETE"):
        assert status_of(router, "/ready", method) == 404
        assert status_of(router, "/stats/prometheus", method) == 404
    with pytest.raises(ConnectionRefusedError):
        router.get("/", envoy.ADMIN_PORT)
    assert router.is_ready()


def test_through_requests_admin_is_not_to_be_reached(stage: Stage) -> None:
    pod = stage.pod(STABLE)
    router = stage.router(alone())
    for path, host in (("/quitquitquit", "admin"), ("/stats", f"{envoy.ADMIN_ADDRESS}:{envoy.ADMIN_PORT}")):
        assert router.get(path, method="POST", headers={"Host": host}).pod == STABLE
    assert pod.requests == 2


def test_even_on_loopback_admin_cant_end_the_router(stage: Stage) -> None:
    stage.pod(STABLE)
    router = stage.router(alone())
    with socket.create_connection((router.admin_address, envoy.ADMIN_PORT)) as connection:
        connection.sendall(b"POST /quitquitquit HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
        assert b" 403 " in connection.recv(100)
    assert router.is_ready()


def test_it_takes_little_memory(stage: Stage) -> None:
    stage.pod(STABLE)
    router = stage.router(alone())
    ask_many(router.address, 10_000)
    for _ in range(5):
        router.report()
    anonymous, resident = (router.memory_bytes(kind) / 2**20 for kind in ("RssAnon", "VmRSS"))
    print(f"after 10,000 requests: {anonymous:.1f} MiB anonymous, {resident:.1f} MiB resident")
    assert anonymous <= 20
