"""What a router survives: pods that come and go, its own end, a DNS that is silent, nobody else there."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator

import grpc

from slipway.model.names import ROUTER_PORT
from tests.router.conftest import STABLE, Stage, alone, reaches
from tests.router.envoys import Answer, until
from tests.router.load import Load, ask_many


def test_pods_are_followed_as_they_come_and_go(stage: Stage) -> None:
    first = stage.pod(STABLE, name="first")
    router = stage.router(alone())
    assert router.get("/").pod == "first"
    second = stage.pod(STABLE, name="second")
    reaches(router, STABLE, 2)
    assert set(ask_many(router.address, 200)) == {"first", "second"}
    with Load(router.address) as load:
        stage.resolve(STABLE, [second.address])
        reaches(router, STABLE, 1)
        until("nobody is connected to the first", lambda: not first.connections)
        first.close()
        before = load.answered
        until("answers", lambda: load.answered > before + 50)
    assert load.failures == []
    stage.resolve(STABLE, [])
    reaches(router, STABLE, 0)
    assert router.get("/").status == 503


def test_a_dns_that_is_silent_changes_nothing(stage: Stage) -> None:
    stage.pod(STABLE)
    router = stage.router(alone())
    stage.names.is_silent = True
    with Load(router.address) as load:
        # two queries of two seconds each fail meanwhile
        until("it was asked in vain", lambda: load.answered > 100, 10)
        time.sleep(5)
    assert load.failures == []
    report = router.report()
    assert report is not None
    assert report.endpoints == {STABLE: 1}


def test_a_router_starts_and_serves_with_nobody_to_tell_it_anything(stage: Stage) -> None:
    """Its files are all it needs: started again, it does what was in force."""
    stage.pod(STABLE)
    router = stage.router(alone())
    generation = router.tell_and_wait(alone()).generation
    router.kill()
    router.start()
    assert router.get("/").pod == STABLE
    report = router.report()
    assert report is not None
    assert report.generation == generation
    assert report.counts[STABLE].requests == 1  # of its own, from nothing


def test_a_router_starts_without_dns(stage: Stage) -> None:
    stage.pod(STABLE)
    stage.names.is_silent = True
    router = stage.router(alone())
    assert router.get("/").status == 503
    stage.names.is_silent = False
    reaches(router, STABLE, 1)
    assert router.get("/").pod == STABLE


def test_a_killed_router_loses_its_requests_in_flight_and_no_other(stage: Stage) -> None:
    pod = stage.pod(STABLE)
    pod.delay_seconds = 0.05
    one, other = stage.router(alone()), stage.router(alone())
    with Load(one.address, clients=8) as hit, Load(other.address, clients=8) as spared:
        until("both are busy", lambda: hit.answered > 50 and spared.answered > 50)
        connections = hit.connections
        one.kill()
        until("it is seen", lambda: hit.failures)
        before = spared.answered
        until("the other goes on", lambda: spared.answered > before + 50)
        hit.stop()
    reset = [failure for failure in hit.failures if "refused" not in failure]
    assert len(reset) <= connections  # each client had at most one request in flight
    assert spared.failures == []


def test_a_drain_ends_no_request(stage: Stage) -> None:
    """Clients on kept connections and a gRPC stream, one request that takes long; then SIGTERM, as a kubelet does."""
    pod = stage.pod(STABLE, has_grpc=True)
    router = stage.router(alone(has_grpc=True))
    streamed: list[bytes] = []
    may_end = threading.Event()

    def messages() -> Iterator[bytes]:
        yield b"1"
        may_end.wait(20)
        yield b"2"

    answers: list[Answer] = []
    with Load(router.address, clients=4) as load, grpc.insecure_channel(f"{router.address}:{ROUTER_PORT}") as channel:
        stream = channel.stream_stream("/model/Stream")(messages())
        streamed.append(next(stream))
        pod.delay_seconds = 3
        seen = pod.requests
        slow = threading.Thread(target=lambda: answers.append(router.get("/slow")))
        slow.start()
        until("it is in progress", lambda: pod.requests > seen)
        pod.delay_seconds = 0
        connections = load.connections
        drain = router.drain(endpoint_removal_seconds=1)
        # each connection in use is closed between two requests; new ones are served while clients still come
        until("all clients have moved on", lambda: load.connections >= connections + 4)
        before = load.answered
        until("new connections are served", lambda: load.answered > before + 20)
        load.stop()  # endpoints are gone: nobody comes any more
        time.sleep(1.2)
        assert drain.poll() is None, "it ended before the requests in progress"
        may_end.set()
        streamed += list(stream)
        slow.join()
        output, _ = drain.communicate(timeout=10)
        assert drain.returncode == 0, output
        router.terminate()
    assert load.failures == []
    assert streamed == [STABLE.encode() + b"1", STABLE.encode() + b"2"]
    assert [answer.status for answer in answers] == [200]


def test_a_drain_ends_at_its_limit(stage: Stage) -> None:
    pod = stage.pod(STABLE)
    pod.is_silent = True
    router = stage.router(alone())
    ended = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            router.get("/")
        ended.set()

    threading.Thread(target=ask, daemon=True).start()
    until("it is in progress", lambda: pod.requests)
    drain = router.drain(endpoint_removal_seconds=0, drain_seconds=1)
    drain.communicate(timeout=10)
    assert drain.returncode == 0
    assert not ended.is_set()
    router.terminate()
    assert ended.wait(5)
