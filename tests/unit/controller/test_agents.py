"""Agents' reports over HTTP: read whole, and never an error."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from slipway.controller import agents
from slipway.controller.agents import MAX_REPORT_BYTES, Agents
from slipway.observe.agent_reports import AgentReport
from slipway.observe.pods import Pod
from tests.unit.controller.pages import Handler, closing, goes_on, leads_on, packed, says, serving

REPORT = {"schema": 1, "generation": "g", "listed": list(range(1, 2001)), "versions": [], "error": None}


def pod(uid: str, ip: str | None = "127.0.0.1", *, ending: bool = False) -> Pod:
    return Pod(f"pod-{uid}", uid, "aaa", False, ending, ip, None, None)


def read(handler: Handler, *pods: Pod, patch: pytest.MonkeyPatch) -> dict[str, AgentReport]:
    """What is read from these pods when their agents answer so."""

    async def scenario() -> dict[str, AgentReport]:
        async with serving("/status", handler) as port, closing(Agents()) as client:
            patch.setattr(agents, "AGENT_PORT", port)
            return await client.read_reports(pods)

    return asyncio.run(scenario())


whole = says(json.dumps(REPORT))


def test_a_report_is_read_from_each_pod_that_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(whole, pod("a"), pod("b"), pod("c", None), pod("d", ending=True), patch=monkeypatch)
    assert set(found) == {"a", "b"}
    assert found["a"].listed == tuple(range(1, 2001))


def test_a_report_in_pieces_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def in_pieces(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        text = json.dumps(REPORT).encode()
        for start in range(0, len(text), 3000):
            await response.write(text[start : start + 3000])
            await asyncio.sleep(0.005)
        return response

    assert set(read(in_pieces, pod("a"), patch=monkeypatch)) == {"a"}


@pytest.mark.parametrize(("says", "is_heard"), [("pod-a", True), ("pod-b", False), ("", True), (None, True)])
def test_another_pods_agent_at_an_address_that_changed_hands_is_not_heard(
    says: str | None, *, is_heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def whose(_: web.Request) -> web.StreamResponse:
        return web.json_response(REPORT if says is None else {**REPORT, "pod": says})

    assert set(read(whose, pod("a"), patch=monkeypatch)) == ({"a"} if is_heard else set())


async def _silent(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(0.5)
    return web.Response()


@pytest.mark.parametrize(
    "handler",
    [
        says("starting"),
        says("the agent's worker isn't there: signal SIGKILL ended it; it is started again", 503),
        says(json.dumps(REPORT), 503),
        says('["no", "report"]'),
        goes_on(MAX_REPORT_BYTES),
        says(b"\xff\xfe\xff"),
        says("[" * 200_000),
        packed(json.dumps(REPORT)),
        leads_on,
        _silent,
    ],
)
def test_an_agent_that_does_not_answer_well_is_no_report(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "TIMEOUT_SECONDS", 0.2)
    assert read(handler, pod("a"), patch=monkeypatch) == {}


def test_an_address_where_nobody_listens_is_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(read(whole, pod("a"), pod("b", "127.0.0.2"), patch=monkeypatch)) == {"a"}
