"""What the probes are answered, for each state of the worker, of what is remembered and of the server."""

from dataclasses import replace

import pytest

from slipway_agent.model.readiness import ReadinessQuestion, Verdict
from slipway_agent.supervisor.judging import (
    FRESH_SECONDS,
    HOPELESS_SECONDS,
    SETTLED_SECONDS,
    Confirm,
    Heard,
    judge_live,
    judge_ready,
    judge_start,
    remember,
)

QUESTION = ReadinessQuestion(8000, "/v2/models/digits/versions/3/ready")
SERVES = Verdict(True, may_start=True, is_serving=True, version=3, question=QUESTION)
WAITS = Verdict(True, may_start=True, question=QUESTION, why_not_ready="it loads")
OUT = replace(WAITS, stays_out=True, why_not_ready="it goes over")
FETCHES = Verdict(True, why_not_started="it is fetched", why_not_ready="it is fetched")
BLIND = Verdict(False, why_not_started="agent.json can't be read", why_not_ready="agent.json can't be read")
AWAY = "the worker is away"
NOT_CONFIRMED = f"the server doesn't say that version 3 is ready, and {AWAY}"


def answers(is_good: bool) -> Confirm:
    def confirm(question: ReadinessQuestion) -> bool:
        assert question == QUESTION
        return is_good

    return confirm


def nobody_asks(question: ReadinessQuestion) -> bool:
    raise AssertionError("a worker speaks, or nothing can be confirmed: the server isn't asked")


def old(verdict: Verdict) -> Heard:
    return Heard(verdict, age_seconds=FRESH_SECONDS + 1)


def young(verdict: Verdict, *, has_served: bool = False) -> Heard:
    return Heard(verdict, worker_seconds=1.0, has_served=has_served)


@pytest.mark.parametrize(
    ("heard", "remembered", "confirm", "words"),
    [
        # a worker that speaks is believed, whatever was before
        (Heard(SERVES), None, nobody_asks, ""),
        (Heard(WAITS), SERVES, nobody_asks, "it loads"),
        (Heard(OUT), SERVES, nobody_asks, "it goes over"),
        (Heard(FETCHES), None, nobody_asks, "it is fetched"),
        # one that says nothing, or knows nothing: what it said last, as far as the server says so too
        (old(SERVES), SERVES, answers(True), ""),
        (old(SERVES), SERVES, answers(False), NOT_CONFIRMED),
        (old(WAITS), WAITS, nobody_asks, "it loads"),
        (old(OUT), OUT, nobody_asks, "it goes over"),
        (Heard(BLIND), SERVES, answers(True), ""),
        (Heard(BLIND), SERVES, answers(False), NOT_CONFIRMED),
        (Heard(BLIND), None, nobody_asks, "agent.json can't be read"),
        # none
        (None, SERVES, answers(True), ""),
        (None, SERVES, answers(False), NOT_CONFIRMED),
        (None, OUT, nobody_asks, AWAY),
        (None, WAITS, nobody_asks, AWAY),
        (None, None, nobody_asks, AWAY),
        (None, replace(SERVES, question=None), nobody_asks, NOT_CONFIRMED),
        # one that has just started may have met a busy server, and takes no pod out that answers
        (young(SERVES), SERVES, nobody_asks, ""),
        (young(WAITS), SERVES, answers(True), ""),
        (young(WAITS), SERVES, answers(False), "it loads"),
        (young(WAITS), None, nobody_asks, "it loads"),
        (young(OUT), SERVES, nobody_asks, "it goes over"),
        (young(WAITS, has_served=True), SERVES, nobody_asks, "it loads"),
    ],
)  # fmt: skip
def test_readiness(heard: Heard | None, remembered: Verdict | None, confirm: Confirm, words: str) -> None:
    found = judge_ready(heard, remembered, False, AWAY, confirm)
    assert (found.is_good, found.words) == (not words, words)


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        (Heard(SERVES), ""),
        (None, f"the operator takes the pod out for its server's errors, and {AWAY}"),
        (old(SERVES), f"the operator takes the pod out for its server's errors, and {AWAY}"),
    ],
    ids=["the worker follows it", "nobody else does", "nobody follows it now"],
)
def test_an_order_to_leave_is_heard_while_no_worker_speaks(heard: Heard | None, words: str) -> None:
    found = judge_ready(heard, SERVES, True, AWAY, nobody_asks)
    assert (found.is_good, found.words) == (not words, words)


@pytest.mark.parametrize(
    ("heard", "remembered", "words"),
    [
        (Heard(SERVES), None, ""),
        (Heard(FETCHES), SERVES, "it is fetched"),
        (old(SERVES), SERVES, ""),
        (old(FETCHES), FETCHES, "it is fetched"),
        (Heard(BLIND), SERVES, ""),
        (Heard(BLIND), None, "agent.json can't be read"),
        (None, SERVES, ""),
        (None, WAITS, ""),
        (None, FETCHES, AWAY),
        (None, None, AWAY),
    ],
)
def test_the_server_may_start(heard: Heard | None, remembered: Verdict | None, words: str) -> None:
    found = judge_start(heard, remembered, AWAY)
    assert (found.is_good, found.words) == (not words, words)


@pytest.mark.parametrize(
    ("silent_seconds", "remembered", "confirm", "is_good"),
    [
        (0.0, None, nobody_asks, True),
        (HOPELESS_SECONDS - 1, None, nobody_asks, True),
        (HOPELESS_SECONDS, None, nobody_asks, False),
        (HOPELESS_SECONDS, WAITS, nobody_asks, False),
        (HOPELESS_SECONDS, SERVES, answers(False), False),
        (HOPELESS_SECONDS, SERVES, answers(True), True),
        (86_400.0, SERVES, answers(True), True),
    ],
)
def test_no_silence_of_the_worker_ends_a_container_whose_pod_serves(
    silent_seconds: float, remembered: Verdict | None, confirm: Confirm, is_good: bool
) -> None:
    assert judge_live(silent_seconds, remembered, AWAY, confirm).is_good is is_good


@pytest.mark.parametrize(
    ("before", "heard", "after"),
    [
        (None, Heard(BLIND), None),
        (SERVES, Heard(BLIND), SERVES),
        (None, young(FETCHES), FETCHES),
        (WAITS, young(SERVES), SERVES),
        (SERVES, young(WAITS), SERVES),
        (SERVES, young(OUT), OUT),
        (SERVES, young(WAITS, has_served=True), WAITS),
        (SERVES, Heard(WAITS, worker_seconds=SETTLED_SECONDS), WAITS),
        (OUT, young(WAITS), WAITS),
    ],
)
def test_what_is_remembered(before: Verdict | None, heard: Heard, after: Verdict | None) -> None:
    if after is not None:
        after = replace(after, why_not_started="", why_not_ready="")
    assert remember(before, heard) == after


def test_a_pod_that_serves_stays_what_it_was_however_often_its_worker_begins_anew() -> None:
    remembered: Verdict | None = SERVES
    for _ in range(50):
        for heard in (young(BLIND), young(WAITS)):
            remembered = remember(remembered, heard)
            assert judge_ready(heard, remembered, False, AWAY, answers(True)).is_good
        assert judge_ready(None, remembered, False, AWAY, answers(True)).is_good
