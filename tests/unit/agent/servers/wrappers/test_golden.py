"""Golden requests by the agent: the served version counts as ready once it has answered as expected, and stays so."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from slipway_agent.model.errors import Reason
from slipway_agent.model.golden import Golden, GoldenReport, GoldenRequest, GoldenState
from slipway_agent.model.server_state import Gone, Loaded, Refused, ServerView
from slipway_agent.servers.wrappers import golden as golden_module
from slipway_agent.servers.wrappers.golden import Clearance, GoldenServer
from slipway_agent.servers.wrappers.warmup import WarmingServer, Warmth
from slipway_agent.volume.models_volume import ModelVolume
from tests.unit.agent.servers.fake_http import some
from tests.unit.agent.servers.straw_server import StrawServer

ADVICE = "Correct the model, or the expected answers where the new ones are right (spec.rollout.gates.golden)"
GOLDEN = Golden(
    (
        GoldenRequest("one", {"x": 1}, {"y": 1}),
        GoldenRequest(None, {"x": 2}, {"y": 2}),
    )
)


ALL = some(1, 2, 3)


class Bytes:
    """What is published: version → digest."""

    def __init__(self) -> None:
        self.digests: dict[int, str] = {1: "one", 2: "two", 3: "three"}

    def __call__(self, version: int) -> str | None:
        return self.digests.get(version)


@pytest.fixture
def straw() -> StrawServer:
    made = StrawServer()
    made.bodies = echo
    return made


def echo(version: int, body: Any) -> tuple[bytes, float]:
    """A version that answers as expected, in 2.1 ms."""
    return json.dumps({"y": body["x"], "version": version}).encode(), 0.0021


@pytest.fixture
def published() -> Bytes:
    return Bytes()


@pytest.fixture
def clearance(volume: ModelVolume, published: Bytes) -> Clearance:
    return Clearance(volume, published)


Make = Callable[..., GoldenServer]


@pytest.fixture
def make(straw: StrawServer, volume: ModelVolume, clearance: Clearance) -> Make:
    def make_server(served: int = 3, golden: Golden = GOLDEN, known: Clearance | None = None) -> GoldenServer:
        (known or clearance).expect(golden.fingerprint())
        return GoldenServer(straw, golden, served, volume, known or clearance)

    return make_server


def test_the_served_version_is_ready_only_after_it_answered_as_expected(
    make: Make, straw: StrawServer, clearance: Clearance
) -> None:
    server = make()
    straw.boot = some(3)
    straw.start()
    assert server.observe(ALL) == ServerView(True, some())
    seen: list[object] = []

    def answer(version: int, body: object) -> None:
        report = clearance.report(3)
        assert report is not None
        seen.append((server.observe(ALL).ready, report.state, report.message))

    straw.answer = answer
    assert server.load(some(3)) == Loaded()
    assert seen == [
        (some(), GoldenState.RUNNING, "asking golden request 1 of 2"),
        (some(), GoldenState.RUNNING, "asking golden request 2 of 2"),
    ]
    assert server.observe(ALL) == ServerView(True, some(3))
    assert clearance.report(3) == GoldenReport(3, GoldenState.PASSED, "2 of 2 answered as expected, slowest 2.1 ms")


def test_only_the_served_version_is_asked_and_the_others_arent_hidden(make: Make, straw: StrawServer) -> None:
    server = make()
    straw.boot = some(2, 3)
    straw.start()
    assert server.observe(ALL).ready == some(2)
    server.load(some(2, 3))
    assert {version for version, _ in straw.asked} == {3}


def test_it_is_warmed_up_before_it_is_asked(straw: StrawServer, volume: ModelVolume, clearance: Clearance) -> None:
    warming = WarmingServer(straw, ({"x": 0},), 3, Warmth(volume))
    GoldenServer(warming, GOLDEN, 3, volume, clearance).load(some(3))
    assert [body for _, body in straw.asked] == [{"x": 0}, {"x": 1}, {"x": 2}]


def test_another_answer_is_said_with_its_place_and_the_load_is_taken_back(
    make: Make, straw: StrawServer, clearance: Clearance
) -> None:
    make(served=2).load(some(2))
    server = make()
    straw.bodies = lambda version, body: (b'{"y": 1}', 0.001)
    outcome = server.load(some(2, 3))
    message = (
        "1 of 2 golden requests failed: golden request 2 of 2: y is 1, expected 2: off by 1, and 0.0002 is allowed. "
        + ADVICE
    )
    assert outcome == Refused(message, {3: message}, Reason.GOLDEN_FAILED)
    assert straw.held == straw.boot == some(2)
    assert server.observe(ALL) == ServerView(True, some(2))
    assert clearance.report(3) == GoldenReport(3, GoldenState.FAILED, message)


def test_the_only_version_that_answers_otherwise_stays_out_of_sight_until_it_is_asked_again(
    make: Make, straw: StrawServer
) -> None:
    straw.boot = some(3)
    straw.start()
    server = make()
    straw.bodies = lambda version, body: (b"[]", 0.001)
    assert isinstance(server.load(some(3)), Refused)
    assert straw.boot == straw.held == some(3), "there is nothing to go back to"
    assert server.observe(ALL) == ServerView(True, some())
    straw.bodies = echo
    assert server.load(some(3)) == Loaded()
    assert server.observe(ALL) == ServerView(True, some(3))


def test_an_answer_that_isnt_one_ends_the_asking(make: Make, straw: StrawServer) -> None:
    straw.answer = lambda version, body: "no such input"
    outcome = make().load(some(3))
    assert isinstance(outcome, Refused)
    assert outcome.message.startswith(
        '1 of 2 golden requests failed: golden request "one" (1 of 2) failed: no such input. '
    )
    assert len(straw.asked) == 1


def test_an_answer_that_is_no_json_is_shown(make: Make, straw: StrawServer) -> None:
    straw.bodies = lambda version, body: (b"cat", 0.001)
    outcome = make().load(some(3))
    assert isinstance(outcome, Refused)
    assert "golden request \"one\" (1 of 2): its answer isn't JSON: 'cat'; " in outcome.message


def test_many_failures_make_one_message_of_bounded_length(make: Make, straw: StrawServer) -> None:
    straw.bodies = lambda version, body: (json.dumps({"y": ["b" * 100] * 50}).encode(), 0.001)
    requests = tuple(GoldenRequest("n" * 63, {"x": 1}, {"y": ["a" * 100] * 50}) for _ in range(60))
    outcome = make(golden=Golden(requests)).load(some(3))
    assert isinstance(outcome, Refused)
    assert len(outcome.message) <= 1600
    assert outcome.message.startswith("60 of 60 golden requests failed: ")
    assert "; and 57 more. " in outcome.message
    assert outcome.message.endswith(ADVICE)


# Latency


@pytest.mark.parametrize(
    ("took_milliseconds", "is_ready"),
    [([900, 40], True), ([40, 60, 60, 40], True), ([40, 60, 70, 80], False), ([1, 50], True)],
)
def test_the_limit_is_for_warm_answers_and_the_fastest_of_three_counts(
    make: Make, straw: StrawServer, took_milliseconds: list[int], is_ready: bool
) -> None:
    took = iter(took_milliseconds)
    straw.bodies = lambda version, body: (b'{"y": 1}', next(took) / 1000)
    golden = Golden((GoldenRequest("one", {"x": 1}, {"y": 1}, 50),))
    outcome = make(golden=golden).load(some(3))
    if is_ready:
        assert outcome == Loaded()
    else:
        assert isinstance(outcome, Refused)
        assert outcome.message.startswith(
            'golden request "one" (1 of 1): the fastest of 3 warm answers took 60.0 ms, at most 50 ms are allowed'
        )
    assert next(took, None) is None


def test_a_generous_limit_is_waited_for(make: Make, straw: StrawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    ask = straw.ask

    def noting(version: int, body: object, seconds: float) -> Any:
        waits.append(seconds)
        return ask(version, body, seconds)

    monkeypatch.setattr(straw, "ask", noting)
    make(golden=Golden((GoldenRequest(None, {"x": 1}, {"y": 1}, 300_000),))).load(some(3))
    make(served=2, golden=Golden((GoldenRequest(None, {"x": 1}, {"y": 1}),))).load(some(2))
    assert waits == [600.0, 600.0, 60.0]


# The file


def test_the_file_of_the_versions_own_folder_is_asked(make: Make, straw: StrawServer, volume: ModelVolume) -> None:
    (volume.repository / "3" / "tests").mkdir()
    (volume.repository / "3" / "tests" / "golden.json").write_text('[{"request": {"x": 5}, "response": {"y": 5}}]')
    assert make(golden=Golden(file="tests/golden.json")).load(some(3)) == Loaded()
    assert straw.asked == [(3, {"x": 5})]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no golden.json in the folder of version 3, and spec.rollout.gates.golden.file names it. Put"),
        ("{", "golden.json in the folder of version 3 isn't JSON (Expecting property name"),
        ("[" * 100_000, "golden.json in the folder of version 3 isn't JSON ("),
        ("{}", "golden.json in the folder of version 3 must be a JSON list of objects, each"),
        ('[{"request": {}}]', "golden.json in the folder of version 3[0] has no response; it has request"),
    ],
)
def test_a_file_that_cant_be_used_refuses_the_version(
    make: Make, straw: StrawServer, volume: ModelVolume, content: str | None, words: str
) -> None:
    if content is not None:
        (volume.repository / "3" / "golden.json").write_text(content)
    outcome = make(golden=Golden(file="golden.json")).load(some(3))
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.GOLDEN_UNREADABLE
    assert outcome.words[3].startswith(words)
    assert straw.asked == []


def test_a_file_that_is_too_large_isnt_read(make: Make, volume: ModelVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_module, "FILE_LIMIT_BYTES", 1 << 20)
    (volume.repository / "3" / "golden.json").write_text("[" + " " * (1 << 20) + "]")
    outcome = make(golden=Golden(file="golden.json")).load(some(3))
    assert isinstance(outcome, Refused)
    assert outcome.message == "golden.json in the folder of version 3 is larger than 1 MiB"


# What stands


def test_a_version_that_passed_isnt_asked_again_by_whatever_restarts(
    make: Make, straw: StrawServer, volume: ModelVolume, published: Bytes
) -> None:
    make().load(some(3))
    straw.kill()
    assert make().observe(ALL) == ServerView()
    straw.start()
    again = Clearance(volume, published)
    server = make(known=again)
    straw.asked.clear()
    assert server.observe(ALL).ready == some(3)
    assert server.load(some(3)) == Loaded()
    assert straw.asked == []
    assert again.report(3) == GoldenReport(3, GoldenState.PASSED, "2 of 2 answered as expected, slowest 2.1 ms")


def test_other_golden_requests_leave_what_stands_in_service(
    make: Make, straw: StrawServer, clearance: Clearance
) -> None:
    make().load(some(3))
    other = Golden((GoldenRequest(None, {"x": 1}, {"y": 7}),))
    server = make(golden=other)
    straw.asked.clear()
    assert server.observe(ALL).ready == some(3)
    assert server.load(some(3)) == Loaded()
    assert straw.asked == []
    assert clearance.report(3) == GoldenReport(
        3, GoldenState.PASSED, "not asked: version 3 served before these requests came"
    )


def test_what_was_asked_for_requests_that_have_changed_counts_for_nothing(
    make: Make, straw: StrawServer, clearance: Clearance
) -> None:
    server = make()
    straw.answer = lambda version, body: clearance.expect("others")
    assert server.load(some(3)) == Loaded()
    assert server.observe(ALL).ready == some()
    assert clearance.report(3) is None
    clearance.expect(GOLDEN.fingerprint())

    def refuse(version: int, body: object) -> str:
        clearance.expect("others")
        return "no"

    straw.answer = refuse
    assert isinstance(server.load(some(3)), Refused)
    assert clearance.report(3) is None


def test_what_served_before_there_were_golden_requests_goes_on(
    make: Make, straw: StrawServer, clearance: Clearance
) -> None:
    straw.load(some(3))
    clearance.adopt({3: "three"})
    server = make()
    assert server.observe(ALL).ready == some(3)
    assert server.load(some(3)) == Loaded()
    assert straw.asked == []


def test_a_version_that_is_replaced_in_place_serves_on_and_its_new_bytes_are_asked(
    make: Make, straw: StrawServer, published: Bytes
) -> None:
    server = make()
    server.load(some(3))
    published.digests[3] = "other"
    straw.asked.clear()
    assert server.observe(ALL).ready == some(3)
    server.load(some(3))
    assert len(straw.asked) == 2


def test_other_bytes_that_come_after_a_version_was_gone_are_hidden_until_they_pass(
    make: Make, straw: StrawServer, published: Bytes
) -> None:
    server = make()
    server.load(some(3))
    straw.load(some(2))
    published.digests[3] = "other"
    assert server.observe(ALL).ready == some(2)
    straw.load(some(3))
    assert server.observe(ALL).ready == some()


def test_a_server_that_ends_at_a_request_is_gone_and_comes_back_without_what_ended_it(
    make: Make, straw: StrawServer, clearance: Clearance
) -> None:
    make(served=2).load(some(2))

    def die(version: int, body: object) -> str:
        straw.kill()
        return "the connection broke"

    straw.answer = die
    outcome = make().load(some(2, 3))
    assert outcome == Gone(
        'the server ended at version 3\'s golden request "one" (1 of 2) failed: the connection broke'
    )
    assert straw.boot == some(2)
    assert clearance.report(3) is None


def test_a_refused_load_asks_nothing(make: Make, straw: StrawServer) -> None:
    straw.refusal = Refused("no such model")
    assert make().load(some(3)) == Refused("no such model")
    assert straw.asked == []


@pytest.mark.parametrize("text", ["", "[]", "{", '{"3": 1}', '{"x": ["a", "b", "c"]}'])
def test_an_unreadable_note_clears_nothing(
    make: Make, straw: StrawServer, volume: ModelVolume, published: Bytes, text: str
) -> None:
    volume.write_note("golden.json", text)
    straw.load(some(3))
    assert make(known=Clearance(volume, published)).observe(ALL).ready == some()
