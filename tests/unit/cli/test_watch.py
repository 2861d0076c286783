"""`status --watch`: the routers' counters as curves, and a picture that fits its screen."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from slipway.cli import watch
from slipway.cli.client import Request, Response
from slipway.cli.counters import Track, add_readings, curve_of, quantile_of, spark
from slipway.cli.errors import CommandError, Exit
from slipway.cli.terminal import Terminal
from slipway.evidence import LATENCY_BOUNDS_MILLISECONDS, Counts
from tests.unit.cli import clusters
from tests.unit.cli.clusters import CANARY, STABLE, Cli, Time

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
def test_a_spark_is_as_wide_as_asked(points: list[float | None], width: int, is_unicode: bool) -> None:
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

    cli.cluster.answers = answer
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
    asked = []

    def forbid(*question: object) -> Response:
        asked.append(question)
        raise CommandError(Exit.NO_CLUSTER, "you may not get pods/proxy in namespace team-a")

    cli.cluster.answers = forbid
    assert cli("status", "digits", "--watch").exit_code == Exit.INTERRUPTED
    shown = last_picture(screen)
    assert any(line.startswith("verdict") for line in shown)
    assert not any(line.startswith("stable ") for line in shown)
    assert len(asked) == 1, "a permission does not come by asking again"


def test_a_router_that_ends_leaves_a_gap_only(
    cli: Cli, time_of_test: Time, screen: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "read_counts", read_stats)
    play(cli, time_of_test, 12)
    answer = cli.cluster.answers
    assert answer is not None

    def sometimes(kind: str, name: str, port: str, request: Request) -> Response:
        if 4 <= time_of_test.passed < 6:
            raise CommandError(Exit.FAILED, "pod digits-router-c did not answer on port 10090: connection refused")
        return answer(kind, name, port, request)

    cli.cluster.answers = sometimes
    cli("status", "digits", "--watch")
    assert any(line.startswith("canary ") and "4.0 % errors" in line for line in last_picture(screen))


def test_watch_with_wait_ends_with_the_rollout(cli: Cli, time_of_test: Time, screen: Console) -> None:
    cli.cluster.models = [clusters.in_canary()]
    cli.cluster.running = []

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
    assert cli.cluster.asked == []


def test_a_list_is_watched_on_a_terminal_only(cli: Cli, time_of_test: Time, screen: Console) -> None:
    play(cli, time_of_test, 3)
    assert cli("status", "--watch").exit_code == Exit.INTERRUPTED
    assert last_picture(screen)[1].split()[:4] == ["digits", "Triton", "2", "3/2"]


def test_real_stats_of_a_router_are_read() -> None:
    assert watch.read_counts("nonsense") == {}
