"""What the simulated pods say is what the product reads: their words for labels, files and reports are the same."""

from __future__ import annotations

import json

from slipway.model import names
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts
from slipway.observe.agent_reports import read_report as read_agent
from slipway.observe.pods import read_pod
from slipway.observe.router_reports import is_of_router, read_router_pod
from slipway.observe.router_reports import read_report as read_router
from slipway.render.envoy import CLUSTERS_KEY
from tests.simulation import agents, pods, requests, routers


def test_the_words_are_the_products() -> None:
    ours = (pods.MODEL_LABEL, pods.REVISION_LABEL, pods.CONFIG_ANNOTATION, pods.ROUTER_CONFIG_ANNOTATION)
    theirs = (names.MODEL_LABEL, names.REVISION_LABEL, names.CONFIG_ANNOTATION, names.ROUTER_CONFIG_ANNOTATION)
    assert ours == theirs
    assert (routers.ROUTES_KEY, routers.CLUSTERS_KEY) == (names.ROUTES_KEY, CLUSTERS_KEY)
    assert agents.ORDERS_KEY == names.AGENT_CONFIG_KEY
    assert requests.LATENCY_BOUNDS == LATENCY_BOUNDS_MILLISECONDS


def test_a_pod_is_read_in_each_state_of_its_life() -> None:
    ages = [
        pods.pod("p", pods.labels_of("m", "a"), pods.model_pod_status(age, has_orders=True, is_served=True))
        for age in range(3)
    ]
    read = [read_pod(body, {}) for body in ages]
    assert [(pod.ip is not None, pod.is_ready) for pod in read] == [(False, False), (True, False), (True, True)]
    router = pods.pod("r", pods.labels_of("m"), pods.router_status(3, has_config=True))
    assert is_of_router(router)
    assert read_router_pod(router).is_ready


def test_an_agents_report_is_read_whole() -> None:
    agent, source = agents.Agent(), agents.Source(broken={9: agents.LOAD_FAILED})
    orders = {"generation": "g", "served": 9, "load": [1, 9], "source": {"uri": "pvc://m"}}
    agent.read({agents.ORDERS_KEY: json.dumps(orders)}, None, 0)
    assert not agent.follow(source)
    report = read_agent(agent.report(source, "2026-03-01T12:00:00Z"))
    assert report is not None
    assert [(each.version, each.state) for each in report.versions] == [(1, "Available"), (9, "Failed")]
    assert report.trouble is not None
    assert (report.generation, report.serving, report.trouble.reason) == ("g", 1, "LoadFailed")


def test_a_routers_answers_are_read_whole() -> None:
    router = routers.Router()
    answer = {"generation": "g", "weights": {"old": 75, "new": 25}}
    clusters = {"resources": [{"name": "http/old"}, {"name": "http/new"}, {"name": "http-named/new"}]}
    router.mount.read({routers.ROUTES_KEY: routers.routes(answer), routers.CLUSTERS_KEY: json.dumps(clusters)}, None, 0)
    for workload, number in router.split(400).items():
        router.tally(workload).add(number, {"old": 1, "new": 2}[workload], requests.Answering({2: 0.5}, {2: 900}))
    report = read_router("source", json.dumps(router.answer).encode(), router.stats({"old": 2}))
    assert report is not None
    assert (report.generation, report.weights, report.endpoints) == ("g", answer["weights"], {"old": 2, "new": 0})
    slow = tuple(100 * (bound >= 900) for bound in LATENCY_BOUNDS_MILLISECONDS)
    assert report.counts["new"] == Counts(100, 50, 0, slow)
    assert report.counts["old"].requests == 300
