"""`status --watch` and `--wait`: curves of the routers' counters, a picture that fits its screen, how a wait ends."""

from __future__ import annotations

import ast
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from slipway.cli import watch
from slipway.cli.client import Request, Response
from slipway.cli.counters import Track, add_readings, curve_of, quantile_of, spark
from slipway.cli.errors import CommandError, Exit
from slipway.cli.terminal import Terminal
from slipway.cli.view import FINAL_REASONS
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts
from tests.unit.cli import clusters
from tests.unit.cli.clusters import CANARY, STABLE, Cli, Time, condition, model

OPERATOR = Path(__file__).resolve().parents[3] / "operator" / "slipway"
Json = dict[str, Any]
BUCKETS = len(LATENCY_BOUNDS_MILLISECONDS)


def counts(requests: int, errors: int = 0, slow: int = 0) -> Counts:
    """So many answers within 5 ms, but for `slow` ones within 300 ms."""
    within = tuple(
        requests if bound >= 300 else requests - slow if bound >= 5 else 0 for bound in LATENCY_BOUNDS_MILLISECONDS
    )
    return Counts(requests=requests, errors=errors, within=within)


def track_of(*readings: dict[str, Counts]) -> Track:
    track = Track()
    for second, reading in enumerate(readings):
        track = add_readings(track, {"router": reading}, float(second))
    return track


def test_a_curve_speaks_of_what_came_between_readings() -> None:
    track = track_of(
        {"a": counts(1000, 500)}, {"a": counts(1010, 500)}, {"a": counts(1020, 505)}, {"a": counts(1020, 505)}
    )
    curve = curve_of(track, "a", 0.99)
    assert curve.error_shares == (0.0, 0.25, 0.25)
    assert curve.latencies == (5.0, 5.0, 5.0)
    assert curve.requests_per_second == pytest.approx(20 / 3)


def test_no_requests_are_no_point() -> None:
    curve = curve_of(track_of({"a": counts(10)}, {"a": counts(10)}), "a", 0.99)
    assert curve.error_shares == (None,)
    assert curve.latencies == (None,)
    assert curve_of(Track(), "a", 0.99).error_shares == ()


def test_two_routers_add_up() -> None:
    track = add_readings(Track(), {"one": {"a": counts(0)}, "two": {"a": counts(0)}}, 0.0)
    track = add_readings(track, {"one": {"a": counts(10, 1)}, "two": {"a": counts(30, 1)}}, 1.0)
    assert curve_of(track, "a", 0.99).error_shares == (0.05,)


def test_a_router_seen_for_the_first_time_is_no_burst() -> None:
    track = add_readings(Track(), {"one": {"a": counts(10)}}, 0.0)
    track = add_readings(track, {"one": {"a": counts(20)}, "two": {"a": counts(90_000, 90_000)}}, 1.0)
    assert curve_of(track, "a", 0.99).requests_per_second == 10


def test_counters_that_begin_anew_count_from_zero() -> None:
    track = track_of({"a": counts(1000, 7)}, {"a": counts(20, 5)})
    assert curve_of(track, "a", 0.99).error_shares == (0.25,)


def test_a_slow_hundredth_shows_in_the_quantile() -> None:
    track = track_of({"a": counts(0)}, {"a": counts(1000, slow=11)})
    assert curve_of(track, "a", 0.99).latencies == (300.0,)
    assert curve_of(track, "a", 0.98).latencies == (5.0,)
    assert quantile_of((0,) * BUCKETS, 0.5) is None


@given(points=st.lists(st.none() | st.floats(0, 1e6)), width=st.integers(1, 60), is_unicode=st.booleans())
def test_a_spark_has_the_width_that_it_is_given(points: list[float | None], width: int, is_unicode: bool) -> None:
    top = max((point for point in points if point is not None), default=0.0)
    assert len(spark(points, top, width, is_unicode=is_unicode)) == width


# --- on a terminal ---


def stats(stable: int, canary: int, errors: int) -> bytes:
    """What a router's status port says, as far as it matters here."""
    return f"{stable} {canary} {errors}".encode()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A terminal of 80 columns and 24 lines, as tmux is one."""
    console = Console(
        file=io.StringIO(), force_terminal=True, width=80, height=24, highlight=False, markup=False, color_system=None
    )
    made = Terminal(console, is_live=True, is_unicode=True)
    monkeypatch.setattr("slipway.cli.session.open_terminal", lambda: made)
    return console


def last_picture(console: Console) -> list[str]:
    """What stands on the screen in the end."""
    assert isinstance(console.file, io.StringIO)
    frames = re.split(r"(?:\x1b\[1A\x1b\[2K|\x1b\[2K|\r)+", console.file.getvalue())
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frames[-1]).rstrip().splitlines()


def play(cli: Cli, time: Time, seconds: int) -> None:
    """A canary under traffic, one reading a second, until a person has seen enough."""
    cli.cluster.models = [clusters.in_canary()]

    def answer(kind: str, name: str, port: str, request: Request) -> Response:
        assert (kind, name, port, request.path, request.body) == (
            "pods",
            "digits-router-c",
            "10090",
            "/stats/prometheus",
            None,
        )
        second = int(time.passed)
        return Response(200, stats(75 * second, 25 * second, second), 1.0)

    def look() -> None:
        if time.passed >= seconds:
            raise KeyboardInterrupt

    cli.cluster.respond = answer
    time.each_sleep = look


def read_stats(text: str) -> dict[str, Counts]:
    stable, canary, errors = map(int, text.split())
    return {STABLE: counts(stable), CANARY: counts(canary, errors, canary // 10)}


def test_watch_draws_curves_of_both_and_ends_by_ctrl_c(
    cli: Cli, time_of_test: Time, screen: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "read_counts", read_stats)
    play(cli, time_of_test, 12)
    ended = cli("status", "digits", "--watch")
    assert ended.exit_code == Exit.INTERRUPTED
    shown = last_picture(screen)
    (stable,) = [line for line in shown if line.startswith("stable ")]
    (canary,) = [line for line in shown if line.startswith("canary ")]
    assert re.search(r"0\.0 % errors .* 5 ms +75\.0/s", stable)
    assert re.search(r"4\.0 % errors .* 300 ms +25\.0/s", canary)
    assert canary.count("█") >= 12


def test_the_picture_stays_within_its_screen(
    cli: Cli, time_of_test: Time, screen: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "read_counts", read_stats)
    play(cli, time_of_test, 12)
    cli("status", "digits", "--watch")
    shown = last_picture(screen)
    assert len(shown) <= 23
    assert shown[0].startswith("digits in team-a")
    assert "kubectl slipway abort digits" in shown[-1]


def test_without_permission_the_rest_is_drawn(cli: Cli, time_of_test: Time, screen: Console) -> None:
    play(cli, time_of_test, 5)
    sent = []

    def forbid(*question: object) -> Response:
        sent.append(question)
        raise CommandError(Exit.NO_CLUSTER, "you may not get pods/proxy in namespace team-a")

    cli.cluster.respond = forbid
    assert cli("status", "digits", "--watch").exit_code == Exit.INTERRUPTED
    shown = last_picture(screen)
    assert any(line.startswith("verdict") for line in shown)
    assert not any(line.startswith("stable ") for line in shown)
    assert len(sent) == 1, "a permission does not come by asking again"


def test_a_router_that_ends_leaves_a_gap_only(
    cli: Cli, time_of_test: Time, screen: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "read_counts", read_stats)
    play(cli, time_of_test, 12)
    answer = cli.cluster.respond
    assert answer is not None

    def sometimes(kind: str, name: str, port: str, request: Request) -> Response:
        if 4 <= time_of_test.passed < 6:
            raise CommandError(Exit.FAILED, "pod digits-router-c did not answer on port 10090: connection refused")
        return answer(kind, name, port, request)

    cli.cluster.respond = sometimes
    cli("status", "digits", "--watch")
    assert any(line.startswith("canary ") and "4.0 % errors" in line for line in last_picture(screen))


def test_watch_with_wait_ends_with_the_rollout(cli: Cli, time_of_test: Time, screen: Console) -> None:
    cli.cluster.models = [clusters.in_canary()]
    cli.cluster.pods = []

    def finish() -> None:
        if time_of_test.passed >= 3:
            cli.cluster.models = [clusters.model()]

    time_of_test.each_sleep = finish
    ended = cli("status", "digits", "--watch", "--wait")
    assert ended.exit_code == 0
    assert last_picture(screen)[0] == "digits in team-a · Ready · 2 of 2 pods ready"


def test_watch_in_a_pipe_tells_line_by_line(cli: Cli, time_of_test: Time) -> None:
    play(cli, time_of_test, 3)
    shown = cli("status", "digits", "--watch")
    assert shown.exit_code == Exit.INTERRUPTED
    assert shown.stdout == f"digits: {CANARY} (version 3) is taking over, step 2 of 4 at 25 %\n"
    assert cli.cluster.sent == []


def test_a_list_is_watched_on_a_terminal_only(cli: Cli, time_of_test: Time, screen: Console) -> None:
    play(cli, time_of_test, 3)
    assert cli("status", "--watch").exit_code == Exit.INTERRUPTED
    assert last_picture(screen)[1].split()[:4] == ["digits", "Triton", "2", "3/2"]


def test_real_stats_of_a_router_are_read() -> None:
    assert watch.read_counts("nonsense") == {}


# --- until the rollout has ended ---


def finish(cli: Cli, time: Time, after: int, body: Json) -> None:
    """The rollout comes to this after so many looks."""
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == after:
            cli.cluster.models = [body]

    time.each_sleep = look


def test_wait_ends_well_when_promoted(cli: Cli, time_of_test: Time) -> None:
    cli.cluster.models = [clusters.in_canary()]
    finish(cli, time_of_test, 3, model())
    shown = cli("status", "digits", "--wait")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [
        f"digits: {CANARY} (version 3) is taking over, step 2 of 4 at 25 %",
        f"digits: {STABLE} (version 2) serves",
    ]


def test_wait_tells_what_happens_meanwhile_once(cli: Cli, time_of_test: Time) -> None:
    cli.cluster.models = [clusters.in_canary()]
    after = clusters.at_pause()
    after["status"]["transitions"].append(
        {"at": clusters.ago(), "revision": CANARY, "reason": "Step", "message": "step 3 of 4 begins: weight 25"}
    )
    finish(cli, time_of_test, 2, after)
    shown = cli("status", "digits", "--wait", "--timeout", "6s")
    assert shown.exit_code == 4
    assert [line for line in shown.stdout.splitlines() if "begins" in line] == [
        f"{clusters.ago()} {CANARY} Step: step 3 of 4 begins: weight 25"
    ]
    assert "paused: resume continues it; the rollout has not ended within 6 s" in shown.stderr


def test_wait_fails_when_taken_back(cli: Cli, time_of_test: Time) -> None:
    cli.cluster.models = [clusters.in_canary()]
    finish(cli, time_of_test, 2, clusters.rolled_back())
    shown = cli("status", "digits", "--wait")
    assert shown.exit_code == 1
    assert "RolledBack: revision 9c01fe2233 was taken back: golden request 2 of 8" in shown.stderr


MAY_PASS = {"NameConflict", "QuotaExceeded", "Refused", "GoldenUnreadable"}
"""What stands in the way outside the spec: the operator looks again by itself, so that a script goes on waiting."""


def spec_errors() -> set[str]:
    """The reasons of every SpecError that the operator raises; one that is no constant can't be document here."""
    found = set()
    for file in OPERATOR.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "SpecError":
                found.add(ast.literal_eval(node.args[0]))
    return found


def test_every_error_of_a_spec_ends_a_wait_or_may_pass() -> None:
    assert spec_errors() - MAY_PASS == FINAL_REASONS - {"RolledBack"}
    assert spec_errors() >= MAY_PASS


def cannot_be_carried_out(reason: str) -> Json:
    body = model()
    body["status"]["conditions"][1] = condition("Promoted", "False", reason, "spec.x is wrong; write y")
    return body


@pytest.mark.parametrize("reason", sorted(spec_errors() - MAY_PASS))
def test_wait_fails_when_the_spec_cannot_be_carried_out(cli: Cli, time_of_test: Time, reason: str) -> None:
    cli.cluster.models = [clusters.in_canary()]
    finish(cli, time_of_test, 2, cannot_be_carried_out(reason))
    shown = cli("status", "digits", "--wait")
    assert shown.exit_code == 1
    assert f"{reason}: spec.x is wrong; write y" in shown.stderr


@pytest.mark.parametrize("reason", sorted(MAY_PASS | {"SecretRefused"}))  # which holds up new pods alone
def test_wait_goes_on_while_what_stands_in_the_way_may_pass(cli: Cli, time_of_test: Time, reason: str) -> None:
    cli.cluster.models = [cannot_be_carried_out(reason)]
    assert cli("status", "digits", "--wait", "--timeout", "3s").exit_code == 4


def test_wait_does_not_take_the_last_rollout_for_this_one(cli: Cli) -> None:
    """A spec that was written a moment ago is not promoted because the one before it was."""
    body = model()
    body["metadata"]["generation"] = 4
    cli.cluster.models = [body]
    shown = cli("status", "digits", "--wait", "--timeout", "3s")
    assert shown.exit_code == 4
    assert "has not acted on the spec yet" in shown.stderr


def test_wait_lasts_through_bake(cli: Cli, time_of_test: Time) -> None:
    cli.cluster.models = [clusters.in_bake()]
    assert cli("status", "digits", "--wait", "--timeout", "3s").exit_code == 4


def test_wait_prints_the_document_when_it_ends(cli: Cli, time_of_test: Time) -> None:
    cli.cluster.models = [clusters.in_canary()]
    finish(cli, time_of_test, 2, clusters.rolled_back())
    shown = cli("status", "digits", "--wait", "-o", "json")
    assert shown.exit_code == 1
    assert json.loads(shown.stdout)["outcome"] == "failed"


def test_a_silent_api_server_is_waited_for(cli: Cli, time_of_test: Time) -> None:
    cli.cluster.models = [model()]
    broken = CommandError(Exit.NO_CLUSTER, "no answer from https://192.0.2.1: it takes too long", may_pass=True)

    def begin() -> None:
        cli.cluster.failing = broken if time_of_test.passed < 10 else None

    cli.cluster.models[0]["metadata"]["generation"] = 4
    time_of_test.each_sleep = begin
    shown = cli("status", "digits", "--wait", "--timeout", "20s")
    assert shown.exit_code == 4
    assert time_of_test.passed >= 20
