"""The commands of a person: what is written, what the operator says, and what is refused before."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.cli import clusters
from tests.unit.cli.clusters import CANARY, OLD, STABLE, Cli, Time, model, says

Json = dict[str, Any]


def rejected_by_person() -> Json:
    body = model(status={"pinned": {"revision": OLD, "insteadOf": STABLE}})
    body["status"]["stable"] |= {"revision": OLD, "version": 1}
    return body


def rolled_back_in_place() -> Json:
    """The version that was left stays loaded for a while, and there is nothing to abort."""
    body = rejected_by_person()
    body["status"]["bakeUntil"] = clusters.ago(seconds=-60)
    return body


@pytest.mark.parametrize(
    ("verb", "make", "revision"),
    [
        ("promote", clusters.in_canary, CANARY),
        ("pause", clusters.in_canary, CANARY),
        ("resume", clusters.at_pause, CANARY),
        ("skip", clusters.in_canary, CANARY),
        ("abort", clusters.in_canary, CANARY),
        ("promote", clusters.in_bake, CANARY),
        ("abort", clusters.in_bake, CANARY),
        ("promote", clusters.in_bake_in_place, CANARY),
        ("abort", clusters.in_bake_in_place, CANARY),
        ("retry", clusters.rolled_back, CANARY),
        ("retry", rejected_by_person, STABLE),
        ("rollback", model, OLD),
        ("abort", clusters.in_refresh, STABLE),
        ("rollback", clusters.in_bake, STABLE),
        ("rollback", clusters.in_bake_in_place, STABLE),
    ],
)
def test_a_command_is_one_annotation_that_names_its_revision(
    cli: Cli, verb: str, make: Callable[[], Json], revision: str
) -> None:
    cli.cluster.models = [make()]
    cli.cluster.operator = says(True, "so it is")
    before = json.dumps(cli.cluster.models[0]["spec"])
    shown = cli(verb, "digits")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == "digits: so it is\n"
    (written,) = cli.cluster.annotated
    assert re.fullmatch(rf"slipway\.dev/command={verb}/{revision}/[-._A-Za-z0-9]{{1,128}}", written)
    assert json.dumps(cli.cluster.models[0]["spec"]) == before


def test_two_equal_commands_have_two_ids(cli: Cli) -> None:
    cli.cluster.models = [clusters.in_canary()]
    cli.cluster.operator = says(True, "")
    cli("pause", "digits")
    cli("pause", "digits")
    assert len(set(cli.cluster.annotated)) == 2


def test_a_refusal_is_printed_in_the_operators_words(cli: Cli) -> None:
    cli.cluster.models = [clusters.in_canary()]
    cli.cluster.operator = says(False, "the canary is in its last step: there is none to skip to")
    shown = cli("skip", "digits")
    assert shown.exit_code == 1
    assert shown.stdout == ""
    assert shown.stderr == (
        f"slipway: the operator does not skip {CANARY}: the canary is in its last step: there is none to skip to\n"
    )


def test_an_operator_that_is_down_ends_in_a_timeout(cli: Cli, time_of_test: Time) -> None:
    cli.cluster.models = [clusters.in_canary()]
    shown = cli("abort", "digits", "--timeout", "5s")
    assert shown.exit_code == 4
    assert time_of_test.passed == pytest.approx(5)
    assert "annotate mdep digits slipway.dev/command-" in shown.stderr
    assert len(cli.cluster.annotated) == 1


def test_no_wait_only_writes(cli: Cli, time_of_test: Time) -> None:
    cli.cluster.models = [clusters.in_canary()]
    shown = cli("abort", "digits", "--no-wait")
    assert shown.exit_code == 0
    assert time_of_test.passed == 0
    assert len(cli.cluster.annotated) == 1


def test_a_command_that_is_overtaken_says_so(cli: Cli, time_of_test: Time) -> None:
    cli.cluster.models = [clusters.in_canary()]

    def overtake() -> None:
        cli.cluster.models[0]["metadata"]["annotations"]["slipway.dev/command"] = f"abort/{CANARY}/other"

    time_of_test.each_sleep = overtake
    shown = cli("pause", "digits")
    assert shown.exit_code == 1
    assert f"'abort/{CANARY}/other' replaced the command" in shown.stderr


def test_taking_the_place_of_an_unread_command_is_noted(cli: Cli) -> None:
    cli.cluster.models = [clusters.in_canary()]
    cli.cluster.models[0]["metadata"]["annotations"] = {"slipway.dev/command": f"pause/{CANARY}/unread"}
    cli.cluster.operator = says(True, "back")
    shown = cli("abort", "digits")
    assert shown.exit_code == 0
    assert shown.stderr == f"slipway: note: the operator has not read 'pause/{CANARY}/unread' yet; abort replaces it\n"


def test_scripts_read_what_the_operator_said(cli: Cli) -> None:
    cli.cluster.models = [clusters.in_canary()]
    cli.cluster.operator = says(False, "no")
    shown = cli("skip", "digits", "-o", "json")
    assert shown.exit_code == 1
    document = json.loads(shown.stdout)
    assert (document["verb"], document["revision"], document["accepted"], document["message"]) == (
        "skip",
        CANARY,
        False,
        "no",
    )


def rolling() -> Json:
    body = clusters.in_canary(step=None, verdict=None)
    body["status"]["canary"]["strategy"] = "RollingUpdate"
    return body


def paused() -> Json:
    body = clusters.in_canary()
    body["status"]["step"]["paused"] = True
    return body


def only_first() -> Json:
    body = model()
    body["status"]["stable"]["revision"] = OLD
    return body


@pytest.mark.parametrize(
    ("words", "make", "says_"),
    [
        (("promote", "digits"), model, "no revision of digits is taking over, so there is nothing to promote"),
        (("abort", "digits"), model, "rollback goes back to the revision before it"),
        (("abort", "digits"), rejected_by_person, f"a person rolled back to it; retry serves {STABLE} again"),
        (("abort", "digits"), rolled_back_in_place, f"a person rolled back to it; retry serves {STABLE} again"),
        (("pause", "digits"), clusters.in_bake_in_place, "nothing to pause"),
        (("promote", "digits"), clusters.rolled_back, f"{CANARY} is rejected; retry tries it again"),
        (("pause", "digits"), clusters.in_bake, "nothing to pause"),
        (("pause", "digits"), paused, "is paused already; resume continues it"),
        (("resume", "digits"), clusters.in_canary, "is not paused; skip ends its step now"),
        (("pause", "digits"), rolling, "arrives pod by pod; abort takes it back"),
        (("retry", "digits"), model, "digits has no rejected revision"),
        (("rollback", "digits"), clusters.in_canary, f"abort sends all requests back to {STABLE}"),
        (("rollback", "digits", "--to", "canary"), clusters.in_canary, "promote sends it to 100 % now"),
        (("rollback", "digits", "--to", STABLE), model, "serves already; history lists the others"),
        (("rollback", "digits"), only_first, "no kept revision is older than"),
    ],
)
def test_what_cant_work_is_refused_before_anything_is_written(
    cli: Cli, words: tuple[str, ...], make: Callable[[], Json], says_: str
) -> None:
    cli.cluster.models = [make()]
    shown = cli(*words)
    assert shown.exit_code == 1
    assert says_ in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    assert cli.cluster.annotated == []


@pytest.mark.parametrize(("typed", "meant"), [(OLD, OLD), (OLD[:4], OLD), ("1", OLD), ("3", CANARY)])
def test_a_revision_is_named_in_many_ways(cli: Cli, typed: str, meant: str) -> None:
    cli.cluster.models = [model()]
    cli.cluster.operator = says(True, "")
    shown = cli("rollback", "digits", "--to", typed)
    assert shown.exit_code == 0, shown.output
    assert f"/{meant}/" in cli.cluster.annotated[0]


@pytest.mark.parametrize("typed", ["7", "77a", "ffffffffff", "canary", ""])
def test_an_unknown_revision_is_answered_with_those_there_are(cli: Cli, typed: str) -> None:
    cli.cluster.models = [model()]
    shown = cli("rollback", "digits", "--to", typed)
    assert shown.exit_code == 3
    for revision in (OLD, STABLE, CANARY):
        assert revision in shown.stderr
    assert cli.cluster.annotated == []


def test_a_version_that_two_revisions_serve_is_not_guessed(cli: Cli) -> None:
    cli.cluster.models = [model()]
    cli.cluster.revisions = [clusters.kept(OLD, 1, 1), clusters.kept("aaaabbbbcc", 2, 1), clusters.kept(STABLE, 3, 2)]
    shown = cli("rollback", "digits", "--to", "1")
    assert shown.exit_code == 2
    assert "name one by its hash" in shown.stderr
    assert OLD in shown.stderr
    assert "aaaabbbbcc" in shown.stderr


def test_rollback_passes_over_what_was_rejected(cli: Cli) -> None:
    body = model()
    body["status"]["rejected"] = [
        {"revision": "aaaabbbbcc", "content": "c", "reason": "GoldenFailed", "message": "", "at": clusters.ago(hours=1)}
    ]
    cli.cluster.models = [body]
    cli.cluster.revisions = [clusters.kept(OLD, 1, 1), clusters.kept("aaaabbbbcc", 2, 1), clusters.kept(STABLE, 3, 2)]
    cli.cluster.operator = says(True, "")
    assert cli("rollback", "digits").exit_code == 0
    assert f"rollback/{OLD}/" in cli.cluster.annotated[0]
