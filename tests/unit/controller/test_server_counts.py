"""Servers' metrics over HTTP: read whole, by pod; a pod that can't be read is missing, never zero."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from aiohttp import web

from slipway.controller import server_counts
from slipway.controller.server_counts import ServerCounts
from slipway.model.signals import Counts, Reading
from slipway.model.workload import Crash
from slipway.observe.agent_reports import AgentReport, ProbeReport
from slipway.observe.pods import Pod
from slipway.observe.server_counts import Counter
from slipway.runtimes import RUNTIMES
from tests.unit.controller.pages import Handler, closing, goes_on, leads_on, packed, says, serving

PAGE = 'nv_inference_request_success{model="digits",version="2"} 10\n'
CRASH = Crash("a", 1, "out of memory")


def pod(
    uid: str,
    workload: str = "old",
    ip: str | None = "127.0.0.1",
    *,
    ready: bool = True,
    ending: bool = False,
    crash: Crash | None = None,
    report: AgentReport | None = None,
) -> Pod:
    return Pod(f"pod-{uid}", uid, workload, ready, ending, ip, None, None, report, crash=crash)


whole = says(PAGE)


def read(handler: Handler, *pods: Pod, uncounted: tuple[str, ...] = (), is_asked: bool = False) -> Reading:
    """What is read of these pods when their servers answer so; workloads `uncounted` run on TorchServe."""

    async def scenario() -> Reading:
        async with serving("/metrics", handler) as port, closing(ServerCounts()) as client:
            counters: Mapping[str, Counter] = {
                workload: Counter("TorchServe", 0, None, "digits", 2)
                if workload in uncounted
                else Counter("Triton", port, RUNTIMES["Triton"].metrics, "digits", 2, is_asked)
                for workload in ("old", "new")
            }
            return await client.read(pods, counters)

    return asyncio.run(scenario())


def test_each_ready_pod_is_a_source_of_its_workload_s_counts() -> None:
    found = read(
        whole,
        pod("a"),
        pod("b", "new"),
        pod("c", ready=False),
        pod("d", ending=True),
        pod("e", "a stranger's"),
    )
    assert found == Reading({"a": {"old": Counts(10)}, "b": {"new": Counts(10)}})


def test_a_server_that_was_started_again_is_another_source() -> None:
    assert list(read(whole, pod("a", crash=CRASH)).counts) == ["a@1"]


def asked(since: str = "noon", asked: int = 4, failed: int = 1, refused: int = 0) -> AgentReport:
    """An agent that has asked its server so often."""
    probe = ProbeReport(2, "", asked=asked, failed=failed, refused=refused, since=since)
    return AgentReport("g", (), (), None, probe=probe)


def test_what_agents_ask_is_none_of_the_clients_requests() -> None:
    page = PAGE + 'nv_inference_request_failure{model="digits",version="2",reason="BACKEND"} 3\n'
    found = read(
        says(page), pod("a", report=asked()), pod("b", "new", report=asked(asked=99, failed=99)), is_asked=True
    )
    assert found == Reading({"a/noon": {"old": Counts(9, 2)}, "b/noon": {"new": Counts(0, 0)}})


def test_an_agent_that_was_started_again_counts_anew_and_so_does_its_source() -> None:
    first, later = (read(whole, pod("a", crash=CRASH, report=asked(since)), is_asked=True) for since in ("noon", "one"))
    assert [*first.counts, *later.counts] == ["a@1/noon", "a@1/one"]


def test_a_pod_whose_agent_is_silent_about_what_it_asked_is_missing() -> None:
    found = read(whole, pod("a"), is_asked=True)
    assert (found.counts, found.missing) == ({}, 1)
    assert "its agent doesn't answer" in found.trouble
    assert read(whole, pod("a")).missing == 0, "where nothing is asked, nobody is needed"


async def silent(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    raise AssertionError("somebody waited")


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (says("", 404), "answers 404"),
        (leads_on, "answers 302"),
        (packed(PAGE), "decode"),
        (says(PAGE.replace("10", "ten")), "is no sample"),
        (goes_on(20_000), "more than 10000 bytes"),
        (says(b"\xff\xfe"), "decode"),
        (silent, "doesn't answer within"),
    ],
)
def test_a_pod_that_cant_be_read_is_missing_and_the_reason_is_told(
    handler: Handler, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_counts, "MAX_PAGE_BYTES", 10_000)
    monkeypatch.setattr(server_counts, "TIMEOUT_SECONDS", 0.3)
    found = read(handler, pod("a"))
    assert (found.counts, found.missing) == ({}, 1)
    assert found.trouble.startswith("pod pod-a: ")
    assert words in found.trouble


def test_a_pod_without_an_address_and_one_that_nobody_listens_at_are_missing() -> None:
    found = read(whole, pod("a", ip=None), pod("b", ip="127.0.0.2"), pod("c"))
    assert (list(found.counts), found.missing) == (["c"], 2)
    assert found.trouble == "pod pod-a has no address yet"


def test_pods_of_a_server_that_counts_too_little_are_missing() -> None:
    found = read(whole, pod("a"), pod("b", "new"), uncounted=("old",))
    assert (list(found.counts), found.missing) == (["b"], 1)
    assert found.trouble == "pod pod-a: TorchServe counts no failed requests"
