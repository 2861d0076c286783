"""`status --watch` and `--wait`: look again each second, until Ctrl-C or until the rollout has ended.

On a terminal the picture is redrawn, with the routers' counters as curves; elsewhere each change is one line. An API
server that is down for up to a minute does not end the watch.
Must not import: kubernetes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import RenderableType
from rich.live import Live

from slipway.cli import clock
from slipway.cli.client import Client, Json, Request
from slipway.cli.counters import Curve, Readings, Track, add_readings, curve_of
from slipway.cli.errors import CommandError, Exit, failed, not_found
from slipway.cli.picture import draw
from slipway.cli.session import Session
from slipway.cli.view import View, view_of
from slipway.model.signals import Counts
from slipway.observe.router_reports import read_report

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
"""How long an API server may be down in mid-watch: long enough to restart one."""
ROUTER_PORT = "10090"
ROUTER_PATH = "/stats/prometheus"
ROUTER_TIMEOUT_SECONDS = 2.0
PODS_KEPT_SECONDS = 5.0
QUANTILE = 0.99
NO_ROUTES = b'{"generation": "", "weights": {"none": 0}}'
"""For `read_report`: the status port has counters alone; the weights are in the object's status."""


@dataclass(slots=True)
class Routers:
    """The routers of one model. is_readable: False once a reading failed for good, as without the permission."""

    client: Client
    name: str
    is_readable: bool = True
    track: Track = field(default_factory=Track)
    _pods: list[Json] = field(default_factory=list)
    _pods_at: float = float("-inf")

    def look(self) -> None:
        """Read the counters once more. Does nothing without routers, or without the permission."""
        if not self.is_readable:
            return
        try:
            readings = self._readings()
        except CommandError as error:
            self.is_readable = error.may_pass
            return
        if readings:
            self.track = add_readings(self.track, readings, clock.seconds())

    def curves(self, view: View) -> dict[str, Curve]:
        """Workload → its curve; empty before the second reading."""
        if not self.track.gains:
            return {}
        return {each.workload: curve_of(self.track, each.workload, QUANTILE) for each in view.revisions}

    def _readings(self) -> Readings:
        if clock.seconds() - self._pods_at > PODS_KEPT_SECONDS:
            self._pods = self.client.list_pods(f"slipway.dev/model={self.name}.router")
            self._pods_at = clock.seconds()
        found: dict[str, Mapping[str, Counts]] = {}
        for pod in self._pods:
            if not is_ready(pod):
                continue
            try:
                request = Request(ROUTER_PATH, timeout_seconds=ROUTER_TIMEOUT_SECONDS)
                response = self.client.send("pods", pod["metadata"]["name"], ROUTER_PORT, request)
            except CommandError as error:
                if error.code is Exit.NO_CLUSTER and not error.may_pass:
                    raise
                continue  # this router is ending or starting
            if response.status == 200:
                found[_source(pod)] = read_counts(response.body.decode(errors="replace"))
        return found


def is_ready(pod: Json) -> bool:
    """Whether a pod is Ready and not being deleted."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    is_ending = "deletionTimestamp" in pod["metadata"]
    return not is_ending and any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _source(pod: Json) -> str:
    """A name that changes when the pod's counters start again from 0."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return f"{pod['metadata'].get('uid')}/{sum(int(each.get('restartCount', 0)) for each in statuses)}"


def read_counts(stats: str) -> Mapping[str, Counts]:
    """Workload → its counts, from a router's Prometheus stats; empty when they can't be parsed."""
    report = read_report("", NO_ROUTES, stats)
    return report.counts if report is not None else {}


def watch_model(session: Session, name: str, *, is_live: bool, waits: bool, timeout_seconds: float | None) -> None:
    """Show `name` until Ctrl-C; with `waits`, until its rollout has ended.

    Raises CommandError(FAILED) when the spec's revision was not promoted, (TIMED_OUT) when time is over.
    """
    if is_live and session.terminal.is_live:
        _redraw(session, name, waits=waits, timeout_seconds=timeout_seconds)
    else:
        _print_changes(session, name, waits=waits, timeout_seconds=timeout_seconds)


def _redraw(session: Session, name: str, *, waits: bool, timeout_seconds: float | None) -> None:
    routers = Routers(session.client, name)

    def picture(view: View) -> RenderableType:
        """The picture with as many transitions as fit on the screen; without hints and curves where none fits."""
        routers.look()
        canvas, hints, curves = session.terminal.canvas(), session.hints(view), routers.curves(view)
        for most in range(5, -1, -1):
            drawn = draw(view, clock.now(), canvas, session.program, hints, curves=curves, most_transitions=most)
            if session.terminal.fits(drawn):
                return drawn
        return draw(view, clock.now(), canvas, "", ())

    view = _look(session, name)
    with Live(picture(view), console=session.terminal.console, auto_refresh=False, vertical_overflow="crop") as live:

        def show(view: View) -> None:
            live.update(picture(view), refresh=True)

        _loop(session, name, show, waits=waits, timeout_seconds=timeout_seconds)


def _print_changes(session: Session, name: str, *, waits: bool, timeout_seconds: float | None) -> None:
    """A line for each transition from now on, and for each change of the headline."""
    printed: set[tuple[str, ...]] | None = None
    last_headline = ""

    def show(view: View) -> None:
        nonlocal printed, last_headline
        rows = [(each.at, each.revision, each.reason, each.message) for each in view.transitions]
        if printed is None:  # what happened before is `status`'s to show
            printed = set(rows)
        for at, revision, reason, message in reversed([row for row in rows if row not in printed]):
            session.terminal.write(f"{at} {revision} {reason}: {message}\n")
        printed.update(rows)
        line = headline(view)
        if line != last_headline:
            session.terminal.write(f"{line}\n")
            last_headline = line

    _loop(session, name, show, waits=waits, timeout_seconds=timeout_seconds)


def _loop(
    session: Session, name: str, show: Callable[[View], None], *, waits: bool, timeout_seconds: float | None
) -> None:
    began = clock.seconds()
    while True:
        view = _look(session, name)
        show(view)
        if waits and view.outcome is True:
            return
        if waits and view.outcome is False:
            assert view.promoted is not None
            raise failed(f"{name} does not serve the spec's revision: {view.promoted.reason}: {view.promoted.message}")
        if timeout_seconds is not None and clock.seconds() - began >= timeout_seconds:
            message = f"{headline(view)}; the rollout has not ended within {timeout_seconds:g} s, and goes on"
            raise CommandError(Exit.TIMED_OUT, message)
        clock.sleep(LOOK_SECONDS)


def _look(session: Session, name: str) -> View:
    """The model now. Repeats the request for a while where the API server may come back."""
    began = clock.seconds()
    while True:
        try:
            body = session.client.read_model(name)
            break
        except CommandError as error:
            if not error.may_pass or clock.seconds() - began > PATIENCE_SECONDS:
                raise
            clock.sleep(LOOK_SECONDS)
    if body is None:
        raise not_found(f"ModelDeployment {name} in namespace {session.client.namespace} was deleted")
    return view_of(body, clock.now())


def headline(view: View) -> str:
    """The state of the rollout in one line, which changes when the state does."""
    stable, canary = view.of_role("stable"), view.of_role("canary")
    serving = f"{stable.revision} (version {stable.version}) serves" if stable else "nothing serves yet"
    if canary is None:
        if not view.is_current:
            return f"{view.name}: {serving}; the operator has not acted on the spec yet"
        if view.bake_left_seconds is not None:
            return f"{view.name}: {serving}, in bake"
        return f"{view.name}: {serving}"
    words = f"{view.name}: {canary.revision} (version {canary.version}) is taking over"
    if view.steps:
        weight = f" at {canary.weight_percent} %" if canary.weight_percent is not None else ""
        words += f", step {view.step_index} of {len(view.steps)}{weight}" if view.step_index else ", prepares"
    if view.waits_for_person:
        words += ", paused: resume continues it"
    return words


def watch_list(session: Session, show: Callable[[], Any]) -> None:
    """Redraw a list each second, until Ctrl-C."""
    if not session.terminal.is_live:
        raise failed("--watch of a list needs a terminal; name one ModelDeployment, or use kubectl get mdep --watch")
    with Live(show(), console=session.terminal.console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            clock.sleep(LOOK_SECONDS)
            live.update(show(), refresh=True)
