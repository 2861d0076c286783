"""The router as values: what Envoy is sent, what exists for it, and what is made of its answers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.model.names import ROUTER_PORT, ROUTES_KEY, STATUS_HOST, STATUS_PORT
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts, InForce
from slipway.observe.router_reports import (
    MAX_STATS_BYTES,
    RouterPod,
    RouterReport,
    in_force,
    is_of_router,
    read_counts,
    read_report,
    read_router_pod,
)
from slipway.render import envoy
from slipway.render.router import configure, render
from slipway.render.routing import Backend, Split
from tests.simulation import routers
from tests.unit.specs import IMAGES, NAME, NAMESPACE, Json, deployment

STABLE, CANARY = "aaaaaaaaaa", "bbbbbbbbbb"
IMAGE = "envoy:today"


def split(weight: int = 5, *, stable: tuple[int, ...] = (1,), canary: tuple[int, ...] = (2,)) -> Split:
    return Split((Backend(STABLE, 100 - weight, stable, 8000, 8001), Backend(CANARY, weight, canary, 8000, 8001)))


def alone() -> Split:
    return Split((Backend(STABLE, 100, (1,), 8000, 8001),))


def read(key: str, target: Split, changes: Json | None = None) -> Any:
    return json.loads(configure(deployment(changes), target).files[key])


def traffic_routes(target: Split, changes: Json | None = None) -> list[Json]:
    [routes] = read(ROUTES_KEY, target, changes)["resources"]
    found: list[Json] = routes["virtual_hosts"][1]["routes"]
    return found


def by_weight(target: Split, changes: Json | None = None) -> dict[str, int]:
    route = traffic_routes(target, changes)[-1]["route"]
    return {one["name"]: one["weight"] for one in route["weighted_clusters"]["clusters"]}


# ---- what Envoy is sent


def test_weights_are_the_wanted_ones_to_the_percent() -> None:
    assert by_weight(split(1)) == {f"http/{STABLE}": 99, f"http/{CANARY}": 1}


def test_a_workload_without_weight_is_a_cluster_all_the_same() -> None:
    names = {cluster["name"] for cluster in read(envoy.CLUSTERS_KEY, split(0))["resources"]}
    assert names == {
        f"{protocol}/{workload}" for protocol in ("http", "http-named", "grpc") for workload in (STABLE, CANARY)
    }
    assert by_weight(split(0)) == {f"http/{STABLE}": 100, f"http/{CANARY}": 0}


def test_it_answers_what_it_does() -> None:
    config = configure(deployment(), split(25))
    [routes] = json.loads(config.files[ROUTES_KEY])["resources"]
    status = routes["virtual_hosts"][0]
    assert status["domains"][0] == STATUS_HOST
    assert routers.answer_in(config.files[ROUTES_KEY]) == {
        "generation": config.generation,
        "weights": {STABLE: 75, CANARY: 25},
    }


@pytest.mark.parametrize(
    ("other", "changes"),
    [
        (split(6), {}),
        (split(5, canary=(2, 3)), {}),
        (Split((Backend(STABLE, 95, (1,), 8080, 8001), Backend(CANARY, 5, (2,), 8000, 8001))), {}),
        (Split(split().backends, "example.org"), {}),
        (split(), {"traffic": {"timeoutSeconds": 30}}),
    ],
)
def test_another_configuration_has_another_generation(other: Split, changes: Json) -> None:
    assert configure(deployment(changes), other).generation != configure(deployment(), split()).generation


def test_the_same_configuration_is_the_same_text() -> None:
    assert configure(deployment(), split()) == configure(deployment({"replicas": 7}), split())


def test_endpoints_are_looked_up_by_the_whole_name_of_the_headless_service() -> None:
    clusters = read(envoy.CLUSTERS_KEY, Split(alone().backends, "example.org"))["resources"]
    addresses = {
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"][
            "address"
        ]
        for cluster in clusters
    }
    assert addresses == {f"{NAME}-{STABLE}.{NAMESPACE}.svc.example.org"}


def test_without_a_timeout_there_is_none_and_with_one_it_is_grpcs_too() -> None:
    assert {route["route"]["timeout"] for route in traffic_routes(split())} == {"0s"}
    timed = traffic_routes(split(), {"traffic": {"timeoutSeconds": 30}})
    assert {route["route"]["timeout"] for route in timed} == {"30s"}


def test_without_a_grpc_port_a_grpc_request_is_refused_and_never_sent_as_http() -> None:
    backends = tuple(Backend(workload, weight, (1,), 8080, None) for workload, weight in ((STABLE, 95), (CANARY, 5)))
    first = traffic_routes(Split(backends))[0]
    assert first["match"] == {"prefix": "/", "grpc": {}}
    assert first["direct_response"] == {"status": 404}


# ---- requests that name a version


def named(target: Split, changes: Json) -> dict[str, str]:
    """Regex → workload."""
    return {
        route["match"]["safe_regex"]["regex"]: route["route"]["cluster"].removeprefix("http-named/")
        for route in traffic_routes(target, changes)
        if "safe_regex" in route["match"]
    }


@pytest.mark.parametrize(
    ("runtime", "stable", "canary"),
    [
        ({"name": "Triton"}, "/v2/models/digits/versions/1", "/v2/models/digits/versions/2"),
        ({"name": "ONNXRuntime"}, "/v2/models/digits/versions/1", "/v2/models/digits/versions/2"),
        ({"name": "TorchServe"}, "/predictions/digits/1", "/predictions/digits/2"),
        ({"name": "Custom", "image": "own:1"}, "/v2/models/digits/versions/1", "/v2/models/digits/versions/2"),
    ],
)
def test_a_request_that_names_a_version_goes_to_a_workload_that_holds_it(
    runtime: Json, stable: str, canary: str
) -> None:
    assert named(split(), {"runtime": runtime}) == {f"({stable})([/:].*)?": STABLE, f"({canary})([/:].*)?": CANARY}


def test_tensorflow_servings_labels_lead_to_stable_canary_and_whoever_holds_the_version() -> None:
    changes = {"runtime": {"name": "TensorFlowServing"}, "model": {"labels": {"old": 1}}}
    where = named(split(), changes)
    [stable] = [regex for regex, workload in where.items() if workload == STABLE]
    [canary] = [regex for regex, workload in where.items() if workload == CANARY]
    base = "/v1/models/digits"
    assert stable == f"({base}/versions/1|{base}/labels/old|{base}/labels/stable)([/:].*)?"
    assert canary == f"({base}/versions/2|{base}/labels/canary)([/:].*)?"


def test_a_version_that_both_hold_is_the_stable_ones() -> None:
    where = named(split(stable=(1, 2), canary=(2, 3)), {})
    base = "/v2/models/digits/versions"
    assert where == {f"({base}/1|{base}/2)([/:].*)?": STABLE, f"({base}/3)([/:].*)?": CANARY}


def test_with_one_workload_no_path_differs() -> None:
    assert named(alone(), {}) == {}


def test_a_custom_server_with_paths_of_its_own_has_no_versions_in_them() -> None:
    runtime = {"name": "Custom", "image": "own:1", "paths": {"predict": "/predict/{model}"}}
    assert named(split(), {"runtime": runtime}) == {}
    names = {cluster["name"] for cluster in read(envoy.CLUSTERS_KEY, split(), {"runtime": runtime})["resources"]}
    assert not any(name.startswith("http-named/") for name in names)


# ---- two servers of different paths


TENSORFLOW = deployment({"runtime": {"name": "TensorFlowServing"}}).spec
TRITON = deployment().spec


def mixed(weight: int, *, is_open: bool = True) -> Split:
    """Triton is stable; TensorFlow Serving is its canary, of the same version."""
    stable = Backend(STABLE, 100 - weight, (1,), 8000, 8001, TRITON)
    return Split((stable, Backend(CANARY, weight, (1,), 8501, 8500, TENSORFLOW, is_open)))


def where(target: Split, path: str, *, grpc: bool = False) -> dict[str, int]:
    """Cluster → weight, of the first route that takes the path; as Envoy goes through them."""
    for route in traffic_routes(target):
        match = route["match"]
        fits = (
            re.fullmatch(match["safe_regex"]["regex"], path)
            if "safe_regex" in match
            else path.startswith(match["prefix"])
        )
        if not fits or ("grpc" in match and not grpc):
            continue
        if "direct_response" in route:
            return {}
        to = route["route"]
        shares = to["weighted_clusters"]["clusters"] if "weighted_clusters" in to else [{"name": to["cluster"]}]
        return {each["name"]: each.get("weight", 100) for each in shares if each.get("weight", 100)}
    raise AssertionError(path)


V2, V1 = "/v2/models/digits/infer", "/v1/models/digits:predict"
TO_STABLE, TO_CANARY = {f"http/{STABLE}"}, {f"http/{CANARY}"}


@pytest.mark.parametrize(
    ("target", "old", "new"),
    [
        pytest.param(mixed(25), TO_STABLE, TO_CANARY, id="canary"),
        pytest.param(mixed(100), TO_STABLE, TO_CANARY, id="the last step: stable's clients are served to its end"),
        pytest.param(mixed(0, is_open=False), TO_STABLE, TO_STABLE, id="it prepares: no request before its gates"),
        pytest.param(
            Split(tuple(reversed(mixed(100).backends))), TO_STABLE, TO_CANARY, id="bake: the former one's clients, too"
        ),
    ],
)
def test_a_request_goes_to_the_revision_that_answers_its_path_whatever_the_weight(
    target: Split, old: set[str], new: set[str]
) -> None:
    assert set(where(target, V2)) == old
    assert set(where(target, "/v2/health/ready")) == old
    assert set(where(target, V1)) == new


def test_grpc_follows_the_package_of_its_service() -> None:
    triton, tensorflow = "/inference.GRPCInferenceService/ModelInfer", "/tensorflow.serving.PredictionService/Predict"
    for weight in (25, 100):
        assert set(where(mixed(weight), triton, grpc=True)) == {f"grpc/{STABLE}"}
        assert set(where(mixed(weight), tensorflow, grpc=True)) == {f"grpc/{CANARY}"}
    assert set(where(mixed(0, is_open=False), tensorflow, grpc=True)) == {f"grpc/{STABLE}"}


def test_a_version_that_is_named_goes_to_who_holds_it_under_that_path() -> None:
    assert set(where(mixed(25), "/v2/models/digits/versions/1/infer")) == {f"http-named/{STABLE}"}
    assert set(where(mixed(25), "/v1/models/digits/versions/1:predict")) == {f"http-named/{CANARY}"}


def test_each_server_is_reached_at_its_own_port() -> None:
    found = {
        cluster["name"]: cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"][
            "socket_address"
        ]["port_value"]
        for cluster in read(envoy.CLUSTERS_KEY, mixed(25))["resources"]
    }
    assert found == {
        f"http/{STABLE}": 8000,
        f"http-named/{STABLE}": 8000,
        f"grpc/{STABLE}": 8001,
        f"http/{CANARY}": 8501,
        f"http-named/{CANARY}": 8501,
        f"grpc/{CANARY}": 8500,
    }


def test_servers_of_the_same_paths_share_requests_by_weight_at_ports_of_their_own() -> None:
    custom = deployment({"runtime": {"name": "Custom", "image": "own:1", "httpPort": 9000}}).spec
    target = Split((Backend(STABLE, 75, (1,), 8000, 8001, TRITON), Backend(CANARY, 25, (2,), 9000, None, custom)))
    assert where(target, V2) == {f"http/{STABLE}": 75, f"http/{CANARY}": 25}


@pytest.mark.parametrize("weight", [25, 100])
def test_grpc_clients_stay_with_stable_while_the_canary_has_no_such_port(weight: int) -> None:
    target = Split((Backend(STABLE, 100 - weight, (1,), 8000, 8001), Backend(CANARY, weight, (2,), 8000, None)))
    assert set(where(target, "/inference.GRPCInferenceService/ModelInfer", grpc=True)) == {f"grpc/{STABLE}"}


def test_a_canary_that_prepares_gets_no_grpc_request_for_being_the_only_one_with_that_port() -> None:
    canary = Backend(CANARY, 0, (2,), 8000, 8001, is_open=False)
    target = Split((Backend(STABLE, 100, (1,), 8000, None), canary))
    assert where(target, "/inference.GRPCInferenceService/ModelInfer", grpc=True) == {}


# ---- what exists


def rendered(live: Json | None = None, changes: Json | None = None, image: str = IMAGE) -> dict[tuple[str, str], Json]:
    standing = {} if live is None else {ROUTER: live}
    routing = render(deployment(changes), split(), standing, replace(IMAGES, router=image))
    return {(child.kind, child.name): child.manifest for child in routing.children}


def pod_spec(manifest: Json) -> Json:
    found: Json = manifest["spec"]["template"]["spec"]
    return found


ROUTER = ("Deployment", f"{NAME}-router")


def test_its_pods_are_no_pods_of_the_model() -> None:
    template = rendered()[ROUTER]["spec"]["template"]
    assert template["metadata"]["labels"]["slipway.dev/model"] == f"{NAME}.router"
    assert "slipway.dev/revision" not in template["metadata"]["labels"]
    assert is_of_router(template)
    assert not is_of_router(rendered()[ROUTER])


def test_a_new_operator_restarts_no_router() -> None:
    before = rendered()[ROUTER]
    after = rendered(live=before, image="envoy:tomorrow")[ROUTER]
    assert after == before


def test_more_replicas_restart_no_router() -> None:
    before = rendered()[ROUTER]
    after = rendered(before, {"traffic": {"router": {"replicas": 5}}}, "envoy:tomorrow")[ROUTER]
    assert after["spec"]["replicas"] == 5
    assert after["spec"]["template"] == before["spec"]["template"]


@pytest.mark.parametrize(
    "changes",
    [
        {"traffic": {"router": {"image": "own-envoy:1"}}},
        {"traffic": {"router": {"resources": {"limits": {"memory": "1Gi"}}}}},
        {"traffic": {"timeoutSeconds": 600}},
        {"podTemplate": {"spec": {"imagePullSecrets": [{"name": "mirror"}]}}},
    ],
)
def test_what_the_user_chooses_for_the_router_is_rolled_out_with_todays_image(changes: Json) -> None:
    before = rendered()[ROUTER]
    after = rendered(before, changes, "envoy:tomorrow")[ROUTER]
    assert after["spec"]["template"] != before["spec"]["template"]
    assert pod_spec(after)["containers"][0]["image"] in ("envoy:tomorrow", "own-envoy:1")


@pytest.mark.parametrize("kept", ["", "{", "[]", '{"spec": {}}'])
def test_a_template_that_cant_be_read_is_rendered_anew(kept: str) -> None:
    live = rendered()[ROUTER]
    live["metadata"]["annotations"]["slipway.dev/router-template"] = kept
    assert pod_spec(rendered(live)[ROUTER])["containers"][0]["image"] == IMAGE


def test_the_grace_period_outlasts_the_longest_request() -> None:
    assert pod_spec(rendered()[ROUTER])["terminationGracePeriodSeconds"] == 70
    timed = rendered(changes={"traffic": {"timeoutSeconds": 600}})[ROUTER]
    assert pod_spec(timed)["terminationGracePeriodSeconds"] == 610
    assert pod_spec(timed)["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1] == "600"


def test_threads_are_the_cpu_limits() -> None:
    def threads(changes: Json) -> str:
        args = pod_spec(rendered(changes=changes)[ROUTER])["containers"][0]["args"]
        return str(args[args.index("--concurrency") + 1])

    assert threads({}) == "1"
    assert threads({"traffic": {"router": {"resources": {"limits": {"cpu": "2500m"}}}}}) == "3"


def test_admin_is_on_loopback_alone() -> None:
    bootstrap = read(envoy.BOOTSTRAP_KEY, split())
    assert bootstrap["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": envoy.ADMIN_PORT}
    ports = {port["containerPort"] for port in pod_spec(rendered()[ROUTER])["containers"][0]["ports"]}
    assert ports == {ROUTER_PORT, STATUS_PORT}


# ---- what is read


def answer(weights: dict[str, int]) -> bytes:
    return json.dumps({"generation": "0123456789", "weights": weights}).encode()


HTTP, GRPC = f"http/{STABLE}", f"grpc/{STABLE}"
answers, within, healthy = (partial(line, cluster=HTTP) for line in (routers.answers, routers.within, routers.healthy))


def counted(*lines: str) -> Counts:
    report = read_report("router/0", answer({STABLE: 100}), "\n".join(lines))
    assert report is not None
    return report.counts.get(STABLE, Counts())


@pytest.mark.parametrize(
    ("line", "requests", "errors", "refusals"),
    [
        (answers(7), 7, 0, 0),
        (answers(7, 302), 7, 0, 0),
        (answers(7, 500), 7, 7, 0),
        (answers(7, 503, "UC"), 7, 7, 0),
        (answers(7, 504, "UT"), 7, 7, 0),
        (answers(7, 404), 7, 0, 7),
        (answers(7, 429), 7, 0, 7),
        (answers(7, 0, "DC"), 7, 7, 0),  # the client went before any answer came: so it looks when a server hangs
        (answers(7, 200, "DC"), 7, 0, 0),  # it had its answer, or as much of it as it wanted
        (answers(7, 101, "DC"), 7, 0, 0),
        (answers(7, 200, "UPE"), 7, 7, 0),  # broke off in the middle
        (answers(7, 200, "-", "0"), 7, 0, 0),
        (answers(7, 200, "-", "13"), 7, 7, 0),
        (answers(7, 200, "UH", "14"), 7, 7, 0),
        (answers(7, 200, "-", "4"), 7, 7, 0),
        (answers(7, 200, "-", "5"), 7, 0, 7),
        (answers(7, 200, "-", "16"), 7, 0, 7),
        (answers(7, 200, attempts=2), 14, 7, 0),  # a retry hid an error from the client, and not from the count
        (answers(7, 503, "URX,UF", attempts=4), 28, 28, 0),
        (answers(7, 200, cluster=f"http-named/{STABLE}"), 0, 0, 0),
        (answers(7, 200, cluster="-"), 0, 0, 0),
    ],
)
def test_what_became_of_a_request(line: str, requests: int, errors: int, refusals: int) -> None:
    counts = counted(line)
    assert (counts.requests, counts.errors, counts.refusals) == (requests, errors, refusals)


def test_http_and_grpc_are_one_workloads() -> None:
    counts = counted(
        answers(3),
        within(1, "5"),
        answers(4, grpc="0", cluster=GRPC),
        within(2, "5", cluster=GRPC),
    )
    assert counts.requests == 7
    assert counts.within[LATENCY_BOUNDS_MILLISECONDS.index(5)] == 3


def test_times_that_came_between_two_looks_are_never_more_than_the_answers() -> None:
    assert set(counted(answers(3), *(within(5, f"{bound:g}") for bound in LATENCY_BOUNDS_MILLISECONDS)).within) == {3}


def test_endpoints_are_those_of_the_protocol_that_reaches_fewer() -> None:
    stats = "\n".join(
        [
            healthy(3),
            healthy(2, cluster=GRPC),
            healthy(0, cluster=f"http-named/{STABLE}"),
            healthy(1, cluster=f"http/{CANARY}"),
        ]
    )
    report = read_report("router/0", answer({STABLE: 95, CANARY: 5}), stats)
    assert report is not None
    assert report.endpoints == {STABLE: 2, CANARY: 1}
    assert report.weights == {STABLE: 95, CANARY: 5}


@pytest.mark.parametrize(
    "routes",
    [
        b"",
        b"no healthy upstream",
        b"[]",
        b"{}",
        b'{"generation": "a", "weights": []}',
        b'{"generation": "a", "weights": {}}',
        b'{"generation": "a", "weights": {"a": "much"}}',
        b'{"weights": {"a": 1}}',
        b" " * 5000,
    ],
)
def test_what_is_no_answer_of_a_router_is_no_report(routes: bytes) -> None:
    assert read_report("router/0", routes, "") is None


def test_stats_without_end_are_no_report() -> None:
    assert read_report("router/0", answer({STABLE: 100}), "#" * (MAX_STATS_BYTES + 1)) is None


@pytest.mark.parametrize(
    "bad",
    [
        healthy(3).replace("3", "many"),
        answers(7, 500).replace(" 7", " -7"),
        answers(7, 500).replace(" 7", " NaN"),
        answers(7, 500).replace(" 7", " +Inf"),
        answers(7, 500).replace('code="500"', 'code="what"'),
        answers(7, 500).replace("}", ""),
        answers(7, 500).replace('="', "="),
        'envoy_slipway_answers{ ="x"} 7',
    ],
)
def test_a_line_that_cant_be_read_spoils_no_other(bad: str) -> None:
    counts = counted(answers(3), bad, within(2, "5"))
    assert (counts.requests, counts.errors) == (3, 0)
    assert counts.within[LATENCY_BOUNDS_MILLISECONDS.index(5)] == 2


@given(st.binary(max_size=300), st.text(max_size=300))
def test_no_answer_raises(routes: bytes, stats: str) -> None:
    read_report("router/0", routes, stats)
    read_report("router/0", answer({STABLE: 100}), stats + "\n" + answers(1) + stats)
    read_report("router/0", answer({STABLE: 100}), f"envoy_slipway_answers{{{stats}}} {stats}")


def report(weights: dict[str, int], endpoints: dict[str, int], source: str = "router/0") -> RouterReport:
    return RouterReport(source, "0123456789", weights, endpoints, {STABLE: Counts(1)})


def test_weights_are_in_force_when_every_ready_router_says_so() -> None:
    one, other = (
        report({STABLE: 95, CANARY: 5}, {STABLE: 2, CANARY: 2}),
        report({STABLE: 95, CANARY: 5}, {STABLE: 2, CANARY: 1}),
    )
    assert in_force([one, other], 2) == InForce({STABLE: 95, CANARY: 5}, {STABLE: 2, CANARY: 1})


def test_while_one_router_is_silent_or_behind_nothing_is_known_to_be_in_force() -> None:
    one, other = report({STABLE: 95, CANARY: 5}, {STABLE: 2}), report({STABLE: 100, CANARY: 0}, {STABLE: 2})
    assert in_force([one], 2) is None
    assert in_force([one, other], 2) is None
    assert in_force([], 0) is None


def test_a_workload_that_one_router_does_not_know_has_no_endpoints() -> None:
    found = in_force([report({STABLE: 100}, {STABLE: 1, CANARY: 1}), report({STABLE: 100}, {STABLE: 1})], 2)
    assert found is not None
    assert found.endpoints == {STABLE: 1}


def router_pod(name: str = "router-1", *, is_ready: bool = True, is_ending: bool = False) -> RouterPod:
    return RouterPod(name, f"uid-{name}", "192.0.2.1", is_ready, is_ending, None, f"uid-{name}/0")


def test_a_ready_router_that_does_not_answer_is_missing_and_named() -> None:
    pods = [router_pod("a"), router_pod("b"), router_pod("c", is_ready=False), router_pod("d", is_ending=True)]
    reading = read_counts(pods, {"uid-a": report({STABLE: 100}, {}, "uid-a/0")})
    assert reading.missing == 1
    assert "b can't be asked" in reading.trouble
    assert reading.counts == {"uid-a/0": {STABLE: Counts(1)}}


def pod_object(restarts: int = 0, state: str = "running", **meta: Any) -> Json:
    return {
        "metadata": {"name": "router-1", "uid": "u", **meta},
        "status": {
            "podIP": "192.0.2.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "envoy", "state": {state: {}}, "restartCount": restarts}],
        },
    }


def test_a_router_that_began_anew_counts_under_another_name() -> None:
    assert read_router_pod(pod_object(0)).source != read_router_pod(pod_object(1)).source


def test_a_router_is_asked_while_its_container_runs() -> None:
    assert read_router_pod(pod_object()).ip == "192.0.2.1"
    assert read_router_pod(pod_object(state="waiting")).ip is None
    assert read_router_pod(pod_object(deletionTimestamp="2026-01-01T00:00:00Z")).is_ending
    assert read_router_pod(pod_object(annotations={"slipway.dev/router-config": "abc.1"})).sent == "abc.1"
