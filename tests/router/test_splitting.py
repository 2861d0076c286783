"""Who gets which request, and that changing it loses none."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import grpc
import pytest

from slipway.model.names import POD_VARIABLE, ROUTER_PORT, ROUTES_KEY
from slipway.render import envoy
from slipway.render.routing import Split
from tests.router.conftest import CANARY, STABLE, Stage, alone, backend, both, model, reaches
from tests.router.envoys import Answer, until, write_as_kubelet
from tests.router.load import Load, ask_many, call_many

REQUESTS = 10_000
GRPC_REQUESTS = 2_000


def test_weights_are_exact(stage: Stage) -> None:
    stage.pod(STABLE)
    stage.pod(CANARY)
    router = stage.router(both(0))
    off = {}
    for weight in (1, 5, 25, 50):
        router.tell_and_wait(both(weight))
        found = ask_many(router.address, REQUESTS)
        assert set(found) <= {STABLE, CANARY}, found
        sigma = math.sqrt(REQUESTS * weight / 100 * (1 - weight / 100))
        off[weight] = (found[CANARY] - REQUESTS * weight / 100) / sigma
    print("standard deviations off, by weight:", {weight: round(value, 2) for weight, value in off.items()})
    assert all(abs(value) <= 4 for value in off.values()), off


def test_weights_are_exact_within_one_grpc_channel(stage: Stage) -> None:
    """A channel is one connection, which without a router would stay with one pod for ever."""
    stage.pod(STABLE, has_grpc=True, name="first")
    stage.pod(STABLE, has_grpc=True, name="second")
    stage.pod(CANARY, has_grpc=True)
    router = stage.router(both(0, has_grpc=True))
    reaches(router, STABLE, 2)
    off = {}
    with grpc.insecure_channel(f"{router.address}:{ROUTER_PORT}") as channel:
        for weight in (1, 5, 25, 50):
            router.tell_and_wait(both(weight, has_grpc=True))
            found = call_many(channel, GRPC_REQUESTS)
            assert set(found) == {"first", "second", CANARY}
            sigma = math.sqrt(GRPC_REQUESTS * weight / 100 * (1 - weight / 100))
            off[weight] = (found[CANARY] - GRPC_REQUESTS * weight / 100) / sigma
            assert abs(found["first"] - found["second"]) <= 4 * math.sqrt(GRPC_REQUESTS)
    print("standard deviations off, by weight:", {weight: round(value, 2) for weight, value in off.items()})
    assert all(abs(value) <= 4 for value in off.values()), off


def test_weight_0_is_none_at_all(stage: Stage) -> None:
    stage.pod(STABLE)
    canary = stage.pod(CANARY)
    router = stage.router(both(0))
    assert ask_many(router.address, 2000) == {STABLE: 2000}
    assert canary.requests == 0


def test_weights_and_generation_are_read_back_and_a_swap_takes_a_moment(stage: Stage) -> None:
    stage.pod(STABLE)
    stage.pod(CANARY)
    router = stage.router(both(5))
    before = router.report()
    assert before is not None
    assert before.weights == {STABLE: 95, CANARY: 5}
    report = router.tell_and_wait(both(25))
    assert report.weights == {STABLE: 75, CANARY: 25}
    assert report.generation != before.generation


def test_a_new_carrier_in_two_writes_fails_no_request(stage: Stage) -> None:
    """The order of the operator: known at weight 0 first, weight once every router has it."""
    stage.pod(STABLE)
    stage.pod(CANARY)
    router = stage.router(alone())
    with Load(router.address, clients=6, pause_seconds=0) as load:
        for _ in range(5):
            router.tell_and_wait(both(0))
            reaches(router, CANARY, 1)
            router.tell_and_wait(both(50))
            load.answers.clear()
            until("the canary answers", lambda: load.answers[CANARY] > 20)
            router.tell_and_wait(both(0))
            router.tell_and_wait(alone())
    assert load.failures == []


def test_a_new_carrier_with_weight_in_one_write_can_fail_requests(stage: Stage) -> None:
    """Why there are two. Seen on Envoy 1.40; should it never fail any more, the order may go."""
    stage.pod(STABLE)
    stage.pod(CANARY)
    router = stage.router(alone())
    with Load(router.address, clients=6, pause_seconds=0) as load:
        for _ in range(60):
            router.tell_and_wait(both(50))
            router.tell_and_wait(both(0))
            router.tell_and_wait(alone())
            if load.failures:
                break
    assert any(" 503 " in failure for failure in load.failures)


def test_a_carrier_that_comes_again_is_known_anew(stage: Stage) -> None:
    """A revision that is tried again has the same workload: what was known of its former pods is nothing now."""
    stage.pod(STABLE)
    stage.pod(CANARY)
    router = stage.router(both(5))
    reaches(router, CANARY, 1)
    report = router.tell_and_wait(alone())
    until("it is forgotten", lambda: CANARY not in getattr(router.report(), "endpoints", {CANARY: 0}))
    stage.resolve(CANARY, [])
    report = router.tell_and_wait(both(0))
    assert report.endpoints.get(CANARY, 0) == 0
    until("it is known", lambda: getattr(router.report(), "endpoints", {}).get(CANARY) == 0)


def test_a_request_in_progress_outlives_its_carrier(stage: Stage) -> None:
    stage.pod(STABLE)
    canary = stage.pod(CANARY)
    canary.delay_seconds = 2
    router = stage.router(both(100))
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(router.get("/slow")))
    asking.start()
    until("it is in progress", lambda: canary.requests)
    router.tell_and_wait(both(0))
    router.tell_and_wait(alone())
    asking.join()
    assert [answer.status for answer in answers] == [200]


def test_requests_that_name_a_version_are_neither_weighted_nor_counted(stage: Stage) -> None:
    stage.pod(STABLE)
    stage.pod(CANARY)
    router = stage.router(both(50))
    for _ in range(20):
        assert router.get("/v2/models/digits/versions/1/infer").pod == STABLE
        assert router.get("/v2/models/digits/versions/2").pod == CANARY
    assert router.get("/v2/models/digits/versions/2?x=1").pod == CANARY
    report = router.report()
    assert report is not None
    assert {workload: counts.requests for workload, counts in report.counts.items()} == {STABLE: 0, CANARY: 0}


def test_tensorflow_serving_s_paths_and_labels(stage: Stage) -> None:
    stage.pod(STABLE)
    stage.pod(CANARY)
    router = stage.router(both(50), {"runtime": {"name": "TensorFlowServing"}})
    base = "/v1/models/digits"
    for path, workload in (
        (f"{base}/versions/1:predict", STABLE),
        (f"{base}/versions/2:predict", CANARY),
        (f"{base}/labels/stable:predict", STABLE),
        (f"{base}/labels/canary/metadata", CANARY),
    ):
        assert {router.get(path).pod for _ in range(8)} == {workload}
    # another version's number that begins with one of ours goes by weight
    assert {router.get(f"{base}/versions/12:predict").pod for _ in range(40)} == {STABLE, CANARY}


def of_two_servers(weight: int, *, is_open: bool = True) -> Split:
    """Triton is stable, TensorFlow Serving its canary."""
    stable, canary = both(weight, has_grpc=True).backends
    tensorflow = model({"runtime": {"name": "TensorFlowServing"}}).spec
    return Split((replace(stable, spec=model().spec), replace(canary, spec=tensorflow, is_open=is_open)))


def test_two_servers_get_what_they_can_answer_and_nobodys_clients_fail_on_the_way(stage: Stage) -> None:
    stage.pod(STABLE, has_grpc=True)
    stage.pod(CANARY, has_grpc=True)
    router = stage.router(of_two_servers(0, is_open=False))
    reaches(router, CANARY, 1)
    with (
        Load(router.address) as load,
        grpc.insecure_channel(f"{router.address}:{ROUTER_PORT}") as channel,
    ):
        stables = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        canarys = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        for weight in (20, 100, 0):
            router.tell_and_wait(of_two_servers(weight, is_open=weight > 0))
            has_canary = CANARY if weight else STABLE
            for _ in range(10):
                assert router.get("/v1/models/digits:predict").pod == has_canary
                assert router.get("/v2/health/ready").pod == STABLE
                assert stables(b"1", timeout=10).decode() == STABLE
                assert canarys(b"1", timeout=10).decode() == has_canary
    assert load.failures == []
    assert set(load.answers) == {STABLE}


@pytest.mark.parametrize("name", ["n", "y", "on", "null", "0123456789", "1e10"])
def test_names_that_yaml_reads_as_something_else_are_names(stage: Stage, name: str) -> None:
    """The files are JSON; as YAML, Envoy would read a workload or model called `n` as false."""
    stage.pod(name)
    router = stage.router(Split((backend(name, 100, 1),)))
    assert router.get("/").pod == name
    report = router.report()
    assert report is not None
    assert report.weights == {name: 100}


def test_an_edit_that_envoy_refuses_leaves_the_last_good_one_in_force(stage: Stage) -> None:
    stage.pod(STABLE)
    stage.pod(CANARY)
    router = stage.router(both(5))
    before = router.report()
    write_as_kubelet(router.files, dict.fromkeys((ROUTES_KEY, envoy.CLUSTERS_KEY, envoy.BOOTSTRAP_KEY), "{"))
    until("it has said no", lambda: ROUTES_KEY in router.words and envoy.CLUSTERS_KEY in router.words)
    after = router.report()
    assert before is not None
    assert after is not None
    assert after.generation == before.generation
    assert router.get("/").status == 200
    assert router.tell_and_wait(both(25)).weights[CANARY] == 25


@pytest.mark.parametrize(("pod", "is_heard"), [("router", True), ("another", False), (None, True)])
def test_a_router_says_whose_it_is_and_another_ones_is_not_heard(
    stage: Stage, pod: str | None, *, is_heard: bool
) -> None:
    stage.pod(STABLE)
    router = stage.router(alone())
    router.kill()
    router.environment.pop(POD_VARIABLE)
    if pod is not None:
        router.environment[POD_VARIABLE] = pod
    router.start()
    assert (router.report() is not None) == is_heard
