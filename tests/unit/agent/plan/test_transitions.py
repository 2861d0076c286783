"""What each event makes of the World: one table for the end of a load, and the other events one by one."""

from dataclasses import replace

import pytest

from slipway_agent.config import Config, Source
from slipway_agent.model.errors import AgentError, Reason, SpecError, TransientError, UnchangedError
from slipway_agent.model.golden import Golden
from slipway_agent.model.ledger import Ledger, Published
from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused, ServerView
from slipway_agent.plan.failures import DEADLY_WORDS, Failure
from slipway_agent.plan.transitions import (
    LoadEnded,
    reconfigure,
    restore,
    take_fetch_refusal,
    take_load,
    take_load_error,
    take_published,
    take_record,
    take_second_look,
    take_secret,
    take_view,
)
from slipway_agent.plan.world import LoadRecord, World, is_serving
from tests.unit.agent.servers.fake_http import some

NOW = 1000.0
CONFIG = Config("g", "Triton", "digits", Source("pvc://models/digits", "/source"), served=3, load=(2, 3))
BYTES = {version: Published(f"{version:064x}", 10, f"pvc://models/digits/{version}", "etag") for version in (2, 3)}
WORLD = World(CONFIG, NOW, published=BYTES, server=ServerView(True, some(2)), boot=some(2), standing=2)
FAILED = Failure(Reason.LOAD_FAILED, "no", True, 1, NOW + 60)


def ended(outcome: LoadOutcome | AgentError, *asked: int, config: Config = CONFIG) -> LoadEnded:
    return LoadEnded(some(*asked), some(2), BYTES, config, 1.0, outcome)


def test_a_load_that_went_well_is_the_boot_configuration_and_ends_the_failures_of_what_it_loaded() -> None:
    waiting = {version: replace(published, awaits_load=True) for version, published in BYTES.items()}
    before = replace(WORLD, published=waiting, load_failures={3: FAILED, 4: FAILED}, loading=some(2, 3))
    taken = take_load(before, replace(ended(Loaded(), 2, 3), published_before=waiting))
    assert (taken.result, taken.blamed) == ("loaded", some())
    assert (taken.world.boot, taken.world.is_boot_current) == (some(2, 3), True)
    assert (taken.world.loading, taken.world.last_load) == (None, LoadRecord(some(2, 3), NOW))
    assert taken.world.load_failures == {4: FAILED}
    assert taken.world.published == BYTES


def test_bytes_that_came_while_it_loaded_and_settings_that_changed_still_wait_for_a_load() -> None:
    newer = {**BYTES, 3: replace(BYTES[3], sha256="f" * 64, awaits_load=True)}
    labelled = replace(CONFIG, labels={"stable": 3})
    taken = take_load(replace(WORLD, published=newer, config=labelled), ended(Loaded(), 2, 3))
    assert taken.world.published == newer
    assert not taken.world.is_boot_current


@pytest.mark.parametrize("outcome", [Refused("no", {3: "no"}), TransientError("disk")])
def test_what_was_refused_under_an_earlier_configuration_is_asked_anew(outcome: LoadOutcome | AgentError) -> None:
    taken = take_load(WORLD, ended(outcome, 2, 3, config=replace(CONFIG, generation="before")))
    assert (taken.result, taken.world.load_failures, taken.world.last_load) == ("superseded", {}, None)


def test_other_golden_requests_are_asked_at_once() -> None:
    world = replace(WORLD, config=replace(CONFIG, golden=Golden(file="golden.json")))
    assert take_load(world, ended(Loaded(), 2, 3)).world.last_load is None


@pytest.mark.parametrize(
    ("named", "blamed", "is_current"),
    [({3: "bad"}, some(3), True), ({2: "bad"}, some(2), False)],
    ids=["the served version leaves what serves alone", "an extra leaves the configuration to be written without it"],
)
def test_a_refusal_blames_what_the_server_names(
    named: dict[int, str], blamed: frozenset[int], is_current: bool
) -> None:
    taken = take_load(WORLD, ended(Refused("all", named, Reason.WARMUP_FAILED), 2, 3))
    assert (taken.result, taken.blamed) == ("refused", blamed)
    assert taken.world.is_boot_current is is_current
    [failure] = taken.world.load_failures.values()
    assert (failure.reason, failure.message, failure.retry_at) == (Reason.WARMUP_FAILED, "bad", NOW + 60)


def test_a_load_that_couldnt_be_tried_is_the_served_versions_failure() -> None:
    taken = take_load(WORLD, ended(SpecError(Reason.MODEL_INVALID, "config.pbtxt"), 2, 3))
    assert (taken.result, taken.world.is_boot_current) == ("ModelInvalid", True)
    assert taken.world.load_failures[3].reason is Reason.MODEL_INVALID
    unnamed = replace(WORLD, config=replace(CONFIG, served=None, load=()))
    assert take_load_error(unnamed, TransientError("disk")) == unnamed


def test_a_server_that_ended_with_one_new_version_counts_its_deaths() -> None:
    once = take_load(WORLD, ended(Gone("it ended"), 2, 3))
    assert (once.result, once.blamed, once.world.load_failures[3].deaths) == ("gone", some(3), 1)
    assert once.world.load_failures[3].message == "it ended"
    twice = take_load(once.world, ended(Gone("it ended"), 2, 3)).world.load_failures[3]
    assert (twice.deaths, twice.attempts, twice.is_outdated) == (2, 2, False)
    assert twice.message == f"it ended. {DEADLY_WORDS}"


def test_several_that_were_new_together_are_suspects_and_asked_again_at_once() -> None:
    taken = take_load(replace(WORLD, server=ServerView()), replace(ended(Gone("it ended"), 2, 3), ready_before=some()))
    assert taken.blamed == some(2)
    assert taken.world.load_failures[2] == Failure(
        Reason.LOAD_FAILED, "it ended", True, 1, NOW, is_outdated=True, is_suspect=True
    )


def test_a_death_under_an_earlier_configuration_counts_and_says_nothing_of_this_one() -> None:
    taken = take_load(WORLD, ended(Gone("it ended"), 2, 3, config=replace(CONFIG, generation="before")))
    failure = taken.world.load_failures[3]
    assert (failure.deaths, failure.is_outdated, failure.retry_at) == (1, True, NOW)


def test_a_server_that_starts_again_reads_everything_anew() -> None:
    waiting = {2: replace(BYTES[2], awaits_load=True)}
    before = replace(
        WORLD,
        server=ServerView(),
        published=waiting,
        is_boot_current=True,
        last_load=LoadRecord(some(2), NOW),
        standing=None,
    )
    after = take_view(before, ServerView(True, some(2)), NOW + 1)
    assert (after.published, after.last_load, after.held, after.now) == ({2: BYTES[2]}, None, some(2), NOW + 1)
    assert after.standing is None, "2 isn't the served one"
    loading = take_view(replace(WORLD, loading=some(2, 3), proven=some(2)), ServerView(True, some(3)), NOW)
    assert (loading.proven, loading.standing) == (some(2, 3), 3)
    assert take_view(loading, ServerView(True, some(3)), NOW).published == BYTES
    assert take_view(replace(loading, loading=None), ServerView(True, some(3)), NOW).proven == some()


def test_a_server_that_an_agent_finds_standing_may_hold_the_bytes_of_before() -> None:
    waiting = {2: replace(BYTES[2], awaits_load=True)}
    started = restore(CONFIG, Ledger("digits", waiting, standing=2), some(2), NOW)
    assert take_view(started, ServerView(True, some(2)), NOW + 1).published == waiting


def test_a_pod_that_takes_a_version_back_stays_out_whatever_becomes_of_its_agent() -> None:
    config = replace(CONFIG, served=2, load=(2,))
    both, back = ServerView(True, some(2, 3)), ServerView(True, some(2))
    started = restore(config, Ledger("digits", BYTES, standing=2, has_left=True), some(2), NOW)
    waiting = take_view(started, both, NOW + 1)  # an unversioned request gets 3
    assert not is_serving(waiting)
    assert is_serving(take_view(waiting, back, NOW + 2))
    assert take_view(started, ServerView(), NOW + 1).left_at is None, "a server that starts is no pod that goes over"
    stayed = restore(config, Ledger("digits", BYTES, standing=2), some(2), NOW)
    assert is_serving(take_view(stayed, both, NOW + 1))


def test_published_bytes_end_every_failure_of_their_version() -> None:
    before = replace(
        WORLD, fetch_failures={3: FAILED, 2: FAILED}, load_failures={3: FAILED, 2: FAILED}, held=some(2, 3)
    )
    newer = replace(BYTES[3], sha256="f" * 64)
    after = take_published(before, 3, newer)
    assert (after.fetch_failures, after.load_failures) == ({2: FAILED}, {2: FAILED})
    assert (after.published[3], after.held) == (newer, some(2))


def test_a_fetch_that_fails_waits_longer_each_time_unless_bytes_arrived() -> None:
    once = take_fetch_refusal(WORLD, 3, TransientError("down"), has_progressed=False)
    twice = take_fetch_refusal(once, 3, TransientError("down"), has_progressed=False)
    assert [world.fetch_failures[3].retry_at - NOW for world in (once, twice)] == [1, 2]
    moved = take_fetch_refusal(twice, 3, TransientError("down"), has_progressed=True)
    assert moved.fetch_failures[3].retry_at == NOW + 1
    refused = take_fetch_refusal(WORLD, 3, SpecError(Reason.DIGEST_MISMATCH, "no", "etag"), has_progressed=True)
    unchanged = take_fetch_refusal(refused, 3, UnchangedError(), has_progressed=False)
    assert unchanged.fetch_failures[3] == replace(refused.fetch_failures[3], attempts=2)
    assert take_fetch_refusal(WORLD, 3, UnchangedError(), has_progressed=False) == WORLD


def test_a_second_look_that_finds_nothing_better_lets_the_server_be_asked_again() -> None:
    before = replace(WORLD, load_failures={3: FAILED})
    assert take_second_look(before, 3, UnchangedError()).load_failures[3] == replace(FAILED, is_confirmed=True)
    changed = before
    for _ in range(2):
        changed = take_second_look(changed, 3, SpecError(Reason.CONTENT_CHANGED, "other bytes"))
    assert changed.load_failures[3].message == "no. Its source has other bytes by now: other bytes"


def test_what_a_record_a_secret_and_a_configuration_may_correct_is_tried_again() -> None:
    changed = replace(FAILED, reason=Reason.CONTENT_CHANGED)
    denied = replace(FAILED, reason=Reason.ACCESS_DENIED)
    before = replace(WORLD, fetch_failures={2: changed, 3: denied}, load_failures={3: FAILED}, is_boot_current=True)
    assert take_record(before, {2: "a"}, {2: "a"}) == before
    assert take_record(before, {2: "a"}, {2: "b"}).fetch_failures == {3: denied}
    assert take_secret(before, NOW + 1).fetch_failures == {2: changed, 3: replace(denied, retry_at=NOW + 1)}
    named = reconfigure(before, replace(CONFIG, generation="next"), NOW + 1)
    assert (named.fetch_failures, named.is_boot_current) == ({}, True)
    assert named.load_failures == {3: replace(FAILED, is_outdated=True, retry_at=NOW + 1)}
    assert not reconfigure(before, replace(CONFIG, labels={"stable": 3}), NOW).is_boot_current


@pytest.mark.parametrize(("standing", "held"), [(2, some(2)), (3, some()), (None, some())])
def test_an_agent_that_starts_believes_a_boot_configuration_with_the_version_that_served(
    standing: int | None, held: frozenset[int]
) -> None:
    world = restore(CONFIG, Ledger("digits", BYTES, standing), some(2), NOW)
    assert (world.held, world.boot, world.standing, world.published) == (held, some(2), standing, BYTES)
    assert not world.is_boot_current
