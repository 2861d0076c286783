"""`status --watch` and `--wait`: looking again each second until a person has seen enough, or the rollout has ended.

On a terminal the picture is drawn anew, with the routers' counters as curves; elsewhere each thing that happens is one
line. An API server that does not answer for a while is waited for.
Must not import: kubernetes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import RenderableType
from rich.live import Live

from slipway.cli import clock
from slipway.cli.client import Json, Request, World
from slipway.cli.counters import Curve, Readings, Track, curve_of, follow
from slipway.cli.errors import CommandError, Exit, failed, not_found
from slipway.cli.picture import draw
from slipway.cli.session import Session
from slipway.cli.view import View, view_of
from slipway.evidence import Counts
from slipway.traffic.router import read_report

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
"""How long an API server may be silent in mid-watch: as long as it takes to restart one."""
ROUTER_PORT = "10090"
ROUTER_PATH = "/stats/prometheus"
ROUTER_TIMEOUT_SECONDS = 2.0
PODS_KEPT_SECONDS = 5.0
QUANTILE = 0.99
NO_ROUTES = b'{"generation": "", "weights": {"none": 0}}'
"""The status port tells counters alone; status has the weights."""


@dataclass(slots=True)
class Routers:
    """The routers of one model, read again and again. Gives up for good where they can't be had."""

    world: World
    name: str
    is_readable: bool = True
    track: Track = field(default_factory=Track)
    _pods: list[Json] = field(default_factory=list)
    _pods_at: float = float("-inf")

    def look(self) -> None:
        """Read the counters once more; nothing happens where there are no routers, or no permission."""
        if not self.is_readable:
            return
        try:
            readings = self._readings()
        except CommandError as error:
            self.is_readable = error.may_pass
            return
        if readings:
            self.track = follow(self.track, readings, clock.seconds())

    def curves(self, view: View) -> dict[str, Curve]:
        """Carrier → its curve, of those that have one."""
        if not self.track.gains:
            return {}
        return {each.carrier: curve_of(self.track, each.carrier, QUANTILE) for each in view.revisions}

    def _readings(self) -> Readings:
        if clock.seconds() - self._pods_at > PODS_KEPT_SECONDS:
            self._pods = self.world.list_pods(f"slipway.dev/model={self.name}.router")
            self._pods_at = clock.seconds()
        found: dict[str, Mapping[str, Counts]] = {}
        for pod in self._pods:
            if not is_ready(pod):
                continue
            try:
                request = Request(ROUTER_PATH, timeout_seconds=ROUTER_TIMEOUT_SECONDS)
                answer = self.world.ask("pods", pod["metadata"]["name"], ROUTER_PORT, request)
            except CommandError as error:
                if error.code is Exit.NO_CLUSTER and not error.may_pass:
                    raise
                continue  # this one router ends, or starts
            if answer.status == 200:
                found[_source(pod)] = read_counts(answer.body.decode(errors="replace"))
        return found


def is_ready(pod: Json) -> bool:
    """Whether a pod takes requests."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    is_ending = "deletionTimestamp" in pod["metadata"]
    return not is_ending and any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _source(pod: Json) -> str:
    """A name that changes when the counters begin anew."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return f"{pod['metadata'].get('uid')}/{sum(int(each.get('restartCount', 0)) for each in statuses)}"


def read_counts(stats: str) -> Mapping[str, Counts]:
    """Carrier → its counts, from a router's Prometheus stats; empty where they can't be read."""
    report = read_report("", NO_ROUTES, stats)
    return report.counts if report is not None else {}


def follow_model(session: Session, name: str, *, is_live: bool, waits: bool, timeout_seconds: float | None) -> None:
    """Show `name` until Ctrl-C; with `waits`, until its rollout has ended.

    Raises CommandError(FAILED) when it ended badly, and (TIMED_OUT) when it did not end in time.
    """
    if is_live and session.terminal.is_live:
        _draw_on(session, name, waits=waits, timeout_seconds=timeout_seconds)
    else:
        _tell_of(session, name, waits=waits, timeout_seconds=timeout_seconds)


def _draw_on(session: Session, name: str, *, waits: bool, timeout_seconds: float | None) -> None:
    routers = Routers(session.world, name)

    def picture(view: View) -> RenderableType:
        routers.look()
        canvas, hints, curves = session.terminal.canvas(), session.hints(view), routers.curves(view)
        pictures = (
            draw(view, clock.now(), canvas, session.typed, hints, curves, happened) for happened in range(5, -1, -1)
        )
        return next((each for each in pictures if session.terminal.fits(each)), draw(view, clock.now(), canvas, "", ()))

    view = _look(session, name)
    with Live(picture(view), console=session.terminal.console, auto_refresh=False, vertical_overflow="crop") as live:

        def show(view: View) -> None:
            live.update(picture(view), refresh=True)

        _loop(session, name, show, waits=waits, timeout_seconds=timeout_seconds)


def _tell_of(session: Session, name: str, *, waits: bool, timeout_seconds: float | None) -> None:
    told: set[tuple[str, ...]] = set()
    said = ""

    def tell(view: View) -> None:
        nonlocal said
        fresh = [each for each in view.transitions if (each.at, each.revision, each.reason, each.message) not in told]
        if not told and not said:
            fresh = []
        for each in reversed(fresh):
            session.terminal.write(f"{each.at} {each.revision} {each.reason}: {each.message}\n")
        told.update((each.at, each.revision, each.reason, each.message) for each in view.transitions)
        line = headline(view)
        if line != said:
            session.terminal.write(f"{line}\n")
            said = line

    _loop(session, name, tell, waits=waits, timeout_seconds=timeout_seconds)


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
            raise failed(
                f"{name} does not serve what its spec asks for: {view.promoted.reason}: {view.promoted.message}"
            )
        if timeout_seconds is not None and clock.seconds() - began >= timeout_seconds:
            message = f"{headline(view)}; it has not ended within {timeout_seconds:g} s, and goes on"
            raise CommandError(Exit.TIMED_OUT, message)
        clock.sleep(LOOK_SECONDS)


def _look(session: Session, name: str) -> View:
    """The model now. An API server that does not answer is asked again for a while."""
    began = clock.seconds()
    while True:
        try:
            body = session.world.read_model(name)
            break
        except CommandError as error:
            if not error.may_pass or clock.seconds() - began > PATIENCE_SECONDS:
                raise
            clock.sleep(LOOK_SECONDS)
    if body is None:
        raise not_found(f"ModelDeployment {name} in namespace {session.world.namespace} was deleted")
    return view_of(body, clock.now())


def headline(view: View) -> str:
    """How far it is, in one line that changes when something does."""
    stable, canary = view.of_role("stable"), view.of_role("canary")
    serving = f"{stable.revision} (version {stable.version}) serves" if stable else "nothing serves yet"
    if canary is None:
        if not view.is_current:
            return f"{view.name}: {serving}; the operator has not acted on the spec yet"
        if view.bake_left_seconds is not None:
            return f"{view.name}: {serving}, and bakes"
        return f"{view.name}: {serving}"
    words = f"{view.name}: {canary.revision} (version {canary.version}) is taking over"
    if view.steps:
        weight = f" at {canary.weight_percent} %" if canary.weight_percent is not None else ""
        words += f", step {view.step_index} of {len(view.steps)}{weight}" if view.step_index else ", prepares"
    if view.waits_for_person:
        words += ", paused: resume it"
    return words


def follow_list(session: Session, show: Callable[[], Any]) -> None:
    """Draw a list again and again until Ctrl-C."""
    if not session.terminal.is_live:
        raise failed("--watch of a list needs a terminal; name one ModelDeployment, or use kubectl get mdep --watch")
    with Live(show(), console=session.terminal.console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            clock.sleep(LOOK_SECONDS)
            live.update(show(), refresh=True)
