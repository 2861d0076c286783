"""What routers count is what the operator judges by: nothing that went wrong is hidden, nothing is counted twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc
import pytest

from slipway.model.names import ROUTER_PORT
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts
from tests.router.conftest import STABLE, Stage, alone, reaches
from tests.router.envoys import Router, until
from tests.router.load import Load, ask_many
from tests.router.pods import new_address


def counts(router: Router) -> Counts:
    report = router.report()
    assert report is not None
    return report.counts[STABLE]


def three(found: Counts) -> tuple[int, int, int]:
    return found.requests, found.errors, found.refusals


def counted(router: Router, requests: int, errors: int, refusals: int) -> None:
    until(f"{requests} requests, {errors} errors, {refusals} refusals", lambda: three(counts(router))[0] >= requests)
    assert three(counts(router)) == (requests, errors, refusals)


@contextlib.contextmanager
def calling(router: Router) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"{router.address}:{ROUTER_PORT}") as channel:
        yield channel


def one(channel: grpc.Channel, timeout: float | None = 10) -> grpc.StatusCode:
    try:
        channel.unary_unary("/model/One")(b"1", timeout=timeout)
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("status", "errors", "refusals"), [(200, 0, 0), (404, 0, 1), (429, 0, 1), (500, 1, 0), (503, 1, 0)]
)
def test_answers_by_their_status(stage: Stage, status: int, errors: int, refusals: int) -> None:
    pod = stage.pod(STABLE)
    pod.status = status
    router = stage.router(alone())
    assert router.get("/").status == status
    counted(router, 1, errors, refusals)
    assert pod.requests == 1  # what has reached a server is never asked again


def test_an_answer_that_never_began_and_one_that_broke_off(stage: Stage) -> None:
    pod = stage.pod(STABLE)
    router = stage.router(alone())
    pod.cuts = True
    assert router.get("/").status == 503
    counted(router, 1, 1, 0)
    assert pod.requests == 1
    pod.cuts, pod.breaks_off = False, True
    with pytest.raises(Exception, match="IncompleteRead"):
        router.get("/")
    counted(router, 2, 2, 0)


def test_a_server_that_hangs_is_seen_by_clients_that_give_up(stage: Stage) -> None:
    stage.pod(STABLE, has_grpc=True).is_silent = True
    router = stage.router(alone(has_grpc=True))
    with pytest.raises(TimeoutError):
        router.get("/", timeout=0.2)
    counted(router, 1, 1, 0)


def test_grpc_by_its_status_codes(stage: Stage) -> None:
    pod = stage.pod(STABLE, has_grpc=True)
    router = stage.router(alone(has_grpc=True))
    code = grpc.StatusCode
    errors = {
        code.UNKNOWN,
        code.DEADLINE_EXCEEDED,
        code.RESOURCE_EXHAUSTED,
        code.UNIMPLEMENTED,
        code.INTERNAL,
        code.UNAVAILABLE,
        code.DATA_LOSS,
    }
    with calling(router) as channel:
        for status in code:
            before = three(counts(router))
            pod.grpc_status = status
            assert one(channel) == status
            is_error = status in errors
            is_refusal = not is_error and status is not code.OK
            counted(router, before[0] + 1, before[1] + is_error, before[2] + is_refusal)


def test_a_grpc_client_whose_deadline_passed_counts_as_an_error(stage: Stage) -> None:
    pod = stage.pod(STABLE, has_grpc=True)
    router = stage.router(alone(has_grpc=True))
    pod.delay_seconds = 1
    with calling(router) as channel:
        assert one(channel, timeout=0.2) == grpc.StatusCode.DEADLINE_EXCEEDED
        counted(router, 1, 1, 0)


def test_a_pod_that_refuses_connections_is_passed_over_and_counted(stage: Stage) -> None:
    pod = stage.pod(STABLE)
    stage.resolve(STABLE, [pod.address, new_address()])
    router = stage.router(alone())
    reaches(router, STABLE, 2)
    assert ask_many(router.address, 500) == {STABLE: 500}
    found = counts(router)
    assert found.errors > 0
    assert found.requests == 500 + found.errors


def test_nobody_there_is_an_error_of_the_carrier(stage: Stage) -> None:
    stage.resolve(STABLE, [])
    router = stage.router(alone(has_grpc=True))
    assert router.get("/").status == 503
    counted(router, 1, 1, 0)
    with calling(router) as channel:
        assert one(channel) == grpc.StatusCode.UNAVAILABLE
    counted(router, 2, 2, 0)


@pytest.mark.parametrize("cpus", [1, 4])
def test_times_speak_of_the_same_requests_as_the_counts(stage: Stage, cpus: int) -> None:
    pod = stage.pod(STABLE)
    router = stage.router(alone(), {"traffic": {"router": {"resources": {"limits": {"cpu": cpus}}}}})
    for done in range(1, 4):
        ask_many(router.address, 1000)
        counted(router, 1000 * done, 0, 0)
        found = counts(router)
        assert found.requests == found.within[-1] == 1000 * done
    pod.delay_seconds = 0.12
    for _ in range(5):
        router.get("/")
    slow = counts(router)
    assert slow.requests - slow.within[LATENCY_BOUNDS_MILLISECONDS.index(100)] >= 5
    assert slow.requests - slow.within[LATENCY_BOUNDS_MILLISECONDS.index(1000)] == 0


def test_a_client_cant_ask_for_retries_that_hide_errors(stage: Stage) -> None:
    pod = stage.pod(STABLE)
    pod.status = 500
    router = stage.router(alone())
    assert router.get("/", headers={"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "3"}).status == 500
    assert pod.requests == 1


def test_under_load_the_two_looks_differ_by_what_came_between_them(stage: Stage) -> None:
    stage.pod(STABLE)
    router = stage.router(alone())
    with Load(router.address, clients=4, pause_seconds=0.002) as load:
        until("they are busy", lambda: load.answered > 100)
        off = [found.requests - found.within[-1] for found in (counts(router) for _ in range(50))]
    assert sorted(off)[len(off) // 2] <= 2, off  # a machine that stalls between the two looks is no finding
    last = counts(router)
    assert (last.errors, last.requests - last.within[-1]) == (0, 0)
