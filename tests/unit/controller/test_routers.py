"""Routers are asked over HTTP: one that can't be read is no report, never an error."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from aiohttp import web

from slipway.controller.routers import Routers
from slipway.model.names import POD_HEADER, STATUS_HOST
from slipway.observe.router_reports import MAX_STATS_BYTES, RouterPod, RouterReport
from tests.simulation.routers import answers, healthy, within
from tests.unit.controller.pages import Handler, closing, says, serving

ROUTES = {"generation": "0123456789", "weights": {"aaaaaaaaaa": 100}}
CLUSTER = "http/aaaaaaaaaa"
STATS = "\n".join(
    ["# TYPE envoy_slipway_answers counter", answers(7, cluster=CLUSTER), healthy(2, cluster=CLUSTER), ""]
)
TIMES = within(6, 5, cluster=CLUSTER) + "\n"


def pod(name: str, ip: str | None = "127.0.0.1", *, is_ending: bool = False) -> RouterPod:
    return RouterPod(name, f"uid-{name}", ip, True, is_ending, None, f"uid-{name}/0")


async def routed(request: web.Request) -> web.StreamResponse:
    return web.json_response(ROUTES) if request.host == STATUS_HOST else web.Response(status=404)


async def counted(request: web.Request) -> web.StreamResponse:
    return web.Response(text=TIMES if "upstream_rq_time" in request.query["filter"] else STATS)


def read(*pods: RouterPod, traffic: Handler = routed, status: Handler = counted) -> Mapping[str, RouterReport]:
    """What is read of these pods when their ports answer so."""

    async def scenario() -> Mapping[str, RouterReport]:
        async with (
            serving("/", traffic) as traffic_port,
            serving("/stats/prometheus", status) as status_port,
            closing(Routers(traffic_port, status_port)) as client,
        ):
            return await client.read(pods)

    return asyncio.run(scenario())


failing, of_another_kind = says("no healthy upstream", 503), says("<html>")
endless = says("#" * (MAX_STATS_BYTES + 1))


def test_weights_endpoints_and_counts_are_read_of_each_that_can_be_asked() -> None:
    found = read(pod("a"), pod("b", is_ending=True), pod("c", None))
    assert set(found) == {"uid-a", "uid-b"}  # one that ends has counted too
    report = found["uid-a"]
    assert (report.source, report.generation) == ("uid-a/0", "0123456789")
    assert report.weights == {"aaaaaaaaaa": 100}
    assert report.endpoints == {"aaaaaaaaaa": 2}
    counts = report.counts["aaaaaaaaaa"]
    assert (counts.requests, counts.within[3]) == (7, 6)


def test_what_cant_be_read_is_no_report() -> None:
    assert read(pod("a"), traffic=failing) == {}
    assert read(pod("a"), status=failing) == {}
    assert read(pod("a"), traffic=of_another_kind) == {}
    assert read(pod("a"), status=endless) == {}
    assert read(pod("a", "127.255.255.254")) == {}


@pytest.mark.parametrize(("says", "is_heard"), [("a", True), ("b", False), ("-", True), ("", True)])
def test_another_router_at_an_address_that_changed_hands_is_not_heard(says: str, *, is_heard: bool) -> None:
    async def whose(request: web.Request) -> web.StreamResponse:
        answer = await routed(request)
        answer.headers[POD_HEADER] = says
        return answer

    assert set(read(pod("a"), traffic=whose)) == ({"uid-a"} if is_heard else set())


def test_stats_of_another_kind_are_no_counts() -> None:
    found = read(pod("a"), status=of_another_kind)
    assert found["uid-a"].counts == {}
    assert found["uid-a"].endpoints == {}
