"""A person's command: each verb, each refusal, and that it is acted on once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from slipway.api.status import CommandStatus, ModelDeploymentStatus, Pinned
from slipway.decide.commands import COMMAND_ANNOTATION, VERBS, CommandOutcome, TemplateChange, carry_out, read_command
from slipway.model.rollout import Step
from slipway.model.rollout_state import Rejection, RolloutState
from slipway.model.signals import Command

NOW = datetime(2026, 3, 1, tzinfo=UTC)
STEPS = (Step(5, 1, 60), Step(5, 1, None, is_pause=True), Step(25, 1, 60), Step(100, 4))
HISTORY = ("older", "old", "new")
PREPARES = RolloutState("old", "new", progress_since=NOW)
AT_STEP_1 = replace(PREPARES, step_index=1, step_since=NOW, weight_percent=5)
AT_PAUSE = replace(AT_STEP_1, step_index=2)
AT_100 = replace(AT_STEP_1, step_index=4, weight_percent=100)
BAKES = RolloutState("new", previous="old", bake_until=NOW, progress_since=NOW)
BAKES_IN_PLACE = RolloutState("new", bake_until=NOW)
RESTS = RolloutState("new")
REJECTED = RolloutState("old", rejected=(Rejection("new", "c"),))
PINNED = Pinned(revision="older", instead_of="new")
PINS = replace(RESTS, pinned=PINNED)


def said(
    text: str,
    memory: RolloutState = AT_STEP_1,
    pinned: Pinned | None = None,
    *,
    asked: str = "new",
    steps: tuple[Step, ...] = STEPS,
) -> CommandOutcome:
    """What comes of VERB/REVISION."""
    verb, _, revision = text.partition("/")
    return carry_out(Command(verb, revision, "1"), replace(memory, pinned=pinned), asked, HISTORY, steps, warm="old")


def body(annotation: Any) -> dict[str, Any]:
    return {"metadata": {"annotations": {COMMAND_ANNOTATION: annotation}}}


def last(identity: str) -> ModelDeploymentStatus:
    done = CommandStatus(id=identity, verb="pause", revision="new", at="2026-03-01T00:00:00Z", accepted=True)
    return ModelDeploymentStatus(last_command=done)


# ---- reading


@pytest.mark.parametrize("metadata", [{}, {"annotations": None}, {"annotations": {"slipway.dev/other": "x"}}])
def test_without_the_annotation_there_is_no_command(metadata: dict[str, Any]) -> None:
    assert read_command({"metadata": metadata}, ModelDeploymentStatus()) is None


def test_the_annotation_names_verb_revision_and_id() -> None:
    read = read_command(body("rollback/0d9e7c4f11/2026-03-01T12.00_a-b"), ModelDeploymentStatus())
    assert read == Command("rollback", "0d9e7c4f11", "2026-03-01T12.00_a-b")


@pytest.mark.parametrize(
    "text", ["promote", "promote/new", "promote/new/1/2", "Promote/new/1", "/new/1", "promote//1", "x" * 500, "a/b/c d"]
)
def test_what_cannot_be_read_is_refused_in_words_once(text: str) -> None:
    read = read_command(body(text), ModelDeploymentStatus())
    assert read is not None
    outcome = carry_out(read, AT_STEP_1, "new", HISTORY, STEPS)
    assert (outcome.is_accepted, outcome.state) == (False, AT_STEP_1)
    assert "kubectl slipway" in outcome.message
    assert read_command(body(text), last(read.id)) is None


def test_the_same_id_is_not_carried_out_twice() -> None:
    assert read_command(body("promote/new/7"), last("7")) is None
    assert read_command(body("promote/new/8"), last("7")) == Command("promote", "new", "8")


# ---- verbs


def test_no_command_changes_nothing() -> None:
    assert carry_out(None, PINS, "new", HISTORY, STEPS) == CommandOutcome(PINS)


ACCEPTED = [
    pytest.param("pause/new", AT_STEP_1, replace(AT_STEP_1, is_paused=True), id="pause"),
    pytest.param("pause/new", PREPARES, replace(PREPARES, is_paused=True), id="pause while it prepares"),
    pytest.param(
        "resume/new", replace(AT_STEP_1, is_paused=True), replace(AT_STEP_1, progress_since=None), id="resume"
    ),
    pytest.param(
        "resume/new",
        AT_PAUSE,
        replace(AT_PAUSE, step_index=3, step_since=None, progress_since=None),
        id="resume at a step that is a pause: the next one",
    ),
    pytest.param(
        "skip/new", AT_STEP_1, replace(AT_STEP_1, step_index=2, step_since=None, progress_since=None), id="skip"
    ),
    pytest.param(
        "promote/new",
        AT_STEP_1,
        replace(AT_STEP_1, step_index=4, step_since=None, progress_since=None, is_promote_requested=True),
        id="promote: the last step",
    ),
    pytest.param(
        "promote/new",
        PREPARES,
        replace(PREPARES, progress_since=None, is_promote_requested=True),
        id="promote while it prepares: pods and gates are still waited for",
    ),
    pytest.param("promote/new", BAKES, replace(BAKES, bake_until=None), id="promote in bake: it is over"),
    pytest.param(
        "skip/new",
        replace(AT_STEP_1, is_paused=True),
        replace(AT_STEP_1, is_paused=True, step_index=2, step_since=None, progress_since=None),
        id="skip while a person's pause stands: it stands in the next step",
    ),
    pytest.param(
        "skip/new",
        AT_PAUSE,
        replace(AT_PAUSE, step_index=3, step_since=None, progress_since=None),
        id="skip a step that is a pause",
    ),
    pytest.param(
        "promote/new",
        BAKES_IN_PLACE,
        replace(BAKES_IN_PLACE, bake_until=None),
        id="promote in bake, in place: likewise",
    ),
    pytest.param("retry/new", REJECTED, replace(REJECTED, rejected=()), id="retry"),
]


@pytest.mark.parametrize(("text", "before", "after"), ACCEPTED)
def test_a_command_is_carried_out_on_the_memory(text: str, before: RolloutState, after: RolloutState) -> None:
    outcome = said(text, before)
    assert outcome.is_accepted
    assert (outcome.state, outcome.state.pinned, outcome.abort) == (after, None, None)
    assert outcome.message


def test_promote_while_it_prepares_says_what_is_waited_for() -> None:
    assert "once its pods are ready and its gates have passed" in said("promote/new", PREPARES).message
    assert said("promote/new", AT_STEP_1).message == "revision new goes to 100 % now"


@pytest.mark.parametrize("memory", [PREPARES, AT_STEP_1, AT_PAUSE, AT_100, BAKES, BAKES_IN_PLACE])
def test_abort_takes_back_what_is_on_its_way_or_bakes(memory: RolloutState) -> None:
    outcome = said("abort/new", memory)
    assert outcome.is_accepted
    assert outcome.abort is not None
    assert outcome.abort.reason == "Aborted"
    assert outcome.state == memory


def test_abort_in_bake_is_refused_while_there_is_nothing_to_go_back_to() -> None:
    outcome = carry_out(Command("abort", "new", "1"), BAKES, "new", HISTORY, STEPS, warm=None)
    assert (outcome.is_accepted, outcome.abort, outcome.state) == (False, None, BAKES)
    assert "revision old" in outcome.message
    assert "rollback --to old" in outcome.message


def test_abort_in_bake_in_place_is_refused_once_the_version_before_is_not_loaded() -> None:
    outcome = carry_out(Command("abort", "new", "1"), BAKES_IN_PLACE, "new", HISTORY, (), warm=None)
    assert (outcome.is_accepted, outcome.abort, outcome.state) == (False, None, BAKES_IN_PLACE)
    assert "kubectl slipway rollback" in outcome.message


@pytest.mark.parametrize("verb", ["abort", "promote"])
def test_a_bake_in_place_ends_once_the_spec_names_another(verb: str) -> None:
    outcome = said(f"{verb}/new", BAKES_IN_PLACE, asked="newer")
    assert (outcome.is_accepted, outcome.abort, outcome.state) == (False, None, BAKES_IN_PLACE)


@pytest.mark.parametrize("verb", ["abort", "promote"])
def test_what_a_person_rolled_back_to_is_left_by_retry(verb: str) -> None:
    memory = RolloutState("older", bake_until=NOW)
    outcome = said(f"{verb}/older", memory, PINNED)
    assert (outcome.is_accepted, outcome.abort, outcome.state) == (False, None, replace(memory, pinned=PINNED))
    assert "To serve revision new again: kubectl slipway retry" in outcome.message


def test_skip_says_that_the_pause_stays() -> None:
    assert "still paused there" in said("skip/new", replace(AT_STEP_1, is_paused=True)).message
    assert "paused" not in said("skip/new", AT_STEP_1).message


REFUSED = [
    pytest.param("dance/new", AT_STEP_1, "there are promote, abort", id="no verb"),
    pytest.param("promote/older", AT_STEP_1, "isn't taking over now", id="late: to a revision before"),
    pytest.param("abort/old", AT_STEP_1, "isn't taking over now", id="to the stable revision"),
    pytest.param("pause/new", RESTS, "isn't taking over now", id="nothing is on its way"),
    pytest.param("abort/new", RESTS, "nothing to abort", id="abort too late: it is promoted"),
    pytest.param(
        "abort/new", RolloutState(None, "new"), "isn't taking over now", id="the first revision: nothing to go to"
    ),
    pytest.param("pause/new", BAKES, "isn't taking over now", id="pause in bake"),
    pytest.param("resume/new", AT_STEP_1, "isn't paused", id="resume what goes on"),
    pytest.param("skip/new", PREPARES, "no step to skip yet", id="skip while it prepares"),
    pytest.param("skip/new", AT_100, "in its last step", id="skip the last step"),
    pytest.param("retry/new", AT_STEP_1, "isn't rejected", id="retry what isn't rejected"),
    pytest.param("retry/older", REJECTED, "isn't rejected", id="retry another"),
    pytest.param("rollback/gone", AT_STEP_1, "isn't in the history (new, old, older)", id="rollback to the unknown"),
    pytest.param("rollback/new", AT_STEP_1, "the spec's own already", id="rollback to the spec's own"),
    pytest.param("rollback/new", REJECTED, "kubectl slipway retry", id="rollback to the spec's own, rejected"),
    pytest.param("refresh/old", AT_STEP_1, "revision new is taking over", id="refresh stable beside a canary"),
    pytest.param("refresh/new", AT_STEP_1, "revision new doesn't serve; revision old does", id="refresh a canary"),
    pytest.param("refresh/new", BAKES, "revision new bakes", id="refresh in bake"),
    pytest.param("refresh/new", BAKES_IN_PLACE, "revision new bakes", id="refresh in bake, in place"),
    pytest.param("refresh/old", RESTS, "revision old doesn't serve; revision new does", id="refresh what is kept"),
    pytest.param("refresh/new", RolloutState(), "nothing does yet", id="refresh before anything starts"),
    pytest.param("refresh/gone", RolloutState("gone"), "is gone", id="refresh what is no longer kept"),
    pytest.param("refresh/old", RolloutState("old"), "revision new is taking over", id="refresh, the spec just edited"),
]


@pytest.mark.parametrize(("text", "memory", "words"), REFUSED)
def test_a_command_that_does_not_fit_changes_nothing_and_says_why(text: str, memory: RolloutState, words: str) -> None:
    outcome = said(text, memory)
    assert (outcome.is_accepted, outcome.state, outcome.state.pinned, outcome.abort) == (False, memory, None, None)
    assert words in outcome.message


@pytest.mark.parametrize("verb", ["promote", "skip", "pause", "resume"])
def test_what_needs_steps_is_refused_without_them(verb: str) -> None:
    outcome = said(f"{verb}/new", PREPARES, steps=())
    assert not outcome.is_accepted
    assert "needs a rollout by steps" in outcome.message


def test_abort_needs_no_steps() -> None:
    assert said("abort/new", PREPARES, steps=()).abort is not None


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_to_another_revision_never_touches_the_canary(verb: str) -> None:
    outcome = said(f"{verb}/older", AT_STEP_1)
    assert (replace(outcome.state, pinned=None), outcome.abort) == (AT_STEP_1, None)


# ---- refresh


@pytest.mark.parametrize(
    ("text", "state"),
    [
        pytest.param("refresh/new", RESTS, id="what serves"),
        pytest.param("refresh/new", RolloutState(None, "new"), id="a first revision that doesn't come up"),
        pytest.param("refresh/old", REJECTED, id="what serves while the spec's is rejected"),
        pytest.param("refresh/older", RolloutState("older", pinned=PINNED), id="what a person rolled back to"),
    ],
)
def test_a_refresh_changes_the_template_of_what_serves_and_nothing_else(text: str, state: RolloutState) -> None:
    outcome = said(text, state, state.pinned)
    assert (outcome.is_accepted, outcome.template, outcome.state) == (True, TemplateChange.ANEW, state)


def test_abort_of_a_refresh_changes_the_template_back_and_rejects_nothing() -> None:
    outcome = carry_out(Command("abort", "new", "1"), RESTS, "new", HISTORY, STEPS, is_refreshing=True)
    assert (outcome.is_accepted, outcome.template, outcome.abort) == (True, TemplateChange.BACK, None)
    assert outcome.state == RESTS


@pytest.mark.parametrize("state", [AT_STEP_1, BAKES])
def test_beside_a_canary_or_in_bake_abort_means_that_one(state: RolloutState) -> None:
    outcome = carry_out(Command("abort", "new", "1"), state, "new", HISTORY, STEPS, warm="old", is_refreshing=True)
    assert outcome.template is None
    assert outcome.abort is not None


# ---- rollback --to


def test_rollback_pins_a_revision_of_the_history() -> None:
    outcome = said("rollback/older", RESTS)
    assert outcome.is_accepted
    assert outcome.state.pinned == Pinned(revision="older", instead_of="new")
    assert replace(outcome.state, pinned=None) == RESTS


def test_rollback_to_a_revision_that_was_rejected_tries_it_again() -> None:
    memory = RolloutState("new", rejected=(Rejection("older", "c"), Rejection("new", "c")))
    assert said("rollback/older", memory).state.rejected == (Rejection("new", "c"),)


def test_a_rollback_stands_until_the_spec_names_another() -> None:
    assert carry_out(None, PINS, "new", HISTORY, STEPS).state.pinned == PINNED
    assert carry_out(None, PINS, "newer", HISTORY, STEPS).state.pinned is None


def test_a_rollback_to_what_is_no_longer_kept_ends() -> None:
    assert carry_out(None, PINS, "new", ("old", "new"), STEPS).state.pinned is None


@pytest.mark.parametrize("verb", ["retry", "rollback"])
def test_retry_of_the_specs_revision_ends_a_rollback_and_forgives_it(verb: str) -> None:
    outcome = said(f"{verb}/new", REJECTED, PINNED)
    assert outcome.is_accepted
    assert outcome.state.pinned is None
    assert outcome.state.rejected == ()


@pytest.mark.parametrize(
    ("verb", "is_accepted"),
    [("skip", False), ("resume", False), ("refresh", False), ("pause", True), ("promote", True)],
)
def test_where_status_was_lost_no_command_takes_a_canary_past_a_pause_a_second_time(
    verb: str, *, is_accepted: bool
) -> None:
    outcome = carry_out(Command(verb, "new", "1"), AT_STEP_1, "new", HISTORY, STEPS, is_lost=True)
    assert outcome.is_accepted is is_accepted
    if not is_accepted:
        assert (outcome.state, f"Say it again: {verb}" in outcome.message) == (AT_STEP_1, True)
