"""Warm-up by the agent: a version counts as ready once it has answered."""

import pytest

from slipway_agent.model.errors import Reason
from slipway_agent.model.server_state import Gone, Loaded, Refused, ServerView
from slipway_agent.servers.wrappers.warmup import WarmingServer, Warmth
from slipway_agent.volume.models_volume import ModelVolume
from tests.unit.agent.servers.fake_http import some
from tests.unit.agent.servers.straw_server import StrawServer

REQUESTS: tuple[object, ...] = ({"inputs": [1]}, {"inputs": [2]})


@pytest.fixture
def straw() -> StrawServer:
    return StrawServer()


@pytest.fixture
def server(straw: StrawServer, volume: ModelVolume) -> WarmingServer:
    return WarmingServer(straw, REQUESTS, 2, Warmth(volume))


ALL = some(1, 2, 3)


def test_a_loaded_version_is_ready_only_after_it_has_answered(server: WarmingServer, straw: StrawServer) -> None:
    straw.boot = some(2)
    straw.start()
    assert server.observe(ALL) == ServerView(True, some())
    seen: list[ServerView] = []

    def answer(version: int, body: object) -> None:
        seen.append(server.observe(ALL))

    straw.answer = answer
    assert server.load(some(2)) == Loaded()
    assert straw.asked == [(2, REQUESTS[0]), (2, REQUESTS[1])]
    assert seen == [ServerView(True, some())] * 2
    assert server.observe(ALL) == ServerView(True, some(2))


def test_the_served_version_is_warm_before_the_others_begin(server: WarmingServer, straw: StrawServer) -> None:
    ready: dict[int, frozenset[int]] = {}

    def answer(version: int, body: object) -> None:
        ready.setdefault(version, server.observe(ALL).ready)

    straw.answer = answer
    server.load(some(1, 2))
    assert ready == {2: some(), 1: some(2)}


def test_a_warm_version_isnt_asked_again(server: WarmingServer, straw: StrawServer) -> None:
    server.load(some(2))
    straw.asked.clear()
    assert server.load(some(2)) == Loaded()
    assert server.load(some(2, 3)) == Loaded()
    assert {version for version, _ in straw.asked} == {3}


def test_a_failing_request_is_said_in_the_servers_words_and_the_load_is_taken_back(
    server: WarmingServer, straw: StrawServer
) -> None:
    server.load(some(2))
    straw.answer = lambda version, body: "shape mismatch" if body == REQUESTS[1] else None
    outcome = server.load(some(2, 3))
    assert outcome == Refused(
        "version 3: warm-up request 2 of 2: shape mismatch",
        {3: "warm-up request 2 of 2: shape mismatch"},
        Reason.WARMUP_FAILED,
    )
    assert straw.held == straw.boot == some(2)
    assert server.observe(ALL) == ServerView(True, some(2))


def test_the_only_version_that_fails_stays_out_of_sight(server: WarmingServer, straw: StrawServer) -> None:
    straw.boot = some(2)
    straw.start()
    straw.answer = lambda version, body: "no"
    outcome = server.load(some(2))
    assert isinstance(outcome, Refused)
    assert straw.boot == some(2), "there is nothing to go back to"
    assert server.observe(ALL) == ServerView(True, some())
    straw.answer = lambda version, body: None
    assert server.load(some(2)) == Loaded()
    assert server.observe(ALL) == ServerView(True, some(2))


def test_a_server_that_restarts_is_cold_again(server: WarmingServer, straw: StrawServer) -> None:
    server.load(some(1, 2))
    straw.kill()
    assert server.observe(ALL) == ServerView()
    straw.start()
    assert server.observe(ALL) == ServerView(True, some())
    straw.asked.clear()
    server.load(some(1, 2))
    assert {version for version, _ in straw.asked} == {1, 2}


def test_a_server_that_ends_at_a_request_is_gone(server: WarmingServer, straw: StrawServer) -> None:
    server.load(some(2))

    def die(version: int, body: object) -> str:
        straw.kill()
        return "the connection broke"

    straw.answer = die
    assert server.load(some(2, 3)) == Gone(
        "the server ended at version 3's warm-up request 1 of 2: the connection broke"
    )
    assert straw.boot == some(2), "it comes back without what ended it"


def test_a_server_that_wont_go_back_starts_as_it_was(server: WarmingServer, straw: StrawServer) -> None:
    server.load(some(2))

    def fail(version: int, body: object) -> str:
        straw.refusal = Refused("busy")
        return "shape mismatch"

    straw.answer = fail
    outcome = server.load(some(2, 3))
    assert isinstance(outcome, Refused)
    assert outcome.message.endswith("; and the server wouldn't go back: busy")
    assert straw.boot == some(2)
    assert server.observe(ALL).ready == some(2)


def test_a_refused_load_asks_nothing(server: WarmingServer, straw: StrawServer) -> None:
    straw.refusal = Refused("no such model")
    assert server.load(some(2)) == Refused("no such model")
    assert straw.asked == []


def test_replaced_bytes_are_warmed_and_serve_on_meanwhile(
    server: WarmingServer, straw: StrawServer, volume: ModelVolume
) -> None:
    server.load(some(2))
    folder = volume.repository / "2"
    folder.rename(volume.repository / "aside")
    folder.mkdir()
    straw.asked.clear()
    assert server.observe(ALL).ready == some(2)
    server.load(some(2))
    assert {version for version, _ in straw.asked} == {2}


def test_warmth_outlives_the_agent_but_not_the_server(straw: StrawServer, volume: ModelVolume) -> None:
    WarmingServer(straw, REQUESTS, 2, Warmth(volume)).load(some(2))
    assert WarmingServer(straw, REQUESTS, 2, Warmth(volume)).observe(ALL).ready == some(2)
    straw.kill()
    WarmingServer(straw, REQUESTS, 2, Warmth(volume)).observe(ALL)
    straw.start()
    assert WarmingServer(straw, REQUESTS, 2, Warmth(volume)).observe(ALL).ready == some()


def test_what_served_before_there_was_a_warm_up_goes_on(straw: StrawServer, volume: ModelVolume) -> None:
    straw.load(some(2))
    warmth = Warmth(volume)
    warmth.adopt(some(2))
    server = WarmingServer(straw, REQUESTS, 2, warmth)
    assert server.observe(ALL).ready == some(2)
    server.load(some(2, 3))
    assert {version for version, _ in straw.asked} == {3}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"2": 1}', '{"x": [1, 2]}'])
def test_an_unreadable_note_means_cold(straw: StrawServer, volume: ModelVolume, text: str) -> None:
    volume.write_note("warm.json", text)
    straw.load(some(2))
    assert WarmingServer(straw, REQUESTS, 2, Warmth(volume)).observe(ALL).ready == some()
